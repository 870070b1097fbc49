package planfile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
)

// A State is what of a database a file is about.
type State struct {
	Plans []StoredPlan
	Keys  []StoredKey
}

// Add adds a key with a value, or only the value if the key was added last.
func (s *State) Add(k StoredKey, v StoredValue) {
	if n := len(s.Keys); n == 0 || s.Keys[n-1].ID != k.ID {
		s.Keys = append(s.Keys, k)
	}
	last := &s.Keys[len(s.Keys)-1]
	last.Values = append(last.Values, v)
}

// A StoredPlan is a plan in a database.
type StoredPlan struct {
	plan.Plan
	MadeBy string // the Source of the file that did, "" for none
	Owner  string // the Source of the file that says what the limits are, "" for none
	Keys   int    // how many are on it
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
	LeftOut []string // keys of a listing that nothing here knows
	Notices []string
}

// A Line is one change, as people read it.
type Line struct {
	Op   string `json:"op"`   // add, change or remove
	Kind string `json:"kind"` // plan or key
	Name string `json:"name"`
	Text string `json:"text"`           // what of it
	Keys int    `json:"keys,omitempty"` // that a change of their plan reaches
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
	file *File
	opts ApplyOptions
	now  time.Time

	plans   map[string]StoredPlan
	keys    map[string]StoredKey      // by name
	openers map[apikey.Hash]StoredKey // by what opens them, or did
	dropped map[string]bool           // IDs of keys
	matched map[string]Place          // IDs of keys, to where the file lists them
}

