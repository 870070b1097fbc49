package meter

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
	"helloapi/internal/web"
)

// newStrict returns an endpoint the limiter of which has no counters until they
// are raised, and its record of usage.
func newStrict(q *plan.Quota) (*endpoint, *usage) {
	e := newEndpoint(q, nil)
	e.limiter.strict = true
	return e, e.meter.ledger.usage.(*usage)
}

// lose has the limiter lose its counters, or go back to an old one.
func (l *limiter) lose(old int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.used {
		if old == 0 {
			delete(l.used, c)
		} else {
			l.used[c] = old
		}
	}
}

// wantRaises fails unless the counter was raised to these numbers since the
// last time.
func wantRaises(t *testing.T, e *endpoint, want ...int64) {
	t.Helper()
	e.limiter.mu.Lock()
	got := e.limiter.raises
	e.limiter.raises = nil
	e.limiter.mu.Unlock()
	if !slices.Equal(got, want) {
		t.Errorf("raised to %v, want %v", got, want)
	}
}

func TestRaised(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, u := newStrict(perDay(1000))
		u.set("somebody", Slot{"1", today}, 7)
		u.set("somebody", Slot{"2", today}, 500)
		want(t, e.get(t), http.StatusOK, "", map[string]string{
			"RateLimit-Policy": `"quota";q=1000;w=86400`, "RateLimit": `"quota";r=992;t=86400`,
		})
		wantCalls(t, e, "charge") // raised before, or it would have been asked twice
		wantRaises(t, e, 7)
		wantServed(t, e, "charge")
		time.Sleep(raiseAgain)
		wantServed(t, e, "charge")
		wantRaises(t, e)

		// What others had charged by then is in the ledger by now.
		u.set("somebody", Slot{"1", today}, 100)
		time.Sleep(time.Nanosecond)
		wantServed(t, e, "charge")
		wantRaises(t, e, 103) // with three of its own
		wantUsed(t, e, 104)

		// After that in each minute.
		for range 3 {
			used := u.total(Slot{"1", today}) + e.meter.ledger.totals[Slot{"1", today}].charged()
			time.Sleep(raiseEvery)
			wantServed(t, e, "charge")
			wantRaises(t, e)
			time.Sleep(time.Nanosecond)
			wantServed(t, e, "charge")
			wantRaises(t, e, used+1)
		}

		// Another key has its own.
		if w := e.getWith(t.Context(), value2); w.Code != http.StatusOK {
			t.Errorf("answered %d", w.Code)
		}
		wantRaises(t, e, 500)
	})
}

// A counter that was set back unnoticed is raised within a minute.
func TestRaisedWhenSetBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, _ := newStrict(perDay(1000))
		for range 50 {
			wantServed(t, e, "charge")
		}
		time.Sleep(2 * time.Second)
		wantServed(t, e, "charge")
		e.limiter.lose(1)
		time.Sleep(raiseEvery + 1)
		wantServed(t, e, "charge")
		wantUsed(t, e, 52)
	})
}

func TestRaisedAfterLoss(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, _ := newStrict(perDay(1000))
		for i := range int64(3) {
			e.limiter.losses = uint64(i)
			wantServed(t, e, "charge")
			wantRaises(t, e, 4*i)
			time.Sleep(raiseAgain)
			wantServed(t, e, "charge")
			wantRaises(t, e)
			time.Sleep(time.Nanosecond)
			wantServed(t, e, "charge")
			wantRaises(t, e, 4*i+2)
			time.Sleep(2 * raiseAgain) // not a third time
			wantServed(t, e, "charge")
			wantRaises(t, e)
		}
	})
}

func TestRaisedInNextWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, u := newStrict(perDay(3))
		time.Sleep(24*time.Hour - 10*time.Second)
		wantServed(t, e, "charge")
		time.Sleep(2 * time.Second)
		wantServed(t, e, "charge")
		wantRaises(t, e, 0, 1)
		u.set("somebody", Slot{"1", today.Next()}, 2)
		time.Sleep(8*time.Second + raiseAgain)
		wantServed(t, e, "charge")
		wantRaises(t, e, 2) // of that day alone
		wantDenied(t, e, "")
	})
}

