package limits

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
)

// synctest's clock starts at midnight UTC, as a window of perDay does.

func TestTake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := &plan.Throttle{Rate: 5, Burst: 5}
		r := newReplica(perDay(2), th)
		time.Sleep(23 * time.Hour)
		for i, refused := range []Limit{"", "", Quota} {
			u, d, err := r.take(t, "1")
			want := Decision{
				Refused: refused, Throttle: th, HasQuota: true, Limit: 2, Left: max(0, 1-int64(i)), Reset: time.Hour,
				Window: plan.Window{Start: time.Now().Add(-23 * time.Hour), End: time.Now().Add(time.Hour)},
			}
			if diff := cmp.Diff(want, d); err != nil || diff != "" || (u == nil) != (refused != "") {
				t.Errorf("request %d: %v (-want +got)\n%s", i, err, diff)
			}
		}
		r.wantCalls(t, "take take") // one trip each, and none for what is known
		r.wantUsed(t, 2)

		r.plan.Quota.Limit = 5
		r.shared.wait = 2500 * time.Millisecond
		u, d, err := r.take(t, "1")
		if u != nil || err != nil || d.Refused != Throttle || d.Reset != 2500*time.Millisecond {
			t.Errorf("throttled: %+v, %v", d, err)
		}
		r.wantUsed(t, 2) // nothing is charged, and so nothing returned
		r.wantCalls(t, "take")
	})
}

// A grant is part of the limit, in its window.
func TestGrant(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(1), nil)
		key := &apikey.Key{ID: "1", Plan: r.plan, Grants: []plan.Grant{{Date: today, Units: 2}}}
		for day, limit := range []int64{3, 1} {
			for range limit {
				u, d, err := r.Take(t.Context(), key, 1)
				if err != nil || u == nil || d.Limit != limit {
					t.Fatalf("day %d: %+v, %v", day, d, err)
				}
			}
			if u, d, err := r.Take(t.Context(), key, 1); u != nil || err != nil || d.Refused != Quota {
				t.Errorf("day %d: %+v, %v", day, d, err)
			}
			time.Sleep(24 * time.Hour)
		}
	})
}

func TestOneLimit(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		quota    *plan.Quota
		throttle *plan.Throttle
		calls    string
	}{
		"none":     {nil, nil, ""},
		"quota":    {perDay(5), nil, "take"},
		"throttle": {nil, &plan.Throttle{Rate: 2, Burst: 5}, "token"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newReplica(test.quota, test.throttle)
				r.wantKept(t, test.calls)
				u := r.want(t, "", test.calls)
				if _, err := u.Return(t.Context()); err != nil {
					t.Error(err)
				}
				u.Keep() // is too late
				wantLedgerRows(t, r, 1)
			})
		})
	}
}

// wantLedgerRows fails unless the ledger has so many units of the first key.
func wantLedgerRows(t *testing.T, r *replica, want int64) {
	t.Helper()
	if err := r.ledger.write(t.Context()); err != nil {
		t.Error(err)
	}
	if got := r.usage.total(UsageKey{"1", today}); got != want {
		t.Errorf("%d units are in the ledger, want %d", got, want)
	}
}

// What is returned is the very unit that was taken, after however long.
func TestReturn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(5), nil)
		r.wantKept(t, "take")
		u := r.want(t, "", "take")
		r.wantUsed(t, 2)
		time.Sleep(25 * time.Hour) // into the next window
		left, err := u.Return(t.Context())
		if err != nil || left != 4 {
			t.Errorf("%d left, %v", left, err)
		}
		u.Keep()
		if _, err := u.Return(t.Context()); err != nil {
			t.Error(err)
		}
		r.wantCalls(t, "return") // once
		r.wantUsed(t, 1)
		wantLedgerRows(t, r, 1)
	})
}

// The client may have left, and the request may have used up its time.
func TestReturnAfterContextEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(5), nil)
		u := r.want(t, "", "take")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		r.shared.returning = func(ctx context.Context) {
			if err := ctx.Err(); err != nil {
				t.Errorf("its context has ended: %v", err)
			}
		}
		if _, err := u.Return(ctx); err != nil {
			t.Error(err)
		}
		r.wantUsed(t, 0)
	})
}

