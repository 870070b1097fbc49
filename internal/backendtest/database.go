package backendtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"helloapi/internal/apikey"
	"helloapi/internal/backend"
	"helloapi/internal/limits"
	"helloapi/internal/plan"
	"helloapi/migrations"
)

// TestDatabase is the suite for databases. fresh returns the URL of a fresh
// one with the present schema.
func TestDatabase(t *testing.T, fresh func(testing.TB) string) {
	for name, test := range map[string]func(*testing.T, string){
		"Keys":              testKeys,
		"FindConcurrently":  testFindConcurrently,
		"KeyRefusals":       testKeyRefusals,
		"EnableKey":         testEnableKey,
		"UpdateKey":         testUpdateKey,
		"RotateKey":         testRotateKey,
		"DeleteKey":         testDeleteKey,
		"Watch":             testWatch,
		"Usage":             testUsage,
		"UsageAccounts":     testUsageAccounts,
		"UsageAlone":        testUsageAlone,
		"UsageBefore":       testUsageBefore,
		"TrimUsage":         testTrimUsage,
		"Grants":            testGrants,
		"Plans":             testPlans,
		"Apply":             testApply,
		"ApplyPrune":        testApplyPrune,
		"ApplyFails":        testApplyFails,
		"ApplyConcurrently": testApplyConcurrently,
		"ApplyMany":         testApplyMany,
		"Import":            testImport,
		"ImportAgain":       testImportAgain,
		"ImportTogether":    testImportTogether,
		"CertLease":         testCertLease,
		"CertOutcomes":      testCertOutcomes,
		"CertSecrets":       testCertSecrets,
		"CertReseal":        testCertReseal,
		"CertsAway":         testCertsAway,
		"NotMigrated":       testNotMigrated,
		"Rows":              testRows,
		"Changes":           testChanges,
		"Refusals":          testRefusals,
		"ChangesColumns":    testChangesColumns,
		"ChangesTogether":   testChangesTogether,
		"Close":             testClose,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, fresh(t))
		})
	}
}

func isSQLite(url string) bool { return strings.HasPrefix(url, "sqlite:") }

