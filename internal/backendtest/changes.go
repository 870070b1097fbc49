package backendtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/backend"
	"helloapi/internal/changes"
	"helloapi/internal/plan"
	"helloapi/internal/planfile"
)

// listChanges returns the changes, the oldest first.
func listChanges(t *testing.T, db backend.Database, q changes.Query) []changes.Change {
	t.Helper()
	q.Most = 1000
	list, err := changes.List(t.Context(), db.Conn(), q)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(list)
	return list
}

// Every change is recorded once, by whomever it is made, with what it was before
// and after, and no value of a key.
func testChanges(t *testing.T, url string) {
	db := open(t, url)
	begin := time.Now()
	ada := changes.WithActor(t.Context(), "ada@laptop")
	text := func(s string) *string { return &s }

	v, rotated := apikey.Generate(), apikey.Generate()
	k, err := db.CreateKey(ada, apikey.Key{Name: "shop", Plan: &plan.Plan{Name: "free"}, Enabled: true, CustomerID: "c-1"}, v)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(err)
	must(db.UpdateKey(ada, "shop", apikey.KeyUpdate{Plan: text("paid"), Description: text("the shop")}))
	must(db.UpdateKey(ada, "shop", apikey.KeyUpdate{Plan: text("paid")})) // changes nothing
	must(db.EnableKey(ada, "shop", false))
	must(db.RotateKey(ada, "shop", rotated, time.Hour))
	grant, err := db.GrantUnits(ada, k.ID, plan.Grant{Date: "2030-01-01", Units: 7, Note: "sorry"})
	must(err)
	must(db.RevokeGrant(ada, grant))
	Exec(t, url, `UPDATE plans SET quota_limit = 9 WHERE name = 'paid'`)
	must(db.DeleteKey(ada, "shop"))

	byHand := "sql"
	if !isSQLite(url) {
		if err := SQL(t, url).QueryRow(`SELECT session_user`).Scan(&byHand); err != nil {
			t.Fatal(err)
		}
	}
	type want struct{ actor, action, subject, before, after string }
	for i, w := range []want{
		{"ada@laptop", "create key", "shop", "", "plan=free customer_id=c-1 enabled=true"},
		{"ada@laptop", "update key", "shop", "plan=free description=", "plan=paid description=the shop"},
		{"ada@laptop", "update key", "shop", "enabled=true", "enabled=false"},
		{"ada@laptop", "update key value", "shop", "expires_at=<nil> prefix=" + v.Display(), "prefix=" + v.Display()},
		{"ada@laptop", "create key value", "shop", "", "prefix=" + rotated.Display()},
		{"ada@laptop", "create grant", "shop", "", "units=7 note=sorry day=2030-01-01"},
		{"ada@laptop", "delete grant", "shop", "units=7", ""},
		{byHand, "update plan", "paid", "quota_limit=5000", "quota_limit=9"},
		{"ada@laptop", "delete key", "shop", "plan=paid enabled=false", ""},
	} {
		list := listChanges(t, db, changes.Query{Since: begin.Add(-time.Second)})
		if i >= len(list) {
			t.Fatalf("change %d, %+v, is not recorded", i, w)
		}
		c := list[i]
		if c.Actor != w.actor || c.Action != w.action || c.Subject != w.subject {
			t.Errorf("change %d is %s %q by %s, want %+v", i, c.Action, c.Subject, c.Actor, w)
		}
		if c.At.Before(begin.Add(-time.Second)) || c.At.After(time.Now().Add(time.Second)) {
			t.Errorf("change %d is of %v", i, c.At)
		}
		hasColumns(t, i, "before", c.Before, w.before)
		hasColumns(t, i, "after", c.After, w.after)
		for _, secret := range []string{v.Reveal(), rotated.Reveal(), hashText(v), hashText(rotated)} {
			if all := string(c.Before) + string(c.After); strings.Contains(strings.ToLower(all), secret) {
				t.Errorf("change %d has a secret: %s", i, all)
			}
		}
	}
	if n := len(listChanges(t, db, changes.Query{Key: "shop"})); n != 8 {
		t.Errorf("%d changes of the key by its name, want 8", n)
	}
	if n := len(listChanges(t, db, changes.Query{Key: k.ID})); n != 8 {
		t.Errorf("%d changes of the key by its id, want 8", n)
	}
	if n := len(listChanges(t, db, changes.Query{Plan: "paid"})); n != 1 {
		t.Errorf("%d changes of the plan, want 1", n)
	}
	if n := len(listChanges(t, db, changes.Query{Since: time.Now().Add(time.Minute)})); n != 0 {
		t.Errorf("%d changes of the future", n)
	}
	must(db.TrimUsage(t.Context(), "2000-01-01", plan.DateOf(time.Now().UTC().AddDate(0, 0, -1))))
	if n := len(listChanges(t, db, changes.Query{Key: "shop"})); n != 8 {
		t.Errorf("%d changes after those of another day were dropped, want 8", n)
	}
	must(db.TrimUsage(t.Context(), "2000-01-01", plan.DateOf(time.Now().UTC().AddDate(0, 0, 2))))
	if n := len(listChanges(t, db, changes.Query{})); n != 0 {
		t.Errorf("%d changes after all were dropped", n)
	}
}

