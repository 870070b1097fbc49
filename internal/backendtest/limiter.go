package backendtest

import (
	"crypto/rand"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"helloapi/internal/meter"
	"helloapi/internal/plan"
)

// TestLimiter is the suite for limiters. replicas returns limiters that count
// together, as those of several replicas do.
func TestLimiter(t *testing.T, replicas func(testing.TB) []meter.Limiter) {
	for name, test := range map[string]func(*testing.T, []meter.Limiter){
		"QuotaExact":         testQuotaExact,
		"QuotaWindow":        testQuotaWindow,
		"QuotaChanged":       testQuotaChanged,
		"Raise":              testRaise,
		"Refund":             testRefund,
		"ThrottleBurst":      testThrottleBurst,
		"ThrottleWait":       testThrottleWait,
		"ThrottleFraction":   testThrottleFraction,
		"ThrottleChanged":    testThrottleChanged,
		"KeysAreIndependent": testKeysAreIndependent,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, replicas(t))
		})
	}
}

func charge(t testing.TB, l meter.Limiter, keyID string, q plan.Quota) meter.Charge {
	t.Helper()
	c, err := chargeAnew(t, l, keyID, q)
	if err != nil {
		t.Fatalf("Charge: %v", err)
	}
	return c
}

// chargeAnew charges, after having made the counter if there is none.
func chargeAnew(t testing.TB, l meter.Limiter, keyID string, q plan.Quota) (meter.Charge, error) {
	c, err := l.Charge(t.Context(), keyID, q)
	if err != nil || !c.Missing {
		return c, err
	}
	if c.Granted || c.Used != 0 {
		t.Errorf("without a counter: %+v", c)
	}
	if err := l.Raise(t.Context(), keyID, c.Window, 0); err != nil {
		return c, err
	}
	return l.Charge(t.Context(), keyID, q)
}

func throttle(t testing.TB, l meter.Limiter, keyID string, th plan.Throttle) time.Duration {
	t.Helper()
	wait, err := l.Throttle(t.Context(), keyID, th)
	if err != nil {
		t.Fatalf("Throttle: %v", err)
	}
	return wait
}

// spread calls f n times at once with one replica after the other.
func spread(replicas []meter.Limiter, n int, f func(meter.Limiter)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(replicas[i%len(replicas)]) })
	}
	wg.Wait()
}

func testQuotaExact(t *testing.T, replicas []meter.Limiter) {
	q, key := plan.Quota{Limit: 50, Period: plan.Month}, rand.Text()
	var granted atomic.Int64
	var used sync.Map
	spread(replicas, 300, func(l meter.Limiter) {
		c, err := chargeAnew(t, l, key, q)
		if err != nil {
			t.Errorf("Charge: %v", err)
		}
		if !c.Granted {
			if c.Used != 50 {
				t.Errorf("refused with %d used", c.Used)
			}
			return
		}
		granted.Add(1)
		if _, twice := used.LoadOrStore(c.Used, true); twice || c.Used < 1 || c.Used > 50 {
			t.Errorf("two were told that they are the %dth, or it is out of range", c.Used)
		}
	})
	if granted.Load() != 50 {
		t.Errorf("granted %d of a quota of 50", granted.Load())
	}
}

func testQuotaWindow(t *testing.T, replicas []meter.Limiter) {
	key := rand.Text()
	for _, q := range []plan.Quota{
		{Limit: 1, Period: plan.Day, Timezone: "Pacific/Chatham"},
		{Limit: 1, Period: plan.Week, Offset: 3},
		{Limit: 1, Period: plan.Month, Offset: 27, Timezone: "America/St_Johns"},
	} {
		for i, l := range replicas {
			c := charge(t, l, key, q)
			want, err := q.Window(l.Now())
			if err != nil {
				t.Fatal(err)
			}
			if !c.Window.Start.Equal(want.Start) || !c.Window.End.Equal(want.End) || !c.Window.Contains(l.Now()) {
				t.Errorf("%v: charged in %v, want %v", q, c.Window, want)
			}
			// Another period or zone counts afresh; other replicas count on.
			if c.Granted != (i == 0) {
				t.Errorf("%v: replica %d granted: %v", q, i, c.Granted)
			}
		}
	}
	if _, err := replicas[0].Charge(t.Context(), key, plan.Quota{Limit: 1, Period: plan.Day, Timezone: "Nowhere"}); err == nil {
		t.Error("charged in a time zone that does not exist")
	}
}

func testQuotaChanged(t *testing.T, replicas []meter.Limiter) {
	key, l := rand.Text(), replicas[0]
	q := plan.Quota{Limit: 2, Period: plan.Month}
	charge(t, l, key, q)
	charge(t, l, key, q)
	if c := charge(t, l, key, q); c.Granted {
		t.Fatal("a third was granted of two")
	}
	q.Limit = 3
	if c := charge(t, l, key, q); !c.Granted || c.Used != 3 {
		t.Errorf("with the limit raised to 3: %+v", c)
	}
	q.Limit = 1
	if c := charge(t, l, key, q); c.Granted || c.Used != 3 {
		t.Errorf("with the limit lowered to 1: %+v", c)
	}
}