func open(t testing.TB, url string) backend.Database {
	t.Helper()
	db, err := backend.OpenDatabase(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return db
}

// LockGreetings has writers of greetings wait until it is undone.
func LockGreetings(t testing.TB, url string) (unlock func()) {
	t.Helper()
	tx, err := SQL(t, url).Begin() // in SQLite that is the lock
	if err != nil {
		t.Fatal(err)
	}
	if !isSQLite(url) {
		if _, err := tx.Exec(`LOCK TABLE greetings IN EXCLUSIVE MODE`); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		if err := tx.Rollback(); err != nil {
			t.Errorf("unlock: %v", err)
		}
	}
}

// waitFor waits until cond holds, and fails the test if that takes too long.
func waitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func testKeys(t *testing.T, url string) {
	db := open(t, url)
	free := &plan.Plan{
		Name: "free", Quota: &plan.Quota{Limit: 5, Period: plan.Day, Timezone: "UTC"}, Throttle: &plan.Throttle{Rate: 5, Burst: 5},
	}
	value := apikey.Generate()
	expires := time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	made, err := db.CreateKey(t.Context(), apikey.Key{
		Name: "a", Plan: free, Enabled: true, Description: "d", CustomerID: "c", ExpiresAt: expires,
	}, value)
	if err != nil {
		t.Fatal(err)
	}
	want := apikey.Key{
		ID: made.ID, Name: "a", Display: value.Display(), Plan: free, Enabled: true,
		Description: "d", CustomerID: "c", CreatedAt: made.CreatedAt, ExpiresAt: expires,
	}
	if made.ID == "" || time.Since(made.CreatedAt).Abs() > time.Minute {
		t.Errorf("CreateKey returned ID %q, created at %v", made.ID, made.CreatedAt)
	}
	found, err := db.Find(t.Context(), value.Hash())
	if err != nil {
		t.Fatal(err)
	}
	for what, k := range map[string]apikey.Key{"CreateKey": made, "Find": *found} {
		if diff := cmp.Diff(want, k); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}

	for what, test := range map[string]struct {
		name, plan string
		value      apikey.Value
		err        error
	}{
		"name taken":   {"a", "free", apikey.Generate(), apikey.ErrNameTaken},
		"value taken":  {"b", "free", value, apikey.ErrValueTaken},
		"no such plan": {"b", "gold", apikey.Generate(), apikey.ErrUnknownPlan},
	} {
		_, err := db.CreateKey(t.Context(), apikey.Key{Name: test.name, Plan: &plan.Plan{Name: test.plan}, Enabled: true}, test.value)
		if !errors.Is(err, test.err) {
			t.Errorf("CreateKey, %s: %v, want %v", what, err, test.err)
		}
	}
	// None of them left anything behind.
	if _, err := db.CreateKey(t.Context(), apikey.Key{Name: "b", Plan: free}, apikey.Generate()); err != nil {
		t.Error(err)
	}
	keys, err := db.Keys(t.Context())
	if err != nil || len(keys) != 2 || keys[0].Name != "a" || keys[1].Name != "b" {
		t.Fatalf("Keys = %v, %v; want a and b", keys, err)
	}
	if diff := cmp.Diff(want, keys[0]); diff != "" {
		t.Errorf("Keys (-want +got):\n%s", diff)
	}
	if keys[1].Enabled || !keys[1].ExpiresAt.IsZero() {
		t.Errorf("b is enabled or expires: %+v", keys[1])
	}
	if _, err := db.Find(t.Context(), apikey.Generate().Hash()); !errors.Is(err, apikey.ErrUnknown) {
		t.Errorf("Find of another value: %v, want ErrUnknown", err)
	}
}

func testFindConcurrently(t *testing.T, url string) {
	db := open(t, url)
	free := &plan.Plan{Name: "free"}
	hashes := map[apikey.Hash]string{}
	for i := range 100 {
		v := apikey.Generate()
		k, err := db.CreateKey(t.Context(), apikey.Key{Name: fmt.Sprint("key", i), Plan: free, Enabled: true}, v)
		if err != nil {
			t.Fatal(err)
		}
		hashes[v.Hash()] = k.ID
	}
	var wg sync.WaitGroup
	for h, id := range hashes {
		wg.Go(func() {
			if k, err := db.Find(t.Context(), h); err != nil || k.ID != id {
				t.Errorf("Find = %v, %v; want the key %s", k, err, id)
			}
			if _, err := db.Find(t.Context(), apikey.Generate().Hash()); !errors.Is(err, apikey.ErrUnknown) {
				t.Errorf("Find of another value: %v, want ErrUnknown", err)
			}
		})
	}
	wg.Wait()
}

func testKeyRefusals(t *testing.T, url string) {
	db := open(t, url)
	past := "now() - interval '1 minute'"
	if isSQLite(url) {
		past = "1000 * (unixepoch() - 60)"
	}
	for name, test := range map[string]struct{ change, want string }{
		"good":      {``, ""},
		"disabled":  {`UPDATE api_keys SET enabled = NOT enabled`, "disabled"},
		"expired":   {`UPDATE api_keys SET expires_at = ` + past, "expired"},
		"old value": {`UPDATE api_key_values SET expires_at = ` + past, "expired"},
		"no plan":   {`UPDATE api_keys SET plan = NULL`, "no plan"},
	} {
		value := apikey.Generate()
		k, err := db.CreateKey(t.Context(), apikey.Key{Name: name, Plan: &plan.Plan{Name: "free"}, Enabled: true}, value)
		if err != nil {
			t.Fatal(err)
		}
		if test.change != "" {
			column := "id"
			if strings.Contains(test.change, "api_key_values") {
				column = "key_id"
			}
			Exec(t, url, test.change+` WHERE `+column+` = $1`, k.ID)
		}
		found, err := db.Find(t.Context(), value.Hash())
		if err != nil {
			t.Fatal(err)
		}
		if got := found.Refusal(time.Now()); got != test.want {
			t.Errorf("%s: refused for %q, want %q", name, got, test.want)
		}
	}
	// A plan that goes takes no key with it.
	value := AddKey(t, db, AddPlan(t, url, plan.Plan{Name: "gone"}))
	Exec(t, url, `DELETE FROM plans WHERE name = 'gone'`)
	v, err := apikey.Parse(value)
	if err != nil {
		t.Fatal(err)
	}
	if found, err := db.Find(t.Context(), v.Hash()); err != nil || found.Refusal(time.Now()) != "no plan" {
		t.Errorf("after its plan was deleted: %v, %v; want a key without a plan", found, err)
	}
}

// find returns the key that a value opens, and why it is refused: "unknown" if
// there is none.
func find(t testing.TB, db backend.Database, v apikey.Value) (*apikey.Key, string) {
	t.Helper()
	k, err := db.Find(t.Context(), v.Hash())
	if errors.Is(err, apikey.ErrUnknown) {
		return nil, "unknown"
	}
	if err != nil {
		t.Fatal(err)
	}
	return k, k.Refusal(time.Now())
}

// newKey creates a key on the free plan.
func newKey(t testing.TB, db backend.Database, name string) (apikey.Key, apikey.Value) {
	t.Helper()
	v := apikey.Generate()
	k, err := db.CreateKey(t.Context(), apikey.Key{Name: name, Plan: &plan.Plan{Name: "free"}, Enabled: true}, v)
	if err != nil {
		t.Fatal(err)
	}
	return k, v
}

func testEnableKey(t *testing.T, url string) {
	db := open(t, url)
	k, v := newKey(t, db, "a")
	other, _ := newKey(t, db, k.ID) // named as the first's ID is
	for _, ref := range []string{"a", k.Name} {
		for _, enabled := range []bool{false, false, true, true} {
			if err := db.EnableKey(t.Context(), ref, enabled); err != nil {
				t.Fatal(err)
			}
			if _, refused := find(t, db, v); (refused == "") != enabled {
				t.Errorf("enabled: %v, but refused for %q", enabled, refused)
			}
		}
	}
	// A name goes before an ID.
	if got, err := db.Key(t.Context(), k.ID); err != nil || got.ID != other.ID {
		t.Errorf("Key(%q) = %+v, %v; want the one of that name", k.ID, got, err)
	}
	if got, err := db.Key(t.Context(), other.ID); err != nil || got.ID != other.ID {
		t.Errorf("Key of an ID = %+v, %v", got, err)
	}
	for _, ref := range []string{"b", "", "A"} {
		if err := db.EnableKey(t.Context(), ref, true); !errors.Is(err, apikey.ErrUnknown) {
			t.Errorf("EnableKey(%q): %v, want ErrUnknown", ref, err)
		}
		if _, err := db.Key(t.Context(), ref); !errors.Is(err, apikey.ErrUnknown) {
			t.Errorf("Key(%q): %v, want ErrUnknown", ref, err)
		}
		if err := db.RotateKey(t.Context(), ref, apikey.Generate(), 0); !errors.Is(err, apikey.ErrUnknown) {
			t.Errorf("RotateKey(%q): %v, want ErrUnknown", ref, err)
		}
		if err := db.DeleteKey(t.Context(), ref); !errors.Is(err, apikey.ErrUnknown) {
			t.Errorf("DeleteKey(%q): %v, want ErrUnknown", ref, err)
		}
	}
}

func testUpdateKey(t *testing.T, url string) {
	db := open(t, url)
	k, v := newKey(t, db, "a")
	other, _ := newKey(t, db, "b")
	text := func(s string) *string { return &s }
	expires := time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	want := k
	for i, test := range []struct {
		update apikey.KeyUpdate
		expect func()
	}{
		{apikey.KeyUpdate{Plan: text("paid")}, func() {}},
		{apikey.KeyUpdate{Description: text("d")}, func() { want.Description = "d" }},
		{apikey.KeyUpdate{CustomerID: text("c")}, func() { want.CustomerID = "c" }},
		{apikey.KeyUpdate{ExpiresAt: &expires}, func() { want.ExpiresAt = expires }},
		{apikey.KeyUpdate{}, func() {}},
		{apikey.KeyUpdate{Description: text(""), ExpiresAt: new(time.Time)}, func() { want.Description, want.ExpiresAt = "", time.Time{} }},
	} {
		if err := db.UpdateKey(t.Context(), []string{"a", k.ID}[i%2], test.update); err != nil {
			t.Fatal(err)
		}
		test.expect()
		got, _ := find(t, db, v)
		if got.Plan == nil || got.Plan.Name != "paid" {
			t.Errorf("after update %d: plan %+v", i, got.Plan)
		}
		want.Plan = got.Plan
		if diff := cmp.Diff(want, *got); diff != "" {
			t.Errorf("after update %d (-want +got):\n%s", i, diff)
		}
	}
	if err := db.UpdateKey(t.Context(), "a", apikey.KeyUpdate{Plan: text("gold")}); !errors.Is(err, apikey.ErrUnknownPlan) {
		t.Errorf("UpdateKey to no plan: %v, want ErrUnknownPlan", err)
	}
	if err := db.UpdateKey(t.Context(), "nobody", apikey.KeyUpdate{Plan: text("free")}); !errors.Is(err, apikey.ErrUnknown) {
		t.Errorf("UpdateKey of no key: %v, want ErrUnknown", err)
	}
	if got, err := db.Key(t.Context(), "b"); err != nil || got.ID != other.ID || got.Plan.Name != "free" || got.CustomerID != "" {
		t.Errorf("another key became %+v, %v", got, err)
	}
	Exec(t, url, `UPDATE api_keys SET made_by = 'shop' WHERE name = 'a'`)
	if got, err := db.Key(t.Context(), "a"); err != nil || got.MadeBy != "shop" {
		t.Errorf("a key that a file made: %+v, %v", got, err)
	}
}

func testRotateKey(t *testing.T, url string) {
	db := open(t, url)
	k, first := newKey(t, db, "a")
	_, others := newKey(t, db, "b")
	rotate := func(v apikey.Value, grace time.Duration) {
		t.Helper()
		if err := db.RotateKey(t.Context(), "a", v, grace); err != nil {
			t.Fatal(err)
		}
	}
	second, third, fourth := apikey.Generate(), apikey.Generate(), apikey.Generate()
	rotate(second, time.Hour)
	if got, refused := find(t, db, first); refused != "" || got.ID != k.ID || time.Until(got.ExpiresAt).Round(time.Minute) != time.Hour {
		t.Errorf("the old value, in its grace: %+v, refused for %q", got, refused)
	}
	if got, refused := find(t, db, second); refused != "" || got.ID != k.ID || !got.ExpiresAt.IsZero() {
		t.Errorf("the new value: %+v, refused for %q", got, refused)
	}
	// A longer grace for the second does not prolong that of the first.
	rotate(third, 24*time.Hour)
	if got, _ := find(t, db, first); time.Until(got.ExpiresAt) > time.Hour {
		t.Errorf("the first value now expires at %v", got.ExpiresAt)
	}
	rotate(fourth, 0)
	for _, v := range []apikey.Value{first, second, third} {
		if _, refused := find(t, db, v); refused != "expired" {
			t.Errorf("an old value without grace is refused for %q", refused)
		}
	}
	if _, refused := find(t, db, fourth); refused != "" {
		t.Errorf("the newest value is refused for %q", refused)
	}
	if _, refused := find(t, db, others); refused != "" {
		t.Errorf("another key is refused for %q", refused)
	}
	// A value is never used again, and if it can't be used nothing changes.
	for _, v := range []apikey.Value{first, fourth, others} {
		if err := db.RotateKey(t.Context(), "a", v, 0); !errors.Is(err, apikey.ErrValueTaken) {
			t.Errorf("RotateKey to a value in use: %v", err)
		}
	}
	if _, refused := find(t, db, fourth); refused != "" {
		t.Errorf("after a rotation that failed, refused for %q", refused)
	}
	got, err := db.Key(t.Context(), "a")
	if err != nil || got.ID != k.ID || got.Display != fourth.Display() || got.Plan.Name != "free" || len(got.Values) != 4 {
		t.Fatalf("Key = %+v, %v", got, err)
	}
	for i, v := range []apikey.Value{fourth, third, second, first} {
		if s := got.Values[i]; s.Display != v.Display() || s.CreatedAt.IsZero() || s.ExpiresAt.IsZero() != (i == 0) {
			t.Errorf("value %d: %+v, want %s", i, s, v.Display())
		}
	}
	if keys, err := db.Keys(t.Context()); err != nil || len(keys) != 2 || keys[0].Display != fourth.Display() {
		t.Errorf("Keys = %+v, %v", keys, err)
	}
}

func testDeleteKey(t *testing.T, url string) {
	db := open(t, url)
	k, v := newKey(t, db, "a")
	if err := db.DeleteKey(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, refused := find(t, db, v); refused != "unknown" {
		t.Errorf("refused for %q", refused)
	}
	again, _ := newKey(t, db, "a")
	if again.ID == k.ID {
		t.Error("a key of the same name has the ID of the one before it")
	}
}

// watcher notes what it is told.
type watcher struct{ changed, current chan bool }

func (w watcher) Changed() { w.changed <- true }
func (w watcher) Current(asOf, clock time.Time) {
	if d := time.Since(asOf); d < 0 || d > time.Second || clock.Sub(asOf).Abs() > time.Minute {
		panic(fmt.Sprintf("told of %v, when it was %v", asOf, clock))
	}
	select {
	case w.current <- true:
	default:
	}
}

func testWatch(t *testing.T, url string) {
	db := open(t, url)
	ctx, stop := context.WithCancel(t.Context())
	w := watcher{make(chan bool, 1000), make(chan bool, 1)}
	stopped := make(chan bool)
	go func() {
		defer close(stopped)
		db.Watch(ctx, w)
	}()
	defer func() {
		stop()
		<-stopped
	}()
	told := func(what string) {
		t.Helper()
		select {
		case <-w.changed:
		case <-time.After(5 * time.Second):
			t.Fatalf("not told of: %s", what)
		}
		// And not for much longer: greetings are no change.
		for range 2 {
			<-w.current
		}
		for len(w.changed) > 0 {
			<-w.changed
		}
	}
	told("the beginning, before which anything may have happened")
	newKey(t, db, "a")
	told("a key created")
	if err := db.RotateKey(t.Context(), "a", apikey.Generate(), time.Hour); err != nil {
		t.Fatal(err)
	}
	told("a key rotated")
	for _, stmt := range []string{
		`UPDATE plans SET quota_limit = 6 WHERE name = 'free'`,
		`INSERT INTO plans (name) VALUES ('new')`,
		`DELETE FROM plans WHERE name = 'new'`,
		`UPDATE api_keys SET description = 'x'`,
		`UPDATE api_key_values SET prefix = 'x'`,
		`DELETE FROM api_key_values`,
		`DELETE FROM api_keys`,
	} {
		Exec(t, url, stmt)
		told(stmt)
	}
	if _, err := db.Greetings.Greet(t.Context(), "brooks"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		<-w.current
	}
	if len(w.changed) > 0 {
		t.Error("told of a greeting")
	}
}

func testUsage(t *testing.T, url string) {
	db := open(t, url)
	record := func(writer string, rows ...limits.UsageRow) {
		t.Helper()
		if err := db.RecordUsage(t.Context(), writer, rows); err != nil {
			t.Fatal(err)
		}
	}
	row := func(key string, day plan.Date, n int64) limits.UsageRow {
		return limits.UsageRow{UsageKey: limits.UsageKey{KeyID: key, Date: day}, Charged: n}
	}
	used := func(q limits.UsageQuery, want int64) {
		t.Helper()
		if got, err := db.Used(t.Context(), q); err != nil || got.Shared != want || got.Alone != nil {
			t.Errorf("Used(%+v) = %+v, %v; want %d", q, got, err, want)
		}
	}
	record("w1", row("a", "2026-02-27", 1), row("a", "2026-02-28", 10), row("a", "2026-03-01", 100), row("b", "2026-02-28", 5))
	record("w2", row("a", "2026-02-28", 1000))
	// A write whose answer was lost is done again, also after a younger one.
	record("w1", row("a", "2026-02-28", 10))
	record("w1", row("a", "2026-02-28", 7))
	used(limits.UsageQuery{KeyID: "a", First: "2026-02-28", Next: "2026-03-01"}, 1010)
	used(limits.UsageQuery{KeyID: "a", First: "2026-02-01", Next: "2026-04-01"}, 1111)
	used(limits.UsageQuery{KeyID: "a", First: "2026-02-01", Next: "2026-04-01", Writer: "w1", Known: "2026-02-28"}, 1001)
	used(limits.UsageQuery{KeyID: "a", First: "2026-02-01", Next: "2026-04-01", Writer: "w1"}, 1000)
	used(limits.UsageQuery{KeyID: "a", First: "2026-02-01", Next: "2026-04-01", Writer: "w3", Known: "2026-02-01"}, 1111)
	used(limits.UsageQuery{KeyID: "c", First: "2026-02-01", Next: "2026-04-01"}, 0)

	var wg sync.WaitGroup
	for i := range 200 {
		key, want := []string{"a", "b", "c"}[i%3], []int64{1111, 5, 0}[i%3]
		wg.Go(func() { used(limits.UsageQuery{KeyID: key, First: "2026-02-01", Next: "2026-04-01"}, want) })
	}
	wg.Wait()

	days, err := db.DailyUsage(t.Context(), "a", "2026-02-28", "2026-03-02")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]limits.DayUsage{{KeyID: "a", Date: "2026-02-28", Charged: 1010}, {KeyID: "a", Date: "2026-03-01", Charged: 100}}, days); diff != "" {
		t.Errorf("DailyUsage of one key (-want +got):\n%s", diff)
	}
	days, err = db.DailyUsage(t.Context(), "", "2026-02-28", "2026-03-01")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]limits.DayUsage{{KeyID: "a", Date: "2026-02-28", Charged: 1010}, {KeyID: "b", Date: "2026-02-28", Charged: 5}}, days); diff != "" {
		t.Errorf("DailyUsage of all (-want +got):\n%s", diff)
	}

	// 10,000 keys, by two writers in different orders.
	var rows []limits.UsageRow
	for i := range 10_000 {
		rows = append(rows, row(fmt.Sprint("k", i), "2026-05-01", 1))
	}
	backwards := slices.Clone(rows)
	slices.Reverse(backwards)
	wg.Go(func() { record("w1", rows...) })
	wg.Go(func() { record("w2", backwards...) })
	wg.Wait()
	used(limits.UsageQuery{KeyID: "k4711", First: "2026-05-01", Next: "2026-05-02"}, 2)
}

