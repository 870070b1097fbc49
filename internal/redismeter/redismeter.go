// Package redismeter counts against limits in Redis, for all replicas together:
// tokens with redis_rate's script, units of quotas with one of its own. Time is
// Redis' time.
package redismeter

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"helloapi/internal/clock"
	"helloapi/internal/groupcommit"
	"helloapi/internal/limits"
	"helloapi/internal/plan"
)

// Counters are limits.Shared in Redis.
type Counters struct {
	rdb     redis.UniversalClient
	batch   *groupcommit.Batcher[order, limits.Taken]
	replica string
	clock   func() time.Time              // until Redis has told its time
	ahead   atomic.Pointer[time.Duration] // how far Redis' clock is ahead of ours; nil: it has not said

	generation atomic.Uint64
	mu         sync.Mutex
	servers    map[server]bool // that were seen

	// Of the trip under way:
	trip        int64
	unsure      map[string]unsureTrip // by counter, where the last answers were lost
	unsureSweep int                   // the size of unsure at which to drop what has expired
}

// A server is a Redis as far as it has the same counters: those of a run, and
// of a history. One that takes over from another begins a history.
type server struct{ run, history string }

var _ limits.Shared = (*Counters)(nil)

// Open returns Counters on the Redis at url (redis:// or rediss://), for a
// replica of that name. It does not wait for Redis to be there; Check does.
// Until Redis has told its time that of clock is good. The error does not hold
// the url.
func Open(url, replica string, clock func() time.Time) (*Counters, error) {
	c := &Counters{replica: replica, clock: clock, servers: map[server]bool{}, unsure: map[string]unsureTrip{}}
	rdb, err := connect(url, func(ctx context.Context, conn *redis.Conn) error { return c.look(ctx, conn) })
	if err != nil {
		return nil, err
	}
	c.rdb = rdb
	c.batch = groupcommit.New(groupcommit.Config{MaxBatch: 1 << 12, MaxWaiting: 1 << 15, Timeout: tripTimeout}, c.travel)
	return c, nil
}

// look asks a server for the time, and whether it is one that was not seen
// before: it may have lost what was counted, or never had it. It is asked when
// a connection is made to it, and by Check: that a replica in a cluster takes
// over can't be seen from its connections.
func (c *Counters) look(ctx context.Context, conn redis.Cmdable) error {
	var now *redis.TimeCmd
	var process, replication *redis.StringCmd
	sent := time.Now()
	_, _ = conn.Pipelined(ctx, func(p redis.Pipeliner) error {
		process, replication = p.Info(ctx, "server"), p.Info(ctx, "replication")
		now = p.Time(ctx)
		return nil
	}) // its error is one of the commands'
	if err := process.Err(); err != nil && !mayNotAsk(err) {
		return err
	}
	if t, err := now.Result(); err == nil { // a Sentinel does not tell
		c.learn(t, sent)
	}
	// A user who may not ask sees one server; counters are seeded each minute
	// all the same.
	s := server{field(process.Val(), "run_id"), field(replication.Val(), "master_replid")}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.servers[s] {
		c.servers[s] = true
		c.generation.Add(1)
	}
	return nil
}

// mayNotAsk reports whether the server has no INFO for this user, or none at all.
func mayNotAsk(err error) bool {
	return redis.IsPermissionError(err) || redis.HasErrorPrefix(err, "unknown command")
}

// field returns a field of what INFO answers.
func field(info, name string) string {
	_, value, _ := strings.Cut(info, name+":")
	value, _, _ = strings.Cut(value, "\r\n")
	return value
}

// learn notes what time it was for Redis when it answered what was sent.
func (c *Counters) learn(now, sent time.Time) {
	ahead := now.Sub(clock.Now().Add(-time.Since(sent) / 2))
	c.ahead.Store(&ahead)
}

// Check implements limits.Shared. Of a cluster it looks at each master, and
// counts in so many places that each master has one of them.
func (c *Counters) Check(ctx context.Context) error {
	places := 1
	var err error
	if cluster, ok := c.rdb.(*redis.ClusterClient); ok {
		places = 64
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return c.look(ctx, node) })
	} else {
		err = c.look(ctx, c.rdb)
	}
	if err != nil {
		return away(err)
	}
	var checks sync.WaitGroup
	errs := make([]error, places)
	for i := range places {
		checks.Go(func() { errs[i] = c.count(ctx, "check:"+c.replica+":"+strconv.Itoa(i)) })
	}
	checks.Wait()
	return errors.Join(errs...)
}

