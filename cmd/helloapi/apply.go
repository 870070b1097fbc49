package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"helloapi/internal/backend"
	"helloapi/internal/planfile"
)

type applyCmd struct {
	database
	output
	applying
	File  string            `short:"f" required:"" placeholder:"FILE" help:"A plans file, or a serverless.yml as it is; - for standard input."`
	Prune bool              `help:"Remove the plans and keys that earlier versions of the file made and this one does not have."`
	Stage string            `placeholder:"STAGE" help:"The stage that a serverless.yml is read for. Default: its provider.stage, or dev."`
	Opt   map[string]string `placeholder:"NAME=VALUE" help:"What a variable $${opt:NAME} stands for."`
}

func (c *applyCmd) Run(p *program) error {
	f, err := readPlans(p, c.File, c.Stage, c.Opt)
	if err != nil {
		return err
	}
	if c.Prune && f.Source == "" {
		return errors.New("--prune: nobody can tell what earlier versions of standard input made: add name: NAME to the file, or give its path")
	}
	return c.use(p, func(db backend.Database) error {
		return c.apply(p, db, f, c.Prune, c.output)
	})
}

// readPlans reads a plans file or a serverless.yml.
func readPlans(p *program, path, stage string, opts map[string]string) (*planfile.File, error) {
	data, err := readFile(p, path)
	if err != nil {
		return nil, err
	}
	o := planfile.Options{Stage: stage, Opts: opts, Env: p.getenv}
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
	in := p.stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, planfile.MaxSize+1)) // Read refuses what is larger
	if err != nil {
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

// applying is how a file of plans or keys is applied.
type applying struct {
	DryRun   bool   `help:"Say what would be changed, and change nothing."`
	Conceal  bool   `help:"Do not print the values of new keys."`
	KeysFile string `placeholder:"FILE" help:"Write the values of new keys to a new file that only you can read, as CSV, instead of printing them."`
}

// An applied is what was done, as it is shown.
type applied struct {
	DryRun  bool            `json:"dryRun"`
	Changes []planfile.Line `json:"changes"`
	Keys    []newKey        `json:"keys"`
	Notices []string        `json:"notices"`
}

// A newKey is a key whose value was made just now.
type newKey struct {
	Name  string `json:"name"`
	Value string `json:"value,omitempty"` // "": concealed
}

// apply changes the database as f says. People see what before it is done.
func (a applying) apply(p *program, db planfile.Store, f *planfile.File, prune bool, o output) error {
	// Once to look and once to do: nobody has to wait for a slow terminal.
	// What was shown is not what is done only if somebody changes plans or
	// keys in between.
	var planned, done planfile.Changes
	err := db.ApplyPlans(p.ctx, f.Scope(), func(s planfile.State) (_ planfile.Changes, err error) {
		planned, err = f.Diff(s, prune, time.Now())
		return planfile.Changes{}, err
	})
	if err != nil {
		return nothingChanged(err)
	}
	for _, n := range slices.Concat(f.Notices, planned.Notices) {
		fmt.Fprintln(p.stderr, "note:", n)
	}
	asJSON := o.Output == "json"
	if !asJSON {
		printLines(p.stdout, planned.Lines)
	}
	if a.DryRun {
		if asJSON {
			return printJSON(p.stdout, shownChanges(planned, f, true, true))
		}
		_, err := fmt.Fprintln(p.stdout, or(summary(planned.Lines, "to add", "to change", "to remove"), "Nothing to do: plans and keys are as the file says."))
		return err
	}

	keysFile := ""
	err = db.ApplyPlans(p.ctx, f.Scope(), func(s planfile.State) (_ planfile.Changes, err error) {
		if done, err = f.Diff(s, prune, time.Now()); err != nil {
			return planfile.Changes{}, err
		}
		if a.KeysFile != "" && len(made(done)) > 0 {
			if err := writeKeys(a.KeysFile, made(done)); err != nil {
				return planfile.Changes{}, err
			}
			keysFile = a.KeysFile
		}
		return done, nil
	})
	if err != nil {
		if keysFile != "" {
			err = errors.Join(err, os.Remove(keysFile)) // values of no keys
		}
		return nothingChanged(err)
	}
	conceal := a.Conceal || keysFile != ""
	if asJSON {
		return valuesLost(done, printJSON(p.stdout, shownChanges(done, f, false, conceal)))
	}
	if !slices.Equal(planned.Lines, done.Lines) {
		fmt.Fprintln(p.stdout, "Somebody else changed plans or keys just now. What was done:")
		printLines(p.stdout, done.Lines)
	}
	fmt.Fprintln(p.stdout, or(summary(done.Lines, "added", "changed", "removed"), "Nothing to do: plans and keys are as the file says."))
	return valuesLost(done, printKeys(p, made(done), conceal, keysFile))
}

// nothingChanged says so after the errors of a file.
func nothingChanged(err error) error {
	return errors.Join(err, errors.New("nothing was changed"))
}

// valuesLost says what to do if the values of new keys could not be printed.
func valuesLost(c planfile.Changes, err error) error {
	if err == nil || len(made(c)) == 0 {
		return err
	}
	return fmt.Errorf("the keys are made, but their values could not be printed (%w): `helloapi keys rotate NAME` makes and prints a new one", err)
}

func made(c planfile.Changes) []newKey {
	var keys []newKey
	for _, k := range c.AddKeys {
		if k.Made {
			keys = append(keys, newKey{k.Key.Name, k.Value.Reveal()})
		}
	}
	return keys
}

func shownChanges(c planfile.Changes, f *planfile.File, dryRun, conceal bool) applied {
	shown := applied{dryRun, append([]planfile.Line{}, c.Lines...), []newKey{}, append([]string{}, slices.Concat(f.Notices, c.Notices)...)}
	for _, k := range made(c) {
		if conceal {
			k.Value = ""
		}
		shown.Keys = append(shown.Keys, k)
	}
	return shown
}

func printLines(w io.Writer, lines []planfile.Line) {
	for _, l := range lines {
		sign := map[string]string{"add": "+", "change": "~", "remove": "-"}[l.Op]
		fmt.Fprintf(w, "%s %s %s", sign, l.Kind, l.Name)
		if l.Text != "" {
			fmt.Fprintf(w, ": %s", l.Text)
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

// printKeys shows the values of new keys, or says how to come by one.
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
		command := or(p.getenv("HELLOAPI_COMMAND"), "helloapi")
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
