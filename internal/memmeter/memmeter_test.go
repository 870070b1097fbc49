package memmeter

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"helloapi/internal/limits"
	"helloapi/internal/plan"
)

// take takes a token from the key's bucket, and returns how long to wait if
// there is none.
func take(t *testing.T, l *Counters, keyID string, th plan.Throttle) time.Duration {
	t.Helper()
	taken, err := l.Take(t.Context(), limits.Request{KeyID: keyID, Throttle: &th})
	if err != nil || taken.Wait < 0 || (taken.Wait > 0) != (taken.Outcome == limits.Throttled) {
		t.Fatalf("Take(%s, %+v) = %+v, %v", keyID, th, taken, err)
	}
	return taken.Wait
}

// takeAll takes n tokens, all of which have to be there, and returns how long
// to wait for one more.
func takeAll(t *testing.T, l *Counters, keyID string, th plan.Throttle, n int) time.Duration {
	t.Helper()
	for i := range n {
		if wait := take(t, l, keyID, th); wait != 0 {
			t.Fatalf("%s, %+v: there are %d tokens, want %d", keyID, th, i, n)
		}
	}
	wait := take(t, l, keyID, th)
	if wait == 0 {
		t.Fatalf("%s, %+v: there are more than %d tokens", keyID, th, n)
	}
	return wait
}

// unit is a request for a unit of the quota, now.
func unit(t *testing.T, keyID string, q plan.Quota) limits.Request {
	t.Helper()
	w, err := q.Window(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return limits.Request{KeyID: keyID, Window: w, Limit: q.Limit, Cost: 1, Seed: &limits.Charged{}}
}

func charge(t *testing.T, l *Counters, keyID string, q plan.Quota) limits.Taken {
	t.Helper()
	r := unit(t, keyID, q)
	taken, err := l.Take(t.Context(), r)
	if err != nil || taken.KeyID != keyID || taken.Epoch == "" || !taken.Window.Equal(r.Window) {
		t.Fatalf("Take(%+v) = %+v, %v", r, taken, err)
	}
	return taken
}

// wantCharge fails unless a unit is granted, or denied, and that many are used then.
func wantCharge(t *testing.T, l *Counters, keyID string, q plan.Quota, granted bool, used int64) limits.Taken {
	t.Helper()
	taken := charge(t, l, keyID, q)
	if (taken.Outcome == limits.Granted) != granted || taken.Used != used {
		t.Errorf("%+v; want granted %t, used %d", taken, granted, used)
	}
	return taken
}

func refund(t *testing.T, l *Counters, taken limits.Taken) {
	t.Helper()
	if err := l.Return(t.Context(), taken); err != nil {
		t.Error(err)
	}
}

func perDay(limit int64) plan.Quota { return plan.Quota{Limit: limit, Period: plan.Day} }

func TestThrottle(t *testing.T) {
	t.Parallel()
	tests := []struct {
		rate  float64
		burst int64
		wait  time.Duration // for one more when the bucket is empty
	}{
		{1, 1, time.Second},
		{5, 5, 200 * time.Millisecond},
		{2, 10, 500 * time.Millisecond},
		{0.5, 1, 2 * time.Second},
		{0.5, 3, 2 * time.Second},
		{100, 200, 10 * time.Millisecond},
		{plan.MinRate, 2, 1e6 * time.Second},
		{plan.MaxRate, 5, time.Microsecond},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%g_%d", tt.rate, tt.burst), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := New()
				th := plan.Throttle{Rate: tt.rate, Burst: tt.burst}
				if wait := takeAll(t, l, "k", th, int(tt.burst)); wait != tt.wait {
					t.Errorf("wait %s, want %s", wait, tt.wait)
				}
				// Who is refused takes nothing, and puts nothing off.
				for range 10 {
					if wait := take(t, l, "k", th); wait != tt.wait {
						t.Errorf("wait %s after more calls, want %s", wait, tt.wait)
					}
				}
				time.Sleep(tt.wait / 2)
				if wait := take(t, l, "k", th); wait != tt.wait/2 {
					t.Errorf("half way: wait %s, want %s", wait, tt.wait/2)
				}
				time.Sleep(tt.wait / 2)
				takeAll(t, l, "k", th, 1)

				for n := range tt.burst {
					time.Sleep(tt.wait * time.Duration(n+1))
					takeAll(t, l, "k", th, int(n)+1)
				}
				time.Sleep(tt.wait * time.Duration(tt.burst+10)) // more than it holds
				takeAll(t, l, "k", th, int(tt.burst))
			})
		})
	}
}

