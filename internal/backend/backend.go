// Package backend opens the stores that a configuration asks for, and closes
// them in order.
package backend

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"helloapi/internal/apikey"
	"helloapi/internal/certs"
	"helloapi/internal/countfile"
	"helloapi/internal/database"
	"helloapi/internal/groupcommit"
	"helloapi/internal/hello"
	"helloapi/internal/limits"
	"helloapi/internal/memmeter"
	"helloapi/internal/plan"
	"helloapi/internal/planfile"
	"helloapi/internal/postgres"
	"helloapi/internal/redismeter"
	"helloapi/internal/sqlite"
	"helloapi/migrations"
)

// DefaultURL is the database of a helloapi that is told of none.
const DefaultURL = "sqlite:data/helloapi.db"

// stores is what both databases do. Each part is the contract of the package
// that calls it.
type stores interface {
	apikey.Source
	apikey.Keys
	plan.Plans
	planfile.Store
	countfile.Store
	limits.UsageStore

	// Conn runs the statements of endpoints that keep rows of their own.
	Conn() *database.DB
	// Certs returns the store of certificates.
	Certs() certs.Store

	// Ready returns nil if a request can be answered: it does what one does.
	// check does what endpoints write.
	Ready(ctx context.Context, check func(context.Context) error) error
	// Stats counts the shared round trips, by what they are for.
	Stats() map[string]groupcommit.Stats
	// Close answers what is under way, then disconnects.
	Close() error
}

var (
	_ stores = (*postgres.DB)(nil)
	_ stores = (*sqlite.DB)(nil)
)

// A Database is an open database: what both kinds do, and the stores of
// endpoints that keep more than rows.
type Database struct {
	stores
	Greetings *hello.Store
}

func newDatabase(s stores) Database { return Database{s, hello.NewStore(s.Conn())} }

// Ready returns nil if a request can be answered: it does what one does, and
// counts under the names of the last write that failed, if any.
func (db Database) Ready(ctx context.Context) error {
	return db.stores.Ready(ctx, db.Greetings.Check)
}

// Stats counts the shared round trips, by what they are for.
func (db Database) Stats() map[string]groupcommit.Stats {
	stats := db.stores.Stats()
	stats["greetings"] = db.Greetings.Stats()
	return stats
}

// Close answers what is under way, then disconnects.
func (db Database) Close() error {
	db.Greetings.Close()
	return db.stores.Close()
}

// Config says what to open.
type Config struct {
	DatabaseURL string // sqlite:PATH or postgres://…
	RedisURL    string // "": limits are counted in this process
	Migrate     bool   // migrate PostgreSQL first; SQLite always is

	// Deny has requests with a limit refused while Redis is away. Otherwise
	// each replica goes on by itself, on what the ledger says.
	Deny bool

	// KeyStaleMax is how long a key that is known may be used while the
	// database is away.
	KeyStaleMax time.Duration

	Log *slog.Logger
}

// A Backend is all that a serving process stores and counts in.
type Backend struct {
	Database
	KeyCache *apikey.Cache // finds keys of Database
	Limits   *limits.Limits

	redis      *redismeter.Counters // nil without Redis
	stopLimits func() error         // nil before they run
}

// Open opens what cfg asks for, to be served from.
func Open(ctx context.Context, cfg Config) (*Backend, error) {
	path, isSQLite, err := parse(cfg.DatabaseURL)
	if err = errors.Join(err, checkRedis(cfg.RedisURL, isSQLite)); err != nil {
		return nil, err
	}
	if err := migrations.Check(); err != nil {
		return nil, err
	}
	b := &Backend{}
	replica := rand.Text()
	if cfg.RedisURL != "" {
		// By the time that a clock is needed there is the database's.
		if b.redis, err = redismeter.Open(cfg.RedisURL, replica, func() time.Time { return b.KeyCache.Now() }); err != nil {
			return nil, err
		}
	} else if !isSQLite {
		cfg.Log.Warn("no REDIS_URL: this replica counts quotas and throttles for itself alone")
	}

	var pg *postgres.DB
	switch {
	case isSQLite:
		var db *sqlite.DB
		if db, err = sqlite.Serve(ctx, path); err == nil {
			b.Database = newDatabase(db)
		}
	default:
		if cfg.Migrate {
			if _, err = postgres.Migrate(ctx, cfg.DatabaseURL); err != nil {
				break
			}
		}
		if pg, err = postgres.Open(ctx, cfg.DatabaseURL, cfg.Log); err == nil {
			b.Database = newDatabase(pg)
		}
	}
	if err == nil {
		b.KeyCache, err = apikey.NewCache(b.Database, cfg.KeyStaleMax)
	}
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	l := limits.Config{Local: memmeter.New(), Usage: b.Database, Replica: replica, Deny: cfg.Deny, Log: cfg.Log}
	if b.redis != nil {
		l.Shared, l.Peers = b.redis, pg
		_ = b.redis.Check(ctx) // learns the time, if Redis answers; a request that needs it finds out if not
	}
	b.Limits = limits.New(l)
	b.runLimits()
	return b, nil
}

