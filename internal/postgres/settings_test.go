package postgres_test

import (
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/backendtest"
	"helloapi/internal/hello"
	"helloapi/internal/limits"
	"helloapi/internal/plan"
	"helloapi/internal/postgres"
)

func open(t testing.TB, url string) *postgres.DB {
	t.Helper()
	db, err := postgres.Open(t.Context(), url, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func greetings(t testing.TB, db *postgres.DB) *hello.Store {
	t.Helper()
	s := hello.NewStore(db.Conn())
	t.Cleanup(s.Close)
	return s
}

// setDefault sets a default of the database at u, for sessions from then on.
func setDefault(t testing.TB, u, name, value string) {
	t.Helper()
	database := regexp.MustCompile(`helloapi_test_\w+`).FindString(u)
	backendtest.Exec(t, os.Getenv("TEST_DATABASE_URL"), fmt.Sprintf("ALTER DATABASE %s SET %s = '%s'", database, name, value))
}

// What the database has as defaults changes nothing for its greetings.
func TestSettings(t *testing.T) {
	t.Parallel()
	url := backendtest.EmptyPostgres(t)
	backendtest.Exec(t, url, `CREATE SCHEMA other`)
	for name, value := range map[string]string{
		"default_transaction_isolation": "serializable",
		"default_transaction_read_only": "on",
		"synchronous_commit":            "off",
		"lock_timeout":                  "1h",
		"statement_timeout":             "1h",
		"search_path":                   "nowhere",
		"client_encoding":               "LATIN1",
		"datestyle":                     "SQL, DMY",
		"timezone":                      "Etc/GMT-14",
		"idle_session_timeout":          "100",
	} {
		setDefault(t, url, name, value)
	}
	if _, err := postgres.Migrate(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	setDefault(t, url, "search_path", "other") // changed later

	const names, rounds = 20, 20
	var wg sync.WaitGroup
	for range 2 {
		db := open(t, url)
		greetings := greetings(t, db)
		if err := db.Ready(t.Context(), greetings.Check); err != nil {
			t.Errorf("not ready: %v", err)
		}
		for i := range names * rounds {
			wg.Go(func() {
				if _, err := greetings.Greet(t.Context(), fmt.Sprint("жук", i%names)); err != nil {
					t.Errorf("Greet: %v", err)
				}
			})
		}
	}
	wg.Wait()
	db := open(t, url)
	if n, err := greetings(t, db).Greet(t.Context(), "жук0"); n != 2*rounds+1 || err != nil {
		t.Errorf("Greet = %d, %v; want %d", n, err, 2*rounds+1)
	}
	v := apikey.Generate()
	k, err := db.CreateKey(t.Context(), apikey.Key{Name: "a", Plan: &plan.Plan{Name: "free"}, Enabled: true}, v)
	if err != nil {
		t.Fatal(err)
	}
	today := plan.DateOf(time.Now().UTC())
	if _, err := db.GrantUnits(t.Context(), k.ID, plan.Grant{Date: today, Units: 3}); err != nil {
		t.Fatal(err)
	}
	if found, err := db.Find(t.Context(), v.Hash()); err != nil || len(found.Grants) != 1 || found.Grants[0].Date != today {
		t.Errorf("Find = %+v, %v; want a grant of today", found, err)
	}
	for setting, want := range map[string]string{
		"synchronous_commit": "on", "transaction_isolation": "read committed", "search_path": "public",
		"lock_timeout": "2s", "statement_timeout": "5s",
	} {
		if got := db.Setting(t, setting); got != want {
			t.Errorf("%s is %s, want %s", setting, got, want)
		}
	}
	setDefault(t, url, "synchronous_commit", "remote_apply") // promises more
	if got := open(t, url).Setting(t, "synchronous_commit"); got != "remote_apply" {
		t.Errorf("synchronous_commit is %s, want remote_apply", got)
	}
}

// A schema of one's own is found, wherever the search path leads.
func TestSchemaOfOnesOwn(t *testing.T) {
	t.Parallel()
	u := backendtest.EmptyPostgres(t)
	backendtest.Exec(t, u, `CREATE SCHEMA "Our tables"`)
	inURL := u + "&search_path=" + url.PathEscape(`"Our tables"`) // a + is no space here
	if _, err := postgres.Migrate(t.Context(), inURL); err != nil {
		t.Fatal(err)
	}
	for _, u := range []string{inURL, u} {
		if _, err := greetings(t, open(t, u)).Greet(t.Context(), "a"); err != nil {
			t.Error(err)
		}
	}
	if applied, err := postgres.Migrate(t.Context(), u); err != nil || len(applied) > 0 {
		t.Errorf("migrated again: %v, %v", applied, err)
	}
}

func TestEncoding(t *testing.T) {
	t.Parallel()
	u := backendtest.EncodedPostgres(t, "LATIN1")
	_, err := postgres.Migrate(t.Context(), u)
	_, openErr := postgres.Open(t.Context(), u, slog.New(slog.DiscardHandler))
	for _, err := range []error{err, openErr} {
		if err == nil || !strings.Contains(err.Error(), "has the encoding LATIN1") || !strings.Contains(err.Error(), "createdb -E UTF8") {
			t.Errorf("%v", err)
		}
	}
}

// A row of the ledger that somebody holds keeps no other from being written.
func TestHeldUsage(t *testing.T) {
	t.Parallel()
	url := backendtest.Postgres(t)
	db := open(t, url)
	day := plan.DateOf(time.Now().UTC())
	write := func(charged int64) error {
		var rows []limits.UsageRow
		for i := range 5 {
			rows = append(rows, limits.UsageRow{UsageKey: limits.UsageKey{KeyID: fmt.Sprint("key", i), Date: day}, Charged: charged})
		}
		return db.RecordUsage(t.Context(), "me", rows)
	}
	if err := write(1); err != nil {
		t.Fatal(err)
	}
	tx, err := backendtest.SQL(t, url).Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.Exec(`SELECT FROM usage WHERE key_id = 'key3' FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := write(2); err == nil || !strings.Contains(err.Error(), "1 of 5 rows are locked") {
		t.Errorf("while a row is held: %v", err)
	}
	if d := time.Since(began); d > time.Second {
		t.Errorf("it took %v", d)
	}
	sum := func() (n int) {
		if err := backendtest.SQL(t, url).QueryRow(`SELECT sum(charged) FROM usage`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := sum(); n != 9 {
		t.Errorf("%d units are written, want 9: all but one", n)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := write(2); err != nil || sum() != 10 {
		t.Errorf("afterwards %d units, %v; want 10", sum(), err)
	}
}

// A transaction that lost to another is repeated.
func TestConflict(t *testing.T) {
	t.Parallel()
	url := backendtest.Postgres(t)
	backendtest.Exec(t, url, `CREATE SEQUENCE tries`)
	for code, want := range map[string]bool{"40001": true, "40P01": true, "40002": true, "40003": false} {
		backendtest.Exec(t, url, `CREATE OR REPLACE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
				IF nextval('tries') % 3 <> 0 THEN RAISE EXCEPTION 'lost' USING ERRCODE = '`+code+`'; END IF;
				RETURN NEW;
			END $$`)
		backendtest.Exec(t, url, `CREATE OR REPLACE TRIGGER lose BEFORE INSERT ON greetings FOR EACH ROW EXECUTE FUNCTION lose()`)
		backendtest.Exec(t, url, `SELECT setval('tries', 3)`)
		n, err := greetings(t, open(t, url)).Greet(t.Context(), code)
		if (err == nil) != want || want && n != 1 {
			t.Errorf("%s: %d, %v", code, n, err)
		}
	}
}
