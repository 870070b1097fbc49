package planfile

import (
	"errors"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
)

// Read reads a plans file or a serverless.yml, called name in messages. Its
// error is *Mistakes.
func Read(name string, data []byte, opts Options) (*File, error) {
	r := &reader{opts: opts, steps: maxSteps + len(data)}
	f := &File{Name: name}
	r.bounded(func() { r.read(f, data) })
	checkKeys(&r.mistakes, f.Keys)
	if err := r.err(name); err != nil {
		return nil, err
	}
	if f.Source == "" && opts.Path != "" {
		f.Source = "file:" + opts.Path
	}
	return f, nil
}

// bounded does f, and reports it where that is more than is bearable.
func (r *reader) bounded(f func()) {
	defer func() {
		switch p := recover(); {
		case p == errTooMuch:
			r.add(1, "%v: write out what they stand for", errTooMuch)
		case p != nil:
			panic(p)
		}
	}()
	f()
}

func (r *reader) read(f *File, data []byte) {
	if len(data) > MaxSize {
		r.add(1, "the file is larger than %d MB", MaxSize>>20)
		return
	}
	if r.root = r.parse(data); r.root == nil {
		return
	}
	top := r.entries(r.root)
	switch {
	case find(top, "plans") != nil && find(top, "provider") == nil:
		r.plansFile(f, top)
	case find(top, "provider") != nil || find(top, "service") != nil:
		r.serverless(f, top)
	default:
		r.add(r.root.Line, "this is neither a plans file (plans: …) nor a serverless.yml (provider: …)")
	}
}

// plansFile reads a plans file of our own:
//
//	name: shop
//	plans:
//	  free:
//	    quota: {limit: 5, period: DAY}
//	    keys: [testkey1]
func (r *reader) plansFile(f *File, top []entry) {
	for _, e := range top {
		switch {
		case e.key == "name":
			if name, _, ok := r.text(e.value, "name"); ok {
				f.Source = "name:" + name
			}
		case e.key == "plans":
			plans, ok := r.mapping(e.value, "plans")
			if !ok {
				continue
			}
			for _, p := range plans {
				r.planWithKeys(f, p)
			}
		case e.key == "$schema", strings.HasPrefix(e.key, "x-"): // the latter for anchors
		default:
			r.add(e.line, "a plans file has no setting %q, only name, plans, and x-… for what is used elsewhere by an alias", e.key)
		}
	}
}

func (r *reader) planWithKeys(f *File, e entry) {
	what := "plan " + strconv.Quote(e.key)
	settings, ok := r.planSettings(e, what)
	if !ok {
		return
	}
	if !r.unknown(settings, what, "quota", "throttle", "keys") {
		return
	}
	r.plan(f, e.key, e.line, settings, true)
	keys := find(settings, "keys")
	if keys == nil {
		return
	}
	for _, item := range r.items(keys, "keys of "+what) {
		r.key(f, item, e.key, true)
	}
}

// items returns the items of a list.
func (r *reader) items(n *yaml.Node, what string) []*yaml.Node {
	n = r.resolve(n, what)
	switch {
	case n == nil:
		return nil
	case n.Kind != yaml.SequenceNode:
		r.add(n.Line, "%s must be a list: begin each line with a dash (- NAME), or write [] for none", what)
		return nil
	}
	return n.Content
}

// planSettings returns the settings of the plan that e is.
func (r *reader) planSettings(e entry, what string) ([]entry, bool) {
	n := r.resolve(e.value, what)
	switch {
	case n == nil:
		return nil, false
	case isNull(n):
		r.add(e.line, "%s has nothing under it: indent its quota and throttle, or write {} for a plan without limits", what)
		return nil, false
	case n.Kind != yaml.MappingNode:
		r.add(n.Line, "%s must have quota and throttle under it", what)
		return nil, false
	}
	return r.entries(n), true
}

