package planfile

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

const (
	maxText  = 64 << 10 // bytes of a text with variables filled in
	maxDepth = 30       // of variables, or merge keys, in what others stand for
)

// fill returns the scalar n with its variables, ${source:address, default},
// replaced by what they stand for. A variable that is all of n may stand for a
// list or a mapping too. It returns nil after a mistake, whose text holds
// nothing that a variable stands for.
func (r *reader) fill(n *yaml.Node, what string) *yaml.Node {
	if r.depth++; r.depth > maxDepth {
		panic(errTooMuch)
	}
	defer func() { r.depth-- }()

	// Line is where the file has the variable, not what it stands for.
	var b strings.Builder
	rest := n.Value
	for {
		r.step()
		before, after, found := strings.Cut(rest, "${")
		if found && strings.HasSuffix(before, `\`) { // \${ is no variable
			b.WriteString(before[:len(before)-1] + "${")
			rest = after
			continue
		}
		b.WriteString(before)
		if !found {
			break
		}
		body, end, ok := cutVariable(after)
		if !ok {
			r.add(n.Line, "%s: a variable (${…}) is not closed", what)
			return nil
		}
		v := r.variable(n.Line, body, what)
		if v == nil {
			return nil
		}
		if before == "" && end == "" && rest == n.Value {
			return v
		}
		if v.Kind != yaml.ScalarNode {
			r.add(n.Line, "%s: a variable within a text must stand for a text", what)
			return nil
		}
		if !isNull(v) {
			b.WriteString(v.Value)
		}
		if b.Len() > maxText {
			panic(errTooMuch)
		}
		rest = end
	}
	return scalar(b.String(), n.Line)
}

func scalar(s string, line int) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s, Line: line}
}

// cutVariable splits what follows "${" at the } that closes it.
func cutVariable(s string) (body, rest string, ok bool) {
	depth := 0
	var quote byte
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case c == '{' && i > 0 && s[i-1] == '$':
			depth++
		case c == '}':
			if depth == 0 {
				return s[:i], s[i+1:], true
			}
			depth--
		}
	}
	return "", "", false
}

// sources splits the body of a variable at its commas.
func sources(body string) []string {
	var all []string
	depth, start := 0, 0
	var quote byte
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case c == '{':
			depth++
		case c == '}':
			depth--
		case c == ',' && depth == 0:
			all = append(all, strings.TrimSpace(body[start:i]))
			start = i + 1
		}
	}
	return append(all, strings.TrimSpace(body[start:]))
}

// variable returns what the body of a variable stands for: the first of its
// sources that is there. It returns nil after a mistake.
func (r *reader) variable(line int, body, what string) *yaml.Node {
	missing := ""
	for _, src := range sources(body) {
		r.step()
		v, why := r.source(line, src, what)
		if v != nil {
			return v
		}
		if why == "" { // a mistake, already told
			return nil
		}
		if missing == "" {
			missing = why
		}
	}
	r.add(line, "%s: %s", what, missing)
	return nil
}

// source returns what one source stands for. If it has nothing, why says so;
// why is "" after a mistake.
func (r *reader) source(line int, src, what string) (v *yaml.Node, why string) {
	switch {
	case src == "":
		r.add(line, "%s: a variable (${…}) is empty", what)
		return nil, ""
	case len(src) >= 2 && (src[0] == '\'' || src[0] == '"') && src[len(src)-1] == src[0]:
		return r.deeper(scalar(src[1:len(src)-1], line), what), ""
	case strings.HasPrefix(src, "${"):
		return r.deeper(scalar(src, line), what), ""
	}
	kind, address, ok := strings.Cut(src, ":")
	if !ok {
		if _, err := strconv.ParseFloat(src, 64); err == nil || src == "true" || src == "false" {
			return scalar(src, line), ""
		}
		if src == "null" {
			return nil, "a variable stands for null"
		}
		r.add(line, "%s: ${%s} is no variable that can be filled in here: only env, opt, self and sls:stage are; a text as default must be in quotes", what, shown(src))
		return nil, ""
	}
	as := fmt.Sprintf("${%s:%s}", kind, shown(address))
	if strings.Contains(address, "${") {
		full := r.deeper(scalar(address, line), what)
		if full == nil {
			return nil, ""
		}
		if full.Kind != yaml.ScalarNode {
			r.add(line, "%s: a variable within a variable must stand for a text", what)
			return nil, ""
		}
		address = full.Value
	}
	address = strings.TrimSpace(address)
	switch {
	case kind == "env" && address != "":
		if s := r.opts.Env(address); s != "" {
			return scalar(s, line), ""
		}
		return nil, fmt.Sprintf("%s is not in the environment: set it, or give a default: ${env:NAME, 'default'}", as)
	case kind == "opt" && address == "stage":
		if r.opts.Stage != "" {
			return scalar(r.opts.Stage, line), ""
		}
		return nil, "${opt:stage} is not given: add --stage STAGE"
	case kind == "opt" && address != "":
		if s, ok := r.opts.Opts[address]; ok {
			return scalar(s, line), ""
		}
		return nil, fmt.Sprintf("%s is not given: add --opt NAME=VALUE", as)
	case kind == "sls" && address == "stage", kind == "self" && address == "provider.stage":
		if s := r.stage(); s != "" {
			return scalar(s, line), ""
		}
		r.add(line, "%s: the stage can't be known: add --stage STAGE", what)
		return nil, ""
	case kind == "self" && address != "":
		return r.self(line, address, as, what)
	}
	r.add(line, "%s: %s can't be filled in here, only env, opt, self and sls:stage can: write what it stands for, or take it from the environment, ${env:NAME}", what, as)
	return nil, ""
}

// shown is an address as messages have it: without what is in it of other
// variables, and so of their defaults.
func shown(address string) string {
	if strings.ContainsAny(address, "$'\"") || len(address) > 100 {
		return "…"
	}
	return address
}

// deeper fills in the variables of a text that a variable holds.
func (r *reader) deeper(n *yaml.Node, what string) *yaml.Node {
	if !strings.Contains(n.Value, "${") {
		return n
	}
	return r.fill(n, what)
}

// self returns what is at a path of this file: custom.plans.0.name.
func (r *reader) self(line int, path, as, what string) (v *yaml.Node, why string) {
	if r.depth++; r.depth > maxDepth {
		panic(errTooMuch)
	}
	defer func() { r.depth-- }()
	at := r.root
	for name := range strings.SplitSeq(path, ".") {
		at = r.alias(at)
		if at.Kind == yaml.ScalarNode && strings.Contains(at.Value, "${") {
			if at = r.fill(at, what); at == nil {
				return nil, ""
			}
		}
		var next *yaml.Node
		switch at.Kind {
		case yaml.MappingNode:
			next = find(r.entries(at), name)
		case yaml.SequenceNode:
			if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < len(at.Content) {
				next = at.Content[i]
			}
		}
		if next == nil {
			return nil, as + " is not in this file: correct it, or give a default"
		}
		at = next
	}
	if at = r.resolve(at, what); at == nil {
		return nil, ""
	}
	if isNull(at) {
		return nil, as + " is empty in this file"
	}
	return at, ""
}

// stage returns the stage that the file is read for, or "" if that can't be
// known, as where it is said to be itself.
func (r *reader) stage() string {
	if r.stageKnown {
		return r.stageName
	}
	r.stageKnown = true
	switch n := r.provider("stage"); {
	case r.opts.Stage != "":
		r.stageName = r.opts.Stage
	case n == nil:
		r.stageName = "dev"
	default:
		r.stageName, _, _ = r.text(n, "provider.stage")
	}
	return r.stageName
}

// provider returns a setting of the section provider, or nil.
func (r *reader) provider(setting string) *yaml.Node {
	n := find(r.entries(r.root), "provider")
	if n == nil {
		return nil
	}
	if n = r.alias(n); n.Kind != yaml.MappingNode {
		return nil
	}
	return find(r.entries(n), setting)
}
