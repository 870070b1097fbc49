package limits

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
)

const (
	// writeEvery is how often the ledger writes what was charged: what a replica
	// that is killed may lose.
	writeEvery = time.Second
	// writeTimeout bounds a write. The next one repeats one that failed.
	writeTimeout = 5 * time.Second
	// writeMost is how many rows one write has, and a few more.
	writeMost = 5000

	// knownDays is for how many past days totals stay in memory. A request is
	// charged on the day it came, in any time zone.
	knownDays = 3

	trimEvery = time.Hour
	// foldAfter is for how many days each writer keeps its row: as long as the
	// longest window, so that a late write can't count twice in one.
	foldAfter = 40
	// keepMonths is how long usage is kept.
	keepMonths = 13
)

// A UsageStore is the durable record of what keys were charged. It is safe for
// concurrent use.
type UsageStore interface {
	// RecordUsage raises what writer charged to each row's total. Repeating it,
	// also with earlier totals, changes nothing.
	RecordUsage(ctx context.Context, writer string, rows []UsageRow) error

	// Used returns what a key was charged in some days, without what the asking
	// writer knows itself. Concurrent calls may share a query.
	Used(ctx context.Context, q UsageQuery) (Charged, error)

	// DailyUsage returns what was charged on each day from first to before
	// next, of one key or of all (""), sorted by key, day and account. Days
	// without a charge are left out.
	DailyUsage(ctx context.Context, keyID string, first, next plan.Date) ([]DayUsage, error)

	// TrimUsage drops the days before drop, and folds those before fold into
	// one row each.
	TrimUsage(ctx context.Context, fold, drop plan.Date) error
}

// A UsageRow is what one writer has charged a key on a day so far, on an
// account.
type UsageRow struct {
	UsageKey
	Account
	Charged int64
	Alone   bool // without the shared counters
	Part    int  // which of the writer's rows for the key and day, from 0
}

// AloneWriter is what the name of a writer ends in, or goes on with a slash
// after, for rows that are Alone. No other has it.
const AloneWriter = "/alone"

// Writer returns the name of the row's writer in the store: a key and day have
// one row a writer there, so each further row is of a writer of its own.
func (r UsageRow) Writer(writer string) string {
	if r.Alone {
		writer += AloneWriter
	}
	if r.Part > 0 {
		writer += "/" + strconv.Itoa(r.Part)
	}
	return writer
}

// An Account is whose bill a charge goes on: what was true of the key at that
// moment. It outlives changes to the key, and the key.
type Account struct {
	KeyName    string
	CustomerID string
	Plan       string
	Timezone   string // of the quota's windows, and so of the day
}

func accountOf(key *apikey.Key) Account {
	a := Account{KeyName: key.Name, CustomerID: key.CustomerID, Plan: key.Plan.Name, Timezone: "UTC"}
	if q := key.Plan.Quota; q != nil && q.Timezone != "" {
		a.Timezone = q.Timezone
	}
	return a
}

// A UsageKey names what has a total of its own.
type UsageKey struct {
	KeyID string
	Date  plan.Date
}

// A UsageQuery asks for the days from First to before Next. All rows of Writer
// are left out from the day Known on.
type UsageQuery struct {
	KeyID       string
	First, Next plan.Date
	Writer      string
	Known       plan.Date
}

// A DayUsage is what a key was charged on a day, on an account.
type DayUsage struct {
	KeyID string
	Date  plan.Date
	Account
	Charged int64
}

// A ledger records what this process charges, in the background, and reads what
// all charged. It is safe for concurrent use.
type ledger struct {
	store  UsageStore
	writer string
	log    *slog.Logger

	mu     sync.Mutex
	totals map[UsageKey]total // what this process has charged
	dirty  map[UsageKey]bool  // totals that are not known to be written
	newest plan.Date          // of the totals

	writing chan struct{} // holds a value while one writes
}

// A total is what was charged to a key on a day: rarely in more than one way.
type total []part

type part struct {
	account Account
	alone   bool
	charged int64
}

// add charges more units.
func (t total) add(a Account, alone bool, units int64) total {
	for i := range t {
		if t[i].account == a && t[i].alone == alone {
			t[i].charged += units
			return t
		}
	}
	return append(t, part{a, alone, units})
}

// shared returns what was charged with the shared counters, on all accounts.
func (t total) shared() (n int64) {
	for _, p := range t {
		if !p.alone {
			n += p.charged
		}
	}
	return n
}

