// Package redismeter counts against limits in Redis, for all replicas
// together: the throttle with redis_rate, the quota with a script of its own.
// Time is Redis' own.
package redismeter

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"

	"helloapi/internal/clock"
	"helloapi/internal/groupcommit"
	"helloapi/internal/meter"
	"helloapi/internal/plan"
)

//go:embed charge.lua
var chargeLua string

//go:embed raise.lua
var raiseLua string

//go:embed refund.lua
var refundLua string

var (
	chargeScript = redis.NewScript(chargeLua)
	raiseScript  = redis.NewScript(raiseLua)
	refundScript = redis.NewScript(refundLua)
)

// What charge.lua answers first.
const (
	noCounter   = -2
	wrongWindow = -1
	granted     = 1
)

// Limiter is a meter.Limiter in Redis.
type Limiter struct {
	rdb    redis.UniversalClient
	trips  *trips
	bucket *redis_rate.Limiter
	clock  func() time.Time              // until Redis has told its time
	ahead  atomic.Pointer[time.Duration] // how far Redis' clock is ahead of ours; nil: it has not said
	losses atomic.Uint64

	mu      sync.Mutex
	servers map[server]bool // that were seen
}

// A server is a Redis as far as it has the same counters: those of a run, and
// of a history. One that takes over from another begins a history.
type server struct{ run, history string }

var _ meter.Limiter = (*Limiter)(nil)

// Open returns a Limiter on the Redis at url (redis:// or rediss://). It does
// not wait for Redis to be there; Ping tells. Until Redis has told its time that
// of clock is good. The error does not hold the url.
func Open(url string, clock func() time.Time) (*Limiter, error) {
	l := &Limiter{clock: clock, servers: map[server]bool{}}
	rdb, err := connect(url, func(ctx context.Context, conn *redis.Conn) error { return l.look(ctx, conn) })
	if err != nil {
		return nil, err
	}
	l.rdb, l.trips = rdb, newTrips(rdb)
	l.bucket = redis_rate.NewLimiter(l.trips)
	return l, nil
}

// look asks a server for the time, and whether it is one that was not seen
// before: it may have lost what was counted, or never had it. It is asked when
// a connection is made to it, and by Ping: that a replica in a cluster takes
// over can't be told from its connections.
func (l *Limiter) look(ctx context.Context, conn redis.Cmdable) error {
	var now *redis.TimeCmd
	var process, replication *redis.StringCmd
	sent := time.Now()
	_, _ = conn.Pipelined(ctx, func(p redis.Pipeliner) error {
		process, replication = p.Info(ctx, "server"), p.Info(ctx, "replication")
		now = p.Time(ctx)
		return nil
	}) // its error is one of the commands'
	if err := process.Err(); err != nil && !redis.IsPermissionError(err) {
		return err
	}
	if t, err := now.Result(); err == nil { // a Sentinel does not tell
		l.learn(t, sent)
	}
	// A user who may not ask sees one server; counters are raised each minute
	// all the same.
	s := server{field(process.Val(), "run_id"), field(replication.Val(), "master_replid")}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.servers[s] {
		l.servers[s] = true
		l.losses.Add(1)
	}
	return nil
}

// field returns a field of what INFO answers.
func field(info, name string) string {
	_, value, _ := strings.Cut(info, name+":")
	value, _, _ = strings.Cut(value, "\r\n")
	return value
}

// learn notes what time it was for Redis when it answered what was sent.
func (l *Limiter) learn(now, sent time.Time) {
	ahead := now.Sub(clock.Now().Add(-time.Since(sent) / 2))
	l.ahead.Store(&ahead)
}

// Ping returns nil if Redis answers; of a cluster, each master.
func (l *Limiter) Ping(ctx context.Context) error {
	var err error
	if c, ok := l.rdb.(*redis.ClusterClient); ok {
		err = c.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return l.look(ctx, node) })
	} else {
		err = l.look(ctx, l.rdb)
	}
	if err != nil {
		return fmt.Errorf("%w: redis: %w", meter.ErrAway, err)
	}
	return nil
}

// Close waits for the trips under way, then closes the connections.
func (l *Limiter) Close() {
	l.trips.batch.Close()
	_ = l.rdb.Close() // what came of the trips is known; how a connection ends does not matter
}

// Stats counts the round trips of Throttle, Charge and Refund.
func (l *Limiter) Stats() groupcommit.Stats { return l.trips.batch.Stats() }

// Now returns Redis' time, as far as it was learned from its last answer.
func (l *Limiter) Now() time.Time {
	if ahead := l.ahead.Load(); ahead != nil {
		return clock.Now().Add(*ahead)
	}
	return l.clock()
}

