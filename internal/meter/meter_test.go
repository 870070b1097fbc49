package meter

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"helloapi/internal/apikey"
	"helloapi/internal/limits"
	"helloapi/internal/memmeter"
	"helloapi/internal/plan"
	"helloapi/internal/web"
)

// counters are Counters in memory that note how they are called, and fail and
// throttle if a test wants.
type counters struct {
	limits.Counters
	wait            time.Duration // for a token, if not 0
	err, returnErr  error
	taken, returned int // units
}

func (c *counters) Take(ctx context.Context, r limits.Request) (limits.Taken, error) {
	if c.err != nil {
		return limits.Taken{}, c.err
	}
	if c.wait > 0 && r.Throttle != nil {
		return limits.Taken{Outcome: limits.Throttled, Wait: c.wait}, nil
	}
	t, err := c.Counters.Take(ctx, r)
	if t.Outcome == limits.Granted {
		c.taken += int(t.Cost)
	}
	return t, err
}

func (c *counters) Return(ctx context.Context, t limits.Taken) error {
	if c.returnErr != nil {
		return c.returnErr
	}
	c.returned++
	return c.Counters.Return(ctx, t)
}

// usage is a UsageStore that knows what was recorded, on one day.
type usage struct {
	mu      sync.Mutex
	charged map[string]int64
}

func (u *usage) RecordUsage(_ context.Context, writer string, rows []limits.UsageRow) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, r := range rows {
		u.charged[r.Writer(writer)] = r.Charged
	}
	return nil
}

func (u *usage) Used(context.Context, limits.UsageQuery) (limits.Charged, error) {
	return limits.Charged{}, nil
}

func (u *usage) DailyUsage(ctx context.Context, keyID string, first, _ plan.Date) ([]limits.DayUsage, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	days := []limits.DayUsage{{KeyID: keyID, Date: first, Charged: 100}}
	for _, n := range u.charged {
		days = append(days, limits.DayUsage{KeyID: keyID, Date: "2000-01-01", Charged: n})
	}
	return days, ctx.Err()
}

func (u *usage) TrimUsage(context.Context, plan.Date, plan.Date) error { return nil }

const value = "the-value-of-the-first-key"

// finder finds a key.
type finder struct{ key *apikey.Key }

func (f finder) Find(context.Context, apikey.Hash) (*apikey.Key, error) { return f.key, nil }

// endpoint is an endpoint with limits before it, in the order of internal/api.
type endpoint struct {
	counters *counters
	usage    *usage
	limits   *limits.Limits
	plan     *plan.Plan
	serve    http.Handler // answers 200 unless set
	log      bytes.Buffer
	h        http.Handler
}

func newEndpoint(q *plan.Quota, t *plan.Throttle) *endpoint {
	e := &endpoint{
		counters: &counters{Counters: memmeter.New()}, usage: &usage{charged: map[string]int64{}},
		plan: &plan.Plan{Name: "p", Quota: q, Throttle: t}, serve: status(http.StatusOK),
	}
	log := slog.New(slog.NewTextHandler(&e.log, nil))
	e.limits = limits.New(limits.Config{Local: e.counters, Usage: e.usage, Replica: "me", Log: log})
	served := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { e.serve.ServeHTTP(w, r) })
	mux := http.NewServeMux()
	m := New(e.limits, nil)
	mux.Handle("/", m.Enforce(1)(served))
	mux.Handle("/twice", m.Throttle(m.Charge(1)(served))) // as an endpoint that can be repeated
	mux.Handle("/usage", m.Free(web.Handler(m.Usage)))
	e.h = apikey.Require(finder{&apikey.Key{ID: "1", Name: "first", Plan: e.plan, Enabled: true}}, time.Now, func(*apikey.Key, string) {})(mux)
	e.h = web.Observe(log, web.NewMetrics(prometheus.NewRegistry()), nil)(web.Recover(e.h))
	return e
}

