package web_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"helloapi/internal/web"
)

// frame is Observe with what it writes to.
type frame struct {
	log bytes.Buffer
	reg *prometheus.Registry
	mw  func(http.Handler) http.Handler
}

func newFrame() *frame {
	f := &frame{reg: prometheus.NewRegistry()}
	f.mw = web.Observe(slog.New(slog.NewJSONHandler(&f.log, nil)), web.NewMetrics(f.reg), nil)
	return f
}

// record returns the one record that was logged.
func (f *frame) record(t *testing.T) map[string]any {
	t.Helper()
	var rec map[string]any
	if err := json.Unmarshal(f.log.Bytes(), &rec); err != nil { // two records are no JSON
		t.Fatalf("log %q: %v", &f.log, err)
	}
	return rec
}

// metrics returns the samples: counters and gauges by value, histograms by
// the number of observations.
func (f *frame) metrics(t *testing.T) map[string]float64 {
	t.Helper()
	families, err := f.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	samples := map[string]float64{}
	for _, mf := range families {
		for _, m := range mf.GetMetric() {
			name := mf.GetName()
			for _, l := range m.GetLabel() {
				name += fmt.Sprintf(" %s=%s", l.GetName(), l.GetValue())
			}
			switch {
			case m.Counter != nil:
				samples[name] = m.GetCounter().GetValue()
			case m.Gauge != nil:
				samples[name] = m.GetGauge().GetValue()
			case m.Histogram != nil:
				samples[name] = float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return samples
}

func serve(h http.Handler, method, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, nil))
	return w
}

func TestFail(t *testing.T) {
	t.Parallel()
	cause := errors.New("no route to db.internal")
	tests := []struct {
		name    string
		err     error
		status  int
		message string
		headers map[string]string // of those that Fail sets for some
		log     string            // the cause
	}{
		{"its own text", &web.Error{Status: 400, Message: "The name is <bad>"}, 400, "The name is <bad>", nil, ""},
		{"the status' text", &web.Error{Status: 404}, 404, "Not Found", nil, ""},
		{"BadRequest", web.BadRequest("more than %d", 256), 400, "more than 256", nil, ""},
		{"with a cause", &web.Error{Status: 403, Err: cause}, 403, "Forbidden", nil, cause.Error()},
		{"type", &web.Error{Status: 403, Type: "ForbiddenException"}, 403, "Forbidden", map[string]string{"X-Amzn-ErrorType": "ForbiddenException"}, ""},
		{"Retry-After", &web.Error{Status: 429, RetryAfter: time.Minute}, 429, "Too Many Requests", map[string]string{"Retry-After": "60"}, ""},
		{"Retry-After rounded up", &web.Error{Status: 429, RetryAfter: time.Minute + 1}, 429, "Too Many Requests", map[string]string{"Retry-After": "61"}, ""},
		{"Retry-After at least 1", &web.Error{Status: 429, RetryAfter: 1}, 429, "Too Many Requests", map[string]string{"Retry-After": "1"}, ""},
		{"Retry-After in the past", &web.Error{Status: 429, RetryAfter: -time.Hour}, 429, "Too Many Requests", map[string]string{"Retry-After": "1"}, ""},
		{"wrapped", fmt.Errorf("greet: %w", &web.Error{Status: 409, Err: cause}), 409, "Conflict", nil, cause.Error()},
		{"Unavailable", web.Unavailable(cause), 503, "Service Unavailable", map[string]string{"Retry-After": "1"}, cause.Error()},
		{"deadline", context.DeadlineExceeded, 503, "Service Unavailable", map[string]string{"Retry-After": "1"}, "deadline exceeded"},
		{"deadline wrapped", fmt.Errorf("greet: %w", context.DeadlineExceeded), 503, "Service Unavailable", map[string]string{"Retry-After": "1"}, "greet: context deadline exceeded"},
		{"an Error comes before its cause", &web.Error{Status: 400, Err: context.DeadlineExceeded}, 400, "Bad Request", nil, "deadline exceeded"},
		{"any other", cause, 500, "Internal Server Error", nil, cause.Error()},
		{"cancelled", context.Canceled, 500, "Internal Server Error", nil, "context canceled"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFrame()
			w := serve(f.mw(web.Handler(func(http.ResponseWriter, *http.Request) error { return tt.err })), http.MethodGet, "/")

			if want := `{"message":"` + tt.message + `"}`; w.Code != tt.status || w.Body.String() != want {
				t.Errorf("answered %d %s, want %d %s", w.Code, w.Body, tt.status, want)
			}
			if got := w.Header().Get("Content-Type"); got != "application/json" {
				t.Errorf("Content-Type %q", got)
			}
			got := map[string]string{}
			for _, name := range []string{"Retry-After", "X-Amzn-ErrorType"} {
				if v := w.Header().Get(name); v != "" {
					got[name] = v
				}
			}
			if tt.headers == nil {
				tt.headers = map[string]string{}
			}
			if diff := cmp.Diff(tt.headers, got); diff != "" {
				t.Errorf("headers (-want +got)\n%s", diff)
			}

			rec := f.record(t)
			if text, _ := rec["error"].(string); !strings.Contains(text, tt.log) || tt.log == "" && text != "" {
				t.Errorf("logged the error %q, want %q", text, tt.log)
			}
			level := "INFO"
			if tt.status >= 500 {
				level = "ERROR"
			}
			if rec["level"] != level || rec["status"] != float64(tt.status) {
				t.Errorf("logged %v, status %v; want %s, %d", rec["level"], rec["status"], level, tt.status)
			}
		})
	}
}