// Throttle implements meter.Limiter.
func (l *Limiter) Throttle(ctx context.Context, keyID string, t plan.Throttle) (time.Duration, error) {
	res, err := l.bucket.Allow(ctx, bucketKey(keyID, t), limit(t))
	if err != nil {
		return 0, fmt.Errorf("%w: redis: %w", meter.ErrAway, err)
	}
	if res.Allowed > 0 {
		return 0, nil
	}
	return max(1, res.RetryAfter), nil
}

// limit puts a rate that may have a fraction in the whole numbers of redis_rate.
func limit(t plan.Throttle) redis_rate.Limit {
	l := redis_rate.Limit{Burst: int(t.Burst)}
	if t.Rate >= 1 {
		l.Rate, l.Period = int(math.Round(t.Rate*1000)), 1000*time.Second
	} else {
		l.Rate, l.Period = 1, time.Duration(float64(time.Second)/t.Rate)
	}
	return l
}

// Charge implements meter.Limiter.
func (l *Limiter) Charge(ctx context.Context, keyID string, q plan.Quota) (meter.Charge, error) {
	// The window is found by what we believe is Redis' time. If Redis says it
	// is another one, it has told us the time and charged nothing; that happens
	// once more if its time then passed from one window to the next.
	at := l.Now()
	for range 3 {
		w, err := q.Window(at)
		if err != nil {
			return meter.Charge{}, err
		}
		sent := time.Now()
		reply, err := chargeScript.Run(ctx, l.trips, []string{counterKey(keyID, w)},
			w.Start.UnixMilli(), w.End.UnixMilli(), q.Limit).Slice()
		if err != nil {
			return meter.Charge{}, fmt.Errorf("%w: redis: %w", meter.ErrAway, err)
		}
		result, used, epoch, now, err := parseCharge(reply)
		if err != nil {
			return meter.Charge{}, err
		}
		l.learn(now, sent)
		if result != wrongWindow {
			return meter.Charge{
				KeyID: keyID, Granted: result == granted, Missing: result == noCounter,
				Used: used, Window: w, Epoch: epoch,
			}, nil
		}
		at = now
	}
	return meter.Charge{}, errors.New("redis: its clock jumps")
}

func parseCharge(reply []any) (result, used int64, epoch string, now time.Time, err error) {
	if len(reply) == 4 {
		var ok [4]bool
		var ms int64
		result, ok[0] = reply[0].(int64)
		used, ok[1] = reply[1].(int64)
		epoch, ok[2] = reply[2].(string)
		ms, ok[3] = reply[3].(int64)
		if ok == [4]bool{true, true, true, true} {
			return result, used, epoch, time.UnixMilli(ms), nil
		}
	}
	return 0, 0, "", time.Time{}, fmt.Errorf("redis: unexpected answer %v", reply)
}

// Raise implements meter.Limiter.
func (l *Limiter) Raise(ctx context.Context, keyID string, w plan.Window, used int64) error {
	if err := raiseScript.Run(ctx, l.trips, []string{counterKey(keyID, w)},
		w.Start.UnixMilli(), w.End.UnixMilli(), used, rand.Text()).Err(); err != nil {
		return fmt.Errorf("%w: redis: %w", meter.ErrAway, err)
	}
	return nil
}

// Losses implements meter.Limiter.
func (l *Limiter) Losses() uint64 { return l.losses.Load() }

// Refund implements meter.Limiter.
func (l *Limiter) Refund(ctx context.Context, c meter.Charge) error {
	if err := refundScript.Run(ctx, l.trips, []string{counterKey(c.KeyID, c.Window)}, c.Epoch).Err(); err != nil {
		return fmt.Errorf("%w: redis: %w", meter.ErrAway, err)
	}
	return nil
}

// bucketKey names a key's bucket. It names the throttle too: redis_rate keeps
// the time at which a bucket is full again, which for a slower throttle can be
// so far ahead that a faster one would refuse until then.
func bucketKey(keyID string, t plan.Throttle) string {
	return "{" + keyID + "}:" + strconv.FormatFloat(t.Rate, 'g', -1, 64) + ":" + strconv.FormatInt(t.Burst, 10)
}

// counterKey names a key's counter of a window. All that belongs to one key is
// in one slot of a cluster.
func counterKey(keyID string, w plan.Window) string {
	return "quota:{" + keyID + "}:" + strconv.FormatInt(w.Start.Unix(), 10) + "-" + strconv.FormatInt(w.End.Unix(), 10)
}
