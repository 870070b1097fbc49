package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

// The one library that makes manual pages of kong's model has been without a
// release since 2022; the page is as short as the code that would call it.
type manCmd struct{}

func (c *manCmd) Run(p *program, app *kong.Kong) error {
	return manPage(p.stdout, app.Model)
}

// manPage writes the manual page, in the macros of man(7), of the model that the
// help is made of.
func manPage(w io.Writer, app *kong.Application) error {
	var b strings.Builder
	name, about, _ := strings.Cut(app.Help, "\n\n")
	// No date: the page is that of a version, however often it is made.
	fmt.Fprintf(&b, ".TH %s 1 \"\" %s\n", roffArg(strings.ToUpper(app.Name)), roffArg(app.Name+" "+version()))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", app.Name, roff(strings.TrimSuffix(name, ".")))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n.I command\n.RI [ flags ]\n", app.Name)
	fmt.Fprintf(&b, ".SH DESCRIPTION\n%s\n", roff(about))
	b.WriteString(".SH OPTIONS\nOf every command:\n")
	manItem(&b, app.HelpFlag.String(), app.HelpFlag.Help)
	b.WriteString(".SH COMMANDS\n")
	for _, leaf := range app.Leaves(true) {
		fmt.Fprintf(&b, ".SS %s\n%s\n", roffArg(app.Name+" "+leaf.Summary()), roff(leaf.Help))
		for _, arg := range leaf.Positional {
			manItem(&b, arg.Summary(), arg.Help)
		}
		for _, flag := range leaf.Flags {
			if !flag.Hidden {
				manItem(&b, flag.String(), describe(flag.Value))
			}
		}
		if leaf.Detail != "" {
			about, examples, _ := strings.Cut(leaf.Detail, exampleHeading)
			if about = strings.TrimSpace(about); about != "" {
				fmt.Fprintf(&b, ".PP\n%s\n", roff(about))
			}
			if examples != "" {
				fmt.Fprintf(&b, ".PP\n.EX\n%s\n.EE\n", roff(strings.TrimRight(examples, "\n")))
			}
		}
	}
	b.WriteString(".SH EXIT STATUS\n0 if the command did what it was asked for, else 1.\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// manItem writes a term and what it means.
func manItem(b *strings.Builder, term, meaning string) {
	fmt.Fprintf(b, ".TP\n.B %s\n%s\n", roffArg(term), roff(meaning))
}

// roff escapes a text of any number of lines: what roff takes for a command at
// the beginning of a line, a hyphen (which it would not let be copied), and the
// backslash.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, `-`, `\-`, `'`, `\(aq`, "`", `\(ga`, `^`, `\(ha`, `~`, `\(ti`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}

// roffArg is a text as the argument of a macro.
func roffArg(s string) string {
	return `"` + strings.ReplaceAll(roff(s), `"`, `\(dq`) + `"`
}
