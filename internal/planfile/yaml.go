package planfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// maxSteps bounds the work on one file, beyond a step for each of its bytes.
// Aliases and variables can make a small file stand for an endless one.
const maxSteps = 1_000_000

// errTooMuch ends the reading of such a file, as a panic that Read recovers.
var errTooMuch = errors.New("too many aliases, merge keys or variables in each other")

// A reader reads one YAML file.
type reader struct {
	mistakes
	opts    Options
	literal bool       // ${ is nothing special
	root    *yaml.Node // a mapping
	steps   int        // that are left
	depth   int        // of variables in what variables stand for

	stageKnown bool
	stageName  string // see stage
}

func (r *reader) step() {
	if r.steps--; r.steps < 0 {
		panic(errTooMuch)
	}
}

// parse returns the mapping that the file is.
func (r *reader) parse(data []byte) *yaml.Node {
	if line, ok := badByte(data); ok {
		r.add(line, "this is not text in UTF-8: save the file as UTF-8")
		return nil
	}
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil {
		r.add(1, "%v", err)
		return nil
	}
	var doc, second yaml.Node
	if err := loader.Load(&doc); errors.Is(err, io.EOF) {
		r.add(1, "the file is empty")
		return nil
	} else if err != nil {
		r.syntax(err)
		return nil
	}
	if err := loader.Load(&second); err == nil {
		r.add(second.Line, "a second YAML document begins here: one file must be one document")
		return nil
	} else if !errors.Is(err, io.EOF) {
		r.syntax(err)
		return nil
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		r.add(1, "this is neither a plans file (plans: …) nor a serverless.yml (provider: …)")
		return nil
	}
	return doc.Content[0]
}

// syntax reports an error of the YAML parser. The text of one about an alias
// holds what may be a value that begins with *.
func (r *reader) syntax(err error) {
	what := "YAML"
	if r.literal {
		what = "JSON"
	}
	var e *yaml.LoadError
	if !errors.As(err, &e) {
		r.add(1, "this is not %s", what)
		return
	}
	line := max(1, e.Mark.Line)
	if strings.Contains(e.Message, "anchor") {
		r.add(line, "this is not %s: an alias (*) names an anchor (&) that is not there; a text that begins with * must be in quotes", what)
		return
	}
	where := ""
	if e.ContextMsg != "" {
		where = " (" + e.ContextMsg + ")"
	}
	r.add(line, "this is not %s: %s%s; check the indentation and quotes here and above", what, e.Message, where)
}

// badByte returns the line of the first byte that can't be in a YAML file. It
// leaves a file in UTF-16, with its mark, to the parser.
func badByte(data []byte) (line int, found bool) {
	if bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) {
		return 0, false
	}
	line = 1
	for i := 0; i < len(data); {
		c, size := utf8.DecodeRune(data[i:])
		if c == utf8.RuneError && size == 1 || c < ' ' && c != '\t' && c != '\n' && c != '\r' || c == 0x7f {
			return line, true
		}
		if c == '\n' {
			line++
		}
		i += size
	}
	return 0, false
}

// An entry is a setting of a mapping.
type entry struct {
	key   string
	line  int
	value *yaml.Node // not resolved
}

// entries returns the settings of a mapping, those that come by merge keys
// (<<) among them. What a mapping says itself goes before what it merges.
func (r *reader) entries(n *yaml.Node) []entry { return r.entriesAt(n, 0) }

func (r *reader) entriesAt(n *yaml.Node, depth int) []entry {
	if depth > maxDepth {
		panic(errTooMuch)
	}
	var all []entry
	var merges []*yaml.Node
	seen := map[string]int{} // to its line
	for i := 0; i+1 < len(n.Content); i += 2 {
		r.step()
		key, value := r.alias(n.Content[i]), n.Content[i+1]
		if key.Tag == "!!merge" {
			merges = append(merges, value)
			continue
		}
		if key.Kind != yaml.ScalarNode {
			r.add(key.Line, "the name of a setting must be a text")
			continue
		}
		if line, ok := seen[key.Value]; ok {
			r.add(key.Line, "%s is given twice: line %d has it already", settingName(key.Value), line)
			continue
		}
		seen[key.Value] = key.Line
		all = append(all, entry{key.Value, key.Line, value})
	}
	for _, m := range merges {
		for _, from := range r.merged(m) {
			for _, e := range r.entriesAt(from, depth+1) {
				if _, ok := seen[e.key]; !ok {
					seen[e.key] = e.line
					all = append(all, e)
				}
			}
		}
	}
	return all
}

