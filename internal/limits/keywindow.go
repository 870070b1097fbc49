package limits

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
)

const (
	// seedAgain is when a counter is seeded for the second time: by then the
	// ledger has what all replicas charged before the first time.
	seedAgain = 1500 * time.Millisecond
	// seedEvery is how often it is seeded after that, in case it was set back
	// and nobody noticed.
	seedEvery = time.Minute
	// refreshEvery is how often it is looked for counters to seed.
	refreshEvery = 500 * time.Millisecond
	// refreshReads is how many counters are looked up in the ledger at a time,
	// and refreshTakes how many are seeded at a time: few enough for requests
	// not to wait behind them.
	refreshReads, refreshTakes = 1 << 11, 1 << 6
	// refreshTimeout bounds how long that may take.
	refreshTimeout = 20 * time.Second

	// exhaustedFor bounds how long a quota is taken to be used up without
	// asking, since a unit may be returned, or granted, on another replica.
	exhaustedFor = time.Second
	// throttledFor bounds how long a throttle's refusal is remembered: that of a
	// very slow throttle could be for days.
	throttledFor = time.Minute
)

// A calendar is what the windows of a quota depend on.
type calendar struct {
	period   plan.Period
	offset   int
	timezone string
}

func calendarOf(q *plan.Quota) calendar {
	if q == nil {
		return calendar{}
	}
	return calendar{q.Period, q.Offset, q.Timezone}
}

func (c calendar) quota() plan.Quota {
	return plan.Quota{Period: c.period, Offset: c.offset, Timezone: c.timezone}
}

type windowID struct {
	keyID      string
	start, end int64
}

func idOf(keyID string, w plan.Window) windowID { return windowID{keyID, w.Start.Unix(), w.End.Unix()} }

// A keyWindow is what this process knows of a key in a window of its quota, or
// of a key without a quota.
type keyWindow struct {
	keyID    string
	hasQuota bool
	calendar calendar
	window   plan.Window // the zero Window without a quota

	lastUse  atomic.Int64 // in nanoseconds since 1970
	inFlight atomic.Int64 // units of the shared counters that requests hold
	alone    atomic.Int64 // units let through without them, in flight or kept
	synced   atomic.Int64 // of alone, what the shared counter has
	share    share        // of what is left, for those

	mu sync.Mutex

	// Whether the shared counter is up to date:
	known      bool      // it was seeded, or begins with the window
	fresh      bool      // it begins with the window: it is seeded with nothing
	generation uint64    // of the counters when it was
	seedAt     time.Time // when to do so again

	// What is refused without asking:
	exhaustedLimit int64 // the limit that was reached
	exhaustedUntil time.Time
	returnedAt     time.Time // when a unit was last returned here
	throttle       plan.Throttle
	throttledUntil time.Time

	day     plan.Date // in the quota's time zone
	dayEnds time.Time
}

// fits reports whether kw is of the quota, and of now.
func (kw *keyWindow) fits(q *plan.Quota, now time.Time) bool {
	return kw.hasQuota == (q != nil) && kw.calendar == calendarOf(q) && (q == nil || kw.window.Contains(now))
}

// keyWindow returns the keyWindow of the key's quota now.
func (l *Limits) keyWindow(key *apikey.Key) (*keyWindow, error) {
	now, q := l.counters.Now(), key.Plan.Quota
	l.mu.RLock()
	kw := l.current[key.ID]
	l.mu.RUnlock()
	if kw == nil || !kw.fits(q, now) {
		var w plan.Window
		if q != nil {
			var err error
			if w, err = q.Window(now); err != nil {
				return nil, err
			}
		}
		kw = l.enter(key.ID, q, w, now)
	}
	kw.lastUse.Store(time.Now().UnixNano())
	return kw, nil
}

// enter makes w the key's current window.
func (l *Limits) enter(keyID string, q *plan.Quota, w plan.Window, now time.Time) *keyWindow {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.current[keyID]
	if before != nil && before.fits(q, now) {
		return before // another request was faster
	}
	kw := l.owing[idOf(keyID, w)]
	if kw == nil {
		kw = &keyWindow{keyID: keyID, hasQuota: q != nil, calendar: calendarOf(q), window: w}
	}
	// A window that has just begun has no history. A moment later it is seeded
	// from the ledger, by refresh, with all others: midnight is no different
	// from any other moment.
	if age := now.Sub(w.Start); before != nil && kw.hasQuota && age < seedAgain {
		kw.begin(before, age, l.generation())
	}
	l.current[keyID] = kw
	return kw
}