// runLimits runs the limits until stopLimits is called.
func (b *Backend) runLimits() {
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error)
	go func() { stopped <- b.Limits.Run(ctx) }()
	b.stopLimits = func() error {
		stop()
		return <-stopped
	}
}

// OpenDatabase opens a database to look at it or change it, beside those that
// serve from it.
func OpenDatabase(ctx context.Context, url string) (Database, error) {
	path, isSQLite, err := parse(url)
	if err != nil {
		return Database{}, err
	}
	var s stores
	if isSQLite {
		s, err = sqlite.Open(ctx, path)
	} else {
		s, err = postgres.Open(ctx, url, slog.New(slog.DiscardHandler))
	}
	if err != nil {
		return Database{}, err
	}
	return newDatabase(s), nil
}

// Forbidden reports whether err is that the role in the database's URL lacks a
// right, which the owner of the tables has.
func Forbidden(err error) bool { return postgres.Forbidden(err) }

// Migrate brings a database to the present schema and returns the names of
// the migrations that it took.
func Migrate(ctx context.Context, url string) ([]string, error) {
	if err := migrations.Check(); err != nil {
		return nil, err
	}
	path, isSQLite, err := parse(url)
	if err != nil {
		return nil, err
	}
	if isSQLite {
		return sqlite.Migrate(ctx, path)
	}
	return postgres.Migrate(ctx, url)
}

// Backup copies a database that is a SQLite file to a new file, while it may be
// served, and returns the path of the one that it copied.
func Backup(ctx context.Context, url, to string) (string, error) {
	path, isSQLite, err := parse(url)
	if err != nil {
		return "", err
	}
	if !isSQLite {
		return "", errors.New("`helloapi backup` is for SQLite; PostgreSQL has tools of its own: pg_dump, or continuous archiving (docs/operations.md)")
	}
	return sqlite.Backup(ctx, path, to)
}

// Grant gives a role of PostgreSQL the rights that a serving process needs.
func Grant(ctx context.Context, url, role string) error {
	_, isSQLite, err := parse(url)
	if err != nil {
		return err
	}
	if isSQLite {
		return errors.New("SERVE_ROLE is set but DATABASE_URL is a SQLite file, which has no roles: unset one of them")
	}
	return postgres.Grant(ctx, url, role)
}

// SchemaVersions returns the version of a database's schema, and the version
// that this program needs.
func SchemaVersions(ctx context.Context, url string) (current, latest int64, err error) {
	path, isSQLite, err := parse(url)
	if err != nil {
		return 0, 0, err
	}
	if isSQLite {
		return sqlite.SchemaVersions(ctx, path)
	}
	return postgres.SchemaVersions(ctx, url)
}

// Check returns every mistake in the URLs of a Config.
func Check(databaseURL, redisURL string) error {
	_, isSQLite, err := parse(databaseURL)
	return errors.Join(err, checkRedis(redisURL, isSQLite))
}

func checkRedis(url string, isSQLite bool) error {
	switch {
	case url == "":
		return nil
	case isSQLite:
		return errors.New("REDIS_URL is set but DATABASE_URL is a SQLite file: Redis is for several replicas, which need PostgreSQL; unset REDIS_URL or use postgres://…")
	}
	return redismeter.CheckURL(url)
}

