package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"helloapi/internal/backend"
	"helloapi/internal/backendtest"
	"helloapi/internal/certs"
	"helloapi/internal/plan"
)

// roles are the two roles of a database, made by deploy/postgres/roles.sql.
type roles struct {
	admin        string // the administrator's URL of the database
	owner, serve string // the roles' URLs of it
	serveRole    string
}

// makeRoles makes an empty database and its roles, by the file that ships.
func makeRoles(t *testing.T) roles {
	t.Helper()
	// Roles are of the whole server, so they have names of their own, and go
	// after the database does.
	var admin, name string
	t.Cleanup(func() {
		server := backendtest.SQL(t, os.Getenv("TEST_DATABASE_URL"))
		for _, role := range []string{name + "_owner", name + "_serve"} {
			if _, err := server.Exec("DROP ROLE IF EXISTS " + role); err != nil {
				t.Errorf("drop test role: %v", err)
			}
		}
	})
	admin = backendtest.EmptyPostgres(t)
	name = strings.TrimPrefix(parseURL(t, admin).Path, "/")
	runRoles := func(ownerPassword, servePassword string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "psql", "-qX", "-d", admin, "-v", "owner="+name+"_owner", "-v", "serve="+name+"_serve", "-f", "../../deploy/postgres/roles.sql")
		cmd.Env = append(os.Environ(), "HELLOAPI_OWNER_PASSWORD="+ownerPassword, "HELLOAPI_SERVE_PASSWORD="+servePassword)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	// The second time sets the passwords anew.
	for _, password := range []string{"first", "it's \"new\""} {
		if out, err := runRoles(password+" owner", password+" serve"); err != nil {
			t.Fatalf("roles.sql: %v\n%s", err, out)
		}
	}
	as := func(role string) string {
		u := parseURL(t, admin)
		u.User = url.UserPassword(name+"_"+role, `it's "new" `+role)
		return u.String()
	}
	return roles{admin: admin, owner: as("owner"), serve: as("serve"), serveRole: name + "_serve"}
}

func parseURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// A serving process lives its whole life as a role that can do nothing else.
func TestServeRole(t *testing.T) {
	t.Parallel()
	r := makeRoles(t)

	// Before the migration says what the role may do, it may do nothing.
	must(t, r.owner, "migrate")
	if _, _, err := helloapi(t, map[string]string{"DATABASE_URL": r.serve}, "keys", "list"); err == nil || !strings.Contains(err.Error(), "lacks a right") {
		t.Errorf("without a right: %v", err)
	}
	out, _, err := helloapi(t, map[string]string{"DATABASE_URL": r.owner, "SERVE_ROLE": r.serveRole}, "migrate")
	if err != nil || !strings.Contains(out, "the role "+r.serveRole+" may serve") {
		t.Fatalf("migrate: %v, printed %s", err, out)
	}

	p := start(t, t.TempDir(), "DATABASE_URL="+r.serve, "REDIS_URL="+backendtest.RedisURL(t), "ADDR=127.0.0.1:0",
		"TLS_DOMAINS=a.test", "ACME_DIRECTORY_URL=https://127.0.0.1:1/dir", "TLS_ADDR=127.0.0.1:0", "HTTP_ADDR=off", "CERT_ENCRYPTION_KEY="+aKey)
	key := must(t, r.owner, "keys", "create", "bob", "--plan", "free")
	// Where it may not do what a command does, the error has the command that may.
	for command, want := range map[string]string{"": "`helloapi keys rotate …`", "docker compose run --rm helloapi": "`docker compose run --rm helloapi keys rotate …`"} {
		if _, _, err := helloapi(t, map[string]string{"DATABASE_URL": r.serve, "HELLOAPI_COMMAND": command}, "keys", "rotate", "bob", "--yes"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a replica's role rotates a key: %v, want %s", err, want)
		}
	}
	hello := func() answer { return get(t, "http://"+p.addr+"/hello?name=bob", key) }
	for i := range 5 {
		if a := hello(); a.body != fmt.Sprintf(`{"message":"Hello bob #%d!"}`, i+1) {
			t.Errorf("greeting %d: %d %s", i+1, a.status, a.body)
		}
	}
	if a := hello(); a.body != `{"message":"Limit Exceeded"}` {
		t.Errorf("beyond the quota: %d %s", a.status, a.body)
	}
	must(t, r.owner, "usage", "grant", "bob", "1")
	waitFor(t, "the grant", func() bool { return hello().status == http.StatusOK })
	waitFor(t, "/usage to say 6", func() bool { // it is throttled too
		return strings.Contains(get(t, "http://"+p.addr+"/usage", key).body, `"used":6`)
	})
	waitFor(t, "an order to have failed", func() bool { return p.metric(t, `helloapi_certificate_failures{host="a.test"}`) == "1" })
	waitFor(t, "others to be told that Redis answers", func() bool {
		var n int
		return backendtest.SQL(t, r.admin).QueryRow(`SELECT count(*) FROM replicas`).Scan(&n) == nil && n == 1
	})
	must(t, r.owner, "keys", "disable", "bob")
	waitFor(t, "the key to be disabled", func() bool { return hello().status == http.StatusForbidden })
	if err := p.stop(t); err != nil {
		t.Errorf("stop: %v", err)
	}
	if strings.Contains(p.stderr.String(), "permission denied") {
		t.Errorf("serve lacks a right:\n%s", p.stderr)
	}
	if used := must(t, r.owner, "usage", "show", "--key", "bob", "--format", "csv"); !strings.Contains(used, ",6") {
		t.Errorf("the ledger was not written:\n%s", used)
	}
	// What a process does once a day.
	db, err := backend.OpenDatabase(t.Context(), r.serve)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	today := plan.DateOf(time.Now().UTC())
	if err := db.TrimUsage(t.Context(), today.AddDays(2), today.AddDays(-400)); err != nil {
		t.Errorf("trim usage: %v", err)
	}

	// And what an order does that gets further.
	answer := certs.ID{Directory: "https://127.0.0.1:1/dir", Name: certs.AnswerPrefix + "x"}
	if err := errors.Join(db.Certs().PutAnswer(t.Context(), answer, []byte("x")), db.Certs().DeleteAnswer(t.Context(), answer)); err != nil {
		t.Error(err)
	}

	serve := backendtest.SQL(t, r.serve)
	var more string
	if err := serve.QueryRow(`
		SELECT coalesce(string_agg(a.privilege_type || ' on ' || c.relname, ', '), '')
		FROM pg_class c, aclexplode(c.relacl) a
		WHERE a.grantee = $1::regrole AND a.privilege_type NOT IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')`, r.serveRole).Scan(&more); err != nil || more != "" {
		t.Errorf("it has %s (%v)", more, err)
	}
	for _, stmt := range []string{
		`INSERT INTO api_keys (name) VALUES ('mine')`,
		`INSERT INTO api_key_values (hash, key_id, prefix) SELECT sha256('x'), id, 'x' FROM api_keys`,
		`UPDATE api_keys SET enabled = true`,
		`DELETE FROM api_keys`,
		`UPDATE plans SET quota_limit = 1000000`,
		`INSERT INTO grants (key_id, day, units) SELECT id, current_date, 5 FROM api_keys`,
		`DELETE FROM greetings`,
		`TRUNCATE usage`,
		`UPDATE goose_db_version SET is_applied = false`,
		`ALTER TABLE greetings ADD COLUMN x text`,
		`DROP TABLE greetings`,
		`CREATE TABLE mine (x text)`,
		`CREATE TEMP TABLE mine (x text)`,
		`CREATE INDEX ON greetings (count)`,
		`CREATE TRIGGER mine AFTER INSERT ON greetings EXECUTE FUNCTION notify_key_changes()`,
		`CREATE SCHEMA mine`,
		`SELECT * FROM pg_authid`,
		`SELECT pg_read_file('/etc/passwd')`,
		`SET ROLE ` + strings.Replace(r.serveRole, "_serve", "_owner", 1),
		`GRANT SELECT ON greetings TO PUBLIC`,
	} {
		var e *pgconn.PgError
		switch _, err := serve.Exec(stmt); {
		case strings.HasPrefix(stmt, "GRANT") && err == nil: // but a warning: it has no effect
			var granted bool
			if err := serve.QueryRow(`SELECT has_table_privilege('public', 'greetings', 'SELECT')`).Scan(&granted); err != nil || granted {
				t.Errorf("%s took effect (%v)", stmt, err)
			}
		case !errors.As(err, &e) || e.Code != "42501":
			t.Errorf("%s: %v, want that the privilege is missing", stmt, err)
		}
	}
	if _, _, err := helloapi(t, map[string]string{"DATABASE_URL": r.serve}, "keys", "create", "eve", "--plan", "free"); err == nil {
		t.Error("the role that serves made a key")
	}

	env := map[string]string{"DATABASE_URL": r.owner, "SERVE_ROLE": `x" TO PUBLIC; --`}
	if _, _, err := helloapi(t, env, "migrate"); err == nil || !strings.Contains(err.Error(), "deploy/postgres/roles.sql") {
		t.Errorf("a role that is not there: %v", err)
	}
	if _, _, err := helloapi(t, map[string]string{"DATABASE_URL": backendtest.SQLite(t), "SERVE_ROLE": "x"}, "migrate"); err == nil || !strings.Contains(err.Error(), "SQLite") {
		t.Errorf("SERVE_ROLE with SQLite: %v", err)
	}
}