// A charge stays on the account that it was made on, whatever becomes of the key.
func testUsageAccounts(t *testing.T, url string) {
	db := open(t, url)
	k, _ := newKey(t, db, "brooks")
	free := limits.Account{KeyName: "brooks", CustomerID: "4711", Plan: "free", Timezone: "UTC"}
	paid := limits.Account{KeyName: "brooks", CustomerID: "4711", Plan: "paid", Timezone: "Europe/Berlin"}
	slot := limits.UsageKey{KeyID: k.ID, Date: "2026-03-10"}
	record := func(writer string, rows ...limits.UsageRow) {
		t.Helper()
		if err := db.RecordUsage(t.Context(), writer, rows); err != nil {
			t.Fatal(err)
		}
	}
	record("w1", limits.UsageRow{UsageKey: slot, Account: free, Charged: 5})
	record("w2", limits.UsageRow{UsageKey: slot, Account: free, Charged: 2})
	for range 2 { // repeating it changes nothing
		record("w1", limits.UsageRow{UsageKey: slot, Account: free, Charged: 5}, limits.UsageRow{UsageKey: slot, Account: paid, Charged: 40, Part: 1})
	}
	want := []limits.DayUsage{
		{KeyID: k.ID, Date: slot.Date, Account: free, Charged: 7},
		{KeyID: k.ID, Date: slot.Date, Account: paid, Charged: 40},
	}
	check := func(when string) {
		t.Helper()
		days, err := db.DailyUsage(t.Context(), k.ID, "2026-01-01", "2027-01-01")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, days); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
		for writer, n := range map[string]int64{"w1": 2, "w2": 45, "w": 47} { // without the writer's own
			q := limits.UsageQuery{KeyID: k.ID, First: slot.Date, Next: slot.Date.Next(), Writer: writer, Known: slot.Date}
			if got, err := db.Used(t.Context(), q); when == "recorded" && (err != nil || got.Shared != n) {
				t.Errorf("Used without %s = %+v, %v; want %d", writer, got, err, n)
			}
		}
	}
	check("recorded")
	if err := db.DeleteKey(t.Context(), "brooks"); err != nil {
		t.Fatal(err)
	}
	newKey(t, db, "brooks")
	check("another key of the name")
	for range 2 {
		if err := db.TrimUsage(t.Context(), "2026-03-11", "2026-01-01"); err != nil {
			t.Fatal(err)
		}
		check("folded")
	}
	var n int
	if err := SQL(t, url).QueryRow(`SELECT count(*) FROM usage`).Scan(&n); err != nil || n != 2 {
		t.Errorf("%d rows (%v), want one an account", n, err)
	}
	// What comes late is folded later.
	record("w3", limits.UsageRow{UsageKey: slot, Account: free, Charged: 1})
	want[0].Charged++
	if err := db.TrimUsage(t.Context(), "2026-03-11", "2026-01-01"); err != nil {
		t.Fatal(err)
	}
	check("folded again")
}

