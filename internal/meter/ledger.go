package meter

import (
	"context"
	"crypto/rand"
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
	// writeTimeout bounds a write. One that fails is made up for by the next.
	writeTimeout = 5 * time.Second
	// writeMost is how many rows one write has, and a few more.
	writeMost = 5000
)

// Usage is the durable record of what keys were charged. It is safe for
// concurrent use.
type Usage interface {
	// RecordUsage raises what writer charged to each row's total. Doing it
	// again, or with totals from before, changes nothing.
	RecordUsage(ctx context.Context, writer string, rows []UsageRow) error

	// Used returns what a key was charged in some days, without what the asking
	// writer knows itself. Concurrent calls may share a query.
	Used(ctx context.Context, q UsageQuery) (int64, error)

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
	Slot
	Account
	Charged int64
	Part    int // which of the writer's accounts in the slot, from 0
}

// Writer returns the name of the row's writer in the store: a slot has one row
// a writer there, so each further account is a writer of its own.
func (r UsageRow) Writer(writer string) string {
	if r.Part == 0 {
		return writer
	}
	return writer + "/" + strconv.Itoa(r.Part)
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

// A Slot is what is counted apart.
type Slot struct {
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

// A Ledger writes down what this process charges, in the background, and reads
// what was charged by all. It is safe for concurrent use.
type Ledger struct {
	usage  Usage
	writer string
	log    *slog.Logger
	stop   chan struct{}
	done   chan struct{}

	mu     sync.Mutex
	totals map[Slot]total // what this process has charged
	dirty  map[Slot]bool  // totals that are not known to be written
	newest plan.Date      // of the slots
	held   map[hold]int   // units in flight that a Fallback granted

	writes sync.Mutex // held while writing
}

// A total is what was charged in a slot, on each account: rarely on more than
// one.
type total []accountTotal

type accountTotal struct {
	account Account
	charged int64
}

// add charges the account one unit more.
func (t total) add(a Account) total {
	for i := range t {
		if t[i].account == a {
			t[i].charged++
			return t
		}
	}
	return append(t, accountTotal{a, 1})
}

// charged returns the sum over all accounts.
func (t total) charged() (n int64) {
	for _, a := range t {
		n += a.charged
	}
	return n
}

// NewLedger returns a Ledger, which must be closed.
func NewLedger(usage Usage, log *slog.Logger) *Ledger {
	l := &Ledger{
		usage: usage, writer: rand.Text(), log: log,
		stop: make(chan struct{}), done: make(chan struct{}),
		totals: map[Slot]total{}, dirty: map[Slot]bool{}, held: map[hold]int{},
	}
	go l.run()
	return l
}

// Add notes that a key was charged one unit, on an account. It will be written
// within about a second.
func (l *Ledger) Add(s Slot, a Account) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.totals[s] = l.totals[s].add(a)
	l.dirty[s] = true
	l.newest = max(l.newest, s.Date)
}

// A hold is of units of a key and window that ends then, in Unix seconds.
type hold struct {
	keyID string
	end   int64
}

func holdOf(c Charge) hold { return hold{c.KeyID, c.Window.End.Unix()} }

// hold notes that a unit is in flight, until it is released.
func (l *Ledger) hold(c Charge) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held[holdOf(c)]++
}

// release notes that a unit has been added or given back, if it was held.
func (l *Ledger) release(c Charge) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch h := holdOf(c); l.held[h] {
	case 0:
	case 1:
		delete(l.held, h)
	default:
		l.held[h]--
	}
}

// Used returns what the key was charged in the quota's window: by this process
// up to now, by others up to their last write.
func (l *Ledger) Used(ctx context.Context, keyID string, q plan.Quota, w plan.Window) (int64, error) {
	first, next, err := q.Dates(w)
	if err != nil {
		return 0, err
	}
	own, known := l.own(keyID, first, next)
	others, err := l.others(ctx, keyID, first, next, known)
	return own + others, err
}