// plan reads quota and throttle among the settings and adds the plan to f. In
// a file of our own a quota has a time zone.
func (r *reader) plan(f *File, name string, line int, settings []entry, own bool) {
	p := Plan{Plan: plan.Plan{Name: name}, Line: line}
	lines := map[string]int{"name": line}
	good := true
	if strings.Contains(name, "${") {
		r.add(line, "a plan's name can't have variables (${…}): write what it is called")
		good = false
	} else if strings.ContainsFunc(name, unicode.IsControl) || !utf8.ValidString(name) {
		r.add(line, "a plan's name must not have control characters: %q", name)
		good = false
	}
	if n := find(settings, "quota"); n != nil {
		good = r.quota(&p, n, lines, own) && good
	}
	if n := find(settings, "throttle"); n != nil {
		good = r.throttle(&p, n, lines) && good
	}
	if !good {
		return
	}
	for _, m := range p.Mistakes() {
		r.add(lines[m.Setting], "plan %q: %s", name, m.Text)
	}
	f.Plans = append(f.Plans, p)
}

func (r *reader) quota(p *Plan, n *yaml.Node, lines map[string]int, own bool) (ok bool) {
	what := "quota of plan " + strconv.Quote(p.Name)
	settings, line, ok := r.section(n, what)
	if !ok {
		return false
	}
	known := []string{"limit", "period", "offset"}
	if own {
		known = append(known, "timezone")
	}
	ok = r.unknown(settings, what, known...)
	q := plan.Quota{Timezone: "UTC"}
	for _, s := range []string{"limit", "period", "offset", "timezone"} {
		lines["quota "+s] = line
	}
	for _, e := range settings {
		setting := "quota " + e.key
		lines[setting] = e.line
		switch e.key {
		case "limit":
			q.Limit, ok = r.whole(e.value, setting, ok)
		case "offset":
			var n int64
			n, ok = r.whole(e.value, setting, ok)
			q.Offset = int(max(-1, min(n, math.MaxInt32)))
		case "period":
			s, _, good := r.text(e.value, setting)
			q.Period, ok = plan.Period(strings.ToUpper(s)), ok && good
		case "timezone":
			if own {
				s, _, good := r.text(e.value, setting)
				q.Timezone, ok = s, ok && good
			}
		}
	}
	for _, s := range []string{"limit", "period"} {
		if ok && find(settings, s) == nil {
			r.add(line, "%s has no %s: it needs limit and period", what, s)
			ok = false
		}
	}
	p.Quota = &q
	return ok
}

func (r *reader) throttle(p *Plan, n *yaml.Node, lines map[string]int) (ok bool) {
	what := "throttle of plan " + strconv.Quote(p.Name)
	settings, line, ok := r.section(n, what)
	if !ok {
		return false
	}
	ok = r.unknown(settings, what, "rateLimit", "burstLimit")
	var t plan.Throttle
	for _, s := range []string{"rateLimit", "burstLimit"} {
		lines["throttle "+s] = line
	}
	for _, e := range settings {
		setting := "throttle " + e.key
		lines[setting] = e.line
		switch e.key {
		case "rateLimit":
			t.Rate, ok = r.number(e.value, setting, ok)
		case "burstLimit":
			t.Burst, ok = r.whole(e.value, setting, ok)
		}
	}
	if ok && find(settings, "rateLimit") == nil {
		r.add(line, "%s has no rateLimit: it needs one, in requests a second", what)
		return false
	}
	if find(settings, "burstLimit") == nil && t.Rate >= plan.MinRate && t.Rate <= plan.MaxRate {
		t.Burst = plan.DefaultBurst(t.Rate)
	} else if find(settings, "burstLimit") == nil {
		t.Burst = 1 // for one mistake, not two
	}
	p.Throttle = &t
	return ok
}

