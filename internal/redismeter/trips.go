package redismeter

import (
	"context"
	"crypto/rand"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"helloapi/internal/groupcommit"
	"helloapi/internal/limits"
	"helloapi/internal/plan"
)

const (
	// tripTimeout bounds one round trip. A request waits for the one under way
	// and for its own: a quarter of a second.
	tripTimeout = 125 * time.Millisecond
	// undoFor is for how long a trip whose answer was lost can be undone.
	undoFor = 10 * time.Minute
)

// An order is one caller's part of a trip: units to take, or to return.
type order struct {
	take limits.Request
	ret  *limits.Taken // nil: take
}

type caller = groupcommit.Call[order, limits.Taken]

// A lot is what goes as one command: callers that ask for the same, or one that
// returns units.
type lot struct {
	calls   []*caller
	script  *script
	part    part
	keys    []string
	args    []any
	cmd     *redis.Cmd
	counter string // that units are taken from; "" for none
	alone   int64  // what was sent of Request.Alone
}

// A part is what a command does of what its callers ask for.
type part int

const (
	tokensAndUnits part = iota
	tokens
	units
)

// same is what callers have in common who go as one command.
type same struct {
	keyID                   string
	throttle                plan.Throttle
	start, end, limit, cost int64
}

func sameOf(r *limits.Request) same {
	s := same{keyID: r.KeyID, limit: r.Limit, cost: r.Cost, start: r.Window.Start.UnixMilli(), end: r.Window.End.UnixMilli()}
	if r.Throttle != nil {
		s.throttle = *r.Throttle
	}
	return s
}

// travel carries out orders in one round trip, or in a few more if Redis does
// not have the scripts or a slot of a cluster moves. One runs at a time.
func (c *Counters) travel(ctx context.Context, calls []*caller) {
	c.trip++
	lots := c.lots(calls)
	sent := time.Now()
	c.send(ctx, lots)
	var moving []*lot
	for _, l := range lots {
		if redis.IsTryAgainError(l.cmd.Err()) { // so nothing was done
			moving = append(moving, l)
		} else {
			c.answer(l, lots, sent)
		}
	}
	if len(moving) > 0 {
		c.sendApart(ctx, moving, sent)
	}
}

// sendApart sends lots again, the part about tokens before the one about units:
// the keys of a slot that moves may be on two servers, so a command can have one.
func (c *Counters) sendApart(ctx context.Context, lots []*lot, sent time.Time) {
	for _, l := range lots {
		l.part = tokens
		c.fill(l)
	}
	c.send(ctx, lots)
	var through []*lot
	for _, l := range lots {
		c.answer(l, lots, sent)
		n := slices.IndexFunc(l.calls, func(call *caller) bool { return call.Err != nil || call.Out.Outcome != limits.Granted })
		if n < 0 {
			n = len(l.calls)
		}
		if n > 0 {
			l = &lot{calls: l.calls[:n], script: takeScript, part: units}
			c.fill(l)
			through = append(through, l)
		}
	}
	c.send(ctx, through)
	for _, l := range through {
		c.answer(l, through, sent)
	}
}

// lots gathers the calls that go as one command, in their order.
func (c *Counters) lots(calls []*caller) []*lot {
	lots := make([]*lot, 0, len(calls))
	found := make(map[same]*lot, len(calls))
	for _, call := range calls {
		if t := call.In.ret; t != nil {
			lots = append(lots, &lot{
				calls: []*caller{call}, script: returnScript,
				keys: []string{counterKey(t.KeyID, t.Window)}, args: []any{t.Epoch, t.Cost},
			})
			continue
		}
		s := sameOf(&call.In.take)
		l := found[s]
		if l == nil {
			l = &lot{script: takeScript}
			found[s] = l
			lots = append(lots, l)
		}
		l.calls = append(l.calls, call)
	}
	for _, l := range lots {
		if l.script == takeScript {
			c.fill(l)
		}
	}
	return lots
}

