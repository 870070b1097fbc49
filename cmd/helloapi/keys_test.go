package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/backendtest"
)

// status returns what a request with the key's value is answered with that
// never gets to the greetings: 400 if the key is good.
func (p *process) status(t testing.TB, value string) int {
	t.Helper()
	return get(t, "http://"+p.addr+"/hello?name=%zz", value).status
}

// effective fails the test if cond does not hold within a second.
func effective(t testing.TB, what string, cond func() bool) {
	t.Helper()
	begin := time.Now()
	for !cond() {
		if time.Since(begin) > 5*time.Second {
			t.Fatalf("%s: no effect after 5 seconds", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if d := time.Since(begin); d > time.Second {
		t.Errorf("%s: effective only after %v", what, d)
	}
}

// testChanges makes every kind of change to a key, by command or in the
// database at url, and wants each to be effective on all processes within a
// second. Before each it calls disturb.
func testChanges(t *testing.T, url string, procs []*process, disturb func()) {
	isSQLite := strings.HasPrefix(url, "sqlite:")
	backendtest.Exec(t, url, `INSERT INTO plans (name) VALUES ('none')`)
	value := must(t, url, "keys", "create", "k", "--plan", "none")
	everywhere := func(what, value string, status int) {
		t.Helper()
		effective(t, what, func() bool {
			for _, p := range procs {
				if p.status(t, value) != status {
					return false
				}
			}
			return true
		})
	}
	everywhere("create", value, http.StatusBadRequest)

	disturb()
	must(t, url, "keys", "disable", "k")
	everywhere("disable", value, http.StatusForbidden)
	disturb()
	must(t, url, "keys", "enable", "k")
	everywhere("enable", value, http.StatusBadRequest)

	disturb()
	rotated := must(t, url, "keys", "rotate", "k")
	everywhere("rotate: the old value", value, http.StatusForbidden)
	everywhere("rotate: the new value", rotated, http.StatusBadRequest)
	disturb()
	newest := must(t, url, "keys", "rotate", "k", "--grace", "24h")
	everywhere("rotate with grace: the new value", newest, http.StatusBadRequest)
	everywhere("rotate with grace: the old value", rotated, http.StatusBadRequest)

	policy := func(want string) func() bool {
		return func() bool {
			for _, p := range procs {
				if get(t, "http://"+p.addr+"/hello?name=%zz", newest).header.Get("RateLimit-Policy") != want {
					return false
				}
			}
			return true
		}
	}
	disturb()
	backendtest.Exec(t, url, `UPDATE plans SET throttle_rate = 1000, throttle_burst = 3000 WHERE name = 'none'`)
	effective(t, "plan changed by hand", policy(`"throttle";q=3000;w=3`))
	disturb()
	backendtest.Exec(t, url, `UPDATE api_keys SET plan = 'paid' WHERE name = 'k'`)
	effective(t, "another plan by hand", policy(`"quota";q=5000;w=86400, "throttle";q=200;w=2`))
	disturb()
	backendtest.Exec(t, url, `UPDATE api_keys SET plan = NULL WHERE name = 'k'`)
	everywhere("no plan by hand", newest, http.StatusForbidden)
	disturb()
	backendtest.Exec(t, url, `UPDATE api_keys SET plan = 'none' WHERE name = 'k'`)
	everywhere("a plan again by hand", newest, http.StatusBadRequest)

	disturb()
	in := 1500 * time.Millisecond
	if isSQLite {
		backendtest.Exec(t, url, `UPDATE api_keys SET expires_at = $1 WHERE name = 'k'`, time.Now().Add(in).UnixMilli())
	} else {
		backendtest.Exec(t, url, `UPDATE api_keys SET expires_at = clock_timestamp() + interval '1500 milliseconds' WHERE name = 'k'`)
	}
	if procs[0].status(t, newest) != http.StatusBadRequest {
		t.Error("refused before it expired")
	}
	time.Sleep(in)
	everywhere("expiry", newest, http.StatusForbidden)

	// A value that nobody had when it was tried.
	later := apikey.Generate().Reveal()
	everywhere("before it is a key's", later, http.StatusForbidden)
	file := filepath.Join(t.TempDir(), "value")
	if err := os.WriteFile(file, []byte(later+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	disturb()
	if out := must(t, url, "keys", "create", "later", "--plan", "none", "--value-file", file); out != "" {
		t.Errorf("a value that was given is printed: %s", out)
	}
	everywhere("create with a value that was tried", later, http.StatusBadRequest)
	disturb()
	must(t, url, "keys", "delete", "later", "--yes")
	everywhere("delete", later, http.StatusForbidden)
}

func TestKeyChangesPostgres(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Listening", "ConnectionTerminated", "ConnectionFrozen"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := backendtest.Postgres(t)
			admin := backendtest.SQL(t, db)
			var procs []*process
			var proxies []*backendtest.Proxy
			for range 3 {
				proxy, through := backendtest.NewProxy(t, db)
				proxies = append(proxies, proxy)
				procs = append(procs, start(t, t.TempDir(), "DATABASE_URL="+through, "REDIS_URL="+backendtest.RedisURL(t)))
			}
			testChanges(t, db, procs, func() {
				// With the caches in use, as they are most of the time.
				for _, p := range procs {
					waitFor(t, "the key cache to be current", func() bool { return p.metric(t, "helloapi_key_cache_current") == "1" })
				}
				switch name {
				case "ConnectionTerminated":
					const listening = ` FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%pg_listening_channels())'`
					waitFor(t, "3 listening connections", func() bool {
						var n int
						if err := admin.QueryRow(`SELECT count(*)` + listening).Scan(&n); err != nil {
							t.Fatal(err)
						}
						return n == 3
					})
					if _, err := admin.Exec(`SELECT pg_terminate_backend(pid)` + listening); err != nil {
						t.Fatal(err)
					}
				case "ConnectionFrozen":
					for _, p := range proxies {
						p.Freeze()
					}
				}
			})
		})
	}
}

func TestKeyChangesSQLite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := start(t, dir)
	testChanges(t, "sqlite:"+filepath.Join(dir, "data/helloapi.db"), []*process{p}, func() {})
}

// All connections of the database are ended by its administrator (57P01), again
// and again: within two seconds everything is served, and no number was given
// twice.
func TestBackendsTerminated(t *testing.T) {
	t.Parallel()
	db := backendtest.Postgres(t)
	admin := backendtest.SQL(t, db)
	value := must(t, db, "keys", "create", "a", "--plan", "paid")
	backendtest.Exec(t, db, `UPDATE plans SET quota_limit = NULL, quota_period = NULL, throttle_rate = NULL, throttle_burst = NULL`)
	p := start(t, t.TempDir(), "DATABASE_URL="+db, "REDIS_URL="+backendtest.RedisURL(t))
	seen := map[string]bool{}
	greet := func() int {
		a := get(t, "http://"+p.addr+"/hello?name=ann", value)
		if a.status == http.StatusOK {
			if seen[a.body] {
				t.Fatalf("twice: %s", a.body)
			}
			seen[a.body] = true
		}
		return a.status
	}
	for range 20 {
		if _, err := admin.Exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if got := greet(); got != http.StatusOK && got != http.StatusServiceUnavailable {
				t.Errorf("answered %d", got)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	time.Sleep(2 * time.Second)
	for range 20 {
		if got := greet(); got != http.StatusOK {
			t.Errorf("answered %d two seconds after the last connection was ended", got)
		}
	}
	if a := p.readiness(t); a.status != http.StatusOK {
		t.Errorf("not ready: %s", a.body)
	}
	// The change of a key is known, by a new connection.
	must(t, db, "keys", "disable", "a")
	waitFor(t, "the key to be refused", func() bool { return greet() == http.StatusForbidden })
}

// A key that is known goes on authenticating while the database is away.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Refused", "BlackHoled"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := backendtest.Postgres(t)
			backendtest.Exec(t, db, `INSERT INTO plans (name) VALUES ('none')`)
			known := must(t, db, "keys", "create", "known", "--plan", "none")
			unknown := must(t, db, "keys", "create", "unknown", "--plan", "none")
			proxy, through := backendtest.NewProxy(t, db)
			p := start(t, t.TempDir(), "DATABASE_URL="+through, "REDIS_URL="+backendtest.RedisURL(t))
			if got := p.status(t, known); got != http.StatusBadRequest {
				t.Fatalf("answered %d", got)
			}
			if name == "Refused" {
				proxy.Refuse()
			} else {
				proxy.Hold()
			}
			slow := 0
			for begin := time.Now(); time.Since(begin) < 3*time.Second; time.Sleep(10 * time.Millisecond) {
				asked := time.Now()
				if got := p.status(t, known); got != http.StatusBadRequest {
					t.Fatalf("a known key is answered %d after %v", got, time.Since(begin))
				}
				if time.Since(asked) > 500*time.Millisecond {
					slow++
				}
			}
			if slow > 3 { // one waits now and then, to see whether it is back
				t.Errorf("%d requests with a known key waited for the database", slow)
			}
			a := get(t, "http://"+p.addr+"/hello?name=%zz", unknown)
			if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
				t.Errorf("a key that is not known: %d, Retry-After %q", a.status, a.header.Get("Retry-After"))
			}
			if a := get(t, "http://"+p.admin+"/readyz", ""); a.status != http.StatusServiceUnavailable {
				t.Errorf("ready: %d %s", a.status, a.body)
			}
			if p.metric(t, `helloapi_key_lookups_total{result="stale"}`) == "0" {
				t.Error("no look-up counts as stale")
			}

			// What changes meanwhile is seen when it is back.
			must(t, db, "keys", "disable", "known")
			proxy.Pass(t)
			effective(t, "after it is back", func() bool {
				return p.status(t, unknown) == http.StatusBadRequest && p.status(t, known) == http.StatusForbidden &&
					get(t, "http://"+p.addr+"/hello", unknown).status == http.StatusOK
			})
		})
	}
}

