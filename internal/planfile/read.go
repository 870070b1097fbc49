package planfile

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
	"helloapi/internal/textfile"
)

// Read reads a plans file or a serverless.yml, called name in messages. Its
// error is *Mistakes.
func Read(name string, data []byte, opts Options) (*File, error) {
	m := &mistakes{}
	r := newResolver(m, opts, len(data))
	d := &decoder{mistakes: m, file: &File{Name: name}}
	r.bounded(func() { d.read(r, data) })
	d.checkVariety()
	checkKeys(m, d.file.Keys)
	if err := m.err(name); err != nil {
		return nil, err
	}
	if d.file.Source == "" && opts.Path != "" {
		d.file.Source = "file:" + opts.Path
	}
	return d.file, nil
}

// A decoder makes plans and keys of resolved nodes.
type decoder struct {
	*mistakes
	file *File
	own  bool // a file of our own, which says more than a serverless.yml
}

func (d *decoder) read(r *resolver, data []byte) {
	if r.root = r.parse("", data); r.root.Node == nil {
		return
	}
	has := map[string]bool{}
	if r.root.Kind == yaml.MappingNode {
		for _, e := range r.entries(r.root) {
			has[e.key] = true
		}
	}
	switch {
	case has["plans"] && !has["provider"]:
		d.own = true
		d.plansFile(r.tree(r.root))
	case has["provider"] || has["service"]:
		d.serverless(r)
	default:
		d.add(r.root.at(), "this is neither a plans file (plans: …) nor a serverless.yml (provider: …)")
	}
}

// plansFile reads a plans file of our own:
//
//	name: shop
//	plans:
//	  free:
//	    quota: {limit: 5, period: DAY}
//	    keys: [testkey1]
func (d *decoder) plansFile(top *node) {
	for _, e := range top.fields {
		switch {
		case e.key == "name":
			if s, ok := d.text(e.value, "name"); ok {
				d.file.Source = "name:" + s
			}
		case e.key == "plans" && e.value.kind != mapping:
			d.wrong(e.value, "plans must be a mapping (name: value)")
		case e.key == "plans":
			for _, p := range e.value.fields {
				d.plan(p.key, p.Place, p.value)
			}
		case e.key == "$schema", strings.HasPrefix(e.key, "x-"): // the latter for anchors
		default:
			d.add(e.Place, "a plans file has no setting %q, only name, plans, and x-… for what is used elsewhere by an alias", e.key)
		}
	}
}

// wrong reports n, unless that was done already.
func (d *decoder) wrong(n *node, format string, args ...any) {
	if n.kind != bad {
		d.add(n.Place, format, args...)
	}
}

// A setting is one that a mapping may have, and what to do with it.
type setting struct {
	key string
	set func(*node)
}

// indent is where settings belong that are often too far to the left.
var indent = map[string]string{
	"limit": "quota", "period": "quota", "offset": "quota", "rateLimit": "throttle", "burstLimit": "throttle",
}

// settings reads a mapping that has these settings and no others. Empty ones,
// of which all lines are commented out, are like those that are not there.
func (d *decoder) settings(n *node, what string, known []setting) {
	for _, f := range n.fields {
		i := slices.IndexFunc(known, func(s setting) bool { return s.key == f.key })
		under := indent[f.key]
		switch {
		case i < 0 && under != "" && n.has(under):
			d.add(f.Place, "%s must be indented under %s:", f.key, under)
		case i < 0:
			names := make([]string, len(known))
			for i, s := range known {
				names[i] = s.key
			}
			more := ""
			if f.value.kind == mapping && strings.HasPrefix(what, "plan ") {
				more = "; several plans are a list: - NAME: …"
			}
			d.add(f.Place, "%s has no setting %s, only %s%s", what, settingName(f.key), enumerate(names), more)
		case f.value.kind != null:
			known[i].set(f.value)
		}
	}
}

// enumerate joins words as people do: "a, b and c".
func enumerate(words []string) string {
	last := len(words) - 1
	if last == 0 {
		return words[0]
	}
	return strings.Join(words[:last], ", ") + " and " + words[last]
}

