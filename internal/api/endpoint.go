package api

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"helloapi/internal/openapi"
	"helloapi/internal/web"
)

// An Endpoint is a route: what answers it, and what a request of it costs.
type Endpoint struct {
	Method  string
	Path    string // "/notes/{id}"; the handler has r.PathValue("id")
	Handler web.Handler

	// Cost is how many units of the key's quota an answer below 400 costs: 1
	// unless said, none if the endpoint is Free. Every request is throttled.
	Cost int64
	Free bool

	// Idempotent lets a client repeat a request: one with the Idempotency-Key
	// of an earlier one gets the answer of that, and costs nothing.
	Idempotent bool

	MaxBody int64 // bytes; 0: web.MaxBody

	// OpenAPI describes it: an openapi.json beside its handler, which may have
	// other endpoints too. What follows from the fields above is filled in.
	OpenAPI []byte
}

// contract returns /openapi.json. It reports every endpoint that is not
// described, and every description without an endpoint.
func contract(endpoints []Endpoint) ([]byte, error) {
	var described []openapi.Endpoint
	for _, e := range endpoints {
		described = append(described, openapi.Endpoint{Method: e.Method, Path: e.Path, Part: e.OpenAPI, Free: e.Free, Idempotent: e.Idempotent})
	}
	return openapi.Document(described)
}

// with returns the handler that works on store, or nil if there is no store,
// which New reports by the name of the endpoint.
func with[Store any](handler func(Store) web.Handler, store Store) web.Handler {
	if v := reflect.ValueOf(store); !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil() {
		return nil
	}
	return handler(store)
}

var (
	validPath = regexp.MustCompile(`^/[a-z0-9{}_/.-]*[a-z0-9}]$`)
	parameter = regexp.MustCompile(`\{[^}]*\}`)
)

// check reports every endpoint that could not answer.
func check(endpoints []Endpoint) error {
	var errs []error
	seen := map[string]bool{}
	for _, e := range endpoints {
		name := e.Method + " " + e.Path
		route := parameter.ReplaceAllString(name, "{}")
		switch {
		case !slices.Contains(web.Methods, e.Method):
			errs = append(errs, fmt.Errorf("endpoint %s: the method must be one of %s", name, strings.Join(web.Methods, ", ")))
		case !validPath.MatchString(e.Path):
			errs = append(errs, fmt.Errorf("endpoint %s: the path must be like /notes/{id}, in lower case, without a slash at the end", name))
		case e.Handler == nil:
			errs = append(errs, fmt.Errorf("endpoint %s: it has no handler, or its store is nil: set the store in the Config of api.New", name))
		case e.Cost < 0 || e.Free && e.Cost != 0:
			errs = append(errs, fmt.Errorf("endpoint %s: the cost must be a number of units, and none if it is free", name))
		case seen[route]:
			errs = append(errs, fmt.Errorf("endpoint %s: it is in the map twice", name))
		}
		seen[route] = true
	}
	return errors.Join(errs...)
}