// Counters that do not answer keep a request for no longer than a quarter of a
// second, taking and returning together.
func TestReturnFrozen(t *testing.T) {
	t.Parallel()
	for _, slow := range []time.Duration{0, 100 * time.Millisecond, maxWait} {
		synctest.Test(t, func(t *testing.T) {
			r := newReplica(perDay(5), nil)
			r.shared.taken = func() { time.Sleep(slow) }
			begin := time.Now()
			u := r.want(t, "", "take")
			r.shared.set(nil, true)
			if left, err := u.Return(t.Context()); err == nil || left != 4 {
				t.Errorf("%d left, %v", left, err)
			}
			if d := time.Since(begin); d > maxWait+maxWait/10 {
				t.Errorf("it waited %v", d)
			}
			if r.Trouble() == "" {
				t.Error("the breaker is closed")
			}
			r.wantCalls(t, "return") // not tried again
		})
	}
}

func TestReturnFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(5), nil)
		u := r.want(t, "", "take")
		r.shared.returnErr = errors.New("no route to redis.internal")
		if left, err := u.Return(t.Context()); !errors.Is(err, r.shared.returnErr) || left != 4 {
			t.Errorf("%d left, %v", left, err)
		}
		u.Keep()
		wantLedgerRows(t, r, 0)
	})
}

// A unit is of the day that it was charged on, in the quota's time zone.
func TestDay(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		quota  *plan.Quota
		taking time.Duration // how long the counters take to answer
		serve  time.Duration
		day    plan.Date
	}{
		"served over midnight":  {perDay(5), 0, time.Minute, today},
		"charged over midnight": {perDay(5), time.Second, 0, today},
		"at once":               {perDay(5), 0, 0, today},
		"no quota":              {nil, 0, time.Minute, today},
		"Kiritimati":            {&plan.Quota{Limit: 5, Period: plan.Day, Timezone: "Pacific/Kiritimati"}, 0, time.Minute, "2000-01-02"},
		"Honolulu":              {&plan.Quota{Limit: 5, Period: plan.Day, Timezone: "Pacific/Honolulu"}, 0, time.Minute, today},
		"month":                 {&plan.Quota{Limit: 5, Period: plan.Month}, time.Second, time.Minute, "2000-01-02"}, // the window goes on
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newReplica(test.quota, nil)
				time.Sleep(24*time.Hour - time.Millisecond)
				r.shared.taken = func() { time.Sleep(test.taking) }
				u, _, err := r.take(t, "1")
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(test.serve)
				u.Keep()
				r.shared.taken = nil
				if n := r.ledger.totals[UsageKey{"1", test.day}].shared(); n != 1 || len(r.ledger.totals) != 1 {
					t.Errorf("in the ledger: %v, want one on %s", r.ledger.totals, test.day)
				}
				time.Sleep(24 * time.Hour) // another day
				r.wantKept(t, map[bool]string{true: "", false: "take take"}[test.quota == nil])
				if len(r.ledger.totals) != 2 {
					t.Errorf("in the ledger: %v", r.ledger.totals)
				}
			})
		})
	}
}

func TestCountersFail(t *testing.T) {
	t.Parallel()
	for _, err := range []error{errors.New("a bug in the script"), context.DeadlineExceeded} {
		synctest.Test(t, func(t *testing.T) {
			r := newReplica(perDay(1), &plan.Throttle{Rate: 1, Burst: 1})
			r.shared.set(err, false)
			for range 3 { // it is asked each time: that is no absence
				r.wantErr(t, err, "take")
			}
			if r.Trouble() != "" {
				t.Error("the breaker is open")
			}
		})
	}
}

// By the counters' clock it may be another window than this process thought.
func TestWrongWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(1), nil)
		r.wantKept(t, "take")
		time.Sleep(24*time.Hour - 1)
		r.shared.taken = func() {}
		jumps := time.Duration(1)
		c := &jumping{r.shared, &jumps}
		r.counters = c
		r.wantKept(t, "take take") // the first was of yesterday
		if n := len(r.ledger.totals); n != 2 {
			t.Errorf("in the ledger: %v", r.ledger.totals)
		}
	})
}

