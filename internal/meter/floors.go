package meter

import (
	"sync"
	"time"

	"helloapi/internal/plan"
)

const (
	// raiseAgain is when a counter is raised for the second time: by then what
	// all replicas charged before the first time is in the ledger.
	raiseAgain = 1500 * time.Millisecond
	// raiseEvery is how often it is raised after that, in case it was set back
	// and nobody noticed.
	raiseEvery = time.Minute
	// When a window has begun, rollReads is how many counters are looked up in
	// the ledger at a time, and rollRaises how many are raised at a time: few
	// enough for requests not to wait behind them.
	rollReads, rollRaises = 1 << 11, 1 << 6
	// rollTimeout bounds how long that may take.
	rollTimeout = 20 * time.Second
)

// A due is whether to raise a counter before it is charged.
type due int

const (
	notDue    due = iota
	raiseSoon     // but it may be charged even if that fails
	raiseNow
	raiseNone // to 0, to have a counter: its window has just begun
)

// floors remembers when the counters in use were raised to what the ledger
// says. That one rule makes up for a store of counters that was flushed,
// restarted, failed over, or restored from an old backup.
type floors struct {
	mu      sync.Mutex
	keys    map[string]floor // by key ID
	sweep   time.Time        // when to drop what has passed
	rolled  time.Time        // the youngest beginning of a window that due reported
	rolling bool             // it was reported at once, and rolledOver is to come
}

// A floor is of a counter, as it was when it was raised.
type floor struct {
	counter
	again time.Time // when to raise it again
}

// due reports whether to raise the key's counter, now being this process' time
// and clock the limiter's. It also reports, once for each, that a window has
// just begun for keys in use: until rolledOver is called no more is due of it.
func (f *floors) due(keyID string, w plan.Window, losses uint64, now, clock time.Time) (d due, begins bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, ok := f.keys[keyID]
	if !ok {
		return raiseNow, false
	}
	next := l.window.End.Equal(w.Start)
	if age := clock.Sub(w.Start); next && w.Start.After(f.rolled) && age < raiseEvery {
		f.rolled, f.rolling = w.Start, age < raiseAgain
		begins = true
	}
	rolling := f.rolling && w.Start.Equal(f.rolled)
	switch {
	case l.of(w, losses) && (rolling || !now.After(l.again)):
		return notDue, begins
	case l.of(w, losses):
		l.again = now.Add(raiseAgain) // if it fails, and one caller at a time
		f.keys[keyID] = l
		return raiseSoon, begins
	case next && l.losses == losses && rolling:
		return raiseNone, begins
	}
	return raiseNow, begins
}

// rolledOver notes that the counters of windows that began then are raised.
func (f *floors) rolledOver(start time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if start.Equal(f.rolled) {
		f.rolling = false
	}
}

// inUse returns the quotas, by key ID, of the counters that were raised for a
// window that ends or begins then.
func (f *floors) inUse(at time.Time) map[string]plan.Quota {
	f.mu.Lock()
	defer f.mu.Unlock()
	quotas := map[string]plan.Quota{}
	for id, l := range f.keys {
		if l.window.End.Equal(at) || l.window.Start.Equal(at) {
			quotas[id] = l.quota
		}
	}
	return quotas
}

// of reports whether l is about the window's counter, as it was raised since
// it may have been lost.
func (l floor) of(w plan.Window, losses uint64) bool {
	return l.losses == losses && l.window.Equal(w)
}

// raised notes that a counter was raised, and when to do so again.
func (f *floors) raised(c counter, again time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); now.After(f.sweep) {
		for id, l := range f.keys {
			if now.Sub(l.again) > raiseEvery { // not in use
				delete(f.keys, id)
			}
		}
		f.sweep = now.Add(raiseEvery)
	}
	f.keys[c.keyID] = floor{c, again}
}