// merged returns the mappings that a merge key names, one or a list of them.
func (r *reader) merged(n *yaml.Node) (mappings []*yaml.Node) {
	n = r.alias(n)
	from := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		from = n.Content
	}
	for _, m := range from {
		if m = r.alias(m); m.Kind != yaml.MappingNode {
			r.add(m.Line, "what is merged with << must be a mapping")
			continue
		}
		mappings = append(mappings, m)
	}
	return mappings
}

// settingName is the name of a setting as messages have it. One that is as long
// as a key's value may be one, in the wrong place.
func settingName(s string) string {
	if len(s) >= 20 {
		s = string([]rune(s)[:4]) + "…"
	}
	return strconv.Quote(s)
}

// alias follows an alias to what it stands for. An alias never stands for
// another.
func (r *reader) alias(n *yaml.Node) *yaml.Node {
	r.step()
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

// find returns the value of a setting, or nil if there is none.
func find(entries []entry, key string) *yaml.Node {
	for _, e := range entries {
		if e.key == key {
			return e.value
		}
	}
	return nil
}

// resolve returns n with aliases followed and variables filled in; nil after a
// mistake. what is n's place, for messages.
func (r *reader) resolve(n *yaml.Node, what string) *yaml.Node {
	n = r.alias(n)
	if strings.HasPrefix(n.Tag, "!") && !strings.HasPrefix(n.Tag, "!!") && n.Tag != "!" {
		r.add(n.Line, "%s: a CloudFormation function (%s) can't be known here: write what it stands for", what, n.Tag)
		return nil
	}
	if r.literal || n.Kind != yaml.ScalarNode || !strings.Contains(n.Value, "${") {
		return n
	}
	return r.fill(n, what)
}

// isNull reports whether n says nothing: "name:" with nothing behind it.
func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// mapping returns the settings of n, which must be a mapping.
func (r *reader) mapping(n *yaml.Node, what string) (entries []entry, ok bool) {
	n = r.resolve(n, what)
	switch {
	case n == nil:
		return nil, false
	case n.Kind != yaml.MappingNode:
		r.add(n.Line, "%s must be a mapping (name: value)", what)
		return nil, false
	}
	return r.entries(n), true
}

// text returns the text of n, as it is written: 007 is not 7.
func (r *reader) text(n *yaml.Node, what string) (s string, line int, ok bool) {
	n = r.resolve(n, what)
	switch {
	case n == nil:
		return "", 0, false
	case n.Kind == yaml.MappingNode && isFunction(n):
		r.add(n.Line, "%s: a CloudFormation function can't be known here: write what it stands for", what)
		return "", 0, false
	case n.Kind != yaml.ScalarNode:
		r.add(n.Line, "%s must be a text", what)
		return "", 0, false
	case isNull(n):
		r.add(n.Line, "%s is empty: write it behind the colon, or take the line out", what)
		return "", 0, false
	}
	if !storable(n.Value) {
		r.add(n.Line, "%s must be text in UTF-8, without NUL characters", what)
		return "", 0, false
	}
	return n.Value, n.Line, true
}

// storable reports whether every database takes s.
func storable(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// isFunction reports whether a mapping is the long form of a CloudFormation
// function.
func isFunction(n *yaml.Node) bool {
	return len(n.Content) == 2 && (n.Content[0].Value == "Ref" || strings.HasPrefix(n.Content[0].Value, "Fn::"))
}

// unknown reports settings that are not among those there are.
func (r *reader) unknown(entries []entry, what string, known ...string) (ok bool) {
	ok = true
	for _, e := range entries {
		if !slices.Contains(known, e.key) {
			r.add(e.line, "%s has no setting %s, only %s", what, settingName(e.key), list(known))
			ok = false
		}
	}
	return ok
}

// list says words as people do: "a, b and c".
func list(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	return fmt.Sprintf("%s and %s", strings.Join(words[:len(words)-1], ", "), words[len(words)-1])
}
