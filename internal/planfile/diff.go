package planfile

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
)

// A Store is a database that files are applied to.
type Store interface {
	// ApplyPlans has decide compare the present state with a file, and makes
	// the changes that it returns, in one transaction: all or, after any error,
	// none. Nothing else changes plans or keys meanwhile; of several calls, by
	// whatever process, the others wait. The state has every plan, and of the
	// keys those in scope.
	ApplyPlans(ctx context.Context, scope Scope, decide func(State) (Changes, error)) error
}

// A State is what of a database a file is about.
type State struct {
	Plans []StoredPlan
	Keys  []StoredKey
}

// A StoredPlan is a plan in a database.
type StoredPlan struct {
	plan.Plan
	MadeBy string // the Source of the file that did, "" for none
}

// A StoredKey is a key in a database, or how it is to be.
type StoredKey struct {
	ID          string // "" for one that is to be made
	Name        string
	Plan        string // "": none
	Enabled     bool
	Description string
	CustomerID  string
	ExpiresAt   time.Time // the zero time: never
	MadeBy      string    // the Source of the file that did, "" for none
	Values      []StoredValue
}

// A StoredValue is a value that opens a key, or did.
type StoredValue struct {
	Hash      apikey.Hash
	Display   string
	ExpiresAt time.Time // the zero time: not before its key
}

// A NewValue is a value that is to open a key.
type NewValue struct {
	Key   StoredKey
	Value apikey.Value
	Made  bool // here, and so known to nobody yet
}

// Changes are what makes a database agree with a file, to be done in the order
// of the fields.
type Changes struct {
	DropKeys  []string // by ID
	PutPlans  []StoredPlan
	PutKeys   []StoredKey // that are there
	AddKeys   []NewValue
	SetValues []NewValue // those that opened the key before no longer do
	DropPlans []string   // which no key is on any more, or PlanInUseError

	// Lines say it to people, and nothing that is done for the record only.
	Lines   []Line
	Notices []string
}

// A Line is one change, as people read it.
type Line struct {
	Op   string `json:"op"`   // add, change or remove
	Kind string `json:"kind"` // plan or key
	Name string `json:"name"`
	Text string `json:"text"` // what of it
}

// A PlanInUseError says that a plan can't be removed: keys are on it that the
// file did not make.
type PlanInUseError struct{ Plan, Key string }

func (e *PlanInUseError) Error() string {
	return fmt.Sprintf("plan %q is to be removed, but key %q is on it, which this file did not make: give the key another plan or delete it first, or leave out --prune", e.Plan, e.Key)
}

// A differ compares a file with a state.
type differ struct {
	mistakes
	Changes
	file  *File
	now   time.Time
	prune bool

	plans   map[string]StoredPlan
	keys    map[string]StoredKey      // by name
	openers map[apikey.Hash]StoredKey // by what opens them, or did
	dropped map[string]bool           // IDs of keys
}

// Diff returns what makes the state agree with f. With prune that includes
// removing what earlier versions of f made and this one does not have. What a
// file does not say of a key is left as it is.
func (f *File) Diff(s State, prune bool, now time.Time) (Changes, error) {
	d := &differ{
		file: f, now: now, prune: prune,
		plans: map[string]StoredPlan{}, keys: map[string]StoredKey{}, openers: map[apikey.Hash]StoredKey{}, dropped: map[string]bool{},
	}
	for _, p := range s.Plans {
		d.plans[p.Name] = p
	}
	for _, k := range s.Keys {
		if k.Name != "" {
			d.keys[k.Name] = k
		}
		for _, v := range k.Values {
			d.openers[v.Hash] = k
		}
	}
	for _, p := range f.Plans {
		d.plan(p)
	}
	gone := d.gone(s.Keys)
	for _, k := range f.Keys {
		d.key(k)
	}
	for _, k := range gone {
		d.line("remove", "key", label(k), "")
	}
	d.gonePlans(s.Plans)
	return d.Changes, d.err(f.Name)
}

func (d *differ) line(op, kind, name, text string) {
	d.Lines = append(d.Lines, Line{op, kind, name, text})
}

func (d *differ) notice(format string, args ...any) {
	d.Notices = append(d.Notices, fmt.Sprintf(format, args...))
}

