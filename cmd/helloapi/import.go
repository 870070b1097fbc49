package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"helloapi/internal/backend"
	"helloapi/internal/countfile"
	"helloapi/internal/planfile"
)

type importCmd struct {
	Keys      importKeysCmd      `cmd:"" help:"Take keys along with their values, so that customers keep theirs."`
	Greetings importGreetingsCmd `cmd:"" help:"Take along how often each name was greeted."`
}

type importKeysCmd struct {
	database
	confirmation
	File      string            `arg:"" help:"A listing of the gateway's keys with their values, as JSON or YAML, or CSV with the columns name and key; - for standard input."`
	Plan      string            `placeholder:"PLAN" complete:"plans" help:"The plan of all keys that are new here and whose line names none."`
	UsagePlan map[string]string `placeholder:"ID=PLAN" help:"The plan that the file calls ID."`
}

func (c *importKeysCmd) Run(p *program) error {
	data, err := readFile(p, c.File)
	if err != nil {
		return err
	}
	f, err := planfile.ReadKeys(fileName(c.File), data, planfile.KeyOptions{Plan: c.Plan, Plans: c.UsagePlan})
	if err != nil {
		return nothingChanged(err)
	}
	return c.use(p, func(db backend.Database) error {
		opts := planfile.ApplyOptions{DryRun: c.DryRun}
		opts.Confirm = func(todo planfile.Changes) error { return c.confirmChanges(p, db, todo) }
		return apply(p, db, f, opts, shownValues{}, c.output)
	})
}

type importGreetingsCmd struct {
	database
	confirmation
	Files          []string `arg:"" name:"file" help:"Files with a JSON object on each line, as DynamoDB exports a table, or CSV with a header; compressed with gzip or not; - for standard input."`
	Add            bool     `xor:"how" required:"" help:"Add the counts to those that are there. Lines that an earlier import has added are not added again."`
	Replace        bool     `xor:"how" required:"" help:"Set the counts; a name that no file has keeps its own."`
	NameAttribute  string   `default:"name" placeholder:"NAME" help:"The attribute or column that has the name."`
	CountAttribute string   `placeholder:"NAME" help:"The attribute or column that has the count. Default: greeting_count, or else count."`
	FromLine       int64    `placeholder:"N" help:"Add the lines of the file from this one on, whatever was added before."`
}

// Validate is called when the flags have been read.
func (c *importGreetingsCmd) Validate() error {
	if c.FromLine < 0 {
		return errors.New("--from-line: must be at least 1")
	}
	if c.FromLine > 0 && len(c.Files) > 1 {
		return errors.New("--from-line: give one file, that which has the line")
	}
	if c.FromLine > 0 && c.Replace {
		return errors.New("--from-line is for --add: with --replace import all the files again, from their first lines")
	}
	return nil
}

// An importedInfo is what was imported of a file, as it is shown.
type importedInfo struct {
	DryRun   bool       `json:"dryRun,omitempty"`
	File     string     `json:"file"`
	Taken    int64      `json:"taken"`              // rows
	Before   int64      `json:"takenBefore"`        // rows, by an import that was interrupted
	NextLine int64      `json:"nextLine,omitempty"` // the first that was not taken
	DoneAt   *time.Time `json:"doneAt,omitempty"`   // when all of it was taken before
}

func (c *importGreetingsCmd) Run(p *program) error {
	return c.use(p, func(db backend.Database) (err error) {
		if err := c.confirmReplace(p, db); err != nil {
			return err
		}
		shown := []importedInfo{}
		run := countfile.NewRun()
		for _, path := range c.Files {
			var r countfile.Result
			r, err = c.file(p, db, path, run)
			shown = append(shown, importedInfo{c.DryRun, fileName(path), r.Taken, r.Before, r.NextLine, shownTime(r.DoneAt)})
			if err != nil {
				break
			}
		}
		if c.Output == "json" {
			err = errors.Join(err, printJSON(p.stdout, shown))
		}
		return err
	})
}

