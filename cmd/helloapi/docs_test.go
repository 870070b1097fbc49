package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"helloapi/internal/planfile"
)

// Every command that the docs have is one that there is.
func TestDocsCommands(t *testing.T) {
	t.Parallel()
	docs, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, doc := range append(docs, "../../README.md") {
		data, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, command := range docCommands(string(data)) {
			n++
			if _, ok := examples[strings.Join(command, " ")]; ok { // called by its name alone
				continue
			}
			parser, err := newParser(&commands{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := parser.Parse(command); err != nil {
				t.Errorf("%s: helloapi %q: %v", doc, command, err)
			}
		}
	}
	if n < 30 {
		t.Errorf("only %d commands were found", n)
	}
}

// docCommands returns the arguments of every helloapi that a page calls, in a
// block of sh or between backquotes. Between those it may be the name of a
// command alone.
func docCommands(page string) (all [][]string) {
	block := ""
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		if lang, ok := strings.CutPrefix(line, "```"); ok {
			if block == "" {
				block = lang + " "
			} else {
				block = ""
			}
			continue
		}
		if block == "sh " {
			for part := range strings.SplitSeq(line, "|") {
				if args := words(part); len(args) > 1 && args[0] == "helloapi" {
					all = append(all, args[1:])
				}
			}
		}
		if block != "" {
			continue
		}
		for i, span := range strings.Split(line, "`") {
			if i%2 == 0 || strings.Contains(span, "…") {
				continue
			}
			if args := words(span); len(args) > 2 && args[0] == "helloapi" && !strings.HasPrefix(args[1], "-") {
				all = append(all, args[1:])
			}
		}
	}
	return all
}

// words splits a line as a shell does, up to a comment or a redirection.
func words(line string) (all []string) {
	var word strings.Builder
	in, quoted := false, false
	for _, c := range line + " " {
		switch {
		case c == '\'':
			quoted, in = !quoted, true
		case quoted:
			word.WriteRune(c)
		case c == ' ' || c == '\n':
			if in {
				all = append(all, word.String())
			}
			word.Reset()
			in = false
		case !in && (c == '#' || c == '<' || c == '>'):
			return all
		default:
			in = true
			word.WriteRune(c)
		}
	}
	return all
}

// The plans file that the docs show is one.
func TestDocsPlans(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/plans.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(page), "```yaml\n")
	block, _, _ = strings.Cut(block, "```")
	f, err := planfile.Read("plans.yaml", []byte(block), planfile.Options{Env: func(string) string { return "partner-value-0123456789" }})
	if err != nil || len(f.Plans) != 3 || len(f.Keys) != 3 {
		t.Errorf("%v in\n%s", err, block)
	}
}
