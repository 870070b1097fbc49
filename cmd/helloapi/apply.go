package main

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"helloapi/internal/backend"
	"helloapi/internal/changes"
	"helloapi/internal/clock"
	"helloapi/internal/plan"
	"helloapi/internal/planfile"
)

type applyCmd struct {
	database
	confirmation
	File         string            `short:"f" required:"" placeholder:"FILE" help:"A plans file, or a serverless.yml as it is; - for standard input."`
	Prune        bool              `help:"Remove the plans and keys that earlier versions of the file made and this one does not have."`
	DropLimits   bool              `help:"Allow a plan with keys to lose its quota or its throttle."`
	TakeOver     bool              `help:"Allow plans and keys of another file to be changed."`
	Conceal      bool              `help:"Do not print the values of new keys."`
	KeysFile     string            `placeholder:"FILE" help:"Write the values of new keys to a new file that only you can read, as CSV, instead of printing them."`
	OutsideFiles bool              `help:"Allow $${file(…)} to read files outside the folder of the file."`
	Stage        string            `placeholder:"STAGE" help:"The stage that a serverless.yml is read for. Default: its provider.stage, or dev."`
	Opt          map[string]string `placeholder:"NAME=VALUE" help:"What a variable $${opt:NAME} stands for."`
}

func (c *applyCmd) Run(p *program) error {
	f, err := readPlans(p, c.File, planfile.Options{Stage: c.Stage, Opts: c.Opt, OutsideFiles: c.OutsideFiles})
	if err != nil {
		return err
	}
	if c.Prune && f.Source == "" {
		return errors.New("--prune needs to know which file this is, and standard input has no path: add name: NAME to the file, or give its path")
	}
	opts := planfile.ApplyOptions{DryRun: c.DryRun, Prune: c.Prune, DropLimits: c.DropLimits, TakeOver: c.TakeOver}
	return c.use(p, func(db backend.Database) error {
		opts.Confirm = func(todo planfile.Changes) error { return c.confirmChanges(p, db, todo) }
		return apply(p, db, f, opts, shownValues{c.Conceal, c.KeysFile}, c.output)
	})
}

// confirmChanges has a person confirm what a file removes, and whose value it
// replaces of the keys that were used in the last 30 days.
func (c confirmation) confirmChanges(p *program, db backend.Database, todo planfile.Changes) error {
	today := plan.DateOf(clock.Now().UTC())
	days, err := db.DailyUsage(p.ctx, "", today.AddDays(-30), today.AddDays(2)) // also where tomorrow has begun already
	if err != nil {
		return err
	}
	used := map[string]int64{}
	for _, d := range days {
		used[d.KeyID] += d.Charged
	}
	var what []string
	var removed []string
	for _, l := range todo.Lines {
		if l.Op == "remove" {
			removed = append(removed, l.Kind+" "+l.Name)
		}
	}
	if len(removed) > 0 {
		what = append(what, fmt.Sprintf("Remove for good: %s.", someOf(removed)))
	}
	if n := total(used, todo.DropKeys); n > 0 {
		what = append(what, fmt.Sprintf("These keys had %d requests in the last 30 days; what is not yet billed stays in `helloapi usage show --by month`.", n))
	}
	var replaced []string
	for _, v := range todo.SetValues {
		if used[v.Key.ID] > 0 {
			replaced = append(replaced, or(v.Key.Name, v.Key.ID))
		}
	}
	if len(replaced) > 0 {
		what = append(what, fmt.Sprintf("Refuse from now on the current values, which had requests in the last 30 days, of: %s.", someOf(replaced)))
	}
	if len(what) == 0 {
		return nil
	}
	_, err = c.confirm(p, strings.Join(what, " "))
	return err
}

// total adds up what keys used.
func total(used map[string]int64, ids []string) (n int64) {
	for _, id := range ids {
		n += used[id]
	}
	return n
}