// What a replica charged alone is told apart, and adds up with the rest on bills.
func testUsageAlone(t *testing.T, url string) {
	db := open(t, url)
	account := limits.Account{KeyName: "brooks", Plan: "free", Timezone: "UTC"}
	slot := limits.UsageKey{KeyID: "k", Date: "2026-03-10"}
	for range 2 { // repeating it changes nothing
		for writer, rows := range map[string][]limits.UsageRow{
			"w1": {
				{UsageKey: slot, Account: account, Charged: 5},
				{UsageKey: slot, Account: account, Charged: 30, Alone: true, Part: 1},
				{UsageKey: slot, Account: limits.Account{}, Charged: 4, Alone: true, Part: 2},
			},
			"w2": {{UsageKey: slot, Account: account, Charged: 200, Alone: true}},
		} {
			if err := db.RecordUsage(t.Context(), writer, rows); err != nil {
				t.Fatal(err)
			}
		}
	}
	for writer, want := range map[string]limits.Charged{
		"":   {Shared: 5, Alone: map[string]int64{"w1": 34, "w2": 200}},
		"w1": {Alone: map[string]int64{"w2": 200}},
		"w2": {Shared: 5, Alone: map[string]int64{"w1": 34}},
	} {
		got, err := db.Used(t.Context(), limits.UsageQuery{KeyID: "k", First: slot.Date, Next: slot.Date.Next(), Writer: writer, Known: slot.Date})
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("Used without %q: %v (-want +got):\n%s", writer, err, diff)
		}
	}
	days, err := db.DailyUsage(t.Context(), "k", slot.Date, slot.Date.Next())
	var n int64
	for _, d := range days {
		n += d.Charged
	}
	if err != nil || n != 239 {
		t.Errorf("on bills: %d, %v", n, err)
	}
}