// Errors are answered also where no record is kept.
func TestFailOutsideObserve(t *testing.T) {
	t.Parallel()
	w := serve(web.Handler(web.NoRoute), http.MethodGet, "/")
	if w.Code != http.StatusNotFound || w.Body.String() != `{"message":"Not Found"}` {
		t.Errorf("answered %d %s", w.Code, w.Body)
	}
}

func TestErrorText(t *testing.T) {
	t.Parallel()
	cause := errors.New("no route")
	tests := []struct {
		err  *web.Error
		want string
	}{
		{&web.Error{Status: 404}, "404 Not Found"},
		{&web.Error{Status: 400, Message: "The name is bad"}, "400 The name is bad"},
		{&web.Error{Status: 503, Err: cause}, "503 Service Unavailable: no route"},
	}
	for _, tt := range tests {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
	if err := web.Unavailable(cause); !errors.Is(err, cause) {
		t.Errorf("%v does not wrap its cause", err)
	}
}

func TestQuery(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequest(http.MethodGet, "/?a=1&b=x+y&a=%32", nil)
	got, err := web.Query(r)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(url.Values{"a": {"1", "2"}, "b": {"x y"}}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for _, query := range []string{"a=%zz", "a=1;b=2", "%"} {
		r.URL.RawQuery = query
		_, err := web.Query(r)
		if e, ok := errors.AsType[*web.Error](err); !ok || e.Status != http.StatusBadRequest || !strings.Contains(e.Message, "query") {
			t.Errorf("%s: %v, want a 400 about the query", query, err)
		}
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	if err := web.JSON(w, http.StatusCreated, web.Message{Message: `<é> & "`}); err != nil {
		t.Fatal(err)
	}
	want := `{"message":"<é> & \""}`
	if w.Code != http.StatusCreated || w.Body.String() != want {
		t.Errorf("answered %d %q, want 201 %q", w.Code, w.Body, want)
	}
	if got := w.Header().Get("Content-Length"); got != fmt.Sprint(len(want)) {
		t.Errorf("Content-Length %s, want %d", got, len(want))
	}
}

func TestJSONNotEncodable(t *testing.T) {
	t.Parallel()
	f := newFrame()
	h := web.Handler(func(w http.ResponseWriter, r *http.Request) error { return web.JSON(w, http.StatusOK, func() {}) })
	if w := serve(f.mw(h), http.MethodGet, "/"); w.Code != http.StatusInternalServerError || w.Body.String() != `{"message":"Internal Server Error"}` {
		t.Errorf("answered %d %s", w.Code, w.Body)
	}
	if text := fmt.Sprint(f.record(t)["error"]); !strings.Contains(text, "encode answer") {
		t.Errorf("logged %s", text)
	}
}

func TestFailAfterAnswerBegan(t *testing.T) {
	t.Parallel()
	f := newFrame()
	h := web.Handler(func(w http.ResponseWriter, r *http.Request) error {
		io.WriteString(w, "the first half")
		return &web.Error{Status: 503, RetryAfter: time.Second, Type: "T", Err: errors.New("no route to db.internal")}
	})
	w := serve(f.mw(h), http.MethodGet, "/")
	if w.Code != http.StatusOK || w.Body.String() != "the first half" {
		t.Errorf("answered %d %s", w.Code, w.Body)
	}
	rec := f.record(t)
	if text := fmt.Sprint(rec["error"]); !strings.Contains(text, "no route") || rec["status"] != 200.0 {
		t.Errorf("logged status %v and the error %s", rec["status"], text)
	}
}

// gone is a ResponseWriter whose client has left.
type gone struct {
	header   http.Header
	statuses []int
}

func (g *gone) Header() http.Header       { return g.header }
func (g *gone) WriteHeader(status int)    { g.statuses = append(g.statuses, status) }
func (g *gone) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// JSON returns the error of a write to a client that has left, and handlers
// return that of JSON: no second answer must follow the one that was begun.
func TestNoSecondAnswerAfterFailedWrite(t *testing.T) {
	t.Parallel()
	f := newFrame()
	g := &gone{header: http.Header{}}
	h := web.Handler(func(w http.ResponseWriter, r *http.Request) error {
		return web.JSON(w, http.StatusOK, web.Message{Message: "Hello"})
	})
	f.mw(h).ServeHTTP(g, httptest.NewRequest(http.MethodGet, "/", nil))
	if diff := cmp.Diff([]int{http.StatusOK}, g.statuses); diff != "" {
		t.Errorf("statuses sent (-want +got)\n%s", diff)
	}
	if text := fmt.Sprint(f.record(t)["error"]); strings.Count(text, "broken pipe") != 1 {
		t.Errorf("logged %q, want it once", text)
	}
}

func TestRecover(t *testing.T) {
	t.Parallel()
	f := newFrame()
	h := f.mw(web.Recover(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("out of cheese") })))
	w := serve(h, http.MethodGet, "/")
	if w.Code != http.StatusInternalServerError || w.Body.String() != `{"message":"Internal Server Error"}` {
		t.Errorf("answered %d %s", w.Code, w.Body)
	}
	rec := f.record(t)
	text := fmt.Sprint(rec["error"])
	if !strings.Contains(text, "out of cheese") || !strings.Contains(text, "web_test.go") {
		t.Errorf("logged %s, want the panic and where it was", text)
	}
	if rec["level"] != "ERROR" || rec["status"] != 500.0 {
		t.Errorf("logged %v, status %v", rec["level"], rec["status"])
	}
}

// What the handler said of an answer that it did not give must not stay.
func TestRecoverContentHeaders(t *testing.T) {
	t.Parallel()
	h := newFrame().mw(web.Recover(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Content-Length", "1")
		panic("out of cheese")
	})))
	w := serve(h, http.MethodGet, "/")
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type %q", got)
	}
	if got, want := w.Header().Get("Content-Length"), fmt.Sprint(w.Body.Len()); got != want {
		t.Errorf("Content-Length %s, want %s", got, want)
	}
}

