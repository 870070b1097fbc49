// Package api is the map: every public route and, in order, what a request
// passes before it gets there. An endpoint is added with one line.
package api

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/cors"

	"helloapi/internal/apikey"
	"helloapi/internal/hello"
	"helloapi/internal/meter"
	"helloapi/internal/web"
)

// Config is what the routes need.
type Config struct {
	Greetings hello.Greetings
	Keys      Keys
	Limiter   meter.Limiter
	Ledger    *meter.Ledger

	Log     *slog.Logger
	Metrics *web.Metrics

	CORSAllowedOrigins []string      // "*" for any
	MaxInFlight        int           // requests served at a time; more get 503
	RequestTimeout     time.Duration // how long one may take
}

// Keys finds keys, and has the clock by which they expire.
type Keys interface {
	apikey.Finder
	Now() time.Time
}

// New returns the public API.
func New(c Config) http.Handler {
	r := chi.NewRouter()
	r.Use(
		web.Observe(c.Log, c.Metrics), // outermost: it sees every answer
		allowOrigins(c),               // before routing and refusing, so that a page can read any answer, and preflights need no key
		web.Recover,                   // below CORS: a page can read a 500 too
		web.Shed(c.MaxInFlight),       // before anything that costs
		web.Finish(c.RequestTimeout),  // from here on a request ends by its own time only
		web.NormalizePath,             // /hello/ and /%68ello are /hello
	)
	r.NotFound(web.Handler(web.NoRoute).ServeHTTP)
	r.MethodNotAllowed(web.MethodNotAllowed(r).ServeHTTP)

	m := meter.New(c.Limiter, c.Ledger)
	keyed := r.With(
		apikey.Require(c.Keys, c.Keys.Now), // 403
		m.Enforce,                          // 429; charges what is answered below 400
	)
	keyed.Method(http.MethodGet, "/hello", hello.Handler(c.Greetings))

	// Throttled, but not charged, and answered also when the quota is spent.
	r.With(apikey.Require(c.Keys, c.Keys.Now), m.Throttle).
		Method(http.MethodGet, "/usage", web.Handler(m.Usage))

	return r
}

// allowOrigins lets pages of other origins call, and read what limits them.
func allowOrigins(c Config) func(http.Handler) http.Handler {
	return cors.Handler(cors.Options{
		AllowedOrigins: c.CORSAllowedOrigins,
		// Any method that a page may try: a 405 has to be readable as well.
		AllowedMethods: []string{
			http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		},
		AllowedHeaders: []string{"*"},
		ExposedHeaders: []string{"RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-Id", "Location"},
		MaxAge:         int((2 * time.Hour).Seconds()), // the most that Chromium grants
	})
}