// jumping are counters whose clock is put forward by their first answer.
type jumping struct {
	*counters
	by *time.Duration
}

func (j *jumping) Take(ctx context.Context, r Request) (Taken, error) {
	if *j.by > 0 {
		j.behind -= *j.by
		*j.by = 0
	}
	return j.counters.Take(ctx, r)
}

// Who took the last unit knows that there is none.
func TestExhaustedIsRemembered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(2), nil)
		r.wantKept(t, "take")
		r.wantKept(t, "take")
		for range 10 {
			r.want(t, Quota, "")
			time.Sleep(99 * time.Millisecond) // a flood does not make it last
		}
		time.Sleep(10*time.Millisecond - 1)
		r.want(t, Quota, "")
		time.Sleep(time.Nanosecond)
		r.want(t, Quota, "take") // a second has passed
		time.Sleep(time.Second - 1)
		r.want(t, Quota, "") // what was answered is remembered as well
		time.Sleep(time.Nanosecond)
		r.want(t, Quota, "take")
	})
}

// Both limits refuse, and the quota is named where that is known.
func TestExhaustedComesBeforeThrottle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(5), &plan.Throttle{Rate: 5, Burst: 5})
		for range 5 {
			r.wantKept(t, "take")
		}
		r.shared.wait = 200 * time.Millisecond
		r.want(t, Quota, "")
		time.Sleep(time.Second) // not known any more
		r.want(t, Throttle, "take")
	})
}

// The second begins when the counters were asked: they may have decided then.
func TestExhaustedFromWhenAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(1), nil)
		r.shared.taken = func() { time.Sleep(400 * time.Millisecond) }
		r.wantKept(t, "take")
		time.Sleep(600*time.Millisecond - 1)
		r.want(t, Quota, "")
		time.Sleep(time.Nanosecond)
		r.want(t, Quota, "take")
	})
}

func TestExhaustedIsForgottenOnReturn(t *testing.T) {
	t.Parallel()
	for _, fails := range []error{nil, errors.New("the answer was lost")} {
		synctest.Test(t, func(t *testing.T) {
			r := newReplica(perDay(1), nil)
			u := r.want(t, "", "take")
			answer := make(chan struct{})
			r.shared.returning = func(context.Context) { <-answer }
			var wg sync.WaitGroup
			wg.Go(func() { _, _ = u.Return(t.Context()) })
			synctest.Wait()
			r.wantCalls(t, "return")
			r.want(t, Quota, "") // being returned, and still none is left
			r.shared.returnErr = fails
			close(answer)
			wg.Wait()
			time.Sleep(time.Nanosecond) // the fake clock stands still otherwise
			r.wantKept(t, "take")       // at once
			r.want(t, Quota, "")
		})
	}
}

// A request that is refused while another returns its unit does not make the
// replica believe for a second that none is left; one of another key may.
func TestReturnDespiteLateRefusal(t *testing.T) {
	t.Parallel()
	for returned, calls := range map[string]string{"1": "take", "2": ""} {
		synctest.Test(t, func(t *testing.T) {
			r := newReplica(perDay(1), nil)
			mine := r.want(t, "", "take")
			other, _, err := r.take(t, "2")
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second) // till this is asked once more
			late := make(chan struct{})
			r.shared.taken = func() { <-late }
			var wg sync.WaitGroup
			wg.Go(func() { _, _, _ = r.take(t, "1") }) // is refused, and the answer is on its way
			synctest.Wait()
			_, err = map[string]*Unit{"1": mine, "2": other}[returned].Return(t.Context())
			if err != nil {
				t.Error(err)
			}
			close(late)
			wg.Wait()
			r.shared.took()
			refused := Quota
			if returned == "1" {
				refused = ""
			}
			r.want(t, refused, calls)
		})
	}
}

