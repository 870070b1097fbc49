package main

import (
	"fmt"

	"helloapi/internal/backend"
	"helloapi/internal/plan"
)

type plansCmd struct {
	List plansListCmd `cmd:"" help:"List the plans and their limits."`
	Show plansShowCmd `cmd:"" help:"Show a plan, and how many keys are on it."`
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

type plansShowCmd struct {
	database
	output
	Plan string `arg:"" help:"The plan's name."`
}

// A planInfo is a plan as it is shown.
type planInfo struct {
	plan.Plan
	Keys int `json:"keys"`
}

func (c *plansShowCmd) Run(p *program) error {
	return c.use(p, func(db backend.Database) error {
		plans, err := plansByName(p.ctx, db)
		if err != nil {
			return err
		}
		pl, ok := plans[c.Plan]
		if !ok {
			return fmt.Errorf("there is no plan %q: `helloapi plans list` shows those there are", c.Plan)
		}
		keys, err := db.Keys(p.ctx)
		if err != nil {
			return err
		}
		shown := planInfo{Plan: pl}
		for _, k := range keys {
			if k.Plan != nil && k.Plan.Name == pl.Name {
				shown.Keys++
			}
		}
		if c.Output == "json" {
			return printJSON(p.stdout, shown)
		}
		t := newTable(p.stdout)
		t.row("name", pl.Name)
		t.row("quota", pl.Quota.String())
		t.row("throttle", pl.Throttle.String())
		t.row("keys", fmt.Sprint(shown.Keys))
		return t.Flush()
	})
}
