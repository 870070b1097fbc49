package backendtest

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"helloapi/internal/api"
	"helloapi/internal/apikey"
	"helloapi/internal/database"
	"helloapi/internal/plan"
	"helloapi/internal/web"
)

// A thing is a row of the endpoint that the suite adds to the map.
type thing struct {
	ID   string `json:"id"`
	Text string `json:"text"`
}

func (t *thing) columns() []any { return []any{&t.ID, &t.Text} }

//go:embed things.json
var things []byte

// endpoints are POST /things, which stores one, and GET /things/{id}. Where the
// text is "fail" it is stored, but answered with 409.
func (d *deployment) endpoints(db *database.DB) []api.Endpoint {
	create := func(w http.ResponseWriter, r *http.Request) error {
		d.runs.Add(1)
		var in struct {
			Text string `json:"text"`
		}
		if err := web.Decode(r, &in); err != nil {
			return err
		}
		t := thing{rand.Text(), in.Text}
		_, err := db.Exec(r.Context(), `INSERT INTO things (id, key_id, text) VALUES ($1, $2, $3)`,
			t.ID, apikey.From(r.Context()).ID, t.Text)
		switch {
		case err != nil:
			return web.Unavailable(err)
		case in.Text == "fail":
			return web.Conflict("No")
		case in.Text == "slow":
			time.Sleep(500 * time.Millisecond)
		}
		return web.Created(w, "/things/"+t.ID, t)
	}
	read := func(w http.ResponseWriter, r *http.Request) error {
		t, err := database.One(r.Context(), db, (*thing).columns,
			`SELECT id, text FROM things WHERE id = $1 AND key_id = $2`, r.PathValue("id"), apikey.From(r.Context()).ID)
		if errors.Is(err, database.ErrNone) {
			return web.NotFound("There is no thing %q", r.PathValue("id"))
		} else if err != nil {
			return web.Unavailable(err)
		}
		return web.JSON(w, http.StatusOK, t)
	}
	return []api.Endpoint{
		{Method: "POST", Path: "/things", Handler: create, Idempotent: true, OpenAPI: things},
		{Method: "GET", Path: "/things/{id}", Handler: read, OpenAPI: things},
		{Method: "POST", Path: "/costly", Handler: create, Idempotent: true, Cost: 3, MaxBody: 100, OpenAPI: things},
	}
}

// things makes the table of the endpoint.
func (d *deployment) things(t testing.TB) {
	t.Helper()
	Exec(t, d.cfg.DatabaseURL, `CREATE TABLE things (id text PRIMARY KEY, key_id text NOT NULL, text text NOT NULL)`)
}

// post sends a body to one of the replicas.
func (d *deployment) post(t testing.TB, path, key, body string, header ...string) answer {
	t.Helper()
	return d.send(t, http.MethodPost, path, key, body, append([]string{"Content-Type", "application/json"}, header...)...)
}

