package api_test

import (
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"helloapi/internal/api"
	"helloapi/internal/web"
)

// Port 80 has places in flight of its own: one request more gets 503, which a
// page can read.
func TestPort80IsFull(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}), make(chan struct{})
	h := api.NewPort80(api.Config{
		Log: slog.New(slog.DiscardHandler), Metrics: web.NewMetrics(prometheus.NewRegistry()),
		CORSAllowedOrigins: []string{"*"}, MaxInFlight: 1, RequestTimeout: time.Minute,
	}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-leave
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		ask(h, http.MethodGet, "http://api.example.com/", "")
	}()
	<-entered
	w := ask(h, http.MethodGet, "http://api.example.com/", "")
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || w.Header().Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("answered %d %v", w.Code, w.Header())
	}
	close(leave)
	<-done
}
