// Package memmeter counts against limits in this process, for itself alone.
package memmeter

import (
	"context"
	"math"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"helloapi/internal/clock"
	"helloapi/internal/limits"
	"helloapi/internal/plan"
)

// sweepEvery is how often counters that no longer matter are dropped.
const sweepEvery = time.Minute

// Counters are limits.Counters in memory.
type Counters struct {
	mu      sync.Mutex
	buckets map[string]*bucket  // by key ID
	used    map[string]*counter // by key ID
	epochs  uint64              // counters made so far
	sweep   time.Time           // when to sweep next
}

type bucket struct {
	throttle plan.Throttle
	tokens   *rate.Limiter
}

type counter struct {
	window plan.Window
	epoch  string
	used   int64
}

var _ limits.Counters = (*Counters)(nil)

// New returns Counters that have counted nothing.
func New() *Counters {
	return &Counters{
		buckets: map[string]*bucket{},
		used:    map[string]*counter{},
		sweep:   time.Now().Add(sweepEvery),
	}
}

// Now returns this machine's time.
func (c *Counters) Now() time.Time { return clock.Now() }

// Generation implements limits.Counters: memory is lost with the process.
func (c *Counters) Generation() uint64 { return 0 }

// Take implements limits.Counters. It never fails.
func (c *Counters) Take(_ context.Context, r limits.Request) (limits.Taken, error) {
	t := limits.Taken{KeyID: r.KeyID, Window: r.Window, Cost: r.Cost}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := clock.Now() // under the lock, so that windows only go forward
	c.dropStale(now)
	var n *counter
	if !r.Window.End.IsZero() {
		if !r.Window.Contains(now) {
			t.Outcome = limits.WrongWindow
			return t, nil
		}
		if n = c.counter(r); n == nil {
			t.Outcome = limits.Unseeded
			return t, nil
		}
		t.Used, t.Epoch = n.used, n.epoch
	}
	if r.Throttle != nil {
		if wait := c.throttle(r.KeyID, *r.Throttle); wait > 0 {
			t.Outcome, t.Wait = limits.Throttled, wait
			return t, nil
		}
	}
	if n != nil && r.Cost > 0 {
		if n.used+r.Cost > r.Limit {
			t.Outcome = limits.Exhausted
			return t, nil
		}
		n.used += r.Cost
		t.Used = n.used
	}
	return t, nil
}

// counter returns the counter that r is about, brought up to date, or nil if
// there is none. The caller holds c.mu.
func (c *Counters) counter(r limits.Request) *counter {
	n := c.used[r.KeyID]
	if n == nil || !n.window.Equal(r.Window) {
		if r.Seed == nil {
			return nil
		}
		c.epochs++
		n = &counter{window: r.Window, epoch: strconv.FormatUint(c.epochs, 36)}
		c.used[r.KeyID] = n
	}
	if r.Seed != nil {
		n.used = max(n.used, r.Seed.Shared)
	}
	return n
}

// throttle takes a token and returns 0, or returns how long it takes until there
// is one. The caller holds c.mu.
func (c *Counters) throttle(keyID string, t plan.Throttle) time.Duration {
	now := time.Now()
	b := c.buckets[keyID]
	if b == nil {
		b = &bucket{t, rate.NewLimiter(rate.Limit(t.Rate), int(t.Burst))}
		c.buckets[keyID] = b
	}
	if b.throttle != t {
		b.throttle = t
		b.tokens.SetLimitAt(now, rate.Limit(t.Rate))
		b.tokens.SetBurstAt(now, int(t.Burst))
	}
	if b.tokens.AllowN(now, 1) {
		return 0
	}
	missing := 1 - b.tokens.TokensAt(now)
	return max(1, time.Duration(math.Ceil(missing/t.Rate*float64(time.Second))))
}

// Return implements limits.Counters. It never fails.
func (c *Counters) Return(_ context.Context, t limits.Taken) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.used[t.KeyID]; n != nil && n.epoch == t.Epoch && n.used >= t.Cost {
		n.used -= t.Cost
	}
	return nil
}

// dropStale drops full buckets and counters of windows gone by, now and then:
// they are no different from new ones. The caller holds c.mu.
func (c *Counters) dropStale(now time.Time) {
	if now.Before(c.sweep) {
		return
	}
	c.sweep = now.Add(sweepEvery)
	wall := time.Now()
	for id, b := range c.buckets {
		if b.tokens.TokensAt(wall) >= float64(b.throttle.Burst) {
			delete(c.buckets, id)
		}
	}
	for id, n := range c.used {
		if !now.Before(n.window.End) {
			delete(c.used, id)
		}
	}
}
