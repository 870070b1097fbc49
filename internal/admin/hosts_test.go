package admin

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// newProbes is the handler of a replica that is ready until it gets another
// error.
func newProbes(unready *error, pprof bool) http.Handler {
	return New(Config{
		Ready: func(context.Context) error { return *unready }, Draining: func() bool { return false }, Metrics: prometheus.NewRegistry(),
		About: func() [][2]string { return nil }, Hosts: []string{"", "api-1", "my_service"}, Pprof: pprof,
	})
}

// A page that a browser shows can't read what is here: not by a name of its own
// that leads here, and not across sites.
func TestProtect(t *testing.T) {
	var ready error
	h := newProbes(&ready, true)
	for _, test := range []struct {
		host, path string
		header     []string
		status     int
	}{
		{"127.0.0.1:8081", "/readyz", nil, 200},
		{"10.1.2.3:8081", "/metrics", nil, 200}, // Kubernetes, Prometheus
		{"[fd00::1]:8081", "/readyz", nil, 200},
		{"[fd00::1]", "/readyz", nil, 200},
		{"localhost:8081", "/", nil, 200},
		{"LOCALHOST.", "/", nil, 200},
		{"api-1:8081", "/metrics", nil, 200},
		{"my_service:8081", "/metrics", nil, 200},
		{"", "/readyz", nil, 200}, // HTTP/1.0
		{"evil.example:8081", "/readyz", nil, 421},
		{"evil.example", "/debug/pprof/cmdline", nil, 421},
		{"api-1.evil.example:8081", "/metrics", nil, 421},
		{"127.0.0.1.evil.example:8081", "/metrics", nil, 421},
		{"localhost.evil.example", "/", nil, 421},
		{"evil.example", "/nothing", nil, 421},
		{"localhost:8081", "/metrics", []string{"Origin", "https://evil.example"}, 403},
		{"localhost:8081", "/metrics", []string{"Origin", "null"}, 403},
		{"localhost:8081", "/metrics", []string{"Origin", "http://localhost:8080"}, 403},
		{"localhost:8081", "/metrics", []string{"Origin", "http://localhost:8081"}, 200},
		{"localhost:8081", "/metrics", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"localhost:8081", "/debug/pprof/profile", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Dest", "document"}, 403},
		{"localhost:8081", "/", []string{"Sec-Fetch-Site", "same-site", "Sec-Fetch-Dest", "iframe"}, 403},
		{"localhost:8081", "/", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Dest", "document"}, 200}, // a link
		{"localhost:8081", "/metrics", []string{"Sec-Fetch-Site", "none", "Sec-Fetch-Dest", "document"}, 200},
		{"localhost:8081", "/metrics", []string{"Sec-Fetch-Site", "same-origin"}, 200},
	} {
		r := httptest.NewRequest(http.MethodGet, test.path, nil)
		r.Host = test.host
		for i := 0; i < len(test.header); i += 2 {
			r.Header.Set(test.header[i], test.header[i+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != test.status || w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s of %q with %v: %d, want %d", test.path, test.host, test.header, w.Code, test.status)
		}
	}
}

// Balancers probe with HEAD and OPTIONS too: the status is what counts.
func TestProbeMethods(t *testing.T) {
	var ready error
	h := newProbes(&ready, false)
	ask := func(method, path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(method, path, nil)
		r.Host = "127.0.0.1"
		h.ServeHTTP(w, r)
		return w
	}
	for _, method := range []string{"GET", "HEAD", "OPTIONS"} {
		for _, path := range []string{"/livez", "/readyz", "/metrics", "/"} {
			if w := ask(method, path); w.Code != 200 {
				t.Errorf("%s %s: %d", method, path, w.Code)
			}
		}
	}
	if w := ask("POST", "/readyz"); w.Code != 405 || w.Header().Get("Allow") != "GET, HEAD, OPTIONS" {
		t.Errorf("POST: %d, Allow %q", w.Code, w.Header().Get("Allow"))
	}
	ready = errors.New("the database is away")
	for _, method := range []string{"GET", "HEAD", "OPTIONS"} {
		if w := ask(method, "/readyz"); w.Code != 503 || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s /readyz while not ready: %d", method, w.Code)
		}
	}
}
