package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"helloapi/internal/backendtest"
)

// An answer is a response, read.
type answer struct {
	status int
	header http.Header
	body   string
}

var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}

func get(t testing.TB, url, key string) answer {
	t.Helper()
	headers := map[string]string{}
	if key != "" {
		headers["x-api-key"] = key
	}
	return request(t, http.MethodGet, url, headers)
}

// request sends a request with headers, and returns what is answered.
func request(t testing.TB, method, url string, headers map[string]string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range headers {
		req.Header.Set(name, value)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Errorf("%s: %v", method, err)
		return answer{}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("%s: %v", method, err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

// waitFor waits until cond holds, and fails the test if that takes too long.
func waitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// sum adds up a metric of several processes.
func sum(t testing.TB, procs []*process, metric string) int {
	t.Helper()
	total := 0
	for _, p := range procs {
		n, err := strconv.ParseFloat(p.metric(t, metric), 64)
		if err != nil {
			t.Fatalf("%s: %v", metric, err)
		}
		total += int(n)
	}
	return total
}

// storm sends n requests at once, to one process after the other.
func storm(t testing.TB, procs []*process, n int, key, path string) []answer {
	answers := make([]answer, n)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() { answers[i] = get(t, "http://"+procs[i%len(procs)].addr+path, key) })
	}
	wg.Wait()
	return answers
}

var greetingNumber = regexp.MustCompile(`#(\d+)!`)

// numbers returns the sorted numbers that were greeted with.
func numbers(t testing.TB, answers []answer) []int {
	t.Helper()
	var out []int
	for _, a := range answers {
		m := greetingNumber.FindStringSubmatch(a.body)
		if a.status != http.StatusOK || m == nil {
			t.Errorf("answered %d %s, want a greeting", a.status, a.body)
			continue
		}
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

func upTo(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i + 1
	}
	return out
}

func TestThreeProcesses(t *testing.T) {
	t.Parallel()
	db := backendtest.Postgres(t)
	var procs []*process
	for range 3 {
		procs = append(procs, start(t, t.TempDir(), "DATABASE_URL="+db, "REDIS_URL="+backendtest.RedisURL(t)))
	}
	backendtest.Exec(t, db, `INSERT INTO plans (name) VALUES ('unlimited')`)
	backendtest.Exec(t, db, `INSERT INTO plans (name, quota_limit, quota_period) VALUES ('five', 5, 'DAY')`)
	key := must(t, db, "keys", "create", "all", "--plan", "unlimited")

	t.Run("Count", func(t *testing.T) {
		const waiting, flushes = `helloapi_store_waiting{store="greetings"}`, `helloapi_store_flushes_total{store="greetings"}`
		unlock := backendtest.LockGreetings(t, db)
		var answers []answer
		done := make(chan bool)
		go func() {
			defer close(done)
			answers = storm(t, procs, 500, key, "/hello?name=brooks")
		}()
		waitFor(t, "500 greetings to gather", func() bool { return sum(t, procs, waiting) == 500 })
		unlock()
		<-done
		if got := numbers(t, answers); !slices.Equal(got, upTo(500)) {
			t.Errorf("numbers %v, want 1 to 500", got)
		}
		if n := sum(t, procs, flushes); n > 6 {
			t.Errorf("500 greetings took %d statements, want 6 at most", n)
		}
	})
	t.Run("CountNotHeldUp", func(t *testing.T) {
		if got := numbers(t, storm(t, procs, 500, key, "/hello?name=ann")); !slices.Equal(got, upTo(500)) {
			t.Errorf("numbers %v, want 1 to 500", got)
		}
	})
	t.Run("Quota", func(t *testing.T) {
		five := must(t, db, "keys", "create", "five", "--plan", "five")
		served, refused := 0, 0
		for _, a := range storm(t, procs, 100, five, "/hello?name=quota") {
			switch {
			case a.status == http.StatusOK:
				served++
			case a.status == http.StatusTooManyRequests && a.body == `{"message":"Limit Exceeded"}`:
				refused++
			default:
				t.Errorf("answered %d %s", a.status, a.body)
			}
		}
		if served != 5 || refused != 95 {
			t.Errorf("served %d and refused %d, want 5 and 95", served, refused)
		}
	})
	t.Run("Stop", func(t *testing.T) {
		for _, p := range procs {
			if err := p.stop(t); err != nil {
				t.Errorf("%v\n%s", err, p.stderr)
			}
		}
		// PostgreSQL's own count of what was done, which is complete once the
		// connections have ended: each statement above was about one row.
		var statements int
		if err := backendtest.SQL(t, db).QueryRow(`SELECT n_tup_ins + n_tup_upd FROM pg_stat_user_tables WHERE relname = 'greetings'`).Scan(&statements); err != nil {
			t.Fatal(err)
		}
		t.Logf("1,005 greetings took PostgreSQL %d statements", statements)
		if statements < 2 || statements > 500 {
			t.Errorf("1,005 greetings took PostgreSQL %d statements", statements)
		}
		p := start(t, t.TempDir(), "DATABASE_URL="+db, "REDIS_URL="+backendtest.RedisURL(t))
		if a := get(t, "http://"+p.addr+"/hello?name=brooks", key); a.body != `{"message":"Hello brooks #501!"}` {
			t.Errorf("after a restart: %s", a.body)
		}
	})
}

func TestFirstStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := start(t, dir)
	keys := p.keys(t)
	if len(keys) != 2 || !strings.Contains(p.stderr.String(), "file=data/helloapi.db.keys-") || p.stdout.String() != "" {
		t.Fatalf("%d keys, and printed:\n%s\n%s", len(keys), p.stdout, p.stderr)
	}
	if a := get(t, "http://"+p.addr+"/hello?name=brooks", keys[0]); a.body != `{"message":"Hello brooks #1!"}` {
		t.Errorf("the first key: %d %s", a.status, a.body)
	}
	out := must(t, "sqlite:"+filepath.Join(dir, "data/helloapi.db"), "keys", "list")
	for _, want := range []string{"testkey1", "free", "testkey2", "paid"} {
		if !strings.Contains(out, want) {
			t.Errorf("keys list lacks %s:\n%s", want, out)
		}
	}
	if err := p.stop(t); err != nil {
		t.Errorf("stop: %v", err)
	}
	// No file is written once more, and others than the owner can't read any.
	again := start(t, dir)
	if s := again.stdout.String(); s != "" || len(again.keys(t)) != 2 {
		t.Errorf("the second start prints:\n%s", s)
	}
	if a := get(t, "http://"+again.addr+"/hello?name=brooks", keys[0]); a.body != `{"message":"Hello brooks #2!"}` {
		t.Errorf("after a restart: %d %s", a.status, a.body)
	}
	files, err := filepath.Glob(filepath.Join(dir, "data", "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", f, info.Mode())
		}
	}
}

