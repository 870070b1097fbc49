package limits

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
)

// maxWait is how long a request waits for the shared counters, at most.
const maxWait = 250 * time.Millisecond

// Config is what Limits are made of.
type Config struct {
	Local  Counters // of this process
	Shared Shared   // of all replicas; nil: Local is all there is
	Peers  Peers    // of Shared
	Usage  UsageStore

	// Replica names this process: in the ledger, to its peers and in Shared.
	Replica string

	// Deny has requests refused while Shared is away. Else each replica
	// continues by itself.
	Deny bool
	Log  *slog.Logger
}

// Limits decide what keys may do. They are safe for concurrent use.
type Limits struct {
	Config
	counters Counters // Shared, or Local
	ledger   *ledger
	breaker  breaker

	mu      sync.RWMutex
	current map[string]*keyWindow   // by key ID
	owing   map[windowID]*keyWindow // those that let units through alone
}

// New returns Limits. They count, but only Run has them recover, and write what
// was charged.
func New(c Config) *Limits {
	l := &Limits{
		Config: c, counters: c.Local, ledger: newLedger(c.Usage, c.Replica, c.Log),
		breaker: breaker{opened: make(chan struct{}, 1)},
		current: map[string]*keyWindow{}, owing: map[windowID]*keyWindow{},
	}
	if c.Shared != nil {
		l.counters = c.Shared
	}
	return l
}

// Run records what is charged, keeps counters up to date and probes the shared
// ones until ctx ends, and then records the rest. No request may be under way
// then.
func (l *Limits) Run(ctx context.Context) error {
	var others sync.WaitGroup
	others.Go(func() { l.refresh(ctx) })
	if l.Shared != nil {
		others.Go(func() { l.probe(ctx) })
	}
	err := l.ledger.run(ctx)
	others.Wait()
	return err
}

// Now returns the time by which windows are found.
func (l *Limits) Now() time.Time { return l.counters.Now() }

// A Limit is one that a key can run into.
type Limit string

// The limits.
const (
	Throttle Limit = "throttle"
	Quota    Limit = "quota"
)

// A Decision says whether a request is let through, and where its key stands.
type Decision struct {
	Refused Limit // by which limit; "": let through

	Throttle *plan.Throttle // nil: none
	HasQuota bool
	Window   plan.Window // the quota's, if there is one, as for what follows
	Limit    int64       // with grants
	Left     int64       // of it
	// Reset is how long it takes until more is allowed: until the next window,
	// or if the throttle refused until there is a token.
	Reset time.Duration
}

// Take takes a token of the key's throttle and cost units of its quota, at least
// one. It returns them as a Unit if both allow the request, to be kept or
// returned.
//
// A refusal that is already known costs no trip, and the quota's comes first:
// of the two it is the answer that helps.
func (l *Limits) Take(ctx context.Context, key *apikey.Key, cost int64) (*Unit, Decision, error) {
	return l.takeUnit(ctx, key, key.Plan.Throttle, cost)
}

// TakeUnit is Take of a request that has its token.
func (l *Limits) TakeUnit(ctx context.Context, key *apikey.Key, cost int64) (*Unit, Decision, error) {
	u, d, err := l.takeUnit(ctx, key, nil, cost)
	d.Throttle = key.Plan.Throttle
	return u, d, err
}

func (l *Limits) takeUnit(ctx context.Context, key *apikey.Key, throttle *plan.Throttle, cost int64) (*Unit, Decision, error) {
	asked := time.Now()
	kw, d, taken, alone, err := l.take(ctx, key, throttle, cost)
	if err != nil || d.Refused != "" {
		return nil, d, err
	}
	date, err := kw.date(l.Now())
	if err != nil {
		return nil, d, err
	}
	return &Unit{
		l: l, kw: kw, key: UsageKey{key.ID, date}, account: accountOf(key), cost: cost,
		taken: taken, alone: alone, left: d.Left, waited: time.Since(asked),
	}, d, nil
}

// TakeToken takes a token of the throttle, if there is one, for what is not
// charged.
func (l *Limits) TakeToken(ctx context.Context, key *apikey.Key, t *plan.Throttle) (Decision, error) {
	_, d, _, _, err := l.take(ctx, key, t, 0)
	return d, err
}

func (l *Limits) take(ctx context.Context, key *apikey.Key, throttle *plan.Throttle, cost int64) (*keyWindow, Decision, Taken, bool, error) {
	asked := time.Now()
	for range 3 {
		kw, err := l.keyWindow(key)
		if err != nil {
			return nil, Decision{}, Taken{}, false, err
		}
		d := Decision{Throttle: throttle, HasQuota: kw.hasQuota, Window: kw.window}
		r := Request{KeyID: key.ID, Throttle: throttle}
		if kw.hasQuota {
			granted, err := key.Plan.Quota.Granted(kw.window, key.Grants)
			if err != nil {
				return nil, d, Taken{}, false, err
			}
			d.Limit = key.Plan.Quota.Limit + granted
			if cost > 0 {
				r.Window, r.Limit, r.Cost = kw.window, d.Limit, cost
			}
		}
		if kw.refuses(&d, cost > 0, asked) {
			if d.Refused == Quota {
				d.Reset = l.reset(kw)
			}
			return kw, d, Taken{}, false, nil
		}
		if throttle == nil && r.Window.End.IsZero() {
			return kw, d, Taken{}, false, nil
		}
		t, alone, err := l.ask(ctx, kw, r)
		if err != nil {
			return nil, d, t, alone, err
		}
		if t.Outcome == WrongWindow { // and the counters have told the time
			continue
		}
		if kw.hasQuota {
			d.Left, d.Reset = max(0, d.Limit-t.Used), l.reset(kw)
		}
		switch {
		case t.Outcome == Throttled:
			d.Refused, d.Reset = Throttle, t.Wait
			if !alone {
				kw.throttled(*throttle, asked.Add(t.Wait))
			}
		case t.Outcome == Exhausted:
			d.Refused = Quota // a cheaper endpoint may still be let through
		case !alone && !r.Window.End.IsZero():
			kw.inFlight.Add(t.Cost)
		}
		if !r.Window.End.IsZero() && d.Left == 0 && d.Refused != Throttle {
			kw.exhausted(d.Limit, asked, d.Reset)
		}
		return kw, d, t, alone, nil
	}
	return nil, Decision{}, Taken{}, false, errors.New("take: the counters' clock jumps")
}