// begin has kw begin without a history, if it follows a window whose counter is
// up to date.
func (kw *keyWindow) begin(before *keyWindow, age time.Duration, generation uint64) bool {
	_, known := before.seed(generation)
	if !known || !before.hasQuota || !before.window.End.Equal(kw.window.Start) {
		return false
	}
	kw.mu.Lock()
	defer kw.mu.Unlock()
	kw.known, kw.fresh, kw.generation = true, true, generation
	kw.seedAt = time.Now().Add(seedAgain - age)
	return true
}

// seed reports whether the counter is up to date as far as is known, and returns
// what to seed it with if it begins with its window.
func (kw *keyWindow) seed(generation uint64) (seed *Charged, known bool) {
	kw.mu.Lock()
	defer kw.mu.Unlock()
	known = kw.known && kw.generation == generation
	if known && kw.fresh {
		seed = &Charged{}
	}
	return seed, known
}

// seeded notes that the counter was seeded, and when to do so again.
func (kw *keyWindow) seeded(generation uint64, again time.Time) {
	kw.mu.Lock()
	defer kw.mu.Unlock()
	kw.known, kw.fresh, kw.generation, kw.seedAt = true, false, generation, again
}

// due reports whether refresh should seed the counter.
func (kw *keyWindow) due(generation uint64, now time.Time) bool {
	kw.mu.Lock()
	defer kw.mu.Unlock()
	return kw.known && kw.generation == generation && !now.Before(kw.seedAt)
}

// owes returns alone, if the counter has to hear of it.
func (kw *keyWindow) owes() *atomic.Int64 {
	if kw.alone.Load() == 0 && kw.synced.Load() == 0 {
		return nil
	}
	return &kw.alone
}

// refuses reports whether a request is refused without asking, and says so in d.
func (kw *keyWindow) refuses(d *Decision, charged bool, now time.Time) bool {
	kw.mu.Lock()
	defer kw.mu.Unlock()
	switch {
	case charged && kw.hasQuota && kw.exhaustedLimit == d.Limit && now.Before(kw.exhaustedUntil):
		d.Refused = Quota
	case d.Throttle != nil && kw.throttle == *d.Throttle && now.Before(kw.throttledUntil):
		d.Refused, d.Reset = Throttle, kw.throttledUntil.Sub(now)
	}
	return d.Refused != ""
}

// throttled remembers the refusal of a throttle of the shared counters. It holds
// until then: tokens are never given back, so the time at which a bucket has the
// next one only moves forward, whoever else takes some; and another throttle,
// such as that of a changed plan, has another bucket. until is on the monotonic
// clock, counted from before the counters were asked, so it is never too late.
func (kw *keyWindow) throttled(t plan.Throttle, until time.Time) {
	kw.mu.Lock()
	defer kw.mu.Unlock()
	kw.throttle, kw.throttledUntil = t, until
	if most := time.Now().Add(throttledFor); until.After(most) {
		kw.throttledUntil = most
	}
}

// exhausted remembers that nothing was left of the limit at the time asked, for
// no longer than the window lasts. If a unit was returned since, that may have
// been later: then it does not.
func (kw *keyWindow) exhausted(limit int64, asked time.Time, left time.Duration) {
	kw.mu.Lock()
	defer kw.mu.Unlock()
	if asked.After(kw.returnedAt) {
		kw.exhaustedLimit, kw.exhaustedUntil = limit, asked.Add(min(exhaustedFor, left))
	}
}

// returned notes that a unit was returned.
func (kw *keyWindow) returned() {
	kw.mu.Lock()
	defer kw.mu.Unlock()
	kw.returnedAt, kw.exhaustedUntil = time.Now(), time.Time{}
}

// date returns the day that a charge is for: the current one, unless the window
// has ended meanwhile.
func (kw *keyWindow) date(now time.Time) (plan.Date, error) {
	if kw.hasQuota && !kw.window.Contains(now) {
		now = kw.window.End.Add(-1)
	}
	kw.mu.Lock()
	defer kw.mu.Unlock()
	if kw.day == "" || !now.Before(kw.dayEnds) {
		q := kw.calendar.quota() // without a quota that of UTC
		day, err := q.Date(now)
		if err != nil {
			return "", err
		}
		q.Period, q.Offset = plan.Day, 0
		w, err := q.Window(now)
		if err != nil {
			return "", err
		}
		kw.day, kw.dayEnds = day, w.End
	}
	return kw.day, nil
}