// When a window begins, the ledger is not asked about a key that was in use: it
// has nothing yet but what was charged just now. A moment later it is asked
// about all of them.
func TestRaisedInNewWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, u := newStrict(perDay(5))
		midnight := func() {
			t.Helper()
			now := e.limiter.Now()
			time.Sleep(now.Truncate(24 * time.Hour).Add(24*time.Hour - raiseEvery).Sub(now))
			for _, value := range []string{value1, value2} {
				if w := e.getWith(t.Context(), value); w.Code != http.StatusOK {
					t.Errorf("answered %d", w.Code)
				}
			}
			synctest.Wait()
			e.limiter.mu.Lock()
			e.limiter.raises, e.limiter.calls = nil, nil
			e.limiter.mu.Unlock()
			time.Sleep(raiseEvery)
			u.set("somebody", Slot{"1", plan.DateOf(e.limiter.Now())}, 2)
			u.set("somebody", Slot{"2", plan.DateOf(e.limiter.Now())}, 1)
		}
		midnight()
		reads := u.count()
		wantServed(t, e, "charge")
		wantRaises(t, e, 0)
		if n := u.count() - reads; n != 0 {
			t.Errorf("the ledger was read %d times", n)
		}
		time.Sleep(raiseAgain)
		synctest.Wait()
		if n := u.count() - reads; n != 2 {
			t.Errorf("the ledger was read %d times, for 2 keys", n)
		}
		e.limiter.mu.Lock()
		slices.Sort(e.limiter.raises)
		e.limiter.mu.Unlock()
		wantRaises(t, e, 1, 3)
		wantServed(t, e, "charge")
		wantRaises(t, e)
		wantUsed(t, e, 4)

		// Not so if the counter may have been lost.
		midnight()
		e.limiter.losses++
		wantServed(t, e, "charge")
		wantRaises(t, e, 2)
		time.Sleep(raiseAgain)
		synctest.Wait()
	})
}

// A counter that is lost in the middle is made again with what was used.
func TestCounterLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, u := newStrict(perDay(10))
		u.set("somebody", Slot{"1", today}, 2)
		for range 3 {
			wantServed(t, e, "charge")
		}
		time.Sleep(10 * time.Second)
		wantServed(t, e, "charge")
		wantRaises(t, e, 2, 5)
		e.limiter.lose(0)
		wantServed(t, e, "charge charge")
		wantRaises(t, e, 6)
		wantUsed(t, e, 7)
		time.Sleep(raiseAgain)
		wantServed(t, e, "charge")
		wantRaises(t, e)
		u.set("somebody", Slot{"1", today}, 3) // its unwritten second
		time.Sleep(time.Nanosecond)
		wantServed(t, e, "charge")
		wantRaises(t, e, 9)
		wantUsed(t, e, 10)
		e.limiter.lose(0)
		time.Sleep(time.Second + 1) // till it asks once more
		wantDenied(t, e, "charge charge")
	})
}

// amnesiac is a limiter that keeps no counter.
type amnesiac struct{ *limiter }

func (amnesiac) Raise(context.Context, string, plan.Window, int64) error { return nil }

// What is lost as soon as it is made does not keep a request for ever.
func TestCounterAlwaysLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, _ := newStrict(perDay(10))
		e.meter.limiter = amnesiac{&e.limiter}
		want(t, e.get(t), http.StatusServiceUnavailable, unavailable, map[string]string{"Retry-After": "1"})
		wantCalls(t, e, "charge charge charge")
	})
}

func TestLedgerFails(t *testing.T) {
	t.Parallel()
	unavailableHeaders := map[string]string{"Retry-After": "1"}
	tests := map[string]func(*endpoint, *usage, error){
		"ledger":  func(_ *endpoint, u *usage, err error) { u.fail(err) },
		"limiter": func(e *endpoint, _ *usage, err error) { e.limiter.raiseErr = err },
	}
	for name, fail := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e, u := newStrict(perDay(100))
				refused := func(calls string) {
					t.Helper()
					want(t, e.get(t), http.StatusServiceUnavailable, unavailable, unavailableHeaders)
					wantCalls(t, e, calls)
				}
				fail(e, u, errStore)
				refused("") // the first use: what was used is not known
				refused("")
				fail(e, u, nil)
				wantServed(t, e, "charge")
				fail(e, u, errStore)
				time.Sleep(raiseAgain + 1)
				wantServed(t, e, "charge")
				time.Sleep(2 * raiseEvery)
				wantServed(t, e, "charge")
				e.limiter.losses++
				refused("")
				e.limiter.losses--
				wantServed(t, e, "charge")
				e.limiter.lose(0)
				refused("charge") // there is no counter
				fail(e, u, nil)
				wantServed(t, e, "charge charge")
				wantUsed(t, e, 5)
				fail(e, u, errStore)
				time.Sleep(24 * time.Hour)
				refused("") // another window
			})
		})
	}
}

// A raise that failed is tried again, in a while: not each request should wait
// for a ledger that does not answer.
func TestRaiseIsTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, u := newStrict(perDay(100))
		wantServed(t, e, "charge")
		wantRaises(t, e, 0)
		time.Sleep(raiseAgain + 1)
		u.fail(errStore)
		wantServed(t, e, "charge")
		u.fail(nil)
		wantServed(t, e, "charge")
		wantRaises(t, e)
		time.Sleep(raiseAgain + 1)
		wantServed(t, e, "charge")
		wantRaises(t, e, 3)
	})
}

