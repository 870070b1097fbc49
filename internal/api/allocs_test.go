package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"

	"helloapi/internal/api"
	"helloapi/internal/apikey"
	"helloapi/internal/limits"
	"helloapi/internal/memmeter"
	"helloapi/internal/plan"
	"helloapi/internal/web"
)

// mostAllocations is how many objects a greeting may allocate in the handler
// beyond those of a bare chi handler that answers the same JSON. There are 23;
// the race detector, which has pools forget, makes it a few more.
const mostAllocations = 30

// TestAllocations counts what a greeting allocates in the handler, the stores
// and the connection left out.
func TestAllocations(t *testing.T) {
	ours, bare := testing.AllocsPerRun(1000, greet(t, newAPI(t))), testing.AllocsPerRun(1000, greet(t, bareHandler()))
	t.Logf("a greeting allocates %v objects in the handler, a bare handler %v", ours, bare)
	if over := ours - bare; over > mostAllocations {
		t.Errorf("a greeting allocates %v objects more than a bare handler, want at most %d", over, mostAllocations)
	}
}

func BenchmarkGreeting(b *testing.B) {
	for name, h := range map[string]http.Handler{"helloapi": newAPI(b), "bare": bareHandler()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			f := greet(b, h)
			for b.Loop() {
				f()
			}
		})
	}
}

func greet(t testing.TB, h http.Handler) func() {
	return func() {
		r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "/hello?name=brooks", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.RemoteAddr = "127.0.0.1:4711"
		r.Header.Set("X-Api-Key", goodKey.Reveal())
		w := discard{header: http.Header{}}
		h.ServeHTTP(&w, r)
		if w.status != http.StatusOK {
			t.Fatalf("status %d", w.status)
		}
	}
}

// A discard is an http.ResponseWriter that keeps the status only.
type discard struct {
	header http.Header
	status int
}

func (w *discard) Header() http.Header         { return w.header }
func (w *discard) WriteHeader(status int)      { w.status = status }
func (w *discard) Write(b []byte) (int, error) { return len(b), nil }

// bareHandler is the least that there can be.
func bareHandler() http.Handler {
	r := chi.NewRouter()
	r.Get("/hello", func(w http.ResponseWriter, r *http.Request) {
		body, _ := json.Marshal(web.Message{Message: fmt.Sprintf("Hello %s #%d!", r.URL.Query().Get("name"), 1)})
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write(body)
	})
	return r
}

var goodKey = apikey.Generate()

func newAPI(t testing.TB) http.Handler {
	l := limits.New(limits.Config{
		Local: memmeter.New(), Usage: noUsage{}, Replica: "here", Log: slog.New(slog.DiscardHandler),
	})
	h, err := api.New(api.Config{
		Greetings: numbers{}, Keys: oneKey{}, Limits: l,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Metrics: web.NewMetrics(prometheus.NewRegistry()),
		CORSAllowedOrigins: []string{"*"}, MaxInFlight: 4096, RequestTimeout: 10 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

type numbers struct{}

func (numbers) Greet(context.Context, string) (int64, error) { return 1, nil }

type oneKey struct{}

var key = &apikey.Key{
	ID: "id", Name: "name", Enabled: true,
	Plan: &plan.Plan{
		Name:     "plan",
		Quota:    &plan.Quota{Limit: 1_000_000_000, Period: plan.Day},
		Throttle: &plan.Throttle{Rate: 1e9, Burst: 1e9},
	},
}

func (oneKey) Find(_ context.Context, h apikey.Hash) (*apikey.Key, error) {
	if h != goodKey.Hash() {
		return nil, apikey.ErrUnknown
	}
	return key, nil
}

func (oneKey) Now() time.Time { return time.Now() }

type noUsage struct{ limits.UsageStore }

func (noUsage) RecordUsage(context.Context, string, []limits.UsageRow) error { return nil }
func (noUsage) Used(context.Context, limits.UsageQuery) (c limits.Charged, err error) {
	return c, nil
}
func (noUsage) TrimUsage(_ context.Context, _, _ plan.Date) error { return nil }