func TestRecoverAfterHeader(t *testing.T) {
	t.Parallel()
	f := newFrame()
	done := make(chan struct{})
	h := f.mw(web.Recover(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "the first half")
		http.NewResponseController(w).Flush()
		panic("out of cheese")
	})))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		h.ServeHTTP(w, r)
	}))
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil {
		t.Errorf("the client read %q to the end: it can't tell that the rest is missing", body)
	}
	if string(body) != "the first half" {
		t.Errorf("read %q", body)
	}
	<-done
	if text := fmt.Sprint(f.record(t)["error"]); !strings.Contains(text, "out of cheese") {
		t.Errorf("logged %s", text)
	}
}

// A handler's own wish to abort is no bug of it.
func TestRecoverAbort(t *testing.T) {
	t.Parallel()
	f := newFrame()
	h := f.mw(web.Recover(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })))
	func() {
		defer func() {
			if v := recover(); v != http.ErrAbortHandler {
				t.Errorf("recovered %v, want ErrAbortHandler", v)
			}
		}()
		serve(h, http.MethodGet, "/")
	}()
	if text, ok := f.record(t)["error"]; ok {
		t.Errorf("logged %v", text)
	}
}

func TestLimitInFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFrame()
		leave := make(chan struct{})
		// LimitInFlight stands below Observe and Recover.
		h := f.mw(web.Recover(web.LimitInFlight(2)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-leave
			switch r.URL.Path {
			case "/panic":
				panic("out of cheese")
			case "/abort":
				panic(http.ErrAbortHandler)
			}
		}))))
		get := func(path string) (w *httptest.ResponseRecorder) {
			defer func() { recover() }()
			w = httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
			return w
		}
		// However a request ends, its place is free for another.
		for _, path := range []string{"/", "/panic", "/abort", "/"} {
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() { get(path) })
			}
			synctest.Wait()
			for range 3 {
				f.log.Reset()
				w := get("/")
				if w.Code != http.StatusServiceUnavailable || w.Body.String() != `{"message":"Service Unavailable"}` {
					t.Errorf("answered %d %s", w.Code, w.Body)
				}
				if got := w.Header().Get("Retry-After"); got != "1" {
					t.Errorf("Retry-After %q, want 1", got)
				}
				if text := fmt.Sprint(f.record(t)["error"]); !strings.Contains(text, "load shed") {
					t.Errorf("logged %s", text)
				}
			}
			leave <- struct{}{}
			leave <- struct{}{}
			wg.Wait()
			time.Sleep(time.Second) // more would be logged as samples
		}
		close(leave)
		if w := get("/"); w.Code != http.StatusOK {
			t.Errorf("afterwards: answered %d", w.Code)
		}
	})
}