func newLedger(store UsageStore, writer string, log *slog.Logger) *ledger {
	return &ledger{
		store: store, writer: writer, log: log,
		totals: map[UsageKey]total{}, dirty: map[UsageKey]bool{}, writing: make(chan struct{}, 1),
	}
}

// add notes that a key was charged units, on an account. They will be written
// within about a second.
func (l *ledger) add(k UsageKey, a Account, alone bool, units int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.totals[k] = l.totals[k].add(a, alone, units)
	l.dirty[k] = true
	l.newest = max(l.newest, k.Date)
}

// used returns what the key was charged in the quota's window: by this process
// up to now, by others up to their last write. What this process charged alone
// is left out: its account has that.
func (l *ledger) used(ctx context.Context, keyID string, q plan.Quota, w plan.Window) (Charged, error) {
	first, next, err := q.Dates(w)
	if err != nil {
		return Charged{}, err
	}
	own, known := l.own(keyID, first, next)
	c, err := l.others(ctx, keyID, first, next, known)
	c.Shared += own
	return c, err
}

// others returns what the key was charged by others up to their last write, and
// by this process before the day known.
func (l *ledger) others(ctx context.Context, keyID string, first, next, known plan.Date) (Charged, error) {
	c, err := l.store.Used(ctx, UsageQuery{keyID, first, next, l.writer, known})
	delete(c.Alone, l.writer)
	return c, err
}

// own adds up what this process has charged with the shared counters, as far as
// it knows without asking: from the day known on.
func (l *ledger) own(keyID string, first, next plan.Date) (n int64, known plan.Date) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known = l.known()
	for d := max(first, known); d < next && d <= l.newest; d = d.Next() {
		n += l.totals[UsageKey{keyID, d}].shared()
	}
	return n, known
}

// knownFrom is the first day of which all totals are in memory.
func (l *ledger) knownFrom() plan.Date {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known()
}

// known is knownFrom, for a caller that holds l.mu.
func (l *ledger) known() plan.Date { return l.newest.AddDays(-knownDays) }

// run writes each second, and trims once an hour, until ctx ends. Then it writes
// what has not been written.
func (l *ledger) run(ctx context.Context) error {
	ticks := time.NewTicker(writeEvery)
	defer ticks.Stop()
	trimmed := time.Now().Add(-trimEvery + time.Minute) // not while starting
	failing := false
	for {
		select {
		case <-ctx.Done():
			if err := l.write(context.WithoutCancel(ctx)); err != nil {
				return fmt.Errorf("write usage: %w", err)
			}
			return nil
		case now := <-ticks.C:
			err := l.write(context.WithoutCancel(ctx))
			if err == nil && time.Since(trimmed) > trimEvery {
				trimmed = now
				err = l.trim(ctx, now)
			}
			if err != nil && !failing && ctx.Err() == nil {
				l.log.Warn("usage can't be written; it is kept and tried again", "error", err)
			}
			failing = err != nil
		}
	}
}

// write writes all that was noted and not yet written. It waits for another
// write to end, but no longer than ctx.
func (l *ledger) write(ctx context.Context) error {
	select {
	case l.writing <- struct{}{}:
		defer func() { <-l.writing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		rows := l.take()
		if len(rows) == 0 {
			l.forget()
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, writeTimeout)
		err := l.store.RecordUsage(ctx, l.writer, rows)
		cancel()
		if err != nil {
			l.putBack(rows)
			return err
		}
	}
}

// take returns some totals that are to be written, as written.
func (l *ledger) take() []UsageRow {
	l.mu.Lock()
	defer l.mu.Unlock()
	rows := make([]UsageRow, 0, min(len(l.dirty), writeMost))
	for k := range l.dirty {
		if len(rows) >= writeMost {
			break
		}
		for i, p := range l.totals[k] {
			rows = append(rows, UsageRow{k, p.account, p.charged, p.alone, i})
		}
		delete(l.dirty, k)
	}
	return rows
}

func (l *ledger) putBack(rows []UsageRow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range rows {
		l.dirty[r.UsageKey] = true
	}
}

// forget drops totals of days that are over. They have been written; a charge
// on such a day would begin at one again, and be lost.
func (l *ledger) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k := range l.totals {
		if k.Date < l.known() && !l.dirty[k] {
			delete(l.totals, k)
		}
	}
}

func (l *ledger) trim(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	today := plan.DateOf(now.UTC())
	err := l.store.TrimUsage(ctx, today.AddDays(-foldAfter-1), plan.DateOf(now.UTC().AddDate(0, -keepMonths, 0)))
	if err != nil {
		return errors.Join(errors.New("trim usage"), err)
	}
	return nil
}