// readPlans reads a plans file or a serverless.yml.
func readPlans(p *program, path string, o planfile.Options) (*planfile.File, error) {
	data, err := readFile(p, path)
	if err != nil {
		return nil, err
	}
	o.Env = p.getenv
	if path != "-" {
		if o.Path, err = filepath.Abs(path); err != nil {
			return nil, err
		}
	}
	f, err := planfile.Read(fileName(path), data, o)
	if err != nil {
		return nil, nothingChanged(err)
	}
	return f, nil
}

// readFile reads a file of plans or keys whole, "-" from standard input.
func readFile(p *program, path string) ([]byte, error) {
	var in io.Reader
	if path == "-" {
		in = p.input()
	} else {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, planfile.MaxSize+1)) // Read refuses what is larger
	if errors.Is(err, errInterrupted) {
		return nil, fmt.Errorf("%w: %w", errInterrupted, errNothingChanged)
	} else if err != nil {
		return nil, fmt.Errorf("read %s: %w", fileName(path), err)
	}
	return data, nil
}

// fileName is what messages call a file.
func fileName(path string) string {
	if path == "-" {
		return "standard input"
	}
	return path
}

// shownValues say where the values of new keys go.
type shownValues struct {
	conceal bool
	file    string // "": they are printed
}

// An applied is what was done, as it is shown.
type applied struct {
	DryRun  bool            `json:"dryRun"`
	Changes []planfile.Line `json:"changes"`
	Keys    []newKey        `json:"keys"`
	LeftOut []string        `json:"leftOut,omitempty"` // keys of a listing that were not imported
	Notices []string        `json:"notices"`
}

// A newKey is a key whose value was made just now.
type newKey struct {
	Name  string `json:"name"`
	Value string `json:"value,omitempty"` // "": concealed
}

// apply applies a file to the database, and prints what that changed.
func apply(p *program, db planfile.Store, f *planfile.File, opts planfile.ApplyOptions, values shownValues, o output) error {
	written := false
	if values.file != "" {
		opts.KeepValues = func(made []planfile.NewValue) error {
			err := writeKeys(values.file, newKeys(made))
			written = err == nil
			return err
		}
	}
	ctx := changes.WithActor(p.ctx, cmp.Or(changes.Actor(p.ctx), "serve")+", "+f.Name)
	c, err := planfile.Apply(ctx, db, f, opts)
	if err != nil {
		if written {
			err = errors.Join(err, os.Remove(values.file)) // values of no keys
		}
		if p.ctx.Err() != nil {
			return fmt.Errorf("%w: %w", errInterrupted, errNothingChanged)
		}
		return nothingChanged(err)
	}
	keys := newKeys(c.Made())
	if opts.DryRun {
		keys = nil // values that open nothing
	}
	notices := slices.Concat(f.Notices, c.Notices)
	conceal := values.conceal || written
	if o.Output == "json" {
		if conceal {
			for i := range keys {
				keys[i].Value = ""
			}
		}
		shown := applied{opts.DryRun, append([]planfile.Line{}, c.Lines...), append([]newKey{}, keys...), c.LeftOut, append([]string{}, notices...)}
		return valuesLost(keys, printJSON(p.stdout, shown))
	}
	if n := len(c.LeftOut); n > 0 {
		notices = append(notices, fmt.Sprintf("%s: left out, since no key here has their name or value: %s. "+
			"To import one, apply a file that lists it first, or say which plan is meant by its usage plan: --usage-plan ID=PLAN", f.Name, someOf(c.LeftOut)))
	}
	for _, n := range notices {
		fmt.Fprintln(p.stderr, "note:", n)
	}
	printLines(p.stdout, c.Lines)
	verbs := []string{"added", "changed", "removed"}
	if opts.DryRun {
		verbs = []string{"to add", "to change", "to remove"}
	}
	fmt.Fprintln(p.stdout, cmp.Or(summary(c.Lines, verbs[0], verbs[1], verbs[2]), "Nothing to do: plans and keys are as the file says."))
	return valuesLost(keys, printKeys(p, keys, conceal, values.file))
}