// owner returns who has made what is there already, once this file lists it:
// the last file that did, of several. What no file made stays so.
func (d *differ) owner(madeBy string) string {
	if madeBy == "" || d.file.Source == "" {
		return madeBy
	}
	return d.file.Source
}

func (d *differ) plan(p Plan) {
	old, ok := d.plans[p.Name]
	if !ok {
		d.PutPlans = append(d.PutPlans, StoredPlan{p.Plan, d.file.Source})
		d.line("add", "plan", p.Name, limits(p.Plan))
		return
	}
	same := quotaEqual(old.Quota, p.Quota) && throttleEqual(old.Throttle, p.Throttle)
	if !same {
		d.line("change", "plan", p.Name, arrow(limits(old.Plan), limits(p.Plan)))
	}
	if owner := d.owner(old.MadeBy); !same || owner != old.MadeBy {
		d.PutPlans = append(d.PutPlans, StoredPlan{p.Plan, owner})
	}
}

func limits(p plan.Plan) string {
	switch {
	case p.Quota == nil && p.Throttle == nil:
		return "no limits"
	case p.Quota == nil:
		return "no quota; " + p.Throttle.String()
	case p.Throttle == nil:
		return p.Quota.String() + "; no throttle"
	}
	return p.Quota.String() + "; " + p.Throttle.String()
}

func quotaEqual(a, b *plan.Quota) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := *a, *b
	for _, q := range []*plan.Quota{&x, &y} {
		if q.Timezone == "" {
			q.Timezone = "UTC"
		}
	}
	return x == y
}

func throttleEqual(a, b *plan.Throttle) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

func arrow(from, to string) string { return from + " → " + to }

// label is what people know a key by.
func label(k StoredKey) string {
	if k.Name != "" {
		return k.Name
	}
	if k.ID != "" {
		return k.ID
	}
	if len(k.Values) > 0 {
		return k.Values[0].Display + "… (no name)"
	}
	return "(no name)"
}

func (d *differ) key(k Key) {
	if _, ok := d.plans[k.Plan]; d.file.KeysOnly && k.Plan != "" && !ok {
		d.add(k.Line, "there is no plan %q: `helloapi plans list` shows those there are; --usage-plan %[1]s=PLAN says which of them it is", k.Plan)
		return
	}
	old, found := d.keys[k.Name]
	var hash apikey.Hash
	if k.Value != nil {
		hash = k.Value.Hash()
		opened, taken := d.openers[hash]
		taken = taken && !d.dropped[opened.ID]
		if k.Name == "" {
			if taken && opened.Name != "" {
				d.add(k.Line, "the value of this key opens key %q already: add name: %s, or delete that key first", opened.Name, opened.Name)
				return
			}
			old, found = opened, taken
		} else if taken && (!found || opened.ID != old.ID) {
			d.add(k.Line, "the value of key %q opens key %q already, or did, and a value opens one key only: delete that key first (helloapi keys delete %[2]s), or give this one another value", k.Name, label(opened))
			return
		}
	}
	if found {
		d.changeKey(k, old, hash)
		return
	}
	if k.Plan == "" {
		d.add(k.Line, "this key is new, and nothing says which plan it is on: give --plan PLAN")
		return
	}
	added := StoredKey{Name: k.Name, Plan: k.Plan, Enabled: true, MadeBy: d.file.Source}
	k.set(&added)
	v := NewValue{Made: k.Value == nil}
	if v.Made {
		v.Value = apikey.Generate()
	} else {
		v.Value = *k.Value
	}
	added.Values = []StoredValue{{Hash: v.Value.Hash(), Display: v.Value.Display()}}
	v.Key = added
	d.AddKeys = append(d.AddKeys, v)
	text := "on plan " + k.Plan
	if !added.Enabled {
		text += ", disabled"
	}
	d.line("add", "key", label(added), text)
}

// set does to a key what the file says of it.
func (k Key) set(s *StoredKey) {
	if k.Plan != "" {
		s.Plan = k.Plan
	}
	if k.Description != nil {
		s.Description = *k.Description
	}
	if k.CustomerID != nil {
		s.CustomerID = *k.CustomerID
	}
	if k.Enabled != nil {
		s.Enabled = *k.Enabled
	}
	if k.Expires != nil {
		s.ExpiresAt = *k.Expires
	}
}

