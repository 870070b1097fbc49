package limits

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
)

var errStore = errors.New("no route to postgres.internal")

// today is when synctest's clock starts.
const today plan.Date = "2000-01-01"

func perMonth(limit int64) plan.Quota { return plan.Quota{Limit: limit, Period: plan.Month} }

// wantRecorded fails unless that is what is recorded of the slot.
func wantRecorded(t *testing.T, u *usage, s UsageKey, want int64) {
	t.Helper()
	if got := u.total(s); got != want {
		t.Errorf("%v: %d units are recorded, want %d", s, got, want)
	}
}

// wantLedger fails unless the ledger says that the key used so much in the
// quota's window that has the day.
func wantLedger(t *testing.T, l *ledger, keyID string, q plan.Quota, day plan.Date, want int64) {
	t.Helper()
	at, err := time.Parse(time.DateOnly, string(day))
	if err != nil {
		t.Fatal(err)
	}
	w, err := q.Window(at)
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.used(t.Context(), keyID, q, w)
	got := c.Shared
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("the ledger says %d used, want %d", got, want)
	}
}

// A runningLedger is run until it is stopped.
type runningLedger struct {
	*ledger
	stop func() error
}

func runLedger(u UsageStore, log slog.Handler) runningLedger {
	l := newLedger(u, rand.Text(), slog.New(log))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- l.run(ctx) }()
	return runningLedger{l, func() error { cancel(); return <-done }}
}

func TestLedgerWritesEachSecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := new(usage)
		l := runLedger(u, slog.DiscardHandler)
		s := UsageKey{"1", today}
		for i := range int64(3) {
			time.Sleep(10300 * time.Millisecond) // now and then
			l.add(s, Account{}, false, 1)
			time.Sleep(time.Second)
			synctest.Wait()
			wantRecorded(t, u, s, i+1)
		}
		// Nothing new is nothing to write.
		if diff := cmp.Diff([]int{1, 1, 1}, u.writes); diff != "" {
			t.Errorf("rows of each write (-want +got)\n%s", diff)
		}
		if err := l.stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestLedgerCloseWrites(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := new(usage)
		l := runLedger(u, slog.DiscardHandler)
		l.add(UsageKey{"1", today}, Account{}, false, 1)
		if err := l.stop(); err != nil {
			t.Error(err)
		}
		wantRecorded(t, u, UsageKey{"1", today}, 1)
		u.fail(errStore)
		l = runLedger(u, slog.DiscardHandler)
		l.add(UsageKey{"1", today}, Account{}, false, 1)
		if err := l.stop(); !errors.Is(err, errStore) {
			t.Errorf("what can't be written is lost without a word: %v", err)
		}
	})
}

// Each process has rows of its own, so that what they wrote adds up.
func TestLedgersAddUp(t *testing.T) {
	t.Parallel()
	u := new(usage)
	for range 3 {
		l := runLedger(u, slog.DiscardHandler)
		l.add(UsageKey{"1", today}, Account{}, false, 1)
		l.add(UsageKey{"1", today}, Account{}, false, 1)
		if err := l.stop(); err != nil {
			t.Error(err)
		}
	}
	wantRecorded(t, u, UsageKey{"1", today}, 6)
	wantLedger(t, quietLedger(u), "1", perMonth(1), today, 6)
}

// A write that fails is made up for, and one that only seems to fail does not
// count twice.
func TestLedgerRepeats(t *testing.T) {
	t.Parallel()
	for persists, recorded := range map[bool]int64{false: 0, true: 3} {
		t.Run(fmt.Sprintf("persists=%t", persists), func(t *testing.T) {
			t.Parallel()
			u := &usage{err: errStore, persists: persists}
			l := quietLedger(u)
			s := UsageKey{"1", today}
			for range 3 {
				l.add(s, Account{}, false, 1)
			}
			for range 2 {
				if err := l.write(t.Context()); !errors.Is(err, errStore) {
					t.Errorf("a write that failed returned %v", err)
				}
				wantRecorded(t, u, s, recorded)
			}
			u.fail(nil)
			wantLedger(t, l, "1", *perDay(1), today, 3)
			l.add(s, Account{}, false, 1)
			for range 2 { // the second has nothing to do
				if err := l.write(t.Context()); err != nil {
					t.Error(err)
				}
				wantRecorded(t, u, s, 4)
				wantLedger(t, l, "1", *perDay(1), today, 4)
			}
			if diff := cmp.Diff([]int{1, 1, 1}, u.writes); diff != "" {
				t.Errorf("rows of each write (-want +got)\n%s", diff)
			}
		})
	}
}

