// Package admin is the internal listener's handler, for probes, monitoring
// and operators. It asks for no key and must not be reachable from outside.
package admin

import (
	"context"
	"errors"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"helloapi/internal/certs"
	"helloapi/internal/web"
)

// readyTimeout bounds how long a probe waits for the stores.
const readyTimeout = time.Second

// errDraining is why a replica that stops is not ready.
var errDraining = errors.New("draining")

// Config is what the routes need.
type Config struct {
	Ready    func(context.Context) error // nil if the stores answer
	Draining func() bool                 // whether the process is about to stop
	Metrics  prometheus.Gatherer
	Pprof    bool
	Hosts    []string // names that it is asked by, beside localhost and addresses

	// What the operator's page tells.
	Version      string
	About        func() [][2]string    // names and values
	Certificates func() []certs.Status // nil without TLS
}

// New returns the handler.
func New(c Config) http.Handler {
	r := chi.NewRouter()
	r.Use(protect(c.Hosts))
	for path, h := range map[string]http.Handler{
		"/":        web.Handler(c.page),
		"/livez":   web.Handler(live),
		"/readyz":  c.ready(),
		"/metrics": promhttp.HandlerFor(c.Metrics, promhttp.HandlerOpts{}),
	} {
		r.Method(http.MethodGet, path, h)
		r.Method(http.MethodHead, path, h)
		r.Method(http.MethodOptions, path, h) // what HAProxy asks with by default
	}
	if c.Pprof {
		r.HandleFunc("/debug/pprof/*", pprof.Index)
		r.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		r.HandleFunc("/debug/pprof/profile", pprof.Profile)
		r.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		r.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	r.NotFound(web.Handler(web.NoRoute).ServeHTTP)
	r.MethodNotAllowed(web.MethodNotAllowed(r).ServeHTTP)
	return r
}

// live answers 200 as long as the process serves at all: a restart would not
// mend a store.
func live(w http.ResponseWriter, _ *http.Request) error {
	return web.JSON(w, http.StatusOK, web.Message{Message: "OK"})
}

// ready answers 200 if requests should be sent here. The cause of a 503 is in
// the answer, since only operators read it; errors of stores hold no secret.
func (c Config) ready() web.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := c.unready(r.Context()); err != nil {
			return &web.Error{Status: http.StatusServiceUnavailable, Message: err.Error(), RetryAfter: time.Second}
		}
		return web.JSON(w, http.StatusOK, web.Message{Message: "OK"})
	}
}

// unready returns why no requests should be sent here, or nil. Certificates are
// no reason: the CA has to get in before there is one.
func (c Config) unready(ctx context.Context) error {
	if c.Draining() {
		return errDraining
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return c.Ready(ctx)
}
