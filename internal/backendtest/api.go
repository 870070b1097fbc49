package backendtest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"helloapi/internal/api"
	"helloapi/internal/apikey"
	"helloapi/internal/backend"
	"helloapi/internal/hello"
	"helloapi/internal/idempotency"
	"helloapi/internal/limits"
	"helloapi/internal/memmeter"
	"helloapi/internal/plan"
	"helloapi/internal/refusals"
	"helloapi/internal/web"
)

// TestAPI is the suite for the whole API, over HTTP. fresh returns the
// configuration of a fresh backend, which replicas processes may serve from.
func TestAPI(t *testing.T, replicas int, fresh func(testing.TB) backend.Config) {
	for name, test := range map[string]func(*testing.T, *deployment){
		"Contract":          testContract,
		"Names":             testNames,
		"CORS":              testCORS,
		"CountTogether":     testCountTogether,
		"QuotaTogether":     testQuotaTogether,
		"FreePlan":          testFreePlan,
		"Throttle":          testThrottle,
		"ThrottleOfSlow":    testThrottleOfSlow,
		"ChargeOnlyServed":  testChargeOnlyServed,
		"BrokenGreetings":   testBrokenGreetings,
		"BrokenKeys":        testBrokenKeys,
		"BrokenCounters":    testBrokenCounters,
		"ClientThatLeaves":  testClientThatLeaves,
		"Usage":             testUsageEndpoint,
		"Grant":             testGrant,
		"QuotaOutlives":     testQuotaOutlives,
		"RoundTrips":        testRoundTrips,
		"FirstUses":         testFirstUses,
		"DatabaseGoesAway":  testStoresClosed,
		"LimitsHeaderOfAll": testHeaders,
		"Bodies":            testBodies,
		"EndpointCost":      testEndpointCost,
		"Repeats":           testRepeats,
		"RepeatsTogether":   testRepeatsTogether,
		"RepeatedGreeting":  testRepeatedGreeting,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, deploy(t, replicas, fresh(t)))
		})
	}
}

// A deployment is an API served by several replicas, which share nothing but
// their stores. Requests go to one after the other.
type deployment struct {
	cfg    backend.Config
	stores []*backend.Backend
	closes []func() // of stores
	urls   []string
	next   atomic.Uint64
	client *http.Client
	log    *Buffer
	runs   atomic.Int64 // of the handlers of things
}

// requestTimeout is how long a request of a deployment may take.
const requestTimeout = 20 * time.Second

// deploy serves from the backend of cfg.
func deploy(t testing.TB, replicas int, cfg backend.Config) *deployment {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 1000}
	d := &deployment{cfg: cfg, client: &http.Client{Transport: transport}, log: new(Buffer)}
	d.cfg.Log = slog.New(slog.NewTextHandler(d.log, nil))
	t.Cleanup(func() { noLeak(t, d.log) })
	for range replicas {
		d.add(t)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return d
}

// add starts one more replica.
func (d *deployment) add(t testing.TB) {
	t.Helper()
	b, err := backend.Open(t.Context(), d.cfg)
	if err != nil {
		t.Fatal(err)
	}
	closeOnce := sync.OnceFunc(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	t.Cleanup(closeOnce)
	d.stores, d.closes = append(d.stores, b), append(d.closes, closeOnce)
	d.serve(t, b, nil)
}

func (d *deployment) serve(t testing.TB, b *backend.Backend, change func(*api.Config)) {
	t.Helper()
	db := b.Conn()
	cfg := api.Config{
		Greetings: b.Greetings, DB: db, Answers: idempotency.New(db, b.KeyCache.Now, requestTimeout), Keys: b.KeyCache, Limits: b.Limits,
		Log: d.cfg.Log, Metrics: web.NewMetrics(prometheus.NewRegistry()),
		Refusals:           refusals.New(db, rand.Text(), b.KeyCache.Now, d.cfg.Log),
		CORSAllowedOrigins: []string{"*"}, MaxInFlight: 4096, RequestTimeout: requestTimeout, Pages: true,
	}
	if change != nil {
		change(&cfg)
	}
	h, err := api.New(cfg, d.endpoints(db)...)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	d.urls = append(d.urls, srv.URL)
}

// change has the first replica replaced by one that is made differently.
func (d *deployment) change(t testing.TB, f func(*api.Config)) {
	t.Helper()
	d.urls = nil
	d.serve(t, d.stores[0], f)
}

// key makes a key on a plan that is p, and returns its value.
func (d *deployment) key(t testing.TB, p plan.Plan) string {
	t.Helper()
	return AddKey(t, d.stores[0], AddPlan(t, d.cfg.DatabaseURL, p))
}

// An answer is a response, read.
type answer struct {
	status int
	header http.Header
	body   string
}

// do sends a request to the next replica.
func (d *deployment) do(t testing.TB, method, path, key string, header ...string) answer {
	t.Helper()
	return d.send(t, method, path, key, "", header...)
}

// send sends a request with a body.
func (d *deployment) send(t testing.TB, method, path, key, body string, header ...string) answer {
	t.Helper()
	base := d.urls[d.next.Add(1)%uint64(len(d.urls))]
	req, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set(apikey.Header, key)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := d.client.Do(req)
	if err != nil {
		t.Errorf("%s %s: %v", method, path, err)
		return answer{}
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("%s %s: %v", method, path, err)
	}
	return answer{resp.StatusCode, resp.Header, string(got)}
}

func (d *deployment) hello(t testing.TB, key, name string) answer {
	t.Helper()
	return d.do(t, http.MethodGet, "/hello?name="+url.QueryEscape(name), key)
}

func (a answer) want(t testing.TB, status int, message string) {
	t.Helper()
	if body := `{"message":"` + message + `"}`; a.status != status || a.body != body {
		t.Errorf("answered %d %s, want %d %s", a.status, a.body, status, body)
	}
}

// at sends n requests at once and returns the answers.
func at(n int, request func() answer) []answer {
	answers := make([]answer, n)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() { answers[i] = request() })
	}
	wg.Wait()
	return answers
}

