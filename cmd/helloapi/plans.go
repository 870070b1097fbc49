package main

import (
	"errors"

	"helloapi/internal/plan"
)

type plansCmd struct {
	List plansListCmd `cmd:"" help:"List the plans and their limits."`
}

type plansListCmd struct {
	database
	output
}

func (c *plansListCmd) Run(p *program) (err error) {
	db, err := c.open(p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	plans, err := db.Plans(p.ctx)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return printJSON(p.stdout, append([]plan.Plan{}, plans...)) // [], not null
	}
	t := newTable(p.stdout, "NAME", "QUOTA", "THROTTLE")
	for _, pl := range plans {
		t.row(pl.Name, pl.Quota.String(), pl.Throttle.String())
	}
	return t.Flush()
}
