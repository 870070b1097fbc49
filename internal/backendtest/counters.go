package backendtest

import (
	"crypto/rand"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"helloapi/internal/limits"
	"helloapi/internal/plan"
)

// TestCounters is the suite for counters. replicas returns some that count
// together, as those of several replicas do.
func TestCounters(t *testing.T, replicas func(testing.TB) []limits.Counters) {
	for name, test := range map[string]func(*testing.T, []limits.Counters){
		"QuotaExact":          testQuotaExact,
		"QuotaWindow":         testQuotaWindow,
		"QuotaChanged":        testQuotaChanged,
		"Cost":                testCost,
		"Seed":                testSeed,
		"Return":              testReturn,
		"ThrottleBurst":       testThrottleBurst,
		"ThrottleWait":        testThrottleWait,
		"ThrottleFraction":    testThrottleFraction,
		"ThrottleChanged":     testThrottleChanged,
		"ThrottleBeforeQuota": testThrottleBeforeQuota,
		"KeysAreIndependent":  testKeysAreIndependent,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, replicas(t))
		})
	}
}

// unit is a request for a unit of the quota, now.
func unit(t testing.TB, c limits.Counters, keyID string, q plan.Quota) limits.Request {
	t.Helper()
	w, err := q.Window(c.Now())
	if err != nil {
		t.Fatal(err)
	}
	return limits.Request{KeyID: keyID, Window: w, Limit: q.Limit, Cost: 1}
}

func take(t testing.TB, c limits.Counters, r limits.Request) limits.Taken {
	t.Helper()
	taken, err := c.Take(t.Context(), r)
	if err != nil {
		t.Fatalf("Take: %v", err)
	}
	return taken
}

// charge takes a unit of the quota. If there is no counter it is made.
func charge(t testing.TB, c limits.Counters, keyID string, q plan.Quota) limits.Taken {
	t.Helper()
	r := unit(t, c, keyID, q)
	taken := take(t, c, r)
	if taken.Outcome == limits.WrongWindow { // it has told the time
		r = unit(t, c, keyID, q)
		taken = take(t, c, r)
	}
	if taken.Outcome == limits.Unseeded {
		r.Seed = &limits.Charged{}
		taken = take(t, c, r)
	}
	return taken
}

func throttle(t testing.TB, c limits.Counters, keyID string, th plan.Throttle) time.Duration {
	t.Helper()
	taken := take(t, c, limits.Request{KeyID: keyID, Throttle: &th})
	if (taken.Outcome == limits.Throttled) != (taken.Wait > 0) {
		t.Errorf("throttled: %+v", taken)
	}
	return taken.Wait
}

// spread calls f n times at once with one replica after the other.
func spread(replicas []limits.Counters, n int, f func(limits.Counters)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(replicas[i%len(replicas)]) })
	}
	wg.Wait()
}

func testQuotaExact(t *testing.T, replicas []limits.Counters) {
	q, key := plan.Quota{Limit: 50, Period: plan.Month}, rand.Text()
	var granted atomic.Int64
	var used sync.Map
	spread(replicas, 300, func(c limits.Counters) {
		taken := charge(t, c, key, q)
		switch taken.Outcome {
		case limits.Granted:
			granted.Add(1)
			if _, twice := used.LoadOrStore(taken.Used, true); twice || taken.Used < 1 || taken.Used > 50 {
				t.Errorf("two got the unit %d, or it is out of range", taken.Used)
			}
		case limits.Exhausted:
			if taken.Used != 50 {
				t.Errorf("refused with %d used", taken.Used)
			}
		default:
			t.Errorf("%+v", taken)
		}
	})
	if granted.Load() != 50 {
		t.Errorf("granted %d of a quota of 50", granted.Load())
	}
}

