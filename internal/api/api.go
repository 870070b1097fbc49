// Package api is the map: every public route and, in order, what a request
// passes before it gets there. An endpoint is added with one line.
package api

import (
	"cmp"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/cors"

	"helloapi/internal/apikey"
	"helloapi/internal/database"
	"helloapi/internal/hello"
	"helloapi/internal/idempotency"
	"helloapi/internal/limits"
	"helloapi/internal/meter"
	"helloapi/internal/pages"
	"helloapi/internal/refusals"
	"helloapi/internal/web"
)

// Config is what the endpoints need.
type Config struct {
	Greetings hello.Greetings
	DB        *database.DB         // for the rows of endpoints
	Answers   *idempotency.Answers // to requests that are repeated
	Keys      Keys
	Limits    *limits.Limits
	Refusals  *refusals.Recorder // nil: what is refused is not recorded

	Log            *slog.Logger
	Metrics        *web.Metrics
	TrustedProxies web.Proxies

	CORSAllowedOrigins []string      // "*" for any
	MaxInFlight        int           // requests served at a time; more get 503
	RequestTimeout     time.Duration // how long one may take
	Pages              bool          // whether the pages of package pages are served
}

// Keys finds keys, and has the clock by which they expire.
type Keys interface {
	apikey.Finder
	Now() time.Time
}

// New returns the public API: the endpoints of this map, and any others. It
// fails, and names the endpoint, where one of them could not answer.
func New(c Config, others ...Endpoint) (http.Handler, error) {
	m := meter.New(c.Limits, c.Refusals)
	endpoints := append([]Endpoint{
		{Method: "GET", Path: "/hello", Handler: with(hello.Handler, c.Greetings), Idempotent: true, OpenAPI: hello.OpenAPI},
		{Method: "GET", Path: "/usage", Handler: m.Usage, Free: true, OpenAPI: meter.OpenAPI}, // works even when the quota is used up
	}, others...)
	if err := check(endpoints); err != nil {
		return nil, err
	}
	document, err := contract(endpoints)
	if err != nil {
		return nil, err
	}

	r := chi.NewRouter()
	r.Use(c.frame()...)
	r.Use(web.NormalizePath) // /hello/ and /%68ello are /hello
	r.NotFound(web.Handler(web.NoRoute).ServeHTTP)
	r.MethodNotAllowed(web.MethodNotAllowed(r).ServeHTTP)
	keyed := r.With(apikey.Require(c.Keys, c.Keys.Now, c.Refusals.Add)) // 403
	for _, e := range endpoints {
		h := e.metered(m, c.Answers)
		if e.MaxBody != 0 { // before what reads the body to find a repeat
			h = web.LimitBody(e.MaxBody)(h)
		}
		keyed.Method(e.Method, e.Path, h)
	}
	if c.Pages {
		all, err := pages.New(document)
		if err != nil {
			return nil, err
		}
		for path, h := range pages.Routes(all) { // for anybody: they cost no store anything
			r.Method(http.MethodGet, path, h)
			r.Method(http.MethodHead, path, h)
		}
	}
	return r, nil
}

// metered returns the handler with what a request passes behind its key.
func (e Endpoint) metered(m *meter.Meter, answers *idempotency.Answers) http.Handler {
	var handler http.Handler = e.Handler
	if strings.Contains(e.Path, "{") {
		handler = web.UnescapePath(handler)
	}
	if e.Free {
		return m.Free(handler) // 429
	}
	cost := cmp.Or(e.Cost, 1)
	metered := m.Enforce(cost)(handler) // 429; charges what is answered below 400
	if !e.Idempotent {
		return metered
	}
	// A repeat is throttled, but not charged, and works even when the quota is
	// used up. So it is found between the throttle and the charge.
	repeatable := m.Throttle(answers.Claim(m.Charge(cost)(answers.Keep(handler))))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if idempotency.Asked(r) {
			repeatable.ServeHTTP(w, r)
		} else {
			metered.ServeHTTP(w, r)
		}
	})
}

// NewPort80 returns what answers at port 80, beside the API with TLS: next, for
// requests without a key. Its requests have places in flight of their own.
func NewPort80(c Config, next http.Handler) http.Handler {
	r := chi.NewRouter()
	r.Use(c.frame()...)
	next = apikey.RefuseInClear(next)
	r.Handle("/*", next)
	r.NotFound(next.ServeHTTP)         // OPTIONS *
	r.MethodNotAllowed(next.ServeHTTP) // a method that chi does not know
	return r
}

// frame is what every request of the public passes first.
func (c Config) frame() chi.Middlewares {
	return chi.Middlewares{
		web.Observe(c.Log, c.Metrics, c.TrustedProxies), // outermost: it sees every answer
		allowOrigins(c),                  // before routing and refusing, so that a page can read any answer, and preflights need no key
		web.Recover,                      // below CORS: a page can read a 500 too
		web.LimitInFlight(c.MaxInFlight), // before anything that costs
		web.Timeout(c.RequestTimeout),    // from here on a request ends by its own time only
	}
}

// allowOrigins lets pages of other origins call, and read what limits them.
func allowOrigins(c Config) func(http.Handler) http.Handler {
	return anyMethod(cors.Handler(cors.Options{
		AllowedOrigins: c.CORSAllowedOrigins,
		AllowedMethods: []string{http.MethodGet}, // see anyMethod
		AllowedHeaders: []string{"*"},
		ExposedHeaders: []string{"RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-Id", "Location"},
		MaxAge:         int((2 * time.Hour).Seconds()), // the most that Chromium grants
		// The answer to a preflight is anyMethod's.
		OptionsPassthrough: true,
	}))
}

// anyMethod has allow, which knows no "any method", take each for GET: a page
// has to be able to read that FOO gets a 405 as well.
func anyMethod(allow func(http.Handler) http.Handler) func(http.Handler) http.Handler {
	const asked, allowed = "Access-Control-Request-Method", "Access-Control-Allow-Methods"
	headers := allow(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			method := r.Header.Get(asked)
			switch {
			case r.Method == http.MethodGet:
				headers.ServeHTTP(w, r)
				next.ServeHTTP(w, r)
			case r.Method != http.MethodOptions || method == "" || r.Header["Origin"] == nil:
				get := *r
				get.Method = http.MethodGet
				headers.ServeHTTP(w, &get)
				next.ServeHTTP(w, r)
			default: // a preflight
				get := *r
				get.Header = r.Header.Clone()
				get.Header.Set(asked, http.MethodGet)
				headers.ServeHTTP(w, &get)
				if w.Header().Get(allowed) != "" {
					w.Header().Set(allowed, method)
				}
				w.WriteHeader(http.StatusOK)
			}
		})
	}
}
