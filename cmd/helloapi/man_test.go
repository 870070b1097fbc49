package main

import (
	"bytes"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// The manual page has every command, argument, flag and example that the help
// has, and nothing that roff would take for something else.
func TestMan(t *testing.T) {
	t.Parallel()
	page, _, err := helloapi(t, nil, "man")
	if err != nil {
		t.Fatal(err)
	}
	commands := map[string]string{} // what the page has of each
	for _, part := range strings.Split(page, "\n.SS ")[1:] {
		heading, body, _ := strings.Cut(part, "\n")
		body, _, _ = strings.Cut(body, "\n.SH ")
		commands[unroff(heading)] = unroff(body) + "\n"
	}
	want := leaves(t)
	delete(want, "complete") // hidden
	if len(commands) != len(want) {
		t.Errorf("%d commands, want %d", len(commands), len(want))
	}
	for path, leaf := range want {
		body, ok := commands["helloapi "+leaf.Summary()]
		if !ok || !strings.HasPrefix(body, leaf.Help+"\n") {
			t.Errorf("the page has no %s, or not what it is for:\n%s", path, body)
			continue
		}
		for _, arg := range leaf.Positional {
			if !strings.Contains(body, "\n.B "+arg.Summary()+"\n"+arg.Help+"\n") {
				t.Errorf("%s: no argument %s in\n%s", path, arg.Name, body)
			}
		}
		for _, f := range leaf.Flags {
			if f.Hidden == strings.Contains(body, "\n.B "+f.String()+"\n"+describe(f.Value)+"\n") {
				t.Errorf("%s: the flag --%s is hidden: %v; in\n%s", path, f.Name, f.Hidden, body)
			}
		}
		for line := range strings.Lines(strings.TrimSpace(examples[path])) {
			if !strings.Contains(body, strings.TrimSuffix(line, "\n")+"\n") {
				t.Errorf("%s: no example %s in\n%s", path, line, body)
			}
		}
	}

	macro := regexp.MustCompile(`^\.(TH|SH|SS|TP|PP|EX|EE|B|I|RI)( |$)`)
	escape := regexp.MustCompile(`\\(e|-|&|\(aq|\(ga|\(ha|\(ti|\(dq)`)
	for line := range strings.Lines(page) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "'") || strings.HasPrefix(line, ".") && !macro.MatchString(line) ||
			strings.ContainsAny(escape.ReplaceAllString(line, ""), "\\'`^~") || macro.MatchString(line) && strings.Count(line, `"`)%2 != 0 {
			t.Errorf("not roff: %s", line)
		}
	}
	for s, want := range map[string]string{
		".TH\n-x 'a' `b` ^~\\\n'": "\\&.TH\n\\-x \\(aqa\\(aq \\(gab\\(ga \\(ha\\(ti\\e\n\\(aq",
	} {
		if got := roff(s); got != want || unroff(got) != s {
			t.Errorf("roff(%q) = %q, want %q", s, got, want)
		}
	}
	for _, lint := range [][]string{{"mandoc", "-Tlint", "-Werror"}, {"groff", "-ww", "-z", "-man", "-K", "utf8", "-Tutf8"}} {
		program, err := exec.LookPath(lint[0])
		if err != nil {
			continue // what it checks is what is checked above
		}
		cmd := exec.Command(program, lint[1:]...)
		cmd.Stdin = strings.NewReader(page)
		if out, err := cmd.CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
			t.Errorf("%q: %v\n%s", lint, err, out)
		}
	}
}

// unroff undoes roff and roffArg.
func unroff(s string) string {
	s = regexp.MustCompile(`(?m)(^| )"(.*)"$`).ReplaceAllString(s, "$1$2")
	return strings.NewReplacer(`\e`, `\`, `\-`, "-", `\(aq`, "'", `\(ga`, "`", `\(ha`, "^", `\(ti`, "~", `\(dq`, `"`, `\&`, "").Replace(s)
}