func (e *endpoint) get(t *testing.T, path string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	r.Header.Set(apikey.Header, value)
	w := httptest.NewRecorder()
	func() {
		defer func() { // net/http does, where an answer is cut short
			if v := recover(); v != nil && v != http.ErrAbortHandler {
				t.Errorf("panic: %v", v)
			}
		}()
		e.h.ServeHTTP(w, r)
	}()
	return w
}

// status answers with a status and the message that belongs to it.
func status(code int) web.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if code >= 400 {
			return &web.Error{Status: code}
		}
		w.WriteHeader(code)
		return nil
	}
}

func perDay(limit int64) *plan.Quota { return &plan.Quota{Limit: limit, Period: plan.Day} }

// want fails unless w is the answer with that status and these headers, of
// those that this package sets. A body that is "" is not looked at.
func want(t *testing.T, w *httptest.ResponseRecorder, status int, body string, headers map[string]string) {
	t.Helper()
	if w.Code != status || body != "" && w.Body.String() != body {
		t.Errorf("answered %d %s, want %d %s", w.Code, w.Body, status, body)
	}
	got := map[string]string{}
	for _, name := range []string{"RateLimit", "RateLimit-Policy", "Retry-After", "X-Amzn-ErrorType"} {
		if v := w.Header().Values(name); v != nil {
			got[name] = strings.Join(v, " AND ")
		}
	}
	if headers == nil {
		headers = map[string]string{}
	}
	if diff := cmp.Diff(headers, got); diff != "" {
		t.Errorf("headers (-want +got)\n%s", diff)
	}
}

const (
	tooMany       = `{"message":"Too Many Requests"}`
	limitExceeded = `{"message":"Limit Exceeded"}`
	unavailable   = `{"message":"Service Unavailable"}`
)

// synctest's clock starts at midnight UTC, as a window of perDay does.

func TestServed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(perDay(5), &plan.Throttle{Rate: 5, Burst: 5})
		time.Sleep(23 * time.Hour)
		for i, left := range []string{"4", "3", "2", "1", "0"} {
			want(t, e.get(t, []string{"/", "/twice"}[i%2]), http.StatusOK, "", map[string]string{
				"RateLimit-Policy": `"quota";q=5;w=86400, "throttle";q=5;w=1`,
				"RateLimit":        `"quota";r=` + left + `;t=3600`,
			})
		}
	})
}

func TestOneLimit(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		quota    *plan.Quota
		throttle *plan.Throttle
		headers  map[string]string
	}{
		"none":     {nil, nil, nil},
		"quota":    {perDay(5), nil, map[string]string{"RateLimit-Policy": `"quota";q=5;w=86400`, "RateLimit": `"quota";r=4;t=86400`}},
		"throttle": {nil, &plan.Throttle{Rate: 2, Burst: 5}, map[string]string{"RateLimit-Policy": `"throttle";q=5;w=3`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e := newEndpoint(test.quota, test.throttle)
				want(t, e.get(t, "/"), http.StatusOK, "", test.headers)
				e.serve = status(http.StatusBadRequest)
				if w := e.get(t, "/"); w.Code != http.StatusBadRequest {
					t.Errorf("a bad request was answered %d", w.Code)
				}
			})
		})
	}
}

func TestThrottled(t *testing.T) {
	t.Parallel()
	for policy, quota := range map[string]*plan.Quota{`"quota";q=5;w=86400, `: perDay(5), "": nil} {
		synctest.Test(t, func(t *testing.T) {
			e := newEndpoint(quota, &plan.Throttle{Rate: 5, Burst: 5})
			e.serve = web.Handler(func(http.ResponseWriter, *http.Request) error {
				t.Error("it was served")
				return nil
			})
			e.counters.wait = 2500 * time.Millisecond
			for _, path := range []string{"/", "/twice", "/usage"} {
				want(t, e.get(t, path), http.StatusTooManyRequests, tooMany, map[string]string{
					"RateLimit-Policy": policy + `"throttle";q=5;w=1`,
					"RateLimit":        `"throttle";r=0;t=3`,
					"Retry-After":      "3",
					"X-Amzn-ErrorType": "TooManyRequestsException",
				})
			}
			if e.counters.taken+e.counters.returned > 0 {
				t.Error("a unit was taken")
			}
		})
	}
}