// Keys that are not used any more don't stay in memory.
func TestFloorsForget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, _ := newStrict(perDay(100))
		e.get(t)
		time.Sleep(10 * time.Minute)
		e.getWith(t.Context(), value2)
		if n := len(e.meter.floors.keys); n != 1 {
			t.Errorf("%d keys are in memory", n)
		}
		wantRaises(t, e, 0, 0)
		e.get(t)
		wantRaises(t, e, 1)
	})
}

// The ledger has exactly what was answered below 400, of any key.
func TestSettled(t *testing.T) {
	t.Parallel()
	abort := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if status != 0 {
				w.WriteHeader(status)
			}
			panic(http.ErrAbortHandler)
		}
	}
	tests := []struct {
		name    string
		serve   http.Handler
		settled int64
	}{
		{"200", status(200), 1},
		{"204", status(204), 1},
		{"304", status(304), 1},
		{"399", status(399), 1},
		{"400", status(400), 0},
		{"404", status(404), 0},
		{"500", status(500), 0},
		{"nothing written", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), 1},
		{"written without a status", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("a")) }), 1},
		{"error", web.Handler(func(http.ResponseWriter, *http.Request) error { return errors.New("a bug") }), 0},
		{"panic", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("out of cheese") }), 0},
		{"abort", abort(0), 0},
		{"abort after 200", abort(200), 1},
		{"abort after 404", abort(404), 0},
	}
	for _, tt := range tests {
		for name, q := range map[string]*plan.Quota{"quota": perDay(100), "no quota": nil} {
			t.Run(tt.name+","+name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					e, u := newStrict(q)
					e.serve = tt.serve
					func() {
						defer func() {
							if v := recover(); v != nil && v != http.ErrAbortHandler {
								t.Errorf("panic: %v", v)
							}
						}()
						r := httptest.NewRequest(http.MethodGet, "/", nil)
						r.Header.Set(apikey.Header, value1)
						e.h.ServeHTTP(httptest.NewRecorder(), r)
					}()
					got := map[Slot]int64{}
					for s, n := range e.meter.ledger.totals {
						got[s] = n.charged()
					}
					wantTotals := map[Slot]int64{}
					if tt.settled > 0 {
						wantTotals[Slot{"1", today}] = tt.settled
					}
					if diff := cmp.Diff(wantTotals, got); diff != "" {
						t.Errorf("in the ledger (-want +got)\n%s", diff)
					}
					if err := e.meter.ledger.Write(t.Context()); err != nil {
						t.Error(err)
					}
					wantRecorded(t, u, Slot{"1", today}, tt.settled)
					if q != nil {
						wantUsed(t, e, tt.settled) // the rest was given back
					}
				})
			})
		}
	}
}

// What is refused is not in the ledger.
func TestRefusedIsNotSettled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, _ := newStrict(perDay(1))
		wantServed(t, e, "charge")
		wantDenied(t, e, "")
		time.Sleep(2 * time.Second)
		wantDenied(t, e, "charge")
		wantLedger(t, e.meter.ledger, "1", *perDay(1), today, 1)
	})
}

// A unit is of the day that it was charged on, in the quota's time zone.
func TestSettledDay(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		quota  *plan.Quota
		charge time.Duration // how long the limiter takes to answer
		serve  time.Duration
		day    plan.Date
	}{
		{"served over midnight", perDay(5), 0, time.Minute, today},
		{"charged over midnight", perDay(5), time.Second, 0, today},
		{"at once", perDay(5), 0, 0, today},
		{"no quota", nil, 0, time.Minute, today},
		{"Kiritimati", &plan.Quota{Limit: 5, Period: plan.Day, Timezone: "Pacific/Kiritimati"}, 0, time.Minute, "2000-01-02"},
		{"Honolulu", &plan.Quota{Limit: 5, Period: plan.Day, Timezone: "Pacific/Honolulu"}, 0, time.Minute, today},
		{"month", &plan.Quota{Limit: 5, Period: plan.Month}, time.Second, time.Minute, "2000-01-02"}, // the window goes on
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e, _ := newStrict(tt.quota)
				time.Sleep(24*time.Hour - time.Millisecond)
				e.limiter.charged = func() { time.Sleep(tt.charge) }
				e.serve = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(tt.serve) })
				if w := e.get(t); w.Code != http.StatusOK {
					t.Errorf("answered %d %s", w.Code, w.Body)
				}
				if diff := cmp.Diff(map[Slot]int64{{"1", tt.day}: 1}, map[Slot]int64{{"1", tt.day}: e.meter.ledger.totals[Slot{"1", tt.day}].charged()}); diff != "" {
					t.Errorf("in the ledger (-want +got)\n%s", diff)
				}
			})
		})
	}
}