// refresh seeds counters in use from the ledger again when it is time, and those
// of windows that have just begun. It forgets those that are not in use.
func (l *Limits) refresh(ctx context.Context) {
	ticks := time.NewTicker(refreshEvery)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticks.C:
			due := l.due(now)
			if len(due) > 0 && !l.breaker.isOpen() {
				_ = l.syncAll(ctx, due, true, refreshTakes) // what fails is tried again
			}
		}
	}
}

// due returns the keyWindows whose counters should be seeded.
func (l *Limits) due(now time.Time) (due []*keyWindow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	clock, generation := l.counters.Now(), l.generation()
	for id, kw := range l.owing {
		if !kw.window.End.After(clock) {
			delete(l.owing, id)
		}
	}
	for id, kw := range l.current {
		idle := now.UnixNano()-kw.lastUse.Load() > int64(seedEvery)
		if kw.hasQuota && !kw.window.End.After(clock) {
			next := l.next(kw, clock, generation)
			if next == nil || idle {
				delete(l.current, id)
				continue
			}
			l.current[id], kw = next, next
		}
		if idle && kw.inFlight.Load() == 0 {
			delete(l.current, id)
		} else if kw.hasQuota && kw.due(generation, now) {
			due = append(due, kw)
		}
	}
	return due
}

// next returns the keyWindow that follows kw, which is over, or nil. The caller
// holds l.mu.
func (l *Limits) next(kw *keyWindow, clock time.Time, generation uint64) *keyWindow {
	q := kw.calendar.quota()
	w, err := q.Window(clock)
	if err != nil {
		return nil
	}
	next := &keyWindow{keyID: kw.keyID, hasQuota: true, calendar: kw.calendar, window: w}
	next.lastUse.Store(kw.lastUse.Load())
	if !next.begin(kw, clock.Sub(w.Start), generation) {
		return nil
	}
	return next
}

// syncAll has the counters brought up to date, so many at a time, and returns
// the first error.
func (l *Limits) syncAll(ctx context.Context, all []*keyWindow, seed bool, takes int) error {
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	var syncs sync.WaitGroup
	var once sync.Once
	var failed error
	reading, taking := make(chan struct{}, refreshReads), make(chan struct{}, takes)
	for _, kw := range all {
		reading <- struct{}{}
		syncs.Go(func() {
			defer func() { <-reading }()
			if err := l.syncOne(ctx, kw, seed, taking); err != nil {
				once.Do(func() { failed = err })
			}
		})
	}
	syncs.Wait()
	return failed
}

// sync brings a counter up to date with what was let through alone, and with
// what the ledger says if it is to be seeded or does not exist.
func (l *Limits) sync(ctx context.Context, kw *keyWindow, seed bool) error {
	return l.syncOne(ctx, kw, seed, make(chan struct{}, 1))
}

func (l *Limits) syncOne(ctx context.Context, kw *keyWindow, seed bool, taking chan struct{}) (err error) {
	generation, read := l.generation(), time.Now()
	again := read.Add(seedAgain)
	r := Request{KeyID: kw.keyID, Window: kw.window, Limit: plan.MaxLimit}
	if seed {
		again = read.Add(seedEvery)
		if r.Seed, err = l.readLedger(ctx, kw); err != nil {
			kw.postpone(read)
			return err
		}
	}
	for range 2 {
		taking <- struct{}{}
		r.Alone = kw.owes()
		t, err := l.counters.Take(ctx, r)
		<-taking
		switch {
		case err != nil:
			kw.postpone(read)
			return err
		case t.Outcome == Unseeded:
			if r.Seed, err = l.readLedger(ctx, kw); err != nil {
				return err
			}
			continue
		case t.Outcome == WrongWindow: // it is over
		case r.Seed != nil:
			kw.seeded(generation, again)
			kw.synced.Store(t.Alone)
		default:
			kw.synced.Store(t.Alone)
		}
		return nil
	}
	return nil
}

// postpone has refresh try again in a while.
func (kw *keyWindow) postpone(now time.Time) {
	kw.mu.Lock()
	defer kw.mu.Unlock()
	kw.seedAt = now.Add(seedAgain)
}