// An answer that its client does not take keeps no other request from being
// served.
func TestLimitInFlightUntilAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFrame()
		begin, leave := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		defer wg.Wait()
		h := f.mw(web.LimitInFlight(1)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-begin
			w.WriteHeader(http.StatusOK)
			<-leave
		})))
		defer close(leave)
		wg.Go(func() { serve(h, http.MethodGet, "/") })
		synctest.Wait()
		if w := serve(h, http.MethodGet, "/"); w.Code != http.StatusServiceUnavailable {
			t.Errorf("before the answer: %d", w.Code)
		}
		close(begin)
		synctest.Wait()
		second := make(chan int, 1)
		wg.Go(func() {
			defer close(second)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
			second <- w.Code
		})
		synctest.Wait()
		select {
		case code := <-second:
			t.Errorf("while the answer is sent: %d", code)
		default: // it is served, and waits as the first
		}
	})
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	type key struct{}
	synctest.Test(t, func(t *testing.T) {
		ctx, leave := context.WithCancel(context.WithValue(t.Context(), key{}, "kept"))
		begin := time.Now()
		h := web.Timeout(10 * time.Second)(web.Handler(func(w http.ResponseWriter, r *http.Request) error {
			leave() // the client does
			ctx := r.Context()
			synctest.Wait()
			if err := ctx.Err(); err != nil {
				t.Errorf("the client has left, and the context has ended: %v", err)
			}
			if got := ctx.Value(key{}); got != "kept" {
				t.Errorf("the context has the value %v", got)
			}
			<-ctx.Done()
			if d := time.Since(begin); d != 10*time.Second {
				t.Errorf("the context ended after %s", d)
			}
			return ctx.Err()
		}))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
		if w.Code != http.StatusServiceUnavailable {
			t.Errorf("answered %d, want 503", w.Code)
		}
	})
}

// A context that is not needed any more is let go of.
func TestTimeoutCancels(t *testing.T) {
	t.Parallel()
	var ctx context.Context
	serve(web.Timeout(time.Hour)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { ctx = r.Context() })), http.MethodGet, "/")
	if ctx.Err() == nil {
		t.Error("the request is answered, and its context goes on")
	}
}

