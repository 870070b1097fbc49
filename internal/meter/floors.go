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
)

// floors remembers when the counters in use were raised to what the ledger
// says. That one rule makes up for a store of counters that was flushed,
// restarted, failed over, or restored from an old backup.
type floors struct {
	mu    sync.Mutex
	keys  map[string]floor // by key ID
	sweep time.Time        // when to drop what has passed
}

type floor struct {
	window plan.Window
	losses uint64    // of the limiter, when it was raised
	again  time.Time // when to raise it again
}

// due reports whether the key's counter should be raised before it is charged,
// and whether it must be.
func (f *floors) due(keyID string, w plan.Window, losses uint64, now time.Time) (due, must bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, ok := f.keys[keyID]
	must = !ok || !l.of(w, losses)
	return must || now.After(l.again), must
}

// of reports whether l is about the window's counter, as it was raised since
// it may have been lost.
func (l floor) of(w plan.Window, losses uint64) bool {
	return l.losses == losses && l.window.Equal(w)
}

// raised notes that the key's counter was raised at the time now, made or not.
func (f *floors) raised(keyID string, w plan.Window, losses uint64, now time.Time, made bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.After(f.sweep) {
		for id, l := range f.keys {
			if now.Sub(l.again) > raiseEvery { // not in use
				delete(f.keys, id)
			}
		}
		f.sweep = now.Add(raiseEvery)
	}
	wait := raiseEvery
	if l, ok := f.keys[keyID]; made || !ok || !l.of(w, losses) {
		wait = raiseAgain
	}
	f.keys[keyID] = floor{w, losses, now.Add(wait)}
}
