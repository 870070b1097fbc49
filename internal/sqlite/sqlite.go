// Package sqlite keeps keys, plans and usage in one SQLite file, for a helloapi
// that runs on one machine without any service, and has the connections for the
// rows of endpoints.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"helloapi/internal/apikey"
	"helloapi/internal/changes"
	"helloapi/internal/database"
	"helloapi/internal/groupcommit"
	"helloapi/internal/limits"
	"helloapi/migrations"
)

// flushTimeout is the deadline of a shared transaction or query.
const flushTimeout = 5 * time.Second

// DB is an open SQLite file. It is safe for concurrent use, and other processes
// may have the file open too.
type DB struct {
	path  string
	write *sql.DB // one connection: SQLite has one writer at a time
	read  *sql.DB // several, which see what was committed
	conn  *database.DB
	lock  *os.File

	finds *groupcommit.Batcher[apikey.Hash, *apikey.Key]
	used  *groupcommit.Batcher[limits.UsageQuery, limits.Charged]
	ready *groupcommit.Batcher[func(context.Context) error, struct{}]
}

// Open opens the file at path, which must be there and have the present
// schema.
func Open(ctx context.Context, path string) (*DB, error) {
	path, err := find(path)
	if err != nil {
		return nil, err
	}
	db, err := open(ctx, path)
	if err != nil {
		return nil, err
	}
	current, latest, err := db.versions(ctx)
	if err == nil && current < latest {
		err = fmt.Errorf("%s has schema version %d and this helloapi needs %d: run `helloapi migrate`", path, current, latest)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db.prepare(), nil
}

// Serve opens the file at path for the one process that serves it. It makes
// the file, with its directory and the present schema, where there is none,
// and fails with ErrInUse while another process serves the file, under whatever
// name.
func Serve(ctx context.Context, path string) (*DB, error) {
	path, err := create(path)
	if err != nil {
		return nil, err
	}
	lock, err := lockFile(path)
	if err != nil {
		return nil, err
	}
	db, err := open(ctx, path)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	db.lock = lock
	if _, err := db.migrate(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db.prepare(), nil
}

// Migrate brings the file at path to the present schema, making it where there
// is none, and returns the names of the migrations that it took.
func Migrate(ctx context.Context, path string) ([]string, error) {
	path, err := create(path)
	if err != nil {
		return nil, err
	}
	db, err := open(ctx, path)
	if err != nil {
		return nil, err
	}
	applied, err := db.migrate(ctx)
	return applied, errors.Join(err, db.Close())
}

// SchemaVersions returns the version of the file's schema, and the version
// that this program needs.
func SchemaVersions(ctx context.Context, path string) (current, latest int64, err error) {
	path, err = find(path)
	if err != nil {
		return 0, 0, err
	}
	db, err := open(ctx, path)
	if err != nil {
		return 0, 0, err
	}
	current, latest, err = db.versions(ctx)
	return current, latest, errors.Join(err, db.Close())
}

func open(ctx context.Context, path string) (*DB, error) {
	// Pragmas stand in the name: one that is executed reaches one connection of
	// the pool only.
	dsn := (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: filepath.ToSlash(path)}).EscapedPath()}).String() +
		"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)&_txlock=immediate"
	write, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	write.SetMaxOpenConns(1)
	read, err := sql.Open("sqlite", dsn+"&_pragma=query_only(1)")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open database: %w", err), write.Close())
	}
	read.SetMaxOpenConns(4)
	read.SetMaxIdleConns(4)
	db := &DB{path: path, write: write, read: read, conn: database.New(database.SQLite, read, write, judge)}
	if err := write.PingContext(ctx); err != nil {
		return nil, errors.Join(db.explain(err), db.Close())
	}
	return db, nil
}

// prepare makes db ready for requests.
func (db *DB) prepare() *DB {
	cfg := groupcommit.Config{MaxBatch: 1024, MaxWaiting: 1 << 15, Timeout: flushTimeout}
	db.finds = groupcommit.New(cfg, db.findKeys)
	db.used = groupcommit.New(cfg, db.sumUsage)
	db.ready = groupcommit.New(cfg, db.checkReady)
	return db
}