func TestDrain(t *testing.T) {
	t.Parallel()
	for name, env := range map[string]string{"AtOnce": "DRAIN_DELAY=0s", "AfterADelay": "DRAIN_DELAY=1s"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := backendtest.Postgres(t)
			backendtest.Exec(t, db, `INSERT INTO plans (name) VALUES ('unlimited')`)
			key := must(t, db, "keys", "create", "all", "--plan", "unlimited")
			p := start(t, t.TempDir(), "DATABASE_URL="+db, "REDIS_URL="+backendtest.RedisURL(t), "DRAIN_TIMEOUT=20s", env)

			unlock := backendtest.LockGreetings(t, db)
			var answers []answer
			done := make(chan bool)
			go func() {
				defer close(done)
				answers = storm(t, []*process{p}, 200, key, "/hello?name=brooks")
			}()
			waitFor(t, "200 requests in flight", func() bool {
				return sum(t, []*process{p}, `helloapi_store_waiting{store="greetings"}`) == 200
			})
			begin := time.Now()
			if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the process to notice", func() bool { return strings.Contains(p.stderr.String(), "msg=stopping") })
			if a := get(t, "http://"+p.admin+"/readyz", ""); a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, "draining") {
				t.Errorf("while draining, ready: %d %s", a.status, a.body)
			}
			if a := get(t, "http://"+p.admin+"/livez", ""); a.status != http.StatusOK {
				t.Errorf("while draining, live: %d %s", a.status, a.body)
			}
			if name == "AfterADelay" { // still serving, but not for long
				if a := get(t, "http://"+p.addr+"/nothing", ""); a.status != http.StatusNotFound || a.header.Get("X-Request-Id") == "" {
					t.Errorf("within DRAIN_DELAY: %d %s", a.status, a.body)
				}
			}
			unlock()
			<-done
			if got := numbers(t, answers); !slices.Equal(got, upTo(200)) {
				t.Errorf("numbers %v, want 1 to 200", got)
			}
			if err := p.wait(t); err != nil {
				t.Errorf("serve ended with %v:\n%s", err, p.stderr)
			}
			if d := time.Since(begin); d > 20*time.Second {
				t.Errorf("it took %v to stop", d)
			}
			if c, err := net.Dial("tcp", p.addr); err == nil {
				c.Close()
				t.Error("still accepts connections")
			}
		})
	}
}