// routes are routed as those of internal/api are.
func routes(f *frame) *chi.Mux {
	r := chi.NewRouter()
	r.Use(f.mw, web.Recover, web.NormalizePath)
	r.NotFound(web.Handler(web.NoRoute).ServeHTTP)
	r.MethodNotAllowed(web.MethodNotAllowed(r).ServeHTTP)
	ok := func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusOK) }
	r.Get("/hello", ok)
	r.Get("/docs", ok)
	r.Head("/docs", ok)
	r.Post("/greetings", ok)
	r.Get("/greetings", ok)
	r.Delete("/greetings/{name}", ok)
	r.Get("/", ok)
	return r
}

func TestMethodNotAllowed(t *testing.T) {
	t.Parallel()
	tests := []struct {
		method, target string
		status         int
		allow          string
	}{
		{"GET", "/hello", 200, ""},
		{"GET", "/hello/", 200, ""},
		{"POST", "/hello", 405, "GET"},
		{"POST", "/hello/", 405, "GET"},
		{"POST", "/hello?name=a", 405, "GET"},
		{"HEAD", "/hello", 405, "GET"},
		{"OPTIONS", "/hello", 405, "GET"},
		{"TRACE", "/hello", 405, "GET"},
		{"POST", "/docs", 405, "GET, HEAD"},
		{"PUT", "/greetings", 405, "GET, POST"},
		{"GET", "/greetings/brooks", 405, "DELETE"},
		{"GET", "/greetings/a%2Fb", 405, "DELETE"},
		{"POST", "/", 405, "GET"},
		{"GET", "/nope", 404, ""},
		{"POST", "/nope", 404, ""},
		{"GET", "/hello/nope", 404, ""},
		// HTTP does not define these.
		{"BREW", "/hello", 405, "GET"},
		{"BREW", "/hello/", 405, "GET"},
		{"BREW", "/", 405, "GET"},
		{"BREW", "/nope", 404, ""},
		{"get", "/hello", 405, "GET"},
	}
	for _, tt := range tests {
		t.Run(tt.method+" "+tt.target, func(t *testing.T) {
			t.Parallel()
			w := serve(routes(newFrame()), tt.method, tt.target)
			if w.Code != tt.status {
				t.Errorf("answered %d, want %d", w.Code, tt.status)
			}
			if got := strings.Join(w.Header().Values("Allow"), " AND "); got != tt.allow {
				t.Errorf("Allow %q, want %q", got, tt.allow)
			}
			if want := map[int]string{
				200: "",
				404: `{"message":"Not Found"}`,
				405: `{"message":"Method Not Allowed"}`,
			}[tt.status]; w.Body.String() != want {
				t.Errorf("body %s, want %s", w.Body, want)
			}
		})
	}
}

// A router that is mounted inherits the handler, and chi hands that the path
// below the mount.
func TestMethodNotAllowedInMountedRouter(t *testing.T) {
	t.Parallel()
	r := routes(newFrame())
	r.Route("/v1", func(r chi.Router) {
		r.Get("/things", func(http.ResponseWriter, *http.Request) {})
		r.Put("/hello", func(http.ResponseWriter, *http.Request) {})
	})
	for _, tt := range []struct{ target, allow string }{
		{"/v1/things", "GET"},
		{"/v1/hello", "PUT"}, // not what /hello allows
	} {
		w := serve(r, http.MethodPost, tt.target)
		if got := w.Header().Get("Allow"); w.Code != http.StatusMethodNotAllowed || got != tt.allow {
			t.Errorf("POST %s: answered %d, Allow %q; want 405, %s", tt.target, w.Code, got, tt.allow)
		}
	}
}

func TestObserveHeaders(t *testing.T) {
	t.Parallel()
	h := routes(newFrame())
	seen := map[string]bool{}
	for _, target := range []string{"/hello", "/hello", "/nope"} {
		r := httptest.NewRequest(http.MethodGet, target, nil)
		r.Header.Set("X-Request-Id", "chosen-by-the-client")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s: %s %q, want %q", target, name, got, want)
			}
		}
		id := w.Header().Get("X-Request-Id")
		if len(id) < 20 || seen[id] || id == "chosen-by-the-client" {
			t.Errorf("%s: X-Request-Id %q", target, id)
		}
		seen[id] = true
	}
}

func TestObserveLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFrame()
		r := routes(f)
		r.Get("/things/{id}", web.Handler(func(w http.ResponseWriter, r *http.Request) error {
			time.Sleep(250 * time.Millisecond)
			rec := web.RecordOf(r.Context())
			rec.Key, rec.Plan, rec.Refused = "brooks", "free", "disabled"
			rec.Note(errors.New("first"))
			rec.Note(nil)
			rec.Note(errors.New("second"))
			w.WriteHeader(http.StatusAccepted)
			io.WriteString(w, "0123456789")
			io.WriteString(w, "0123456789")
			return nil
		}).ServeHTTP)
		w := serve(r, http.MethodGet, "/things/7")
		want := map[string]any{
			"time": time.Now().Format(time.RFC3339Nano), "level": "INFO", "msg": "request",
			"id": w.Header().Get("X-Request-Id"), "method": "GET", "route": "/things/{id}", "status": 202.0,
			"duration": 250e6, "bytes": 20.0, "client": "192.0.2.1",
			"key": "brooks", "plan": "free", "refused": "disabled", "error": "first\nsecond",
		}
		if diff := cmp.Diff(want, f.record(t)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

// Fields that say nothing are left out.
func TestObserveLogShort(t *testing.T) {
	t.Parallel()
	f := newFrame()
	serve(f.mw(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})), http.MethodGet, "/")
	rec := f.record(t)
	for _, name := range []string{"key", "plan", "refused", "error"} {
		if v, ok := rec[name]; ok {
			t.Errorf("logged %s=%v", name, v)
		}
	}
	if rec["status"] != 200.0 || rec["bytes"] != 0.0 {
		t.Errorf("logged status %v and %v bytes, want 200 and 0", rec["status"], rec["bytes"])
	}
}

// People put keys into any part of a request by mistake.
func TestObserveLogsNoSecret(t *testing.T) {
	t.Parallel()
	const secret = "hk_SECRETSECRETSECRETSECRET"
	for _, tt := range []struct{ method, target string }{
		{"GET", "/hello?name=" + secret},
		{"GET", "/hello/" + secret},
		{"GET", "/" + secret},
		{"POST", "/hello?x-api-key=" + secret},
		{"DELETE", "/greetings/" + secret},
		{"PUT", "/greetings/" + secret},
		{secret, "/hello"},
		{secret, "/nope"},
	} {
		f := newFrame()
		r := httptest.NewRequest(tt.method, tt.target, strings.NewReader(secret))
		for _, name := range []string{"X-Api-Key", "X-Request-Id", "User-Agent", "Referer", "Authorization", "Cookie", "X-Forwarded-For", secret} {
			r.Header.Set(name, secret)
		}
		r.Host = secret
		r.SetBasicAuth(secret, secret)
		w := httptest.NewRecorder()
		routes(f).ServeHTTP(w, r)
		if strings.Contains(strings.ToLower(f.log.String()), "secret") {
			t.Errorf("%s %s: logged %s", tt.method, tt.target, &f.log)
		}
		for name := range f.metrics(t) {
			if strings.Contains(strings.ToLower(name), "secret") {
				t.Errorf("%s %s: measured as %s", tt.method, tt.target, name)
			}
		}
		if method := fmt.Sprint(f.record(t)["method"]); tt.method == secret && method != "other" {
			t.Errorf("logged the method %s, want other", method)
		}
		if text := fmt.Sprint(w.Header()) + w.Body.String(); strings.Contains(strings.ToLower(text), "secret") {
			t.Errorf("%s %s: answered %s", tt.method, tt.target, text)
		}
	}
}

// What is not logged at a level is counted all the same.
func TestObserveLogLevel(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	reg := prometheus.NewRegistry()
	f := &frame{reg: reg}
	mw := web.Observe(slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelError})), web.NewMetrics(reg), nil)
	for _, status := range []int{200, 499, 500} {
		serve(mw(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status) })), http.MethodGet, "/")
	}
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), `"status":500`) {
		t.Errorf("logged %s, want the 500 only", &log)
	}
	if got := f.metrics(t)["helloapi_requests_total route= status=499"]; got != 1 {
		t.Errorf("the 499 was counted %v times", got)
	}
}