func TestExhaustedOfAnotherQuota(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(1), &plan.Throttle{Rate: 5, Burst: 5})
		r.wantKept(t, "take")
		r.want(t, Quota, "")
		r.plan.Throttle = &plan.Throttle{Rate: 9, Burst: 9} // the same quota
		r.want(t, Quota, "")
		r.plan.Quota = perDay(2)
		r.wantKept(t, "take")
		r.want(t, Quota, "")
		r.plan.Quota = &plan.Quota{Limit: 4, Period: plan.Month}
		r.wantKept(t, "take")
		r.plan.Quota = nil
		r.wantKept(t, "token")
		if _, d, err := r.take(t, "2"); err != nil || d.Refused != "" {
			t.Errorf("another key: %+v, %v", d, err)
		}
	})
}

func TestExhaustedEndsWithWindow(t *testing.T) {
	t.Parallel()
	for _, behind := range []time.Duration{0, 6 * time.Hour, -6 * time.Hour} { // by the counters' clock
		synctest.Test(t, func(t *testing.T) {
			r := newReplica(perDay(1), nil)
			r.shared.behind = behind
			time.Sleep(24*time.Hour + behind - 300*time.Millisecond)
			r.wantKept(t, "take")
			time.Sleep(300*time.Millisecond - 1)
			r.want(t, Quota, "")
			time.Sleep(time.Nanosecond)
			r.wantKept(t, "take")
		})
	}
}

// A throttle's refusal costs no trip until there is a token, from when it was
// asked; that of another throttle, or key, says nothing.
func TestThrottledIsRemembered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slow, other := &plan.Throttle{Rate: 0.5, Burst: 1}, &plan.Throttle{Rate: 0.5, Burst: 2}
		r := newReplica(perDay(100), slow)
		r.shared.wait = 2 * time.Second
		r.shared.taken = func() { time.Sleep(100 * time.Millisecond) }
		r.want(t, Throttle, "take")
		r.shared.taken = nil
		r.shared.wait = 0
		for range 9 {
			_, d, err := r.take(t, "1")
			if err != nil || d.Refused != Throttle {
				t.Errorf("decided %+v, %v", d, err)
			}
			time.Sleep(200 * time.Millisecond)
		}
		time.Sleep(100*time.Millisecond - 1)
		_, d, _ := r.take(t, "1")
		if d.Refused != Throttle || d.Reset != 1 {
			t.Errorf("decided %+v", d)
		}
		r.wantCalls(t, "")
		if _, d, err := r.take(t, "2"); err != nil || d.Refused != "" {
			t.Errorf("another key: %+v, %v", d, err)
		}
		r.shared.took()
		r.plan.Throttle = other
		r.wantKept(t, "take")
		r.plan.Throttle = slow
		r.want(t, Throttle, "")
		time.Sleep(time.Nanosecond)
		r.wantKept(t, "take")
	})
	synctest.Test(t, func(t *testing.T) { // GET /usage shares the bucket
		r := newReplica(perDay(100), &plan.Throttle{Rate: 0.5, Burst: 1})
		r.shared.wait = 90 * time.Second
		key := &apikey.Key{ID: "1", Plan: r.plan}
		if d, err := r.TakeToken(t.Context(), key, r.plan.Throttle); err != nil || d.Refused != Throttle || d.Reset != 90*time.Second {
			t.Errorf("decided %+v, %v", d, err)
		}
		r.wantCalls(t, "token")
		time.Sleep(throttledFor - 1)
		r.want(t, Throttle, "")
		time.Sleep(time.Nanosecond) // a minute is enough to remember
		r.want(t, Throttle, "take")
	})
}

// A quota that is used up does not keep GET /usage from an answer.
func TestTokenOfExhausted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(1), &plan.Throttle{Rate: 5, Burst: 5})
		r.wantKept(t, "take")
		r.want(t, Quota, "")
		if d, err := r.TakeToken(t.Context(), &apikey.Key{ID: "1", Plan: r.plan}, r.plan.Throttle); err != nil || d.Refused != "" {
			t.Errorf("decided %+v, %v", d, err)
		}
		r.wantCalls(t, "token")
	})
}
