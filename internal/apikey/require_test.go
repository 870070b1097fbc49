package apikey_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
	"helloapi/internal/web"
)

// finder is a Finder that knows some keys, and counts how often it is asked.
type finder struct {
	keys  map[apikey.Hash]*apikey.Key
	err   error // if not nil: why it can't be asked
	asked int
}

func (f *finder) Find(_ context.Context, h apikey.Hash) (*apikey.Key, error) {
	f.asked++
	if f.err != nil {
		return nil, f.err
	}
	k, ok := f.keys[h]
	if !ok {
		return nil, apikey.ErrUnknown
	}
	return k, nil
}

const value = "the-value-of-the-test-key"

// knows returns a finder that knows k by value.
func knows(t *testing.T, k *apikey.Key) *finder {
	t.Helper()
	return &finder{keys: map[apikey.Hash]*apikey.Key{parse(t, value).Hash(): k}}
}

// send sends a request with these values of the header to an endpoint that
// needs a key. It returns the answer and what was logged.
func send(t *testing.T, keys apikey.Finder, next http.HandlerFunc, values ...string) (*httptest.ResponseRecorder, string) {
	t.Helper()
	var log bytes.Buffer
	h := web.Observe(slog.New(slog.NewJSONHandler(&log, nil)), web.NewMetrics(prometheus.NewRegistry()), nil)(apikey.Require(keys, time.Now, func(*apikey.Key, string) {})(next))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for _, v := range values {
		r.Header.Add("x-api-key", v)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w, log.String()
}

func TestRequireRefuses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		good := apikey.Key{ID: "1", Name: "k", Plan: &plan.Plan{Name: "free"}, Enabled: true}
		with := func(change func(*apikey.Key)) *apikey.Key {
			k := good
			change(&k)
			return &k
		}
		tests := []struct {
			name   string
			key    *apikey.Key
			values []string
			asked  int    // look-ups
			reason string // for the operator
		}{
			{"missing", &good, nil, 0, "no key"},
			{"empty", &good, []string{""}, 0, "no key"},
			{"twice", &good, []string{value, value}, 0, "several keys"},
			{"empty, and good", &good, []string{"", value}, 0, "several keys"},
			{"two in one header", &good, []string{value + ", " + value}, 0, "malformed key"},
			{"too short", &good, []string{"short"}, 0, "malformed key"},
			{"wrong checksum", &good, []string{"hk_" + strings.Repeat("k", 38)}, 0, "malformed key"},
			{"unknown", &good, []string{value + "x"}, 1, "unknown key"},
			{"disabled", with(func(k *apikey.Key) { k.Enabled = false }), []string{value}, 1, "disabled"},
			{"expired", with(func(k *apikey.Key) { k.ExpiresAt = now.Add(-time.Hour) }), []string{value}, 1, "expired"},
			{"expired this instant", with(func(k *apikey.Key) { k.ExpiresAt = now }), []string{value}, 1, "expired"},
			{"no plan", with(func(k *apikey.Key) { k.Plan = nil }), []string{value}, 1, "no plan"},
		}
		var first http.Header
		for _, tt := range tests {
			keys := knows(t, tt.key)
			w, log := send(t, keys, func(http.ResponseWriter, *http.Request) {
				t.Errorf("%s: it was let in", tt.name)
			}, tt.values...)

			// Nobody can tell one reason from another.
			if w.Code != http.StatusForbidden || w.Body.String() != `{"message":"Forbidden"}` {
				t.Errorf("%s: answered %d %s", tt.name, w.Code, w.Body)
			}
			if got := w.Header().Get("X-Amzn-ErrorType"); got != "ForbiddenException" {
				t.Errorf("%s: X-Amzn-ErrorType %q", tt.name, got)
			}
			w.Header().Del("X-Request-Id") // a random one each
			if first == nil {
				first = w.Header()
			} else if diff := cmp.Diff(first, w.Header()); diff != "" {
				t.Errorf("%s: headers differ from those of %s:\n%s", tt.name, tests[0].name, diff)
			}

			if keys.asked != tt.asked {
				t.Errorf("%s: %d look-ups, want %d", tt.name, keys.asked, tt.asked)
			}
			if want := fmt.Sprintf(`"refused":%q`, tt.reason); !strings.Contains(log, want) {
				t.Errorf("%s: the log does not have %s: %s", tt.name, want, log)
			}
			for _, v := range tt.values {
				if v != "" && strings.Contains(log, v) {
					t.Errorf("%s: the log has the value: %s", tt.name, log)
				}
			}
		}
	})
}

