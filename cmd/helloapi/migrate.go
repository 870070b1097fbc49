package main

import (
	"errors"
	"fmt"

	"helloapi/internal/backend"
)

type migrateCmd struct {
	Up     migrateUpCmd     `cmd:"" default:"withargs" help:"Apply the migrations that are missing."`
	Status migrateStatusCmd `cmd:"" help:"Print the version of the database's schema."`
}

type migrateUpCmd struct {
	database
	output
	ServeRole string `setting:"" placeholder:"ROLE" help:"Give this role of PostgreSQL the rights that helloapi serve needs, and no others."`
}

func (c *migrateUpCmd) Run(p *program) error {
	applied, err := backend.Migrate(p.ctx, c.URL)
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
	output
}

func (c *migrateStatusCmd) Run(p *program) error {
	current, latest, err := backend.SchemaVersions(p.ctx, c.URL)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		if err := printJSON(p.stdout, map[string]int64{"current": current, "needed": latest}); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(p.stdout, "schema version %d; this helloapi needs %d\n", current, latest)
	}
	if current < latest {
		return fmt.Errorf("run `helloapi migrate`")
	}
	return nil
}
