package limits

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"helloapi/internal/plan"
)

var errNoRoute = fmt.Errorf("%w: connection refused", ErrAway)

func (r *replica) metrics(t *testing.T) map[string]float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(r.Limits); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return got
}

// The first that gets no answer is the last that waits.
func TestBreakerOpens(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err     error
		frozen  bool
		trouble string
	}{
		"refused connection": {errNoRoute, false, "Redis does not answer"},
		"frozen":             {nil, true, "Redis does not answer"},
		"read-only":          {fmt.Errorf("READONLY You can't write: %w", ErrRefused), false, "Redis answers but refuses to count"},
		"wrong password":     {fmt.Errorf("WRONGPASS: %w", ErrLogin), false, "Redis does not accept the user or the password of REDIS_URL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newReplica(perDay(10_000), &plan.Throttle{Rate: 1, Burst: 1}).run(t)
				r.shared.set(test.err, test.frozen)
				waits := time.Duration(0)
				if test.frozen {
					waits = maxWait
				}
				calls := "take"
				for range 40 {
					begin := time.Now()
					r.wantKept(t, calls)
					if d := time.Since(begin); d != waits {
						t.Errorf("it took %s, want %s", d, waits)
					}
					waits, calls = 0, ""
					time.Sleep(time.Second)
				}
				if got := r.Trouble(); got != test.trouble {
					t.Errorf("the trouble is %q, want %q", got, test.trouble)
				}
				if n := strings.Count(r.log.String(), "level=ERROR"); n != 1 || !strings.Contains(r.log.String(), test.trouble) {
					t.Errorf("%d errors in the log: %s", n, &r.log)
				}
				if diff := cmp.Diff(map[string]float64{
					"helloapi_limits_away": 1, "helloapi_limits_without_redis_total local": 40, "helloapi_limits_without_redis_total denied": 0,
				}, r.metrics(t)); diff != "" {
					t.Errorf("metrics (-want +got)\n%s", diff)
				}
				r.stop()
			})
		})
	}
}

// It closes when they count again, and not before: ten probes a second until
// then, one after. What was let through is added once, however often it opens.
func TestBreakerCloses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(1000), nil).run(t)
		for i := range int64(3) {
			r.wantKept(t, "take")
			before := r.shared.checks.Load()
			r.shared.set(errNoRoute, false)
			r.wantKept(t, "take")
			r.wantKept(t, "")
			time.Sleep(time.Second + probeEvery/2)
			synctest.Wait()
			if n := r.shared.checks.Load() - before; n != 10 {
				t.Errorf("%d probes in a second", n)
			}
			r.wantUsed(t, 3*i+1) // nothing is added before it counts
			r.shared.set(nil, false)
			time.Sleep(probeEvery)
			synctest.Wait()
			r.wantUsed(t, 3*i+3)
			if r.Trouble() != "" || strings.Count(r.log.String(), "level=INFO") != int(i)+1 {
				t.Errorf("the trouble is %q; the log: %s", r.Trouble(), &r.log)
			}
			r.shared.took()
			before = r.shared.checks.Load()
			time.Sleep(10 * time.Second)
			if n := r.shared.checks.Load() - before; n > 10 {
				t.Errorf("%d checks in ten seconds", n)
			}
			r.wantUsed(t, 3*i+3)
		}
		r.stop()
	})
}

// A counter that is lost after it was told what was let through alone hears of
// that again, also if no request comes.
func TestAloneIsToldAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(1000), nil).run(t)
		r.wantKept(t, "take")
		r.shared.set(errNoRoute, false)
		r.wantKept(t, "take")
		r.shared.set(nil, false)
		time.Sleep(probeEvery + checkEvery)
		synctest.Wait()
		r.wantUsed(t, 2)
		r.shared.mu.Lock()
		clear(r.shared.used)
		clear(r.shared.alone)
		r.shared.generation++
		r.shared.mu.Unlock()
		time.Sleep(checkEvery)
		synctest.Wait()
		r.wantUsed(t, 2)
		r.stop()
	})
}

// What was let through by a replica that has died is in the ledger, and is added
// with the next seed.
func TestAloneOfTheDead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(10), nil)
		r.usage.set("dead/alone", UsageKey{"1", today}, 4)
		r.usage.set("dead", UsageKey{"1", today}, 2)
		r.usage.set("me/alone", UsageKey{"1", today}, 100) // is known to this replica itself
		for range 4 {
			r.wantKept(t, "take")
		}
		r.want(t, Quota, "")
	})
}

