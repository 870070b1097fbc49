package planfile_test

import (
	"context"
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
			{Plan: plan.Plan{Name: "free", Quota: &plan.Quota{Limit: 5, Period: plan.Day, Timezone: "UTC"}}, MadeBy: file, Owner: file},
			{Plan: plan.Plan{Name: "paid", Throttle: &plan.Throttle{Rate: 5, Burst: 5}}, MadeBy: file, Owner: file},
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
		{"a new key without a name", edit("- ann", "- ann\n      - value: a-new-key-0123456789"), false, "add key sha256:1dfc… (no name): on plan free"},
		{
			"all of a key", edit("description: Bob", "description: Robert, customerId: 7, enabled: false, expires: 2030-12-31"), false,
			"change key bob: disabled; description; customer id; expires 2030-12-31T00:00:00Z",
		},
		{"another plan", edit("      - ann\n", "", "    keys:\n      - value", "    keys:\n      - ann\n      - value"), false, "change key ann: plan free → paid"},
		{"a key twice, by name and by value", edit("- ann", "- {value: value-b-0123456789-0123456789}", "- value: "+valueB, "- hand\n      - value: by-hand-0123456789-0123456789"), false, "error f:13: this is the same key as on line 12"},
		{"another value", edit(valueA, "a-new-value-0123456789"), false, "change key bob: another value; the current one is refused from now on"},
		{"a value for a generated one", edit("- ann", "- {name: ann, value: a-new-value-0123456789}"), false, "change key ann: another value; the current one is refused from now on"},
		{"a key made by hand", edit("- ann", "- ann\n      - hand"), true, "change key hand: plan hand → free"},
		{"a plan made by hand", before + "  hand: {}\n", true, ""},
		{
			"a value that was rotated out", edit("- ann", "- ann\n      - {name: hand, value: "+valueC+"}"), false,
			`note f:8: the value of key "hand" here no longer opens it, since the key was rotated: write the new value, or none` + "\nchange key hand: plan hand → free",
		},

		// A renamed key is another one.
		{"renamed", edit("- ann", "- eve"), false, "note f: the file no longer has these keys, and they stay: ann; --prune removes them\nadd key eve: on plan free"},
		{"renamed, pruning", edit("- ann", "- eve"), true, "add key eve: on plan free\nremove key ann"},
		{"renamed with a value, pruning", edit("name: bob", "name: rob"), true, "add key rob: on plan free\nremove key bob"},
		{"renamed with a value", edit("name: bob", "name: rob"), false, `error f:8: the value of key "rob" opens key "bob" already`},
		{"a name for a nameless key", edit("- value", "- name: eve\n        value"), false, "change key 3: named eve"},
		{"a name taken away", edit("name: bob, ", ""), true, ""}, // the value says which key it is
		{"a value that opened another key", edit("- ann", "- {name: ann, value: "+valueC+"}"), false, `error f:7: the value of key "ann" opens key "hand" already, or did`},

		{
			"less", "name: shop\nplans:\n  free: {quota: {limit: 5, period: DAY}}\n", false,
			"note f: the file no longer has these keys, and they stay: 3, ann, bob; --prune removes them\n" +
				"note f: the file no longer has these plans, and they stay: paid; --prune removes them",
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
			c, err := f.Diff(state(), planfile.ApplyOptions{Prune: tt.prune}, now)
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
			if tt.name == "a plan made by hand" { // its owner is recorded
				c.PutPlans = nil
			}
			if changes := len(c.PutPlans) + len(c.PutKeys) + len(c.AddKeys) + len(c.SetValues) + len(c.DropKeys) + len(c.DropPlans); err == nil && (changes == 0) != (len(c.Lines) == 0) {
				t.Errorf("%d changes, %d lines", changes, len(c.Lines))
			}
		})
	}
}