// What is charged while a write is under way is known at once, and written
// after that.
func TestLedgerAddsWhileWriting(t *testing.T) {
	t.Parallel()
	for _, fails := range []error{nil, errStore} {
		t.Run(fmt.Sprint(fails), func(t *testing.T) {
			t.Parallel()
			u := new(usage)
			l := quietLedger(u)
			s, other := UsageKey{"1", today}, UsageKey{"2", today}
			u.recording = func(n int) {
				if n > 1 {
					u.fail(nil)
					return
				}
				u.fail(nil)
				wantLedger(t, l, "1", *perDay(1), today, 1)
				l.add(s, Account{}, false, 1)
				l.add(other, Account{}, false, 1)
				wantLedger(t, l, "1", *perDay(1), today, 2)
				u.fail(fails)
			}
			l.add(s, Account{}, false, 1)
			if err := l.write(t.Context()); !errors.Is(err, fails) {
				t.Errorf("returned %v, want %v", err, fails)
			}
			u.fail(nil)
			wantLedger(t, l, "1", *perDay(1), today, 2)
			if err := l.write(t.Context()); err != nil {
				t.Error(err)
			}
			wantRecorded(t, u, s, 2)
			wantRecorded(t, u, other, 1)
		})
	}
}

func TestLedgerManyRows(t *testing.T) {
	t.Parallel()
	u := new(usage)
	u.recording = func(n int) {
		u.fail(nil)
		if n == 2 {
			u.fail(errStore)
		}
	}
	l := quietLedger(u)
	const keys = 2*writeMost + 1
	for i := range keys {
		l.add(UsageKey{strconv.Itoa(i), today}, Account{}, false, 1)
	}
	if err := l.write(t.Context()); !errors.Is(err, errStore) {
		t.Errorf("returned %v", err)
	}
	if err := l.write(t.Context()); err != nil {
		t.Error(err)
	}
	for i := range keys {
		wantRecorded(t, u, UsageKey{strconv.Itoa(i), today}, 1)
	}
	if diff := cmp.Diff([]int{writeMost, writeMost, writeMost, 1}, u.writes); diff != "" {
		t.Errorf("rows of each write (-want +got)\n%s", diff)
	}
}