// count returns how many things there are.
func (d *deployment) count(t testing.TB) (n int) {
	t.Helper()
	if err := SQL(t, d.cfg.DatabaseURL).QueryRow(`SELECT count(*) FROM things`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// testBodies: what is refused of a body costs nothing, and a page can read why.
func testBodies(t *testing.T, d *deployment) {
	d.things(t)
	d.urls = d.urls[:1] // without Redis each replica has a quota of its own
	key := d.key(t, Quota(100))
	made := d.post(t, "/things", key, `{"text":"a"}`, "Origin", "https://app.example.com")
	if made.status != http.StatusCreated || made.remaining() != "99" || made.header.Get("Access-Control-Allow-Origin") == "" {
		t.Fatalf("POST /things: %d %s %v", made.status, made.body, made.header)
	}
	if got := d.do(t, http.MethodGet, made.header.Get("Location"), key); got.status != 200 || got.body != made.body {
		t.Errorf("GET %s: %d %s, want %s", made.header.Get("Location"), got.status, got.body, made.body)
	}
	d.do(t, http.MethodGet, made.header.Get("Location"), d.key(t, plan.Plan{})).want(t, 404, `There is no thing \"`+strings.TrimPrefix(made.header.Get("Location"), "/things/")+`\"`)
	d.do(t, http.MethodGet, "/things/a%2Fb%20c", key).want(t, 404, `There is no thing \"a/b c\"`)
	for _, test := range []struct {
		body, contentType string
		status            int
	}{
		{``, "application/json", 400},
		{`{"text":"` + strings.Repeat("x", web.MaxBody) + `"}`, "application/json", 413},
		{`{"text":1}`, "application/json; charset=utf-8", 400},
		{`{"text":"a"}`, "text/plain", 415},
		{`{"text":"a"}`, "", 415},
	} {
		a := d.send(t, http.MethodPost, "/things", key, test.body, "Content-Type", test.contentType, "Origin", "https://app.example.com")
		if a.status != test.status || !strings.HasPrefix(a.body, `{"message":"The `) || a.remaining() != "98" ||
			a.header.Get("Access-Control-Allow-Origin") == "" {
			t.Errorf("%d bytes of %q: %d %s, %q remain, %v", len(test.body), test.contentType, a.status, a.body, a.remaining(), a.header)
		}
	}
	// The limit of an endpoint holds for a request that can be repeated too.
	long := `{"text":"` + strings.Repeat("x", 100) + `"}`
	d.post(t, "/costly", key, long).want(t, 413, "The body has more than 100 bytes")
	d.post(t, "/costly", key, long, "Idempotency-Key", "long").want(t, 413, "The body has more than 100 bytes")
	if n := d.count(t); n != 1 {
		t.Errorf("%d things, want 1", n)
	}
}

// testRepeats: a repeat gets the first answer, and does and costs nothing.
func testRepeats(t *testing.T, d *deployment) {
	d.things(t)
	all := d.urls
	d.urls = all[:1] // without Redis each replica has a quota of its own
	key := d.key(t, Quota(3))
	first := d.post(t, "/things", key, `{"text":"a"}`, "Idempotency-Key", "one")
	if first.status != 201 || first.remaining() != "2" {
		t.Fatalf("POST /things: %d %s, %s remain", first.status, first.body, first.remaining())
	}
	same := func(why string, again answer) {
		t.Helper()
		if again.status != first.status || again.body != first.body || again.header.Get("Location") != first.header.Get("Location") ||
			again.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s %v, want the first answer: %s", why, again.status, again.body, again.header, first.body)
		}
	}
	same("repeated", d.post(t, "/things", key, `{"text":"a"}`, "Idempotency-Key", "one"))
	same("in quotes", d.post(t, "/things", key, `{"text":"a"}`, "Idempotency-Key", `"one"`))
	for range all {
		d.urls = all
		same("by any replica", d.post(t, "/things", key, `{"text":"a"}`, "Idempotency-Key", "one"))
	}
	d.urls = all[:1]

	d.post(t, "/things", key, `{"text":"b"}`, "Idempotency-Key", "one").want(t, 422, "This Idempotency-Key was used for another request: use a new one")
	d.post(t, "/things?x=1", key, `{"text":"a"}`, "Idempotency-Key", "one").want(t, 422, "This Idempotency-Key was used for another request: use a new one")
	for _, bad := range []string{"", `""`, `"a`, "a b", `a"b`, "\u00e9", strings.Repeat("x", 256)} {
		if a := d.post(t, "/things", key, `{"text":"a"}`, "Idempotency-Key", bad); a.status != 400 {
			t.Errorf("Idempotency-Key %q: %d %s", bad, a.status, a.body)
		}
	}
	if a := d.post(t, "/things", key, `{"text":"a"}`, "Idempotency-Key", "x", "Idempotency-Key", "y"); a.status != 400 {
		t.Errorf("two Idempotency-Keys: %d %s", a.status, a.body)
	}
	if d.count(t) != 1 {
		t.Errorf("%d things, want 1", d.count(t))
	}

	// Another key may use the same value.
	if a := d.post(t, "/things", d.key(t, plan.Plan{}), `{"text":"a"}`, "Idempotency-Key", "one"); a.status != 201 || a.body == first.body {
		t.Errorf("another key: %d %s", a.status, a.body)
	}

	// What failed did nothing, cost nothing, and can be repeated.
	for _, text := range []string{"fail", "fail"} {
		if a := d.post(t, "/things", key, `{"text":"`+text+`"}`, "Idempotency-Key", "two"); a.status != 409 {
			t.Errorf("%s: %d %s", text, a.status, a.body)
		}
	}
	if d.count(t) != 2 {
		t.Errorf("%d things, want 2: those of the failed requests are not stored", d.count(t))
	}
	if a := d.post(t, "/things", key, `{"text":"c"}`, "Idempotency-Key", "two"); a.status != 201 || a.remaining() != "1" {
		t.Errorf("after failures: %d %s, %s remain", a.status, a.body, a.remaining())
	}

	// The quota is used up: what was answered is answered again, a new one is
	// refused and may come later.
	if a := d.post(t, "/things", key, `{"text":"d"}`); a.status != 201 || a.remaining() != "0" {
		t.Errorf("the last one: %d %s", a.status, a.body)
	}
	d.post(t, "/things", key, `{"text":"e"}`, "Idempotency-Key", "three").want(t, 429, "Limit Exceeded")
	same("with the quota used up", d.post(t, "/things", key, `{"text":"a"}`, "Idempotency-Key", "one"))
}

// testRepeatsTogether: of many repeats at once, on all replicas, one is carried
// out. The others get its answer, or 409 while it is in flight.
func testRepeatsTogether(t *testing.T, d *deployment) {
	d.things(t)
	key := d.key(t, Quota(10))
	var wg sync.WaitGroup
	answers := make([]answer, 50)
	for i := range answers {
		wg.Go(func() { answers[i] = d.post(t, "/things", key, `{"text":"slow"}`, "Idempotency-Key", "one") })
	}
	wg.Wait()
	created, waits := map[string]int{}, 0
	for _, a := range answers {
		switch a.status {
		case 201:
			created[a.body]++
		case 409:
			waits++
			if a.header.Get("Retry-After") == "" {
				t.Error("409 without Retry-After")
			}
		default:
			t.Errorf("answered %d %s; the log:\n%s", a.status, a.body, d.log)
		}
	}
	if n := d.count(t); len(created) != 1 || n != 1 || d.runs.Load() != 1 {
		t.Errorf("%d things, %d runs, answers %v and %d × 409", n, d.runs.Load(), created, waits)
	}
	again := d.post(t, "/things", key, `{"text":"slow"}`, "Idempotency-Key", "one")
	if created[again.body] == 0 {
		t.Errorf("afterwards: %d %s, want %v", again.status, again.body, created)
	}
	if d.cfg.RedisURL != "" || len(d.stores) == 1 {
		if a := d.post(t, "/things", key, `{"text":"a"}`); a.remaining() != "8" {
			t.Errorf("%s remain, want 8", a.remaining())
		}
	}
}

// testRepeatedGreeting: a greeting is repeated like any other request.
func testRepeatedGreeting(t *testing.T, d *deployment) {
	d.urls = d.urls[:1] // without Redis each replica has a quota of its own
	key := d.key(t, Quota(2))
	for range 3 {
		d.do(t, http.MethodGet, "/hello?name=ada", key, "Idempotency-Key", "one").want(t, 200, "Hello ada #1!")
	}
	d.do(t, http.MethodGet, "/hello?name=bob", key, "Idempotency-Key", "one").want(t, 422, "This Idempotency-Key was used for another request: use a new one")
	d.hello(t, key, "ada").want(t, 200, "Hello ada #2!")
	d.hello(t, key, "ada").want(t, 429, "Limit Exceeded")
}

// testRows: a database.DB does the same on both databases.
func testRows(t *testing.T, url string) {
	Exec(t, url, `CREATE TABLE things (id text PRIMARY KEY, key_id text NOT NULL, text text NOT NULL)`)
	db := open(t, url).Conn()
	ctx := t.Context()
	insert := func(ctx context.Context, id, text string) error {
		n, err := db.Exec(ctx, `INSERT INTO things (id, key_id, text) VALUES ($1, 'k', $2)`, id, text)
		if err == nil && n != 1 {
			err = fmt.Errorf("%d rows", n)
		}
		return err
	}
	list := func(ctx context.Context) []thing {
		t.Helper()
		all, err := database.List(ctx, db, (*thing).columns, `SELECT id, text FROM things ORDER BY id`)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	if got := list(ctx); got == nil || len(got) != 0 {
		t.Errorf("no rows: %#v, want an empty list", got)
	}
	if _, err := database.One(ctx, db, (*thing).columns, `SELECT id, text FROM things`); !errors.Is(err, database.ErrNone) {
		t.Errorf("One of none: %v", err)
	}
	if err := insert(ctx, "1", "a"); err != nil {
		t.Fatal(err)
	}
	if err := insert(ctx, "1", "b"); err == nil {
		t.Error("a second row with one primary key")
	}
	text, err := database.Value[string](ctx, db, `UPDATE things SET text = text || $2 WHERE id = $1 RETURNING text`, "1", "!")
	if err != nil || text != "a!" {
		t.Errorf("UPDATE … RETURNING: %q, %v", text, err)
	}

	// A transaction sees its own rows, others do not; it is undone as a whole.
	stop := errors.New("stop")
	err = db.InTx(ctx, func(in context.Context) error {
		if err := insert(in, "2", "b"); err != nil {
			return err
		}
		if got := list(in); len(got) != 2 {
			t.Errorf("in the transaction: %v", got)
		}
		if got := list(ctx); len(got) != 1 {
			t.Errorf("beside the transaction: %v", got)
		}
		return db.InTx(in, func(context.Context) error { return stop })
	})
	if !errors.Is(err, stop) || len(list(ctx)) != 1 {
		t.Errorf("rolled back: %v, %v", err, list(ctx))
	}
	if err := db.InTx(ctx, func(ctx context.Context) error { return errors.Join(insert(ctx, "2", "b"), insert(ctx, "3", "c")) }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]thing{{"1", "a!"}, {"2", "b"}, {"3", "c"}}, list(ctx)); diff != "" {
		t.Error(diff)
	}
	if err := db.InTx(ctx, func(context.Context) error { return nil }); err != nil {
		t.Errorf("a transaction without statements: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := insert(ended, "4", "d"); err == nil {
		t.Error("a statement of a context that has ended")
	}
}

// A Fixture is what the tests of an endpoint's handlers need.
type Fixture struct {
	Name string // of the kind of database
	URL  string // for backend.OpenDatabase
	DB   *database.DB
	Key  *apikey.Key // on a plan without limits
}

// Databases returns a fresh database of each kind, with the present schema.
func Databases(t testing.TB) []Fixture {
	t.Helper()
	fixtures := []Fixture{{Name: "SQLite"}, {Name: "PostgreSQL"}}
	for i, url := range []string{SQLite(t), Postgres(t)} {
		Migrate(t, url)
		db := open(t, url)
		value, err := apikey.Parse(AddKey(t, db, AddPlan(t, url, plan.Plan{})))
		if err != nil {
			t.Fatal(err)
		}
		fixtures[i].URL, fixtures[i].DB = url, db.Conn()
		if fixtures[i].Key, err = db.Find(t.Context(), value.Hash()); err != nil {
			t.Fatal(err)
		}
	}
	return fixtures
}

// testEndpointCost: an endpoint takes, and returns, as many units as it costs; one that
// costs too much for what is left does not keep a cheaper one from it.
func testEndpointCost(t *testing.T, d *deployment) {
	d.things(t)
	d.urls = d.urls[:1] // without Redis each replica has a quota of its own
	key := d.key(t, Quota(8))
	for i, test := range []struct {
		path, text     string
		status         int
		remaining      string
		idempotencyKey string
	}{
		{"/costly", "a", 201, "5", ""},
		{"/costly", "fail", 409, "5", ""},
		{"/costly", "a", 201, "2", "one"},
		{"/costly", "a", 201, "", "one"}, // a repeat
		{"/costly", "a", 429, "2", ""},
		{"/costly", "a", 429, "2", "two"},
		{"/things", "a", 201, "1", ""},
		{"/costly", "a", 429, "1", ""},
		{"/things", "a", 201, "0", ""},
		{"/things", "a", 429, "0", ""},
	} {
		var header []string
		if test.idempotencyKey != "" {
			header = []string{"Idempotency-Key", test.idempotencyKey}
		}
		a := d.post(t, test.path, key, `{"text":"`+test.text+`"}`, header...)
		if a.status != test.status || a.remaining() != test.remaining {
			t.Errorf("request %d, %s %s: %d %s, %q remain, want %d and %q", i, test.path, test.text, a.status, a.body, a.remaining(), test.status, test.remaining)
		}
	}
	if u := d.usage(t, key); u.Quota.Used != 8 {
		t.Errorf("GET /usage: %d used, want 8", u.Quota.Used)
	}
}