func testQuotaWindow(t *testing.T, replicas []limits.Counters) {
	key := rand.Text()
	for _, q := range []plan.Quota{
		{Limit: 1, Period: plan.Day, Timezone: "Pacific/Chatham"},
		{Limit: 1, Period: plan.Week, Offset: 3},
		{Limit: 1, Period: plan.Month, Offset: 27, Timezone: "America/St_Johns"},
	} {
		for i, c := range replicas {
			taken := charge(t, c, key, q)
			if !taken.Window.Contains(c.Now()) {
				t.Errorf("%v: charged in %v", q, taken.Window)
			}
			// Another period or zone counts afresh; other replicas count on.
			if (taken.Outcome == limits.Granted) != (i == 0) {
				t.Errorf("%v: replica %d: %+v", q, i, taken)
			}
		}
		// Nothing is taken of a window that is over, or to come, nor is its
		// counter made: nobody would ever clear it away.
		for _, shift := range []int{-1, 1} {
			r := unit(t, replicas[0], key, q)
			r.Seed = &limits.Charged{}
			r.Window = plan.Window{Start: r.Window.Start.AddDate(shift, 0, 0), End: r.Window.End.AddDate(shift, 0, 0)}
			if taken := take(t, replicas[0], r); taken.Outcome != limits.WrongWindow {
				t.Errorf("%v, %d years away: %+v", q, shift, taken)
			}
		}
	}
}

func testQuotaChanged(t *testing.T, replicas []limits.Counters) {
	key, c := rand.Text(), replicas[0]
	q := plan.Quota{Limit: 2, Period: plan.Month}
	charge(t, c, key, q)
	charge(t, c, key, q)
	if taken := charge(t, c, key, q); taken.Outcome != limits.Exhausted {
		t.Fatal("a third was granted of two")
	}
	q.Limit = 3
	if taken := charge(t, c, key, q); taken.Outcome != limits.Granted || taken.Used != 3 {
		t.Errorf("with the limit raised to 3: %+v", taken)
	}
	q.Limit = 1
	if taken := charge(t, c, key, q); taken.Outcome != limits.Exhausted || taken.Used != 3 {
		t.Errorf("with the limit lowered to 1: %+v", taken)
	}
}

// A request may cost several units: it gets all or none.
func testCost(t *testing.T, replicas []limits.Counters) {
	key, c := rand.Text(), replicas[0]
	r := unit(t, c, key, plan.Quota{Limit: 10, Period: plan.Month})
	r.Seed, r.Cost = &limits.Charged{}, 4
	first := take(t, c, r)
	second := take(t, c, r)
	if first.Outcome != limits.Granted || second.Outcome != limits.Granted || second.Used != 8 {
		t.Errorf("taken %+v, then %+v", first, second)
	}
	if taken := take(t, c, r); taken.Outcome != limits.Exhausted || taken.Used != 8 {
		t.Errorf("of 2 left, 4 were asked for: %+v", taken)
	}
	if err := c.Return(t.Context(), first); err != nil {
		t.Error(err)
	}
	r.Cost = 6
	if taken := take(t, c, r); taken.Outcome != limits.Granted || taken.Used != 10 {
		t.Errorf("of 6 left, 6 were asked for: %+v", taken)
	}
}

// A counter is made with a seed, and raised to one, never lowered.
func testSeed(t *testing.T, replicas []limits.Counters) {
	key, c, other := rand.Text(), replicas[0], replicas[len(replicas)-1]
	q := plan.Quota{Limit: 10, Period: plan.Month}
	r := unit(t, c, key, q)
	for range 2 {
		if taken := take(t, c, r); taken.Outcome != limits.Unseeded {
			t.Fatalf("without a counter: %+v", taken)
		}
	}
	seed := func(used, cost int64) limits.Taken {
		t.Helper()
		r := unit(t, other, key, q)
		r.Seed, r.Cost = &limits.Charged{Shared: used}, cost
		return take(t, other, r)
	}
	first := seed(3, 1)
	if first.Outcome != limits.Granted || first.Used != 4 {
		t.Errorf("made with 3: %+v", first)
	}
	seed(2, 0) // is no news
	seed(4, 0)
	if taken := charge(t, c, key, q); taken.Outcome != limits.Granted || taken.Used != 5 || taken.Epoch != first.Epoch {
		t.Errorf("after a seed of less: %+v", taken)
	}
	if taken := seed(9, 0); taken.Used != 9 {
		t.Errorf("with a seed of 9: %+v", taken)
	}
	if taken := charge(t, c, key, q); taken.Outcome != limits.Granted || taken.Used != 10 || taken.Epoch != first.Epoch {
		t.Errorf("after a seed of 9: %+v", taken)
	}
	if taken := seed(1000, 1); taken.Outcome != limits.Exhausted || taken.Used != 1000 {
		t.Errorf("with a seed of 1000: %+v", taken)
	}
	if taken := charge(t, c, key, q); taken.Outcome != limits.Exhausted || taken.Used != 1000 {
		t.Errorf("after a seed of 1000: %+v", taken)
	}
}

