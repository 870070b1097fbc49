package planfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"helloapi/internal/textfile"
)

// Bounds of the work on one file. Aliases, merge keys and variables can make a
// small file stand for an endless one.
const (
	maxSteps = 1_000_000 // beyond one for each byte
	maxDepth = 100
	maxText  = 64 << 10 // bytes of a text with its variables filled in
)

// errTooMuch ends the reading of such a file, as a panic that bounded recovers.
var errTooMuch = errors.New("too many aliases, merge keys or variables in each other: write out what they stand for")

// A node is a resolved value: nothing in it is an alias, a merge key or a
// variable. A bad one was reported as a mistake, and is not mentioned again.
type node struct {
	Place
	kind   kind
	text   string
	items  []*node
	fields []field // of a mapping, a name once
}

type kind int

const (
	bad kind = iota
	null
	text
	list
	mapping
)

func (n *node) has(key string) bool { return n.get(key) != nil }

// sound reports whether nothing in n is bad.
func (n *node) sound() bool {
	return n.kind != bad && !slices.ContainsFunc(n.items, func(i *node) bool { return !i.sound() }) &&
		!slices.ContainsFunc(n.fields, func(f field) bool { return !f.value.sound() })
}

// A field is a setting of a mapping.
type field struct {
	Place
	key   string
	value *node
}

func (n *node) get(key string) *node {
	for _, f := range n.fields {
		if f.key == key {
			return f.value
		}
	}
	return nil
}

// A raw is a value as a file has it.
type raw struct {
	*yaml.Node
	file string // "" is the file that is read, others are included by it
}

func (v raw) at() Place { return Place{v.file, v.Line} }

// A resolver makes nodes of a file and of those that it includes.
type resolver struct {
	*mistakes
	opts    Options
	literal bool // ${ is nothing special
	root    raw
	files   map[string]raw // included so far
	dotenv  map[string]string
	steps   int // that are left
	depth   int // of what is being resolved

	stageName *string // see stage
}

func newResolver(m *mistakes, opts Options, size int) *resolver {
	return &resolver{mistakes: m, opts: opts, files: map[string]raw{}, steps: maxSteps + size}
}

// bounded calls f, and reports it if that is more work than there should be.
func (r *resolver) bounded(f func()) {
	defer func() {
		switch p := recover(); {
		case p == errTooMuch:
			r.add(Place{Line: 1}, "%v", errTooMuch)
		case p != nil:
			panic(p)
		}
	}()
	f()
}

func (r *resolver) step() {
	if r.steps--; r.steps < 0 {
		panic(errTooMuch)
	}
}

// deeper counts how deep values are in each other, until the function that it
// returns is called.
func (r *resolver) deeper() func() {
	if r.depth++; r.depth > maxDepth {
		panic(errTooMuch)
	}
	return func() { r.depth-- }
}

// parse returns the document that a file is; its Node is nil after a mistake.
func (r *resolver) parse(file string, data []byte) raw {
	at := func(line int) Place { return Place{file, line} }
	if len(data) > MaxSize {
		r.add(at(1), "the file is larger than %d MB", MaxSize>>20)
		return raw{}
	}
	data, line, err := textfile.Decode(data)
	if err != nil {
		r.add(at(line), "%v", err)
		return raw{}
	}
	data, _ = textfile.Pairs(data)                                          // the parser reports half ones
	data = bytes.Replace(data, []byte("%YAML 1.2"), []byte("%YAML 1.1"), 1) // which it does not know
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil {
		r.add(at(1), "%v", err)
		return raw{}
	}
	var doc, second yaml.Node
	if err := loader.Load(&doc); errors.Is(err, io.EOF) {
		r.add(at(1), "the file is empty")
		return raw{}
	} else if err != nil {
		r.syntax(file, err)
		return raw{}
	}
	if err := loader.Load(&second); err == nil {
		r.add(at(second.Line), "a second YAML document begins here: one file must be one document")
		return raw{}
	} else if !errors.Is(err, io.EOF) {
		r.syntax(file, err)
		return raw{}
	}
	if len(doc.Content) != 1 {
		r.add(at(1), "the file is empty")
		return raw{}
	}
	return raw{doc.Content[0], file}
}

// syntax reports an error of the YAML parser. The text of one about an alias
// holds what may be a value that begins with *.
func (r *resolver) syntax(file string, err error) {
	what := "YAML"
	if r.literal {
		what = "JSON or YAML"
	}
	var e *yaml.LoadError
	if !errors.As(err, &e) {
		r.add(Place{file, 1}, "this is not %s", what)
		return
	}
	at := Place{file, max(1, e.Mark.Line)}
	if strings.Contains(e.Message, "anchor") {
		r.add(at, "this is not %s: an alias (*) names an anchor (&) that is not there; a text that begins with * must be in quotes", what)
		return
	}
	where := ""
	if e.ContextMsg != "" {
		where = " (" + e.ContextMsg + ")"
	}
	r.add(at, "this is not %s: %s%s; check the indentation and quotes here and above", what, e.Message, where)
}