// A request that takes longer than DRAIN_TIMEOUT is cut off, and said so.
func TestDrainTimeout(t *testing.T) {
	t.Parallel()
	db := backendtest.Postgres(t)
	key := must(t, db, "keys", "create", "all", "--plan", "paid")
	p := start(t, t.TempDir(), "DATABASE_URL="+db, "REDIS_URL="+backendtest.RedisURL(t), "DRAIN_TIMEOUT=100ms")
	unlock := backendtest.LockGreetings(t, db)
	defer unlock()
	cut := make(chan error)
	go func() {
		req, _ := http.NewRequest(http.MethodGet, "http://"+p.addr+"/hello", nil)
		req.Header.Set("x-api-key", key)
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		cut <- err
	}()
	waitFor(t, "the request", func() bool { return sum(t, []*process{p}, `helloapi_store_waiting{store="greetings"}`) == 1 })
	if err := p.stop(t); err == nil {
		t.Error("exit status 0, though a request was cut off")
	}
	if err := <-cut; err == nil {
		t.Error("the request got an answer")
	}
	if !strings.Contains(p.stderr.String(), "requests still in flight after 100ms were cut off") {
		t.Errorf("not said:\n%s", p.stderr)
	}
}

func TestDatabaseErrors(t *testing.T) {
	t.Parallel()
	good := backendtest.Postgres(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	closed.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()

	dir := t.TempDir()
	noDatabase := filepath.Join(dir, "text.db")
	if err := os.WriteFile(noDatabase, []byte(strings.Repeat("This is a letter, not a database.\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ url, want string }{
		"not migrated":        {backendtest.EmptyPostgres(t), "run `helloapi migrate`"},
		"refused":             {"postgres://u:secret@" + nobody + "/db?sslmode=disable", "can't be reached"},
		"silent":              {"postgres://u:secret@" + silent.Addr().String() + "/db?sslmode=disable&connect_timeout=1", "can't be reached"},
		"no such host":        {"postgres://u:secret@nowhere.invalid/db", "can't be reached"},
		"no such database":    {regexp.MustCompile(`/helloapi_test_\w+`).ReplaceAllString(good, "/nodatabase"), `has no database "nodatabase"`},
		"wrong password":      {regexp.MustCompile(`//[^@]*@`).ReplaceAllString(good, "//postgres:secret@"), "check user and password"},
		"not PostgreSQL":      {strings.Replace(backendtest.RedisURL(t), "redis://", "postgres://u:secret@", 1) + "?sslmode=disable&connect_timeout=2", "can't be reached"},
		"not a URL":           {"postgres://u:secret@[::1/db", "DATABASE_URL must be like"},
		"another database":    {"mysql://u:secret@h/db", "must start with sqlite: or postgres://"},
		"not SQLite":          {"sqlite:" + noDatabase, "is not a SQLite database"},
		"a directory":         {"sqlite:" + dir, "is not a file"},
		"an impossible place": {"sqlite:/proc/nothing/helloapi.db", "make database"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := launch(t, t.TempDir(), "DATABASE_URL="+test.url)
			if err := p.wait(t); err == nil {
				t.Fatal("exit status 0")
			}
			var lines []string // but those of the log
			for _, line := range strings.Split(strings.TrimSpace(p.stderr.String()), "\n") {
				if !strings.HasPrefix(line, "time=") && line != "helloapi: `helloapi serve --help` shows what it takes" {
					lines = append(lines, line)
				}
			}
			if len(lines) != 1 || !strings.HasPrefix(lines[0], "helloapi: ") || !strings.Contains(lines[0], test.want) {
				t.Errorf("want one line about %q, got:\n%s", test.want, strings.Join(lines, "\n"))
			}
			if s := p.stderr.String() + p.stdout.String(); strings.Contains(s, "secret") {
				t.Errorf("the password was printed:\n%s", s)
			}
			t.Log(lines)
		})
	}
}

func TestMigrateFlag(t *testing.T) {
	t.Parallel()
	db := backendtest.EmptyPostgres(t)
	// Several at a time: one migrates, the others wait.
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			p := start(t, t.TempDir(), "DATABASE_URL="+db, "MIGRATE=true")
			if a := get(t, "http://"+p.admin+"/readyz", ""); a.status != http.StatusOK {
				t.Errorf("ready: %d %s", a.status, a.body)
			}
		})
	}
	wg.Wait()
}

