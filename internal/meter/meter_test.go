package meter

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
	"helloapi/internal/web"
)

// limiter is a Limiter that counts in memory and notes how it is called. It
// lets a test choose how the throttle decides, what fails and what takes long.
type limiter struct {
	wait   time.Duration // what Throttle returns
	behind time.Duration // how far its clock is behind the machine's

	throttleErr, chargeErr, refundErr error
	charged                           func()                // called when Charge has decided, if not nil
	refunding                         func(context.Context) // called before Refund does anything, if not nil

	strict   bool // there is no counter until it is raised; else raising does nothing
	raiseErr error
	losses   uint64

	mu      sync.Mutex
	used    map[Charge]int64 // by key and window
	calls   []string         // but those of Raise
	raises  []int64
	refunds []Charge
}

func (l *limiter) Now() time.Time { return time.Now().Add(-l.behind) }

func (l *limiter) called(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = append(l.calls, name)
}

func (l *limiter) Throttle(context.Context, string, plan.Throttle) (time.Duration, error) {
	l.called("throttle")
	return l.wait, l.throttleErr
}

func (l *limiter) Charge(_ context.Context, keyID string, q plan.Quota) (Charge, error) {
	l.called("charge")
	c, err := l.charge(keyID, q)
	if l.charged != nil {
		l.charged()
	}
	return c, err
}