// section returns the settings of a quota or throttle, which must have some.
func (r *reader) section(n *yaml.Node, what string) (settings []entry, line int, ok bool) {
	n = r.resolve(n, what)
	switch {
	case n == nil:
		return nil, 0, false
	case isNull(n) || n.Kind == yaml.MappingNode && len(n.Content) == 0:
		r.add(n.Line, "%s is empty: indent its settings under it, or take it out for none", what)
		return nil, 0, false
	case n.Kind != yaml.MappingNode:
		r.add(n.Line, "%s must be a mapping (name: value)", what)
		return nil, 0, false
	}
	settings = r.entries(n)
	line = n.Line
	return settings, line, true
}

var (
	wholePattern  = regexp.MustCompile(`^[+-]?(0|[1-9][0-9]*)$`)
	numberPattern = regexp.MustCompile(`^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$`)
)

// whole returns the whole number that n is, and whether it is one and what
// was read so far is good too.
func (r *reader) whole(n *yaml.Node, what string, soFar bool) (int64, bool) {
	s, line, ok := r.text(n, what)
	if !ok {
		return 0, false
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if errors.Is(err, strconv.ErrRange) && wholePattern.MatchString(s) {
		r.add(line, "%s is too large a number", what)
		return 0, false
	}
	if err != nil || !wholePattern.MatchString(s) {
		r.add(line, "%s must be a whole number, such as 5000", what)
		return 0, false
	}
	return v, soFar
}

func (r *reader) number(n *yaml.Node, what string, soFar bool) (float64, bool) {
	s, line, ok := r.text(n, what)
	if !ok {
		return 0, false
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || !numberPattern.MatchString(s) {
		r.add(line, "%s must be a number, such as 100 or 0.5", what)
		return 0, false
	}
	return v, soFar
}

// keySettings are those of a key that is more than a name.
var keySettings = []string{"name", "value", "description", "customerId", "enabled"}

// key reads a key, a name or a mapping, and adds it to f on the plan. In a
// file of our own it may expire.
func (r *reader) key(f *File, n *yaml.Node, planName string, own bool) {
	n = r.resolve(n, "a key")
	if n == nil {
		return
	}
	k := Key{Plan: planName, Line: n.Line}
	switch {
	case isNull(n):
		r.add(n.Line, "a key is empty: write its name behind the dash, or take the line out")
		return
	case n.Kind == yaml.ScalarNode:
		if k.Name = n.Value; k.Name == "" {
			r.add(n.Line, "a key has an empty name")
			return
		}
	case n.Kind != yaml.MappingNode:
		r.add(n.Line, "a key must be a name, or a mapping with %s", list(keySettings))
		return
	case isFunction(n):
		r.add(n.Line, "a key's name can't be a CloudFormation function: write what it stands for")
		return
	default:
		if !r.keyMapping(&k, r.entries(n), own) {
			return
		}
	}
	f.Keys = append(f.Keys, k)
}

func (r *reader) keyMapping(k *Key, settings []entry, own bool) (ok bool) {
	known := keySettings
	if own {
		known = append(known[:len(known):len(known)], "expires")
	}
	ok = r.unknown(settings, "a key", known...)
	for _, e := range settings {
		if !slices.Contains(known, e.key) {
			continue
		}
		what := "a key's " + e.key
		s, line, good := r.text(e.value, what)
		if ok = ok && good; !good {
			continue
		}
		switch e.key {
		case "name":
			if k.Name = s; s == "" {
				r.add(line, "a key has an empty name: take the line out for a key that is known by its value")
				ok = false
			}
		case "value":
			v, err := apikey.Parse(s)
			if err != nil {
				r.add(line, "a key's value can't be used: %v", err)
				ok = false
			}
			k.Value = &v
		case "description":
			k.Description = &s
		case "customerId":
			k.CustomerID = &s
		case "enabled":
			b := strings.EqualFold(s, "true")
			if k.Enabled = &b; !b && !strings.EqualFold(s, "false") {
				r.add(line, "a key's enabled must be true or false")
				ok = false
			}
		case "expires":
			t, err := parseTime(s)
			if k.Expires = &t; err != nil {
				r.add(line, "a key's expires must be a date (2030-12-31) or a time (2030-12-31T12:00:00Z)")
				ok = false
			}
		}
	}
	return ok
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
