package backendtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"helloapi/internal/apikey"
	"helloapi/internal/backend"
	"helloapi/internal/plan"
	"helloapi/internal/planfile"
)

// apply reads a file and applies it, as the command does.
func apply(ctx context.Context, db planfile.Store, data string, prune bool) (planfile.Changes, error) {
	f, err := planfile.Read("plans.yaml", []byte(data), planfile.Options{Env: func(string) string { return "" }})
	if err != nil {
		return planfile.Changes{}, err
	}
	return planfile.Apply(ctx, db, f, planfile.ApplyOptions{Prune: prune, DropLimits: true})
}

// mustApply applies a file and wants as many lines of changes.
func mustApply(t testing.TB, db planfile.Store, data string, prune bool, lines int) planfile.Changes {
	t.Helper()
	c, err := apply(t.Context(), db, data, prune)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Lines) != lines {
		t.Errorf("%d changes, want %d: %v", len(c.Lines), lines, c.Lines)
	}
	return c
}

// contents lists all that is stored of plans and keys.
func contents(t testing.TB, url string) string {
	t.Helper()
	var b strings.Builder
	db := SQL(t, url)
	defer db.Close()
	for _, query := range []string{
		`SELECT * FROM plans ORDER BY name`,
		`SELECT * FROM api_keys ORDER BY id`,
		`SELECT * FROM api_key_values ORDER BY hash`,
	} {
		rows, err := db.Query(query)
		if err != nil {
			t.Fatal(err)
		}
		columns, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		row := make([]any, len(columns))
		for i := range row {
			row[i] = new(any)
		}
		for rows.Next() {
			if err := rows.Scan(row...); err != nil {
				t.Fatal(err)
			}
			for _, v := range row {
				fmt.Fprintf(&b, "%v ", *v.(*any))
			}
			fmt.Fprintln(&b)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		rows.Close()
	}
	return b.String()
}

func testApply(t *testing.T, url string) {
	db := open(t, url)
	const file = `
name: shop
plans:
  free: {quota: {limit: 5, period: DAY}, throttle: {rateLimit: 5}, keys: [ann, {name: bob, description: Bob, customerId: c1}]}
  gold: {quota: {limit: 7, period: WEEK, offset: 1, timezone: Europe/Berlin}, keys: [{name: eve, value: eve-value-0123456789, enabled: false}, {value: nameless-value-0123456789, expires: 2099-12-31}]}
  none: {}
`
	c := mustApply(t, db, file, false, 2+4) // free is there already, with paid
	keys, err := db.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]apikey.Key{}
	for _, k := range keys {
		got[k.Name] = k
	}
	gold := &plan.Plan{Name: "gold", Quota: &plan.Quota{Limit: 7, Period: plan.Week, Offset: 1, Timezone: "Europe/Berlin"}}
	for _, want := range []apikey.Key{
		{Name: "ann", Enabled: true, Plan: &plan.Plan{Name: "free", Quota: &plan.Quota{Limit: 5, Period: plan.Day, Timezone: "UTC"}, Throttle: &plan.Throttle{Rate: 5, Burst: 5}}},
		{Name: "bob", Enabled: true, Description: "Bob", CustomerID: "c1", Plan: got["ann"].Plan},
		{Name: "eve", Plan: gold},
		{Enabled: true, Plan: gold, ExpiresAt: time.Date(2099, 12, 31, 0, 0, 0, 0, time.UTC)},
	} {
		k := got[want.Name]
		if !k.ExpiresAt.Equal(want.ExpiresAt) || time.Since(k.CreatedAt) > time.Minute || k.ID == "" {
			t.Errorf("key %q: %+v", want.Name, k)
		}
		want.ID, want.CreatedAt, want.ExpiresAt, want.Display, want.MadeBy = k.ID, k.CreatedAt, k.ExpiresAt, k.Display, "name:shop"
		if diff := cmp.Diff(want, k); diff != "" {
			t.Errorf("key %q (-want +got)\n%s", want.Name, diff)
		}
	}
	if len(keys) != 4 {
		t.Errorf("%d keys", len(keys))
	}
	opens := func(v apikey.Value, name string) {
		t.Helper()
		if k, refusal := find(t, db, v); k == nil || k.Name != name {
			t.Errorf("the value of %q: %v, %s", name, k, refusal)
		}
	}
	parsed := func(s string) apikey.Value {
		v, err := apikey.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	opens(c.AddKeys[0].Value, "ann")
	opens(c.AddKeys[1].Value, "bob")
	opens(parsed("eve-value-0123456789"), "eve")
	opens(parsed("nameless-value-0123456789"), "")

	// Applied again, in another order and form, nothing is to be done, and nothing is.
	stored := contents(t, url)
	mustApply(t, db, file, false, 0)
	mustApply(t, db, file, true, 0)
	mustApply(t, db, `
plans:
  none: {}
  gold:
    keys:
      - value: nameless-value-0123456789
        expires: 2099-12-31
      - name: eve
        value: eve-value-0123456789
        enabled: false
    quota:
      timezone: Europe/Berlin
      period: week
      offset: 1
      limit: 7
  free:
    keys: [{name: bob, customerId: c1, description: Bob}, ann]
    throttle: {burstLimit: 5, rateLimit: 5}
    quota: {period: DAY, limit: 5}
name: shop
`, true, 0)
	if diff := cmp.Diff(stored, contents(t, url)); diff != "" {
		t.Errorf("applying again changed\n%s", diff)
	}

	// Every kind of change, with IDs and values that stay.
	ids := map[string]string{}
	for name, k := range got {
		ids[name] = k.ID
	}
	mustApply(t, db, `
name: shop
plans:
  free: {throttle: {rateLimit: 0.5}, keys: [{name: bob, description: Robert}]}
  gold: {quota: {limit: 8, period: MONTH}, keys: [ann, {name: eve, value: another-value-0123456789, enabled: true}, {value: nameless-value-0123456789, expires: 2099-12-31}]}
`, false, 5)
	if keys, err = db.Keys(t.Context()); err != nil || len(keys) != 4 {
		t.Fatal(err, len(keys))
	}
	for _, k := range keys {
		if ids[k.Name] != k.ID {
			t.Errorf("key %q has another id", k.Name)
		}
		got[k.Name] = k
	}
	if k := got["bob"]; k.Description != "Robert" || k.CustomerID != "c1" || k.Plan.Quota != nil || k.Plan.Throttle.Rate != 0.5 {
		t.Errorf("bob: %+v", k)
	}
	if k := got["eve"]; !k.Enabled || k.Plan.Quota.Limit != 8 {
		t.Errorf("eve: %+v", k)
	}
	if got["ann"].Plan.Name != "gold" {
		t.Errorf("ann: %+v", got["ann"])
	}
	opens(c.AddKeys[0].Value, "ann")
	opens(parsed("another-value-0123456789"), "eve")
	if _, refusal := find(t, db, parsed("eve-value-0123456789")); refusal != "expired" {
		t.Errorf("the value that eve had: %q", refusal)
	}
}

func testApplyPrune(t *testing.T, url string) {
	db := open(t, url)
	mustApply(t, db, "name: shop\nplans: {a: {keys: [one, two]}, b: {keys: [three]}}\n", false, 5)
	mustApply(t, db, "name: other\nplans: {c: {keys: [four]}}\n", false, 2)
	k, v := newKey(t, db, "hand") // on the plan free
	Exec(t, url, `UPDATE api_keys SET plan = 'a' WHERE name = 'hand'`)

	// Without --prune what the file has no more stays.
	c := mustApply(t, db, "name: shop\nplans: {a: {keys: [one]}}\n", false, 0)
	if len(c.Notices) != 2 {
		t.Errorf("notices: %q", c.Notices)
	}
	// With it that goes, and nothing else.
	mustApply(t, db, "name: shop\nplans: {a: {keys: [one]}}\n", true, 3)
	keyNames := func(want ...string) {
		t.Helper()
		keys, err := db.Keys(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, k := range keys {
			got = append(got, k.Name)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("keys (-want +got)\n%s", diff)
		}
	}
	keyNames("four", "hand", "one")
	// A plan that a key is on which the file did not make can't go.
	stored := contents(t, url)
	var inUse *planfile.PlanInUseError
	if _, err := apply(t.Context(), db, "name: shop\nplans: {}\n", true); !errors.As(err, &inUse) || inUse.Plan != "a" || inUse.Key != "hand" {
		t.Errorf("a plan in use: %v", err)
	}
	if diff := cmp.Diff(stored, contents(t, url)); diff != "" {
		t.Errorf("a refusal changed\n%s", diff)
	}
	if err := db.DeleteKey(t.Context(), k.ID); err != nil {
		t.Fatal(err)
	}
	mustApply(t, db, "name: shop\nplans: {}\n", true, 2)
	keyNames("four")
	plans, err := db.Plans(t.Context())
	if err != nil || len(plans) != 3 || plans[0].Name != "c" {
		t.Errorf("plans: %v, %v", plans, err)
	}
	if _, refusal := find(t, db, v); refusal != "unknown" {
		t.Errorf("find a deleted key: %q", refusal)
	}

	// A key made by hand that a file lists is not the file's.
	newKey(t, db, "hand")
	mustApply(t, db, "name: shop\nplans: {free: {quota: {limit: 5, period: DAY}, throttle: {rateLimit: 5}, keys: [hand]}}\n", true, 0)
	mustApply(t, db, "name: shop\nplans: {}\n", true, 0)
	keyNames("four", "hand")

	// A renamed key is another one, with another id, though its value is the same.
	mustApply(t, db, "name: shop\nplans: {a: {keys: [{name: old, value: the-same-value-0123456789}]}}\n", true, 2)
	old, err := db.Key(t.Context(), "old")
	if err != nil {
		t.Fatal(err)
	}
	mustApply(t, db, "name: shop\nplans: {a: {keys: [{name: new, value: the-same-value-0123456789}]}}\n", true, 2)
	keyNames("four", "hand", "new")
	if renamed, err := db.Key(t.Context(), "new"); err != nil || renamed.ID == old.ID {
		t.Errorf("renamed: %+v, %v", renamed, err)
	}
	// What lists a key last has it: the first does not remove it.
	mustApply(t, db, "name: other\nplans: {c: {keys: [four]}, a: {keys: [new]}}\n", true, 0)
	mustApply(t, db, "name: shop\nplans: {}\n", true, 0)
	keyNames("four", "hand", "new")
}

// testApplyFails applies random files to a database that fails at a random row,
// and wants all of a file or nothing of it.
func testApplyFails(t *testing.T, url string) {
	db := open(t, url)
	if isSQLite(url) {
		Exec(t, url, `CREATE TRIGGER fail_key BEFORE INSERT ON api_keys WHEN NEW.name LIKE 'fail%' BEGIN SELECT RAISE(ABORT, 'failed'); END`)
		Exec(t, url, `CREATE TRIGGER fail_plan BEFORE UPDATE ON plans WHEN NEW.quota_limit = 13 BEGIN SELECT RAISE(ABORT, 'failed'); END`)
		Exec(t, url, `CREATE TRIGGER fail_drop BEFORE DELETE ON plans WHEN OLD.name = 'stays' BEGIN SELECT RAISE(ABORT, 'failed'); END`)
	} else {
		Exec(t, url, `CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'failed'; END $$`)
		Exec(t, url, `CREATE TRIGGER fail_key BEFORE INSERT ON api_keys FOR EACH ROW WHEN (NEW.name LIKE 'fail%') EXECUTE FUNCTION fail()`)
		Exec(t, url, `CREATE TRIGGER fail_plan BEFORE UPDATE ON plans FOR EACH ROW WHEN (NEW.quota_limit = 13) EXECUTE FUNCTION fail()`)
		Exec(t, url, `CREATE TRIGGER fail_drop BEFORE DELETE ON plans FOR EACH ROW WHEN (OLD.name = 'stays') EXECUTE FUNCTION fail()`)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	failed, applied := 0, 0
	for range 30 {
		var b strings.Builder
		b.WriteString("name: shop\nplans:\n")
		n := 0
		for p := range 1 + rnd.IntN(4) {
			limit := 1 + rnd.IntN(9)
			if rnd.IntN(12) == 0 {
				limit = 13
			}
			name := fmt.Sprint("p", p)
			if rnd.IntN(8) == 0 {
				name = "stays"
				if p > 0 {
					continue
				}
			}
			fmt.Fprintf(&b, "  %s:\n    quota: {limit: %d, period: DAY}\n    keys:\n", name, limit)
			fmt.Fprintf(&b, "      - value: nameless-%s-value-0123456789\n", name)
			for range rnd.IntN(6) {
				n++
				fmt.Fprintf(&b, "      - name: key%d\n        description: d%d\n", n, rnd.IntN(3))
			}
			if rnd.IntN(8) == 0 {
				fmt.Fprintf(&b, "      - fail%d\n", p)
			}
		}
		before := contents(t, url)
		_, err := apply(t.Context(), db, b.String(), true)
		after := contents(t, url)
		if err != nil {
			failed++
			if diff := cmp.Diff(before, after); diff != "" {
				t.Fatalf("%v, but this was changed\n%s", err, diff)
			}
			continue
		}
		applied++
		if c, err := apply(t.Context(), db, b.String(), true); err != nil || len(c.Lines) != 0 {
			t.Fatalf("applied, but not all of it: %v, %v\n%s", err, c.Lines, &b)
		}
	}
	if failed < 4 || applied < 4 {
		t.Errorf("%d files failed and %d were applied: the test shows nothing", failed, applied)
	}

	// Nor is anything changed if the caller changes its mind, or leaves.
	before := contents(t, url)
	f, err := planfile.Read("f", []byte("plans: {new: {keys: [new]}}"), planfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	mine := errors.New("mine")
	err = db.ApplyPlans(t.Context(), f.Scope(), func(s planfile.State) (planfile.Changes, error) {
		c, _ := f.Diff(s, planfile.ApplyOptions{}, time.Now())
		return c, mine
	})
	if !errors.Is(err, mine) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = db.ApplyPlans(ctx, f.Scope(), func(s planfile.State) (planfile.Changes, error) {
		cancel()
		return f.Diff(s, planfile.ApplyOptions{}, time.Now())
	})
	if err == nil {
		t.Error("applied by a caller that left")
	}
	if diff := cmp.Diff(before, contents(t, url)); diff != "" {
		t.Errorf("this was changed\n%s", diff)
	}
	mustApply(t, db, "plans: {new: {keys: [new]}}", false, 2)
}

// testApplyConcurrently applies two files at a time, over and over: each call
// succeeds, and what is there then is one of the two.
func testApplyConcurrently(t *testing.T, url string) {
	files := make([]string, 2)
	for i := range files {
		var keys []string
		for k := range 50 {
			keys = append(keys, fmt.Sprintf("{name: key%d, description: of %d}", k, i), fmt.Sprintf("only%d-%d", i, k))
		}
		files[i] = fmt.Sprintf("name: shop\nplans:\n  p%d: {quota: {limit: %d, period: DAY}, keys: [%s]}\n", i, i+1, strings.Join(keys, ", "))
	}
	dbs := []backend.Database{open(t, url), open(t, url)} // as two processes
	for range 5 {
		var wg sync.WaitGroup
		for i, db := range dbs {
			wg.Go(func() {
				if _, err := apply(t.Context(), db, files[i], true); err != nil {
					t.Errorf("apply: %v", err)
				}
			})
		}
		wg.Wait()
		same := 0
		for i, db := range dbs {
			f, err := planfile.Read("f", []byte(files[i]), planfile.Options{})
			if err != nil {
				t.Fatal(err)
			}
			c, err := planfile.Apply(t.Context(), db, f, planfile.ApplyOptions{Prune: true, DryRun: true})
			if err != nil {
				t.Fatal(err)
			}
			if len(c.Lines) == 0 {
				same++
			}
		}
		if same != 1 {
			t.Fatalf("what is there is like %d of the two files", same)
		}
	}

	// One that is at it keeps others waiting, but not those that read.
	entered, leave := make(chan struct{}), make(chan struct{})
	f, err := planfile.Read("f", []byte(files[0]), planfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	var wg sync.WaitGroup
	wg.Go(func() {
		err := dbs[0].ApplyPlans(t.Context(), f.Scope(), func(s planfile.State) (planfile.Changes, error) {
			close(entered)
			<-leave
			order = append(order, "first")
			return f.Diff(s, planfile.ApplyOptions{Prune: true}, time.Now())
		})
		if err != nil {
			t.Errorf("apply: %v", err)
		}
	})
	<-entered
	wg.Go(func() {
		err := dbs[1].ApplyPlans(t.Context(), f.Scope(), func(s planfile.State) (planfile.Changes, error) {
			order = append(order, "second")
			c, err := f.Diff(s, planfile.ApplyOptions{Prune: true}, time.Now())
			if len(c.Lines) != 0 {
				t.Errorf("it did not see what the first did: %v", c.Lines)
			}
			return c, err
		})
		if err != nil {
			t.Errorf("apply: %v", err)
		}
	})
	if _, err := dbs[1].Keys(t.Context()); err != nil {
		t.Errorf("read keys meanwhile: %v", err)
	}
	if _, err := planfile.Apply(t.Context(), dbs[1], f, planfile.ApplyOptions{Prune: true, DryRun: true}); err != nil {
		t.Errorf("a dry run meanwhile: %v", err) // it would wait for the first for good
	}
	close(leave)
	wg.Wait()
	if diff := cmp.Diff([]string{"first", "second"}, order); diff != "" {
		t.Errorf("order (-want +got)\n%s", diff)
	}
}

func testApplyMany(t *testing.T, url string) {
	db := open(t, url)
	var b strings.Builder
	b.WriteString("name: shop\nplans:\n  p:\n    keys:\n")
	for i := range 10_000 {
		fmt.Fprintf(&b, "      - key%d\n", i)
	}
	begin := time.Now()
	c := mustApply(t, db, b.String(), false, 10_001)
	t.Logf("10,000 keys in %v", time.Since(begin))
	if k, refusal := find(t, db, c.AddKeys[4711].Value); k == nil || k.Name != "key4711" {
		t.Errorf("find one: %v, %q", k, refusal)
	}
	begin = time.Now()
	mustApply(t, db, b.String(), true, 0)
	t.Logf("again in %v", time.Since(begin))
}
