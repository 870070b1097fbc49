package main

import (
	"errors"
	"fmt"
	"time"

	"helloapi/internal/backend"
)

type migrateCmd struct {
	Up     migrateUpCmd     `cmd:"" default:"withargs" help:"Apply the migrations that are missing."`
	Status migrateStatusCmd `cmd:"" help:"Print the version of the database's schema."`
}

// patience is the flag of commands that may be started before what they need.
type patience struct {
	Wait time.Duration `default:"0s" placeholder:"TIME" help:"How long to try again until it succeeds."`
}

// retryInterval is the time between two tries.
const retryInterval = 500 * time.Millisecond

// try calls f until it succeeds or time is up, and returns its last error. Why
// it waits is said once for each reason.
func (w patience) try(p *program, f func() error) error {
	giveUp := time.After(w.Wait)
	said := ""
	for {
		err := f()
		if err == nil || w.Wait <= 0 {
			return err
		}
		if reason := err.Error(); reason != said {
			fmt.Fprintln(p.stderr, "waiting:", reason)
			said = reason
		}
		select {
		case <-time.After(retryInterval):
		case <-giveUp:
			return err
		case <-p.ctx.Done():
			return errors.Join(err, p.ctx.Err())
		}
	}
}

type migrateUpCmd struct {
	database
	patience
	output
	ServeRole string `setting:"" placeholder:"ROLE" help:"Give this role of PostgreSQL the rights that helloapi serve needs, and no others."`
}

func (c *migrateUpCmd) Run(p *program) error {
	var applied []string
	err := c.try(p, func() (err error) {
		applied, err = backend.Migrate(p.ctx, c.URL)
		return err
	})
	if err != nil {
		return err
	}
	if c.ServeRole != "" {
		err = backend.Grant(p.ctx, c.URL, c.ServeRole) // what was applied is said all the same
	}
	if c.Output == "json" {
		return errors.Join(printJSON(p.stdout, map[string][]string{"applied": append([]string{}, applied...)}), err) // [], not null
	}
	for _, name := range applied {
		fmt.Fprintln(p.stdout, "applied", name)
	}
	if len(applied) == 0 {
		fmt.Fprintln(p.stdout, "nothing to do: the schema is up to date")
	}
	if err == nil && c.ServeRole != "" {
		fmt.Fprintln(p.stdout, "the role", c.ServeRole, "may serve")
	}
	return err
}

type migrateStatusCmd struct {
	database
	patience
	output
}

// errOldSchema is why new code waits, or does not start.
var errOldSchema = errors.New("run `helloapi migrate`")

func (c *migrateStatusCmd) Run(p *program) error {
	var current, latest int64
	err := c.try(p, func() (err error) {
		current, latest, err = backend.SchemaVersions(p.ctx, c.URL)
		if err == nil && current < latest {
			err = fmt.Errorf("schema version %d; this helloapi needs %d: %w", current, latest, errOldSchema)
		}
		return err
	})
	if err != nil && !errors.Is(err, errOldSchema) {
		return err
	}
	if c.Output == "json" {
		if err := printJSON(p.stdout, map[string]int64{"current": current, "needed": latest}); err != nil {
			return err
		}
	} else if err == nil {
		fmt.Fprintf(p.stdout, "schema version %d; this helloapi needs %d\n", current, latest)
	}
	return err
}
