package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"helloapi/internal/web"
)

type fixedCounts struct{ greetings, charges int64 }

func (c fixedCounts) greeted(context.Context) (int64, error) { return c.greetings, nil }
func (c fixedCounts) charged(context.Context) (int64, error) { return c.charges, nil }

// TestCheck: a sum that is wrong fails the run.
func TestCheck(t *testing.T) {
	served := []tally{{Status: map[int]int64{200: 90, 429: 5}, WarmUp: 10}}
	for _, tt := range []struct {
		name   string
		counts fixedCounts
		tally  []tally
		want   string // in the error
	}{
		{"right", fixedCounts{1100, 2100}, served, ""},
		{"a number twice", fixedCounts{1100, 2100}, []tally{{Status: map[int]int64{200: 100}, Twice: 1}}, "given twice"},
		{"one not counted", fixedCounts{1099, 2100}, served, "99 greetings counted"},
		{"one counted too often", fixedCounts{1101, 2100}, served, "101 greetings counted"},
		{"one not charged", fixedCounts{1100, 2099}, served, "99 charged"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := check(t.Context(), tt.counts, 1000, 2000, tt.tally, 0)
			if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, errWrong) || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q in it", err, tt.want)
			}
		})
	}
}

// TestLoad has a client read what helloapi and net/http answer, and see a
// number that was given twice.
func TestLoad(t *testing.T) {
	answers := []func(w http.ResponseWriter){
		func(w http.ResponseWriter) { _ = web.JSON(w, 200, web.Message{Message: "Hello name-7 #41!"}) },
		func(w http.ResponseWriter) { _ = web.JSON(w, 429, web.Message{Message: "Limit Exceeded"}) },
		func(w http.ResponseWriter) { w.WriteHeader(503) },
		func(w http.ResponseWriter) { _ = web.JSON(w, 200, web.Message{Message: "Hello name-7 #41!"}) },
		func(w http.ResponseWriter) { _ = web.JSON(w, 200, web.Message{Message: "Hello name-7 #42!"}) },
	}
	n := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("name") != "name-7" || r.Header.Get("X-Api-Key") != "secret" {
			t.Errorf("request is %v with %v", r.URL, r.Header)
		}
		answers[n](w)
		n++
	}))
	defer srv.Close()
	c, err := dial(srv.Listener.Addr().String(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer c.conn.Close()
	for range answers {
		if err := c.send(7, "secret"); err != nil {
			t.Fatal(err)
		}
	}
	got := total([]*client{c})
	if got.Status[200] != 3 || got.Status[429] != 1 || got.Status[503] != 1 || got.Twice != 1 || got.P50 <= 0 || got.P99 < got.P50 {
		t.Errorf("tally is %+v", got)
	}
}

// TestLoadNotHelloapi: an answer that is no greeting ends the run.
func TestLoadNotHelloapi(t *testing.T) {
	server, other := net.Pipe()
	defer server.Close()
	go func() {
		_, _ = other.Read(make([]byte, 1024))
		_, _ = other.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"))
	}()
	c := newClient(server, 1)
	if err := c.send(0, "secret"); err == nil {
		t.Error("an answer without a number was taken for a greeting")
	}
}

func TestTargets(t *testing.T) {
	g := goal{"ratio", spreadOf([]float64{3, 1, 2}), 2, false}
	if want := (spread{2, 1, 3}); g.Is != want {
		t.Errorf("spread is %v, want %v", g.Is, want)
	}
	if row := g.row(); row[4] != "met" {
		t.Errorf("row is %q", row)
	}
	g.Most, g.Target = true, 1.9
	if row := g.row(); row[4] != "missed" {
		t.Errorf("row is %q", row)
	}
}

// TestNewResult: costs are of one request, and what nobody here used was used
// by others.
func TestNewResult(t *testing.T) {
	before := usage{cpu: map[string]time.Duration{"server": time.Second}}
	after := usage{cpu: map[string]time.Duration{"server": 3 * time.Second}, all: 4 * time.Second, trips: 500, sql: 250, allocations: 50_000}
	r := newResult(before, after, []tally{{Status: map[int]int64{200: 1000}, Took: 2 * time.Second, CPU: time.Second}})
	if r.Rate != 500 || r.CPU["server"] != 2000 || r.CPU["load"] != 1000 || r.Trips != 0.5 || r.SQL != 0.25 || r.Allocs != 50 || r.Others <= 0 {
		t.Errorf("result is %+v", r)
	}
}