func testRaise(t *testing.T, replicas []meter.Limiter) {
	key, l, other := rand.Text(), replicas[0], replicas[len(replicas)-1]
	q := plan.Quota{Limit: 10, Period: plan.Month}
	c, err := l.Charge(t.Context(), key, q)
	if err != nil || !c.Missing || c.Granted {
		t.Fatalf("Charge without a counter: %+v, %v", c, err)
	}
	raise := func(used int64) {
		t.Helper()
		if err := other.Raise(t.Context(), key, c.Window, used); err != nil {
			t.Fatal(err)
		}
	}
	raise(3)
	first := charge(t, l, key, q)
	if !first.Granted || first.Used != 4 {
		t.Errorf("after Raise to 3: %+v", first)
	}
	raise(2) // is no news
	raise(4)
	if c := charge(t, l, key, q); !c.Granted || c.Used != 5 || c.Epoch != first.Epoch {
		t.Errorf("after Raise to less: %+v", c)
	}
	raise(9)
	if c := charge(t, l, key, q); !c.Granted || c.Used != 10 || c.Epoch != first.Epoch {
		t.Errorf("after Raise to 9: %+v", c)
	}
	raise(1000)
	if c := charge(t, l, key, q); c.Granted || c.Used != 1000 {
		t.Errorf("after Raise to 1000: %+v", c)
	}
	// Another window's counter is not made: nobody would ever clear it away.
	past := plan.Window{Start: c.Window.Start.AddDate(-1, 0, 0), End: c.Window.Start}
	if err := l.Raise(t.Context(), key, past, 5); err != nil {
		t.Errorf("Raise of a past window: %v", err)
	}
	if c := charge(t, l, key, q); c.Used != 1000 {
		t.Errorf("after Raise of a past window: %+v", c)
	}
}

func testRefund(t *testing.T, replicas []meter.Limiter) {
	key, l := rand.Text(), replicas[0]
	other := replicas[len(replicas)-1]
	q := plan.Quota{Limit: 2, Period: plan.Month}
	charge(t, l, key, q)
	c := charge(t, l, key, q)
	if err := l.Refund(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if again := charge(t, other, key, q); !again.Granted || again.Used != 2 {
		t.Errorf("after a refund: %+v", again)
	}
	// A unit does not go to a counter that it did not come from.
	c.Epoch = "another"
	if err := l.Refund(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if again := charge(t, other, key, q); again.Granted {
		t.Error("a refund to another epoch freed a unit")
	}
	c.KeyID = rand.Text() // nor to one that is not there
	if err := l.Refund(t.Context(), c); err != nil {
		t.Error(err)
	}
}

func testThrottleBurst(t *testing.T, replicas []meter.Limiter) {
	th, key := plan.Throttle{Rate: 5, Burst: 5}, rand.Text()
	begin := time.Now()
	var allowed atomic.Int64
	spread(replicas, 50, func(l meter.Limiter) {
		if wait, err := l.Throttle(t.Context(), key, th); err != nil {
			t.Errorf("Throttle: %v", err)
		} else if wait == 0 {
			allowed.Add(1)
		} else if wait > 200*time.Millisecond {
			t.Errorf("told to wait %v for a token that comes each 200 ms", wait)
		}
	})
	most := 5 + int64(5*time.Since(begin).Seconds()) + 1
	if n := allowed.Load(); n < 5 || n > most {
		t.Errorf("allowed %d of 50, want 5 to %d", n, most)
	}
}

func testThrottleWait(t *testing.T, replicas []meter.Limiter) {
	th, key := plan.Throttle{Rate: 20, Burst: 1}, rand.Text()
	l := replicas[0]
	for range 5 {
		var wait time.Duration
		waitFor(t, "the throttle to refuse", func() bool { wait = throttle(t, l, key, th); return wait > 0 })
		// Redis' clock is not this one's: a millisecond for the difference.
		time.Sleep(wait + time.Millisecond)
		if again := throttle(t, l, key, th); again > 0 {
			t.Errorf("after waiting for %v as told, told to wait for %v more", wait, again)
		}
	}
}

func testThrottleFraction(t *testing.T, replicas []meter.Limiter) {
	key := rand.Text()
	for _, th := range []plan.Throttle{{Rate: 0.5, Burst: 1}, {Rate: 0.003, Burst: 1}, {Rate: plan.MinRate, Burst: 1}, {Rate: 1.5, Burst: 1}} {
		l, key := replicas[0], key+th.String()
		if wait := throttle(t, l, key, th); wait != 0 {
			t.Errorf("%v: the first waits for %v", &th, wait)
		}
		period := time.Duration(float64(time.Second) / th.Rate)
		if wait := throttle(t, l, key, th); wait <= period/2 || wait > period+period/1000 {
			t.Errorf("%v: the second waits for %v, want about %v", &th, wait, period)
		}
	}
	// Bounds of a plan.
	for _, th := range []plan.Throttle{{Rate: plan.MaxRate, Burst: plan.MaxBurst}, {Rate: plan.MinRate, Burst: plan.MaxBurst}} {
		if wait := throttle(t, replicas[0], key+th.String(), th); wait != 0 {
			t.Errorf("%v: the first waits for %v", &th, wait)
		}
	}
}

func testThrottleChanged(t *testing.T, replicas []meter.Limiter) {
	key, l := rand.Text(), replicas[0]
	slow := plan.Throttle{Rate: 0.01, Burst: 1}
	throttle(t, l, key, slow)
	if throttle(t, l, key, slow) == 0 {
		t.Fatal("the second was allowed")
	}
	fast := plan.Throttle{Rate: 1000, Burst: 10}
	waitFor(t, "the new throttle to allow", func() bool { return throttle(t, l, key, fast) == 0 })
}

func testKeysAreIndependent(t *testing.T, replicas []meter.Limiter) {
	q, th, l := plan.Quota{Limit: 1, Period: plan.Month}, plan.Throttle{Rate: 0.01, Burst: 1}, replicas[0]
	for range 3 {
		key := rand.Text()
		if c := charge(t, l, key, q); !c.Granted {
			t.Error("a key's first unit was refused")
		}
		if wait := throttle(t, l, key, th); wait != 0 {
			t.Error("a key's first token was refused")
		}
	}
}
