package sqlite

import (
	"context"
	"time"

	"helloapi/internal/apikey"
)

// pollEvery is how often the number of changes is read: a row of a file that
// is in memory. SQLite's own data_version would tell of every greeting too.
const pollEvery = 100 * time.Millisecond

// Watch implements apikey.Source by polling.
func (db *DB) Watch(ctx context.Context, w apikey.Watcher) {
	last := int64(-1)
	ticks := time.NewTicker(pollEvery)
	defer ticks.Stop()
	for {
		asOf := time.Now()
		var number int64
		// While this fails, what is cached is not used for longer than its lease.
		if err := db.read.QueryRowContext(ctx, `SELECT number FROM key_changes`).Scan(&number); err == nil {
			if number != last {
				w.Changed()
				last = number
			}
			w.Current(asOf, asOf)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
	}
}
