package postgres_test

import (
	"log/slog"
	"testing"

	"helloapi/internal/backendtest"
	"helloapi/internal/postgres"
)

func TestPeers(t *testing.T) {
	t.Parallel()
	url := backendtest.Postgres(t)
	db, err := postgres.Open(t.Context(), url, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	// ago has a replica have reached Redis so long ago.
	ago := func(replica, interval string) {
		t.Helper()
		if err := db.Reached(t.Context(), replica); err != nil {
			t.Fatal(err)
		}
		if _, err := backendtest.SQL(t, url).Exec(`UPDATE replicas SET redis_at = clock_timestamp() - $2::interval WHERE id = $1`, replica, interval); err != nil {
			t.Fatal(err)
		}
	}
	want := func(others bool, when string) {
		t.Helper()
		if got, err := db.OthersReach(t.Context(), "me"); err != nil || got != others {
			t.Errorf("%s: %v, %v", when, got, err)
		}
	}
	want(false, "when nobody ever did")
	ago("me", "0")
	want(false, "when only this one did")
	ago("other", "0")
	want(false, "when all did just now")
	ago("me", "2 seconds")
	want(false, "when this one did a moment before")
	ago("me", "4 seconds")
	want(true, "when this one did not for a while")
	ago("other", "2 seconds")
	want(false, "when the other may have noticed later")
	ago("me", "1 minute")
	ago("other", "4 seconds")
	want(false, "when the others have lost it too")
	ago("other", "2 hours")
	if err := db.Reached(t.Context(), "third"); err != nil {
		t.Fatal(err)
	}
	var rows int
	if err := backendtest.SQL(t, url).QueryRow(`SELECT count(*) FROM replicas`).Scan(&rows); err != nil || rows != 2 {
		t.Errorf("%d replicas, %v: want me and the third", rows, err)
	}
	if got, err := db.OthersReach(t.Context(), "new"); err != nil || !got {
		t.Errorf("for one that never did: %v, %v", got, err)
	}
}