// tree resolves v and all that is in it.
func (r *resolver) tree(v raw) *node {
	defer r.deeper()()
	place := v.at()
	v, missing := r.deref(v)
	if missing != "" {
		r.add(place, "%s", missing)
	}
	if v.Node == nil {
		return &node{Place: place}
	}
	n := &node{Place: v.at()}
	if name := function(v); name != "" {
		r.add(n.Place, "a CloudFormation function (%s) can't be known here: write what it stands for", name)
		return n
	}
	switch v.Kind {
	case yaml.SequenceNode:
		n.kind = list
		for _, item := range v.Content {
			n.items = append(n.items, r.tree(raw{item, v.file}))
		}
	case yaml.MappingNode:
		n.kind = mapping
		for _, e := range r.entries(v) {
			n.fields = append(n.fields, field{e.Place, e.key, r.tree(e.value)})
		}
	default:
		if n.kind, n.text = text, v.Value; v.Tag == "!!null" {
			n.kind = null
		}
	}
	return n
}

// function returns the name of the CloudFormation function that v is, in its
// short or long form, or "".
func function(v raw) string {
	if strings.HasPrefix(v.Tag, "!") && !strings.HasPrefix(v.Tag, "!!") && v.Tag != "!" {
		return v.Tag
	}
	if v.Kind == yaml.MappingNode && len(v.Content) == 2 && (v.Content[0].Value == "Ref" || strings.HasPrefix(v.Content[0].Value, "Fn::")) {
		return v.Content[0].Value
	}
	return ""
}

// deref follows aliases and variables to what v stands for. See source for
// missing.
func (r *resolver) deref(v raw) (_ raw, missing string) {
	defer r.deeper()()
	r.step()
	if v.Kind == yaml.AliasNode && v.Alias != nil {
		v.Node = v.Alias
	}
	if r.literal || v.Kind != yaml.ScalarNode || !strings.Contains(v.Value, "${") || function(v) != "" {
		return v, ""
	}
	return r.fill(v)
}

// An entry is a setting of a mapping, not resolved.
type entry struct {
	Place
	key   string
	value raw
}

// entries returns the settings of a mapping, those that come by merge keys
// (<<) among them. What a mapping says itself goes before what it merges.
func (r *resolver) entries(v raw) (all []entry) {
	defer r.deeper()()
	var merges []raw
	seen := map[string]int{} // to its line
	for i := 0; i+1 < len(v.Content); i += 2 {
		r.step()
		key, value := v.Content[i], raw{v.Content[i+1], v.file}
		at := Place{v.file, key.Line}
		if key.Kind == yaml.AliasNode && key.Alias != nil {
			key = key.Alias
		}
		switch line, twice := seen[key.Value]; {
		case key.Tag == "!!merge":
			merges = append(merges, value)
		case key.Kind != yaml.ScalarNode:
			r.add(at, "the name of a setting must be a text")
		case twice:
			r.add(at, "%s is given twice: line %d has it already", settingName(key.Value), line)
		default:
			seen[key.Value] = at.Line
			all = append(all, entry{at, key.Value, value})
		}
	}
	for _, m := range merges {
		for _, from := range r.merged(m) {
			for _, e := range r.entries(from) {
				if _, ok := seen[e.key]; !ok {
					seen[e.key] = e.Line
					all = append(all, e)
				}
			}
		}
	}
	return all
}

// merged returns the mappings that a merge key names, one or a list of them.
func (r *resolver) merged(v raw) (mappings []raw) {
	v, _ = r.deref(v)
	from := []*yaml.Node{v.Node}
	if v.Node != nil && v.Kind == yaml.SequenceNode {
		from = v.Content
	}
	for _, n := range from {
		if m, _ := r.deref(raw{n, v.file}); m.Node != nil && m.Kind == yaml.MappingNode {
			mappings = append(mappings, m)
		} else {
			r.add(Place{v.file, n.Line}, "what is merged with << must be a mapping")
		}
	}
	return mappings
}

// walk returns what is at a path below v: custom, plans, 0, name.
func (r *resolver) walk(v raw, path ...string) (_ raw, missing string) {
	for _, name := range path {
		if v, missing = r.deref(v); v.Node == nil {
			return v, missing
		}
		next := raw{}
		switch v.Kind {
		case yaml.MappingNode:
			entries := r.entries(v)
			if i := slices.IndexFunc(entries, func(e entry) bool { return e.key == name }); i >= 0 {
				next = entries[i].value
			}
		case yaml.SequenceNode:
			if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < len(v.Content) {
				next = raw{v.Content[i], v.file}
			}
		}
		if v = next; v.Node == nil {
			return v, fmt.Sprintf("there is no %s", settingName(name))
		}
	}
	return r.deref(v)
}

// settingName is the name of a setting as messages have it. One that is as long
// as a key's value may be one, in the wrong place.
func settingName(s string) string {
	if len(s) >= 20 {
		s = string([]rune(s)[:4]) + "…"
	}
	return strconv.Quote(s)
}