// count takes a token and a unit of a key that nobody has. It leaves nothing for
// longer than some minutes.
func (c *Counters) count(ctx context.Context, keyID string) error {
	r := limits.Request{
		KeyID: keyID, Throttle: &plan.Throttle{Rate: 1000, Burst: 1000},
		Limit: plan.MaxLimit, Cost: 1, Seed: &limits.Charged{},
	}
	for range 2 { // the first may find out what time it is
		r.Window = plan.Window{Start: time.Unix(0, 0), End: c.Now().Truncate(time.Minute).Add(2 * time.Minute)}
		if t, err := c.batch.Do(ctx, order{take: r}); err != nil || t.Outcome != limits.WrongWindow {
			return err
		}
	}
	return away(errors.New("its clock jumps"))
}

// Close waits for the trips under way, then closes the connections.
func (c *Counters) Close() {
	c.batch.Close()
	_ = c.rdb.Close() // what came of the trips is known; how a connection ends does not matter
}

// Stats counts the round trips.
func (c *Counters) Stats() groupcommit.Stats { return c.batch.Stats() }

// Now returns Redis' time, as far as it was learned from its last answer.
func (c *Counters) Now() time.Time {
	if ahead := c.ahead.Load(); ahead != nil {
		return clock.Now().Add(*ahead)
	}
	return c.clock()
}

// Generation implements limits.Counters.
func (c *Counters) Generation() uint64 { return c.generation.Load() }

// Take implements limits.Counters. It does not leave before its trip ends, which
// is soon: units that nobody waits for would be lost.
func (c *Counters) Take(ctx context.Context, r limits.Request) (limits.Taken, error) {
	if err := ctx.Err(); err != nil {
		return limits.Taken{}, err
	}
	t, err := c.batch.Do(context.WithoutCancel(ctx), order{take: r})
	return t, full(err)
}

// Return implements limits.Counters.
func (c *Counters) Return(ctx context.Context, t limits.Taken) error {
	_, err := c.batch.Do(ctx, order{ret: &t})
	return full(err)
}

// full says that there is too much to do, where it is so.
func full(err error) error {
	if errors.Is(err, groupcommit.ErrFull) || errors.Is(err, groupcommit.ErrClosed) {
		return away(err)
	}
	return err
}

// away says what an error of the client library means.
func away(err error) error {
	meaning := limits.ErrAway
	switch {
	case redis.IsAuthError(err):
		meaning = limits.ErrLogin
	case redis.HasErrorPrefix(err, ""):
		meaning = limits.ErrRefused
	}
	return fmt.Errorf("redis: %w: %w", err, meaning)
}

// What take.lua answers first.
const (
	noCounter   = -2
	wrongWindow = -1
	done        = 1
)

// A reply is the rest of what take.lua answers.
type reply struct {
	through, granted, used int64
	epoch                  string
	now                    time.Time
	wait                   time.Duration
}

func parseReply(v []any) (state int64, r reply, err error) {
	if len(v) == 7 {
		var ok [7]bool
		var ms int64
		var wait string
		state, ok[0] = v[0].(int64)
		r.through, ok[1] = v[1].(int64)
		r.granted, ok[2] = v[2].(int64)
		r.used, ok[3] = v[3].(int64)
		r.epoch, ok[4] = v[4].(string)
		ms, ok[5] = v[5].(int64)
		wait, ok[6] = v[6].(string)
		r.now = time.UnixMilli(ms)
		if wait != "" {
			var seconds float64
			seconds, err = strconv.ParseFloat(wait, 64)
			r.wait = max(1, time.Duration(seconds*float64(time.Second)))
		}
		if ok == [7]bool{true, true, true, true, true, true, true} && err == nil && state >= noCounter {
			return state, r, nil
		}
	}
	return 0, r, fmt.Errorf("redis: unexpected answer %v", v)
}

// limit puts a rate that may have a fraction in the whole numbers of redis_rate:
// so many in a period of seconds.
func limit(t plan.Throttle) (rate int64, period float64) {
	if t.Rate >= 1 {
		return int64(math.Round(t.Rate * 1000)), 1000
	}
	return 1, time.Duration(float64(time.Second) / t.Rate).Seconds()
}

// bucketKey names a key's bucket. It names the throttle too: redis_rate keeps
// the time at which a bucket is full again, which for a slower throttle can be
// so far ahead that a faster one would refuse until then.
func bucketKey(keyID string, t plan.Throttle) string {
	return "rate:{" + keyID + "}:" + strconv.FormatFloat(t.Rate, 'g', -1, 64) + ":" + strconv.FormatInt(t.Burst, 10)
}

// counterKey names a key's counter of a window. All that belongs to one key is
// in one slot of a cluster.
func counterKey(keyID string, w plan.Window) string {
	return "quota:{" + keyID + "}:" + strconv.FormatInt(w.Start.Unix(), 10) + "-" + strconv.FormatInt(w.End.Unix(), 10)
}
