// Package refusals records how many requests were refused: by day, key and
// reason.
package refusals

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/database"
	"helloapi/internal/plan"
)

const (
	// writeEvery is how often counts are written: what a process that is killed
	// may lose.
	writeEvery   = time.Second
	writeTimeout = 5 * time.Second
	// batch is how many rows one statement has, where there are as many.
	batch = 100
	// keptDays is for how many past days counts stay in memory. No request is
	// older.
	keptDays = 3

	trimEvery  = time.Hour
	keepMonths = 13 // as usage
)

// A Recorder counts what this process refuses, in memory, and writes it each
// second. It is safe for concurrent use.
type Recorder struct {
	db     *database.DB
	writer string
	now    func() time.Time
	log    *slog.Logger

	mu     sync.Mutex
	totals map[kind]int64 // what this process has refused
	dirty  map[kind]bool  // totals that are not known to be written
	newest plan.Date      // of the totals

	writing chan struct{} // holds a value while one writes
}

// A kind is what has a total of its own.
type kind struct {
	keyID  string // "": of no key that is known
	date   plan.Date
	reason string
}

// New returns a Recorder. writer names this run of this process, and now is the
// clock that days are found by.
func New(db *database.DB, writer string, now func() time.Time, log *slog.Logger) *Recorder {
	return &Recorder{db: db, writer: writer, now: now, log: log, totals: map[kind]int64{}, dirty: map[kind]bool{}, writing: make(chan struct{}, 1)}
}

// Add counts a request that was refused for a reason, one of few; key is nil if
// none is known. A nil Recorder counts nothing.
func (r *Recorder) Add(key *apikey.Key, reason string) {
	if r == nil {
		return
	}
	k := kind{date: dateOf(key, r.now()), reason: reason}
	if key != nil {
		k.keyID = key.ID
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.totals[k]++
	r.dirty[k] = true
	r.newest = max(r.newest, k.date)
}

// dateOf is the day on which the key would be charged.
func dateOf(key *apikey.Key, now time.Time) plan.Date {
	if key != nil && key.Plan != nil && key.Plan.Quota != nil {
		if d, err := key.Plan.Quota.Date(now); err == nil {
			return d
		}
	}
	return plan.DateOf(now.UTC())
}

// Run writes each second, and drops old days once an hour, until ctx ends. Then
// it writes what has not been written. No request may be under way then.
func (r *Recorder) Run(ctx context.Context) error {
	ticks := time.NewTicker(writeEvery)
	defer ticks.Stop()
	trimmed := time.Now().Add(-trimEvery + time.Minute) // not while starting
	failing := false
	for {
		select {
		case <-ctx.Done():
			if err := r.write(context.WithoutCancel(ctx)); err != nil {
				return fmt.Errorf("write refusals: %w", err)
			}
			return nil
		case <-ticks.C:
			err := r.write(context.WithoutCancel(ctx))
			if err == nil && time.Since(trimmed) > trimEvery {
				trimmed = time.Now()
				err = r.trim(ctx)
			}
			if err != nil && !failing && ctx.Err() == nil {
				r.log.Warn("refusals can't be written; they are kept and tried again", "error", err)
			}
			failing = err != nil
		}
	}
}

// write writes the totals that are not known to be written. A row is only ever
// raised, so to repeat it changes nothing.
func (r *Recorder) write(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	select {
	case r.writing <- struct{}{}:
		defer func() { <-r.writing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	rows := r.take()
	for len(rows) > 0 {
		n := 1
		if len(rows) >= batch {
			n = batch
		}
		if err := r.put(ctx, rows[:n]); err != nil {
			r.putBack(rows)
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// A row is a total to be written.
type row struct {
	kind
	refused int64
}

func (r *Recorder) put(ctx context.Context, rows []row) error {
	var values strings.Builder
	args := make([]any, 0, 5*len(rows))
	for i, row := range rows {
		if i > 0 {
			values.WriteString(", ")
		}
		values.WriteByte('(')
		for j, arg := range []any{row.keyID, string(row.date), row.reason, r.writer, row.refused} {
			if j > 0 {
				values.WriteString(", ")
			}
			args = append(args, arg)
			values.WriteString("$" + strconv.Itoa(len(args)))
		}
		values.WriteByte(')')
	}
	_, err := r.db.Exec(ctx, `
		INSERT INTO refusals (key_id, day, reason, writer, refused) VALUES `+values.String()+`
		ON CONFLICT (key_id, day, reason, writer) DO UPDATE SET refused = excluded.refused
		WHERE excluded.refused > refusals.refused`, args...)
	return err
}

// take returns the totals that are to be written, as written, and forgets those
// of days that are over.
func (r *Recorder) take() []row {
	r.mu.Lock()
	defer r.mu.Unlock()
	rows := make([]row, 0, len(r.dirty))
	for k := range r.dirty {
		rows = append(rows, row{k, r.totals[k]})
	}
	clear(r.dirty)
	oldest := r.newest.AddDays(-keptDays)
	maps.DeleteFunc(r.totals, func(k kind, _ int64) bool { return k.date < oldest })
	return rows
}

// putBack says that rows are not known to be written.
func (r *Recorder) putBack(rows []row) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, row := range rows {
		r.totals[row.kind] = max(r.totals[row.kind], row.refused)
		r.dirty[row.kind] = true
	}
}

func (r *Recorder) trim(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	first := plan.DateOf(r.now().UTC().AddDate(0, -keepMonths, 0))
	_, err := r.db.Exec(ctx, `DELETE FROM refusals WHERE day < $1`, string(first))
	return err
}

// A Total is how many requests were refused.
type Total struct {
	KeyID   string // "": of no key that is known
	Date    plan.Date
	Reason  string
	Refused int64
}

// List returns the refusals of the days from first to before next, of one key or
// of all requests (""), sorted by key, day and reason. What was refused in the
// last second may be missing.
func List(ctx context.Context, db *database.DB, keyID string, first, next plan.Date) ([]Total, error) {
	totals, err := database.List(ctx, db, func(t *Total) []any { return []any{&t.KeyID, &t.Date, &t.Reason, &t.Refused} }, `
		SELECT key_id, day, reason, CAST(sum(refused) AS bigint) FROM refusals
		WHERE ($1 = '' OR key_id = $1) AND day >= $2 AND day < $3
		GROUP BY key_id, day, reason ORDER BY key_id, day, reason`, keyID, string(first), string(next))
	if err != nil {
		return nil, fmt.Errorf("list refusals: %w", err)
	}
	return totals, nil
}

// OfKey returns the refusals of a key on the days from first to before next,
// with all of this process.
func (r *Recorder) OfKey(ctx context.Context, keyID string, first, next plan.Date) ([]Total, error) {
	if r == nil {
		return nil, nil
	}
	if err := r.write(ctx); err != nil {
		return nil, fmt.Errorf("write refusals: %w", err)
	}
	return List(ctx, r.db, keyID, first, next)
}
