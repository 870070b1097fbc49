package main

import (
	"helloapi/internal/backend"
	"helloapi/internal/plan"
)

type plansCmd struct {
	List plansListCmd `cmd:"" help:"List the plans and their limits."`
}

type plansListCmd struct {
	database
	output
}

func (c *plansListCmd) Run(p *program) error {
	return c.use(p, func(db backend.Database) error {
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
	})
}
