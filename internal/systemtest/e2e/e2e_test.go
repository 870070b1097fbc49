//go:build e2e

package e2e

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"helloapi/internal/systemtest/load"
)

// The image is small, and one container of it is an API with a SQLite file:
// not root, on a read-only root, ready in under a second.
func TestImage(t *testing.T) {
	size, err := strconv.Atoi(docker(t, "image", "inspect", "-f", "{{.Size}}", image))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the image has %.1f MB", float64(size)/1e6)
	if size >= 40e6 {
		t.Error("the image must have less than 40 MB")
	}
	if user := docker(t, "image", "inspect", "-f", "{{.Config.User}}", image); user != "65532:65532" {
		t.Errorf("it runs as %q", user)
	}

	volume := docker(t, "volume", "create")
	id := docker(t, "run", "-d", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "-v", volume+":/data", "-p", "127.0.0.1::8080", image)
	t.Cleanup(func() {
		docker(t, "rm", "-f", id)
		docker(t, "volume", "rm", volume)
	})
	url := "http://" + docker(t, "port", id, "8080/tcp")
	client := &http.Client{Timeout: 100 * time.Millisecond}
	waitFor(t, 10*time.Second, "an answer", func() bool {
		resp, err := client.Get(url + "/hello")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusForbidden
	})
	answered := time.Now()
	started, err := time.Parse(time.RFC3339Nano, docker(t, "inspect", "-f", "{{.State.StartedAt}}", id))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("it answered %v after its start", answered.Sub(started).Round(time.Millisecond))
	if answered.Sub(started) >= time.Second {
		t.Error("it must be ready in under a second")
	}

	if keyValue.MatchString(docker(t, "logs", id)) {
		t.Error("a key's value is in the log of the container")
	}
	key := keyValue.FindString(docker(t, "exec", id, "helloapi", "keys", "rotate", "testkey1"))
	if n, err := load.Greet(t.Context(), http.DefaultClient, url, key, "brooks"); n != 1 || err != nil {
		t.Errorf("greeting #%d, %v", n, err)
	}
	if out := docker(t, "exec", id, "helloapi", "keys", "list"); !strings.Contains(out, "testkey1") {
		t.Errorf("keys list:\n%s", out)
	}
	waitFor(t, 15*time.Second, "its HEALTHCHECK", func() bool {
		return docker(t, "inspect", "-f", "{{.State.Health.Status}}", id) == "healthy"
	})
	docker(t, "stop", id)
	if code := docker(t, "inspect", "-f", "{{.State.ExitCode}}", id); code != "0" {
		t.Errorf("told to stop, it ended with status %s", code)
	}
}

// The image works as any user of group 0. Where that may not write, it says in
// one line what to do, and that does.
func TestImageAsAnyUser(t *testing.T) {
	run := func(args ...string) (id, status string, logs string) {
		t.Helper()
		id = docker(t, append(append([]string{"run", "-d", "--user", "12345:0", "--read-only", "--cap-drop=ALL"}, args...), image)...)
		t.Cleanup(func() { docker(t, "rm", "-f", "-v", id) })
		waitFor(t, 15*time.Second, "it to serve or end", func() bool {
			status, logs = docker(t, "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", id), logOf(t, id)
			return strings.HasPrefix(status, "exited") || strings.Contains(logs, "msg=serving")
		})
		return id, status, logs
	}
	volume := docker(t, "volume", "create")
	t.Cleanup(func() { docker(t, "volume", "rm", volume) })
	for _, args := range [][]string{{"-v", volume + ":/data"}, {"--tmpfs", "/srv/api:mode=770,uid=0,gid=0", "-e", "DATABASE_URL=sqlite:/srv/api/helloapi.db"}} {
		id, status, logs := run(args...)
		if status != "running 0" {
			t.Errorf("%s: %s\n%s", args, status, logs)
			continue
		}
		if out := docker(t, "exec", id, "helloapi", "keys", "list"); !strings.Contains(out, "testkey1") {
			t.Errorf("%s: keys list:\n%s", args, out)
		}
	}

	folder := t.TempDir()
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"a folder of root's": {"-v", folder + ":/data"},
		"a read-only folder": {"-v", volume + ":/data:ro", "-e", "DATABASE_URL=sqlite:/data/other.db"},
		"no folder":          {"-e", "DATABASE_URL=sqlite:/srv/api/helloapi.db"},
	} {
		_, status, logs := run(args...)
		if status != "exited 1" || strings.Count(strings.TrimSpace(logs), "\n") > 0 || !strings.Contains(logs, "let user 12345 (group 0) write there, or set DATABASE_URL=sqlite:PATH") {
			t.Errorf("%s: %s\n%s", name, status, logs)
		}
	}
}

