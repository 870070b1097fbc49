// Package backendtest holds what every backend has to pass: one suite for
// databases, one for limiters, one for the whole API, and fresh databases to
// run them on.
package backendtest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"helloapi/internal/postgres"
	"helloapi/internal/sqlite"
	"helloapi/migrations"
)

// RedisURL returns the URL of the Redis to test against. Tests share it: what
// they count is kept apart by the random IDs of their keys.
func RedisURL(t testing.TB) string {
	t.Helper()
	return server(t, "TEST_REDIS_URL")
}

func server(t testing.TB, variable string) string {
	t.Helper()
	u := os.Getenv(variable)
	if u == "" {
		t.Fatalf("%s is not set: run the tests with `make test`, or `internal/backendtest/with-servers go test ./...`, which start a server for them", variable)
	}
	return u
}

// SQLite returns the URL of a SQLite database that is not there yet.
func SQLite(t testing.TB) string {
	t.Helper()
	return "sqlite:" + filepath.Join(t.TempDir(), "helloapi.db")
}

// EmptyPostgres returns the URL of a fresh database without a schema, which is
// dropped at the end of the test.
func EmptyPostgres(t testing.TB) string {
	t.Helper()
	return createDatabase(t, "template0")
}

// Postgres returns the URL of a fresh database with the present schema, which
// is dropped at the end of the test.
func Postgres(t testing.TB) string {
	t.Helper()
	admin := server(t, "TEST_DATABASE_URL")
	name, err := migrated(admin)
	if err != nil {
		t.Fatalf("make a database to copy: %v", err)
	}
	return createDatabase(t, name)
}

// EncodedPostgres returns the URL of a fresh database of another encoding.
func EncodedPostgres(t testing.TB, encoding string) string {
	t.Helper()
	return createDatabase(t, "template0 LOCALE 'C' ENCODING "+encoding)
}

// createDatabase makes a database from a template, which may be followed by options.
func createDatabase(t testing.TB, template string) string {
	t.Helper()
	admin := server(t, "TEST_DATABASE_URL")
	db := SQL(t, admin)
	name := "helloapi_test_" + strings.ToLower(rand.Text())
	if _, err := db.Exec(fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", name, template)); err != nil {
		t.Fatalf("create test database: %v", err)
	}
	t.Cleanup(func() {
		if _, err := db.Exec(fmt.Sprintf("DROP DATABASE %s WITH (FORCE)", name)); err != nil {
			t.Errorf("drop test database: %v", err)
		}
	})
	return withDatabase(admin, name)
}

// withDatabase returns the URL of another database of the same server.
func withDatabase(admin, name string) string {
	u, err := url.Parse(admin)
	if err != nil {
		panic(err) // a URL that was connected to
	}
	u.Path = "/" + name
	return u.String()
}

// migrated makes, once for all test processes, a database with the present
// schema for Postgres to copy, which is much quicker than to migrate each. It
// is named after the migrations and left on the server for the next run.
func migrated(admin string) (string, error) {
	templateOnce.Do(func() {
		template, templateErr = makeTemplate(context.Background(), admin)
	})
	return template, templateErr
}

var (
	templateOnce sync.Once
	template     string
	templateErr  error
)

func makeTemplate(ctx context.Context, admin string) (_ string, err error) {
	hash := sha256.New()
	err = fs.WalkDir(migrations.Postgres, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(migrations.Postgres, path)
		fmt.Fprintf(hash, "%s %d\n%s", path, len(b), b)
		return err
	})
	if err != nil {
		return "", err
	}
	name := fmt.Sprintf("helloapi_template_%x", hash.Sum(nil)[:8])

	db, err := sql.Open("pgx", admin)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx) // that holds the lock
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock(hashtext($1))", name); err != nil {
		return "", err
	}
	defer func() {
		_, e := conn.ExecContext(ctx, "SELECT pg_advisory_unlock(hashtext($1))", name)
		err = errors.Join(err, e)
	}()

	var done bool
	if err := conn.QueryRowContext(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datistemplate)", name).Scan(&done); err != nil || done {
		return name, err
	}
	for _, stmt := range []string{"DROP DATABASE IF EXISTS " + name, "CREATE DATABASE " + name + " TEMPLATE template0"} {
		if _, err := conn.ExecContext(ctx, stmt); err != nil {
			return "", err
		}
	}
	if _, err := postgres.Migrate(ctx, withDatabase(admin, name)); err != nil {
		return "", err
	}
	_, err = conn.ExecContext(ctx, "ALTER DATABASE "+name+" IS_TEMPLATE true")
	return name, err
}

// SQL opens the database at url for the test to look into, or to meddle with.
func SQL(t testing.TB, url string) *sql.DB {
	t.Helper()
	driver, name := "pgx", url
	if path, ok := strings.CutPrefix(url, "sqlite:"); ok {
		driver, name = "sqlite", "file:"+path+"?_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)&_txlock=immediate"
	}
	db, err := sql.Open(driver, name)
	if err != nil {
		t.Fatalf("open database: %v", err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// Exec executes a statement on the database at url.
func Exec(t testing.TB, url, stmt string, args ...any) {
	t.Helper()
	if _, err := SQL(t, url).Exec(stmt, args...); err != nil {
		t.Fatalf("%s: %v", stmt, err)
	}
}

// Migrate brings the database at url to the present schema.
func Migrate(t testing.TB, url string) {
	t.Helper()
	var err error
	if path, ok := strings.CutPrefix(url, "sqlite:"); ok {
		_, err = sqlite.Migrate(t.Context(), path)
	} else {
		_, err = postgres.Migrate(t.Context(), url)
	}
	if err != nil {
		t.Fatalf("migrate: %v", err)
	}
}