func TestQuotaExceeded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(perDay(2), &plan.Throttle{Rate: 5, Burst: 5})
		time.Sleep(23*time.Hour + 59*time.Minute)
		e.get(t, "/")
		e.get(t, "/")
		time.Sleep(2500 * time.Millisecond) // till it asks once more
		for range 2 {                       // answered so, and known to be so
			want(t, e.get(t, "/"), http.StatusTooManyRequests, limitExceeded, map[string]string{
				"RateLimit-Policy": `"quota";q=2;w=86400, "throttle";q=5;w=1`,
				"RateLimit":        `"quota";r=0;t=58`,
				"Retry-After":      "58", // 57.5, up
				"X-Amzn-ErrorType": "LimitExceededException",
			})
		}
		time.Sleep(57*time.Second + 500*time.Millisecond)
		if w := e.get(t, "/"); w.Code != http.StatusOK {
			t.Errorf("the first request of the next window was answered %d", w.Code)
		}
	})
}

// What is charged is what was answered below 400, to whatever end the request
// comes; and the header says what is left then.
func TestCharged(t *testing.T) {
	t.Parallel()
	panics := func(with any, before func(http.ResponseWriter)) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			before(w)
			panic(with)
		})
	}
	nothing := func(http.ResponseWriter) {}
	abort := http.ErrAbortHandler
	for name, test := range map[string]struct {
		serve   http.Handler
		status  int
		charged bool
	}{
		"200":                         {status(200), 200, true},
		"204":                         {status(204), 204, true},
		"304":                         {status(304), 304, true},
		"399":                         {status(399), 399, true},
		"400":                         {status(400), 400, false},
		"404":                         {status(404), 404, false},
		"429 of the handler's":        {status(429), 429, false},
		"500":                         {status(500), 500, false},
		"503":                         {status(503), 503, false},
		"written without a status":    {http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("a")) }), 200, true},
		"nothing written":             {http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), 200, true},
		"error that is none of web's": {web.Handler(func(http.ResponseWriter, *http.Request) error { return errors.New("a bug") }), 500, false},
		"deadline":                    {web.Handler(func(http.ResponseWriter, *http.Request) error { return context.DeadlineExceeded }), 503, false},
		"panic":                       {panics("out of cheese", nothing), 500, false},
		"panic after the status":      {panics("out of cheese", func(w http.ResponseWriter) { w.WriteHeader(404) }), 404, false},
		"abort":                       {panics(abort, nothing), 200, false},
		"abort after 200":             {panics(abort, func(w http.ResponseWriter) { w.WriteHeader(200) }), 200, true},
		"abort after 404":             {panics(abort, func(w http.ResponseWriter) { w.WriteHeader(404) }), 404, false},
		"two statuses: the first counts": {http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(500)
			w.WriteHeader(500)
			w.Write([]byte("a"))
			http.NewResponseController(w).Flush()
		}), 500, false},
		"200, then another status": {http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Write([]byte("a"))
			w.WriteHeader(500)
		}), 200, true},
	} {
		for _, q := range []*plan.Quota{perDay(5), nil} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					e := newEndpoint(q, nil)
					e.serve = test.serve
					w := e.get(t, "/")
					if w.Code != test.status {
						t.Errorf("answered %d, want %d", w.Code, test.status)
					}
					charged, left := int64(1), "4"
					if !test.charged {
						charged, left = 0, "5"
					}
					if got := w.Result().Header.Get("RateLimit"); q != nil && test.serve != nil && name != "abort" && got != `"quota";r=`+left+`;t=86400` {
						t.Errorf("RateLimit %s, want %s left", got, left)
					}
					if q != nil && (e.counters.taken != 1 || e.counters.returned != 1-int(charged)) {
						t.Errorf("%d units were taken and %d returned", e.counters.taken, e.counters.returned)
					}
					// Stopped, it has written all.
					ctx, cancel := context.WithCancel(t.Context())
					cancel()
					if err := e.limits.Run(ctx); err != nil {
						t.Error(err)
					}
					if got := e.usage.charged["me"]; got != charged {
						t.Errorf("%d units are in the ledger, want %d", got, charged)
					}
				})
			})
		}
	}
}

