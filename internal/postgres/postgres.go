// Package postgres keeps keys, plans and usage in PostgreSQL, for any number of
// replicas, and has the connections for the rows of endpoints.
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
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"helloapi/internal/apikey"
	"helloapi/internal/database"
	"helloapi/internal/groupcommit"
	"helloapi/internal/limits"
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
	// lockTimeout is how long statements wait for a lock.
	lockTimeout = 2 * time.Second
	// maxConns is how many connections a replica opens at most, if the URL has
	// no pool_max_conns. Requests share statements, so a few are plenty.
	maxConns = 8
)

// DB is a pool of connections to a database. It is safe for concurrent use.
type DB struct {
	server *server
	pool   *pool
	conns  *sql.DB      // those of pool
	conn   *database.DB // on conns
	log    *slog.Logger

	renewed atomic.Pointer[chan struct{}] // closed when connections are replaced
	moved   chan struct{}                 // has one when a statement proved that the server has moved

	finds *groupcommit.Batcher[apikey.Hash, *apikey.Key]
	used  *groupcommit.Batcher[limits.UsageQuery, limits.Charged]
}

// Open connects to the database at url, which must have the present schema.
func Open(ctx context.Context, url string, log *slog.Logger) (*DB, error) {
	if err := checkRights(); err != nil {
		return nil, err
	}
	server, err := parse(url)
	if err != nil {
		return nil, err
	}
	cfg, _, err := server.reach(ctx)
	if err != nil {
		return nil, server.explain(err)
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
		return nil, server.explain(err)
	}
	db := &DB{server: server, pool: pool, conns: openConns(pool), log: log, moved: make(chan struct{}, 1)}
	db.conn = database.New(database.PostgreSQL, db.conns, db.conns, db.verdict)
	renewed := make(chan struct{})
	db.renewed.Store(&renewed)
	batch := groupcommit.Config{MaxBatch: 1024, MaxWaiting: 1 << 15, Timeout: findTimeout}
	db.finds = groupcommit.New(batch, db.findKeys)
	batch.MaxBatch, batch.Interval = 4096, usageInterval
	db.used = groupcommit.New(batch, db.sumUsage)
	return db, nil
}

// parse reads a database's URL. Its error does not hold the password.
func parse(url string) (*server, error) {
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
	return newServer(cfg, url), nil
}

// connect opens one connection for a command, which the caller closes.
func connect(ctx context.Context, url string) (*server, *pgx.Conn, error) {
	server, err := parse(url)
	if err != nil {
		return nil, nil, err
	}
	cfg, _, err := server.reach(ctx)
	if err != nil {
		return nil, nil, server.explain(err)
	}
	conn, err := pgx.ConnectConfig(ctx, cfg.ConnConfig)
	if err != nil {
		return nil, nil, server.explain(err)
	}
	return server, conn, nil
}

// Migrate brings the database at url to the present schema and returns the
// names of the migrations that it took. Of several at a time one migrates and
// the others wait for it.
func Migrate(ctx context.Context, url string) ([]string, error) {
	if err := checkRights(); err != nil {
		return nil, err
	}
	server, err := parse(url)
	if err != nil {
		return nil, err
	}
	server.timeouts = map[string]string{"statement_timeout": "0", "lock_timeout": "0"} // a migration may take long
	cfg, shared, err := server.reach(ctx)
	if err == nil && shared {
		err = fitness("a pooler in transaction mode can't hold the lock of a migration: migrate with the URL of PostgreSQL itself, or use pool_mode = session")
	}
	if err != nil {
		return nil, server.explain(err)
	}
	sqlDB := stdlib.OpenDB(*cfg.ConnConfig)
	defer sqlDB.Close()
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
		return nil, fmt.Errorf("migrate: %w", server.explain(err))
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
	server, conn, err := connect(ctx, url)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close(ctx)
	current, latest, err = versions(ctx, conn)
	if err != nil {
		return 0, 0, server.explain(err)
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
func (s *server) explain(err error) error {
	c := s.pool.ConnConfig
	at := net.JoinHostPort(c.Host, fmt.Sprint(c.Port))
	var unfit fitness
	var failed *pgconn.ConnectError
	var refusal *pgconn.PgError
	var netErr net.Error // also those of looking up a host, and of a deadline
	switch {
	case errors.As(err, &unfit):
		return unfit
	case isCode(err, invalidPassword, invalidAuth):
		return fmt.Errorf("PostgreSQL at %s does not let in user %q: check user and password in DATABASE_URL", at, c.User)
	case isCode(err, noSuchDatabase):
		return fmt.Errorf("PostgreSQL at %s has no database %q: create it (createdb %[2]s) or correct DATABASE_URL", at, c.Database)
	case isCode(err, noPrivilege):
		return fmt.Errorf("user %q lacks a right in database %q at %s: %w", c.User, c.Database, at, err)
	case isCode(err, tooManyConnections):
		return fmt.Errorf("PostgreSQL at %s has no connection left: raise max_connections, or lower pool_max_conns in DATABASE_URL (%w)", at, oneLine(err))
	case !errors.As(err, &failed):
		return err
	case errors.As(err, &refusal): // by PostgreSQL, or a pooler before it
		return fmt.Errorf("PostgreSQL at %s refuses the connection: %w", at, refusal)
	case errors.As(err, &netErr):
		return fmt.Errorf("PostgreSQL at %s can't be reached: is it running, and is DATABASE_URL right? (%w)", at, oneLine(err))
	}
	return fmt.Errorf("what answers at %s does not speak as PostgreSQL does: is DATABASE_URL right? (%w)", at, oneLine(err))
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

// Ready returns nil if a request can be answered. It does what a request does:
// it finds keys, checks what endpoints write, and commits something that
// PostgreSQL and its standbys write to disk.
func (db *DB) Ready(ctx context.Context, check func(context.Context) error) error {
	if _, err := db.keysByHash(ctx, nil); err != nil {
		return fmt.Errorf("postgres: find keys: %w", oneLine(err))
	}
	if err := check(ctx); err != nil {
		return oneLine(err)
	}
	if _, err := db.pool.Exec(ctx, `SELECT pg_logical_emit_message(true, 'helloapi', 'ready')`); err != nil {
		return fmt.Errorf("postgres: commit: %w", oneLine(err))
	}
	return nil
}

// Close answers what is under way, then closes the connections.
func (db *DB) Close() error {
	db.finds.Close()
	db.used.Close()
	err := db.conns.Close()
	db.pool.Close()
	return err
}

// Stats counts the shared look-ups of keys and of usage.
func (db *DB) Stats() map[string]groupcommit.Stats {
	return map[string]groupcommit.Stats{"keys": db.finds.Stats(), "usage": db.used.Stats()}
}
