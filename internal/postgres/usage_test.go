package postgres_test

import (
	"log/slog"
	"testing"
	"time"

	"helloapi/internal/backendtest"
	"helloapi/internal/limits"
	"helloapi/internal/plan"
	"helloapi/internal/postgres"
)

// A write of the ledger that was carried out, but the answer to which was lost,
// is repeated and changes nothing.
func TestLedgerAnswerLost(t *testing.T) {
	t.Parallel()
	url := backendtest.Postgres(t)
	proxy, proxied := backendtest.NewProxy(t, url)
	log := slog.New(slog.DiscardHandler)
	db, err := postgres.Open(t.Context(), proxied, log)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	slot := limits.UsageKey{KeyID: "the-key-that-was-charged", Date: plan.DateOf(time.Now())}
	recorded := func() (n int) {
		if err := backendtest.SQL(t, url).QueryRow(`SELECT coalesce(sum(charged), 0) FROM usage`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	write := func(charged int) error {
		return db.RecordUsage(t.Context(), "w", []limits.UsageRow{{UsageKey: slot, Charged: int64(charged)}})
	}
	want := 0
	for _, reset := range []bool{false, true, false} {
		want += 4
		if err := write(want - 1); err != nil { // the first prepares the statement
			t.Fatal(err)
		}
		cut := proxy.CutAnswer(slot.KeyID, reset)
		if err := write(want); err == nil || !cut() {
			t.Fatalf("the answer was not lost: cut %v, %v", cut(), err)
		}
		if n := recorded(); n != want {
			t.Errorf("%d units are recorded, want %d: what the lost answer was of", n, want)
		}
		if err := write(want); err != nil {
			t.Fatal(err)
		}
		if n := recorded(); n != want {
			t.Errorf("%d units are recorded when it was repeated, want %d", n, want)
		}
	}
}