// confirmReplace has a person confirm that counts are lost, if there are any. A
// dry run needs no consent: it reads the files.
func (c *importGreetingsCmd) confirmReplace(p *program, db backend.Database) error {
	if !c.Replace || c.DryRun {
		return nil
	}
	top, err := db.Greetings.Top(p.ctx, 1)
	if err != nil || len(top) == 0 {
		return err
	}
	_, err = c.confirm(p, fmt.Sprintf("Replace the count here of each name that the files have, for good; the highest is %d, of %q. Numbers that were given since the files were made will be given again.", top[0].Count, top[0].Name))
	return err
}

// file imports a file, and says what was taken.
func (c *importGreetingsCmd) file(p *program, db countfile.Store, path string, run int64) (countfile.Result, error) {
	var f *os.File
	defer func() {
		if f != nil {
			f.Close()
		}
	}()
	opened := false
	open := func() (_ io.Reader, err error) {
		switch {
		case path == "-" && opened:
			return nil, countfile.ErrOnce
		case path == "-":
			opened = true
			return p.input(), nil
		case f == nil:
			f, err = os.Open(path)
			return f, err
		}
		_, err = f.Seek(0, io.SeekStart)
		return f, err
	}
	how := countfile.How{
		Options: countfile.Options{Name: c.NameAttribute, Count: c.CountAttribute},
		Replace: c.Replace, Run: run, FromLine: c.FromLine, DryRun: c.DryRun,
	}
	bar := newProgress(p, path)
	how.Progress = bar.show
	r, err := countfile.Import(p.ctx, db, open, how)
	bar.end()

	name := fileName(path)
	if err != nil && p.ctx.Err() != nil {
		return r, fmt.Errorf("%s: %w: %w", name, errInterrupted, cmp.Or(c.next(r, path), errors.New("no line was imported")))
	}
	took := "took"
	if c.DryRun {
		took = "would take"
	}
	switch {
	case !r.DoneAt.IsZero():
		fmt.Fprintf(p.stderr, "%s: all of it was added on %s: nothing to do. (--from-line 1 adds it once more.)\n", name, r.DoneAt.UTC().Format(time.RFC3339))
	case r.Before > 0 && r.Taken+r.Before > 0:
		fmt.Fprintf(p.stderr, "%s: %s %d rows, after the %d that were taken before.\n", name, took, r.Taken, r.Before)
	case err == nil || r.Taken > 0:
		fmt.Fprintf(p.stderr, "%s: %s %d rows.\n", name, took, r.Taken)
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("%s: %w", name, err), c.next(r, path))
	}
	return r, err
}

// next says how to continue an import that stopped, nil if there is nothing to
// say.
func (c *importGreetingsCmd) next(r countfile.Result, path string) error {
	switch {
	case r.NextLine == 0:
		return nil
	case c.DryRun:
		return fmt.Errorf("the lines before line %d can be imported; %w (--dry-run)", r.NextLine, errNothingChanged)
	case r.Taken+r.Before == 0:
		return errors.New("no line was imported")
	case c.Replace:
		return fmt.Errorf("the lines before line %d are imported: import all the files again", r.NextLine)
	case c.FromLine == 0 && path != "-":
		return fmt.Errorf("the lines before line %d are imported: import the file again, it continues there", r.NextLine)
	}
	return fmt.Errorf("the lines before line %d are imported: continue with --from-line %[1]d", r.NextLine)
}

// A progress shows on a terminal how far an import is.
type progress struct {
	w     io.Writer // nil: not on a terminal
	name  string
	size  int64 // of the file; 0: not known
	begin time.Time
	shown time.Time
}

func newProgress(p *program, path string) *progress {
	bar := &progress{name: fileName(path), begin: time.Now()}
	if f, ok := p.stderr.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			bar.w = f
		}
	}
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
		bar.size = info.Size()
	}
	return bar
}

func (b *progress) show(rows, bytes int64) {
	if b.w == nil || time.Since(b.shown) < 200*time.Millisecond {
		return
	}
	b.shown = time.Now()
	percent := ""
	if b.size > 0 {
		percent = fmt.Sprintf(", %d %%", min(100, 100*bytes/b.size))
	}
	fmt.Fprintf(b.w, "\r\x1b[K%s: %d rows%s, %.0f a second", b.name, rows, percent, float64(rows)/time.Since(b.begin).Seconds())
}

func (b *progress) end() {
	if b.w != nil && !b.shown.IsZero() {
		fmt.Fprint(b.w, "\r\x1b[K")
	}
}
