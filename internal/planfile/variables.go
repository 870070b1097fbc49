package planfile

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v4"
)

// printFirst is what to do about what only the framework can resolve.
const printFirst = "let the framework resolve it: serverless print --stage STAGE | helloapi apply -f -"

// fill returns the scalar v with its variables, ${source:address, default},
// replaced by what they stand for. A variable that is all of v may stand for a
// list or a mapping too. Mistakes hold nothing that a variable stands for.
func (r *resolver) fill(v raw) (_ raw, missing string) {
	var b strings.Builder
	for rest := v.Value; ; {
		r.step()
		before, after, found := strings.Cut(rest, "${")
		if found && strings.HasSuffix(before, `\`) { // \${ is no variable
			b.WriteString(before[:len(before)-1] + "${")
			rest = after
			continue
		}
		b.WriteString(before)
		if !found {
			return scalar(v, b.String()), ""
		}
		body, end, ok := cutVariable(after)
		if !ok {
			r.add(v.at(), "a variable (${…}) is not closed")
			return raw{}, ""
		}
		part, missing := r.variable(v, body)
		switch {
		case part.Node == nil:
			return raw{}, missing
		case before == "" && end == "" && rest == v.Value:
			return part, ""
		case part.Kind != yaml.ScalarNode:
			r.add(v.at(), "a variable within a text must stand for a text")
			return raw{}, ""
		case part.Tag != "!!null":
			b.WriteString(part.Value)
		}
		if b.Len() > maxText {
			panic(errTooMuch)
		}
		rest = end
	}
}

// scalar returns a text that is at the place of v.
func scalar(v raw, s string) raw {
	return raw{&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s, Line: v.Line}, v.file}
}

// cutVariable splits what follows "${" at the } that closes it.
func cutVariable(s string) (body, rest string, ok bool) {
	end := -1
	scan(s, func(i, depth int) bool {
		if s[i] == '}' && depth < 0 {
			end = i
		}
		return end < 0
	})
	if end < 0 {
		return "", "", false
	}
	return s[:end], s[end+1:], true
}

// sources splits the body of a variable at its commas.
func sources(body string) (all []string) {
	start := 0
	scan(body, func(i, depth int) bool {
		if body[i] == ',' && depth == 0 {
			all = append(all, strings.TrimSpace(body[start:i]))
			start = i + 1
		}
		return true
	})
	return append(all, strings.TrimSpace(body[start:]))
}

// scan calls f for the bytes of s outside quotes, with the depth of the braces
// and parentheses there, until f returns false.
func scan(s string, f func(i, depth int) bool) {
	depth, quote := 0, byte(0)
	for i := range len(s) {
		switch c := s[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
			continue
		case c == '\'' || c == '"':
			quote = c
			continue
		case c == '{' || c == '(':
			depth++
		case c == '}' || c == ')':
			depth--
		}
		if !f(i, depth) {
			return
		}
	}
}

// variable returns what the body of a variable stands for: the first of its
// sources that is not missing.
func (r *resolver) variable(at raw, body string) (_ raw, missing string) {
	for _, src := range sources(body) {
		r.step()
		v, why := r.source(at, src)
		if v.Node != nil || why == "" {
			return v, ""
		}
		if missing == "" {
			missing = why
		}
	}
	return raw{}, missing
}

var (
	literalPattern = regexp.MustCompile(`^(?:true|false|[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)$`)
	filePattern    = regexp.MustCompile(`^file\((.*?)\)(?::(.*))?$`)
	boolPattern    = regexp.MustCompile(`^strToBool\((.*)\)$`)
)

// source returns what one source stands for. Without a value, missing says what
// is not there, and the next source counts; it is "" after a mistake.
func (r *resolver) source(at raw, src string) (_ raw, missing string) {
	switch {
	case src == "":
		r.add(at.at(), "a variable (${…}) is empty")
		return raw{}, ""
	case len(src) >= 2 && (src[0] == '\'' || src[0] == '"') && src[len(src)-1] == src[0]:
		return r.deref(scalar(at, src[1:len(src)-1]))
	case strings.HasPrefix(src, "${"):
		return r.deref(scalar(at, src))
	case src == "null":
		return raw{&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Line: at.Line}, at.file}, ""
	case literalPattern.MatchString(src):
		return scalar(at, src), ""
	}
	as := "${" + shown(src) + "}"
	if strings.Contains(src, "${") {
		full, missing := r.fill(scalar(at, src))
		if full.Node == nil {
			return raw{}, missing
		}
		src = full.Value
	}
	if m := filePattern.FindStringSubmatch(src); m != nil {
		return r.file(at, strings.TrimSpace(m[1]), m[2], as)
	}
	if m := boolPattern.FindStringSubmatch(src); m != nil {
		switch strings.ToLower(strings.Trim(m[1], `'" `)) {
		case "true", "1":
			return scalar(at, "true"), ""
		case "false", "0":
			return scalar(at, "false"), ""
		}
		r.add(at.at(), "%s must be of true, false, 1 or 0", as)
		return raw{}, ""
	}
	kind, address, _ := strings.Cut(src, ":")
	address = strings.TrimSpace(address)
	switch {
	case kind == "env" && address != "":
		if s := r.env(address); s != "" {
			return scalar(at, s), ""
		}
		return raw{}, as + " is not in the environment: set it, or give a default: ${env:NAME, 'default'}"
	case kind == "opt" && address == "stage" && r.opts.Stage != "":
		return scalar(at, r.opts.Stage), ""
	case kind == "opt" && address != "":
		if s, ok := r.opts.Opts[address]; ok {
			return scalar(at, s), ""
		}
		return raw{}, as + " is not given: add --stage STAGE, or --opt NAME=VALUE"
	case kind == "sls" && address == "stage", kind == "self" && address == "provider.stage":
		if s := r.stage(); s != "" {
			return scalar(at, s), ""
		}
		return raw{}, "the stage can't be known: add --stage STAGE"
	case kind == "aws" && address == "region":
		if s, ok := r.opts.Opts["region"]; ok {
			return scalar(at, s), ""
		}
		if v, _ := r.walk(r.root, "provider", "region"); v.Node != nil {
			return v, ""
		}
		return scalar(at, "us-east-1"), ""
	case kind == "self" && address != "":
		return r.self(address, as)
	case kind == "param" && address != "":
		for _, path := range [][]string{
			{"stages", r.stage(), "params", address}, {"params", r.stage(), address}, {"stages", "default", "params", address}, {"params", "default", address},
		} {
			if v, _ := r.walk(r.root, path...); v.Node != nil {
				return v, ""
			}
		}
		return raw{}, as + " is in neither params nor stages: add it, or give a default"
	}
	if kind == src {
		r.add(at.at(), "%s is no variable that can be resolved here; a text as a default must be in quotes", as)
	} else {
		r.add(at.at(), "%s can't be resolved here: %s", as, printFirst)
	}
	return raw{}, ""
}

// shown is a source as messages have it: without other variables in it, and so
// without their defaults.
func shown(src string) string {
	if strings.ContainsAny(src, "$'\"") || len(src) > 100 {
		kind, _, _ := strings.Cut(src, ":")
		if kind, _, _ = strings.Cut(kind, "("); strings.ContainsAny(kind, "$'\"") || len(kind) > 20 {
			kind = ""
		}
		return kind + "…"
	}
	return src
}

// self returns what is at a path of this file: custom.plans.0.name.
func (r *resolver) self(path, as string) (raw, string) {
	if path == "service" || path == "service.name" { // either form of it
		if v := r.service(); v.Node != nil {
			return v, ""
		}
	}
	v, missing := r.walk(r.root, strings.Split(path, ".")...)
	switch {
	case v.Node == nil && missing != "":
		return raw{}, as + " is not in this file (" + missing + "): correct it, or give a default"
	case v.Node != nil && v.Tag == "!!null":
		return raw{}, as + " is empty in this file"
	}
	return v, ""
}

// service returns the name of the service, of either form: a text, or as in
// version 1 a mapping with a name.
func (r *resolver) service() raw {
	v := r.setting(r.root, "service")
	if v.Node != nil && v.Kind == yaml.MappingNode {
		v = r.setting(v, "name")
	}
	return v
}

// stage returns the stage that the file is read for, or "" if it can't be
// known, as where it is defined by itself.
func (r *resolver) stage() string {
	if r.stageName == nil {
		r.stageName = new(string)
		if *r.stageName = r.opts.Stage; r.opts.Stage == "" {
			v := r.setting(r.setting(r.root, "provider"), "stage")
			switch {
			case v.Node == nil || v.Tag == "!!null":
				*r.stageName = "dev"
			case v.Kind == yaml.ScalarNode:
				*r.stageName = v.Value
			}
		}
	}
	return *r.stageName
}

// setting returns what a mapping has under a name, or nothing. A variable that
// stands for nothing is a mistake.
func (r *resolver) setting(v raw, name string) raw {
	if v.Node == nil || v.Kind != yaml.MappingNode {
		return raw{}
	}
	for _, e := range r.entries(v) {
		if e.key == name {
			v, missing := r.deref(e.value)
			if missing != "" {
				r.add(e.value.at(), "%s", missing)
			}
			return v
		}
	}
	return raw{}
}

// errOutside says that a file is in another folder.
var errOutside = errors.New("it is outside the folder of this file: --outside-files allows that")

// file returns what is at an address of another file, or all of that.
func (r *resolver) file(at raw, path, address, as string) (_ raw, missing string) {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".yml", ".yaml", ".json":
	default:
		r.add(at.at(), "%s needs code to be run, and only .yml, .yaml and .json are read here: %s", as, printFirst)
		return raw{}, ""
	}
	v, ok := r.files[path]
	if !ok {
		data, err := r.read(path)
		if errors.Is(err, fs.ErrNotExist) {
			return raw{}, as + ": there is no such file: correct the path, or give a default"
		} else if err != nil {
			r.add(at.at(), "%s can't be read: %v", as, err)
			return raw{}, ""
		}
		r.steps += len(data)
		v = r.parse(path, data)
		r.files[path] = v
	}
	if v.Node == nil || address == "" {
		return v, ""
	}
	if v, missing = r.walk(v, strings.Split(address, ".")...); v.Node == nil && missing != "" {
		missing = as + ": " + missing + ": correct it, or give a default"
	}
	return v, missing
}