// keyValue is a key's value, which no log may have.
var keyValue = regexp.MustCompile(`hk_[0-9A-Za-z]{38}`)

// One deployment from nothing to its end; each part goes on where the one
// before it left off.
func TestCompose(t *testing.T) {
	p := newProject(t)
	part := func(name string, test func(t *testing.T)) {
		begin := time.Now()
		ok := t.Run(name, func(t *testing.T) {
			outer := p.t
			p.t = t
			defer func() { p.t = outer }()
			test(t)
		})
		if !ok {
			t.FailNow()
		}
		t.Logf("%s took %v", name, time.Since(begin).Round(100*time.Millisecond))
	}
	p.compose("config", "-q")

	var free, unlimited string
	part("FromNothing", func(t *testing.T) {
		p.compose("up", "-d")
		jobs := p.compose("logs", "--no-color", "migrate", "plans")
		m := regexp.MustCompile(`docker compose run --rm helloapi (keys rotate testkey1)\n`).FindStringSubmatch(jobs)
		if m == nil {
			t.Fatalf("the jobs do not say how to get a key:\n%s", jobs)
		}
		free = p.helloapi(strings.Fields(m[1])...)
		if n, err := p.greet(free, "brooks"); n != 1 || err != nil {
			t.Fatalf("greeting #%d, %v", n, err)
		}
		p.waitForUp(3)
		// For loads there is a plan without limits.
		p.sql("INSERT INTO plans (name) VALUES ('unlimited')")
		unlimited = p.helloapi("keys", "create", "load", "--plan", "unlimited")
	})

	part("Commands", func(t *testing.T) {
		if out := p.helloapi(); !strings.Contains(out, "Usage: helloapi <command>") {
			t.Errorf("`run --rm helloapi` prints:\n%s", out)
		}
		// A replica may not change keys. It says who may.
		_, err := p.try("exec", "-T", "api", "helloapi", "keys", "rotate", "testkey1", "--yes")
		if err == nil || !strings.Contains(err.Error(), "`docker compose run --rm helloapi keys rotate …`") {
			t.Errorf("a replica rotates a key: %v", err)
		}
	})

	// The log of a replica has the client's address and the balancer's id of a
	// request, whatever the client says they are.
	part("ClientAddress", func(t *testing.T) {
		balancer := p.compose("ps", "-q", "balancer")
		// What this machine sends comes from Docker's gateway.
		want := docker(t, "inspect", "-f", fmt.Sprintf(`{{(index .NetworkSettings.Networks "%s_api").Gateway}}`, p.name), balancer)
		ask := func(url string) string {
			t.Helper()
			req, err := http.NewRequest(http.MethodGet, url+"/hello", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header = http.Header{"X-Forwarded-For": {"192.0.2.66, " + p.address(balancer)}, "X-Request-Id": {"chosen-by-the-client"}}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			return resp.Header.Get("X-Request-Id")
		}
		for _, url := range []string{p.url, "http://" + net.JoinHostPort(p.address(p.replicas()[0]), "8080")} {
			id := ask(url)
			var logged []string
			waitFor(t, 10*time.Second, "the request in the log", func() bool {
				logged = regexp.MustCompile(`msg=request id=` + regexp.QuoteMeta(id) + ` .* client=(\S+)`).FindStringSubmatch(p.compose("logs", "--no-color", "api"))
				return logged != nil
			})
			if id == "chosen-by-the-client" || logged[1] != want {
				t.Errorf("a request to %s has the id %s, and is logged with the client %s, want %s", url, id, logged[1], want)
			}
		}
	})

	part("LeastPrivilege", func(t *testing.T) {
		if got := p.sql("SELECT DISTINCT usename FROM pg_stat_activity WHERE application_name = 'helloapi'"); got != "helloapi_serve" {
			t.Errorf("replicas are connected as %q", got)
		}
		if got := p.sql("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"); got != "helloapi_owner" {
			t.Errorf("the tables belong to %q", got)
		}
	})

	part("ScaledToFive", func(t *testing.T) {
		p.set("REPLICAS", "5")
		p.compose("up", "-d")
		p.waitForUp(5)
		before := p.servers()
		for range 50 {
			if _, err := p.greet(unlimited, "five"); err != nil {
				t.Error(err)
			}
		}
		for name, s := range p.servers() {
			if s.up && s.served == before[name].served {
				t.Errorf("%s served nothing", name)
			}
		}
	})

	part("QuotaExact", func(t *testing.T) {
		p.sql("INSERT INTO plans (name, quota_limit, quota_period) VALUES ('two hundred', 200, 'MONTH')")
		key := p.helloapi("keys", "create", "quota", "--plan", "two hundred")
		answers := make([]error, 1000)
		var wg sync.WaitGroup
		for worker := range 50 {
			wg.Go(func() {
				for i := worker; i < len(answers); i += 50 {
					_, answers[i] = p.greet(key, "quota")
				}
			})
		}
		wg.Wait()
		served, refused := 0, 0
		for _, err := range answers {
			var status *load.StatusError
			switch {
			case err == nil:
				served++
			case errors.As(err, &status) && status.Status == http.StatusTooManyRequests && status.Body == `{"message":"Limit Exceeded"}`:
				refused++
			default:
				t.Error(err)
			}
		}
		if served != 200 || refused != 800 || p.count("quota") != 200 {
			t.Errorf("of a quota of 200, served %d, refused %d, counted %d", served, refused, p.count("quota"))
		}
	})

	part("DownAndUp", func(t *testing.T) {
		for {
			if _, err := p.greet(free, "brooks"); err != nil {
				break
			}
		}
		last := p.count("brooks")
		p.compose("down")
		p.set("REPLICAS", "3")
		p.compose("up", "-d")
		p.waitForUp(3)
		if n, err := p.greet(unlimited, "brooks"); n != last+1 || err != nil {
			t.Errorf("the greeting after #%d is #%d, %v", last, n, err)
		}
		var status *load.StatusError
		if _, err := p.greet(free, "brooks"); !errors.As(err, &status) || status.Body != `{"message":"Limit Exceeded"}` {
			t.Errorf("a key whose quota is spent: %v", err)
		}
	})

	// exact checks what must hold whatever was done under the load: each
	// number was given once and is counted, and only what failed may have
	// counted without an answer.
	exact := func(t *testing.T, r load.Report, name string) {
		t.Helper()
		t.Log(r)
		if twice := r.Twice(); len(twice) > 0 {
			t.Errorf("given twice: %v", twice)
		}
		last, count := r.Numbers[len(r.Numbers)-1], p.count(name)
		if last > count {
			t.Errorf("#%d was answered, and %d are counted", last, count)
		}
		if count < int64(len(r.Numbers)) || count > int64(r.Sent()+r.Resent) {
			t.Errorf("%d are counted of %d sent, %d of them twice, and %d answered", count, r.Sent(), r.Resent, len(r.Numbers))
		}
	}
	noneFailed := func(t *testing.T, r load.Report, name string) {
		t.Helper()
		exact(t, r, name)
		for i, f := range r.Failures {
			t.Errorf("failed: %v", f)
			if i == 20 {
				break
			}
		}
	}

	part("RollingRestart", func(t *testing.T) {
		before := p.replicas()
		l := p.load(unlimited, "restart")
		p.roll()
		noneFailed(t, l.Stop(), "restart")
		for _, id := range p.replicas() {
			if slices.Contains(before, id) {
				t.Error("a replica was not replaced")
			}
		}
		p.waitForUp(3)
	})

	// A replica that can't start never takes the place of one that serves, and
	// nothing of it stays.
	part("FailedRoll", func(t *testing.T) {
		l := p.load(unlimited, "failed roll")
		p.set("LOG_LEVEL", "loud")
		p.refusesToRoll("LOG_LEVEL: none -> loud", "LOG_LEVEL: must be one of debug,info,warn,error", "0 of 3 replicas are replaced")
		p.set("LOG_LEVEL", "")
		p.set("SERVE_PASSWORD", "wrong")
		p.refusesToRoll("DATABASE_URL: changes (the value is secret)", "check user and password in DATABASE_URL")
		p.set("SERVE_PASSWORD", "serve")
		noneFailed(t, l.Stop(), "failed roll")
	})

	part("UpgradeWithMigration", func(t *testing.T) {
		l := p.load(unlimited, "upgrade")
		p.set("HELLOAPI_IMAGE", next)
		if out := p.compose("run", "--rm", "-T", "migrate"); !strings.Contains(out, "applied 99999_next.sql") {
			t.Errorf("migrate printed:\n%s", out)
		}
		p.roll()
		noneFailed(t, l.Stop(), "upgrade")
		for _, id := range p.replicas() {
			if out := docker(t, "exec", id, "helloapi", "version"); !strings.Contains(out, "helloapi next ") {
				t.Errorf("a replica is %s", out)
			}
		}
		// And the way back: old code runs on the new schema.
		l = p.load(unlimited, "back")
		p.set("HELLOAPI_IMAGE", image)
		p.roll()
		noneFailed(t, l.Stop(), "back")
		p.waitForUp(3)
	})

	part("Killed", func(t *testing.T) {
		l := p.load(unlimited, "killed")
		victim := p.replicas()[0]
		killed := time.Now()
		docker(t, "kill", "--signal=KILL", victim)
		time.Sleep(3 * time.Second) // of load
		docker(t, "start", victim)
		p.waitForUp(3)
		r := l.Stop()
		exact(t, r, "killed")
		for _, f := range r.Failures {
			// What was in flight on it, and no more.
			if f.At.Sub(killed) > time.Second || f.Status != http.StatusBadGateway && f.Status != 0 {
				t.Errorf("failed %v after the kill: %v", f.At.Sub(killed), f)
			}
		}
	})

	// Requests that are in flight on a replica that dies are not sent to
	// another one: they may have counted.
	part("NotRepeated", func(t *testing.T) {
		unlock := p.lockGreetings()
		const n = 30
		answers := make([]error, n)
		fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		var wg sync.WaitGroup
		for i := range answers {
			wg.Go(func() { _, answers[i] = load.Greet(context.Background(), fresh, p.url, unlimited, "repeated") })
		}
		waiting := func() (n int) {
			for _, id := range p.replicas() {
				n += p.metric(id, `helloapi_store_waiting{store="greetings"}`)
			}
			return n
		}
		waitFor(t, 3*time.Second, "all to be in flight", func() bool { return waiting() == n })
		victim := p.replicas()[0]
		inFlight := p.metric(victim, `helloapi_store_waiting{store="greetings"}`)
		docker(t, "kill", "--signal=KILL", victim)
		unlock()
		wg.Wait()
		failed := 0
		for _, err := range answers {
			var status *load.StatusError
			if err == nil {
				continue
			}
			failed++
			if !errors.As(err, &status) || status.Status != http.StatusBadGateway || status.Body != `{"message":"Bad Gateway"}` || status.Header.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("a request that was cut off: %v", err)
			}
		}
		if failed != inFlight || inFlight == 0 {
			t.Errorf("%d requests were in flight on the replica that died, and %d failed", inFlight, failed)
		}
		if count := p.count("repeated"); count > n {
			t.Errorf("%d requests counted as %d", n, count)
		}
		docker(t, "start", victim)
		p.waitForUp(3)
	})

	for _, network := range []string{"postgres", "redis"} {
		part("CutOffFrom_"+network, func(t *testing.T) {
			name := "cut off from " + network
			replicas := p.replicas()
			cut := replicas[0]
			before := p.servers()
			l := p.load(unlimited, name)
			docker(t, "network", "disconnect", p.name+"_"+network, cut)
			cutAt := time.Now()
			waitFor(t, 20*time.Second, "the balancer to take it out", func() bool { return len(p.up()) == 2 })
			out := time.Now()
			t.Logf("taken out after %v", out.Sub(cutAt).Round(10*time.Millisecond))
			status, why := p.ready(cut)
			t.Logf("/readyz of the replica that is cut off: %d %s", status, why)
			if status != http.StatusServiceUnavailable {
				t.Error("it is ready")
			}
			for _, id := range replicas[1:] {
				if status, why := p.ready(id); status != http.StatusOK {
					t.Errorf("another replica: %d %s", status, why)
				}
			}
			time.Sleep(6 * time.Second) // what it had in flight ends
			failedSoFar := len(l.Report().Failures)
			time.Sleep(time.Second)
			docker(t, "network", "connect", p.name+"_"+network, cut)
			p.waitForUp(3)
			t.Logf("back, %v after it was cut off", time.Since(cutAt).Round(10*time.Millisecond))
			served := p.servers()
			time.Sleep(2 * time.Second) // of load on all three
			after := p.servers()
			r := l.Stop()
			exact(t, r, name)
			if len(r.Failures) > failedSoFar {
				t.Errorf("failed after it had been taken out: %v", r.Failures[failedSoFar:])
			}
			for _, f := range r.Failures {
				if f.Status != http.StatusServiceUnavailable || f.Body != `{"message":"Service Unavailable"}` {
					t.Errorf("failed: %v", f)
				}
			}
			bad := 0
			for name, s := range after {
				if s.bad > before[name].bad {
					bad++
					t.Logf("%s answered %d times 5xx", name, s.bad-before[name].bad)
				}
				if s.up && s.served == served[name].served {
					t.Errorf("%s serves nothing", name)
				}
			}
			if bad > 1 || network == "postgres" && bad == 0 {
				t.Errorf("%d replicas answered 5xx", bad)
			}
		})
	}

	// PostgreSQL is gone, and then it is there and does not answer: no request
	// waits for it for long, and all replicas serve again by themselves.
	part("PostgresAway", func(t *testing.T) {
		const back = `msg="PostgreSQL serves again"`
		postgres := p.compose("ps", "-q", "postgres")
		for _, outage := range [][2]string{{"stop", "start"}, {"pause", "unpause"}} {
			before := map[string]int{}
			for _, id := range p.replicas() {
				before[id] = strings.Count(logOf(t, id), back)
			}
			name := "away: " + outage[0]
			l := p.load(unlimited, name)
			docker(t, outage[0], postgres)
			time.Sleep(8 * time.Second) // of load
			docker(t, outage[1], postgres)
			p.waitForUp(3)
			r := l.Stop()
			t.Logf("%s: %v", outage[0], r)
			if r.Slowest >= 5*time.Second {
				t.Errorf("%s: a request took %v", outage[0], r.Slowest)
			}
			exact(t, r, name)
			for _, f := range r.Failures {
				if f.Status != http.StatusServiceUnavailable || f.Body != `{"message":"Service Unavailable"}` {
					t.Fatalf("%s: failed: %v", outage[0], f)
				}
			}
			if len(r.Failures) == 0 {
				t.Errorf("%s: no request failed", outage[0])
			}
			if _, err := p.greet(unlimited, name); err != nil {
				t.Error(err)
			}
			for id, n := range before {
				waitFor(t, 10*time.Second, "a replica to log that PostgreSQL serves again", func() bool { return strings.Count(logOf(t, id), back) > n })
			}
		}
	})

	part("NoReplica", func(t *testing.T) {
		p.compose("up", "-d", "--no-deps", "--scale", "api=0", "api")
		var status *load.StatusError
		if _, err := p.greet(unlimited, "x"); !errors.As(err, &status) {
			t.Fatal(err)
		}
		if status.Status != http.StatusServiceUnavailable || status.Body != `{"message":"Service Unavailable"}` {
			t.Errorf("%d %s", status.Status, status.Body)
		}
		for name, want := range map[string]string{
			"Content-Type": "application/json", "Retry-After": "1", "Access-Control-Allow-Origin": "*",
			"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
		} {
			if got := status.Header.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		if status.Header.Get("X-Request-Id") == "" {
			t.Error("no X-Request-Id")
		}
		req, err := http.NewRequest(http.MethodOptions, p.url+"/hello", nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{"Origin": "https://example.com", "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "x-api-key"} {
			req.Header.Set(name, value)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Access-Control-Allow-Origin") != "*" || resp.Header.Get("Access-Control-Allow-Headers") != "x-api-key" {
			t.Errorf("preflight: %d %v", resp.StatusCode, resp.Header)
		}
		p.compose("up", "-d")
		p.waitForUp(3)
		if _, err := p.greet(unlimited, "x"); err != nil {
			t.Error(err)
		}
	})

	// TCP goes through to the replicas. There is no certificate authority here,
	// so what answers a client is a replica that has no certificate yet.
	part("TLS", func(t *testing.T) {
		sealedBy := make([]byte, 32)
		_, _ = rand.Read(sealedBy) // never fails
		withTLS := p.files + ":" + p.root + "/deploy/compose/tls.yml:" + p.root + "/deploy/e2e/tls.yml"
		p.set("COMPOSE_FILE", withTLS)
		p.set("TLS_DOMAINS", "api.example.com")
		// Without a key nothing is replaced.
		before := p.allReplicas()
		if _, err := p.try("up", "-d"); err == nil || !strings.Contains(err.Error(), "openssl rand -base64 32") {
			t.Errorf("without CERT_ENCRYPTION_KEY: %v", err)
		}
		if after := p.allReplicas(); after != before {
			t.Errorf("the replicas were\n%s\nand are\n%s", before, after)
		}
		key := base64.StdEncoding.EncodeToString(sealedBy)
		p.set("CERT_ENCRYPTION_KEY", key)
		p.set("ACME_DIRECTORY_URL", "https://127.0.0.1:1/directory")
		p.compose("up", "-d")
		p.waitForUp(3)
		req, err := http.NewRequest(http.MethodGet, "http://"+p.challenge+"/docs", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "api.example.com"
		client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		waitFor(t, 10*time.Second, "a redirect to https", func() bool {
			resp, err := client.Do(req)
			if err != nil {
				return false
			}
			resp.Body.Close()
			return resp.StatusCode == http.StatusPermanentRedirect && resp.Header.Get("Location") == "https://api.example.com/docs"
		})
		_, err = tls.Dial("tcp", p.tls, &tls.Config{ServerName: "api.example.com"})
		var alert *net.OpError
		if !errors.As(err, &alert) || alert.Op != "remote error" {
			t.Errorf("a TLS handshake: %v, want an alert by a replica", err)
		}
		// Nobody ends TLS by mistake, nor with a key that opens nothing.
		p.set("COMPOSE_FILE", p.files)
		p.refusesToRoll("TLS_DOMAINS: api.example.com -> none", "this would end TLS for api.example.com", "--drop-tls")
		p.set("COMPOSE_FILE", withTLS)
		_, _ = rand.Read(sealedBy)
		p.set("CERT_ENCRYPTION_KEY", base64.StdEncoding.EncodeToString(sealedBy))
		p.refusesToRoll("CERT_ENCRYPTION_KEY: changes (the value is secret)", "give the same to all replicas")
		p.set("CERT_ENCRYPTION_KEY", key)
		if _, err := p.greet(unlimited, "x"); err != nil {
			t.Error(err)
		}
	})

	part("Observability", func(t *testing.T) {
		// Of the profile only what there is a stand-in for.
		p.compose("--profile", "observability", "up", "-d", "--no-deps", "prometheus")
		url := "http://" + net.JoinHostPort(p.address(p.compose("--profile", "observability", "ps", "-q", "prometheus")), "9090")
		waitFor(t, 30*time.Second, "Prometheus to have scraped three replicas and the balancer", func() bool {
			resp, err := http.Get(url + "/api/v1/query?query=" + "count(up==1)by(job)")
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			return err == nil && regexp.MustCompile(`"job":"helloapi"\},"value":\[[0-9.]+,"3"\]`).Match(body) && regexp.MustCompile(`"job":"haproxy"\},"value":\[[0-9.]+,"1"\]`).Match(body)
		})
	})

	part("Concealed", func(t *testing.T) {
		if value := keyValue.FindString(p.compose("logs", "--no-color")); value != "" {
			t.Errorf("the logs have a key's value: %.10s…", value)
		}
		p.compose("stop", "api")
		for _, id := range strings.Fields(docker(t, "ps", "-aq", "--filter", "label=com.docker.compose.project="+p.name, "--filter", "label=com.docker.compose.service=api")) {
			if code := docker(t, "inspect", "-f", "{{.State.ExitCode}}", id); code != "0" {
				t.Errorf("told to stop, a replica ended with status %s", code)
			}
		}
	})
}

// lockGreetings has all greetings wait until it is undone, for 4 seconds at
// most.
func (p *project) lockGreetings() (unlock func()) {
	p.t.Helper()
	args := append(slices.Clone(p.command), "exec", "-T", "postgres", "psql", "-U", "postgres", "-d", "helloapi", "-qtA")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = p.env
	in, err := cmd.StdinPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	fmt.Fprintln(in, "BEGIN; LOCK TABLE greetings IN EXCLUSIVE MODE;")
	waitFor(p.t, 5*time.Second, "the lock", func() bool {
		return p.sql("SELECT count(*) FROM pg_locks WHERE relation = 'greetings'::regclass AND mode = 'ExclusiveLock' AND granted") == "1"
	})
	return func() {
		in.Close() // psql ends, and with it the transaction
		if err := cmd.Wait(); err != nil {
			p.t.Errorf("lock greetings: %v", err)
		}
	}
}

// logOf is what a container has logged.
func logOf(t *testing.T, id string) string {
	t.Helper()
	out, err := exec.Command("docker", "logs", id).CombinedOutput()
	if err != nil {
		t.Fatalf("docker logs: %v\n%s", err, out)
	}
	return string(out)
}

// metric is the value of a metric of a replica.
func (p *project) metric(replica, name string) int {
	p.t.Helper()
	resp, err := http.Get("http://" + net.JoinHostPort(p.address(replica), "8081") + "/metrics")
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			n, err := strconv.Atoi(v)
			if err != nil {
				p.t.Fatal(err)
			}
			return n
		}
	}
	p.t.Fatalf("no metric %s", name)
	return 0
}