// others returns what the key was charged by others up to their last write, and
// by this process before the day known.
func (l *Ledger) others(ctx context.Context, keyID string, first, next, known plan.Date) (int64, error) {
	return l.usage.Used(ctx, UsageQuery{keyID, first, next, l.writer, known})
}

// inFlight returns how many units are held.
func (l *Ledger) inFlight(keyID string, w plan.Window) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(l.held[holdOf(Charge{KeyID: keyID, Window: w})])
}

// own adds up what this process has charged, as far as it knows without asking:
// from the day known on.
func (l *Ledger) own(keyID string, first, next plan.Date) (total int64, known plan.Date) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known = l.known()
	for d := max(first, known); d < next && d <= l.newest; d = d.Next() {
		total += l.totals[Slot{keyID, d}].charged()
	}
	return total, known
}

// known is the first day of which all totals are in memory. The caller holds
// l.mu.
func (l *Ledger) known() plan.Date { return l.newest.AddDays(-knownDays) }

// run writes now and then, and trims once an hour.
func (l *Ledger) run() {
	defer close(l.done)
	ticks := time.NewTicker(writeEvery)
	defer ticks.Stop()
	trimmed := time.Now().Add(-trimEvery + time.Minute) // not while starting
	failing := false
	for {
		select {
		case <-l.stop:
			return
		case now := <-ticks.C:
			err := l.Write(context.Background())
			if err == nil && time.Since(trimmed) > trimEvery {
				trimmed = now
				err = l.trim(now)
			}
			if err != nil && !failing {
				l.log.Warn("usage can't be written; it is kept and tried again", "error", err)
			}
			failing = err != nil
		}
	}
}

// Write writes all that was noted and not yet written.
func (l *Ledger) Write(ctx context.Context) error {
	l.writes.Lock()
	defer l.writes.Unlock()
	for {
		rows := l.take()
		if len(rows) == 0 {
			l.forget()
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, writeTimeout)
		err := l.usage.RecordUsage(ctx, l.writer, rows)
		cancel()
		if err != nil {
			l.putBack(rows)
			return err
		}
	}
}

// take returns some totals that are to be written, as written.
func (l *Ledger) take() []UsageRow {
	l.mu.Lock()
	defer l.mu.Unlock()
	rows := make([]UsageRow, 0, min(len(l.dirty), writeMost))
	for s := range l.dirty {
		if len(rows) >= writeMost {
			break
		}
		for i, a := range l.totals[s] {
			rows = append(rows, UsageRow{s, a.account, a.charged, i})
		}
		delete(l.dirty, s)
	}
	return rows
}

func (l *Ledger) putBack(rows []UsageRow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range rows {
		l.dirty[r.Slot] = true
	}
}

// forget drops totals of days that are over. They have been written; a charge
// on such a day would begin at one again, and be lost.
func (l *Ledger) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range l.totals {
		if s.Date < l.known() && !l.dirty[s] {
			delete(l.totals, s)
		}
	}
}

// Close writes what has not been written.
func (l *Ledger) Close() error {
	close(l.stop)
	<-l.done
	if err := l.Write(context.Background()); err != nil {
		return fmt.Errorf("write usage: %w", err)
	}
	return nil
}

const (
	// knownDays is how many days the totals of which stay in memory lie back. A
	// request is charged on the day it came, in any time zone.
	knownDays = 3

	trimEvery = time.Hour
	// foldAfter is how many days a writer's row is kept apart: as long as the
	// longest window, so that a late write can't count twice in one.
	foldAfter = 40
	// keepMonths is how long usage is kept.
	keepMonths = 13
)

func (l *Ledger) trim(now time.Time) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	today := plan.DateOf(now.UTC())
	err := l.usage.TrimUsage(ctx, today.AddDays(-foldAfter-1), plan.DateOf(now.UTC().AddDate(0, -keepMonths, 0)))
	if err != nil {
		return errors.Join(errors.New("trim usage"), err)
	}
	return nil
}
