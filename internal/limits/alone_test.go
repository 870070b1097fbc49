package limits

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"helloapi/internal/plan"
)

// awayReplica returns a replica whose shared counters are away.
func awayReplica(t *testing.T, q *plan.Quota) *replica {
	t.Helper()
	r := newReplica(q, nil)
	r.shared.set(errNoRoute, false)
	r.open(errNoRoute)
	return r
}

// flood takes units of the first key until it gets no more, at once.
func (r *replica) flood(t *testing.T) (units []*Unit) {
	t.Helper()
	for range 1000 {
		u, _, err := r.take(t, "1")
		if err != nil && !errors.Is(err, ErrAway) {
			t.Error(err)
		}
		if u == nil {
			return units
		}
		units = append(units, u)
	}
	t.Error("there is no end of it")
	return units
}

func keep(units []*Unit) {
	for _, u := range units {
		u.Keep()
	}
}

func wantUnits(t *testing.T, got []*Unit, want int) {
	t.Helper()
	if len(got) != want {
		t.Errorf("%d units were let through, want %d", len(got), want)
	}
}

// The throttle continues in this process.
func TestAloneThrottle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := awayReplica(t, nil)
		r.plan.Throttle = &plan.Throttle{Rate: 1, Burst: 1}
		r.local.wait = time.Minute
		if _, d, err := r.take(t, "1"); err != nil || d.Refused != Throttle || d.Reset != time.Minute {
			t.Errorf("decided %+v, %v", d, err)
		}
		r.local.wait = 0
		r.want(t, "", "") // what is refused here is not remembered
	})
}

// Between two reads of the ledger a tenth of what is left is let through.
func TestAloneShare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := awayReplica(t, perDay(100))
		r.usage.set("somebody", UsageKey{"1", today}, 15)
		r.usage.set("somebody/alone", UsageKey{"1", today}, 5)
		used := int64(20)
		for i, share := range []int{8, 7, 6, 5, 5} { // of 80, 72, 65, 59, 54
			units := r.flood(t)
			wantUnits(t, units, share)
			for _, u := range units {
				used++
				if u.taken.Used != used {
					t.Errorf("%d used, want %d", u.taken.Used, used)
				}
			}
			keep(units)
			r.wantErr(t, ErrAway, "")
			time.Sleep(readEvery - 1)
			wantUnits(t, r.flood(t), 0)
			if r.usage.count() != i+1 {
				t.Errorf("%d reads in %d seconds", r.usage.count(), i+1)
			}
			time.Sleep(time.Nanosecond)
		}
		// What others charge is seen with the next read.
		r.usage.set("somebody", UsageKey{"1", today}, 55)
		wantUnits(t, r.flood(t), 1)
		time.Sleep(readEvery)
		r.usage.set("somebody", UsageKey{"1", today}, 200)
		r.want(t, Quota, "")
	})
}

// A share belongs to an interval of time: counters that come and go in it hand
// out no fresh ones.
func TestAloneShareOfFlapping(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(1000), nil).run(t)
		let := 0
		for range 9 { // within a second
			r.shared.set(errNoRoute, false)
			let += len(r.flood(t))
			r.shared.set(nil, false)
			time.Sleep(probeEvery)
			synctest.Wait()
			if r.Trouble() != "" {
				t.Fatal("the breaker is open")
			}
		}
		if let != 100 {
			t.Errorf("a share of 100 let %d through", let)
		}
		r.wantUsed(t, 100)
		r.stop()
	})
}

// Alone, a replica serves a quota of N exactly N times, whether what it lets
// through is kept at once, late, or in between.
func TestAloneExact(t *testing.T) {
	t.Parallel()
	for _, limit := range []int64{1, 2, 5, 25, 100} {
		for _, every := range []int{0, 1, 3} { // kept each so many seconds; 0: never
			t.Run(fmt.Sprintf("%d,every=%d", limit, every), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					r := awayReplica(t, perDay(limit))
					var served int
					var inFlight []*Unit
					for i := range 150 {
						units := r.flood(t)
						served += len(units)
						inFlight = append(inFlight, units...)
						if every > 0 && i%every == 0 {
							keep(inFlight)
							inFlight = nil
							if err := r.ledger.write(t.Context()); err != nil {
								t.Error(err)
							}
						}
						time.Sleep(readEvery)
					}
					if served != int(limit) {
						t.Errorf("%d served of a quota of %d", served, limit)
					}
					r.want(t, Quota, "")
				})
			})
		}
	}
}

func TestAloneConcurrently(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := awayReplica(t, perDay(30))
		var served atomic.Int64
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				for range 60 {
					u, _, err := r.take(t, "1")
					switch {
					case err != nil && !errors.Is(err, ErrAway):
						t.Error(err)
					case u != nil && i%2 == 0:
						if _, err := u.Return(t.Context()); err != nil {
							t.Error(err)
						}
					case u != nil:
						served.Add(1)
						u.Keep()
					}
					time.Sleep(readEvery)
				}
			})
		}
		wg.Wait()
		if n := served.Load(); n != 30 {
			t.Errorf("%d served of a quota of 30", n)
		}
	})
}

