package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"helloapi/internal/apikey"
)

const (
	// heartbeat is how often it is proven that the connection still brings notices.
	heartbeat = 150 * time.Millisecond
	// heartbeatTimeout is how long that may take, or to connect, before the
	// connection is given up. With the heartbeat it is less than the lease of
	// apikey.Cache: a connection that is cut is replaced before anyone waits.
	heartbeatTimeout = 300 * time.Millisecond
)

// errPooled says that notices can't be relied on.
var errPooled = errors.New("a connection pooler that shares sessions (PgBouncer in transaction mode?) stands before PostgreSQL: " +
	"changes to keys can't be listened for, so every request looks up its key; connect to PostgreSQL itself, or use session mode")

// Watch implements apikey.Source by listening on a connection of its own.
func (db *DB) Watch(ctx context.Context, w apikey.Watcher) {
	var said string
	for {
		worked, err := db.listen(ctx, w)
		if ctx.Err() != nil {
			return
		}
		if worked { // until now: try again at once
			said = ""
			db.log.Warn("connecting anew to listen for changes to keys", "error", oneLine(err))
			continue
		}
		if s := oneLine(err).Error(); s != said { // once, not for each attempt
			db.log.Warn("not listening for changes to keys", "error", s)
			said = s
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(heartbeat):
		}
	}
}

// listen tells w of changes for as long as one connection lives, and returns
// whether it ever worked.
func (db *DB) listen(ctx context.Context, w apikey.Watcher) (worked bool, err error) {
	cfg := db.pool.connConfig()
	cfg.ConnectTimeout = heartbeatTimeout
	// Called while an answer is awaited too, so that a notice is never told
	// after a proof that is younger.
	cfg.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) { w.Changed() }
	connecting, cancel := context.WithTimeout(ctx, 2*heartbeatTimeout)
	conn, err := pgx.ConnectConfig(connecting, cfg)
	cancel()
	if err != nil {
		return false, err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), heartbeatTimeout)
		defer cancel()
		_ = conn.Close(closing) // it is of no use any more
	}()
	if err := within(ctx, heartbeatTimeout, func(ctx context.Context) error {
		_, err := conn.Exec(ctx, "LISTEN helloapi_key_changes")
		return err
	}); err != nil {
		return false, fmt.Errorf("listen: %w", err)
	}
	// Where the last connection broke others did: requests should not be the
	// ones to find out, nor those that are about to look up their keys anew,
	// since it is not known what changes were missed.
	if err := db.renew(); err != nil {
		return false, err
	}
	w.Changed()

	for {
		asOf := time.Now()
		var clock time.Time
		var pid uint32
		if err := within(ctx, heartbeatTimeout, func(ctx context.Context) error {
			return conn.QueryRow(ctx, "SELECT clock_timestamp(), pg_backend_pid()").Scan(&clock, &pid)
		}); err != nil {
			return worked, fmt.Errorf("heartbeat: %w", err)
		}
		if pid != conn.PgConn().PID() {
			return false, errPooled
		}
		w.Current(asOf, clock)
		worked = true

		// Notices wake it, but each heartbeat comes in time.
		err := within(ctx, heartbeat, func(ctx context.Context) error {
			for {
				if err := conn.PgConn().WaitForNotification(ctx); err != nil {
					return err
				}
			}
		})
		if !pgconn.Timeout(err) || ctx.Err() != nil {
			return worked, fmt.Errorf("wait for changes: %w", err)
		}
	}
}

// renew has all connections replaced, and look-ups that wait for an answer on
// an old one begin anew.
func (db *DB) renew() error {
	if err := db.pool.renew(context.Background()); err != nil {
		return err
	}
	renewed := make(chan struct{})
	close(*db.renewed.Swap(&renewed))
	return nil
}

// lookUp runs f, which only reads, and once more if it failed: the connection
// may have been broken, or be so and is found out only now.
func (db *DB) lookUp(ctx context.Context, f func(context.Context) error) error {
	renewed := *db.renewed.Load()
	first, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-renewed:
			cancel()
		case <-first.Done():
		}
	}()
	if err := f(first); err == nil || ctx.Err() != nil {
		return err
	}
	return f(ctx)
}

func within(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return f(ctx)
}