// Whoever waits for as long as it was told gets a token, whenever it asked.
func TestThrottleWaitIsEnough(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 2)) // the same numbers each time
		l := New()
		var short, asked int
		for i := range 2000 {
			th := plan.Throttle{Rate: []float64{0.5, 3, 7, 100 * r.Float64()}[i%4], Burst: 1 + r.Int64N(3)}
			key := fmt.Sprint(i)
			takeAll(t, l, key, th, int(th.Burst))
			time.Sleep(time.Duration(r.Float64() / th.Rate * float64(time.Second)))
			wait := take(t, l, key, th)
			if wait == 0 {
				continue
			}
			asked++
			time.Sleep(wait)
			if more := take(t, l, key, th); more != 0 {
				if short++; short == 1 {
					t.Errorf("%+v: told to wait %s, and then %s more", th, wait, more)
				}
			}
		}
		if short > 0 {
			t.Errorf("%d of %d waits were too short", short, asked)
		}
	})
}

// A wait that is too long would be as wrong. It may be by the nanosecond to
// which it is rounded.
func TestThrottleWaitIsNotLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := New()
		for i, rate := range []float64{0.3, 0.5, 1, 3, 7, 99.9} {
			th := plan.Throttle{Rate: rate, Burst: 1}
			key := fmt.Sprint(i)
			wait := takeAll(t, l, key, th, 1)
			time.Sleep(wait - 2)
			if take(t, l, key, th) == 0 {
				t.Errorf("rate %g: told to wait %s, there was a token 2ns before", rate, wait)
			}
		}
	})
}

func TestThrottleChanged(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		before plan.Throttle
		taken  int
		after  plan.Throttle
		left   int           // tokens right after the change
		wait   time.Duration // for one more then
	}{
		{"same", plan.Throttle{Rate: 1, Burst: 5}, 2, plan.Throttle{Rate: 1, Burst: 5}, 3, time.Second},
		{"faster", plan.Throttle{Rate: 1, Burst: 5}, 5, plan.Throttle{Rate: 10, Burst: 5}, 0, 100 * time.Millisecond},
		{"slower", plan.Throttle{Rate: 10, Burst: 5}, 5, plan.Throttle{Rate: 1, Burst: 5}, 0, time.Second},
		{"smaller bucket", plan.Throttle{Rate: 1, Burst: 5}, 1, plan.Throttle{Rate: 1, Burst: 2}, 2, time.Second},
		{"smaller bucket, but not fuller", plan.Throttle{Rate: 1, Burst: 5}, 4, plan.Throttle{Rate: 1, Burst: 2}, 1, time.Second},
		{"larger bucket, but not fuller", plan.Throttle{Rate: 1, Burst: 2}, 1, plan.Throttle{Rate: 1, Burst: 5}, 1, time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := New()
				for range tt.taken {
					take(t, l, "k", tt.before)
				}
				if wait := takeAll(t, l, "k", tt.after, tt.left); wait != tt.wait {
					t.Errorf("wait %s, want %s", wait, tt.wait)
				}
				time.Sleep(time.Hour)
				takeAll(t, l, "k", tt.after, int(tt.after.Burst))
			})
		})
	}
}

// What was earned before a change was earned at the rate of then.
func TestThrottleChangedLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := New()
		takeAll(t, l, "k", plan.Throttle{Rate: 1, Burst: 10}, 10)
		time.Sleep(3 * time.Second)
		takeAll(t, l, "k", plan.Throttle{Rate: 100, Burst: 10}, 3)
	})
}

func TestKeysAreIndependent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := New()
		th, q := plan.Throttle{Rate: 1, Burst: 2}, perDay(1)
		for _, key := range []string{"a", "b", ""} {
			takeAll(t, l, key, th, 2)
			c := wantCharge(t, l, key, q, true, 1)
			wantCharge(t, l, key, q, false, 1)
			c.KeyID = "another"
			refund(t, l, c)
			wantCharge(t, l, key, q, false, 1)
		}
	})
}