// parse returns the path of a SQLite database. The error does not hold the
// URL, since that may hold a password.
func parse(url string) (path string, isSQLite bool, err error) {
	scheme, rest, _ := strings.Cut(url, ":")
	switch scheme {
	case "sqlite":
		if rest == "" || strings.HasPrefix(rest, "//") || rest == ":memory:" {
			return "", false, errors.New("DATABASE_URL must be like sqlite:data/helloapi.db or sqlite:/var/lib/helloapi.db: a file")
		}
		return rest, true, nil
	case "postgres", "postgresql":
		return "", false, postgres.CheckURL(url)
	}
	return "", false, errors.New("DATABASE_URL must start with sqlite: or postgres://")
}

// FirstKeys creates the keys that a new installation starts with, if this is
// one: a SQLite file that was never served from. Keys of PostgreSQL are made
// by command, since there nobody reads what a replica prints.
func (b *Backend) FirstKeys(ctx context.Context, keys []apikey.Key, values []apikey.Value) (bool, error) {
	if db, ok := b.stores.(*sqlite.DB); ok {
		return db.FirstKeys(ctx, keys, values)
	}
	return false, nil
}

// File returns the path of the SQLite file, if that is what is served from: by
// this process alone.
func (b *Backend) File() (path string, ok bool) {
	if db, ok := b.stores.(*sqlite.DB); ok {
		return db.Path(), true
	}
	return "", false
}

// About tells a person what the stores are, and how they are.
func (b *Backend) About() [][2]string {
	database, counted := "PostgreSQL", "counted by this process alone"
	if path, ok := b.File(); ok {
		database = "SQLite, " + path
	}
	if b.redis != nil {
		counted = "counted in Redis, for all replicas"
		if trouble := b.Limits.Trouble(); trouble != "" {
			counted = trouble + ": not counted together until it counts"
		}
	}
	return [][2]string{{"Database", database}, {"Limits", counted}}
}

// Ready returns nil if requests can be served: the database does what
// they need, and Redis does, or requests are served without it and it answers no other replica either.
func (b *Backend) Ready(ctx context.Context) error {
	if err := b.Database.Ready(ctx); err != nil {
		return err
	}
	return b.Limits.Ready(ctx)
}

// Close answers what is under way, then closes all. Limits come last: a
// request that waits for the database may have a unit to give back.
func (b *Backend) Close() error {
	var errs []error
	if b.KeyCache != nil {
		b.KeyCache.Close()
	}
	if b.stopLimits != nil {
		errs = append(errs, b.stopLimits())
	}
	if b.stores != nil {
		errs = append(errs, b.Database.Close())
	}
	if b.redis != nil {
		b.redis.Close()
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close stores: %w", err)
	}
	return nil
}

// Stats counts the shared round trips to all stores, by what they are for.
func (b *Backend) Stats() map[string]groupcommit.Stats {
	stats := b.Database.Stats()
	if b.redis != nil {
		stats["limits"] = b.redis.Stats()
	}
	return stats
}

var (
	flushesDesc = prometheus.NewDesc("helloapi_store_flushes_total",
		"Round trips to the stores, each shared by the calls that were waiting.", []string{"store"}, nil)
	callsDesc = prometheus.NewDesc("helloapi_store_calls_total",
		"Calls carried out by those round trips.", []string{"store"}, nil)
	waitingDesc = prometheus.NewDesc("helloapi_store_waiting",
		"Calls that wait for a round trip or are on one.", []string{"store"}, nil)
)

// Describe implements prometheus.Collector.
func (b *Backend) Describe(ch chan<- *prometheus.Desc) {
	ch <- flushesDesc
	ch <- callsDesc
	ch <- waitingDesc
	b.Limits.Describe(ch)
}

// Collect implements prometheus.Collector.
func (b *Backend) Collect(ch chan<- prometheus.Metric) {
	b.Limits.Collect(ch)
	for store, s := range b.Stats() {
		ch <- prometheus.MustNewConstMetric(flushesDesc, prometheus.CounterValue, float64(s.Flushes), store)
		ch <- prometheus.MustNewConstMetric(callsDesc, prometheus.CounterValue, float64(s.Calls), store)
		ch <- prometheus.MustNewConstMetric(waitingDesc, prometheus.GaugeValue, float64(s.Waiting), store)
	}
}