// A store may say more of ErrUnknown than that.
func TestRequireUnknownWrapped(t *testing.T) {
	t.Parallel()
	keys := &finder{err: fmt.Errorf("find: %w", apikey.ErrUnknown)}
	w, _ := send(t, keys, func(http.ResponseWriter, *http.Request) { t.Error("it was let in") }, value)
	if w.Code != http.StatusForbidden {
		t.Errorf("answered %d, want 403", w.Code)
	}
}

func TestRequireStoreFails(t *testing.T) {
	t.Parallel()
	for _, err := range []error{errors.New("no route to db.internal"), context.DeadlineExceeded, context.Canceled} {
		t.Run(err.Error(), func(t *testing.T) {
			t.Parallel()
			w, log := send(t, &finder{err: err}, func(http.ResponseWriter, *http.Request) { t.Error("it was let in") }, value)
			if w.Code != http.StatusServiceUnavailable || w.Body.String() != `{"message":"Service Unavailable"}` {
				t.Errorf("answered %d %s", w.Code, w.Body)
			}
			if got := w.Header().Get("Retry-After"); got != "1" {
				t.Errorf("Retry-After %q, want 1", got)
			}
			if got := w.Header().Get("X-Amzn-ErrorType"); got != "" {
				t.Errorf("X-Amzn-ErrorType %q, want none", got)
			}
			if !strings.Contains(log, err.Error()) {
				t.Errorf("the log does not say %q: %s", err, log)
			}
		})
	}
}

func TestRequireLetsIn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		free := &plan.Plan{Name: "free"}
		tests := []struct {
			name string
			key  apikey.Key
		}{
			{"for ever", apikey.Key{ID: "1", Name: "k", Plan: free, Enabled: true}},
			{"without a name", apikey.Key{ID: "1", Plan: free, Enabled: true}},
			{"a moment before it expires", apikey.Key{ID: "1", Name: "k", Plan: free, Enabled: true, ExpiresAt: time.Now().Add(1)}},
		}
		for _, tt := range tests {
			keys := knows(t, &tt.key)
			var served int
			w, log := send(t, keys, func(w http.ResponseWriter, r *http.Request) {
				served++
				if got := apikey.From(r.Context()); got != &tt.key {
					t.Errorf("%s: From returns %+v", tt.name, got)
				}
				// Nothing behind Require can log it, or send it on.
				if got := r.Header.Values("X-Api-Key"); len(got) > 0 {
					t.Errorf("%s: the handler sees the key's value", tt.name)
				}
				w.WriteHeader(http.StatusNoContent)
			}, value)
			if served != 1 || w.Code != http.StatusNoContent {
				t.Errorf("%s: served %d times, answered %d", tt.name, served, w.Code)
			}
			if keys.asked != 1 {
				t.Errorf("%s: %d look-ups, want 1", tt.name, keys.asked)
			}
			if !strings.Contains(log, `"plan":"free"`) || tt.key.Name != "" && !strings.Contains(log, `"key":"k"`) {
				t.Errorf("%s: the log does not name the key and its plan: %s", tt.name, log)
			}
			if strings.Contains(log, value) {
				t.Errorf("%s: the log has the value: %s", tt.name, log)
			}
		}
	})
}

func TestFromOutside(t *testing.T) {
	t.Parallel()
	if k := apikey.From(t.Context()); k != nil {
		t.Errorf("From returns %+v", k)
	}
}

// A key expires by the clock that Require was given: that of the stores, where
// this machine's may be wrong.
func TestRequireClock(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, tt := range []struct {
		name    string
		expires time.Time
		status  int
	}{
		{"expired here, not there", now.Add(-time.Minute), http.StatusOK},
		{"expired there as well", now.Add(-time.Hour), http.StatusForbidden},
	} {
		keys := knows(t, &apikey.Key{ID: "1", Plan: &plan.Plan{Name: "free"}, Enabled: true, ExpiresAt: tt.expires})
		h := apikey.Require(keys, func() time.Time { return now.Add(-time.Hour) }, func(*apikey.Key, string) {})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set(apikey.Header, value)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tt.status {
			t.Errorf("%s: answered %d, want %d", tt.name, w.Code, tt.status)
		}
	}
}
