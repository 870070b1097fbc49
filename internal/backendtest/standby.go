package backendtest

import (
	"database/sql"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// NewStandby starts a PostgreSQL and a standby that follows it, and returns the
// URLs of an empty database, "helloapi", on both.
func NewStandby(t testing.TB) (primary, standby string) {
	t.Helper()
	dir := serverDir(t)
	asUser := func(name string, args ...string) {
		t.Helper()
		cmd := exec.Command(filepath.Join(postgresBin(t), name), args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: serverUser(t)}
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	start := func(data string) string {
		t.Helper()
		port := freePort()
		runServer(t, exec.Command(filepath.Join(postgresBin(t), "postgres"), "-D", data, "-p", fmt.Sprint(port),
			"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="+dir, "-c", "fsync=off"))
		return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/helloapi?sslmode=disable", port)
	}
	answers := func(u, query string) func() bool {
		db := SQL(t, u)
		return func() bool {
			var ok sql.NullBool
			return db.QueryRow(query).Scan(&ok) == nil && ok.Bool
		}
	}
	first, second := filepath.Join(dir, "primary"), filepath.Join(dir, "standby")
	asUser("initdb", "-D", first, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	primary = start(first)
	maintenance := strings.Replace(primary, "/helloapi?", "/postgres?", 1)
	waitFor(t, "the primary to start", answers(maintenance, `SELECT true`))
	Exec(t, maintenance, `CREATE DATABASE helloapi`)
	asUser("pg_basebackup", "-D", second, "-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", maintenance)
	standby = start(second)
	waitFor(t, "the standby to follow", answers(standby, `SELECT pg_is_in_recovery() FROM pg_stat_wal_receiver WHERE status = 'streaming'`))
	return primary, standby
}

// postgresBin returns where the programs of PostgreSQL are.
func postgresBin(t testing.TB) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	slices.Sort(found)
	if len(found) > 0 {
		return filepath.Dir(found[len(found)-1])
	}
	path, err := exec.LookPath("initdb")
	if err != nil {
		t.Fatal("PostgreSQL's initdb is missing: run the tests with `make test`, which installs it")
	}
	return filepath.Dir(path)
}
