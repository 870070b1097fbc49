package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"github.com/redis/go-redis/v9"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

// A postgresServer is the server that with-servers started.
type postgresServer struct {
	url   string
	admin *sql.DB
	pid   int // of the postmaster
}

// openPostgres refuses a server that would lose a commit.
func openPostgres(ctx context.Context, u string) (*postgresServer, error) {
	db, err := sql.Open("pgx", u)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	s := &postgresServer{url: u, admin: db}
	for _, name := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		if v, err := s.show(ctx, name); err != nil || v != "on" {
			return nil, errors.Join(err, fmt.Errorf("%s is %q: start the servers with DURABLE=1 internal/backendtest/with-servers", name, v))
		}
	}
	if _, err := db.ExecContext(ctx, `CREATE EXTENSION IF NOT EXISTS pg_stat_statements`); err != nil {
		return nil, fmt.Errorf("count statements: %w", err)
	}
	backend, err := number(ctx, db, `SELECT pg_backend_pid()`)
	if err != nil {
		return nil, err
	}
	fields, err := stat(int(backend))
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL must run on this machine: %w", err)
	}
	s.pid, err = strconv.Atoi(fields[1])
	return s, err
}

func (s *postgresServer) show(ctx context.Context, name string) (v string, err error) {
	err = s.admin.QueryRowContext(ctx, `SELECT current_setting($1)`, name).Scan(&v)
	return v, err
}

// create makes a database and returns its URL.
func (s *postgresServer) create(ctx context.Context, name string) (string, error) {
	if _, err := s.admin.ExecContext(ctx, "CREATE DATABASE "+name); err != nil {
		return "", err
	}
	u, err := url.Parse(s.url)
	if err != nil {
		return "", err
	}
	u.Path = "/" + name
	return u.String(), nil
}

// statements returns how many were executed, by any but this connection.
func (s *postgresServer) statements(ctx context.Context) (int64, error) {
	return number(ctx, s.admin, `
		SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements
		WHERE dbid <> (SELECT oid FROM pg_database WHERE datname = current_database())`)
}

// A redisServer is the server that with-servers started.
type redisServer struct {
	*redis.Client
	pid int
}

func openRedis(ctx context.Context, u string) (*redisServer, error) {
	opts, err := redis.ParseURL(u)
	if err != nil {
		return nil, err
	}
	opts.DB = 1 // the naive version's
	s := &redisServer{Client: redis.NewClient(opts)}
	pid, err := s.info(ctx, "server", "process_id")
	s.pid = int(pid)
	if err == nil && s.setting(ctx, "appendonly") != "yes" {
		err = errors.New("the Redis keeps nothing: start the servers with DURABLE=1 internal/backendtest/with-servers")
	}
	return s, err
}

func (s *redisServer) setting(ctx context.Context, name string) string {
	return s.ConfigGet(ctx, name).Val()[name]
}

func (s *redisServer) info(ctx context.Context, section, field string) (int64, error) {
	text, err := s.Info(ctx, section).Result()
	if err != nil {
		return 0, err
	}
	m := regexp.MustCompile(`(?m)^` + field + `:(\d+)`).FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("the Redis does not report %s", field)
	}
	return strconv.ParseInt(m[1], 10, 64)
}

// trips returns how often the server read from a client. A pipeline is read at
// once, up to 16 kB.
func (s *redisServer) trips(ctx context.Context) (int64, error) {
	return s.info(ctx, "stats", "total_reads_processed")
}

// openSQLite opens a helloapi's file to read.
func openSQLite(path string) (*sql.DB, error) {
	return sql.Open("sqlite", "file:"+path+"?mode=ro&_pragma=busy_timeout(5000)")
}

// addNames stores n names, so that all rounds find the same rows.
func addNames(ctx context.Context, db *sql.DB, n int) error {
	_, err := db.ExecContext(ctx, `
		WITH RECURSIVE numbers (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < `+strconv.Itoa(n)+`)
		INSERT INTO greetings (name, count) SELECT 'name-' || i, 1 FROM numbers`)
	return err
}

// onDisk returns an error if dir is a file system in memory: there nothing is
// synced.
func onDisk(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	if regexp.MustCompile(`(?m)^tmpfs ` + regexp.QuoteMeta(dir) + ` `).Match(mounts) {
		return fmt.Errorf("%s is in memory, where nothing is synced: set TMPDIR to a folder on a disk", dir)
	}
	return nil
}

// wait waits a moment between two looks at something that is about to happen.
func wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(20 * time.Millisecond):
		return nil
	}
}