// Diff returns what makes the state agree with f. What a file does not say of
// a key is left as it is.
func (f *File) Diff(s State, opts ApplyOptions, now time.Time) (Changes, error) {
	d := &differ{
		file: f, opts: opts, now: now,
		plans: map[string]StoredPlan{}, keys: map[string]StoredKey{}, openers: map[apikey.Hash]StoredKey{}, dropped: map[string]bool{}, matched: map[string]Place{},
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
	keys := f.Keys
	if f.KeysOnly {
		keys = d.chosen(keys)
	}
	for _, k := range keys {
		d.key(k)
	}
	for _, k := range gone {
		d.line("remove", "key", label(k), "")
	}
	d.gonePlans(s.Plans)
	return d.Changes, d.err(f.Name)
}

func (d *differ) line(op, kind, name, text string) {
	d.Lines = append(d.Lines, Line{Op: op, Kind: kind, Name: name, Text: text})
}

func (d *differ) notice(format string, args ...any) {
	d.Notices = append(d.Notices, fmt.Sprintf(format, args...))
}

func (d *differ) at(p Place) string {
	return fmt.Sprintf("%s:%d", cmp.Or(p.File, d.file.Name), p.Line)
}

// maker returns the file that made what exists already and this file lists:
// the last file that did, of several. What no file made stays so.
func (d *differ) maker(madeBy string) string {
	if madeBy == "" || d.file.Source == "" {
		return madeBy
	}
	return d.file.Source
}

// foreign reports whether what belongs to a file belongs to another than this.
func (d *differ) foreign(owner string) bool {
	return owner != "" && owner != d.file.Source && !d.opts.TakeOver
}

// owner is a Source as messages have it, with how to be it.
func owner(source string) string {
	kind, name, _ := strings.Cut(source, ":")
	switch kind {
	case "service":
		return "the serverless.yml of " + name
	case "name":
		return "the file with name: " + name
	}
	return "the file " + name + " (if that is this file at another place, give it a name: NAME)"
}

func (d *differ) plan(p Plan) {
	old, ok := d.plans[p.Name]
	if !ok {
		d.PutPlans = append(d.PutPlans, StoredPlan{Plan: p.Plan, MadeBy: d.file.Source, Owner: d.file.Source})
		d.line("add", "plan", p.Name, limits(p.Plan))
		return
	}
	wanted := StoredPlan{Plan: p.Plan, MadeBy: d.maker(old.MadeBy), Owner: cmp.Or(old.Owner, d.file.Source)}
	same := limits(old.Plan) == limits(p.Plan) // which have every setting
	if !same {
		change := arrow(limits(old.Plan), limits(p.Plan))
		if d.foreign(old.Owner) {
			d.add(p.Place, "plan %q belongs to %s, and this file would change it for %s (%s): give the plan of this file another name, or change it for both with --take-over",
				p.Name, owner(old.Owner), count(old.Keys), change)
			return
		}
		if lost := lost(old.Plan, p.Plan); lost != "" && old.Keys > 0 && !d.opts.DropLimits {
			d.add(p.Place, "plan %q would lose its %s, and %s would be without: write the limit, or drop it with --drop-limits", p.Name, lost, count(old.Keys))
			return
		}
		if d.file.Source != "" {
			wanted.Owner = d.file.Source
		}
		if old.Keys > 0 {
			change += " (for " + count(old.Keys) + ")"
		}
		d.Lines = append(d.Lines, Line{"change", "plan", p.Name, change, old.Keys})
	}
	if !same || wanted.MadeBy != old.MadeBy || wanted.Owner != old.Owner {
		d.PutPlans = append(d.PutPlans, wanted)
	}
}

// count says how many keys there are.
func count(keys int) string {
	if keys == 1 {
		return "1 key"
	}
	return fmt.Sprintf("%d keys", keys)
}

// lost names the limits that from has and to has not.
func lost(from, to plan.Plan) string {
	var all []string
	if from.Quota != nil && to.Quota == nil {
		all = append(all, "quota")
	}
	if from.Throttle != nil && to.Throttle == nil {
		all = append(all, "throttle")
	}
	return strings.Join(all, " and ")
}

func limits(p plan.Plan) string {
	if p.Quota == nil && p.Throttle == nil {
		return "no limits"
	}
	quota, throttle := "no quota", "no throttle"
	if p.Quota != nil {
		quota = p.Quota.String()
	}
	if p.Throttle != nil {
		throttle = p.Throttle.String()
	}
	return quota + "; " + throttle
}

func arrow(from, to string) string { return from + " → " + to }

// label is what people know a key by.
func label(k StoredKey) string {
	return cmp.Or(k.Name, k.ID, k.Values[0].Display+"… (no name)")
}

// find returns the key that k is: the one of its name, or else the one that its
// value opens. A key that has no name gets that of the file.
func (d *differ) find(k Key) (old StoredKey, found bool) {
	if old, found = d.keys[k.Name]; found || k.Value == nil {
		return old, found
	}
	old, found = d.openers[k.Value.Hash()]
	found = found && !d.dropped[old.ID] && (k.Name == "" || old.Name == "" || d.file.KeysOnly)
	return old, found
}

// chosen returns the keys of a listing that are to be imported: those that are
// here already, by name or by value, and those that a plan is given for. The
// others belong to somebody else, and do no harm.
func (d *differ) chosen(keys []Key) (chosen []Key) {
	unknown := map[string]bool{}
	for _, k := range keys {
		_, found := d.find(k)
		if _, ok := d.plans[k.Plan]; !ok && k.Plan != "" && !k.Mapped {
			if found {
				unknown[k.Plan] = true
			}
			k.Plan = ""
			if !found {
				k.NewPlan = "" // it has a plan, and that is none of ours
			}
		}
		switch {
		case !found && k.Plan == "" && k.NewPlan == "":
			d.LeftOut = append(d.LeftOut, cmp.Or(k.Name, fmt.Sprintf("(no name, line %d)", k.Line)))
		case k.Wrong != "":
			d.add(k.Place, "%s", k.Wrong)
		default:
			chosen = append(chosen, k)
		}
	}
	for id := range unknown {
		d.notice("%s: usage plan %q is none here, so its keys keep their plan: --usage-plan %[2]s=PLAN moves them", d.file.Name, id)
	}
	slices.Sort(d.Notices)
	checkKeys(&d.mistakes, chosen)
	return chosen
}

func (d *differ) key(k Key) {
	old, found := d.find(k)
	if !found {
		k.Plan = cmp.Or(k.Plan, k.NewPlan)
	}
	if _, ok := d.plans[k.Plan]; d.file.KeysOnly && k.Plan != "" && !ok {
		d.add(k.Place, "there is no plan %q: `helloapi plans list` shows existing plans", k.Plan)
		return
	}
	var hash apikey.Hash
	if k.Value != nil {
		hash = k.Value.Hash()
		if opened, taken := d.openers[hash]; taken && !d.dropped[opened.ID] && (!found || opened.ID != old.ID) {
			d.add(k.Place, "the value of key %q opens key %q already, or did, and a value opens one key only: delete that key first (helloapi keys delete %[2]s), or give this one another value", k.Name, label(opened))
			return
		}
	}
	if found {
		if at, twice := d.matched[old.ID]; twice {
			if len(d.mistakes.list) == 0 { // else that may be known
				d.add(k.Place, "this is the same key as on %s: one has its name, the other its value", at)
			}
			return
		}
		d.matched[old.ID] = k.Place
		d.changeKey(k, old, hash)
		return
	}
	added := StoredKey{Name: k.Name, Plan: k.Plan, Enabled: true, MadeBy: d.file.Source}
	k.set(&added)
	v := NewValue{Made: k.Value == nil}
	if k.Value == nil {
		generated := apikey.Generate()
		k.Value = &generated
	}
	v.Value = *k.Value
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
	s.Name = cmp.Or(s.Name, k.Name)
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
	differs := func(same bool, text string) {
		if !same {
			texts = append(texts, text)
		}
	}
	differs(old.Name == wanted.Name, "named "+wanted.Name)
	differs(old.Plan == wanted.Plan, "plan "+arrow(cmp.Or(old.Plan, "none"), wanted.Plan))
	differs(old.Enabled == wanted.Enabled, map[bool]string{true: "enabled", false: "disabled"}[wanted.Enabled])
	differs(old.Description == wanted.Description, "description")
	differs(old.CustomerID == wanted.CustomerID, "customer id")
	differs(old.ExpiresAt.Equal(wanted.ExpiresAt), "expires "+wanted.ExpiresAt.UTC().Format(time.RFC3339))
	wanted.MadeBy = d.maker(old.MadeBy)
	if len(texts) > 0 || wanted.MadeBy != old.MadeBy {
		d.PutKeys = append(d.PutKeys, wanted)
	}
	if k.Value != nil {
		i := slices.IndexFunc(old.Values, func(v StoredValue) bool { return v.Hash == hash })
		switch {
		case i < 0:
			d.SetValues = append(d.SetValues, NewValue{Key: wanted, Value: *k.Value})
			texts = append(texts, "another value; the current one is refused from now on")
		case !old.Values[i].ExpiresAt.IsZero() && !d.now.Before(old.Values[i].ExpiresAt):
			d.notice("%s: the value of key %q here no longer opens it, since the key was rotated: write the new value, or none", d.at(k.Place), label(old))
		}
	}
	if k.Enabled == nil && !old.Enabled && !d.file.KeysOnly {
		d.notice("%s: key %q is disabled, and the file does not say: write enabled: true to enable it", d.at(k.Place), label(old))
	}
	if len(texts) == 0 {
		return
	}
	change := strings.Join(texts, "; ")
	if !d.file.KeysOnly && d.foreign(old.MadeBy) {
		d.add(k.Place, "key %q belongs to %s, and this file would change it (%s): give the key of this file another name, or change it for both with --take-over",
			label(old), owner(old.MadeBy), change)
		return
	}
	d.line("change", "key", label(old), change)
}

// gone finds the keys that earlier versions of the file made and this one does
// not have. It returns those that go.
func (d *differ) gone(keys []StoredKey) (gone []StoredKey) {
	names, ids := map[string]bool{}, map[string]bool{}
	for _, k := range d.file.Keys {
		if names[k.Name] = true; k.Value != nil {
			if opened := d.openers[k.Value.Hash()]; k.Name == "" || opened.Name == "" {
				ids[opened.ID] = true
			}
		}
	}
	for _, k := range keys {
		if k.MadeBy == d.file.Source && (k.Name == "" || !names[k.Name]) && !ids[k.ID] {
			gone = append(gone, k)
		}
	}
	slices.SortFunc(gone, func(a, b StoredKey) int { return strings.Compare(label(a), label(b)) })
	var labels []string
	for _, k := range gone {
		labels = append(labels, label(k))
	}
	if !d.prune("keys", labels) {
		return nil
	}
	for _, k := range gone {
		d.dropped[k.ID] = true
		d.DropKeys = append(d.DropKeys, k.ID)
	}
	return gone
}

func (d *differ) gonePlans(plans []StoredPlan) {
	var gone []string
	for _, p := range plans {
		if p.MadeBy == d.file.Source && !slices.ContainsFunc(d.file.Plans, func(l Plan) bool { return l.Name == p.Name }) {
			gone = append(gone, p.Name)
		}
	}
	if d.prune("plans", gone) {
		for _, name := range gone {
			d.DropPlans = append(d.DropPlans, name)
			d.line("remove", "plan", name, "")
		}
	}
}

// prune reports whether what the file no longer has is to be removed. If not,
// it says that it is still there.
func (d *differ) prune(what string, names []string) bool {
	if d.file.Source == "" || d.file.KeysOnly || d.opts.Prune || len(names) == 0 {
		return d.file.Source != "" && !d.file.KeysOnly && d.opts.Prune
	}
	if n := len(names); n > 10 {
		names = append(names[:10:10], fmt.Sprintf("and %d more", n-10))
	}
	d.notice("%s: the file no longer has these %s, and they stay: %s; --prune removes them", d.file.Name, what, strings.Join(names, ", "))
	return false
}
