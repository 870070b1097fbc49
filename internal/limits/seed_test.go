package limits

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"helloapi/internal/plan"
)

func TestSeeded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(1000), nil).run(t)
		r.usage.set("somebody", UsageKey{"1", today}, 7)
		r.usage.set("somebody", UsageKey{"2", today}, 500)
		r.wantKept(t, "take") // with the seed: it is one trip
		r.wantSeeds(t, 7)
		r.wantKept(t, "take")
		r.wantUsed(t, 9)

		// What others had charged by then is in the ledger by now.
		r.usage.set("somebody", UsageKey{"1", today}, 100)
		time.Sleep(seedAgain + refreshEvery)
		synctest.Wait()
		r.wantSeeds(t, 102) // with two of its own
		r.wantKept(t, "take")
		r.wantSeeds(t)
		r.wantUsed(t, 103)

		// After that in each minute, as long as it is in use.
		for i := range int64(3) {
			time.Sleep(seedEvery / 2)
			r.wantKept(t, "take")
			r.wantSeeds(t)
			time.Sleep(seedEvery/2 + time.Nanosecond)
			synctest.Wait()
			r.wantSeeds(t, 104+i)
		}
		if _, _, err := r.take(t, "2"); err != nil {
			t.Error(err)
		}
		r.wantSeeds(t, 500)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if len(r.current) != 1 { // a unit of the second is in flight
			t.Errorf("%d keys are in memory", len(r.current))
		}
		r.stop()
	})
}

// A counter that was set back unnoticed is raised within about a minute.
func TestSetBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(1000), nil).run(t)
		for range 50 {
			r.wantKept(t, "take")
		}
		time.Sleep(3 * time.Second)
		r.wantKept(t, "take")
		r.shared.lose(1)
		time.Sleep(seedEvery + refreshEvery)
		synctest.Wait()
		r.wantKept(t, "take")
		r.wantUsed(t, 52)
		r.stop()
	})
}

func TestSeededAfterLoss(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(1000), nil).run(t)
		for i := range int64(3) {
			r.shared.mu.Lock()
			r.shared.generation = uint64(i)
			r.shared.mu.Unlock()
			r.wantKept(t, "take")
			r.wantSeeds(t, 2*i)
			r.wantKept(t, "take")
			time.Sleep(seedAgain + refreshEvery)
			synctest.Wait()
			r.wantSeeds(t, 2*i+2)
			time.Sleep(2 * seedAgain) // not a third time
			r.wantSeeds(t)
		}
		r.stop()
	})
}

// Where it turns out with the answer that the counter may have been set back,
// the unit is taken again of a seeded one.
func TestLossNoticedByTheTrip(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(10), nil)
		for range 10 {
			r.wantKept(t, "take")
		}
		time.Sleep(2 * time.Second)
		r.shared.lose(3)
		lost := false
		r.shared.taken = func() {
			if !lost {
				lost = true
				r.shared.mu.Lock()
				r.shared.generation++
				r.shared.mu.Unlock()
			}
		}
		r.want(t, Quota, "take return take")
		r.wantUsed(t, 10)
	})
}

// When a window begins, the ledger is not asked about a key that was in use: it
// has nothing yet but what was charged just now. A moment later it is asked
// about all of them.
func TestSeededInNewWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(5), nil).run(t)
		midnight := func() {
			t.Helper()
			now := time.Now()
			time.Sleep(now.Truncate(24 * time.Hour).Add(24*time.Hour - 30*time.Second).Sub(now))
			for _, id := range []string{"1", "2"} {
				if _, d, err := r.take(t, id); err != nil || d.Refused != "" {
					t.Errorf("decided %+v, %v", d, err)
				}
			}
			time.Sleep(30*time.Second + 1)
			synctest.Wait()
			r.shared.took()
			r.shared.seeded()
			day := plan.DateOf(r.Now().UTC())
			r.usage.set("somebody", UsageKey{"1", day}, 2)
			r.usage.set("somebody", UsageKey{"2", day}, 1)
		}
		midnight()
		reads := r.usage.count()
		r.wantKept(t, "take")
		r.wantSeeds(t, 0)
		if n := r.usage.count() - reads; n != 0 {
			t.Errorf("the ledger was read %d times", n)
		}
		time.Sleep(seedAgain + refreshEvery)
		synctest.Wait()
		if n := r.usage.count() - reads; n != 2 {
			t.Errorf("the ledger was read %d times, for 2 keys", n)
		}
		r.wantSeeds(t, 1, 3)
		r.wantKept(t, "take")
		r.wantSeeds(t)

		// Not so if the counter may have been lost.
		midnight()
		r.shared.mu.Lock()
		r.shared.generation++
		r.shared.mu.Unlock()
		r.wantKept(t, "take")
		r.wantSeeds(t, 2)
		r.stop()
	})
}