// someOf lists names, the first twenty of more.
func someOf(names []string) string {
	if n := len(names); n > 20 {
		names = append(names[:20:20], fmt.Sprintf("and %d more (-o json lists all)", n-20))
	}
	return strings.Join(names, ", ")
}

// nothingChanged says so after the errors of a file.
func nothingChanged(err error) error {
	if errors.Is(err, errNothingChanged) {
		return err
	}
	return errors.Join(err, errNothingChanged)
}

// valuesLost says what to do if the values of new keys could not be printed.
func valuesLost(keys []newKey, err error) error {
	if err == nil || len(keys) == 0 {
		return err
	}
	return fmt.Errorf("the keys are made, but their values could not be printed (%w): `helloapi keys rotate NAME` makes and prints a new one", err)
}

func newKeys(made []planfile.NewValue) (keys []newKey) {
	for _, k := range made {
		keys = append(keys, newKey{k.Key.Name, k.Value.Reveal()})
	}
	return keys
}

func printLines(w io.Writer, lines []planfile.Line) {
	for _, l := range lines {
		sign := map[string]string{"add": "+", "change": "~", "remove": "-"}[l.Op]
		fmt.Fprintf(w, "%s %s %s", sign, l.Kind, visible(l.Name))
		if l.Text != "" {
			fmt.Fprintf(w, ": %s", visible(l.Text))
		}
		fmt.Fprintln(w)
	}
}

// summary counts the lines: "2 added, 1 changed, 0 removed."; "" for none.
func summary(lines []planfile.Line, added, changed, removed string) string {
	if len(lines) == 0 {
		return ""
	}
	n := map[string]int{}
	for _, l := range lines {
		n[l.Op]++
	}
	return fmt.Sprintf("%d %s, %d %s, %d %s.", n["add"], added, n["change"], changed, n["remove"], removed)
}

// printKeys shows the values of new keys, or how to get one.
func printKeys(p *program, keys []newKey, conceal bool, keysFile string) error {
	switch {
	case len(keys) == 0:
		return nil
	case keysFile != "":
		_, err := fmt.Fprintf(p.stdout, "The values of the new keys are in %s. They are nowhere else.\n", keysFile)
		return err
	case conceal:
		fmt.Fprint(p.stdout, "\nThe values of the new keys are not shown. This gives a key another one, and shows it:\n\n")
		// How helloapi is called where it is deployed, for people to paste.
		command := cmp.Or(p.getenv("HELLOAPI_COMMAND"), "helloapi")
		for _, k := range keys {
			if _, err := fmt.Fprintf(p.stdout, "  %s keys rotate %s\n", command, shellWord(k.Name)); err != nil {
				return err
			}
		}
		return nil
	}
	fmt.Fprint(p.stdout, "\nThe values of the new keys, shown this once:\n\n")
	t := newTable(p.stdout)
	for _, k := range keys {
		t.row("  "+k.Name, k.Value)
	}
	return t.Flush()
}

// writeKeys writes the values of keys to a new file, in the form that
// `helloapi import keys` reads.
func writeKeys(path string, keys []newKey) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("--keys-file: %s is there already, and may hold values that are nowhere else: name another file", path)
	} else if err != nil {
		return fmt.Errorf("--keys-file: %w", err)
	}
	w := csv.NewWriter(f)
	_ = w.Write([]string{"name", "key"}) // kept until Error
	for _, k := range keys {
		_ = w.Write([]string{k.Name, k.Value})
	}
	w.Flush()
	if err := errors.Join(w.Error(), f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("--keys-file: %w", err), os.Remove(path))
	}
	return nil
}

// shellWord quotes s for a shell if it has to be.
func shellWord(s string) string {
	plain := func(c rune) bool {
		return c < 0x80 && (c == '-' || c == '_' || c == '.' || c == '/' || c == '@' || c == ':' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z')
	}
	if s != "" && s[0] != '-' && !slices.ContainsFunc([]rune(s), func(c rune) bool { return !plain(c) }) {
		return s
	}
	out := "'"
	for _, c := range s {
		if c == '\'' {
			out += `'\''`
		} else {
			out += string(c)
		}
	}
	return out + "'"
}
