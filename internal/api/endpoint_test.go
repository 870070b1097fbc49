package api

import (
	"net/http"
	"strings"
	"testing"

	"helloapi/internal/database"
	"helloapi/internal/web"
)

func answer(http.ResponseWriter, *http.Request) error { return nil }

// An endpoint that could not answer is found when the process starts.
func TestCheck(t *testing.T) {
	t.Parallel()
	stored := func(*database.DB) web.Handler { return answer }
	for name, test := range map[string]struct {
		endpoints []Endpoint
		want      []string // parts of the error; none: it is right
	}{
		"right":        {[]Endpoint{{Method: "GET", Path: "/a", Handler: answer}, {Method: "POST", Path: "/a", Handler: answer}, {Method: "GET", Path: "/a/{id}", Handler: answer}}, nil},
		"a store":      {[]Endpoint{{Method: "GET", Path: "/a", Handler: with(stored, new(database.DB))}}, nil},
		"no handler":   {[]Endpoint{{Method: "GET", Path: "/a"}}, []string{"endpoint GET /a: it has no handler"}},
		"no store":     {[]Endpoint{{Method: "GET", Path: "/notes", Handler: with(stored, nil)}}, []string{"endpoint GET /notes", "its store is nil"}},
		"twice":        {[]Endpoint{{Method: "GET", Path: "/a/{id}", Handler: answer}, {Method: "GET", Path: "/a/{name}", Handler: answer}}, []string{"endpoint GET /a/{name}: it is in the map twice"}},
		"no method":    {[]Endpoint{{Path: "/a", Handler: answer}}, []string{"endpoint  /a: the method must be one of GET, "}},
		"small method": {[]Endpoint{{Method: "get", Path: "/a", Handler: answer}}, []string{"the method must be one of"}},
		"a slash":      {[]Endpoint{{Method: "GET", Path: "/a/", Handler: answer}}, []string{"endpoint GET /a/: the path must be like"}},
		"a cost":       {[]Endpoint{{Method: "GET", Path: "/a", Handler: answer, Cost: 3}}, nil},
		"a bad cost":   {[]Endpoint{{Method: "GET", Path: "/a", Handler: answer, Cost: -1}}, []string{"endpoint GET /a: the cost"}},
		"free, costly": {[]Endpoint{{Method: "GET", Path: "/a", Handler: answer, Cost: 1, Free: true}}, []string{"endpoint GET /a: the cost"}},
		"two mistakes": {[]Endpoint{{Method: "GET", Path: "a", Handler: answer}, {Method: "GET", Path: "/b"}}, []string{"GET a:", "GET /b:"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := check(test.endpoints)
			if (err != nil) != (test.want != nil) {
				t.Fatalf("check: %v", err)
			}
			for _, part := range test.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("check: %v, want %q", err, part)
				}
			}
		})
	}
}
