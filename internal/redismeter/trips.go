package redismeter

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"helloapi/internal/groupcommit"
)

// tripTimeout bounds one round trip, and with it how long a request waits for
// a Redis that does not answer.
const tripTimeout = 250 * time.Millisecond

// trips runs scripts on shared round trips: it gathers the commands of
// concurrent requests into pipelines. It is what redis_rate takes for a client.
type trips struct {
	redis.Scripter // for what is not on the request's path
	batch          *groupcommit.Batcher[*redis.Cmd, struct{}]
}

func newTrips(rdb redis.UniversalClient) *trips {
	return &trips{rdb, groupcommit.New(
		groupcommit.Config{MaxBatch: 1024, MaxWaiting: 1 << 15, Timeout: tripTimeout},
		func(ctx context.Context, calls []*groupcommit.Call[*redis.Cmd, struct{}]) {
			pipe := rdb.Pipeline()
			for _, c := range calls {
				// An error here and one of Exec are the command's as well.
				_ = pipe.Process(ctx, sentOnce{c.In})
			}
			_, _ = pipe.Exec(ctx)
		})}
}

// sentOnce is a command that the client must not send again when it does not
// know what became of it: it may have counted. The cluster client would, even
// with retries turned off.
type sentOnce struct{ *redis.Cmd }

func (sentOnce) NoRetry() bool { return true }

// EvalSha runs a script that Redis has already.
func (t *trips) EvalSha(ctx context.Context, sha1 string, keys []string, args ...any) *redis.Cmd {
	return t.do(ctx, "evalsha", sha1, keys, args)
}

// Eval runs a script, which Redis has from then on.
func (t *trips) Eval(ctx context.Context, script string, keys []string, args ...any) *redis.Cmd {
	return t.do(ctx, "eval", script, keys, args)
}

func (t *trips) do(ctx context.Context, name, script string, keys []string, args []any) *redis.Cmd {
	line := make([]any, 0, 3+len(keys)+len(args))
	line = append(line, name, script, len(keys))
	for _, k := range keys {
		line = append(line, k)
	}
	cmd := redis.NewCmd(ctx, append(line, args...)...)
	cmd.SetFirstKeyPos(3)
	if _, err := t.batch.Do(ctx, cmd); err != nil {
		// The command may still be under way: leave it alone.
		failed := redis.NewCmd(ctx, name)
		failed.SetErr(err)
		return failed
	}
	return cmd
}

// Del exists because redis_rate wants it, for a call that is not made.
func (t *trips) Del(ctx context.Context, _ ...string) *redis.IntCmd {
	cmd := redis.NewIntCmd(ctx)
	cmd.SetErr(errors.ErrUnsupported)
	return cmd
}