// tally counts the answers by what they say, whatever their number.
func tally(answers []answer) map[string]int {
	n := map[string]int{}
	for _, a := range answers {
		n[number.ReplaceAllString(fmt.Sprint(a.status, " ", a.body), "#N")]++
	}
	return n
}

var number = regexp.MustCompile(`#(\d+)`)

// noLeak fails the test if a key's value was logged, or a panic.
func noLeak(t testing.TB, log *Buffer) {
	if m := leak.FindString(log.String()); m != "" {
		t.Errorf("the log has a key's value or a panic: %.60s…", m)
	}
}

var leak = regexp.MustCompile(`hk_[0-9A-Za-z]{6,}|given-value-[0-9a-z-]{8,}|panic`)

const greeted = `200 {"message":"Hello brooks #N!"}`

func testContract(t *testing.T, d *deployment) {
	key := d.key(t, plan.Plan{})
	const badQuery = "The query does not parse: percent-encode what is special in a URL, and separate parameters by &"
	for _, test := range []struct {
		method, path, key string
		header            []string
		status            int
		message           string
		errorType         string
	}{
		{"GET", "/hello?name=a", key, nil, 200, "Hello a #1!", ""},
		{"GET", "/hello/?name=a", key, nil, 200, "Hello a #2!", ""},
		{"GET", "/hello", key, nil, 200, "Hello anonymous #1!", ""},
		{"GET", "/hello?name=", key, nil, 200, "Hello anonymous #2!", ""},
		{"GET", "/hello?name=b&name=a", key, nil, 200, "Hello a #3!", ""},
		{"GET", "/hello?name=a&name=", key, nil, 200, "Hello anonymous #3!", ""},
		{"GET", "/%68ello?name=spelled", key, nil, 200, "Hello spelled #1!", ""},
		{"GET", "/hello?Name=a", key, nil, 200, "Hello anonymous #4!", ""},
		{"GET", "/hello?name=a", "", []string{"X-API-KEY", key}, 200, "Hello a #4!", ""},

		{"GET", "/hello?name=a", "", nil, 403, "Forbidden", "ForbiddenException"},
		{"GET", "/hello?name=a", "", []string{"x-api-key", ""}, 403, "Forbidden", "ForbiddenException"},
		{"GET", "/hello?name=a", key, []string{"x-api-key", key}, 403, "Forbidden", "ForbiddenException"},
		{"GET", "/hello?name=a", key + "x", nil, 403, "Forbidden", "ForbiddenException"},
		{"GET", "/hello?name=a", strings.ToLower(key), nil, 403, "Forbidden", "ForbiddenException"},
		{"GET", "/hello?name=a", "given-value-0123456789", nil, 403, "Forbidden", "ForbiddenException"},
		{"GET", "/hello?name=a", apikey.Generate().Reveal(), nil, 403, "Forbidden", "ForbiddenException"},
		{"GET", "/hello?name=%zz", "", nil, 403, "Forbidden", "ForbiddenException"}, // before the 400
		{"GET", "/hello?name=a&x-api-key=" + key, "", nil, 403, "Forbidden", "ForbiddenException"},
		{"GET", "/hello?name=a", "", []string{"Authorization", "Bearer " + key}, 403, "Forbidden", "ForbiddenException"},

		{"GET", "/hello?name=%zz", key, nil, 400, badQuery, ""},
		{"GET", "/hello?name=a;b=c", key, nil, 400, badQuery, ""},
		{"GET", "/hello?name=%ff", key, nil, 400, "The name is not UTF-8", ""},
		{"GET", "/hello?name=a%00", key, nil, 400, "The name has a control character", ""},
		{"GET", "/hello?name=" + strings.Repeat("x", 257), key, nil, 400, "The name has more than 256 characters", ""},

		{"GET", "/nothing", key, nil, 404, "Not Found", ""},
		{"POST", "/nothing", "", nil, 404, "Not Found", ""},
		{"BREW", "/nothing", "", nil, 404, "Not Found", ""},
		{"GET", "/hello/" + key, "", nil, 404, "Not Found", ""},
		{"GET", "/hello%2F", key, nil, 404, "Not Found", ""},
		{"POST", "/hello%2F", key, nil, 404, "Not Found", ""},
		{"POST", "/%68ello", key, nil, 405, "Method Not Allowed", ""},
		{"POST", "/hello", key, nil, 405, "Method Not Allowed", ""},
		{"PUT", "/hello/", "", nil, 405, "Method Not Allowed", ""},
		{"OPTIONS", "/hello", "", nil, 405, "Method Not Allowed", ""}, // no preflight
		{"BREW", "/hello/", "", nil, 405, "Method Not Allowed", ""},
	} {
		a := d.do(t, test.method, test.path, test.key, append(test.header, "Origin", "https://example.com")...)
		name := fmt.Sprintf("%s %.40s", test.method, test.path)
		if want := `{"message":"` + test.message + `"}`; a.status != test.status || a.body != want {
			t.Errorf("%s: %d %s, want %d %s", name, a.status, a.body, test.status, want)
		}
		for field, want := range map[string]string{
			"X-Amzn-Errortype":            test.errorType,
			"Content-Type":                "application/json",
			"Content-Length":              strconv.Itoa(len(a.body)),
			"Cache-Control":               "no-store",
			"X-Content-Type-Options":      "nosniff",
			"Access-Control-Allow-Origin": "*",
			"Retry-After":                 "",
			"Allow":                       map[bool]string{true: "GET"}[test.status == 405],
		} {
			if got := a.header.Get(field); got != want {
				t.Errorf("%s: %s: %q, want %q", name, field, got, want)
			}
		}
		if len(a.header.Get("X-Request-Id")) < 16 {
			t.Errorf("%s: X-Request-Id: %q", name, a.header.Get("X-Request-Id"))
		}
		if log := d.log.String(); !strings.Contains(log, a.header.Get("X-Request-Id")) {
			t.Errorf("%s: the log does not have its X-Request-Id", name)
		}
	}
	// HEAD has no body to compare.
	if a := d.do(t, http.MethodHead, "/hello", key); a.status != 405 || a.header.Get("Allow") != "GET" {
		t.Errorf("HEAD /hello: %d, Allow: %q", a.status, a.header.Get("Allow"))
	}
	// None of the refused was counted.
	d.hello(t, key, "a").want(t, 200, "Hello a #5!")
}