func (d *differ) changeKey(k Key, old StoredKey, hash apikey.Hash) {
	wanted := old
	k.set(&wanted)
	var texts []string
	if old.Plan != wanted.Plan {
		from := old.Plan
		if from == "" {
			from = "none"
		}
		texts = append(texts, "plan "+arrow(from, wanted.Plan))
	}
	if old.Enabled != wanted.Enabled {
		texts = append(texts, map[bool]string{true: "enabled", false: "disabled"}[wanted.Enabled])
	}
	if old.Description != wanted.Description {
		texts = append(texts, "description")
	}
	if old.CustomerID != wanted.CustomerID {
		texts = append(texts, "customer id")
	}
	if !old.ExpiresAt.Equal(wanted.ExpiresAt) {
		texts = append(texts, "expires "+wanted.ExpiresAt.UTC().Format(time.RFC3339))
	}
	wanted.MadeBy = d.owner(old.MadeBy)
	if len(texts) > 0 || wanted.MadeBy != old.MadeBy {
		d.PutKeys = append(d.PutKeys, wanted)
	}

	if k.Value != nil {
		i := slices.IndexFunc(old.Values, func(v StoredValue) bool { return v.Hash == hash })
		switch {
		case i < 0:
			d.SetValues = append(d.SetValues, NewValue{Key: wanted, Value: *k.Value})
			texts = append(texts, "another value; the present one is refused from now on")
		case !old.Values[i].ExpiresAt.IsZero() && !d.now.Before(old.Values[i].ExpiresAt):
			d.notice("%s:%d: the value of key %q here no longer opens it, since the key was rotated: write the new value, or none", d.file.Name, k.Line, label(old))
		}
	}
	if k.Enabled == nil && !old.Enabled && !d.file.KeysOnly {
		d.notice("%s:%d: key %q is disabled, and the file does not say: write enabled: true to enable it", d.file.Name, k.Line, label(old))
	}
	if len(texts) > 0 {
		d.line("change", "key", label(old), strings.Join(texts, "; "))
	}
}

// gone finds the keys that earlier versions of the file made and this one does
// not have. It returns those that go.
func (d *differ) gone(keys []StoredKey) []StoredKey {
	if d.file.Source == "" || d.file.KeysOnly {
		return nil
	}
	names, ids := map[string]bool{}, map[string]bool{}
	for _, k := range d.file.Keys {
		if k.Name != "" {
			names[k.Name] = true
		} else if k.Value != nil {
			ids[d.openers[k.Value.Hash()].ID] = true
		}
	}
	var gone []StoredKey
	for _, k := range keys {
		if k.MadeBy == d.file.Source && !names[k.Name] && !(k.Name == "" && ids[k.ID]) {
			gone = append(gone, k)
		}
	}
	slices.SortFunc(gone, func(a, b StoredKey) int { return strings.Compare(label(a), label(b)) })
	if !d.prune {
		labels := make([]string, len(gone))
		for i, k := range gone {
			labels[i] = label(k)
		}
		d.leftBehind("key", "keys", labels)
		return nil
	}
	for _, k := range gone {
		d.dropped[k.ID] = true
		d.DropKeys = append(d.DropKeys, k.ID)
	}
	return gone
}

func (d *differ) gonePlans(plans []StoredPlan) {
	if d.file.Source == "" || d.file.KeysOnly {
		return
	}
	listed := map[string]bool{}
	for _, p := range d.file.Plans {
		listed[p.Name] = true
	}
	var gone []string
	for _, p := range plans {
		if p.MadeBy == d.file.Source && !listed[p.Name] {
			gone = append(gone, p.Name)
		}
	}
	if !d.prune {
		d.leftBehind("plan", "plans", gone)
		return
	}
	for _, name := range gone {
		d.DropPlans = append(d.DropPlans, name)
		d.line("remove", "plan", name, "")
	}
}

// leftBehind says what --prune would remove.
func (d *differ) leftBehind(one, many string, names []string) {
	what := many
	switch n := len(names); {
	case n == 0:
		return
	case n == 1:
		what = one
	case n > 10:
		names = append(names[:10:10], fmt.Sprintf("and %d more", n-10))
	}
	d.notice("%s: left as they are, though the file has them no more: %s %s; --prune removes them", d.file.Name, what, strings.Join(names, ", "))
}