// read returns what is in a file beside this one, or below.
func (r *resolver) read(path string) ([]byte, error) {
	if r.opts.Path == "" {
		return nil, errors.New("standard input is in no folder: name the file in place of -")
	}
	dir := filepath.Dir(r.opts.Path)
	if strings.HasPrefix(path, "~") {
		return nil, errOutside
	}
	if filepath.IsAbs(path) {
		if in, err := filepath.Rel(dir, path); err == nil {
			path = in
		}
	}
	var f *os.File
	var err error
	if r.opts.OutsideFiles {
		f, err = os.Open(filepath.Join(dir, path))
	} else if !filepath.IsLocal(path) {
		return nil, errOutside
	} else if root, rerr := os.OpenRoot(dir); rerr != nil {
		return nil, rerr
	} else {
		defer root.Close()
		f, err = root.Open(path) // not through a link that leads outside either
	}
	if err != nil {
		if strings.Contains(err.Error(), "path escapes") {
			err = errOutside
		}
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, errors.New("it is not a regular file"))
	}
	return io.ReadAll(io.LimitReader(f, MaxSize+1))
}

// env returns a variable of the environment, or else of the file .env beside
// this one, where the framework reads that: with useDotenv, and since version 4.
func (r *resolver) env(name string) string {
	if r.opts.Env != nil {
		if s := r.opts.Env(name); s != "" {
			return s
		}
	}
	if r.dotenv == nil {
		r.dotenv = map[string]string{}
		use, version := r.setting(r.root, "useDotenv"), r.setting(r.root, "frameworkVersion")
		v4 := version.Node != nil && strings.HasPrefix(strings.TrimLeft(version.Value, "^~>=v "), "4")
		if r.opts.Path != "" && (v4 || use.Node != nil && use.Value == "true") {
			stage := cmp.Or(r.stage(), "dev")
			if found := r.readDotenv(".env." + stage); v4 || !found {
				r.readDotenv(".env")
			}
		}
	}
	return r.dotenv[name]
}

var dotenvPattern = regexp.MustCompile(`^\s*(?:export\s+)?([\w.-]+)\s*(?:=|:\s)\s*(?:'([^']*)'|"((?:[^"\\]|\\.)*)"|([^#]*?))\s*(?:#.*)?$`)

// readDotenv adds the variables of a file to those there are.
func (r *resolver) readDotenv(path string) (found bool) {
	data, err := r.read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	} else if err != nil {
		r.add(Place{path, 1}, "it can't be read: %v", err)
		return false
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		if m := dotenvPattern.FindStringSubmatch(lines.Text()); m != nil {
			if _, ok := r.dotenv[m[1]]; !ok {
				r.dotenv[m[1]] = m[2] + strings.NewReplacer(`\n`, "\n", `\"`, `"`).Replace(m[3]) + m[4]
			}
		}
	}
	if err := lines.Err(); err != nil {
		r.add(Place{path, 1}, "it can't be read: %v", err)
	}
	return true
}