// Without Run a new window is seeded by its first request.
func TestSeededInNextWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(3), nil)
		time.Sleep(24*time.Hour - 10*time.Second)
		r.wantKept(t, "take")
		r.wantSeeds(t, 0)
		r.usage.set("somebody", UsageKey{"1", today.Next()}, 2)
		time.Sleep(10*time.Second + seedAgain)
		r.wantKept(t, "take")
		r.wantSeeds(t, 2) // of that day alone
		r.want(t, Quota, "")
	})
}

// A counter that is lost is made again with what was used.
func TestCounterLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(10), nil).run(t)
		r.usage.set("somebody", UsageKey{"1", today}, 2)
		for range 3 {
			r.wantKept(t, "take")
		}
		time.Sleep(10 * time.Second)
		r.wantKept(t, "take")
		r.wantSeeds(t, 2, 5)
		r.shared.lose(0)
		r.wantKept(t, "take take")
		r.wantSeeds(t, 6)
		r.wantUsed(t, 7)
		r.usage.set("somebody", UsageKey{"1", today}, 3) // its unwritten second
		time.Sleep(seedAgain + refreshEvery)
		synctest.Wait()
		r.wantSeeds(t, 8)
		r.wantKept(t, "take")
		r.wantKept(t, "take")
		r.shared.lose(0)
		time.Sleep(time.Second + 1) // till it asks once more
		r.want(t, Quota, "take take")
		r.stop()
	})
	// What is lost as soon as it is made does not keep a request for ever.
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(10), nil)
		r.shared.forgetful = true
		if u, d, err := r.take(t, "1"); err == nil || u != nil {
			t.Errorf("decided %+v", d)
		}
		r.wantCalls(t, "take take take")
	})
}

// Without the ledger nothing is taken of a counter of which it is not known what
// was used; one that is known is used, and seeded when that is possible.
func TestLedgerFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(100), nil).run(t)
		fail := func(err error) { r.usage.fail(err) }
		fail(errStore)
		r.wantErr(t, errStore, "")
		r.wantErr(t, errStore, "")
		fail(nil)
		r.wantKept(t, "take")
		fail(errStore)
		time.Sleep(10 * time.Second)
		r.wantKept(t, "take")
		r.wantSeeds(t, 0)
		fail(nil)
		time.Sleep(2 * time.Second) // not each request waits for a ledger that does not answer
		synctest.Wait()
		r.wantSeeds(t, 2)
		fail(errStore)
		r.shared.mu.Lock()
		r.shared.generation++
		r.shared.mu.Unlock()
		r.wantErr(t, errStore, "")
		r.shared.mu.Lock()
		r.shared.generation--
		r.shared.mu.Unlock()
		r.wantKept(t, "take")
		r.shared.lose(0)
		r.wantErr(t, errStore, "take") // there is no counter
		fail(nil)
		r.wantKept(t, "take take")
		r.wantUsed(t, 4)
		fail(errStore)
		time.Sleep(24 * time.Hour)
		r.wantErr(t, errStore, "") // another window
		fail(nil)
		r.stop()
	})
}

// A seed that can't be sent makes no difference to requests.
func TestRefreshFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(100), nil)
		r.Shared = nil // the breaker is not what this is about
		r.run(t)
		r.wantKept(t, "take")
		r.wantSeeds(t, 0)
		r.shared.set(errors.New("a bug"), false)
		time.Sleep(seedAgain + refreshEvery)
		synctest.Wait()
		r.shared.set(nil, false)
		time.Sleep(seedAgain + refreshEvery)
		synctest.Wait()
		r.wantSeeds(t, 1)
		r.stop()
	})
}
