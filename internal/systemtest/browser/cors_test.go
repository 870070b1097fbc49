package browser

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"helloapi/internal/backendtest"
)

// An answer is what a page can read of one.
type answer struct {
	Status  int
	Body    string
	Headers map[string]string
	Error   string // of fetch
}

// fetch has the page ask.
func (p *tester) fetch(method, url, key string) (a answer) {
	p.t.Helper()
	headers := map[string]string{}
	if key != "" {
		headers["x-api-key"] = key
	}
	init, err := json.Marshal(map[string]any{"method": method, "headers": headers})
	p.must(err)
	a, err = Eval[answer](p.Page, fmt.Sprintf(`fetch(%q, %s).then(
		async (r) => ({ Status: r.status, Body: await r.text(), Headers: Object.fromEntries(r.headers), Error: '' }),
		(e) => ({ Status: 0, Body: '', Headers: {}, Error: String(e) }))`, url, init))
	p.must(err)
	return a
}

// A page of another origin reads every answer, and the headers that say what
// limits it.
func TestOtherOrigin(t *testing.T) {
	db := backendtest.Postgres(t)
	proxy, url := backendtest.NewProxy(t, db)
	plan := backendtest.AddPlan(t, db, backendtest.Quota(1))
	key := backendtest.AddKeys(t, db, plan.Name, 1)[0]
	sameDay()
	s := serve(t, "DATABASE_URL="+url, "REQUEST_TIMEOUT=5s")
	p := open(t, elsewhere(t), Look{}, s.URL)

	const (
		id     = `^[A-Z2-7]{26}$`
		policy = `^"quota";q=1;w=86400$`
	)
	for _, c := range []struct {
		method, path, key string
		status            int
		body              string
		headers           map[string]string // and the patterns that they match
	}{
		{"GET", "/hello?name=%00", key, 400, "control character", map[string]string{"ratelimit": `^"quota";r=1;t=\d+$`, "ratelimit-policy": policy}},
		{"GET", "/hello?name=brooks", key, 200, "Hello brooks #1!", map[string]string{"ratelimit": `^"quota";r=0;t=\d+$`, "ratelimit-policy": policy}},
		{"GET", "/hello?name=brooks", "hk_nonsense", 403, "Forbidden", nil},
		{"GET", "/nowhere", key, 404, "Not Found", nil},
		{"POST", "/hello", key, 405, "Method Not Allowed", nil},
		{"GET", "/hello?name=brooks", key, 429, "Limit Exceeded", map[string]string{"ratelimit": `^"quota";r=0;t=\d+$`, "ratelimit-policy": policy, "retry-after": `^\d+$`}},
		{"GET", "/usage", key, 200, `"remaining":0`, nil},
	} {
		got := p.fetch(c.method, s.URL+c.path, c.key)
		got.want(t, c.method+" "+c.path, c.status, c.body, c.headers)
		if !regexp.MustCompile(id).MatchString(got.Headers["x-request-id"]) {
			t.Errorf("%s %s: the page reads the headers %v", c.method, c.path, got.Headers)
		}
	}
	proxy.Refuse()
	p.fetch("GET", s.URL+"/usage", key).want(t, "GET /usage without a database", 503, "Service Unavailable", map[string]string{"retry-after": `^1$`, "x-request-id": id})
}

// want checks an answer: its body has a text, its headers match patterns.
func (a answer) want(t *testing.T, what string, status int, body string, headers map[string]string) {
	t.Helper()
	if a.Status != status || !strings.Contains(a.Body, body) || a.Error != "" {
		t.Errorf("%s: the page reads %d, %q, %s; want %d, %q", what, a.Status, a.Body, a.Error, status, body)
	}
	for name, pattern := range headers {
		if !regexp.MustCompile(pattern).MatchString(a.Headers[name]) {
			t.Errorf("%s: the page reads %s: %q", what, name, a.Headers[name])
		}
	}
}

// Where an origin is allowed, the pages of others can't read anything; the page
// of the API itself can.
func TestAllowedOrigin(t *testing.T) {
	allowed, other := elsewhere(t), elsewhere(t)
	s := serve(t, "CORS_ALLOWED_ORIGINS="+allowed)
	_, key := s.firstKeys(t)
	open(t, allowed, Look{}, s.URL).fetch(http.MethodGet, s.URL+"/hello?name=brooks", key).want(t, "the allowed origin", 200, "Hello brooks #1!", nil)

	b, err := chromium()
	if err != nil {
		t.Fatal(err)
	}
	page, err := b.Open(other, Look{})
	if err != nil {
		t.Fatal(err)
	}
	defer page.Close()
	p := &tester{page, t}
	for _, key := range []string{key, ""} { // with a preflight, and without
		if got := p.fetch(http.MethodGet, s.URL+"/hello?name=brooks", key); got.Status != 0 || !strings.Contains(got.Error, "Failed to fetch") {
			t.Errorf("a page of another origin reads %+v", got)
		}
	}
	problems, err := p.Problems()
	if text := strings.Join(problems, "\n"); err != nil || !strings.Contains(text, "blocked by CORS policy") {
		t.Errorf("Chromium says %q, %v", problems, err)
	}

	p = open(t, s.URL+"/", Look{})
	p.fill(key, "brooks")
	if got := p.greet(); got != "Hello brooks #2!" { // what could not be asked was not counted
		t.Errorf("the page of the API: %q", got)
	}
}