func (l *limiter) charge(keyID string, q plan.Quota) (Charge, error) {
	if l.chargeErr != nil {
		return Charge{}, l.chargeErr
	}
	w, err := q.Window(l.Now())
	if err != nil {
		return Charge{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.used == nil {
		l.used = map[Charge]int64{}
	}
	counter := Charge{KeyID: keyID, Window: w, Epoch: "epoch of " + w.Start.String()}
	c := counter
	if _, ok := l.used[counter]; l.strict && !ok {
		c.Missing = true
		return c, nil
	}
	c.Granted = l.used[counter] < q.Limit
	if c.Granted {
		l.used[counter]++
	}
	c.Used = l.used[counter]
	return c, nil
}

func (l *limiter) Refund(ctx context.Context, c Charge) error {
	l.called("refund")
	if l.refunding != nil {
		l.refunding(ctx)
	}
	if l.refundErr != nil {
		return l.refundErr
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refunds = append(l.refunds, c)
	l.used[Charge{KeyID: c.KeyID, Window: c.Window, Epoch: c.Epoch}]--
	return nil
}

func (l *limiter) Raise(_ context.Context, keyID string, w plan.Window, used int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.raises = append(l.raises, used)
	if !l.strict || l.raiseErr != nil {
		return l.raiseErr
	}
	if l.used == nil {
		l.used = map[Charge]int64{}
	}
	counter := Charge{KeyID: keyID, Window: w, Epoch: "epoch of " + w.Start.String()}
	l.used[counter] = max(l.used[counter], used)
	return nil
}

func (l *limiter) Losses() uint64 { return l.losses }

// usage is a Usage in memory, which notes how it is called.
type usage struct {
	recording func(writes int)      // called before RecordUsage does anything, if not nil
	reading   func(context.Context) // called when Used has read, if not nil

	mu       sync.Mutex
	err      error
	persists bool                      // what fails with err is recorded all the same
	rows     map[string]map[Slot]int64 // by writer
	writes   []int                     // how many rows each had
	reads    int
	trims    []trimmed
}

type trimmed struct {
	at         time.Time
	fold, drop plan.Date
}

// count returns how often it was read.
func (u *usage) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.reads
}

func (u *usage) RecordUsage(_ context.Context, writer string, rows []UsageRow) error {
	u.mu.Lock()
	u.writes = append(u.writes, len(rows))
	n := len(u.writes)
	u.mu.Unlock()
	if u.recording != nil {
		u.recording(n)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err != nil && !u.persists {
		return u.err
	}
	if u.rows == nil {
		u.rows = map[string]map[Slot]int64{}
	}
	for _, r := range rows {
		w := r.Writer(writer)
		if u.rows[w] == nil {
			u.rows[w] = map[Slot]int64{}
		}
		u.rows[w][r.Slot] = max(u.rows[w][r.Slot], r.Charged)
	}
	return u.err
}

func (u *usage) Used(ctx context.Context, q UsageQuery) (total int64, err error) {
	if u.reading != nil {
		defer u.reading(ctx) // without u.mu
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reads++
	for writer, rows := range u.rows {
		writer, _, _ = strings.Cut(writer, "/")
		for s, n := range rows {
			if s.KeyID == q.KeyID && q.First <= s.Date && s.Date < q.Next && (writer != q.Writer || s.Date < q.Known) {
				total += n
			}
		}
	}
	return total, u.err
}

func (u *usage) DailyUsage(context.Context, string, plan.Date, plan.Date) ([]DayUsage, error) {
	return nil, errors.ErrUnsupported
}

func (u *usage) TrimUsage(_ context.Context, fold, drop plan.Date) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.trims = append(u.trims, trimmed{time.Now().UTC(), fold, drop})
	return u.err
}

// trimmed returns how it was trimmed so far.
func (u *usage) trimmed() []trimmed {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.trims)
}

// fail has all fail with err, or nothing.
func (u *usage) fail(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.err = err
}

// set has the record say that a writer charged so much.
func (u *usage) set(writer string, s Slot, charged int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.rows == nil {
		u.rows = map[string]map[Slot]int64{}
	}
	if u.rows[writer] == nil {
		u.rows[writer] = map[Slot]int64{}
	}
	u.rows[writer][s] = charged
}

// total is what is recorded, by all writers.
func (u *usage) total(s Slot) (n int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, rows := range u.rows {
		n += rows[s]
	}
	return n
}

// newLedger returns a Ledger that writes only when it is told to.
func newLedger(u Usage) *Ledger {
	return &Ledger{
		usage: u, writer: "me", log: slog.New(slog.DiscardHandler),
		totals: map[Slot]total{}, dirty: map[Slot]bool{}, held: map[hold]int{},
	}
}

// took returns the calls since it was last asked, by name.
func (l *limiter) took() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := strings.Join(l.calls, " ")
	l.calls = nil
	return s
}

// The values of the keys that finder knows.
const (
	value1 = "the-value-of-the-first-key"
	value2 = "the-value-of-the-second-key"
)

// finder finds a key by value.
type finder map[string]*apikey.Key

func (f finder) Find(_ context.Context, h apikey.Hash) (*apikey.Key, error) {
	for s, k := range f {
		if v, err := apikey.Parse(s); err == nil && v.Hash() == h {
			return k, nil
		}
	}
	return nil, apikey.ErrUnknown
}

// endpoint is an endpoint with a Meter before it, in the order of internal/api.
type endpoint struct {
	limiter limiter
	keys    finder       // change a key's Plan by putting another key in its place
	serve   http.Handler // answers 200 unless set
	log     bytes.Buffer
	meter   *Meter
	h       http.Handler
}

func newEndpoint(q *plan.Quota, t *plan.Throttle) *endpoint {
	e := &endpoint{
		keys:  finder{},
		serve: status(http.StatusOK),
	}
	e.setPlan(q, t)
	e.meter = New(&e.limiter, newLedger(new(usage)))
	e.h = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { e.serve.ServeHTTP(w, r) })
	e.h = apikey.Require(e.keys, time.Now)(e.meter.Enforce(e.h))
	e.h = web.Observe(slog.New(slog.NewTextHandler(&e.log, nil)), web.NewMetrics(prometheus.NewRegistry()))(web.Recover(e.h))
	return e
}

// setPlan puts both keys on a plan with these limits.
func (e *endpoint) setPlan(q *plan.Quota, t *plan.Throttle) {
	p := &plan.Plan{Name: "p", Quota: q, Throttle: t}
	e.keys[value1] = &apikey.Key{ID: "1", Name: "first", Plan: p, Enabled: true}
	e.keys[value2] = &apikey.Key{ID: "2", Name: "second", Plan: p, Enabled: true}
}

// get sends a request with the first key.
func (e *endpoint) get(t *testing.T) *httptest.ResponseRecorder {
	t.Helper()
	return e.getWith(t.Context(), value1)
}