// What belongs to another file is changed only if that is asked for, and no
// limit is dropped from a plan with keys by mistake.
func TestDiffRefuses(t *testing.T) {
	t.Parallel()
	keys := func(n int) planfile.State {
		s := state()
		s.Plans[0].Keys, s.Plans[1].Keys = n, n
		return s
	}
	edit := func(pairs ...string) string { return strings.NewReplacer(pairs...).Replace(before) }
	tests := []struct {
		name, file string
		keys       int
		opts       planfile.ApplyOptions
		want       string
	}{
		{"how many keys", edit("limit: 5", "limit: 6"), 3, planfile.ApplyOptions{}, "change plan free: 5 a day; no throttle → 6 a day; no throttle (for 3 keys)"},
		{"how many keys, one", edit("limit: 5", "limit: 6"), 1, planfile.ApplyOptions{}, "change plan free: 5 a day; no throttle → 6 a day; no throttle (for 1 key)"},
		{"a quota dropped", edit("    quota: {limit: 5, period: DAY}\n", ""), 3, planfile.ApplyOptions{}, `f:4: plan "free" would lose its quota, and 3 keys would be without: write the limit, or drop it with --drop-limits`},
		{"a throttle dropped", edit("    throttle: {rateLimit: 5}\n", ""), 1, planfile.ApplyOptions{}, `f:9: plan "paid" would lose its throttle, and 1 key would be without`},
		{"a quota for a throttle", edit("quota: {limit: 5, period: DAY}", "throttle: {rateLimit: 5}"), 1, planfile.ApplyOptions{}, `f:4: plan "free" would lose its quota`},
		{"a quota dropped, as asked", edit("    quota: {limit: 5, period: DAY}\n", ""), 3, planfile.ApplyOptions{DropLimits: true}, "change plan free: 5 a day; no throttle → no limits (for 3 keys)"},
		{"a quota dropped, without keys", edit("    quota: {limit: 5, period: DAY}\n", ""), 0, planfile.ApplyOptions{}, "change plan free: 5 a day; no throttle → no limits"},

		{
			"another file's plan", "name: other\nplans:\n  free: {quota: {limit: 9, period: DAY}}\n", 2,
			planfile.ApplyOptions{},
			`f:3: plan "free" belongs to the file with name: shop, and this file would change it for 2 keys (5 a day; no throttle → 9 a day; no throttle): give the plan of this file another name, or change it for both with --take-over`,
		},
		{"another file's plan, as asked", "name: other\nplans:\n  free: {quota: {limit: 9, period: DAY}}\n", 0, planfile.ApplyOptions{TakeOver: true}, "change plan free: 5 a day; no throttle → 9 a day; no throttle"},
		{"another file's plan, the same", "name: other\nplans:\n  free: {quota: {limit: 5, period: DAY}}\n", 2, planfile.ApplyOptions{}, ""},
		{"from nowhere", "plans:\n  free: {}\n", 0, planfile.ApplyOptions{}, `f:2: plan "free" belongs to`},
		{"another file's key", "name: other\nplans:\n  mine: {keys: [bob]}\n", 0, planfile.ApplyOptions{}, `f:3: key "bob" belongs to the file with name: shop, and this file would change it (plan free → mine)`},
		{"another file's key, as asked", "name: other\nplans:\n  mine: {keys: [bob]}\n", 0, planfile.ApplyOptions{TakeOver: true}, "add plan mine: no limits\nchange key bob: plan free → mine"},
		{"a plan of a service", "service: two\nprovider:\n  apiGateway:\n    usagePlan:\n      - service: {}\n", 0, planfile.ApplyOptions{}, `f:5: plan "service" belongs to the serverless.yml of one-dev`},
		{"a plan of a path", "plans: {path: {}}\n", 0, planfile.ApplyOptions{}, `f:1: plan "path" belongs to the file /a/plans.yaml (if that is this file at another place, give it a name: NAME)`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f, err := read("f", tt.file)
			if err != nil {
				t.Fatal(err)
			}
			s := keys(tt.keys)
			quota := &plan.Quota{Limit: 5, Period: plan.Day, Timezone: "UTC"}
			s.Plans = append(s.Plans, planfile.StoredPlan{Plan: plan.Plan{Name: "service", Quota: quota}, Owner: "service:one-dev"},
				planfile.StoredPlan{Plan: plan.Plan{Name: "path", Quota: quota}, Owner: "file:/a/plans.yaml"})
			c, err := f.Diff(s, tt.opts, now)
			var got []string
			for _, l := range c.Lines {
				got = append(got, fmt.Sprintf("%s %s %s: %s", l.Op, l.Kind, l.Name, l.Text))
			}
			if err != nil {
				got = []string{err.Error()[:min(len(err.Error()), len(tt.want))]}
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, "\n")); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// A listing of keys changes what is known here, and leaves out the rest.
func TestDiffListing(t *testing.T) {
	t.Parallel()
	const nobodys = "nobodys-value-0123456789"
	tests := []struct {
		name, rows string // name,key,usageplanids
		opts       planfile.KeyOptions
		want       string
	}{
		{"by name", "ann," + nobodys + ",", planfile.KeyOptions{}, "change key ann: another value; the current one is refused from now on"},
		{"a nameless one gets its name", "gateway-made," + valueB + ",", planfile.KeyOptions{}, "change key 3: named gateway-made"},
		{"another name, the same value", "gateway-made," + valueA + ",", planfile.KeyOptions{}, ""},
		{"others", "zoe," + nobodys + ",\nann," + nobodys + "-ann,\n,third-value-0123456789,", planfile.KeyOptions{}, "left out zoe\nleft out (no name, line 4)\nchange key ann: another value; the current one is refused from now on"},
		{"others that are wrong", "zoe,short,\nzoe," + nobodys + ",\nzoe," + nobodys + "-2,\n'bad ,x,", planfile.KeyOptions{}, "left out zoe\nleft out zoe\nleft out zoe\nleft out 'bad"},
		{"known, and wrong", "zoe,short,\nann,short,", planfile.KeyOptions{}, "error f:3: the key's value can't be used: a value must have 20 to 128 characters; this has 5"},
		{"known, and twice", "ann," + nobodys + ",\nann," + nobodys + "-2,", planfile.KeyOptions{}, `error f:3: the key "ann" is on line 2 already: a key is known by its name and has one plan`},
		{"a plan for all", "zoe," + nobodys + ",", planfile.KeyOptions{Plan: "free"}, "add key zoe: on plan free"},
		{"a plan for all, wrong", "zoe,short,", planfile.KeyOptions{Plan: "free"}, "error f:2: the key's value can't be used: a value must have 20 to 128 characters; this has 5"},
		{"a plan for all, known", "3," + valueB + ",\nhand,by-hand-0123456789-0123456789,", planfile.KeyOptions{Plan: "free"}, "change key 3: named 3"},
		{"a plan that is none", "zoe," + nobodys + ",", planfile.KeyOptions{Plan: "gold"}, "error f:2: there is no plan \"gold\": `helloapi plans list` shows existing plans"},
		{"a mapping", "zoe," + nobodys + ",c7\neve,third-value-0123456789,x1", planfile.KeyOptions{Plans: map[string]string{"c7": "paid"}}, "left out eve\nadd key zoe: on plan paid"},
		{"a mapping to none", "zoe," + nobodys + ",c7", planfile.KeyOptions{Plans: map[string]string{"c7": "gold"}}, "error f:2: there is no plan \"gold\": `helloapi plans list` shows existing plans"},
		{"plans beside a plan for all", "zoe," + nobodys + ",c7", planfile.KeyOptions{Plan: "free"}, "left out zoe"},
		{"a plan by its name", "zoe," + nobodys + ",paid", planfile.KeyOptions{}, "add key zoe: on plan paid"},
		{"known, on a plan that is not", "ann,generated-0123456789,c7", planfile.KeyOptions{}, `note f: usage plan "c7" is none here, so its keys keep their plan: --usage-plan c7=PLAN moves them`},
		{"a value of another key", "ann," + valueA + ",", planfile.KeyOptions{}, `error f:2: the value of key "ann" opens key "bob" already, or did, and a value opens one key only: delete that key first (helloapi keys delete bob), or give this one another value`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f, err := planfile.ReadKeys("f", []byte("name,key,usageplanids\n"+tt.rows), tt.opts)
			if err != nil {
				t.Fatal(err)
			}
			c, err := f.Diff(state(), planfile.ApplyOptions{Prune: true}, now)
			var got []string
			for _, n := range c.Notices {
				got = append(got, "note "+n)
			}
			for _, name := range c.LeftOut {
				got = append(got, "left out "+name)
			}
			for _, l := range c.Lines {
				got = append(got, fmt.Sprintf("%s %s %s: %s", l.Op, l.Kind, l.Name, l.Text))
			}
			if err != nil {
				got = []string{"error " + err.Error()}
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, "\n")); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
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
	c, err := f.Diff(s, planfile.ApplyOptions{}, now)
	if err != nil || len(c.Lines) != 0 || len(c.Notices) != 1 || !strings.Contains(c.Notices[0], "write enabled: true") {
		t.Errorf("%v, %v, %v", c.Lines, c.Notices, err)
	}
	if f, err = read("f", strings.Replace(before, "- ann", "- {name: ann, enabled: true}", 1)); err != nil {
		t.Fatal(err)
	}
	c, err = f.Diff(s, planfile.ApplyOptions{}, now)
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
	c, err := f.Diff(state(), planfile.ApplyOptions{Prune: true}, now)
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

// A changing is a store whose state is another one when a change is decided.
type changing struct{ looked, then planfile.State }

func (c changing) PlanState(context.Context, planfile.Scope) (planfile.State, error) {
	return c.looked, nil
}

func (c changing) ApplyPlans(_ context.Context, _ planfile.Scope, decide func(planfile.State) (planfile.Changes, error)) error {
	_, err := decide(c.then)
	return err
}

// What is removed or replaced is what was confirmed.
func TestApplyConfirmed(t *testing.T) {
	t.Parallel()
	more := state()
	more.Keys = append(more.Keys, planfile.StoredKey{ID: "5", Name: "new", Plan: "free", MadeBy: "name:shop", Values: []planfile.StoredValue{value("new-0123456789-0123456789")}})
	against := errors.New("against it")
	for name, test := range map[string]struct {
		file    string
		then    planfile.State
		confirm error
		asked   int
		want    string // of the error
	}{
		"nothing lost":            {before, state(), against, 0, ""},
		"a key removed":           {strings.Replace(before, "- ann", "", 1), state(), nil, 1, ""},
		"a value replaced":        {strings.Replace(before, valueA, "another-0123456789-0123456789", 1), state(), nil, 1, ""},
		"against it":              {strings.Replace(before, "- ann", "", 1), state(), against, 1, "against it"},
		"another key meanwhile":   {strings.Replace(before, "- ann", "", 1), more, nil, 1, "apply it again"},
		"the only one, meanwhile": {before, more, nil, 0, "apply it again"},
	} {
		f, err := planfile.Read("plans.yaml", []byte(test.file), planfile.Options{})
		if err != nil {
			t.Fatal(err)
		}
		asked := 0
		_, err = planfile.Apply(t.Context(), changing{state(), test.then}, f, planfile.ApplyOptions{Prune: true, Confirm: func(planfile.Changes) error {
			asked++
			return test.confirm
		}})
		if asked != test.asked || (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: asked %d times, %v; want %d, %q", name, asked, err, test.asked, test.want)
		}
	}
}
