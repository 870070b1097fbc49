package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
)

// errShed is the cause of a 503 given to a request that was one too many.
var errShed = errors.New("load shed: more requests in flight than the limit")

// Recover answers 500 where a handler panics, and goes on.
func Recover(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler {
				panic(v)
			}
			err := fmt.Errorf("panic: %v\n%s", v, debug.Stack())
			rec := RecordOf(r.Context())
			if rec.status != 0 { // too late for another answer: cut this one short
				rec.Note(err)
				panic(http.ErrAbortHandler)
			}
			Fail(w, r, err)
		}()
		next.ServeHTTP(w, r)
	})
}

// LimitInFlight answers 503 at once while n requests are in flight already, so
// that those in flight finish in time. A request is in flight until its answer
// begins: a client that does not read keeps no other from being served.
func LimitInFlight(n int) func(http.Handler) http.Handler {
	slots := make(chan struct{}, n)
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case slots <- struct{}{}:
			default:
				Fail(w, r, Unavailable(errShed))
				return
			}
			held := true
			release := func(int) {
				if held {
					held = false
					<-slots
				}
			}
			defer release(0)
			RecordOf(r.Context()).OnStatus(release)
			next.ServeHTTP(w, r)
		})
	}
}

// Timeout lets a request run on for up to limit when its client has left: it
// may have been charged already, and what it does is done to the end.
func Timeout(limit time.Duration) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), limit)
			defer cancel()
			next.ServeHTTP(w, r.WithContext(ctx))
		})
	}
}

// NoRoute answers 404 where no route has the path.
func NoRoute(http.ResponseWriter, *http.Request) error {
	return &Error{Status: http.StatusNotFound}
}

// MethodNotAllowed answers where routes, the root router, has the path for
// other methods only, and names them. For a method that HTTP does not define
// chi asks it about any path.
func MethodNotAllowed(routes chi.Routes) Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		path := RoutePath(r.URL)
		var allowed []string
		for _, m := range Methods {
			if routes.Match(chi.NewRouteContext(), m, path) {
				allowed = append(allowed, m)
			}
		}
		if allowed == nil {
			return NoRoute(w, r)
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		return &Error{Status: http.StatusMethodNotAllowed}
	}
}

// UnescapePath decodes the parameters of the path. (chi does not where the
// path has a %2F.)
func UnescapePath(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawPath != "" {
			params := chi.RouteContext(r.Context()).URLParams
			for i, name := range params.Keys {
				value, err := url.PathUnescape(params.Values[i])
				if err != nil {
					Fail(w, r, &Error{Status: http.StatusNotFound})
					return
				}
				r.SetPathValue(name, value)
			}
		}
		next.ServeHTTP(w, r)
	})
}