func (e *endpoint) getWith(ctx context.Context, value string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
	r.Header.Set(apikey.Header, value)
	w := httptest.NewRecorder()
	e.h.ServeHTTP(w, r)
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

// wantCalls fails unless the limiter was called like that since the last time.
func wantCalls(t *testing.T, e *endpoint, want string) {
	t.Helper()
	if got := e.limiter.took(); got != want {
		t.Errorf("the limiter was asked to %q, want %q", got, want)
	}
}

// wantUsed fails unless that many units of the first key are used.
func wantUsed(t *testing.T, e *endpoint, want int64) {
	t.Helper()
	c, err := e.limiter.charge("1", *perDay(0)) // takes nothing
	if err != nil {
		t.Fatal(err)
	}
	if c.Used != want {
		t.Errorf("%d units are used, want %d", c.Used, want)
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
			want(t, e.get(t), http.StatusOK, "", map[string]string{
				"RateLimit-Policy": `"quota";q=5;w=86400, "throttle";q=5;w=1`,
				"RateLimit":        `"quota";r=` + left + `;t=3600`,
			})
			wantCalls(t, e, "throttle charge")
			wantUsed(t, e, int64(i)+1)
		}
	})
}

func TestOneLimit(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		quota    *plan.Quota
		throttle *plan.Throttle
		headers  map[string]string
		calls    string
	}{
		{"none", nil, nil, nil, ""},
		{
			"quota", perDay(5), nil,
			map[string]string{"RateLimit-Policy": `"quota";q=5;w=86400`, "RateLimit": `"quota";r=4;t=86400`},
			"charge",
		},
		{
			"throttle", nil, &plan.Throttle{Rate: 2, Burst: 5},
			map[string]string{"RateLimit-Policy": `"throttle";q=5;w=3`},
			"throttle",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e := newEndpoint(tt.quota, tt.throttle)
				want(t, e.get(t), http.StatusOK, "", tt.headers)
				wantCalls(t, e, tt.calls)
				e.serve = status(http.StatusBadRequest)
				if w := e.get(t); w.Code != http.StatusBadRequest {
					t.Errorf("a bad request was answered %d", w.Code)
				}
			})
		})
	}
}

func TestThrottled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(perDay(5), &plan.Throttle{Rate: 5, Burst: 5})
		e.serve = web.Handler(func(http.ResponseWriter, *http.Request) error {
			t.Error("it was served")
			return nil
		})
		e.limiter.wait = 2500 * time.Millisecond
		for range 3 {
			want(t, e.get(t), http.StatusTooManyRequests, tooMany, map[string]string{
				"RateLimit-Policy": `"quota";q=5;w=86400, "throttle";q=5;w=1`,
				"RateLimit":        `"throttle";r=0;t=3`,
				"Retry-After":      "3",
				"X-Amzn-ErrorType": "TooManyRequestsException",
			})
			wantCalls(t, e, "throttle") // nothing charged, nothing given back
		}
		wantUsed(t, e, 0)
	})
}

func TestThrottledWithoutQuota(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(nil, &plan.Throttle{Rate: 0.5, Burst: 1})
		e.limiter.wait = 2 * time.Second
		want(t, e.get(t), http.StatusTooManyRequests, tooMany, map[string]string{
			"RateLimit-Policy": `"throttle";q=1;w=2`,
			"RateLimit":        `"throttle";r=0;t=2`,
			"Retry-After":      "2",
			"X-Amzn-ErrorType": "TooManyRequestsException",
		})
	})
}

func TestQuotaExceeded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(perDay(2), &plan.Throttle{Rate: 5, Burst: 5})
		time.Sleep(23*time.Hour + 59*time.Minute + 500*time.Millisecond)
		var served int
		e.serve = web.Handler(func(http.ResponseWriter, *http.Request) error {
			served++
			return nil
		})
		e.get(t)
		e.get(t)
		time.Sleep(2 * time.Second) // till it asks once more
		e.limiter.took()
		for _, calls := range []string{"throttle charge", ""} { // told so, and known to be so
			want(t, e.get(t), http.StatusTooManyRequests, limitExceeded, map[string]string{
				"RateLimit-Policy": `"quota";q=2;w=86400, "throttle";q=5;w=1`,
				"RateLimit":        `"quota";r=0;t=58`,
				"Retry-After":      "58", // 57.5, up
				"X-Amzn-ErrorType": "LimitExceededException",
			})
			wantCalls(t, e, calls)
		}
		if served != 2 {
			t.Errorf("%d were served", served)
		}
		time.Sleep(57*time.Second + 500*time.Millisecond)
		if w := e.get(t); w.Code != http.StatusOK {
			t.Errorf("the first request of the next window was answered %d", w.Code)
		}
	})
}