// plan reads the settings of a plan, and adds it to the file with its keys.
func (d *decoder) plan(name string, at Place, n *node) {
	what := "plan " + strconv.Quote(name)
	mistakes := len(d.list)
	switch {
	case n.kind == null:
		d.add(at, "%s has nothing under it: indent its quota and throttle, or write {} for a plan without limits", what)
		return
	case n.kind != mapping:
		d.wrong(n, "%s must have quota and throttle under it", what)
		return
	case strings.Contains(name, "${"):
		d.add(at, "a plan's name can't have variables (${…}): write what it is called")
	}
	p := Plan{Plan: plan.Plan{Name: name}, Place: at}
	places := map[string]Place{"name": at}
	known := []setting{
		{"quota", func(n *node) { p.Quota = d.quota(n, what, places) }},
		{"throttle", func(n *node) { p.Throttle = d.throttle(n, what, places) }},
	}
	if d.own {
		known = append(known, setting{"keys", func(n *node) {
			if n.kind != list {
				d.wrong(n, "keys of %s must be a list: begin each line with a dash (- NAME), or write [] for none", what)
			}
			for _, k := range n.items {
				d.key(k, name)
			}
		}})
	}
	d.settings(n, what, known)
	if len(d.list) == mistakes && n.sound() {
		for _, m := range p.Mistakes() {
			d.add(places[m.Setting], "%s: %s", what, m.Text)
		}
	}
	d.file.Plans = append(d.file.Plans, p)
}

// limit checks that n is a mapping with settings, and notes where each is.
func (d *decoder) limit(n *node, kind, what string, places map[string]Place, names ...string) bool {
	if n.kind != mapping {
		d.wrong(n, "%s of %s must be a mapping (name: value)", kind, what)
		return false
	}
	for _, name := range names {
		places[kind+" "+name] = n.Place
	}
	for _, f := range n.fields {
		places[kind+" "+f.key] = f.Place
	}
	return true
}

func (d *decoder) quota(n *node, what string, places map[string]Place) *plan.Quota {
	if !d.limit(n, "quota", what, places, "limit", "period", "offset", "timezone") {
		return nil
	}
	q, mistakes := &plan.Quota{Limit: -1, Timezone: "UTC"}, len(d.list)
	known := []setting{
		{"limit", func(n *node) { q.Limit = d.whole(n, "quota limit") }},
		{"period", func(n *node) {
			s, _ := d.text(n, "quota period")
			q.Period = plan.Period(strings.ToUpper(s))
		}},
		{"offset", func(n *node) { q.Offset = int(max(-1, min(d.whole(n, "quota offset"), 1<<31-1))) }},
	}
	if d.own {
		known = append(known, setting{"timezone", func(n *node) { q.Timezone, _ = d.text(n, "quota timezone") }})
	}
	d.settings(n, "quota of "+what, known)
	for _, name := range []string{"limit", "period"} {
		if f := n.get(name); len(d.list) == mistakes && (f == nil || f.kind == null) {
			d.add(n.Place, "quota of %s has no %s: it needs limit and period; take it out for no quota", what, name)
		}
	}
	return q
}

func (d *decoder) throttle(n *node, what string, places map[string]Place) *plan.Throttle {
	if !d.limit(n, "throttle", what, places, "rateLimit", "burstLimit") {
		return nil
	}
	t, mistakes := &plan.Throttle{}, len(d.list)
	d.settings(n, "throttle of "+what, []setting{
		{"rateLimit", func(n *node) { t.Rate = d.number(n, "throttle rateLimit") }},
		{"burstLimit", func(n *node) { t.Burst = d.whole(n, "throttle burstLimit") }},
	})
	if f := n.get("rateLimit"); len(d.list) == mistakes && (f == nil || f.kind == null) {
		d.add(n.Place, "throttle of %s has no rateLimit: it needs one, in requests a second; take it out for no throttle", what)
	}
	if f := n.get("burstLimit"); f == nil || f.kind == null {
		t.Burst = 1 // for one mistake, not two
		if t.Rate >= plan.MinRate && t.Rate <= plan.MaxRate {
			t.Burst = plan.DefaultBurst(t.Rate)
		}
	}
	return t
}