func TestCharge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // begins at midnight UTC
		l := New()
		begin := time.Now()
		time.Sleep(12 * time.Hour)
		for used := int64(1); used <= 3; used++ {
			c := wantCharge(t, l, "k", perDay(3), true, used)
			if !c.Window.Start.Equal(begin) || c.Window.Length() != 24*time.Hour {
				t.Errorf("window %s to %s", c.Window.Start, c.Window.End)
			}
		}
		for range 3 { // who is denied takes nothing
			wantCharge(t, l, "k", perDay(3), false, 3)
		}
		time.Sleep(12*time.Hour - 1)
		wantCharge(t, l, "k", perDay(3), false, 3)
		time.Sleep(time.Nanosecond)
		c := wantCharge(t, l, "k", perDay(3), true, 1)
		if want := begin.Add(24 * time.Hour); !c.Window.Start.Equal(want) {
			t.Errorf("the next window starts at %s, want %s", c.Window.Start, want)
		}
		time.Sleep(240 * time.Hour) // windows in which nobody came
		wantCharge(t, l, "k", perDay(3), true, 1)
	})
}

func TestChargeZone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := New()
		q := plan.Quota{Limit: 1, Period: plan.Month, Timezone: "Europe/Berlin"}
		january := time.Date(2000, 1, 31, 23, 0, 0, 0, time.UTC) // when it ends there
		time.Sleep(time.Until(january) - 1)
		wantCharge(t, l, "k", q, true, 1)
		wantCharge(t, l, "k", q, false, 1)
		time.Sleep(time.Nanosecond)
		wantCharge(t, l, "k", q, true, 1)
	})
}

func TestChargeChangedLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := New()
		wantCharge(t, l, "k", perDay(2), true, 1)
		wantCharge(t, l, "k", perDay(2), true, 2)
		wantCharge(t, l, "k", perDay(2), false, 2)
		wantCharge(t, l, "k", perDay(3), true, 3) // what was used stays so
		wantCharge(t, l, "k", perDay(1), false, 3)
		c := wantCharge(t, l, "k", perDay(4), true, 4)
		refund(t, l, c)
		wantCharge(t, l, "k", perDay(3), false, 3)
	})
}

func TestRefund(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := New()
		q := perDay(2)
		first := wantCharge(t, l, "k", q, true, 1)
		second := wantCharge(t, l, "k", q, true, 2)
		refund(t, l, first) // in any order
		wantCharge(t, l, "k", q, true, 2)
		wantCharge(t, l, "k", q, false, 2)
		refund(t, l, second)
		wantCharge(t, l, "k", q, true, 2)

		refund(t, New(), second) // of a limiter that was started anew
		refund(t, l, limits.Taken{KeyID: "unknown", Epoch: second.Epoch, Cost: 1})
		wantCharge(t, l, "k", q, false, 2)
	})
}

// The counter that a unit came from may be no more.
func TestRefundOldEpoch(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		pass func(*testing.T, *Counters) plan.Quota
	}{
		{"next window", func(t *testing.T, l *Counters) plan.Quota {
			time.Sleep(24 * time.Hour)
			return perDay(2)
		}},
		{"another period", func(t *testing.T, l *Counters) plan.Quota {
			return plan.Quota{Limit: 2, Period: plan.Week}
		}},
		{"another period that began at the same time", func(t *testing.T, l *Counters) plan.Quota {
			return plan.Quota{Limit: 2, Period: plan.Month}
		}},
		{"another zone", func(t *testing.T, l *Counters) plan.Quota {
			return plan.Quota{Limit: 2, Period: plan.Day, Timezone: "Asia/Kolkata"}
		}},
		{"another period and back", func(t *testing.T, l *Counters) plan.Quota {
			charge(t, l, "k", plan.Quota{Limit: 2, Period: plan.Week})
			return perDay(2)
		}},
		{"swept", func(t *testing.T, l *Counters) plan.Quota {
			time.Sleep(24 * time.Hour)
			charge(t, l, "another", perDay(2))
			return perDay(2)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := New()
				old := wantCharge(t, l, "k", perDay(2), true, 1)
				q := tt.pass(t, l)
				refund(t, l, old) // before anything is charged to the new one
				c := wantCharge(t, l, "k", q, true, 1)
				if c.Epoch == old.Epoch {
					t.Errorf("two counters have the epoch %s", c.Epoch)
				}
				refund(t, l, old)
				wantCharge(t, l, "k", q, true, 2)
				wantCharge(t, l, "k", q, false, 2)
			})
		})
	}
}