func TestCharged(t *testing.T) {
	t.Parallel()
	panics := func(before func(http.ResponseWriter)) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			before(w)
			panic("out of cheese")
		})
	}
	tests := []struct {
		name    string
		serve   http.Handler
		status  int
		charged bool
	}{
		{"200", status(200), 200, true},
		{"204", status(204), 204, true},
		{"304", status(304), 304, true},
		{"399", status(399), 399, true},
		{"400", status(400), 400, false},
		{"404", status(404), 404, false},
		{"429 of the handler's", status(429), 429, false},
		{"500", status(500), 500, false},
		{"503", status(503), 503, false},
		{"written without a status", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("a")) }), 200, true},
		{"nothing written", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), 200, true},
		{"error that is none of web's", web.Handler(func(http.ResponseWriter, *http.Request) error { return errors.New("a bug") }), 500, false},
		{"deadline", web.Handler(func(http.ResponseWriter, *http.Request) error { return context.DeadlineExceeded }), 503, false},
		{"panic", panics(func(http.ResponseWriter) {}), 500, false},
		{"panic after the status", panics(func(w http.ResponseWriter) { w.WriteHeader(404) }), 404, false},
		{
			"two statuses: the first counts",
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(500)
				w.WriteHeader(500)
				w.Write([]byte("a"))
				http.NewResponseController(w).Flush()
			}), 500, false,
		},
		{
			"200, then another status",
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Write([]byte("a"))
				w.WriteHeader(500)
			}), 200, true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e := newEndpoint(perDay(5), nil)
				e.get(t)
				e.limiter.took()

				e.serve = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					// The unit is held while its request is in flight, to whatever end.
					wantUsed(t, e, 2)
					tt.serve.ServeHTTP(w, r)
				})
				w := httptest.NewRecorder()
				func() {
					defer func() { // net/http does, where an answer is cut short
						if v := recover(); v != nil && v != http.ErrAbortHandler {
							t.Errorf("panic: %v", v)
						}
					}()
					r := httptest.NewRequest(http.MethodGet, "/", nil)
					r.Header.Set(apikey.Header, value1)
					e.h.ServeHTTP(w, r)
				}()

				left, calls, used := 3, "charge", int64(2)
				if !tt.charged {
					left, calls, used = 4, "charge refund", 1
				}
				if w.Code != tt.status {
					t.Errorf("answered %d, want %d", w.Code, tt.status)
				}
				if got, want := w.Result().Header.Get("RateLimit"), `"quota";r=`+strconv.Itoa(left)+`;t=86400`; got != want {
					t.Errorf("RateLimit %s, want %s", got, want)
				}
				wantCalls(t, e, calls)
				wantUsed(t, e, used)
			})
		})
	}
}

// What is given back is the very charge that was granted.
func TestRefundsCharge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(perDay(5), nil)
		start := time.Now()
		e.serve = web.Handler(func(http.ResponseWriter, *http.Request) error {
			time.Sleep(25 * time.Hour) // into the next window
			return errors.New("a bug")
		})
		e.get(t)
		wantCharge := Charge{
			KeyID: "1", Granted: true, Used: 1, Epoch: "epoch of " + start.UTC().String(),
			Window: plan.Window{Start: start, End: start.Add(24 * time.Hour)},
		}
		if diff := cmp.Diff([]Charge{wantCharge}, e.limiter.refunds); diff != "" {
			t.Errorf("given back (-want +got)\n%s", diff)
		}
		wantUsed(t, e, 0)
	})
}

// A 1xx is not the answer yet.
func TestInformational(t *testing.T) {
	t.Parallel()
	e := newEndpoint(perDay(5), nil)
	e.serve = web.Handler(func(w http.ResponseWriter, r *http.Request) error {
		w.WriteHeader(http.StatusEarlyHints)
		if n := len(e.limiter.refunds); n != 0 {
			t.Errorf("%d units were given back at the 103", n)
		}
		return errors.New("a bug")
	})
	srv := httptest.NewServer(e.h) // a ResponseRecorder takes a 103 for the answer
	defer srv.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(apikey.Header, value1)
	resp, err := srv.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusInternalServerError {
		t.Errorf("answered %d", resp.StatusCode)
	}
	wantCalls(t, e, "charge refund")
}