// Rows of the release before name no account: they go on the key's present one,
// for good when the migration finds them.
func testUsageBefore(t *testing.T, url string) {
	db := open(t, url)
	k, _ := newKey(t, db, "brooks")
	for range 2 { // as the release before writes
		Exec(t, url, `
			INSERT INTO usage AS u (key_id, day, writer, charged) VALUES ($1, '2026-03-10', 'w1', 5)
			ON CONFLICT (key_id, day, writer) DO UPDATE SET charged = excluded.charged`, k.ID)
	}
	check := func(when, name, plan string) {
		t.Helper()
		days, err := db.DailyUsage(t.Context(), "", "2026-01-01", "2027-01-01")
		if err != nil {
			t.Fatal(err)
		}
		want := []limits.DayUsage{{KeyID: k.ID, Date: "2026-03-10", Account: limits.Account{KeyName: name, Plan: plan, Timezone: "UTC"}, Charged: 5}}
		if diff := cmp.Diff(want, days); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	check("recorded", "brooks", "free")
	Exec(t, url, `UPDATE api_keys SET plan = 'paid'`)
	check("before the migration", "brooks", "paid")
	files, name := migrations.SQLite, "sqlite/00008_usage_accounts_so_far.sql"
	if !isSQLite(url) {
		files, name = migrations.Postgres, "postgres/00008_usage_accounts_so_far.sql"
	}
	script, err := files.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	Exec(t, url, string(script))
	Exec(t, url, `UPDATE api_keys SET plan = 'free'`)
	check("after the migration", "brooks", "paid")
	if err := db.DeleteKey(t.Context(), "brooks"); err != nil {
		t.Fatal(err)
	}
	check("deleted", "brooks", "paid")
}

func testTrimUsage(t *testing.T, url string) {
	db := open(t, url)
	for _, writer := range []string{"w1", "w2", "w3"} {
		var rows []limits.UsageRow
		for _, day := range []plan.Date{"2026-01-01", "2026-02-01", "2026-03-01"} {
			rows = append(rows, limits.UsageRow{UsageKey: limits.UsageKey{KeyID: "a", Date: day}, Charged: 10})
		}
		if err := db.RecordUsage(t.Context(), writer, rows); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for range 3 { // as replicas do
		wg.Go(func() {
			if err := db.TrimUsage(t.Context(), "2026-03-01", "2026-02-01"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	days, err := db.DailyUsage(t.Context(), "", "2025-01-01", "2027-01-01")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]limits.DayUsage{{KeyID: "a", Date: "2026-02-01", Charged: 30}, {KeyID: "a", Date: "2026-03-01", Charged: 30}}, days); diff != "" {
		t.Errorf("usage after it was trimmed (-want +got):\n%s", diff)
	}
	var n int
	if err := SQL(t, url).QueryRow(`SELECT count(*) FROM usage`).Scan(&n); err != nil || n != 4 {
		t.Errorf("%d rows (%v), want one of the folded day and three of the last", n, err)
	}
}

func testGrants(t *testing.T, url string) {
	db := open(t, url)
	k, v := newKey(t, db, "a")
	today := plan.DateOf(time.Now().UTC())
	for _, g := range []plan.Grant{{Date: today, Units: 5}, {Date: today.AddDays(-3), Units: 7}, {Date: today.AddDays(-60), Units: 9}} {
		if _, err := db.GrantUnits(t.Context(), k.ID, g); err != nil {
			t.Fatal(err)
		}
	}
	found, _ := find(t, db, v)
	slices.SortFunc(found.Grants, func(a, b plan.Grant) int { return strings.Compare(string(b.Date), string(a.Date)) })
	// What no window can have any more is left out.
	if diff := cmp.Diff([]plan.Grant{{Date: today, Units: 5}, {Date: today.AddDays(-3), Units: 7}}, found.Grants); diff != "" {
		t.Errorf("grants (-want +got):\n%s", diff)
	}
	if _, err := db.GrantUnits(t.Context(), "nobody", plan.Grant{Date: today, Units: 5}); !errors.Is(err, apikey.ErrUnknown) {
		t.Errorf("GrantUnits to no key: %v, want ErrUnknown", err)
	}
	other, _ := newKey(t, db, "b")
	last, err := db.GrantUnits(t.Context(), other.ID, plan.Grant{Date: today, Units: 1, Note: "sorry"})
	if err != nil {
		t.Fatal(err)
	}
	all, err := db.Grants(t.Context(), "")
	if err != nil || len(all) != 4 || all[0].ID != last || all[0].KeyID != other.ID || all[0].Note != "sorry" || all[3].Units != 5 || time.Since(all[0].CreatedAt).Abs() > time.Minute {
		t.Fatalf("Grants = %+v, %v", all, err)
	}
	if of, err := db.Grants(t.Context(), other.ID); err != nil || !cmp.Equal(all[:1], of) {
		t.Errorf("Grants of one key = %+v, %v", of, err)
	}
	if err := db.RevokeGrant(t.Context(), all[3].ID); err != nil {
		t.Fatal(err)
	}
	if found, _ := find(t, db, v); len(found.Grants) != 1 || found.Grants[0].Units != 7 {
		t.Errorf("after one was revoked: %+v", found.Grants)
	}
	if err := db.RevokeGrant(t.Context(), all[3].ID); !errors.Is(err, apikey.ErrNoGrant) {
		t.Errorf("RevokeGrant again: %v, want ErrNoGrant", err)
	}
	if err := db.DeleteKey(t.Context(), "a"); err != nil {
		t.Errorf("delete a key with grants: %v", err)
	}
}

func testPlans(t *testing.T, url string) {
	db := open(t, url)
	quota := plan.Plan{Name: "a quota", Quota: &plan.Quota{Limit: plan.MaxLimit, Period: plan.Month, Offset: 27, Timezone: "Asia/Kathmandu"}}
	throttle := plan.Plan{Name: "b throttle", Throttle: &plan.Throttle{Rate: 0.1, Burst: 1}}
	none := plan.Plan{Name: "c none"}
	for _, p := range []plan.Plan{none, throttle, quota} {
		AddPlan(t, url, p)
	}
	Exec(t, url, `UPDATE plans SET made_by = 'shop' WHERE name = 'b throttle'`)
	got, err := db.Plans(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []plan.Stored{
		{Plan: quota},
		{Plan: throttle, MadeBy: "shop"},
		{Plan: none},
		{Plan: plan.Plan{Name: "free", Quota: &plan.Quota{Limit: 5, Period: plan.Day, Timezone: "UTC"}, Throttle: &plan.Throttle{Rate: 5, Burst: 5}}},
		{Plan: plan.Plan{Name: "paid", Quota: &plan.Quota{Limit: 5000, Period: plan.Day, Timezone: "UTC"}, Throttle: &plan.Throttle{Rate: 100, Burst: 200}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Plans (-want +got):\n%s", diff)
	}
}

func testNotMigrated(t *testing.T, url string) {
	Exec(t, url, `DELETE FROM goose_db_version WHERE version_id = (SELECT max(version_id) FROM goose_db_version)`)
	if _, err := backend.OpenDatabase(t.Context(), url); err == nil || !strings.Contains(err.Error(), "helloapi migrate") {
		t.Errorf("open with an old schema: %v, want the advice to migrate", err)
	}
	Exec(t, url, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, 1 = 1)`)
	open(t, url) // a newer schema serves older code
}

func testClose(t *testing.T, url string) {
	db, err := backend.OpenDatabase(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	unlock := LockGreetings(t, url)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if _, err := db.Greetings.Greet(t.Context(), "brooks"); err != nil {
				t.Errorf("a call made before Close: %v", err)
			}
		})
	}
	waitFor(t, "10 calls to gather", func() bool { return db.Stats()["greetings"].Waiting == 10 })
	closed := make(chan error)
	go func() { closed <- db.Close() }()
	unlock()
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
	wg.Wait()
	if _, err := db.Greetings.Greet(t.Context(), "brooks"); err == nil {
		t.Error("a call after Close succeeded")
	}
}
