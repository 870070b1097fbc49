package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/time/rate"

	"helloapi/internal/apikey"
	"helloapi/internal/database"
)

const (
	// heartbeat is how often it is proven that the connection still brings
	// notices, and that the server takes writes.
	heartbeat = 150 * time.Millisecond
	// heartbeatTimeout is how long that may take, or to connect, before the
	// connection is given up. With the heartbeat it is less than the lease of
	// apikey.Cache: a connection that is cut is replaced before anyone waits.
	heartbeatTimeout = 300 * time.Millisecond
	// sharedHeartbeat is how often a pooler that shares sessions is asked
	// whether PostgreSQL takes writes. It brings no notices that need proof.
	sharedHeartbeat = time.Second
	// sharedCheck is how often it is asked whether it still shares sessions.
	sharedCheck = time.Minute
	// renewBurst connections that worked are replaced at once when they break,
	// and from then on one a second.
	renewBurst = 5
)

var (
	errReadOnly = errors.New("this server takes no writes: it is a standby, or a primary that was demoted")
	errMoved    = errors.New("a statement was answered by a server that takes no writes or is stopping")
	errDeaf     = errors.New("the session that listened for changes to keys is gone")
)

// Watch implements apikey.Source by listening on a connection of its own.
func (db *DB) Watch(ctx context.Context, w apikey.Watcher) {
	var away time.Time // since when PostgreSQL does not serve; zero while it does
	renewals := rate.NewLimiter(rate.Every(time.Second), renewBurst)
	shared := false
	for ctx.Err() == nil {
		served := false
		nowShared, err := db.watch(ctx, w, func() {
			served = true
			if !away.IsZero() {
				db.log.Info("PostgreSQL serves again", "after", time.Since(away).Round(time.Millisecond))
				away = time.Time{}
			}
		})
		if nowShared && !shared {
			db.log.Warn("a pooler in transaction mode is between this replica and PostgreSQL and brings no notices of changed keys: every request looks up its key; " +
				"set pool_mode = session, or connect to PostgreSQL itself")
		}
		shared = nowShared
		if ctx.Err() != nil || err == nil {
			continue
		}
		if away.IsZero() { // one line for the absence, not for each attempt
			away = time.Now()
			db.log.Error("PostgreSQL does not serve; connecting again until it does", "error", oneLine(err))
		}
		pause := heartbeat
		if served {
			pause = renewals.Reserve().Delay()
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// watch tells w of changes for as long as one connection lives, and calls
// served with each proof that PostgreSQL takes writes. It reports whether a
// pooler shares sessions, which then is asked again after a minute.
func (db *DB) watch(ctx context.Context, w apikey.Watcher, served func()) (shared bool, err error) {
	cfg := db.server.pool.ConnConfig.Copy()
	cfg.ConnectTimeout = heartbeatTimeout
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol // prepares nothing
	// Called while an answer is awaited too, so that a notice is never told
	// after a proof that is younger.
	cfg.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) { w.Changed() }
	var conn *pgx.Conn
	err = within(ctx, 2*heartbeatTimeout, func(ctx context.Context) (err error) {
		if conn, err = pgx.ConnectConfig(ctx, cfg); err == nil {
			shared, err = sharesSessions(ctx, conn.PgConn(), cfg)
		}
		return err
	})
	if conn != nil {
		defer func() {
			closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), heartbeatTimeout)
			defer cancel()
			_ = conn.Close(closing) // it is of no use any more
		}()
	}
	if err != nil {
		return shared, err
	}
	if !shared {
		if err := within(ctx, heartbeatTimeout, func(ctx context.Context) error {
			_, err := conn.Exec(ctx, "LISTEN helloapi_key_changes")
			return err
		}); err != nil {
			return false, fmt.Errorf("listen: %w", err)
		}
	}

	var began time.Time // of the first proof
	for {
		asOf := time.Now()
		var clock time.Time
		var standby, listening bool
		if err := within(ctx, heartbeatTimeout, func(ctx context.Context) error {
			return conn.QueryRow(ctx, `
				SELECT clock_timestamp(), pg_is_in_recovery(), 'helloapi_key_changes' IN (SELECT pg_listening_channels())`).
				Scan(&clock, &standby, &listening)
		}); err != nil {
			return shared, fmt.Errorf("heartbeat: %w", err)
		}
		switch {
		case standby:
			return shared, errReadOnly
		case !shared && !listening:
			return shared, errDeaf
		}
		if began.IsZero() {
			began = asOf
			// Where the last connection broke others did: requests should not be
			// the ones to find out, nor those that are about to look up their keys
			// again, since it is not known what changes were missed.
			if err := db.renew(shared); err != nil {
				return shared, err
			}
			w.Changed()
		}
		served()
		if shared {
			if time.Since(began) > sharedCheck {
				return shared, nil
			}
			if err := db.waitMoved(ctx, sharedHeartbeat); err != nil {
				return shared, err
			}
			continue
		}
		w.Current(asOf, clock)

		// Notices wake it, but each heartbeat comes in time.
		err := within(ctx, heartbeat, func(ctx context.Context) error {
			for {
				if err := conn.PgConn().WaitForNotification(ctx); err != nil {
					return err
				}
			}
		})
		if !pgconn.Timeout(err) || ctx.Err() != nil {
			return shared, fmt.Errorf("wait for changes: %w", err)
		}
		if err := db.waitMoved(ctx, 0); err != nil {
			return shared, err
		}
	}
}

// waitMoved waits, and returns an error if a statement proved meanwhile that
// the server has moved.
func (db *DB) waitMoved(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
	}
	select {
	case <-db.moved:
		return errMoved
	default:
		return nil
	}
}

// verdict returns what err proves. If that is that the server has moved, Watch
// connects again.
func (db *DB) verdict(err error) database.Verdict {
	v := judge(err)
	if v == database.Moved {
		select {
		case db.moved <- struct{}{}:
		default:
		}
	}
	return v
}

// renew has all connections replaced, and look-ups that wait for an answer on
// an old one begin again.
func (db *DB) renew(shared bool) error {
	select {
	case <-db.moved: // it was about the old ones
	default:
	}
	if err := db.pool.renew(context.Background(), db.server.config(shared)); err != nil {
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