// The client may have left, and the request may have used up its time.
func TestRefundAfterContextEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		e := newEndpoint(perDay(5), nil)
		e.serve = web.Handler(func(http.ResponseWriter, *http.Request) error {
			cancel()
			return context.DeadlineExceeded
		})
		e.limiter.refunding = func(ctx context.Context) {
			if err := ctx.Err(); err != nil {
				t.Errorf("the refund's context has ended: %v", err)
			}
			if d, ok := ctx.Deadline(); !ok || time.Until(d) > time.Second {
				t.Errorf("the refund has %s, %t; want a second at most", time.Until(d), ok)
			}
		}
		if w := e.getWith(ctx, value1); w.Code != http.StatusServiceUnavailable {
			t.Errorf("answered %d", w.Code)
		}
		wantCalls(t, e, "charge refund")
		wantUsed(t, e, 0)
	})
}

func TestRefundFails(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		err       error
		refunding func(context.Context)
		took      time.Duration
	}{
		{"at once", errors.New("no route to redis.internal"), nil, 0},
		{"frozen", context.DeadlineExceeded, func(ctx context.Context) { <-ctx.Done() }, time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e := newEndpoint(perDay(5), nil)
				e.serve = web.Handler(func(http.ResponseWriter, *http.Request) error { return web.BadRequest("The name is bad") })
				e.limiter.refundErr, e.limiter.refunding = tt.err, tt.refunding
				begin := time.Now()
				want(t, e.get(t), http.StatusBadRequest, `{"message":"The name is bad"}`, map[string]string{
					"RateLimit-Policy": `"quota";q=5;w=86400`,
					"RateLimit":        `"quota";r=4;t=86400`, // not what was not given back
				})
				if d := time.Since(begin); d != tt.took {
					t.Errorf("it took %s, want %s", d, tt.took)
				}
				wantCalls(t, e, "charge refund") // not tried again
				if log := e.log.String(); !strings.Contains(log, "refund: "+tt.err.Error()) {
					t.Errorf("the log does not tell: %s", log)
				}
			})
		})
	}
}

func TestLimiterFails(t *testing.T) {
	t.Parallel()
	err := errors.New("no route to redis.internal")
	tests := []struct {
		name  string
		set   func(*limiter)
		calls string
		log   string
	}{
		{"throttle", func(l *limiter) { l.throttleErr = err }, "throttle", "throttle: " + err.Error()},
		{"charge", func(l *limiter) { l.chargeErr = err }, "throttle charge", "charge: " + err.Error()},
		{"deadline", func(l *limiter) { l.chargeErr = context.DeadlineExceeded }, "throttle charge", "deadline"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e := newEndpoint(perDay(1), &plan.Throttle{Rate: 1, Burst: 1})
				e.serve = web.Handler(func(http.ResponseWriter, *http.Request) error {
					t.Error("it was served")
					return nil
				})
				tt.set(&e.limiter)
				want(t, e.get(t), http.StatusServiceUnavailable, unavailable, map[string]string{"Retry-After": "1"})
				wantCalls(t, e, tt.calls)
				if !strings.Contains(e.log.String(), tt.log) {
					t.Errorf("the log does not say %q: %s", tt.log, &e.log)
				}
			})
		})
	}
}

// Retry-After has to be there and at least 1 also when nothing is left of the
// window, here since it ended while the limiter's answer was under way.
func TestRetryAfterAtWindowEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(perDay(1), nil)
		e.get(t)
		time.Sleep(24*time.Hour - time.Millisecond)
		e.limiter.charged = func() { time.Sleep(time.Millisecond) }
		want(t, e.get(t), http.StatusTooManyRequests, limitExceeded, map[string]string{
			"RateLimit-Policy": `"quota";q=1;w=86400`,
			"RateLimit":        `"quota";r=0;t=1`,
			"Retry-After":      "1",
			"X-Amzn-ErrorType": "LimitExceededException",
		})
	})
}