// What a client may send that no client should.
func TestRawRequests(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	values := p.keys(t)
	key := values[1] // paid
	header := "Host: x\r\nx-api-key: " + key + "\r\nConnection: close\r\n"
	for name, test := range map[string]struct {
		request string
		want    string // the status line, as a pattern
	}{
		"good":                 {"GET /hello HTTP/1.1\r\n" + header + "\r\n", "200"},
		"10 MB of query":       {"GET /hello?name=" + strings.Repeat("a", 10<<20) + " HTTP/1.1\r\n" + header + "\r\n", "431|414"},
		"60 kB of query":       {"GET /hello?name=" + strings.Repeat("a", 60_000) + " HTTP/1.1\r\n" + header + "\r\n", "400"},
		"20,000 parameters":    {"GET /hello?" + strings.Repeat("a&", 20_000) + " HTTP/1.1\r\n" + header + "\r\n", "400|200"},
		"1 MB of headers":      {"GET /hello HTTP/1.1\r\n" + header + strings.Repeat("X-A: "+strings.Repeat("b", 1000)+"\r\n", 1000) + "\r\n", "431"},
		"1,000 keys":           {"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + strings.Repeat("x-api-key: "+key+"\r\n", 1000) + "\r\n", "403"},
		"two keys in one line": {"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\nx-api-key: " + key + ", " + key + "\r\n\r\n", "403"},
		"OPTIONS *":            {"OPTIONS * HTTP/1.1\r\n" + header + "\r\n", "404|405"},
		"CONNECT":              {"CONNECT x:1 HTTP/1.1\r\n" + header + "\r\n", "404|405"},
		"no host":              {"GET /hello HTTP/1.1\r\nx-api-key: " + key + "\r\n\r\n", "400"},
		"no request":           {"hk_" + key + "\r\n\r\n", "400"},
		"a bad header":         {"GET /hello HTTP/1.1\r\nHost: x\r\nx-api-key " + key + "\r\n\r\n", "400"},
		"a bad escape":         {"GET /hello%zz HTTP/1.1\r\n" + header + "\r\n", "400"},
		"a body":               {"GET /hello HTTP/1.1\r\n" + header + "Content-Length: 5\r\n\r\nhello", "200"},
		"both lengths":         {"POST /hello HTTP/1.1\r\n" + header + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400|405"},
		"HTTP/1.0":             {"GET /hello HTTP/1.0\r\nx-api-key: " + key + "\r\n\r\n", "200"},
		"an escaped path":      {"GET /%68ello HTTP/1.1\r\n" + header + "\r\n", "200|404"},
		"dots":                 {"GET /x/../hello HTTP/1.1\r\n" + header + "\r\n", "404"},
		"a whole URL":          {"GET http://x/hello HTTP/1.1\r\n" + header + "\r\n", "200"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", p.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
				t.Fatal(err)
			}
			// The server may answer and close before it has read all: go on
			// reading what it said.
			go func() { _, _ = io.WriteString(conn, test.request) }()
			var got []byte
			buf := make([]byte, 4096)
			for {
				n, err := conn.Read(buf)
				got = append(got, buf[:n]...)
				if err != nil {
					break
				}
			}
			if !regexp.MustCompile(`^HTTP/1\.[01] (` + test.want + `) `).Match(got) {
				t.Errorf("answered %.300q, want %s", got, test.want)
			}
		})
	}
	if a := get(t, "http://"+p.addr+"/hello?name=after", key); a.status != 200 {
		t.Errorf("afterwards: %d %s", a.status, a.body)
	}
	for _, line := range strings.Split(p.stderr.String(), "\n") {
		if strings.Contains(line, "level=ERROR") {
			t.Error(line)
		}
	}
}