// explain puts an error of SQLite in words that say what to do.
func (db *DB) explain(err error) error {
	var e *sqlite.Error
	if errors.As(err, &e) {
		switch e.Code() & 0xff { // without what extends the code
		case sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT:
			return fmt.Errorf("%s is not a SQLite database, or is damaged: set DATABASE_URL to another file, or restore this one: %w", db.path, err)
		case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
			return fmt.Errorf("%s can't be opened for writing: let user %d (group %d) write to it and its folder, or set DATABASE_URL: %w", db.path, os.Geteuid(), os.Getegid(), err)
		case sqlite3.SQLITE_BUSY:
			return fmt.Errorf("%s is locked by another process: %w", db.path, err)
		}
	}
	return fmt.Errorf("database %s: %w", db.path, err)
}

func (db *DB) provider() (*goose.Provider, error) {
	sub, err := fs.Sub(migrations.SQLite, "sqlite")
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectSQLite3, db.write, sub)
}

func (db *DB) migrate(ctx context.Context) ([]string, error) {
	p, err := db.provider()
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	results, err := p.Up(ctx)
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", db.explain(err))
	}
	var applied []string
	for _, r := range results {
		applied = append(applied, filepath.Base(r.Source.Path))
	}
	return applied, nil
}

func (db *DB) versions(ctx context.Context) (current, latest int64, err error) {
	p, err := db.provider()
	if err != nil {
		return 0, 0, fmt.Errorf("read schema version: %w", err)
	}
	for _, s := range p.ListSources() {
		latest = max(latest, s.Version)
	}
	var tables int
	if err := db.read.QueryRowContext(ctx,
		`SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'goose_db_version'`).Scan(&tables); err != nil {
		return 0, 0, db.explain(err)
	}
	if tables == 0 {
		return 0, latest, nil
	}
	if err := db.read.QueryRowContext(ctx,
		`SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`).Scan(&current); err != nil {
		return 0, 0, db.explain(err)
	}
	return current, latest, nil
}

// Path returns the path of the file, with symbolic links resolved.
func (db *DB) Path() string { return db.path }

// Ready returns nil if a request can be answered. It does what a request does:
// it finds keys, checks what endpoints write, and commits a change. Concurrent
// calls share that, and give the same check.
func (db *DB) Ready(ctx context.Context, check func(context.Context) error) error {
	_, err := db.ready.Do(ctx, check)
	return err
}

func (db *DB) checkReady(ctx context.Context, calls []*groupcommit.Call[func(context.Context) error, struct{}]) {
	err := calls[0].In(ctx)
	if err == nil {
		_, err = db.read.ExecContext(ctx, `SELECT 1 FROM api_key_values LIMIT 1`)
	}
	if err == nil {
		// A number that nobody reads. What does not differ would not be written.
		_, err = db.write.ExecContext(ctx, fmt.Sprintf(`PRAGMA user_version = %d`, rand.Int32()))
	}
	for _, c := range calls {
		if err != nil {
			c.Err = db.explain(err)
		}
	}
}

// Close answers what is under way, then closes the file.
func (db *DB) Close() error {
	if db.finds != nil {
		db.finds.Close()
		db.used.Close()
		db.ready.Close()
	}
	err := errors.Join(db.read.Close(), db.write.Close())
	if db.lock != nil {
		err = errors.Join(err, db.lock.Close())
	}
	return err
}

// Stats counts the shared look-ups of keys and of usage.
func (db *DB) Stats() map[string]groupcommit.Stats {
	return map[string]groupcommit.Stats{"keys": db.finds.Stats(), "usage": db.used.Stats()}
}

// inTx runs f in a transaction that writes.
func (db *DB) inTx(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if err := asActor(ctx, tx, f); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// asActor runs f with its changes recorded as made by the actor of ctx, if it
// names one.
func asActor(ctx context.Context, tx *sql.Tx, f func(*sql.Tx) error) error {
	actor := changes.Actor(ctx)
	if actor == "" {
		return f(tx)
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO change_actor VALUES (?)`, actor); err != nil {
		return fmt.Errorf("say who makes the change: %w", err)
	}
	if err := f(tx); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `DELETE FROM change_actor`)
	return err
}

func isCode(err error, codes ...int) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	for _, c := range codes {
		if e.Code() == c || e.Code()&0xff == c {
			return true
		}
	}
	return false
}
