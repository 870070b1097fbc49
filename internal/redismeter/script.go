package redismeter

import (
	"context"
	_ "embed"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
)

var (
	//go:embed take.lua
	takeLua string
	//go:embed return.lua
	returnLua string

	// redis_rate decides about tokens, by its own script. Its Go API would need
	// a trip of its own, and can't say how many of n fit: AllowN is all or
	// nothing, and AllowAtMost spends fractions. Within one script, the throttle
	// and the quota also are one decision: a request that is throttled never
	// holds a unit, not even for a moment.
	takeScript   = newScript("local function redis_rate(KEYS, ARGV)\n" + allowN() + "\nend\n" + takeLua)
	returnScript = newScript(returnLua)
)

// A script is called by its hash once Redis has it.
type script struct{ text, hash string }

func newScript(text string) *script { return &script{text, redis.NewScript(text).Hash()} }

// allowN returns redis_rate's script for AllowN, which the library does not
// export: it is what it sends to a Redis that does not have it.
func allowN() string {
	var s scriptless
	_, _ = redis_rate.NewLimiter(&s).AllowN(context.Background(), "", redis_rate.PerSecond(1), 1)
	return s.script
}

// A scriptless is a Redis that has no scripts.
type scriptless struct {
	redis.Scripter
	script string // the last that it was asked to run
}

func (s *scriptless) EvalSha(ctx context.Context, _ string, _ []string, _ ...any) *redis.Cmd {
	return failed(ctx, redis.ErrNoScript)
}

func (s *scriptless) Eval(ctx context.Context, script string, _ []string, _ ...any) *redis.Cmd {
	s.script = script
	return failed(ctx, redis.ErrClosed)
}

func (s *scriptless) Del(context.Context, ...string) *redis.IntCmd { return nil }

func failed(ctx context.Context, err error) *redis.Cmd {
	cmd := redis.NewCmd(ctx)
	cmd.SetErr(err)
	return cmd
}
