package planfile

import (
	"bytes"
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
	text, err := textfile.Decode(data[:min(len(data), MaxSize)])
	first, _, _ := bytes.Cut(bytes.TrimSpace(text), []byte("\n"))
	switch {
	case len(data) > MaxSize:
		m.add(Place{Line: 1}, "the file is larger than %d MB: split it", MaxSize>>20)
	case err != nil:
		m.add(Place{Line: 1}, "%v", err)
	case treePattern.Match(first):
		r := newResolver(m, Options{}, len(data))
		r.literal = true
		r.bounded(func() { d.listing(r, text) })
	default:
		if line, ok := badByte(text); ok {
			m.add(Place{Line: line}, "this is not text in UTF-8: save the file as UTF-8")
			break
		}
		d.csv(text)
	}
	if err := m.err(name); err != nil {
		return nil, err
	}
	return d.file, nil
}

// treePattern is how JSON and YAML begin.
var treePattern = regexp.MustCompile(`^(?:[{\[]|- |-$|---|%YAML|[\w$"]+:(?: |\r?$))`)

// columns are those of CSV that are read, and what JSON calls the same.
var columns = []struct{ csv, json string }{
	{"name", "name"}, {"key", "value"}, {"description", "description"}, {"enabled", "enabled"}, {"usageplanids", ""}, {"customerid", "customerId"},
}

const header = "name,key,description,Enabled,usageplanIds"

func (d *keyReader) csv(data []byte) {
	rows := csv.NewReader(bytes.NewReader(data))
	rows.FieldsPerRecord = -1
	rows.ReuseRecord = true
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
		at := Place{Line: line}
		if names == nil {
			if names = d.header(at, row); names == nil {
				return
			}
			continue
		}
		if row = joinQuoted(row, len(row)-len(names)); len(row) != len(names) {
			d.add(at, "the line has %d fields, and the first line names %d: quote those that have a comma", len(row), len(names))
			continue
		}
		k := Key{Place: at, NewPlan: d.opts.Plan}
		for i, field := range row {
			d.field(&k, names[i], strings.TrimSpace(field))
		}
		if k.Value == nil && k.Wrong == "" {
			k.Wrong = "the key has no value: this file is for the values that customers have"
		}
		d.file.Keys = append(d.file.Keys, k)
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
			return slices.Replace(slices.Clone(row), i, i+more+1, strings.Join(row[i:i+more+1], ","))
		}
	}
	return row
}

// header returns the names of the columns, in small letters. Columns that are
// not known are ignored.
func (d *keyReader) header(at Place, row []string) (names []string) {
	for _, c := range row {
		names = append(names, strings.ToLower(strings.TrimSpace(c)))
	}
	count := func(name string) (n int) {
		for _, c := range names {
			if c == name {
				n++
			}
		}
		return n
	}
	switch { // what it says instead is not repeated: it may be a key's value
	case len(row) == 1 && strings.ContainsAny(row[0], ";\t"):
		d.add(at, "the columns are separated by semicolons or tabs: save the file with commas; a listing of the gateway's keys must be JSON or YAML (--output json)")
	case slices.ContainsFunc(columns, func(c struct{ csv, json string }) bool { return count(c.csv) > 1 }), count("name") == 0, count("key") == 0:
		d.add(at, "the first line must name the columns, each once and separated by commas: %s; only name and key are needed. A listing of the gateway's keys must be JSON or YAML (--output json)", header)
	default:
		return names
	}
	return nil
}

// field reads a column of a key.
func (d *keyReader) field(k *Key, column, s string) {
	switch {
	case s == "":
	case !storable(s):
		d.add(k.Place, "%s must be text in UTF-8, without NUL characters", column)
	case column == "name":
		k.Name = s
	case column == "key":
		v, err := apikey.Parse(s)
		if err != nil {
			k.Wrong = "the key's value can't be used: " + err.Error()
			return
		}
		k.Value = &v
	case column == "description":
		k.Description = &s
	case column == "customerid":
		k.CustomerID = &s
	case column == "enabled":
		on := strings.EqualFold(s, "true")
		if k.Enabled = &on; !on && !strings.EqualFold(s, "false") {
			k.Wrong = "Enabled must be TRUE or FALSE"
		}
	case column == "usageplanids":
		plans := map[string]bool{}
		for _, id := range strings.FieldsFunc(s, func(c rune) bool { return strings.ContainsRune(`,; '"[]`, c) }) {
			name, mapped := d.opts.Plans[id]
			if k.Plan, k.Mapped = id, mapped; mapped {
				k.Plan = name
			}
			plans[k.Plan] = true
		}
		if len(plans) > 1 {
			k.Wrong = "the key has several usage plans, and here a key has one: leave one of them"
		}
	}
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
		if inner := items.get(name); inner != nil {
			items = inner
		}
	}
	if items.kind == mapping && (items.get("value") != nil || items.get("name") != nil && items.get("id") != nil) {
		items = &node{kind: list, items: []*node{items}} // a single one
	}
	if items.kind != list {
		d.wrong(n, `there are no keys: this must be what the gateway's get-api-keys --include-values prints, a list "items" of keys`)
		return
	}
	values := 0
	for _, item := range items.items {
		k := Key{Place: item.Place, NewPlan: d.opts.Plan}
		if item.kind != mapping {
			d.wrong(item, "an item must be a key, with its name and value")
			continue
		}
		for _, c := range columns {
			if v := item.get(c.json); v != nil && v.kind != null && c.json != "" {
				s, _ := d.text(v, c.json)
				d.field(&k, c.csv, strings.TrimSpace(s))
			}
		}
		if v := item.get("value"); v != nil && v.kind != null {
			values++
		} else {
			k.Wrong = "the key has no value: list the keys with --include-values"
		}
		d.file.Keys = append(d.file.Keys, k)
	}
	if values == 0 && len(items.items) > 0 && len(d.list) == 0 {
		d.add(n.Place, "no key has a value: list the keys with --include-values")
	}
}
