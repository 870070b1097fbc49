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
	"helloapi/internal/meter"
	"helloapi/internal/plan"
)

// sweepEvery is how often counters that no longer matter are dropped.
const sweepEvery = time.Minute

// Limiter is a meter.Limiter in memory.
type Limiter struct {
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

var _ meter.Limiter = (*Limiter)(nil)

// New returns a Limiter that has counted nothing.
func New() *Limiter {
	return &Limiter{
		buckets: map[string]*bucket{},
		used:    map[string]*counter{},
		sweep:   time.Now().Add(sweepEvery),
	}
}

// Now returns this machine's time.
func (l *Limiter) Now() time.Time { return clock.Now() }

// Throttle implements meter.Limiter. It never fails.
func (l *Limiter) Throttle(_ context.Context, keyID string, t plan.Throttle) (time.Duration, error) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropStale(now)
	b := l.buckets[keyID]
	if b == nil {
		b = &bucket{t, rate.NewLimiter(rate.Limit(t.Rate), int(t.Burst))}
		l.buckets[keyID] = b
	}
	if b.throttle != t {
		b.throttle = t
		b.tokens.SetLimitAt(now, rate.Limit(t.Rate))
		b.tokens.SetBurstAt(now, int(t.Burst))
	}
	if b.tokens.AllowN(now, 1) {
		return 0, nil
	}
	missing := 1 - b.tokens.TokensAt(now)
	return max(1, time.Duration(math.Ceil(missing/t.Rate*float64(time.Second)))), nil
}

// Charge implements meter.Limiter.
func (l *Limiter) Charge(_ context.Context, keyID string, q plan.Quota) (meter.Charge, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := clock.Now() // under the lock, so that windows only go forward
	w, err := q.Window(now)
	if err != nil {
		return meter.Charge{}, err
	}
	l.dropStale(now)
	c := l.used[keyID]
	if c == nil || !c.window.Equal(w) {
		return meter.Charge{KeyID: keyID, Missing: true, Window: w}, nil
	}
	granted := c.used < q.Limit
	if granted {
		c.used++
	}
	return meter.Charge{KeyID: keyID, Granted: granted, Used: c.used, Window: w, Epoch: c.epoch}, nil
}

// Raise implements meter.Limiter. It never fails.
func (l *Limiter) Raise(_ context.Context, keyID string, w plan.Window, used int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !w.Contains(clock.Now()) {
		return nil
	}
	c := l.used[keyID]
	if c == nil || !c.window.Equal(w) {
		l.epochs++
		c = &counter{window: w, epoch: strconv.FormatUint(l.epochs, 36)}
		l.used[keyID] = c
	}
	c.used = max(c.used, used)
	return nil
}

// Losses implements meter.Limiter: memory is lost with the process.
func (l *Limiter) Losses() uint64 { return 0 }

// Refund implements meter.Limiter. It never fails.
func (l *Limiter) Refund(_ context.Context, c meter.Charge) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if counter := l.used[c.KeyID]; counter != nil && counter.epoch == c.Epoch && counter.used > 0 {
		counter.used--
	}
	return nil
}

// dropStale drops full buckets and counters of windows gone by, now and then:
// they are no different from new ones. The caller holds l.mu.
func (l *Limiter) dropStale(now time.Time) {
	if now.Before(l.sweep) {
		return
	}
	l.sweep = now.Add(sweepEvery)
	for id, b := range l.buckets {
		if b.tokens.TokensAt(now) >= float64(b.throttle.Burst) {
			delete(l.buckets, id)
		}
	}
	for id, c := range l.used {
		if !now.Before(c.window.End) {
			delete(l.used, id)
		}
	}
}
