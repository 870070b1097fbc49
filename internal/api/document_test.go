package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"

	"helloapi/internal/api"
)

// walk compares the routes of a router with the operations of a document, and
// returns what only one of the two has.
func walk(routes chi.Routes, document []byte) (differ []string, err error) {
	var contract struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(document, &contract); err != nil {
		return nil, err
	}
	described := map[string]bool{}
	for path, item := range contract.Paths {
		for method := range item {
			described[strings.ToUpper(method)+" "+path] = true
		}
	}
	err = chi.Walk(routes, func(method, path string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if route := method + " " + path; !described[route] {
			differ = append(differ, "not described: "+route)
		} else {
			delete(described, route)
		}
		return nil
	})
	for route := range described {
		differ = append(differ, "no route: "+route)
	}
	slices.Sort(differ)
	return differ, err
}

// Every route is in the contract, and nothing else is. A route or a path that
// is added to one of the two alone is found.
func TestContractIsTheRoutes(t *testing.T) {
	t.Parallel()
	h, _, _ := newCounted(t, func(*api.Config) {})
	routes, document := h.(chi.Router), ask(h, "GET", "/openapi.json", "").Body.Bytes()
	check := func(document []byte, want ...string) {
		t.Helper()
		if got, err := walk(routes, document); err != nil || !slices.Equal(got, want) {
			t.Errorf("differ: %q, %v; want %q", got, err, want)
		}
	}
	check(document)
	check([]byte(strings.Replace(string(document), `"/usage": {`, `"/used": {`, 1)), "no route: GET /used", "not described: GET /usage")
	check([]byte(strings.Replace(string(document), `"/usage": {`, `"/usage": {"patch": {},`, 1)), "no route: PATCH /usage")
	routes.Delete("/seeded", func(http.ResponseWriter, *http.Request) {})
	check(document, "not described: DELETE /seeded")
}

// What an endpoint's description lacks is found when the process starts.
func TestDescriptions(t *testing.T) {
	t.Parallel()
	const roll = `{"paths": {"/roll": {"get": {"responses": {"200": {"description": "Rolled"}}}}}}`
	for name, test := range map[string]struct {
		path, part string
		want       string // of the error; "": it is right
	}{
		"right":            {"/roll", roll, ""},
		"none":             {"/roll", "", "endpoint GET /roll: its openapi.json: there is none"},
		"not JSON":         {"/roll", "{", "endpoint GET /roll: its openapi.json: unexpected end"},
		"not objects":      {"/roll", `{"paths": {"/roll": []}}`, "endpoint GET /roll: its openapi.json: /roll must be an object"},
		"another path":     {"/role", roll, "endpoint GET /role: its openapi.json does not have it"},
		"one too many":     {"/role", strings.Replace(roll, `{"/roll"`, `{"/role": {"get": {}}, "/roll"`, 1), "an openapi.json has GET /roll, which no endpoint is"},
		"a page's":         {"/docs", strings.Replace(roll, "/roll", "/docs", 1), "endpoint GET /docs: the path is that of a page"},
		"another Greeting": {"/roll", roll[:len(roll)-1] + `, "components": {"schemas": {"Greeting": {}}}}`, "components/schemas/Greeting is there already"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := api.Config{Greetings: &counted{}, Keys: &counted{}, Pages: true}
			_, err := api.New(cfg, api.Endpoint{Method: "GET", Path: test.path, Handler: func(http.ResponseWriter, *http.Request) error { return nil }, OpenAPI: []byte(test.part)})
			if (err != nil) != (test.want != "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

// What follows from an endpoint's entry in the map is in its operation.
func TestDescriptionIsCompleted(t *testing.T) {
	t.Parallel()
	var document struct {
		Paths map[string]map[string]struct {
			Parameters []map[string]any
			Responses  map[string]struct{ Headers map[string]any }
		}
	}
	h, _, _ := newCounted(t, func(*api.Config) {})
	if err := json.Unmarshal(ask(h, "GET", "/openapi.json", "").Body.Bytes(), &document); err != nil {
		t.Fatal(err)
	}
	statuses := func(path, method string) string {
		var all []string
		for status := range document.Paths[path][method].Responses {
			all = append(all, status)
		}
		slices.Sort(all)
		return strings.Join(all, " ")
	}
	for route, want := range map[string]string{
		"/hello get":        "200 400 403 408 409 413 422 429 500 503",
		"/usage get":        "200 403 429 500 503",
		"/docs head":        "200 304 503",
		"/openapi.json get": "200 304 503",
	} {
		path, method, _ := strings.Cut(route, " ")
		if got := statuses(path, method); got != want {
			t.Errorf("%s: %s, want %s", route, got, want)
		}
	}
	hello, usage := document.Paths["/hello"]["get"], document.Paths["/usage"]["get"]
	if p := fmt.Sprint(hello.Parameters); !strings.Contains(p, "Idempotency-Key") || strings.Contains(fmt.Sprint(usage.Parameters), "Idempotency-Key") {
		t.Errorf("parameters: of /hello %v, of /usage %v", p, usage.Parameters)
	}
	if hello.Responses["200"].Headers["RateLimit"] == nil || usage.Responses["200"].Headers["RateLimit"] != nil {
		t.Errorf("headers: of /hello %v, of /usage %v", hello.Responses["200"].Headers, usage.Responses["200"].Headers)
	}
}