func testReturn(t *testing.T, replicas []limits.Counters) {
	key, c := rand.Text(), replicas[0]
	other := replicas[len(replicas)-1]
	q := plan.Quota{Limit: 2, Period: plan.Month}
	charge(t, c, key, q)
	taken := charge(t, c, key, q)
	if err := c.Return(t.Context(), taken); err != nil {
		t.Fatal(err)
	}
	if again := charge(t, other, key, q); again.Outcome != limits.Granted || again.Used != 2 {
		t.Errorf("after a return: %+v", again)
	}
	// A unit does not go to a counter that it did not come from.
	taken.Epoch = "another"
	if err := c.Return(t.Context(), taken); err != nil {
		t.Fatal(err)
	}
	if again := charge(t, other, key, q); again.Outcome != limits.Exhausted {
		t.Error("a return to another epoch freed a unit")
	}
	taken.KeyID = rand.Text() // nor to one that is not there
	if err := c.Return(t.Context(), taken); err != nil {
		t.Error(err)
	}
}

// A request that is throttled takes nothing of the quota, not even for a moment,
// and neither a wrong window nor a missing counter costs a token.
func testThrottleBeforeQuota(t *testing.T, replicas []limits.Counters) {
	key, c := rand.Text(), replicas[0]
	th := plan.Throttle{Rate: 0.001, Burst: 3}
	q := plan.Quota{Limit: 100, Period: plan.Month}
	r := unit(t, c, key, q)
	r.Throttle = &th
	if taken := take(t, c, r); taken.Outcome != limits.Unseeded {
		t.Errorf("without a counter: %+v", taken)
	}
	past := r
	past.Window = plan.Window{Start: r.Window.Start.AddDate(-1, 0, 0), End: r.Window.Start}
	if taken := take(t, c, past); taken.Outcome != limits.WrongWindow {
		t.Errorf("in a past window: %+v", taken)
	}
	r.Seed = &limits.Charged{}
	for i := range int64(3) {
		if taken := take(t, c, r); taken.Outcome != limits.Granted || taken.Used != i+1 {
			t.Errorf("the token %d: %+v", i+1, taken)
		}
	}
	for range 3 {
		if taken := take(t, c, r); taken.Outcome != limits.Throttled || taken.Wait <= 0 {
			t.Errorf("without a token: %+v", taken)
		}
	}
	r.Throttle = nil
	if taken := take(t, c, r); taken.Outcome != limits.Granted || taken.Used != 4 {
		t.Errorf("not throttled: %+v", taken)
	}
	// It is named where both would refuse.
	r.Throttle, r.Limit = &th, 4
	if taken := take(t, c, r); taken.Outcome != limits.Throttled {
		t.Errorf("with neither: %+v", taken)
	}
}

func testThrottleBurst(t *testing.T, replicas []limits.Counters) {
	th, key := plan.Throttle{Rate: 5, Burst: 5}, rand.Text()
	begin := time.Now()
	var allowed atomic.Int64
	spread(replicas, 50, func(c limits.Counters) {
		if wait := throttle(t, c, key, th); wait == 0 {
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

func testThrottleWait(t *testing.T, replicas []limits.Counters) {
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

func testThrottleFraction(t *testing.T, replicas []limits.Counters) {
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

func testThrottleChanged(t *testing.T, replicas []limits.Counters) {
	key, l := rand.Text(), replicas[0]
	slow := plan.Throttle{Rate: 0.01, Burst: 1}
	throttle(t, l, key, slow)
	if throttle(t, l, key, slow) == 0 {
		t.Fatal("the second was allowed")
	}
	fast := plan.Throttle{Rate: 1000, Burst: 10}
	waitFor(t, "the new throttle to allow", func() bool { return throttle(t, l, key, fast) == 0 })
}

func testKeysAreIndependent(t *testing.T, replicas []limits.Counters) {
	q, th, l := plan.Quota{Limit: 1, Period: plan.Month}, plan.Throttle{Rate: 0.01, Burst: 1}, replicas[0]
	for range 3 {
		key := rand.Text()
		if taken := charge(t, l, key, q); taken.Outcome != limits.Granted {
			t.Error("a key's first unit was refused")
		}
		if wait := throttle(t, l, key, th); wait != 0 {
			t.Error("a key's first token was refused")
		}
	}
}