func testNames(t *testing.T, d *deployment) {
	key := d.key(t, plan.Plan{})
	for _, test := range []struct{ query, want string }{
		{"Zo%C3%AB", "Hello Zoë #1!"},
		{"Zoe%CC%88", "Hello Zoë #2!"}, // the same name, decomposed
		{"zo%C3%AB", "Hello zoë #1!"},
		{"Ann+Lee", "Hello Ann Lee #1!"},
		{"Ann%20Lee", "Hello Ann Lee #2!"},
		{"+Ann+", "Hello  Ann  #1!"},
		{"%3Cb%3E%26", "Hello <b>& #1!"},
		{"%22%5C", `Hello \"\\ #1!`},
		{"%F0%9D%84%9E", "Hello 𝄞 #1!"},
		{"%E2%80%AE", "Hello \u202e #1!"},
		{"%27%3B--", "Hello ';-- #1!"},
		{strings.Repeat("%F0%9D%84%9E", 256), "Hello " + strings.Repeat("𝄞", 256) + " #1!"},
	} {
		d.do(t, http.MethodGet, "/hello?name="+test.query, key).want(t, 200, test.want)
	}
}

func testCORS(t *testing.T, d *deployment) {
	d.urls = d.urls[:1]
	key := d.key(t, Quota(1))
	preflight := func(path, method string, origin string) answer {
		return d.do(t, http.MethodOptions, path, "", "Origin", origin,
			"Access-Control-Request-Method", method, "Access-Control-Request-Headers", "x-api-key")
	}
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "PROPFIND", "BREW", "brew"} {
		a := preflight("/hello", method, "https://example.com")
		if a.status != 200 || a.body != "" || a.header.Get("Access-Control-Allow-Origin") != "*" ||
			a.header.Get("Access-Control-Allow-Methods") != method ||
			!strings.EqualFold(a.header.Get("Access-Control-Allow-Headers"), "x-api-key") ||
			a.header.Get("Access-Control-Max-Age") == "" || a.header.Get("X-Request-Id") == "" {
			t.Errorf("preflight for %s: %d %v %s", method, a.status, a.header, a.body)
		}
	}
	if a := preflight("/nothing", "GET", "https://example.com"); a.header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("preflight of an unknown path: %v", a.header)
	}
	// It cost nothing, and a page can read what limits it.
	readable := func(a answer) {
		t.Helper()
		if a.header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%d without Access-Control-Allow-Origin", a.status)
		}
		for _, h := range []string{"ratelimit", "ratelimit-policy", "retry-after", "x-request-id", "location"} {
			if !strings.Contains(strings.ToLower(a.header.Get("Access-Control-Expose-Headers")), h) {
				t.Errorf("%d does not expose %s", a.status, h)
			}
		}
	}
	get := func(key string) answer { return d.do(t, "GET", "/hello", key, "Origin", "https://example.com") }
	for _, test := range []struct {
		key    string
		status int
	}{{"", 403}, {key, 200}, {key, 429}} {
		a := get(test.key)
		if a.status != test.status {
			t.Errorf("answered %d, want %d", a.status, test.status)
		}
		readable(a)
	}

	// Only the pages of one origin.
	d.change(t, func(c *api.Config) { c.CORSAllowedOrigins = []string{"https://app.example.com"} })
	if a := preflight("/hello", "GET", "https://app.example.com"); a.header.Get("Access-Control-Allow-Origin") != "https://app.example.com" {
		t.Errorf("preflight of the allowed origin: %v", a.header)
	}
	if a := preflight("/hello", "GET", "https://example.com"); a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("preflight of another origin: %v", a.header)
	}
	if a := get(""); a.status != 403 || a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("request of another origin: %d %v", a.status, a.header)
	}
}