func TestObserveMetrics(t *testing.T) {
	t.Parallel()
	f := newFrame()
	r := routes(f)
	r.Get("/inflight", func(w http.ResponseWriter, r *http.Request) {
		if got := f.metrics(t)["helloapi_requests_in_flight"]; got != 1 {
			t.Errorf("%v requests in flight, want 1", got)
		}
	})
	r.Get("/refused/{n}", func(w http.ResponseWriter, r *http.Request) {
		web.RecordOf(r.Context()).Refused = "disabled"
		web.Fail(w, r, &web.Error{Status: http.StatusForbidden})
	})
	r.Get("/panic", func(http.ResponseWriter, *http.Request) { panic("out of cheese") })
	for _, target := range []string{"/hello", "/hello/", "/hello?name=a", "/inflight", "/refused/1", "/refused/2", "/panic", "/nope", "/nope/2"} {
		serve(r, http.MethodGet, target)
	}
	serve(r, http.MethodPost, "/hello")
	want := map[string]float64{
		"helloapi_requests_total route=/hello status=200":       3,
		"helloapi_requests_total route=/inflight status=200":    1,
		"helloapi_requests_total route=/refused/{n} status=403": 2,
		"helloapi_requests_total route=/panic status=500":       1,
		"helloapi_requests_total route= status=404":             2,
		"helloapi_requests_total route= status=405":             1,

		"helloapi_request_duration_seconds route=/hello":       3,
		"helloapi_request_duration_seconds route=/inflight":    1,
		"helloapi_request_duration_seconds route=/refused/{n}": 2,
		"helloapi_request_duration_seconds route=/panic":       1,
		"helloapi_request_duration_seconds route=":             3,

		"helloapi_refused_total reason=disabled": 2,
		"helloapi_requests_in_flight":            0,
	}
	if diff := cmp.Diff(want, f.metrics(t)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Anybody can send requests that are not served: a sample of them is logged, all
// are counted.
func TestSamples(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFrame()
		h := f.mw(web.Handler(func(w http.ResponseWriter, r *http.Request) error {
			rec := web.RecordOf(r.Context())
			switch r.URL.Path {
			case "/served":
				rec.Key = "brooks"
				return nil
			case "/bug":
				return errors.New("a bug")
			case "/throttled":
				rec.Key = "brooks"
				return &web.Error{Status: http.StatusTooManyRequests}
			case "/shed":
				return web.Unavailable(errors.New("too many"))
			}
			rec.Refused = "unknown"
			return &web.Error{Status: http.StatusForbidden}
		}))
		lines := func(path string, n int) []string {
			f.log.Reset()
			for range n {
				serve(h, http.MethodGet, path)
			}
			return strings.Split(strings.TrimSpace(f.log.String()), "\n")
		}
		for path, want := range map[string]int{"/served": 100, "/bug": 100, "/throttled": 10, "/shed": 10, "/refused": 10} {
			if got := len(lines(path, 100)); got != want {
				t.Errorf("100 times %s: %d lines, want %d", path, got, want)
			}
		}
		time.Sleep(time.Second)
		got := lines("/shed", 2)
		if len(got) != 2 || !strings.Contains(got[0], `"unlogged":90`) || strings.Contains(got[1], "unlogged") {
			t.Errorf("a second later: %s", got)
		}
		if n := f.metrics(t)["helloapi_requests_total route= status=503"]; n != 102 {
			t.Errorf("%v of 102 requests are counted", n)
		}
	})
}