// reset is how long the window lasts.
func (l *Limits) reset(kw *keyWindow) time.Duration { return kw.window.End.Sub(l.Now()) }

// ask takes from the counters, or alone while they are away.
func (l *Limits) ask(ctx context.Context, kw *keyWindow, r Request) (t Taken, alone bool, err error) {
	if !l.breaker.isOpen() {
		t, err = l.askCounters(ctx, kw, r)
		if !errors.Is(err, ErrAway) {
			return t, false, err
		}
		l.open(err)
	}
	if l.Deny {
		l.breaker.denied.Add(1)
		return t, false, ErrAway
	}
	l.breaker.counted.Add(1)
	t, err = l.takeAlone(ctx, kw, r)
	return t, true, err
}

// askCounters takes from the counters. A counter that may be behind is seeded
// from the ledger first, in the same trip.
func (l *Limits) askCounters(ctx context.Context, kw *keyWindow, r Request) (t Taken, err error) {
	if r.Window.End.IsZero() {
		return l.counters.Take(ctx, r)
	}
	for range 3 {
		generation, read := l.generation(), time.Now()
		seed, known := kw.seed(generation)
		fromLedger := !known || t.Outcome == Unseeded
		if fromLedger {
			if seed, err = l.readLedger(ctx, kw); err != nil {
				return t, err
			}
		}
		r.Seed, r.Alone = seed, kw.owes()
		if t, err = l.counters.Take(ctx, r); err != nil || t.Outcome == WrongWindow {
			return t, err
		}
		if t.Outcome == Unseeded {
			continue
		}
		if fromLedger {
			kw.seeded(generation, read.Add(seedAgain))
		}
		kw.synced.Store(t.Alone)
		if fromLedger || l.generation() == generation {
			return t, nil
		}
		// The connection was new, and the counter may be of a server that lost
		// some: it is seeded, and what was taken before that taken again.
		if t.Outcome == Throttled {
			return t, nil
		}
		r.Throttle = nil // it has its token
		if t.Outcome == Granted {
			if err := l.counters.Return(ctx, t); err != nil {
				return t, err
			}
		}
	}
	return t, errors.New("take: the counter is lost as soon as it is made")
}

// readLedger returns what the key was charged in the window.
func (l *Limits) readLedger(ctx context.Context, kw *keyWindow) (*Charged, error) {
	c, err := l.ledger.used(ctx, kw.keyID, kw.calendar.quota(), kw.window)
	if err != nil {
		return nil, fmt.Errorf("read ledger: %w", err)
	}
	return &c, nil
}

func (l *Limits) generation() uint64 {
	return l.counters.Generation() + l.breaker.recoveries.Load()
}

// A Unit is what a request in flight holds: as many units as it costs. It belongs to the goroutine that serves
// the request. The first call of Keep or Return counts.
type Unit struct {
	l       *Limits
	kw      *keyWindow
	key     UsageKey
	account Account
	cost    int64
	taken   Taken // of the quota; with Cost 0 nothing
	alone   bool
	left    int64
	waited  time.Duration // for the counters, to take it
	done    bool
}

// Keep charges the unit for good.
func (u *Unit) Keep() {
	if u.done {
		return
	}
	u.done = true
	u.l.ledger.add(u.key, u.account, u.alone && u.taken.Cost > 0, u.cost)
	u.release()
}

// Return returns the unit, and how many are left then. It waits for the shared
// counters for what is left of a quarter of a second. If they do not answer the
// unit is lost.
func (u *Unit) Return(ctx context.Context) (left int64, err error) {
	if u.done || u.taken.Cost == 0 {
		u.done = true
		return u.left, nil
	}
	u.done = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(maxWait-u.waited, maxWait/10))
	defer cancel()
	// Only then: until then it is true that nothing is left.
	defer u.kw.returned()
	if u.alone {
		u.kw.alone.Add(-u.taken.Cost)
		if !u.l.breaker.isOpen() {
			err = u.l.sync(ctx, u.kw, false)
		}
	} else {
		defer u.release()
		if u.l.breaker.isOpen() {
			return u.left, ErrAway
		}
		err = u.l.counters.Return(ctx, u.taken)
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("%w: %w", err, ErrAway)
		}
	}
	if errors.Is(err, ErrAway) {
		u.l.open(err)
	}
	if err != nil {
		return u.left, err
	}
	return u.left + u.taken.Cost, nil
}

// release notes that the unit is not in flight any more.
func (u *Unit) release() {
	if !u.alone && u.taken.Cost > 0 {
		u.kw.inFlight.Add(-u.taken.Cost)
	}
}