// isRange reports whether numbers are 1 to n, each once, in any order.
func isRange(numbers []int64, n int) bool {
	slices.Sort(numbers)
	for i, x := range numbers {
		if x != int64(i+1) {
			return false
		}
	}
	return len(numbers) == n
}

func testCountTogether(t *testing.T, d *deployment) {
	key := d.key(t, plan.Plan{})
	waiting := func() (n int) {
		for _, b := range d.stores {
			n += b.Stats()["greetings"].Waiting
		}
		return n
	}
	// Held up until all are there: what is under way then is one statement of
	// each replica, and all others share the next.
	unlock := LockGreetings(t, d.cfg.DatabaseURL)
	var answers []answer
	done := make(chan bool)
	go func() {
		defer close(done)
		answers = at(500, func() answer { return d.hello(t, key, "brooks") })
	}()
	waitFor(t, "500 greetings to gather", func() bool { return waiting() == 500 })
	unlock()
	<-done

	if got := tally(answers); got[greeted] != 500 {
		t.Fatalf("answers: %v, want 500 greetings", got)
	}
	var numbers []int64
	for _, a := range answers {
		n, err := strconv.ParseInt(number.FindStringSubmatch(a.body)[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		numbers = append(numbers, n)
	}
	if !isRange(numbers, 500) {
		t.Errorf("the numbers %v are not 1 to 500", numbers)
	}
	var flushes uint64
	for _, b := range d.stores {
		flushes += b.Stats()["greetings"].Flushes
	}
	if most := uint64(2 * len(d.stores)); flushes > most {
		t.Errorf("500 greetings took %d statements, want %d at most", flushes, most)
	}

	// The count outlives the replicas.
	for _, c := range d.closes {
		c()
	}
	d.stores, d.urls = nil, nil
	d.add(t)
	d.hello(t, key, "brooks").want(t, 200, "Hello brooks #501!")
}

// together returns how many units of a quota are there in all: replicas
// without Redis count for themselves.
func (d *deployment) together(n int) int {
	if d.cfg.RedisURL == "" {
		return n * len(d.stores)
	}
	return n
}

func testQuotaTogether(t *testing.T, d *deployment) {
	key := d.key(t, Quota(5))
	got := tally(at(100, func() answer { return d.hello(t, key, "brooks") }))
	served := d.together(5)
	if got[greeted] != served || got[`429 {"message":"Limit Exceeded"}`] != 100-served {
		t.Errorf("of 100 with a quota of 5: %v, want %d served and the others Limit Exceeded", got, served)
	}
}

func testFreePlan(t *testing.T, d *deployment) {
	d.urls = d.urls[:1] // the replica that served the fifth knows that it was the last
	key := AddKey(t, d.stores[0], &plan.Plan{Name: "free"})
	for i := range 5 {
		d.hello(t, key, "brooks").want(t, 200, fmt.Sprintf("Hello brooks #%d!", i+1))
	}
	a := d.hello(t, key, "brooks")
	a.want(t, 429, "Limit Exceeded")
	if a.header.Get("X-Amzn-Errortype") != "LimitExceededException" {
		t.Errorf("X-Amzn-ErrorType: %q", a.header.Get("X-Amzn-Errortype"))
	}
	// Until midnight UTC.
	left := time.Until(time.Now().UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)).Seconds()
	after, err := strconv.ParseFloat(a.header.Get("Retry-After"), 64)
	if err != nil || after < left-5 || after > left+5 {
		t.Errorf("Retry-After: %q, want about %.0f", a.header.Get("Retry-After"), left)
	}
	// Another key of the plan has its own.
	d.hello(t, AddKey(t, d.stores[0], &plan.Plan{Name: "free"}), "brooks").want(t, 200, "Hello brooks #6!")
}

const tooMany = `429 {"message":"Too Many Requests"}`

func testThrottle(t *testing.T, d *deployment) {
	key, other := d.key(t, Throttle(5, 5)), d.key(t, Throttle(5, 5))
	begin := time.Now()
	answers := at(50, func() answer { return d.hello(t, key, "brooks") })
	got := tally(answers)
	most := d.together(5 + int(5*time.Since(begin).Seconds()) + 1)
	if got[greeted] < 5 || got[greeted] > most || got[greeted]+got[tooMany] != 50 {
		t.Errorf("of 50 at once: %v, want 5 to %d served", got, most)
	}
	i := slices.IndexFunc(answers, func(a answer) bool { return a.status == 429 })
	if i < 0 {
		t.Fatal("none was throttled")
	}
	a := answers[i]
	if a.header.Get("Retry-After") != "1" || a.header.Get("X-Amzn-Errortype") != "TooManyRequestsException" ||
		a.header.Get("RateLimit") != `"throttle";r=0;t=1` || a.header.Get("RateLimit-Policy") != `"throttle";q=5;w=1` {
		t.Errorf("throttled with %v", a.header)
	}
	// A key of the same limits has its own bucket.
	if a := d.hello(t, other, "brooks"); a.status != 200 {
		t.Errorf("another key: %d %s", a.status, a.body)
	}
	time.Sleep(time.Second) // as told
	if a := d.hello(t, key, "brooks"); a.status != 200 {
		t.Errorf("after Retry-After: %d %s", a.status, a.body)
	}
}

func testThrottleOfSlow(t *testing.T, d *deployment) {
	d.urls = d.urls[:1]
	key := d.key(t, Throttle(0.5, 1))
	d.hello(t, key, "brooks").want(t, 200, "Hello brooks #1!")
	a := d.hello(t, key, "brooks")
	a.want(t, 429, "Too Many Requests")
	if a.header.Get("Retry-After") != "2" || a.header.Get("RateLimit-Policy") != `"throttle";q=1;w=2` {
		t.Errorf("throttled with %v", a.header)
	}
	time.Sleep(2 * time.Second) // as told
	d.hello(t, key, "brooks").want(t, 200, "Hello brooks #2!")
}

// remaining is what the answer says is left of the quota.
func (a answer) remaining() string {
	_, rest, _ := strings.Cut(a.header.Get("RateLimit"), `"quota";r=`)
	n, _, _ := strings.Cut(rest, ";")
	return n
}

func testChargeOnlyServed(t *testing.T, d *deployment) {
	d.urls = d.urls[:1]
	p := Quota(3)
	p.Throttle = Throttle(1000, 4).Throttle
	key := d.key(t, p)
	get := func(path string) answer { return d.do(t, "GET", path, key) }
	if a := get("/hello?name=a"); a.remaining() != "2" {
		t.Errorf("after one served %q remain", a.remaining())
	}
	for _, bad := range []string{"/hello?name=%zz", "/hello?name=%00"} {
		if a := get(bad); a.status != 400 || a.remaining() != "2" {
			t.Errorf("%s: %d, %q remain", bad, a.status, a.remaining())
		}
	}
	get("/hello/nothing")
	d.do(t, "POST", "/hello", key)
	waitFor(t, "a token", func() bool { return get("/hello?name=a").status == 200 })
	waitFor(t, "a token", func() bool { return get("/hello?name=a").status == 200 })
	if a := get("/hello?name=%zz"); a.status != 429 || a.body != `{"message":"Limit Exceeded"}` {
		t.Errorf("with the quota spent, a bad request: %d %s", a.status, a.body)
	}
	// None that was throttled was counted either.
	d.hello(t, d.key(t, plan.Plan{}), "a").want(t, 200, "Hello a #4!")
}

var errBroken = errors.New("broken for the test")

// brokenGreetings fails. If it persists it counts all the same, as a database
// does whose answer is lost.
type brokenGreetings struct {
	hello.Greetings
	broken   atomic.Bool
	persists bool
}

func (b *brokenGreetings) Greet(ctx context.Context, name string) (int64, error) {
	if !b.broken.Load() {
		return b.Greetings.Greet(ctx, name)
	}
	if b.persists {
		if _, err := b.Greetings.Greet(ctx, name); err != nil {
			return 0, err
		}
	}
	return 0, errBroken
}

func (a answer) wantUnavailable(t testing.TB) {
	t.Helper()
	a.want(t, 503, "Service Unavailable")
	if a.header.Get("Retry-After") != "1" {
		t.Errorf("503 with Retry-After: %q", a.header.Get("Retry-After"))
	}
}

func testBrokenGreetings(t *testing.T, d *deployment) {
	for _, persists := range []bool{false, true} {
		broken := &brokenGreetings{Greetings: d.stores[0].Greetings, persists: persists}
		d.change(t, func(c *api.Config) { c.Greetings = broken })
		key, name := d.key(t, Quota(2)), fmt.Sprint("persists: ", persists)
		d.hello(t, key, name).want(t, 200, "Hello "+name+" #1!")
		broken.broken.Store(true)
		for range 3 {
			a := d.hello(t, key, name)
			a.wantUnavailable(t)
			if a.remaining() != "1" {
				t.Errorf("a greeting that failed was charged: %q remain", a.remaining())
			}
		}
		broken.broken.Store(false)
		// A gap at most, never a number twice.
		next := map[bool]int{false: 2, true: 5}[persists]
		d.hello(t, key, name).want(t, 200, fmt.Sprintf("Hello %s #%d!", name, next))
		d.hello(t, key, name).want(t, 429, "Limit Exceeded")
	}
}

type brokenKeys struct{ api.Keys }

func (brokenKeys) Find(context.Context, apikey.Hash) (*apikey.Key, error) { return nil, errBroken }

func testBrokenKeys(t *testing.T, d *deployment) {
	key := d.key(t, plan.Plan{})
	d.change(t, func(c *api.Config) { c.Keys = brokenKeys{c.Keys} })
	d.hello(t, key, "brooks").wantUnavailable(t)
	// What needs no look-up is refused still.
	d.hello(t, "", "brooks").want(t, 403, "Forbidden")
	d.hello(t, key+"x", "brooks").want(t, 403, "Forbidden")
}

// brokenCounters fail in some of what they do.
type brokenCounters struct {
	limits.Counters
	take, ret, persists bool
}

func (b *brokenCounters) Take(ctx context.Context, r limits.Request) (limits.Taken, error) {
	if b.take {
		if b.persists {
			if _, err := b.Counters.Take(ctx, r); err != nil {
				return limits.Taken{}, err
			}
		}
		return limits.Taken{}, errBroken
	}
	return b.Counters.Take(ctx, r)
}

func (b *brokenCounters) Return(ctx context.Context, t limits.Taken) error {
	if b.ret {
		return errBroken
	}
	return b.Counters.Return(ctx, t)
}

func testBrokenCounters(t *testing.T, d *deployment) {
	p := Quota(2)
	p.Throttle = Throttle(1000, 1000).Throttle
	key := d.key(t, p)
	counters := memmeter.New()
	with := func(b brokenCounters) {
		b.Counters = counters
		l := limits.New(limits.Config{Local: &b, Usage: d.stores[0], Replica: "broken", Log: d.cfg.Log})
		d.change(t, func(c *api.Config) { c.Limits = l })
	}
	for range 3 {
		with(brokenCounters{take: true})
		d.hello(t, key, "brooks").wantUnavailable(t)
	}
	const bad = "/hello?name=%zz"
	with(brokenCounters{ret: true})
	d.do(t, "GET", bad, key).want(t, 400, "The query does not parse: percent-encode what is special in a URL, and separate parameters by &")
	if !strings.Contains(d.log.String(), "return unit: "+errBroken.Error()) {
		t.Error("the log does not have the unit that could not be returned")
	}
	with(brokenCounters{take: true, persists: true})
	d.hello(t, key, "brooks").wantUnavailable(t) // and a unit is lost
	with(brokenCounters{})
	d.hello(t, key, "brooks").want(t, 429, "Limit Exceeded")
	// None of them was greeted.
	d.hello(t, d.key(t, plan.Plan{}), "brooks").want(t, 200, "Hello brooks #1!")
}

func testClientThatLeaves(t *testing.T, d *deployment) {
	d.urls, d.stores = d.urls[:1], d.stores[:1]
	key := d.key(t, Quota(2))
	unlock := LockGreetings(t, d.cfg.DatabaseURL)
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.urls[0]+"/hello?name=brooks", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(apikey.Header, key)
	left := make(chan error)
	go func() {
		_, err := d.client.Do(req)
		left <- err
	}()
	waitFor(t, "the greeting to be under way", func() bool { return d.stores[0].Stats()["greetings"].Waiting == 1 })
	leave()
	if err := <-left; err == nil {
		t.Fatal("the client did not leave")
	}
	unlock()
	// Its greeting was counted, and charged.
	waitFor(t, "the greeting to be logged", func() bool { return strings.Contains(d.log.String(), "status=200") })
	d.hello(t, key, "brooks").want(t, 200, "Hello brooks #2!")
	d.hello(t, key, "brooks").want(t, 429, "Limit Exceeded")
}

// usage is what GET /usage answers.
type usage struct {
	Plan  string
	Quota *struct {
		Limit, Granted, Used, Remaining int64
		Period                          string
		Since, ResetsAt                 time.Time
	}
	Throttle *plan.Throttle
	Days     []struct {
		Date    string
		Refused map[string]int64
		Used    int64
	}
}

// usage asks the first replica, which knows at once what it charged itself.
func (d *deployment) usage(t testing.TB, key string) (u usage) {
	t.Helper()
	a := d.do(t, http.MethodGet, "/usage", key)
	if a.status != http.StatusOK {
		t.Fatalf("GET /usage: %d %s", a.status, a.body)
	}
	if err := json.Unmarshal([]byte(a.body), &u); err != nil {
		t.Fatalf("GET /usage: %v in %s", err, a.body)
	}
	return u
}

func testUsageEndpoint(t *testing.T, d *deployment) {
	d.urls = d.urls[:1]
	p := Quota(3)
	p.Throttle = &plan.Throttle{Rate: 0.01, Burst: 12}
	key := d.key(t, p)
	if u := d.usage(t, key); u.Quota == nil || u.Quota.Used != 0 || u.Quota.Remaining != 3 || len(u.Days) != 0 {
		t.Errorf("before the first request: %+v", u)
	}
	d.hello(t, key, "brooks")
	d.hello(t, key, "brooks")
	d.do(t, http.MethodGet, "/hello?name=%zz", key) // is not charged
	u := d.usage(t, key)
	now := time.Now().UTC()
	if u.Quota.Limit != 3 || u.Quota.Used != 2 || u.Quota.Remaining != 1 || u.Quota.Period != "DAY" || u.Quota.Granted != 0 ||
		!u.Quota.Since.Equal(now.Truncate(24*time.Hour)) || !u.Quota.ResetsAt.Equal(u.Quota.Since.Add(24*time.Hour)) {
		t.Errorf("after two requests: %+v", *u.Quota)
	}
	if len(u.Days) != 1 || u.Days[0].Date != now.Format(time.DateOnly) || u.Days[0].Used != 2 {
		t.Errorf("days: %+v", u.Days)
	}
	// It is not charged, answers when the quota is spent, and is throttled.
	d.hello(t, key, "brooks").want(t, 200, "Hello brooks #3!")
	d.hello(t, key, "brooks").want(t, 429, "Limit Exceeded")
	if u := d.usage(t, key); u.Quota.Used != 3 || u.Quota.Remaining != 0 || !maps.Equal(u.Days[0].Refused, map[string]int64{"over quota": 1}) {
		t.Errorf("with the quota spent: %+v %+v", *u.Quota, u.Days)
	}
	var last answer
	for range 12 {
		last = d.do(t, http.MethodGet, "/usage", key)
	}
	last.want(t, 429, "Too Many Requests")
	d.do(t, http.MethodGet, "/usage", "").want(t, 403, "Forbidden")
	d.do(t, http.MethodPost, "/usage", key).want(t, 405, "Method Not Allowed")

	// A key without a quota has its days too.
	free := d.key(t, plan.Plan{})
	d.hello(t, free, "brooks")
	if u := d.usage(t, free); u.Quota != nil || u.Throttle != nil || len(u.Days) != 1 || u.Days[0].Used != 1 {
		t.Errorf("without limits: %+v", u)
	}
}

func testGrant(t *testing.T, d *deployment) {
	key := d.key(t, Quota(2))
	d.do(t, http.MethodGet, "/hello", key)
	served := d.together(2)
	waitFor(t, "the quota to be spent", func() bool {
		spent := tally(at(10, func() answer { return d.hello(t, key, "brooks") }))
		return spent[`429 {"message":"Limit Exceeded"}`] == 10
	})
	keys, err := d.stores[0].Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	today := plan.DateOf(time.Now().UTC())
	if _, err := d.stores[0].GrantUnits(t.Context(), keys[0].ID, plan.Grant{Date: today, Units: 3}); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	waitFor(t, "each replica to know of the grant", func() bool {
		for range d.urls {
			if a := d.do(t, http.MethodGet, "/hello?name=%zz", key); a.status != 400 || a.header.Get("RateLimit-Policy") != `"quota";q=5;w=86400` {
				return false
			}
		}
		return true
	})
	if took := time.Since(begin); took > time.Second {
		t.Errorf("a grant was usable only after %v", took)
	}
	got := tally(at(20, func() answer { return d.hello(t, key, "brooks") }))
	if want := d.together(5) - served; got[greeted] != want {
		t.Errorf("after 3 more were granted: %v, want %d served", got, want)
	}
	// One for another window is no help.
	if _, err := d.stores[0].GrantUnits(t.Context(), keys[0].ID, plan.Grant{Date: today.AddDays(-1), Units: 3}); err != nil {
		t.Fatal(err)
	}
	if got := tally(at(10, func() answer { return d.hello(t, key, "brooks") })); got[greeted] != 0 {
		t.Errorf("after a grant for yesterday: %v", got)
	}
}

// What was used of a quota is durable, whatever became of the counters.
func testQuotaOutlives(t *testing.T, d *deployment) {
	key := d.key(t, Quota(10))
	for range 6 {
		d.hello(t, key, "brooks")
	}
	for _, c := range d.closes {
		c()
	}
	if d.cfg.RedisURL != "" {
		opts, err := redis.ParseURL(d.cfg.RedisURL)
		if err != nil {
			t.Fatal(err)
		}
		rdb := redis.NewClient(opts)
		defer rdb.Close()
		var id string
		if err := SQL(t, d.cfg.DatabaseURL).QueryRow(`SELECT id FROM api_keys`).Scan(&id); err != nil {
			t.Fatal(err)
		}
		counters, err := rdb.Keys(t.Context(), "quota:{"+id+"}:*").Result()
		if err != nil || len(counters) != 1 {
			t.Fatalf("counters %v, %v", counters, err)
		}
		if err := rdb.Del(t.Context(), counters...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	d.stores, d.closes, d.urls = nil, nil, nil
	d.add(t)
	got := tally(at(20, func() answer { return d.hello(t, key, "brooks") }))
	if got[greeted] != 4 || got[`429 {"message":"Limit Exceeded"}`] != 16 {
		t.Errorf("with 6 of 10 used before: %v, want 4 served", got)
	}
	if u := d.usage(t, key); u.Quota.Used != 10 || u.Days[0].Used != 10 {
		t.Errorf("usage: %+v", u)
	}
}

func testRoundTrips(t *testing.T, d *deployment) {
	d.urls, d.stores = d.urls[:1], d.stores[:1]
	p := Quota(1000)
	p.Throttle = Throttle(1000, 1000).Throttle
	key := d.key(t, p)
	waitFor(t, "the key cache to be in use", func() bool {
		d.hello(t, key, "brooks") // loads scripts
		before := d.stores[0].Stats()["keys"]
		d.hello(t, key, "brooks")
		return d.stores[0].Stats()["keys"] == before
	})
	before := d.stores[0].Stats()
	d.hello(t, key, "brooks")
	after := d.stores[0].Stats()
	want := map[string]uint64{"greetings": 1, "keys": 0, "usage": 0, "limits": 1}
	for store, s := range after {
		if got := s.Flushes - before[store].Flushes; got != want[store] {
			t.Errorf("one request took %d round trips for %s, want %d", got, store, want[store])
		}
	}
}

// 500 keys that are used for the first time at once are found in a handful of
// queries.
func testFirstUses(t *testing.T, d *deployment) {
	b := d.stores[0]
	var hashes []apikey.Hash
	for range 500 {
		v, err := apikey.Parse(AddKey(t, b, &plan.Plan{Name: "paid"}))
		if err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, v.Hash())
	}
	before := b.Stats()["keys"].Flushes
	most := uint64(50) // SQLite's readers wait for nobody, so not all gather
	unlock := func() {}
	if !isSQLite(d.cfg.DatabaseURL) {
		most = 2
		tx, err := SQL(t, d.cfg.DatabaseURL).Begin()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(`LOCK TABLE api_key_values IN ACCESS EXCLUSIVE MODE`); err != nil {
			t.Fatal(err)
		}
		unlock = func() {
			waitFor(t, "500 look-ups to gather", func() bool { return b.Stats()["keys"].Waiting == 500 })
			if err := tx.Rollback(); err != nil {
				t.Error(err)
			}
		}
	}
	var wg sync.WaitGroup
	for _, h := range hashes {
		wg.Go(func() {
			if _, err := b.KeyCache.Find(t.Context(), h); err != nil {
				t.Error(err)
			}
		})
	}
	unlock()
	wg.Wait()
	flushes := b.Stats()["keys"].Flushes - before
	t.Logf("500 first uses of 500 keys took %d queries", flushes)
	if flushes > most {
		t.Errorf("500 first uses of 500 keys took %d queries, want %d at most", flushes, most)
	}
}

func testStoresClosed(t *testing.T, d *deployment) {
	d.urls = d.urls[:1]
	key := d.key(t, plan.Plan{})
	d.hello(t, key, "brooks").want(t, 200, "Hello brooks #1!")
	if err := d.stores[0].Ready(t.Context()); err != nil {
		t.Errorf("Ready: %v", err)
	}
	d.closes[0]()
	d.hello(t, key, "brooks").wantUnavailable(t)
	if err := d.stores[0].Ready(t.Context()); err == nil {
		t.Error("ready without a database")
	}
}

func testHeaders(t *testing.T, d *deployment) {
	d.urls = d.urls[:1]
	key := d.key(t, plan.Plan{
		Quota:    &plan.Quota{Limit: 5, Period: plan.Day},
		Throttle: &plan.Throttle{Rate: 100, Burst: 250},
	})
	a := d.hello(t, key, "brooks")
	if got := a.header.Get("RateLimit-Policy"); got != `"quota";q=5;w=86400, "throttle";q=250;w=3` {
		t.Errorf("RateLimit-Policy: %s", got)
	}
	if got := a.header.Get("RateLimit"); !regexp.MustCompile(`^"quota";r=4;t=\d+$`).MatchString(got) {
		t.Errorf("RateLimit: %s", got)
	}
	a = d.hello(t, d.key(t, plan.Plan{}), "brooks")
	if a.header.Get("RateLimit") != "" || a.header.Get("RateLimit-Policy") != "" {
		t.Errorf("without limits: %v", a.header)
	}
}
