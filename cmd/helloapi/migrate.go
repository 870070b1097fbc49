package main

import (
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
}

func (c *migrateUpCmd) Run(p *program) error {
	applied, err := backend.Migrate(p.ctx, c.URL)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return printJSON(p.stdout, map[string][]string{"applied": append([]string{}, applied...)}) // [], not null
	}
	for _, name := range applied {
		fmt.Fprintln(p.stdout, "applied", name)
	}
	if len(applied) == 0 {
		fmt.Fprintln(p.stdout, "nothing to do: the schema is up to date")
	}
	return nil
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
