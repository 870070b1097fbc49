package planfile_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
	"helloapi/internal/planfile"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func value(s string) planfile.StoredValue {
	v, err := apikey.Parse(s)
	if err != nil {
		panic(err)
	}
	return planfile.StoredValue{Hash: v.Hash(), Display: v.Display()}
}

const (
	valueA = "value-a-0123456789-0123456789"
	valueB = "value-b-0123456789-0123456789"
	valueC = "value-c-0123456789-0123456789"
)

// state is what a database has after the file before of TestDiff was applied,
// and somebody made a key by hand.
func state() planfile.State {
	const file = "name:shop"
	expired := value(valueC)
	expired.ExpiresAt = now.Add(-time.Hour)
	return planfile.State{
		Plans: []planfile.StoredPlan{
			{Plan: plan.Plan{Name: "free", Quota: &plan.Quota{Limit: 5, Period: plan.Day, Timezone: "UTC"}}, MadeBy: file},
			{Plan: plan.Plan{Name: "paid", Throttle: &plan.Throttle{Rate: 5, Burst: 5}}, MadeBy: file},
			{Plan: plan.Plan{Name: "hand"}},
		},
		Keys: []planfile.StoredKey{
			{ID: "1", Name: "ann", Plan: "free", Enabled: true, MadeBy: file, Values: []planfile.StoredValue{value("generated-0123456789")}},
			{ID: "2", Name: "bob", Plan: "free", Enabled: true, MadeBy: file, Description: "Bob", Values: []planfile.StoredValue{value(valueA)}},
			{ID: "3", Plan: "paid", Enabled: true, MadeBy: file, Values: []planfile.StoredValue{value(valueB)}},
			{ID: "4", Name: "hand", Plan: "hand", Enabled: true, Values: []planfile.StoredValue{value("by-hand-0123456789-0123456789"), expired}},
		},
	}
}

const before = `
name: shop
plans:
  free:
    quota: {limit: 5, period: DAY}
    keys:
      - ann
      - {name: bob, value: ` + valueA + `, description: Bob}
  paid:
    throttle: {rateLimit: 5}
    keys:
      - value: ` + valueB + `
`

func TestDiff(t *testing.T) {
	t.Parallel()
	edit := func(pairs ...string) string { return strings.NewReplacer(pairs...).Replace(before) }
	tests := []struct {
		name, file string
		prune      bool
		want       string // lines, notices or mistakes
	}{
		{"the same", before, false, ""},
		{"the same, pruning", before, true, ""},
		{"in another order", `
plans:
    paid:
        keys: [{value: ` + valueB + `}]
        throttle: {burstLimit: 5, rateLimit: 5.0}
    free:
        keys: [{description: Bob, name: "bob", value: '` + valueA + `'}, ann]
        quota: {timezone: UTC, period: day, limit: 5, offset: 0}
name: shop
`, true, ""},
		{"without what may be left out", edit(", value: "+valueA+", description: Bob", ""), true, ""},

		{"a plan's quota", edit("limit: 5,", "limit: 6,"), false, "change plan free: 5 a day; no throttle → 6 a day; no throttle"},
		{"a plan's zone", edit("period: DAY", "period: DAY, timezone: Europe/Berlin"), false, "change plan free: 5 a day; no throttle → 5 a day, Europe/Berlin; no throttle"},
		{"a plan's throttle", edit("rateLimit: 5", "rateLimit: 0.5"), false, "change plan paid: no quota; 5/s, burst 5 → no quota; 0.5/s, burst 1"},
		{"a plan without limits", edit("    throttle: {rateLimit: 5}\n", ""), false, "change plan paid: no quota; 5/s, burst 5 → no limits"},
		{"a new plan", before + "  gold: {}\n", false, "add plan gold: no limits"},
		{"a new key", edit("- ann", "- ann\n      - eve"), false, "add key eve: on plan free"},
		{"a new key that is disabled", edit("- ann", "- ann\n      - {name: eve, enabled: false}"), false, "add key eve: on plan free, disabled"},
		{"a new key without a name", edit("- ann", "- ann\n      - value: a-new-key-0123456789"), false, "add key a-ne… (no name): on plan free"},
		{
			"all of a key", edit("description: Bob", "description: Robert, customerId: 7, enabled: false, expires: 2030-12-31"), false,
			"change key bob: disabled; description; customer id; expires 2030-12-31T00:00:00Z",
		},
		{"another plan", edit("      - ann\n", "", "    keys:\n      - value", "    keys:\n      - ann\n      - value"), false, "change key ann: plan free → paid"},
		{"another value", edit(valueA, "a-new-value-0123456789"), false, "change key bob: another value; the present one is refused from now on"},
		{"a value for a generated one", edit("- ann", "- {name: ann, value: a-new-value-0123456789}"), false, "change key ann: another value; the present one is refused from now on"},
		{"a key made by hand", edit("- ann", "- ann\n      - hand"), true, "change key hand: plan hand → free"},
		{"a plan made by hand", before + "  hand: {}\n", true, ""},
		{
			"a value that was rotated out", edit("- ann", "- ann\n      - {name: hand, value: "+valueC+"}"), false,
			`note f:8: the value of key "hand" here no longer opens it, since the key was rotated: write the new value, or none` + "\nchange key hand: plan hand → free",
		},

		// A renamed key is another one.
		{"renamed", edit("- ann", "- eve"), false, "note f: left as they are, though the file has them no more: key ann; --prune removes them\nadd key eve: on plan free"},
		{"renamed, pruning", edit("- ann", "- eve"), true, "add key eve: on plan free\nremove key ann"},
		{"renamed with a value, pruning", edit("name: bob", "name: rob"), true, "add key rob: on plan free\nremove key bob"},
		{"renamed with a value", edit("name: bob", "name: rob"), false, `error f:8: the value of key "rob" opens key "bob" already`},
		{"a name for a nameless key", edit("- value", "- name: eve\n        value"), false, `error f:12: the value of key "eve" opens key "3" already`},
		{"a name taken away", edit("name: bob, ", ""), false, `error f:8: the value of this key opens key "bob" already: add name: bob`},
		{"a value that opened another key", edit("- ann", "- {name: ann, value: "+valueC+"}"), false, `error f:7: the value of key "ann" opens key "hand" already, or did`},

		{
			"less", "name: shop\nplans:\n  free: {quota: {limit: 5, period: DAY}}\n", false,
			"note f: left as they are, though the file has them no more: keys 3, ann, bob; --prune removes them\n" +
				"note f: left as they are, though the file has them no more: plan paid; --prune removes them",
		},
		{"less, pruning", "name: shop\nplans:\n  free: {quota: {limit: 5, period: DAY}}\n", true, "remove key 3\nremove key ann\nremove key bob\nremove plan paid"},
		{"another file, pruning", "name: other\nplans:\n  new: {}\n", true, "add plan new: no limits"},
		{"a file without a name, pruning", "plans:\n  new: {}\n", true, "add plan new: no limits"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f, err := read("f", tt.file)
			if err != nil {
				t.Fatal(err)
			}
			c, err := f.Diff(state(), tt.prune, now)
			var got []string
			for _, n := range c.Notices {
				got = append(got, "note "+n)
			}
			for _, l := range c.Lines {
				got = append(got, strings.TrimSuffix(fmt.Sprintf("%s %s %s: %s", l.Op, l.Kind, l.Name, l.Text), ": "))
			}
			if err != nil {
				got = []string{"error " + err.Error()}
				for _, v := range []string{valueA, valueB, valueC} {
					if strings.Contains(err.Error(), v) {
						t.Error("the error holds a key's value")
					}
				}
				if len(got[0]) > len(tt.want) {
					got[0] = got[0][:len(tt.want)]
				}
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, "\n")); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if changes := len(c.PutPlans) + len(c.PutKeys) + len(c.AddKeys) + len(c.SetValues) + len(c.DropKeys) + len(c.DropPlans); err == nil && (changes == 0) != (len(c.Lines) == 0) {
				t.Errorf("%d changes, %d lines", changes, len(c.Lines))
			}
		})
	}
}

