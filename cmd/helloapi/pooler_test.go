package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"helloapi/internal/backendtest"
)

// PgBouncer in each of its modes, as its defaults are.
func TestPgBouncer(t *testing.T) {
	t.Parallel()
	redis := backendtest.RedisURL(t)
	for version, path := range backendtest.PgBouncers(t) {
		for name, test := range map[string]struct {
			since    string // the first version that can
			settings []string
			shared   bool // sessions are
		}{
			"session":              {settings: []string{"pool_mode = session"}},
			"transaction":          {settings: []string{"pool_mode = transaction"}, shared: true},
			"transaction-prepared": {since: "1.21", settings: []string{"pool_mode = transaction", "max_prepared_statements = 200"}, shared: true},
			"transaction-one":      {settings: []string{"pool_mode = transaction", "default_pool_size = 1"}, shared: true},
			"transaction-turns":    {settings: []string{"pool_mode = transaction", "server_round_robin = 1", "min_pool_size = 2"}, shared: true},
		} {
			if older(version, test.since) {
				continue
			}
			t.Run(version+"-"+name, func(t *testing.T) {
				db := backendtest.Postgres(t)
				pooled := backendtest.NewPgBouncer(t, path, db, test.settings...)
				backendtest.Exec(t, db, `INSERT INTO plans (name) VALUES ('none')`)
				key := must(t, pooled, "keys", "create", "bob", "--plan", "none")
				p := start(t, t.TempDir(), "DATABASE_URL="+pooled, "REDIS_URL="+redis)
				current := "1"
				if test.shared {
					current = "0"
				}
				waitFor(t, "the key cache to know where it is", func() bool { return p.metric(t, "helloapi_key_cache_current") == current })

				began := time.Now()
				answers := storm(t, []*process{p}, 400, key, "/hello?name=brooks")
				if got := numbers(t, answers); !slices.Equal(got, upTo(400)) {
					t.Errorf("numbers are not 1 to 400: %v", got)
				}
				must(t, pooled, "keys", "disable", "bob")
				effective(t, "disable", func() bool { return p.status(t, key) == http.StatusForbidden })
				must(t, pooled, "keys", "enable", "bob")
				effective(t, "enable", func() bool { return p.status(t, key) == http.StatusBadRequest })
				if a := get(t, "http://"+p.admin+"/readyz", ""); a.status != http.StatusOK {
					t.Errorf("ready: %d %s", a.status, a.body)
				}
				// No pool is thrown away six times a second.
				time.Sleep(max(0, 3*time.Second-time.Since(began)))
				var connected int
				if err := backendtest.SQL(t, db).QueryRow(`SELECT sessions FROM pg_stat_database WHERE datname = current_database()`).Scan(&connected); err != nil {
					t.Fatal(err)
				}
				if connected > 60 {
					t.Errorf("%d connections were made", connected)
				}
				if err := p.stop(t); err != nil {
					t.Errorf("stop: %v", err)
				}
				for line := range strings.Lines(p.stderr.String()) {
					if strings.Contains(line, "level=ERROR") || strings.Contains(line, "prepared statement") {
						t.Errorf("logged: %s", line)
					}
				}
				if said := strings.Count(p.stderr.String(), "a pooler in transaction mode"); said != map[bool]int{true: 1}[test.shared] {
					t.Errorf("the pooler is mentioned %d times", said)
				}
				_, _, err := helloapi(t, map[string]string{"DATABASE_URL": pooled}, "migrate")
				if test.shared && (err == nil || !strings.Contains(err.Error(), "with the URL of PostgreSQL itself")) || !test.shared && err != nil {
					t.Errorf("migrate: %v", err)
				}
			})
		}
		t.Run(version+"-statement", func(t *testing.T) {
			pooled := backendtest.NewPgBouncer(t, path, backendtest.Postgres(t), "pool_mode = statement")
			p := launch(t, t.TempDir(), "DATABASE_URL="+pooled)
			if err := p.wait(t); err == nil || !strings.Contains(p.stderr.String(), "set pool_mode = session or transaction") {
				t.Errorf("%v:\n%s", err, p.stderr)
			}
		})
		t.Run(version+"-settings", func(t *testing.T) {
			// What a session can't keep the role must have.
			db := backendtest.Postgres(t)
			pooled := backendtest.NewPgBouncer(t, path, db, "pool_mode = transaction")
			backendtest.Exec(t, db, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$`)
			_, _, err := helloapi(t, map[string]string{"DATABASE_URL": pooled}, "keys", "list")
			if err == nil || !strings.Contains(err.Error(), "synchronous_commit = 'on'") {
				t.Errorf("%v", err)
			}
		})
		t.Run(version+"-refused", func(t *testing.T) {
			// A server that answered was reached.
			pooled := backendtest.NewPgBouncer(t, path, backendtest.Postgres(t), "max_client_conn = 1")
			hold := backendtest.SQL(t, pooled)
			waitFor(t, "the only connection", func() bool { return hold.Ping() == nil })
			_, _, err := helloapi(t, map[string]string{"DATABASE_URL": pooled}, "keys", "list")
			if err == nil || strings.Contains(err.Error(), "can't be reached") || !strings.Contains(err.Error(), "no more connections") {
				t.Errorf("%v", err)
			}
		})
	}
}

// older reports whether a version comes before another, such as 1.21.
func older(version, than string) bool {
	var a, b [2]int
	_, _ = fmt.Sscanf(version, "%d.%d", &a[0], &a[1])
	_, _ = fmt.Sscanf(than, "%d.%d", &b[0], &b[1])
	return slices.Compare(a[:], b[:]) < 0
}