func TestPortTaken(t *testing.T) {
	t.Parallel()
	first := start(t, t.TempDir())
	for variable, addr := range map[string]string{"ADDR": first.addr, "ADMIN_ADDR": first.admin} {
		dir := t.TempDir()
		p := launch(t, dir, variable+"="+addr)
		if err := p.wait(t); err == nil {
			t.Error("exit status 0")
		}
		if want := fmt.Sprintf("choose another address with %s)", variable); !strings.Contains(p.stderr.String(), want) {
			t.Errorf("want %q in:\n%s", want, p.stderr)
		}
		// It made no keys that nobody would see.
		if files, _ := filepath.Glob(filepath.Join(dir, "*")); len(files) > 0 {
			t.Errorf("left %v behind", files)
		}
	}
}

// A second process on one file would serve every quota again.
func TestSecondProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start(t, dir, "DATABASE_URL=sqlite:helloapi.db")
	if err := os.Symlink("helloapi.db", filepath.Join(dir, "other.db")); err != nil {
		t.Fatal(err)
	}
	refused := func(name, want string) {
		t.Helper()
		p := launch(t, dir, "DATABASE_URL=sqlite:"+name)
		if err := p.wait(t); err == nil || !strings.Contains(p.stderr.String(), want) {
			t.Errorf("%s: %v\n%s", name, err, p.stderr)
		}
	}
	refused("helloapi.db", "another helloapi serves this file")
	refused("other.db", "another helloapi serves this file")
	if err := os.Link(filepath.Join(dir, "helloapi.db"), filepath.Join(dir, "hard.db")); err != nil {
		t.Fatal(err)
	}
	refused("hard.db", "hard links")
}

// An origin in the settings is the one that browsers send, however it is written.
func TestOrigins(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir(), "CORS_ALLOWED_ORIGINS=https://App.example.com:443/, https://bücher.example\n")
	for origin, want := range map[string]string{
		"https://app.example.com":       "https://app.example.com",
		"https://xn--bcher-kva.example": "https://xn--bcher-kva.example",
		"https://other.example":         "",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.addr+"/hello", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Origin", origin)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("Access-Control-Allow-Origin"); got != want {
			t.Errorf("a page of %s may read answers for %q, want %q", origin, got, want)
		}
	}
}

// The unit of a time in a JSON log is in its name.
func TestLogDurations(t *testing.T) {
	t.Parallel()
	p := launch(t, t.TempDir(), "LOG_FORMAT=json", "DRAIN_DELAY=1500us")
	waitFor(t, "serve to begin", func() bool { return strings.Contains(p.stderr.String(), `"msg":"serving"`) })
	addr := regexp.MustCompile(`"addr":"([^"]+)"`).FindStringSubmatch(p.stderr.String())
	get(t, "http://"+addr[1]+"/hello", "")
	if err := p.stop(t); err != nil {
		t.Error(err)
	}
	log := p.stderr.String()
	if !regexp.MustCompile(`"duration_seconds":0\.\d+|"duration_seconds":\d(\.\d+)?e-\d+`).MatchString(log) || !strings.Contains(log, `"drain_delay_seconds":0.0015`) ||
		strings.Contains(log, `"duration":`) || strings.Contains(log, `"drain_delay":`) {
		t.Errorf("logged\n%s", log)
	}
}
