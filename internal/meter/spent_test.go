package meter

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"helloapi/internal/plan"
	"helloapi/internal/web"
)

// wantDenied fails unless a request is refused for its quota, after these
// calls of the limiter.
func wantDenied(t *testing.T, e *endpoint, calls string) {
	t.Helper()
	w := e.get(t)
	if w.Code != http.StatusTooManyRequests || w.Body.String() != limitExceeded {
		t.Errorf("answered %d %s, want 429 %s", w.Code, w.Body, limitExceeded)
	}
	wantCalls(t, e, calls)
}

// wantServed fails unless a request is served, after these calls of the limiter.
func wantServed(t *testing.T, e *endpoint, calls string) {
	t.Helper()
	if w := e.get(t); w.Code != http.StatusOK {
		t.Errorf("answered %d %s, want 200", w.Code, w.Body)
	}
	wantCalls(t, e, calls)
}

// Who took the last unit knows that there is none.
func TestSpentIsRemembered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(perDay(2), nil)
		wantServed(t, e, "charge")
		wantServed(t, e, "charge")
		for range 10 {
			wantDenied(t, e, "")
			time.Sleep(99 * time.Millisecond) // a flood does not make it last
		}
		time.Sleep(10*time.Millisecond - 1)
		wantDenied(t, e, "")
		time.Sleep(time.Nanosecond)
		wantDenied(t, e, "charge") // a second has passed
		time.Sleep(time.Second - 1)
		wantDenied(t, e, "") // what it was told is remembered as well
		time.Sleep(time.Nanosecond)
		wantDenied(t, e, "charge")
	})
}

// Five quick calls of the free plan and a sixth: both limits refuse, and the
// quota is named.
func TestSpentComesBeforeThrottle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(perDay(5), &plan.Throttle{Rate: 5, Burst: 5})
		for range 5 {
			wantServed(t, e, "throttle charge")
		}
		e.limiter.wait = 200 * time.Millisecond
		wantDenied(t, e, "")
		time.Sleep(time.Second) // not known any more
		want(t, e.get(t), http.StatusTooManyRequests, tooMany, map[string]string{
			"RateLimit-Policy": `"quota";q=5;w=86400, "throttle";q=5;w=1`,
			"RateLimit":        `"throttle";r=0;t=1`,
			"Retry-After":      "1",
			"X-Amzn-ErrorType": "TooManyRequestsException",
		})
		wantCalls(t, e, "throttle")
	})
}

// The second begins when the limiter was asked: it may have decided then.
func TestSpentFromWhenAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(perDay(1), nil)
		e.limiter.charged = func() { time.Sleep(400 * time.Millisecond) }
		wantServed(t, e, "charge")
		time.Sleep(600*time.Millisecond - 1)
		wantDenied(t, e, "")
		time.Sleep(time.Nanosecond)
		wantDenied(t, e, "charge")
	})
}

func TestSpentIsForgottenOnRefund(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(perDay(1), nil)
		answer := make(chan struct{})
		e.serve = web.Handler(func(http.ResponseWriter, *http.Request) error {
			<-answer
			return errors.New("a bug")
		})
		refund := make(chan struct{})
		e.limiter.refunding = func(context.Context) { <-refund }
		var wg sync.WaitGroup
		wg.Go(func() {
			if w := e.get(t); w.Code != http.StatusInternalServerError {
				t.Errorf("answered %d", w.Code)
			}
		})
		synctest.Wait()
		wantCalls(t, e, "charge")
		wantDenied(t, e, "") // the unit is in use
		close(answer)
		synctest.Wait()
		wantCalls(t, e, "refund")
		wantDenied(t, e, "") // being given back, and still none is left
		close(refund)
		wg.Wait()
		time.Sleep(time.Nanosecond) // the fake clock stands still otherwise

		e.serve = status(http.StatusOK)
		wantServed(t, e, "charge") // at once
		wantDenied(t, e, "")
	})
}

// Where it is not known whether the unit was given back, it is asked.
func TestSpentIsForgottenOnFailedRefund(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(perDay(1), nil)
		e.serve = status(http.StatusBadRequest)
		e.limiter.refundErr = errors.New("the answer was lost")
		e.get(t)
		wantCalls(t, e, "charge refund")
		wantDenied(t, e, "charge")
	})
}

// A request that is refused while another gives its unit back must not make
// the replica believe for a second that none is left: "a returned unit is seen
// at once".
func TestReturnedUnitDespiteLateDenial(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(perDay(1), nil)
		answer := make(chan struct{})
		e.serve = web.Handler(func(http.ResponseWriter, *http.Request) error {
			<-answer
			return web.BadRequest("The name is bad")
		})
		var wg sync.WaitGroup
		wg.Go(func() { e.get(t) }) // takes the unit
		synctest.Wait()
		time.Sleep(time.Second) // till this is asked once more

		denied := make(chan struct{})
		e.limiter.charged = func() { <-denied }
		wg.Go(func() { e.get(t) }) // is denied, and the answer is on its way
		synctest.Wait()
		close(answer) // the first gives the unit back
		synctest.Wait()
		close(denied) // now the answer to the second is here
		wg.Wait()
		e.limiter.took()

		wantUsed(t, e, 0)
		e.serve = status(http.StatusOK)
		wantServed(t, e, "charge")
	})
}