func TestLedgerUsed(t *testing.T) {
	t.Parallel()
	u := new(usage)
	l := quietLedger(u)
	const day plan.Date = "2026-03-15"
	for _, s := range []UsageKey{
		{"1", "2026-02-28"},
		{"1", "2026-03-14"},
		{"1", "2026-03-15"},
		{"1", "2026-03-16"},
		{"2", "2026-03-15"},
	} {
		u.set("somebody", s, 100)
		l.add(s, Account{}, false, 1)
	}
	for range 2 { // unwritten and written
		wantLedger(t, l, "1", *perDay(1), day, 101)
		wantLedger(t, l, "1", perMonth(1), day, 303)
		wantLedger(t, l, "2", perMonth(1), day, 101)
		wantLedger(t, l, "3", perMonth(1), day, 0)
		if err := l.write(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := l.used(t.Context(), "1", plan.Quota{Limit: 1, Period: plan.Day, Timezone: "Nowhere/Land"}, plan.Window{}); err == nil {
		t.Errorf("in a bad zone %v are used", n)
	}
	u.fail(errStore)
	if n, err := l.used(t.Context(), "1", *perDay(1), plan.Window{}); !errors.Is(err, errStore) {
		t.Errorf("a read that failed returned %v, %v", n, err)
	}
}

// Totals of days that are over are dropped, and then read like those of others.
func TestLedgerForgets(t *testing.T) {
	t.Parallel()
	u := new(usage)
	l := quietLedger(u)
	day := plan.Date("2026-03-01")
	for i := range int64(31) {
		l.add(UsageKey{"1", day}, Account{}, false, 1)
		l.add(UsageKey{"1", day}, Account{}, false, 1)
		wantLedger(t, l, "1", perMonth(1), day, 2*i+2)
		if err := l.write(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantLedger(t, l, "1", perMonth(1), day, 2*i+2)
		day = day.Next()
	}
	if n := len(l.totals); n > knownDays+1 {
		t.Errorf("totals of %d days are in memory", n)
	}
	// A request that came in another time zone's yesterday.
	s := UsageKey{"1", "2026-03-30"}
	l.add(s, Account{}, false, 1)
	if err := l.write(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantRecorded(t, u, s, 3)
	wantLedger(t, l, "1", perMonth(1), "2026-03-31", 63)
}

// What could not be written is kept, however old.
func TestLedgerForgetsOnlyWhatIsWritten(t *testing.T) {
	t.Parallel()
	u := &usage{err: errStore}
	l := quietLedger(u)
	old := UsageKey{"1", "2026-03-01"}
	l.add(old, Account{}, false, 1)
	if err := l.write(t.Context()); err == nil {
		t.Error("a write that failed returned no error")
	}
	l.add(UsageKey{"1", "2026-03-20"}, Account{}, false, 1)
	l.forget()
	u.fail(nil)
	if err := l.write(t.Context()); err != nil {
		t.Error(err)
	}
	wantRecorded(t, u, old, 1)
	wantLedger(t, l, "1", perMonth(1), "2026-03-20", 2)
}

// For the race detector, too.
func TestLedgerConcurrently(t *testing.T) {
	t.Parallel()
	const keys, workers, each = 7, 8, 500
	u := &usage{persists: true}
	u.recording = func(n int) { // every third answer is lost
		u.fail(nil)
		if n%3 == 0 {
			u.fail(errStore)
		}
	}
	l := quietLedger(u)
	q := *perDay(1)
	w, err := q.Window(time.Date(2000, 1, 1, 12, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			var before int64
			for i := range each {
				l.add(UsageKey{strconv.Itoa(i % keys), today}, Account{}, false, 1)
				if i%10 == 0 {
					_ = l.write(t.Context()) // may fail
					c, err := l.used(t.Context(), "0", q, w)
					if err != nil { // another's write's
						continue
					}
					used := c.Shared
					if used < before {
						t.Errorf("used fell from %d to %d", before, used)
					}
					before = used
				}
			}
		})
	}
	wg.Wait()
	u.recording = nil
	u.fail(nil)
	if err := l.write(t.Context()); err != nil {
		t.Fatal(err)
	}
	for k := range keys {
		want := int64(workers * ((each - k + keys - 1) / keys))
		wantRecorded(t, u, UsageKey{strconv.Itoa(k), today}, want)
	}
}

func TestLedgerWarnsOnceAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		u := new(usage)
		l := runLedger(u, slog.NewTextHandler(&log, nil))
		for i := range 3 {
			u.fail(errStore)
			l.add(UsageKey{"1", today}, Account{}, false, 1)
			time.Sleep(20 * time.Second)
			synctest.Wait()
			if n := strings.Count(log.String(), "level=WARN"); n != i+1 || !strings.Contains(log.String(), errStore.Error()) {
				t.Errorf("outage %d: %d warnings: %s", i+1, n, &log)
			}
			u.fail(nil)
			time.Sleep(2 * time.Second)
			synctest.Wait()
			wantRecorded(t, u, UsageKey{"1", today}, int64(i)+1)
		}
		if err := l.stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestLedgerTrims(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := new(usage)
		l := runLedger(u, slog.DiscardHandler)
		time.Sleep(time.Minute)
		synctest.Wait()
		if trims := u.trimmed(); len(trims) != 0 {
			t.Errorf("%v while starting", trims)
		}
		time.Sleep(48 * time.Hour)
		if err := l.stop(); err != nil {
			t.Error(err)
		}
		trims := u.trimmed()
		if n := len(trims); n < 47 || n > 49 {
			t.Fatalf("%d trims in two days", n)
		}
		for i, got := range trims {
			want := trimmed{at: got.at}
			switch got.at.Day() { // of January 2000: 41 days and 13 months before
			case 1:
				want.fold, want.drop = "1999-11-21", "1998-12-01"
			case 2:
				want.fold, want.drop = "1999-11-22", "1998-12-02"
			case 3:
				want.fold, want.drop = "1999-11-23", "1998-12-03"
			}
			if got != want {
				t.Errorf("trimmed %v, want %v", got, want)
			}
			if i == 0 {
				continue
			}
			if d := got.at.Sub(trims[i-1].at); d < time.Hour || d > time.Hour+2*time.Second {
				t.Errorf("a trim came after %s", d)
			}
		}
	})
}

// A trim that fails is warned of, and stops nothing.
func TestLedgerTrimFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		u := &usage{err: errStore}
		l := runLedger(u, slog.NewTextHandler(&log, nil))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if n := len(u.trimmed()); n != 1 || !strings.Contains(log.String(), "trim usage") || !strings.Contains(log.String(), errStore.Error()) {
			t.Errorf("after %d trims the log says: %s", n, &log)
		}
		u.fail(nil)
		l.add(UsageKey{"1", today}, Account{}, false, 1)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		wantRecorded(t, u, UsageKey{"1", today}, 1)
		if n := len(u.trimmed()); n < 2 {
			t.Errorf("%d trims", n)
		}
		if err := l.stop(); err != nil {
			t.Error(err)
		}
	})
}

// A key that changes plan in the middle of a day is charged on both accounts.
func TestLedgerAccounts(t *testing.T) {
	t.Parallel()
	u := new(usage)
	l := quietLedger(u)
	s, free, paid := UsageKey{"1", today}, Account{Plan: "free"}, Account{Plan: "paid"}
	for _, a := range []Account{free, paid, paid, free, paid} {
		l.add(s, a, false, 1)
		if err := l.write(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(map[string]map[UsageKey]int64{"me": {s: 2}, "me/1": {s: 3}}, u.rows); diff != "" {
		t.Errorf("recorded (-want +got)\n%s", diff)
	}
	wantLedger(t, l, "1", *perDay(10), today, 5) // its own, counted once
}

// Who asks for usage waits for a write that hangs, but no longer than it may.
func TestUsageDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(perDay(5), nil)
		r.wantKept(t, "take")
		r.usage.recording = func(int) { time.Sleep(time.Minute) }
		go func() { _ = r.ledger.write(context.Background()) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		begin := time.Now()
		_, err := r.Usage(ctx, &apikey.Key{ID: "1", Plan: r.plan}, 30)
		if took := time.Since(begin); !errors.Is(err, context.DeadlineExceeded) || took != 10*time.Second {
			t.Errorf("%v after %v", err, took)
		}
		time.Sleep(time.Minute) // till the write ends
	})
}