// A key that is disabled stays so, until the file says otherwise.
func TestDiffDisabled(t *testing.T) {
	t.Parallel()
	s := state()
	s.Keys[0].Enabled = false
	f, err := read("f", before)
	if err != nil {
		t.Fatal(err)
	}
	c, err := f.Diff(s, false, now)
	if err != nil || len(c.Lines) != 0 || len(c.Notices) != 1 || !strings.Contains(c.Notices[0], "write enabled: true") {
		t.Errorf("%v, %v, %v", c.Lines, c.Notices, err)
	}
	if f, err = read("f", strings.Replace(before, "- ann", "- {name: ann, enabled: true}", 1)); err != nil {
		t.Fatal(err)
	}
	c, err = f.Diff(s, false, now)
	if err != nil || len(c.Notices) != 0 || len(c.Lines) != 1 || c.Lines[0].Text != "enabled" {
		t.Errorf("%v, %v, %v", c.Lines, c.Notices, err)
	}
}

// What two files list belongs to the one that did last, so that the other does
// not remove it.
func TestDiffOwner(t *testing.T) {
	t.Parallel()
	f, err := read("f", strings.Replace(before, "name: shop", "name: other", 1))
	if err != nil {
		t.Fatal(err)
	}
	c, err := f.Diff(state(), true, now)
	if err != nil || len(c.Lines) != 0 || len(c.PutPlans) != 2 || len(c.PutKeys) != 3 {
		t.Fatalf("%+v, %v", c, err)
	}
	for _, p := range c.PutPlans {
		if p.MadeBy != "name:other" {
			t.Errorf("plan %s is of %q", p.Name, p.MadeBy)
		}
	}
	for _, k := range c.PutKeys {
		if k.MadeBy != "name:other" {
			t.Errorf("key %s is of %q", k.Name, k.MadeBy)
		}
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("plans:\n")
	for i := range 50 {
		fmt.Fprintf(&b, "  p%d: 5\n", i)
	}
	_, err := read("f", b.String())
	var ms *planfile.Mistakes
	if !errors.As(err, &ms) || len(ms.List) != 20 || !strings.HasSuffix(err.Error(), "\nf: and more") {
		t.Errorf("50 mistakes: %v", err)
	}
}
