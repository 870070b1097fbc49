// Package postgres keeps greetings, keys and plans in PostgreSQL, for any
// number of replicas.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"helloapi/internal/apikey"
	"helloapi/internal/groupcommit"
	"helloapi/internal/meter"
	"helloapi/migrations"
)

const (
	// flushTimeout is the deadline of a shared statement.
	flushTimeout = 5 * time.Second
	// findTimeout is the deadline of a shared look-up of keys: soon, since what
	// is known of them may do.
	findTimeout = time.Second
	// usageInterval lets reads of usage gather. They come with a key's first
	// request, and of many keys at once when a window has begun.
	usageInterval = 50 * time.Millisecond
	// connectTimeout bounds a connection attempt, if the URL has no connect_timeout.
	connectTimeout = 5 * time.Second
	// maxConns is how many connections a replica opens at most, if the URL has
	// no pool_max_conns. Requests share statements, so a few are plenty.
	maxConns = 8
)

// The SQLSTATE codes that are told apart: https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	foreignKeyViolation = "23503"
	uniqueViolation     = "23505"
	invalidPassword     = "28P01"
	invalidAuth         = "28000"
	noSuchDatabase      = "3D000"
	noPrivilege         = "42501"
	undefinedTable      = "42P01"
	lockNotAvailable    = "55P03"
	undefinedObject     = "42704"
)

// DB is a pool of connections to a database. It is safe for concurrent use.
type DB struct {
	pool  *pool
	conns *sql.DB // those of pool
	log   *slog.Logger

	renewed atomic.Pointer[chan struct{}] // closed when connections are replaced

	counts *groupcommit.Counter
	finds  *groupcommit.Batcher[apikey.Hash, *apikey.Key]
	used   *groupcommit.Batcher[meter.UsageQuery, int64]
}

// Open connects to the database at url, which must have the present schema.
func Open(ctx context.Context, url string, log *slog.Logger) (*DB, error) {
	if err := checkRights(); err != nil {
		return nil, err
	}
	cfg, err := parse(url)
	if err != nil {
		return nil, err
	}
	pool, err := newPool(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	current, latest, err := versions(ctx, pool)
	if err == nil && current < latest {
		err = fmt.Errorf("the database has schema version %d and this helloapi needs %d: run `helloapi migrate`", current, latest)
	}
	if err != nil {
		pool.Close()
		return nil, explain(err, cfg.ConnConfig)
	}
	db := &DB{pool: pool, conns: openConns(pool), log: log}
	renewed := make(chan struct{})
	db.renewed.Store(&renewed)
	batch := groupcommit.Config{MaxBatch: 1024, MaxWaiting: 1 << 15, Timeout: flushTimeout}
	db.counts = groupcommit.NewCounter(batch, db.writeGreetings)
	batch.Timeout = findTimeout
	db.finds = groupcommit.New(batch, db.findKeys)
	batch.MaxBatch, batch.Interval = 4096, usageInterval
	db.used = groupcommit.New(batch, db.sumUsage)
	return db, nil
}

// parse reads a database's URL. Its error does not hold the password.
func parse(url string) (*pgxpool.Config, error) {
	cfg, err := parseURL(url)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(url, "pool_max_conns") {
		cfg.MaxConns = maxConns
	}
	cfg.MinIdleConns = 1
	cfg.MaxConnLifetimeJitter = cfg.MaxConnLifetime / 10
	cfg.PingTimeout = time.Second
	if cfg.ConnConfig.ConnectTimeout == 0 || cfg.ConnConfig.ConnectTimeout > connectTimeout {
		cfg.ConnConfig.ConnectTimeout = connectTimeout
	}
	setDefault(cfg.ConnConfig.RuntimeParams, "application_name", "helloapi")
	setDefault(cfg.ConnConfig.RuntimeParams, "statement_timeout", fmt.Sprint(flushTimeout.Milliseconds()))
	return cfg, nil
}

func setDefault(params map[string]string, name, value string) {
	if params[name] == "" {
		params[name] = value
	}
}

// Migrate brings the database at url to the present schema and returns the
// names of the migrations that it took. Of several at a time one migrates and
// the others wait for it.
func Migrate(ctx context.Context, url string) ([]string, error) {
	if err := checkRights(); err != nil {
		return nil, err
	}
	cfg, err := parse(url)
	if err != nil {
		return nil, err
	}
	delete(cfg.ConnConfig.RuntimeParams, "statement_timeout") // a migration may take long
	sqlDB := stdlib.OpenDB(*cfg.ConnConfig)
	defer sqlDB.Close()
	if err := sqlDB.PingContext(ctx); err != nil {
		return nil, explain(err, cfg.ConnConfig)
	}
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	sources, err := fs.Sub(migrations.Postgres, "postgres")
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	p, err := goose.NewProvider(goose.DialectPostgres, sqlDB, sources, goose.WithSessionLocker(locker))
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	results, err := p.Up(ctx)
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", explain(err, cfg.ConnConfig))
	}
	var applied []string
	for _, r := range results {
		applied = append(applied, filepath.Base(r.Source.Path))
	}
	return applied, nil
}