func TestOnStatus(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		serve http.HandlerFunc
		want  []int
	}{
		{"a status", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404) }, []int{404}},
		{"a body", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "a") }, []int{200}},
		{"an empty body", func(w http.ResponseWriter, r *http.Request) { w.Write(nil) }, []int{200}},
		{"flushed", func(w http.ResponseWriter, r *http.Request) { http.NewResponseController(w).Flush() }, []int{200}},
		{"nothing", func(http.ResponseWriter, *http.Request) {}, nil},
		{"an error", func(w http.ResponseWriter, r *http.Request) { web.Fail(w, r, errors.New("a bug")) }, []int{500}},
		{"a panic", func(http.ResponseWriter, *http.Request) { panic("out of cheese") }, []int{500}},
		{
			"all of it, and again",
			func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(202)
				w.WriteHeader(500)
				io.WriteString(w, "a")
				http.NewResponseController(w).Flush()
			},
			[]int{202},
		},
		{"copied", func(w http.ResponseWriter, r *http.Request) { io.Copy(w, strings.NewReader("a")) }, []int{200}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got []int
			h := newFrame().mw(web.Recover(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				rec := web.RecordOf(r.Context())
				rec.OnStatus(func(status int) { w.Header().Set("X-Second", w.Header().Get("X-First")) })
				rec.OnStatus(func(status int) { // called before the one that was added before
					got = append(got, status)
					w.Header().Set("X-First", fmt.Sprint(status)) // the header can still be changed
				})
				tt.serve(w, r)
			})))
			w := serve(h, http.MethodGet, "/")
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("called with (-want +got)\n%s", diff)
			}
			// Result has the header as it was sent.
			if sent := w.Result().Header; len(tt.want) > 0 && sent.Get("X-Second") != fmt.Sprint(tt.want[0]) {
				t.Errorf("X-First %q, X-Second %q were sent", sent.Get("X-First"), sent.Get("X-Second"))
			}
		})
	}
}

// A 1xx comes before the answer. It takes a real server to send one.
func TestInformational(t *testing.T) {
	t.Parallel()
	f := newFrame()
	var got []int
	done := make(chan struct{})
	h := f.mw(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		web.RecordOf(r.Context()).OnStatus(func(status int) { got = append(got, status) })
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusTeapot)
	}))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		h.ServeHTTP(w, r)
	}))
	defer srv.Close()
	var hints []int
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
			hints = append(hints, code)
			return nil
		},
	})
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := srv.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	<-done
	if diff := cmp.Diff([]int{103, 103}, hints); diff != "" {
		t.Errorf("hints (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]int{418}, got); diff != "" || resp.StatusCode != 418 {
		t.Errorf("answered %d, OnStatus called with (-want +got)\n%s", resp.StatusCode, diff)
	}
	if rec := f.record(t); rec["status"] != 418.0 {
		t.Errorf("logged status %v", rec["status"])
	}
}

func TestFlush(t *testing.T) {
	t.Parallel()
	more := make(chan struct{})
	srv := httptest.NewServer(newFrame().mw(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		io.WriteString(w, "one")
		if err := rc.Flush(); err != nil {
			t.Error(err)
		}
		<-more
		io.WriteString(w, "two")
		// What Observe does not know of is still reached.
		if err := rc.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Error(err)
		}
	})))
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var one [3]byte
	if _, err := io.ReadFull(resp.Body, one[:]); err != nil || string(one[:]) != "one" {
		t.Errorf("read %q, %v before the rest was written", one, err)
	}
	close(more)
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "two" {
		t.Errorf("then read %q, %v", rest, err)
	}
}

// Outside of a request a record can be written to, and is nobody else's.
func TestRecordOfNothing(t *testing.T) {
	t.Parallel()
	web.RecordOf(t.Context()).Key = "k"
	if rec := web.RecordOf(t.Context()); rec == nil || rec.Key != "" {
		t.Errorf("got %+v", rec)
	}
}

func TestSeconds(t *testing.T) {
	t.Parallel()
	tests := []struct {
		d    time.Duration
		want int64
	}{
		{-time.Hour, 1},
		{0, 1},
		{1, 1},
		{time.Second, 1},
		{time.Second + 1, 2},
		{31*24*time.Hour - 1, 31 * 24 * 3600},
		{31 * 24 * time.Hour, 31 * 24 * 3600},
		{31*24*time.Hour + 1, 31*24*3600 + 1},
	}
	for _, tt := range tests {
		if got := web.Seconds(tt.d); got != tt.want {
			t.Errorf("Seconds(%s) = %d, want %d", tt.d, got, tt.want)
		}
	}
}