func TestKeyStaleMax(t *testing.T) {
	t.Parallel()
	db := backendtest.Postgres(t)
	backendtest.Exec(t, db, `INSERT INTO plans (name) VALUES ('none')`)
	key := must(t, db, "keys", "create", "known", "--plan", "none")
	proxy, through := backendtest.NewProxy(t, db)
	p := start(t, t.TempDir(), "DATABASE_URL="+through, "REDIS_URL="+backendtest.RedisURL(t), "KEY_STALE_MAX=2s")
	if got := p.status(t, key); got != http.StatusBadRequest {
		t.Fatalf("answered %d", got)
	}
	proxy.Refuse()
	begin := time.Now()
	for time.Since(begin) < 1500*time.Millisecond {
		if got := p.status(t, key); got != http.StatusBadRequest {
			t.Fatalf("answered %d after %v", got, time.Since(begin))
		}
	}
	waitFor(t, "KEY_STALE_MAX to pass", func() bool { return p.status(t, key) == http.StatusServiceUnavailable })
	if d := time.Since(begin); d > 4*time.Second {
		t.Errorf("still good after %v", d)
	}
}

func TestKeyLookupsCost(t *testing.T) {
	t.Parallel()
	db := backendtest.Postgres(t)
	key := must(t, db, "keys", "create", "warm", "--plan", "paid")
	p := start(t, t.TempDir(), "DATABASE_URL="+db, "REDIS_URL="+backendtest.RedisURL(t))
	queries := func() int { return sum(t, []*process{p}, `helloapi_store_flushes_total{store="keys"}`) }
	warm := func(value string, status int) {
		t.Helper()
		waitFor(t, "the key to be warm", func() bool {
			before := queries()
			if got := p.status(t, value); got != status {
				t.Fatalf("answered %d, want %d", got, status)
			}
			return queries() == before
		})
	}
	unknown := apikey.Generate().Reveal()
	warm(key, http.StatusBadRequest)
	warm(unknown, http.StatusForbidden)
	before := queries()
	for i := range 50 {
		p.status(t, key)
		p.status(t, unknown)
		p.status(t, fmt.Sprintf("hk_%038d", i)) // a wrong checksum
		p.status(t, fmt.Sprintf("short%d", i))
	}
	if n := queries() - before; n != 0 {
		t.Errorf("200 requests with keys that are known or can't be took %d queries", n)
	}
}