// text returns the text of n, as it is written: 007 is not 7.
func (d *decoder) text(n *node, what string) (string, bool) {
	switch {
	case n.kind != text:
		d.wrong(n, "%s must be a text", what)
		return "", false
	case !storable(n.text):
		d.add(n.Place, "%s must be text in UTF-8, without NUL characters", what)
		return "", false
	}
	return n.text, true
}

// storable reports whether every database takes s.
func storable(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

var (
	// Numbers that are octal to some begin with 0.
	wholePattern  = regexp.MustCompile(`^[+-]?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][+-]?[0-9]+)?$`)
	numberPattern = regexp.MustCompile(`^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$`)
)

func (d *decoder) whole(n *node, what string) int64 {
	s, ok := d.text(n, what)
	v, whole := textfile.Whole(s)
	switch {
	case !ok || whole && wholePattern.MatchString(s):
	case wholePattern.MatchString(s) && !strings.ContainsAny(s, ".-"):
		d.add(n.Place, "%s is too large a number", what)
	default:
		d.add(n.Place, "%s must be a whole number, such as 5000", what)
	}
	return v
}

func (d *decoder) number(n *node, what string) float64 {
	s, ok := d.text(n, what)
	v, err := strconv.ParseFloat(s, 64)
	if ok && (err != nil || !numberPattern.MatchString(s)) {
		d.add(n.Place, "%s must be a number, such as 100 or 0.5", what)
	}
	return v
}

// keySettings are those of a key that is more than a name, in any file.
var keySettings = []string{"name", "value", "description", "customerId", "enabled"}

// key reads a key, a name or a mapping, and adds it to the file on the plan.
func (d *decoder) key(n *node, planName string) {
	k, mistakes := Key{Plan: planName, Place: n.Place}, len(d.list)
	switch n.kind {
	case null:
		d.add(n.Place, "a key is empty: write its name behind the dash, or take the line out")
	case text:
		if k.Name, _ = d.text(n, "a key's name"); n.text == "" {
			d.add(n.Place, "a key has an empty name")
		}
	case mapping:
		d.keySettings(&k, n)
	default:
		d.wrong(n, "a key must be a name, or a mapping with %s", enumerate(keySettings))
	}
	if len(d.list) == mistakes && n.sound() {
		d.file.Keys = append(d.file.Keys, k)
	}
}

func (d *decoder) keySettings(k *Key, n *node) {
	textOf := func(key string, set func(string)) setting {
		return setting{key, func(n *node) {
			if s, ok := d.text(n, "a key's "+key); ok {
				set(s)
			}
		}}
	}
	known := []setting{
		{"name", func(n *node) {
			if k.Name, _ = d.text(n, "a key's name"); n.kind == text && n.text == "" {
				d.add(n.Place, "a key has an empty name: take the line out for a key that is known by its value")
			}
		}},
		{"value", func(n *node) {
			s, ok := d.text(n, "a key's value")
			if s == "" { // as of a variable that is not set
				return
			}
			v, err := apikey.Parse(s)
			if ok && err != nil {
				d.add(n.Place, "a key's value can't be used: %v", err)
			}
			k.Value = &v
		}},
		textOf("description", func(s string) { k.Description = &s }),
		textOf("customerId", func(s string) { k.CustomerID = &s }),
		{"enabled", func(n *node) {
			s, ok := d.text(n, "a key's enabled")
			on := strings.EqualFold(s, "true")
			if k.Enabled = &on; ok && !on && !strings.EqualFold(s, "false") {
				d.add(n.Place, "a key's enabled must be true or false")
			}
		}},
	}
	if d.own {
		known = append(known, setting{"expires", func(n *node) {
			s, ok := d.text(n, "a key's expires")
			t, err := parseTime(s)
			if k.Expires = &t; ok && err != nil {
				d.add(n.Place, "a key's expires must be a date (2030-12-31) or a time (2030-12-31T12:00:00Z)")
			}
		}})
	}
	d.settings(n, "a key", known)
}

// parseTime reads a date or a time, to the millisecond that every database
// keeps.
func parseTime(s string) (time.Time, error) {
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	return t.Truncate(time.Millisecond), err
}