// A 1xx is not the answer yet.
func TestInformational(t *testing.T) {
	t.Parallel()
	e := newEndpoint(perDay(5), nil)
	e.serve = web.Handler(func(w http.ResponseWriter, r *http.Request) error {
		w.WriteHeader(http.StatusEarlyHints)
		if e.counters.returned != 0 {
			t.Error("the unit was returned at the 103")
		}
		return errors.New("a bug")
	})
	srv := httptest.NewServer(e.h) // a ResponseRecorder takes a 103 for the answer
	defer srv.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(apikey.Header, value)
	resp, err := srv.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusInternalServerError || e.counters.returned != 1 {
		t.Errorf("answered %d, with %d units returned", resp.StatusCode, e.counters.returned)
	}
}

func TestReturnFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(perDay(5), nil)
		e.serve = web.Handler(func(http.ResponseWriter, *http.Request) error { return web.BadRequest("The name is bad") })
		e.counters.returnErr = errors.New("no route to redis.internal")
		want(t, e.get(t, "/"), http.StatusBadRequest, `{"message":"The name is bad"}`, map[string]string{
			"RateLimit-Policy": `"quota";q=5;w=86400`,
			"RateLimit":        `"quota";r=4;t=86400`, // not what was not returned
		})
		if log := e.log.String(); !strings.Contains(log, "return unit: no route to redis.internal") {
			t.Errorf("the log does not say it: %s", log)
		}
	})
}

func TestCountersFail(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/", "/twice", "/usage"} {
		for _, err := range []error{errors.New("no route to redis.internal"), context.DeadlineExceeded} {
			synctest.Test(t, func(t *testing.T) {
				e := newEndpoint(perDay(1), &plan.Throttle{Rate: 1, Burst: 1})
				e.serve = web.Handler(func(http.ResponseWriter, *http.Request) error {
					t.Error("it was served")
					return nil
				})
				e.counters.err = err
				want(t, e.get(t, path), http.StatusServiceUnavailable, unavailable, map[string]string{"Retry-After": "1"})
				if !strings.Contains(e.log.String(), err.Error()) {
					t.Errorf("the log does not say %q: %s", err, &e.log)
				}
			})
		}
	}
}

// Retry-After is there and at least 1 also when nothing is left of the window.
func TestRetryAfterAtWindowEnd(t *testing.T) {
	t.Parallel()
	h := http.Header{}
	for limit, reset := range map[limits.Limit]time.Duration{limits.Quota: 0, limits.Throttle: 1} {
		var e *web.Error
		if !errors.As(refusal(h, limits.Decision{Refused: limit, Reset: reset}), &e) || e.RetryAfter <= 0 || h.Get("RateLimit") != strconv.Quote(string(limit))+";r=0;t=1" {
			t.Errorf("%s: %+v, %v", limit, e, h)
		}
	}
}

// GET /usage asks the database, so a plan without a throttle gets one for it. It
// is none of the plan's: what is charged is not held to it.
func TestUsageThrottle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(perDay(1000), nil)
		for range freeThrottle.Burst {
			if w := e.get(t, "/usage"); w.Code != http.StatusOK || w.Header().Get("RateLimit-Policy") != "" {
				t.Errorf("answered %d, %v", w.Code, w.Header())
			}
		}
		want(t, e.get(t, "/usage"), http.StatusTooManyRequests, tooMany, map[string]string{
			"RateLimit-Policy": `"quota";q=1000;w=86400, "throttle";q=10;w=2`,
			"RateLimit":        `"throttle";r=0;t=1`,
			"Retry-After":      "1",
			"X-Amzn-ErrorType": "TooManyRequestsException",
		})
		for range 100 {
			for _, path := range []string{"/", "/twice"} {
				if w := e.get(t, path); w.Code != http.StatusOK {
					t.Errorf("answered %d", w.Code)
				}
			}
		}
	})
}
