package planfile

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"

	"helloapi/internal/apikey"
	"helloapi/internal/textfile"
)

// KeyOptions say what a file of keys can't say by itself.
type KeyOptions struct {
	Plan  string            // of keys that are new and whose line names none; "": those are left out
	Plans map[string]string // what the file calls a plan, to the plan's name
}

// A keyReader reads a listing of keys.
type keyReader struct {
	decoder
	opts KeyOptions
}

// ReadKeys reads a file of keys with their values, called name in messages:
// CSV as the cloud gateway imports it,
//
//	name,key,description,Enabled,usageplanIds
//
// or the JSON or YAML that lists its keys: {"items": [{"name": …, "value": …}]}.
// Its error is *Mistakes. What is wrong with a single key is its Wrong, and
// matters if that is imported: a listing may have keys of others.
func ReadKeys(name string, data []byte, opts KeyOptions) (*File, error) {
	m := &mistakes{}
	d := &keyReader{decoder{mistakes: m, file: &File{Name: name, KeysOnly: true}}, opts}
	text, line, err := textfile.Decode(data[:min(len(data), MaxSize)])
	first, _, _ := bytes.Cut(bytes.TrimSpace(text), []byte("\n"))
	switch {
	case len(data) > MaxSize:
		m.add(Place{Line: 1}, "the file is larger than %d MB: split it", MaxSize>>20)
	case err != nil:
		m.add(Place{Line: line}, "%v", err)
	case treePattern.Match(first):
		r := newResolver(m, Options{}, len(data))
		r.literal = true
		r.bounded(func() { d.listing(r, text) })
	default:
		d.csv(text)
	}
	d.checkVariety()
	if err := m.err(name); err != nil {
		return nil, err
	}
	return d.file, nil
}

// treePattern is how JSON and YAML begin.
var treePattern = regexp.MustCompile(`^(?:[{\[]|- |-$|---|%YAML|[\w$"]+:(?: |\r?$))`)

const header = "name,key,description,Enabled,usageplanIds"

// csv reads rows, each as a mapping of the columns that are not empty.
func (d *keyReader) csv(data []byte) {
	rows := csv.NewReader(bytes.NewReader(data))
	rows.FieldsPerRecord = -1
	var names []string // of the columns
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if bad := (*csv.ParseError)(nil); errors.As(err, &bad) {
			d.add(Place{Line: bad.Line}, "this is not CSV: %v", bad.Err)
			return
		}
		line, _ := rows.FieldPos(0)
		n := &node{Place: Place{Line: line}, kind: mapping}
		if names == nil {
			if names = d.header(n.Place, row); names == nil {
				return
			}
			continue
		}
		if row = joinQuoted(row, len(row)-len(names)); len(row) != len(names) {
			d.add(n.Place, "the line has %d fields, and the first line names %d: quote those that have a comma", len(row), len(names))
			continue
		}
		for i, s := range row {
			n.fields = append(n.fields, field{n.Place, names[i], &node{Place: n.Place, kind: text, text: s}})
		}
		d.key(n)
	}
	if names == nil {
		d.add(Place{Line: 1}, "the file is empty")
	}
}

// joinQuoted makes one field of those that are in single quotes together, which
// CSV has split at more commas than there should be.
func joinQuoted(row []string, more int) []string {
	for i := range row {
		if more > 0 && i+more < len(row) && strings.HasPrefix(row[i], "'") && strings.HasSuffix(row[i+more], "'") {
			return slices.Replace(row, i, i+more+1, strings.Join(row[i:i+more+1], ","))
		}
	}
	return row
}

// header returns the names of the columns, in small letters. What the line says
// instead is not repeated: it may be a key's value.
func (d *keyReader) header(at Place, row []string) (names []string) {
	count := map[string]int{}
	for _, c := range row {
		c = strings.ToLower(strings.TrimSpace(c))
		names = append(names, c)
		count[c]++
	}
	switch {
	case len(row) == 1 && strings.ContainsAny(row[0], ";\t"):
		d.add(at, "the columns are separated by semicolons or tabs: save the file with commas; a listing of the gateway's keys must be JSON or YAML (--output json)")
	case count["name"] != 1 || count["key"] != 1 || slices.ContainsFunc(strings.Split(strings.ToLower(header), ","), func(c string) bool { return count[c] > 1 }):
		d.add(at, "the first line must name the columns, each once and separated by commas: %s; only name and key are needed. A listing of the gateway's keys must be JSON or YAML (--output json)", header)
	default:
		return names
	}
	return nil
}

// key reads a key, of which all else than this is ignored.
func (d *keyReader) key(n *node) {
	k := Key{Place: n.Place, NewPlan: d.opts.Plan}
	for _, f := range n.fields {
		name := strings.ToLower(f.key)
		if f.value.kind == null || !slices.Contains([]string{"name", "key", "value", "description", "customerid", "enabled", "usageplanids"}, name) {
			continue
		}
		s, _ := d.text(f.value, f.key)
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		switch name {
		case "name":
			k.Name = s
		case "key", "value":
			v, err := apikey.Parse(s)
			if k.Value = &v; err != nil {
				k.Value, k.Wrong = nil, "the key's value can't be used: "+err.Error()
			}
		case "description":
			k.Description = &s
		case "customerid":
			k.CustomerID = &s
		case "enabled":
			on := strings.EqualFold(s, "true")
			if k.Enabled = &on; !on && !strings.EqualFold(s, "false") {
				k.Wrong = "Enabled must be TRUE or FALSE"
			}
		case "usageplanids":
			plans := map[string]bool{}
			for _, id := range strings.FieldsFunc(s, func(c rune) bool { return strings.ContainsRune(`,; '"[]`, c) }) {
				name, mapped := d.opts.Plans[id]
				k.Plan, k.Mapped = cmp.Or(name, id), mapped
				plans[k.Plan] = true
			}
			if len(plans) > 1 {
				k.Wrong = "the key has several usage plans, and here a key has one: leave one of them"
			}
		}
	}
	if k.Value == nil {
		k.Wrong = cmp.Or(k.Wrong, "the key has no value: list the keys with --include-values")
	}
	d.file.Keys = append(d.file.Keys, k)
}

// listing reads what the gateway lists: the keys themselves, one of them, or a
// mapping that has them.
func (d *keyReader) listing(r *resolver, data []byte) {
	root := r.parse("", data)
	if root.Node == nil {
		return
	}
	n := r.tree(root)
	for _, more := range []string{"NextToken", "nextToken", "position"} {
		if next := n.get(more); next != nil && next.kind != null {
			d.file.Notices = append(d.file.Notices, d.file.Name+": the listing is not complete ("+more+"): keys after those are missing; list them without --max-items and --no-paginate")
		}
	}
	items := n
	for _, name := range []string{"_embedded", "items", "item"} {
		items = cmp.Or(items.get(name), items)
	}
	if items.kind == mapping && (items.get("value") != nil || items.get("name") != nil && items.get("id") != nil) {
		items = &node{kind: list, items: []*node{items}} // a single one
	}
	if items.kind != list {
		d.wrong(n, `there are no keys: this must be what the gateway's get-api-keys --include-values prints, a list "items" of keys`)
	}
	values := 0
	for _, item := range items.items {
		if item.kind != mapping {
			d.wrong(item, "an item must be a key, with its name and value")
			continue
		}
		if v := item.get("value"); v != nil && v.kind != null {
			values++
		}
		d.key(item)
	}
	if values == 0 && len(items.items) > 0 && len(d.list) == 0 {
		d.add(n.Place, "no key has a value: list the keys with --include-values")
	}
}