// SchemaVersions returns the version of the database's schema, and the version
// that this program needs.
func SchemaVersions(ctx context.Context, url string) (current, latest int64, err error) {
	cfg, err := parse(url)
	if err != nil {
		return 0, 0, err
	}
	conn, err := pgx.ConnectConfig(ctx, cfg.ConnConfig)
	if err != nil {
		return 0, 0, explain(err, cfg.ConnConfig)
	}
	defer conn.Close(ctx)
	current, latest, err = versions(ctx, conn)
	if err != nil {
		return 0, 0, explain(err, cfg.ConnConfig)
	}
	return current, latest, nil
}

// versions asks with a plain SELECT, which a role without the right to create
// tables can too.
func versions(ctx context.Context, db interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
},
) (current, latest int64, err error) {
	files, err := fs.Glob(migrations.Postgres, "postgres/*.sql")
	if err != nil {
		return 0, 0, err
	}
	for _, f := range files {
		v, err := goose.NumericComponent(f)
		if err != nil {
			return 0, 0, err
		}
		latest = max(latest, v)
	}
	err = db.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`).Scan(&current)
	if isCode(err, undefinedTable) {
		return 0, latest, nil
	}
	return current, latest, err
}

// explain puts an error of connecting in one line that says what to do.
func explain(err error, c *pgx.ConnConfig) error {
	at := net.JoinHostPort(c.Host, fmt.Sprint(c.Port))
	var refused *pgconn.ConnectError
	var netErr *net.OpError
	switch {
	case isCode(err, invalidPassword, invalidAuth):
		return fmt.Errorf("PostgreSQL at %s does not let in user %q: check user and password in DATABASE_URL", at, c.User)
	case isCode(err, noSuchDatabase):
		return fmt.Errorf("PostgreSQL at %s has no database %q: create it (createdb %[2]s) or correct DATABASE_URL", at, c.Database)
	case isCode(err, noPrivilege):
		return fmt.Errorf("user %q lacks a right in database %q at %s: %w", c.User, c.Database, at, err)
	case errors.As(err, &refused), errors.As(err, &netErr), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("PostgreSQL at %s can't be reached: is it running, and is DATABASE_URL right? (%w)", at, oneLine(err))
	}
	return err
}

// oneLine returns the innermost cause of a failed connection. pgx lists every
// attempt, each on a line of its own; the first will do.
func oneLine(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			break
		}
		err = next
	}
	first, _, more := strings.Cut(err.Error(), "\n")
	if more {
		return errors.New(first)
	}
	return err
}

// Ping returns nil if the database answers.
func (db *DB) Ping(ctx context.Context) error {
	if err := db.pool.Ping(ctx); err != nil {
		return fmt.Errorf("postgres: %w", oneLine(err))
	}
	return nil
}

// Close answers what is under way, then closes the connections.
func (db *DB) Close() error {
	db.counts.Close()
	db.finds.Close()
	db.used.Close()
	err := db.conns.Close()
	db.pool.Close()
	return err
}

// Stats counts the shared writes of greetings and the shared look-ups of keys
// and of usage.
func (db *DB) Stats() map[string]groupcommit.Stats {
	return map[string]groupcommit.Stats{"greetings": db.counts.Stats(), "keys": db.finds.Stats(), "usage": db.used.Stats()}
}

func isCode(err error, codes ...string) bool {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return false
	}
	for _, c := range codes {
		if e.Code == c {
			return true
		}
	}
	return false
}