func TestAloneReturn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(24*time.Hour - time.Minute)
		r := awayReplica(t, perDay(1))
		giveBack := func(u *Unit) {
			t.Helper()
			if _, err := u.Return(t.Context()); err != nil {
				t.Error(err)
			}
		}
		for range 3 { // in flight over any number of reads, then returned
			units := r.flood(t)
			wantUnits(t, units, 1)
			for range 3 {
				time.Sleep(readEvery)
				wantUnits(t, r.flood(t), 0)
			}
			giveBack(units[0])
		}
		first := r.flood(t)
		wantUnits(t, first, 1)

		// Another window has its own units, and gets none of the last one's.
		time.Sleep(time.Minute)
		second := r.flood(t)
		wantUnits(t, second, 1)
		giveBack(first[0])
		wantUnits(t, r.flood(t), 0)
		time.Sleep(readEvery)
		wantUnits(t, r.flood(t), 0)
		giveBack(second[0])
		wantUnits(t, r.flood(t), 1)
		r.wantCalls(t, "")
	})
}

// With the database frozen too, callers of a key wait for it once, not one after
// the other.
func TestAloneLedgerFrozen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := awayReplica(t, perDay(5))
		r.usage.reading = func(ctx context.Context) { <-ctx.Done() }
		r.usage.fail(errStore)
		begin := time.Now()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if u, _, err := r.take(t, "1"); !errors.Is(err, errStore) || !errors.Is(err, ErrAway) || u != nil {
					t.Errorf("let through: %v", err)
				}
			})
		}
		wg.Wait()
		if d := time.Since(begin); d != readTimeout {
			t.Errorf("20 callers waited %v, want %v", d, readTimeout)
		}
		r.usage.reading = nil
		r.usage.fail(nil)
		units := r.flood(t)
		wantUnits(t, units, 1)
		r.usage.fail(errStore)
		time.Sleep(readEvery)
		r.wantErr(t, ErrAway, "")
	})
}

// A read that takes as long as it is good for is not repeated at once.
func TestAloneLedgerSlow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := awayReplica(t, perDay(100))
		r.usage.reading = func(context.Context) { time.Sleep(readEvery) }
		if u, _, err := r.take(t, "1"); err != nil || u == nil || r.usage.count() != 1 {
			t.Errorf("%v after %d reads", err, r.usage.count())
		}
	})
}

// A unit that is kept while the ledger is read is in what was used.
func TestAloneKeptWhileReading(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := awayReplica(t, perDay(1))
		units := r.flood(t)
		wantUnits(t, units, 1)
		time.Sleep(readEvery)
		r.usage.reading = func(context.Context) { keep(units) }
		if _, d, err := r.take(t, "1"); err != nil || d.Refused != Quota {
			t.Errorf("decided %+v, %v", d, err)
		}
	})
}

// What was in flight when the counters went away is no room for more.
func TestAloneSharedUnitsInFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(5), nil)
		inFlight := r.flood(t)
		wantUnits(t, inFlight, 5)
		r.plan.Quota = perDay(10)
		r.shared.set(errNoRoute, false)
		served := len(inFlight)
		for i := range 30 {
			if i == 3 {
				keep(inFlight) // and what came after is still in flight
			}
			served += len(r.flood(t))
			time.Sleep(readEvery)
		}
		if served != 10 {
			t.Errorf("%d served of a quota of 10", served)
		}
	})
}

// What was read for one window says nothing of the next, if the ledger can't be
// read then.
func TestAloneNextWindowUnread(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(24*time.Hour - readEvery/2)
		r := awayReplica(t, perDay(5))
		r.usage.set("somebody", UsageKey{"1", today}, 5)
		r.want(t, Quota, "")
		r.usage.fail(errStore)
		time.Sleep(readEvery / 2)
		for range 3 {
			r.wantErr(t, ErrAway, "")
			time.Sleep(time.Millisecond)
		}
	})
}

// A plan that is changed and changed back finds what was let through alone.
func TestAloneOfAnotherPlan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(100), nil).run(t)
		r.wantKept(t, "take")
		r.shared.set(errNoRoute, false)
		r.wantKept(t, "take")
		r.plan.Quota = &plan.Quota{Limit: 100, Period: plan.Month}
		r.wantKept(t, "")
		r.plan.Quota = perDay(100)
		r.wantKept(t, "")
		r.shared.set(nil, false)
		time.Sleep(probeEvery)
		synctest.Wait()
		// The day has its own three, with what was charged for the month as the
		// ledger has it; the month has one.
		r.wantKept(t, "take")
		if got := r.shared.alone[idOf("1", r.current["1"].window)]; got != 2 {
			t.Errorf("the day's counter got %d units, want 2", got)
		}
		r.stop()
	})
}