// fill sets the keys and arguments of take.lua.
func (c *Counters) fill(l *lot) {
	r := &l.calls[0].In.take
	var seed *limits.Charged
	var alone *int64
	for _, call := range l.calls {
		if s := call.In.take.Seed; s != nil && (seed == nil || s.Shared > seed.Shared) {
			seed = s
		}
		if a := call.In.take.Alone; a != nil {
			n := a.Load()
			alone, l.alone = &n, n
		}
	}
	l.keys, l.counter, l.args = nil, "", make([]any, 0, 16)
	l.args = append(l.args, len(l.calls))
	if t := r.Throttle; t != nil && l.part != units {
		rate, period := limit(*t)
		l.keys = []string{bucketKey(r.KeyID, *t)}
		l.args = append(l.args, t.Burst, rate, period)
	} else {
		l.args = append(l.args, "", "", "")
	}
	l.args = append(l.args, r.Cost)
	if !r.Window.End.IsZero() && l.part != tokens {
		l.counter = counterKey(r.KeyID, r.Window)
		l.keys = append([]string{l.counter}, l.keys...)
		l.args = append(l.args, r.Window.Start.UnixMilli(), r.Window.End.UnixMilli(), r.Limit)
	} else {
		l.args = append(l.args, "", "", "")
	}
	confirmed := c.trip - 1
	if u, ok := c.unsure[l.counter]; ok {
		confirmed = u.trip - 1
	}
	l.args = append(l.args, c.trip, confirmed)
	if seed != nil {
		l.args = append(l.args, seed.Shared, rand.Text(), undoFor.Milliseconds())
	} else {
		l.args = append(l.args, "", "", undoFor.Milliseconds())
	}
	l.args = append(l.args, c.replica)
	if alone != nil {
		l.args = append(l.args, *alone)
	} else {
		l.args = append(l.args, "")
	}
	if seed != nil {
		for replica, n := range seed.Alone {
			if replica != c.replica {
				l.args = append(l.args, replica, n)
			}
		}
	}
}

// send sends the lots' scripts: by their hashes, and to a Redis that does not have
// one, which it says before doing anything, again by its text.
func (c *Counters) send(ctx context.Context, lots []*lot) {
	c.pipeline(ctx, lots, "evalsha", func(s *script) string { return s.hash })
	var unknown []*lot
	for _, l := range lots {
		if redis.HasErrorPrefix(l.cmd.Err(), "NOSCRIPT") {
			unknown = append(unknown, l)
		}
	}
	if len(unknown) > 0 {
		c.pipeline(ctx, unknown, "eval", func(s *script) string { return s.text })
	}
}

func (c *Counters) pipeline(ctx context.Context, lots []*lot, how string, which func(*script) string) {
	pipe := c.rdb.Pipeline()
	for _, l := range lots {
		line := make([]any, 0, 3+len(l.keys)+len(l.args))
		line = append(line, how, which(l.script), len(l.keys))
		for _, k := range l.keys {
			line = append(line, k)
		}
		l.cmd = redis.NewCmd(ctx, append(line, l.args...)...)
		l.cmd.SetFirstKeyPos(3)
		_ = pipe.Process(ctx, sentOnce{l.cmd}) // its error, and one of Exec, is the command's too
	}
	_, _ = pipe.Exec(ctx)
}

// sentOnce is a command that the client must not send again when it does not
// know what became of it: it may have counted. The cluster client would, even
// with retries turned off.
type sentOnce struct{ *redis.Cmd }

func (sentOnce) NoRetry() bool { return true }

// answer tells the callers of a lot, one of those that were sent, what became of
// it.
func (c *Counters) answer(l *lot, lots []*lot, sent time.Time) {
	fail := func(err error) {
		for _, call := range l.calls {
			call.Err = err
		}
	}
	if l.script == returnScript {
		if err := l.cmd.Err(); err != nil {
			fail(away(err))
		}
		return
	}
	v, err := l.cmd.Slice()
	if err != nil {
		// What another command of this trip took of the counter is known, and not
		// to be undone.
		if !slices.ContainsFunc(lots, func(o *lot) bool { return o.counter == l.counter && o.cmd.Err() == nil }) {
			c.lost(l.counter, sent)
		}
		fail(away(err))
		return
	}
	state, a, err := parseReply(v)
	if err != nil {
		fail(err)
		return
	}
	c.learn(a.now, sent)
	for i, call := range l.calls {
		r := &call.In.take
		t := limits.Taken{KeyID: r.KeyID, Window: r.Window, Cost: r.Cost, Epoch: a.epoch, Used: a.used, Alone: l.alone}
		n := int64(i)
		switch {
		case state == wrongWindow:
			t.Outcome = limits.WrongWindow
		case state == noCounter:
			t.Outcome = limits.Unseeded
		case n < a.granted:
			t.Used -= (a.granted - 1 - n) * r.Cost
		case n < a.through:
			t.Outcome = limits.Exhausted
		default:
			t.Outcome, t.Wait = limits.Throttled, a.wait
		}
		call.Out = t
	}
	if state == done {
		delete(c.unsure, l.counter)
	}
}

// An unsureTrip is the first of the trips to a counter whose answers were lost.
type unsureTrip struct {
	trip int64
	at   time.Time
}

// lost notes that it is not known whether a trip took units from the counter.
func (c *Counters) lost(counter string, now time.Time) {
	if counter == "" {
		return
	}
	if _, ok := c.unsure[counter]; ok {
		return
	}
	if len(c.unsure) >= c.unsureSweep {
		for k, u := range c.unsure {
			if now.Sub(u.at) > undoFor {
				delete(c.unsure, k)
			}
		}
		c.unsureSweep = 2*len(c.unsure) + 1024
	}
	c.unsure[counter] = unsureTrip{c.trip, now}
}
