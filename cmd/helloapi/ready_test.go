package main

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"helloapi/internal/backendtest"
)

// readiness is what /readyz says.
func (p *process) readiness(t testing.TB) answer {
	t.Helper()
	return get(t, "http://"+p.admin+"/readyz", "")
}

// A server that takes no writes answers, and its connections live on when the
// address has moved to one that does.
func TestReadOnlyServer(t *testing.T) {
	t.Parallel()
	primary, standby := backendtest.NewStandby(t)
	must(t, primary, "migrate")
	backendtest.Exec(t, primary, `INSERT INTO plans (name) VALUES ('none')`)
	key := must(t, primary, "keys", "create", "bob", "--plan", "none")
	other := must(t, primary, "keys", "create", "other", "--plan", "none")

	proxy, through := backendtest.NewProxy(t, primary)
	p := start(t, t.TempDir(), "DATABASE_URL="+through, "REDIS_URL="+backendtest.RedisURL(t))
	hello := func() int { return get(t, "http://"+p.addr+"/hello?name=bob", key).status }
	if status := hello(); status != http.StatusOK {
		t.Fatalf("answered %d", status)
	}
	waitFor(t, "the key cache to be current", func() bool { return p.metric(t, "helloapi_key_cache_current") == "1" })

	// The address leads to a standby for a while.
	proxy.Refuse()
	proxy.Retarget(t, standby)
	proxy.Pass(t)
	waitFor(t, "not to be ready", func() bool { return p.readiness(t).status == http.StatusServiceUnavailable })
	if status := hello(); status != http.StatusServiceUnavailable {
		t.Errorf("a greeting on a standby is answered %d", status)
	}
	waitFor(t, "requests to use the standby", func() bool {
		hello()
		return strings.Contains(p.readiness(t).body, "read-only")
	})

	// And then to a primary. The connections to the standby stay.
	must(t, primary, "keys", "disable", "other")
	proxy.Retarget(t, primary)
	moved := time.Now()
	for hello() != http.StatusOK {
		if time.Since(moved) > 10*time.Second {
			t.Fatal("no recovery")
		}
		time.Sleep(5 * time.Millisecond)
	}
	if d := time.Since(moved); d > 2*time.Second {
		t.Errorf("recovered only after %v", d)
	}
	t.Logf("recovered after %v", time.Since(moved))
	if a := p.readiness(t); a.status != http.StatusOK {
		t.Errorf("ready: %d %s", a.status, a.body)
	}
	effective(t, "what changed meanwhile", func() bool { return p.status(t, other) == http.StatusForbidden })
	for line, want := range map[string]int{"PostgreSQL does not serve": 1, "PostgreSQL serves again": 1} {
		if n := strings.Count(p.stderr.String(), line); n != want {
			t.Errorf("%q is logged %d times, want %d", line, n, want)
		}
	}
}

// /readyz says what requests get, whatever the reason.
func TestReadyAsRequests(t *testing.T) {
	t.Parallel()
	r := makeRoles(t)
	if _, _, err := helloapi(t, map[string]string{"DATABASE_URL": r.owner, "SERVE_ROLE": r.serveRole}, "migrate"); err != nil {
		t.Fatal(err)
	}
	backendtest.Exec(t, r.owner, `INSERT INTO plans (name) VALUES ('none')`)
	key := must(t, r.owner, "keys", "create", "bob", "--plan", "none")
	p := start(t, t.TempDir(), "DATABASE_URL="+r.serve, "REDIS_URL="+backendtest.RedisURL(t))
	backendtest.Exec(t, r.owner, `
		CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
		END $$`)
	hello := func() int { return get(t, "http://"+p.addr+"/hello?name=bob", key).status }
	for _, test := range []struct{ name, begin, end, want string }{
		{"right to count revoked", `REVOKE INSERT ON greetings FROM ` + r.serveRole, `GRANT INSERT ON greetings TO ` + r.serveRole, "permission denied"},
		{"right to find keys revoked", `REVOKE SELECT ON api_key_values FROM ` + r.serveRole, `GRANT SELECT ON api_key_values TO ` + r.serveRole, "permission denied"},
		{"disk full", `CREATE TRIGGER full_disk BEFORE INSERT ON greetings FOR EACH ROW EXECUTE FUNCTION full_disk()`, `DROP TRIGGER full_disk ON greetings`, "No space left"},
	} {
		if status, a := hello(), p.readiness(t); status != http.StatusOK || a.status != http.StatusOK {
			t.Fatalf("before %s: greeted %d, ready %d %s", test.name, status, a.status, a.body)
		}
		backendtest.Exec(t, r.owner, test.begin)
		if !strings.Contains(test.name, "keys") { // a known key is in memory
			if status := hello(); status != http.StatusServiceUnavailable {
				t.Errorf("%s: greeted %d", test.name, status)
			}
		}
		// And so it stays while no request comes.
		for range 5 {
			if a := p.readiness(t); a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, test.want) {
				t.Errorf("%s: ready %d %s", test.name, a.status, a.body)
			}
			time.Sleep(20 * time.Millisecond)
		}
		backendtest.Exec(t, r.owner, test.end)
		if status, a := hello(), p.readiness(t); status != http.StatusOK || a.status != http.StatusOK {
			t.Errorf("after %s: greeted %d, ready %d %s", test.name, status, a.status, a.body)
		}
	}
	// Nobody's business but the holder's.
	tx, err := backendtest.SQL(t, r.owner).Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.Exec(`UPDATE greetings SET count = count WHERE name = 'bob'`); err != nil {
		t.Fatal(err)
	}
	if status, a := hello(), p.readiness(t); status != http.StatusServiceUnavailable || a.status != http.StatusOK {
		t.Errorf("while one row is held: greeted %d, ready %d %s", status, a.status, a.body)
	}
}

// The same for a file that can't be written.
func TestReadySQLite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := start(t, dir)
	file := "sqlite:" + filepath.Join(dir, "data/helloapi.db")
	if a := p.readiness(t); a.status != http.StatusOK {
		t.Fatalf("ready: %d %s", a.status, a.body)
	}
	tx, err := backendtest.SQL(t, file).Begin() // takes the lock of the writer
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if a := p.readiness(t); a.status != http.StatusServiceUnavailable || time.Since(began) > 2*time.Second {
		t.Errorf("while another process writes: %d %s after %v", a.status, a.body, time.Since(began))
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "to be ready", func() bool { return p.readiness(t).status == http.StatusOK })
}
