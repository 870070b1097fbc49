package main

import (
	"errors"
	"fmt"

	"helloapi/internal/backend"
	"helloapi/internal/hello"
)

type greetingsCmd struct {
	Top    greetingsTopCmd    `cmd:"" help:"List the names that were greeted most."`
	Delete greetingsDeleteCmd `cmd:"" help:"Remove a name and its count for good."`
}

type greetingsTopCmd struct {
	database
	output
	Number int `short:"n" default:"10" placeholder:"N" help:"How many names."`
}

// Validate is called when the flags have been read.
func (c *greetingsTopCmd) Validate() error {
	if c.Number < 1 {
		return errors.New("--number: must be at least 1")
	}
	return nil
}

func (c *greetingsTopCmd) Run(p *program) error {
	return c.use(p, func(db backend.Database) error {
		counts, err := db.Greetings.Top(p.ctx, c.Number)
		if err != nil {
			return err
		}
		if c.Output == "json" {
			return printJSON(p.stdout, counts)
		}
		t := newTable(p.stdout, "COUNT", "NAME")
		for _, n := range counts {
			t.row(fmt.Sprint(n.Count), n.Name)
		}
		return t.Flush()
	})
}

type greetingsDeleteCmd struct {
	database
	confirmation
	Name string `arg:"" help:"The name, as it is greeted."`
}

// A deletedName is a name that was deleted, as it is shown.
type deletedName struct {
	Name    string `json:"name"`
	Deleted bool   `json:"deleted"`
}

func (c *greetingsDeleteCmd) Run(p *program) error {
	name, err := hello.NormalizeName(c.Name)
	if err != nil {
		return err
	}
	return c.use(p, func(db backend.Database) error {
		if ok, err := c.confirm(p, fmt.Sprintf("Delete the name %q and its count for good.", name)); !ok {
			return err
		}
		if err := db.Greetings.Delete(p.ctx, name); errors.Is(err, hello.ErrNotGreeted) {
			return fmt.Errorf("nobody named %q was greeted", name)
		} else if err != nil {
			return err
		}
		return c.printDone(p, fmt.Sprintf("Deleted %q and its count.", name), deletedName{name, true})
	})
}
