package idempotency_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/backend"
	"helloapi/internal/backendtest"
	"helloapi/internal/database"
	"helloapi/internal/idempotency"
	"helloapi/internal/web"
)

const requestTimeout = 10 * time.Second

// A fixture is Answers in front of a handler that stores a row for each call.
type fixture struct {
	db      *database.DB
	answers *idempotency.Answers
	ahead   atomic.Int64 // how far the clock is ahead
	handle  func(w http.ResponseWriter, r *http.Request) error
}

func onBothDatabases(t *testing.T, test func(t *testing.T, f *fixture)) {
	for name, fresh := range map[string]func(testing.TB) string{"SQLite": backendtest.SQLite, "PostgreSQL": backendtest.Postgres} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := fresh(t)
			if name == "SQLite" {
				backendtest.Migrate(t, url)
			}
			backendtest.Exec(t, url, `CREATE TABLE things (text text)`)
			db, err := backend.OpenDatabase(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			f := &fixture{db: db.Conn()}
			f.answers = idempotency.New(f.db, f.now, requestTimeout)
			f.handle = func(w http.ResponseWriter, r *http.Request) error {
				if _, err := f.db.Exec(r.Context(), `INSERT INTO things (text) VALUES ('a')`); err != nil {
					return web.Unavailable(err)
				}
				return web.Created(w, fmt.Sprint("/things/", f.things(t, r)), web.Message{Message: "made"})
			}
			test(t, f)
		})
	}
}

func (f *fixture) now() time.Time { return time.Now().Add(time.Duration(f.ahead.Load())) }

// things counts the rows that the context of the request sees.
func (f *fixture) things(t *testing.T, r *http.Request) int {
	t.Helper()
	n, err := database.Value[int](r.Context(), f.db, `SELECT count(*) FROM things`)
	if err != nil {
		t.Error(err)
	}
	return n
}

func (f *fixture) post(t *testing.T, value string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/things", strings.NewReader("{}"))
	r.Header.Set(idempotency.Header, value)
	r = r.WithContext(apikey.NewContext(t.Context(), &apikey.Key{ID: "k"}))
	w := httptest.NewRecorder()
	f.answers.Claim(f.answers.Keep(web.Handler(f.handle))).ServeHTTP(w, r)
	return w
}

func (f *fixture) want(t *testing.T, things int) {
	t.Helper()
	if n := f.things(t, httptest.NewRequest(http.MethodGet, "/", nil)); n != things {
		t.Errorf("%d things, want %d", n, things)
	}
}

// An answer is repeated for a day, and not longer.
func TestExpires(t *testing.T) {
	t.Parallel()
	onBothDatabases(t, func(t *testing.T, f *fixture) {
		f.post(t, "one")
		f.ahead.Store(int64(24*time.Hour - time.Minute))
		if w := f.post(t, "one"); w.Header().Get("Location") != "/things/1" {
			t.Errorf("after nearly a day: %d %v", w.Code, w.Header())
		}
		f.ahead.Store(int64(24*time.Hour + time.Minute))
		if w := f.post(t, "one"); w.Header().Get("Location") != "/things/2" {
			t.Errorf("after a day: %d %v", w.Code, w.Header())
		}
		f.want(t, 2)
	})
}

// A replica that dies with a request leaves a claim: repeats wait for it to
// expire, then one of them does the thing. If the first was only slow, and ends
// after that, what it did is undone.
func TestClaimExpires(t *testing.T) {
	t.Parallel()
	onBothDatabases(t, func(t *testing.T, f *fixture) {
		make := f.handle
		var second *httptest.ResponseRecorder
		f.handle = func(w http.ResponseWriter, r *http.Request) error {
			f.handle = make
			if w := f.post(t, "one"); w.Code != http.StatusConflict || w.Header().Get("Retry-After") == "" {
				t.Errorf("in flight: %d %s", w.Code, w.Body)
			}
			f.ahead.Store(int64(requestTimeout + time.Minute))
			second = f.post(t, "one")
			return make(w, r)
		}
		first := f.post(t, "one")
		if second.Code != http.StatusCreated || first.Code != http.StatusServiceUnavailable || first.Header().Get("Location") != "" {
			t.Errorf("the first was answered %d %v, the second %d", first.Code, first.Header(), second.Code)
		}
		if w := f.post(t, "one"); w.Code != http.StatusCreated {
			t.Errorf("afterwards: %d %s", w.Code, w.Body)
		}
		f.want(t, 1)
	})
}

// A handler that panics did nothing, and can be called again at once.
func TestPanic(t *testing.T) {
	t.Parallel()
	onBothDatabases(t, func(t *testing.T, f *fixture) {
		make := f.handle
		f.handle = func(w http.ResponseWriter, r *http.Request) error {
			_ = make(w, r)
			panic("as asked")
		}
		func() {
			defer func() { _ = recover() }()
			f.post(t, "one")
		}()
		f.want(t, 0)
		f.handle = make
		if w := f.post(t, "one"); w.Code != http.StatusCreated {
			t.Errorf("afterwards: %d %s", w.Code, w.Body)
		}
		f.want(t, 1)
	})
}

// What has expired is deleted, and nothing else.
func TestSweep(t *testing.T) {
	t.Parallel()
	onBothDatabases(t, func(t *testing.T, f *fixture) {
		rows := func() int {
			n, err := database.Value[int](t.Context(), f.db, `SELECT count(*) FROM idempotency`)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		for i := range 3 {
			f.post(t, fmt.Sprint(i))
		}
		f.ahead.Store(int64(25 * time.Hour))
		f.post(t, "new")
		if n := rows(); n != 4 {
			t.Fatalf("%d rows", n)
		}
		f.answers.Sweep(t.Context())
		if n := rows(); n != 1 {
			t.Errorf("%d rows after the sweep, want 1", n)
		}
	})
}

// An answer that is too long to be kept is none: what the handler did is undone.
func TestLongAnswer(t *testing.T) {
	t.Parallel()
	onBothDatabases(t, func(t *testing.T, f *fixture) {
		make := f.handle
		length := idempotency.MaxAnswer + 1
		f.handle = func(w http.ResponseWriter, r *http.Request) error {
			if err := make(httptest.NewRecorder(), r); err != nil {
				return err
			}
			_, err := w.Write([]byte(strings.Repeat("a", length)))
			return err
		}
		if w := f.post(t, "one"); w.Code != http.StatusInternalServerError || w.Body.Len() > 100 {
			t.Errorf("%d with %d bytes, want 500", w.Code, w.Body.Len())
		}
		f.want(t, 0)
		length--
		for range 2 {
			if w := f.post(t, "one"); w.Code != http.StatusOK || w.Body.Len() != length {
				t.Errorf("%d with %d bytes, want 200 with %d", w.Code, w.Body.Len(), length)
			}
		}
		f.want(t, 1)
	})
}
