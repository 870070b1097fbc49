package planfile

import (
	"bytes"
	"encoding/csv"
	"errors"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"helloapi/internal/apikey"
)

// KeyOptions say what a file of keys can't say by itself.
type KeyOptions struct {
	Plan  string            // of the keys whose line names none; "": of those that are there, theirs
	Plans map[string]string // what the file calls a plan, to the plan's name
}

// ReadKeys reads a file of keys with their values, called name in messages:
// CSV as the cloud gateway imports it,
//
//	name,key,description,Enabled,usageplanIds
//
// or JSON as its command line lists keys: {"items": [{"name": …, "value": …}]}.
// Its error is *Mistakes.
func ReadKeys(name string, data []byte, opts KeyOptions) (*File, error) {
	r := &reader{steps: maxSteps + len(data), literal: true}
	f := &File{Name: name, KeysOnly: true}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if len(data) > MaxSize {
		r.add(1, "the file is larger than %d MB: split it", MaxSize>>20)
	} else if line, ok := badByte(data); ok {
		r.add(line, "this is not text in UTF-8: save the file as UTF-8")
	} else if bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		r.bounded(func() { r.keysJSON(f, data, opts) })
	} else {
		r.keysCSV(f, data, opts)
	}
	checkKeys(&r.mistakes, f.Keys)
	if err := r.err(name); err != nil {
		return nil, err
	}
	return f, nil
}

const columns = "name,key,description,Enabled,usageplanIds"

func (r *reader) keysCSV(f *File, data []byte, opts KeyOptions) {
	rows := csv.NewReader(bytes.NewReader(data))
	rows.FieldsPerRecord = -1
	rows.ReuseRecord = true
	var names []string // of the columns
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		var bad *csv.ParseError
		if errors.As(err, &bad) {
			r.add(bad.Line, "this is not CSV: %v", bad.Err)
			return
		}
		line, _ := rows.FieldPos(0)
		if names == nil {
			if names = r.header(line, row); names == nil {
				return
			}
			continue
		}
		if len(row) != len(names) {
			r.add(line, "the line has %d fields, and the first line names %d: quote those that have a comma", len(row), len(names))
			continue
		}
		k := Key{Line: line, Plan: opts.Plan}
		good := true
		for i, field := range row {
			field = strings.TrimSpace(field)
			if field == "" {
				continue
			}
			good = r.keyField(&k, names[i], field, opts) && good
		}
		if k.Value == nil && good {
			r.add(line, "the key has no value: this file is for the values that customers have")
			good = false
		}
		if good {
			f.Keys = append(f.Keys, k)
		}
	}
	if names == nil {
		r.add(1, "the file is empty")
	}
}

// header returns the names of the columns, in small letters.
func (r *reader) header(line int, row []string) []string {
	var names []string
	known, twice := 0, false
	for _, c := range row {
		c = strings.ToLower(strings.TrimSpace(c))
		twice = twice || slices.Contains(names, c)
		names = append(names, c)
		if slices.Contains(strings.Split(strings.ToLower(columns)+",customerid", ","), c) {
			known++
		}
	}
	// What it says instead is not repeated: it may be a key's value.
	if !slices.Contains(names, "name") || !slices.Contains(names, "key") || known < len(names) || twice {
		r.add(line, "the first line must name the columns, separated by commas: %s; only name and key are needed", columns)
		return nil
	}
	return names
}

// keyField reads a field of a key that is not empty.
func (r *reader) keyField(k *Key, column, field string, opts KeyOptions) (ok bool) {
	if !storable(field) {
		r.add(k.Line, "%s must be text in UTF-8, without NUL characters", column)
		return false
	}
	switch column {
	case "name":
		k.Name = field
	case "key":
		v, err := apikey.Parse(field)
		if err != nil {
			r.add(k.Line, "the key's value can't be used: %v", err)
			return false
		}
		k.Value = &v
	case "description":
		k.Description = &field
	case "customerid":
		k.CustomerID = &field
	case "enabled":
		b := strings.EqualFold(field, "true")
		if k.Enabled = &b; !b && !strings.EqualFold(field, "false") {
			r.add(k.Line, "Enabled must be TRUE or FALSE")
			return false
		}
	case "usageplanids":
		plans := map[string]bool{}
		for _, id := range strings.FieldsFunc(field, func(c rune) bool { return c == ',' || c == ';' || c == ' ' }) {
			k.Plan = id
			if name, ok := opts.Plans[id]; ok {
				k.Plan = name
			}
			plans[k.Plan] = true
		}
		if len(plans) > 1 {
			r.add(k.Line, "the key has several usage plans, and here a key has one: leave one of them")
			return false
		}
	}
	return true
}

func (r *reader) keysJSON(f *File, data []byte, opts KeyOptions) {
	root := r.parse(data)
	if root == nil {
		return
	}
	items := find(r.entries(root), "items")
	if items == nil || items.Kind != yaml.SequenceNode {
		r.add(root.Line, `there is no list "items": this must be what the gateway's get-api-keys --include-values prints`)
		return
	}
	for _, item := range items.Content {
		if item.Kind != yaml.MappingNode {
			r.add(item.Line, "an item must be a key, with its name and value")
			continue
		}
		k := Key{Line: item.Line, Plan: opts.Plan}
		good := true
		for _, e := range r.entries(item) {
			column, ok := map[string]string{
				"name": "name", "value": "key", "description": "description", "customerId": "customerid", "enabled": "enabled",
			}[e.key]
			if !ok || isNull(r.alias(e.value)) {
				continue
			}
			s, _, ok := r.text(e.value, e.key)
			if ok && strings.TrimSpace(s) != "" {
				ok = r.keyField(&k, column, strings.TrimSpace(s), opts)
			}
			good = good && ok
		}
		if k.Value == nil && good {
			r.add(item.Line, "the key has no value: list the keys with --include-values")
			good = false
		}
		if good {
			f.Keys = append(f.Keys, k)
		}
	}
}
