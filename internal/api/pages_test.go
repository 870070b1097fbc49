package api_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"helloapi/internal/api"
	"helloapi/internal/apikey"
	"helloapi/internal/limits"
	"helloapi/internal/memmeter"
	"helloapi/internal/web"
)

// counted are stores that count how often they are asked.
type counted struct {
	limits.Counters
	noUsage
	asked int
}

func (c *counted) Greet(context.Context, string) (int64, error) {
	c.asked++
	return 1, nil
}

func (c *counted) Find(context.Context, apikey.Hash) (*apikey.Key, error) {
	c.asked++
	return key, nil
}

func (c *counted) Take(ctx context.Context, r limits.Request) (limits.Taken, error) {
	c.asked++
	return c.Counters.Take(ctx, r)
}

// newCounted returns an API, the stores that it asks, and its log.
func newCounted(t *testing.T, change func(*api.Config)) (http.Handler, *counted, *bytes.Buffer) {
	t.Helper()
	stores, log := &counted{Counters: memmeter.New()}, new(bytes.Buffer)
	cfg := api.Config{
		Greetings: stores, Keys: stores,
		Limits: limits.New(limits.Config{Local: stores, Usage: stores, Replica: "here", Log: slog.New(slog.DiscardHandler)}),
		Log:    slog.New(slog.NewTextHandler(log, nil)), Metrics: web.NewMetrics(prometheus.NewRegistry()),
		CORSAllowedOrigins: []string{"*"}, MaxInFlight: 4096, RequestTimeout: 10 * time.Second, Pages: true,
	}
	change(&cfg)
	h, err := api.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h, stores, log
}

func ask(h http.Handler, method, target, key string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	r.Header.Set("Origin", "https://app.example.com")
	if key != "" {
		r.Header.Set("X-Api-Key", key)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// A page is for anybody, costs no store anything, and passes the frame like any
// other request.
func TestPages(t *testing.T) {
	t.Parallel()
	h, stores, log := newCounted(t, func(*api.Config) {})
	for _, test := range []struct {
		method, target string
		status         int
		allow          string
	}{
		{"GET", "/", 200, ""},
		{"HEAD", "/", 200, ""},
		{"POST", "/", 405, "GET, HEAD"},
		{"GET", "/docs", 200, ""},
		{"HEAD", "/docs", 200, ""},
		{"GET", "/docs/", 200, ""},
		{"GET", "/%64ocs", 200, ""},
		{"GET", "/docs?x=%zz", 200, ""},
		{"GET", "/openapi.json", 200, ""},
		{"HEAD", "/openapi.json", 200, ""},
		{"GET", "/assets/docs.js", 200, ""},
		{"POST", "/docs", 405, "GET, HEAD"},
		{"OPTIONS", "/openapi.json", 405, "GET, HEAD"}, // no preflight
		{"BREW", "/assets/docs.js", 405, "GET, HEAD"},
		{"GET", "/assets", 404, ""},
		{"GET", "/assets/pages.go", 404, ""},
		{"GET", "/assets/../pages.go", 404, ""},
		{"GET", "/openapi.json/x", 404, ""},
	} {
		log.Reset()
		w := ask(h, test.method, test.target, goodKey.Reveal())
		if w.Code != test.status || w.Header().Get("Allow") != test.allow {
			t.Errorf("%s %s: %d, Allow %q; want %d, %q", test.method, test.target, w.Code, w.Header().Get("Allow"), test.status, test.allow)
		}
		for name, want := range map[string]string{"Access-Control-Allow-Origin": "*", "X-Content-Type-Options": "nosniff", "Ratelimit": ""} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s %s: %s: %q, want %q", test.method, test.target, name, got, want)
			}
		}
		if id := w.Header().Get("X-Request-Id"); len(id) < 16 || !strings.Contains(log.String(), "id="+id) || !strings.Contains(log.String(), fmt.Sprint("status=", test.status)) {
			t.Errorf("%s %s: X-Request-Id %q, logged %s", test.method, test.target, id, log)
		}
		if policy := w.Header().Get("Content-Security-Policy"); (policy != "") != (test.status == 200) {
			t.Errorf("%s %s: Content-Security-Policy %q", test.method, test.target, policy)
		}
	}
	if stores.asked != 0 {
		t.Errorf("the stores were asked %d times", stores.asked)
	}
	// They do count.
	if w := ask(h, "GET", "/hello", goodKey.Reveal()); w.Code != 200 || stores.asked != 3 {
		t.Errorf("GET /hello: %d, the stores were asked %d times, want 3", w.Code, stores.asked)
	}
}

func TestNoPages(t *testing.T) {
	t.Parallel()
	h, _, _ := newCounted(t, func(c *api.Config) { c.Pages = false })
	for _, path := range []string{"/", "/docs", "/openapi.json", "/assets/docs.js", "/assets/swagger-ui.js"} {
		if w := ask(h, "GET", path, ""); w.Code != 404 || w.Body.String() != `{"message":"Not Found"}` {
			t.Errorf("GET %s: %d %.40s", path, w.Code, w.Body)
		}
	}
}

// A page is a request in flight like any other.
func TestPagesInFlight(t *testing.T) {
	t.Parallel()
	h, _, _ := newCounted(t, func(c *api.Config) { c.MaxInFlight = 0 })
	if w := ask(h, "GET", "/docs", ""); w.Code != 503 || w.Header().Get("Retry-After") != "1" || w.Header().Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("GET /docs: %d %v", w.Code, w.Header())
	}
}