// More refunds than charges are the caller's mistake. They must not hand out
// more than the quota.
func TestRefundNotBelowZero(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := New()
		c := wantCharge(t, l, "k", perDay(1), true, 1)
		for range 3 {
			refund(t, l, c)
		}
		wantCharge(t, l, "k", perDay(1), true, 1)
		wantCharge(t, l, "k", perDay(1), false, 1)
	})
}

func TestSweep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		keys := func(l *Counters) []string { // buckets, then counters
			var s []string
			for id := range l.buckets {
				s = append(s, "bucket "+id)
			}
			for id := range l.used {
				s = append(s, "counter "+id)
			}
			slices.Sort(s)
			return s
		}
		l := New()
		fast, slow := plan.Throttle{Rate: 1, Burst: 1}, plan.Throttle{Rate: plan.MinRate, Burst: 2}
		month := plan.Quota{Limit: 1, Period: plan.Month}
		time.Sleep(24*time.Hour - 30*time.Second) // the day ends before the sweep
		l.sweep = time.Now().Add(sweepEvery)
		take(t, l, "fast", fast)
		take(t, l, "slow", slow)
		charge(t, l, "day", perDay(1))
		charge(t, l, "month", month)

		all := []string{"bucket fast", "bucket slow", "counter day", "counter month"}
		time.Sleep(sweepEvery - 1)
		take(t, l, "slow", slow) // any call sweeps, when it is time
		if diff := cmp.Diff(all, keys(l)); diff != "" {
			t.Errorf("before the sweep (-want +got)\n%s", diff)
		}
		time.Sleep(time.Nanosecond)
		take(t, l, "slow", slow)
		if diff := cmp.Diff([]string{"bucket slow", "counter month"}, keys(l)); diff != "" {
			t.Errorf("after the sweep (-want +got)\n%s", diff)
		}
		// Nothing that mattered was dropped, and what was is as new.
		if take(t, l, "slow", slow) == 0 {
			t.Error("a bucket that was swept is full again")
		}
		wantCharge(t, l, "month", month, false, 1)
		takeAll(t, l, "fast", fast, 1)
		wantCharge(t, l, "day", perDay(1), true, 1)

		time.Sleep(sweepEvery)
		charge(t, l, "month", month) // a charge sweeps too
		if diff := cmp.Diff([]string{"bucket slow", "counter day", "counter month"}, keys(l)); diff != "" {
			t.Errorf("after the next sweep (-want +got)\n%s", diff)
		}
	})
}

// The clock stands still, so each number is exact.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const callers, limit = 200, 50
		l := New()
		q, th := perDay(limit), plan.Throttle{Rate: 1, Burst: limit}
		var mu sync.Mutex
		var used []int64
		var through int
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				c := charge(t, l, "k", q)
				wait := take(t, l, "k", th)
				mu.Lock()
				defer mu.Unlock()
				if c.Outcome == limits.Granted {
					used = append(used, c.Used)
				}
				if wait == 0 {
					through++
				}
			})
		}
		wg.Wait()
		slices.Sort(used)
		var want []int64
		for n := range int64(limit) {
			want = append(want, n+1)
		}
		if diff := cmp.Diff(want, used); diff != "" {
			t.Errorf("units granted (-want +got)\n%s", diff)
		}
		if through != limit {
			t.Errorf("%d tokens were taken, want %d", through, limit)
		}
	})
}

// Units that are given back are granted again, and no others.
func TestConcurrentRefunds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const callers, limit = 200, 50
		l := New()
		var kept atomic.Int64
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				for fails := i%2 == 0; ; fails = false {
					c := charge(t, l, "k", perDay(limit))
					if c.Outcome != limits.Granted {
						return
					}
					if !fails {
						kept.Add(1)
						continue
					}
					if err := l.Return(t.Context(), c); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		// Those who gave one back came again, so that none is left.
		if got := kept.Load(); got != limit {
			t.Errorf("%d units were kept, want %d", got, limit)
		}
		wantCharge(t, l, "k", perDay(limit), false, limit)
	})
}