// A flood of a spent key costs no trip, also while requests with other keys
// fail all the time.
func TestRefundOfAnotherKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(perDay(1), nil)
		wantServed(t, e, "charge")
		time.Sleep(time.Second) // till this is asked once more

		answer, denied := make(chan struct{}), make(chan struct{})
		e.serve = web.Handler(func(http.ResponseWriter, *http.Request) error {
			<-answer
			return web.BadRequest("The name is bad")
		})
		var wg sync.WaitGroup
		wg.Go(func() { e.getWith(t.Context(), value2) })
		synctest.Wait()
		e.limiter.charged = func() { <-denied }
		wg.Go(func() { e.get(t) })
		synctest.Wait()
		close(answer) // the unit of another key is given back meanwhile
		synctest.Wait()
		close(denied)
		wg.Wait()
		e.limiter.took()

		wantDenied(t, e, "")
	})
}

func TestSpentOfAnotherQuota(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		throttle := &plan.Throttle{Rate: 5, Burst: 5}
		e := newEndpoint(perDay(1), throttle)
		wantServed(t, e, "throttle charge")
		wantDenied(t, e, "")
		e.setPlan(perDay(1), &plan.Throttle{Rate: 9, Burst: 9}) // the same quota
		wantDenied(t, e, "")
		e.setPlan(perDay(2), throttle)
		wantServed(t, e, "throttle charge")
		wantDenied(t, e, "")
		e.setPlan(&plan.Quota{Limit: 2, Period: plan.Month}, throttle)
		wantServed(t, e, "throttle charge")
		e.setPlan(nil, throttle)
		wantServed(t, e, "throttle")
	})
}

func TestSpentEndsWithWindow(t *testing.T) {
	t.Parallel()
	for _, behind := range []time.Duration{0, 6 * time.Hour, -6 * time.Hour} { // by the limiter's clock
		t.Run(behind.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e := newEndpoint(perDay(1), nil)
				e.limiter.behind = behind
				time.Sleep(24*time.Hour + behind - 300*time.Millisecond)
				wantServed(t, e, "charge")
				time.Sleep(300*time.Millisecond - 1)
				wantDenied(t, e, "")
				time.Sleep(time.Nanosecond)
				wantServed(t, e, "charge")
			})
		})
	}
}

func TestSpentOfAnotherKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(perDay(1), nil)
		get := func(value string) *httptest.ResponseRecorder { return e.getWith(t.Context(), value) }
		if w := get(value1); w.Code != http.StatusOK {
			t.Errorf("first key: answered %d", w.Code)
		}
		if w := get(value2); w.Code != http.StatusOK {
			t.Errorf("second key: answered %d", w.Code)
		}
		wantCalls(t, e, "charge charge")
		wantDenied(t, e, "")
		if w := get(value2); w.Code != http.StatusTooManyRequests {
			t.Errorf("second key: answered %d, want 429", w.Code)
		}
		wantCalls(t, e, "")
	})
}

// What has passed must not stay for ever, else keys that come and go fill the
// memory.
func TestSpentIsSwept(t *testing.T) {
	t.Parallel()
	s := spent{keys: map[string]memory{}}
	now := time.Now()
	w := plan.Window{Start: now, End: now.Add(time.Hour)}
	for i := range 1000 {
		s.remember(fmt.Sprint(i), *perDay(1), w, now.Add(time.Duration(i)*time.Millisecond), time.Hour)
	}
	later := now.Add(1500 * time.Millisecond)
	s.remember("later", *perDay(1), w, later, time.Hour)
	s.remember("last", *perDay(1), w, later.Add(2*time.Second), time.Hour)
	if n := len(s.keys); n != 1 {
		t.Errorf("%d denials are kept, want 1", n)
	}
	for id, want := range map[string]bool{"999": false, "later": false, "last": true} {
		if _, ok := s.recall(id, *perDay(1), later.Add(2*time.Second)); ok != want {
			t.Errorf("recall(%s) = %t, want %t", id, ok, want)
		}
	}
}

// What still holds must stay when the rest is dropped.
func TestSweepKeepsWhatHolds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := spent{keys: map[string]memory{}}
		begin := time.Now()
		w := plan.Window{Start: begin, End: begin.Add(time.Hour)}
		remember := func(keyID string, asked time.Time) { s.remember(keyID, *perDay(1), w, asked, time.Hour) }
		remember("passed", begin)
		time.Sleep(600 * time.Millisecond)
		remember("holds", time.Now())
		s.forget("given back")
		time.Sleep(500 * time.Millisecond)
		remember("sweeps", time.Now())
		remember("given back", begin.Add(599*time.Millisecond)) // a denial from before that

		for id, want := range map[string]bool{"passed": false, "holds": true, "given back": false, "sweeps": true} {
			if _, ok := s.recall(id, *perDay(1), time.Now()); ok != want {
				t.Errorf("recall(%s) = %t, want %t", id, ok, want)
			}
		}
		if n := len(s.keys); n != 3 {
			t.Errorf("%d memories are kept, want 3", n)
		}
	})
}