// A unit that was let through alone and is returned later goes back to the
// shared counter.
func TestAloneReturned(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(100), nil).run(t)
		r.wantKept(t, "take")
		r.shared.set(errNoRoute, false)
		first := r.want(t, "", "take")
		second := r.want(t, "", "")
		if _, err := first.Return(t.Context()); err != nil {
			t.Error(err)
		}
		r.shared.set(nil, false)
		time.Sleep(probeEvery)
		synctest.Wait()
		r.wantUsed(t, 2)
		if left, err := second.Return(t.Context()); err != nil || left != 98 {
			t.Errorf("%d left, %v", left, err)
		}
		r.wantUsed(t, 1)
		r.wantKept(t, "take")
		wantLedgerRows(t, r, 2)
		r.stop()
	})
}

// A unit of the shared counters can't be returned while they are away, and is no
// unit of this process.
func TestSharedReturnedWhileOpen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(5), nil)
		u := r.want(t, "", "take")
		r.shared.set(errNoRoute, false)
		r.wantKept(t, "take")
		if _, err := u.Return(t.Context()); !errors.Is(err, ErrAway) {
			t.Errorf("returned: %v", err)
		}
		r.wantErr(t, ErrAway, "") // the share is used
		r.wantCalls(t, "")
	})
}

// Counters that no request asks are checked each second, and the peers are
// informed.
func TestBreakerWatches(t *testing.T) {
	t.Parallel()
	for _, frozen := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newReplica(nil, nil).run(t)
			time.Sleep(5*checkEvery + 1)
			synctest.Wait()
			reached := r.peers.times()
			if n := r.shared.checks.Load(); n != 5 || reached != 5 || r.Ready(t.Context()) != nil {
				t.Errorf("in five seconds %d checks, %d reports", n, reached)
			}
			r.shared.set(errNoRoute, frozen)
			time.Sleep(checkEvery + checkTimeout)
			synctest.Wait()
			if r.Trouble() == "" {
				t.Error("the breaker is closed")
			}
			time.Sleep(5 * checkEvery)
			if r.peers.times() != reached {
				t.Error("the peers were informed that it reaches Redis")
			}
			r.stop()
		})
	}
}

// While the counters are away a replica is not ready if others do better, or if
// it denies.
func TestReady(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(100), nil).run(t)
		r.shared.set(errNoRoute, false)
		r.wantKept(t, "take")
		if err := r.Ready(t.Context()); err != nil {
			t.Errorf("away from all: %v", err)
		}
		r.peers.others = true
		if err := r.Ready(t.Context()); !errors.Is(err, ErrAway) || !strings.Contains(err.Error(), "others") {
			t.Errorf("away from this one alone: %v", err)
		}
		r.peers.err = errStore
		if err := r.Ready(t.Context()); !errors.Is(err, errStore) {
			t.Errorf("with the database away too: %v", err)
		}
		r.shared.set(nil, false)
		time.Sleep(probeEvery)
		synctest.Wait()
		if err := r.Ready(t.Context()); err != nil {
			t.Errorf("back: %v", err)
		}
		r.stop()
	})
}

// A request that has no time left says nothing about the counters.
func TestOutOfTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(5), nil)
		r.shared.set(context.Canceled, false)
		r.wantErr(t, context.Canceled, "take")
		if r.Trouble() != "" {
			t.Error("the breaker is open")
		}
	})
}

func TestDeny(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(100), nil)
		r.Deny = true
		u := r.want(t, "", "take")
		reads := r.usage.count()
		r.shared.set(errNoRoute, false)
		r.wantErr(t, ErrAway, "take")
		r.wantErr(t, ErrAway, "")
		if _, err := u.Return(t.Context()); !errors.Is(err, ErrAway) {
			t.Errorf("returned: %v", err)
		}
		if got := r.local.took(); got != "" || r.usage.count() != reads {
			t.Errorf("what is denied was counted: %q, %d reads", got, r.usage.count()-reads)
		}
		if err := r.Ready(t.Context()); !errors.Is(err, ErrAway) {
			t.Errorf("ready: %v", err)
		}
		if got := r.metrics(t); got["helloapi_limits_without_redis_total denied"] != 2 || got["helloapi_limits_without_redis_total local"] != 0 {
			t.Errorf("metrics: %v", got)
		}
	})
}

// Run ends at once, in whatever state, and leaves no goroutine.
func TestRunEnds(t *testing.T) {
	t.Parallel()
	for _, frozen := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) { // fails if a goroutine is left
			r := newReplica(perDay(100), nil).run(t)
			r.shared.set(errNoRoute, frozen)
			r.wantKept(t, "take")
			time.Sleep(probeEvery)
			synctest.Wait()
			begin := time.Now()
			r.stop()
			if d := time.Since(begin); d != 0 {
				t.Errorf("it took %s", d)
			}
			if n := r.usage.total(UsageKey{"1", today}); n != 1 {
				t.Errorf("%d units are in the ledger", n)
			}
		})
	}
}