func hashText(v apikey.Value) string {
	h := v.Hash()
	return fmt.Sprintf("%x", h[:])
}

// hasColumns checks columns of a JSON object: "name=value name=value", values
// may have spaces.
func hasColumns(t *testing.T, i int, what string, object json.RawMessage, want string) {
	t.Helper()
	if want == "" {
		if len(object) > 0 {
			t.Errorf("change %d has a row %s: %s", i, what, object)
		}
		return
	}
	var got map[string]any
	if err := json.Unmarshal(object, &got); err != nil {
		t.Errorf("change %d %s: %v", i, what, err)
		return
	}
	var name, value string
	check := func() {
		if name != "" && fmt.Sprint(got[name]) != value {
			t.Errorf("change %d %s: %s is %v, want %s", i, what, name, got[name], value)
		}
	}
	for _, word := range strings.Fields(want) {
		if n, v, ok := strings.Cut(word, "="); ok {
			check()
			name, value = n, v
		} else {
			value += " " + word
		}
	}
	check()
}

// The record has every column of what it is about, also of those that come.
func testChangesColumns(t *testing.T, url string) {
	db := open(t, url)
	k, _ := newKey(t, db, "a")
	if _, err := db.GrantUnits(t.Context(), k.ID, plan.Grant{Date: "2030-01-01", Units: 1}); err != nil {
		t.Fatal(err)
	}
	Exec(t, url, `UPDATE api_key_values SET prefix = 'x'`)
	Exec(t, url, `INSERT INTO plans (name) VALUES ('p')`)
	for table, action := range map[string]string{"api_keys": "create key", "api_key_values": "update key value", "plans": "create plan", "grants": "create grant"} {
		list := listChanges(t, db, changes.Query{})
		i := slices.IndexFunc(list, func(c changes.Change) bool { return c.Action == action })
		if i < 0 {
			t.Errorf("no %s", action)
			continue
		}
		var got map[string]any
		if err := json.Unmarshal(list[i].After, &got); err != nil {
			t.Fatal(err)
		}
		rows, err := SQL(t, url).Query(`SELECT * FROM ` + table)
		if err != nil {
			t.Fatal(err)
		}
		names, err := rows.Columns()
		if err = errors.Join(err, rows.Close()); err != nil {
			t.Fatal(err)
		}
		for _, column := range names {
			if _, ok := got[column]; ok == (column == "hash") {
				t.Errorf("%s: column %s is recorded: %v", action, column, ok)
			}
		}
	}
}

// Of two applies at a time each is recorded as its own.
func testChangesTogether(t *testing.T, url string) {
	db := open(t, url)
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			ctx := changes.WithActor(t.Context(), fmt.Sprintf("person %d", i))
			err := db.ApplyPlans(ctx, planfile.Scope{}, func(planfile.State) (planfile.Changes, error) {
				var c planfile.Changes
				for j := range 20 {
					c.AddKeys = append(c.AddKeys, planfile.NewValue{Key: planfile.StoredKey{Name: fmt.Sprintf("key-%d-%d", i, j), Plan: "free", Enabled: true}, Value: apikey.Generate()})
				}
				return c, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	by := map[string]int{}
	for _, c := range listChanges(t, db, changes.Query{}) {
		if c.Action == "create key" && strings.HasPrefix(c.Subject, "key-"+c.Actor[len(c.Actor)-1:]+"-") {
			by[c.Actor]++
		}
	}
	if by["person 0"] != 20 || by["person 1"] != 20 {
		t.Errorf("recorded by actor: %v, want 20 of each", by)
	}
	// One that fails is not recorded, and leaves no actor behind.
	err := db.ApplyPlans(changes.WithActor(t.Context(), "nobody"), planfile.Scope{}, func(planfile.State) (planfile.Changes, error) {
		return planfile.Changes{PutPlans: []planfile.StoredPlan{{Plan: plan.Plan{Name: "p"}}}, DropPlans: []string{"free"}}, nil
	})
	if err == nil {
		t.Error("a plan with keys was dropped")
	}
	Exec(t, url, `UPDATE plans SET quota_limit = 6 WHERE name = 'free'`)
	list := listChanges(t, db, changes.Query{})
	for _, c := range list {
		if c.Actor == "nobody" {
			t.Errorf("recorded though it failed: %+v", c)
		}
	}
	if last := list[len(list)-1]; last.Action != "update plan" {
		t.Errorf("the last is %+v", last)
	}
}
