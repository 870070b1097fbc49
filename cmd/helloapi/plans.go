package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"helloapi/internal/backend"
	"helloapi/internal/plan"
	"helloapi/internal/planfile"
)

type plansCmd struct {
	List   plansListCmd   `cmd:"" help:"List the plans and their limits."`
	Show   plansShowCmd   `cmd:"" help:"Show a plan, and how many keys are on it."`
	Create plansCreateCmd `cmd:"" help:"Create a plan."`
	Update plansUpdateCmd `cmd:"" help:"Change a plan's limits, for all keys on it."`
	Delete plansDeleteCmd `cmd:"" help:"Remove a plan that no key is on."`
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
			return printJSON(p.stdout, append([]plan.Stored{}, plans...)) // [], not null
		}
		header := []string{"NAME", "QUOTA", "THROTTLE"}
		fromFiles := slices.ContainsFunc(plans, func(pl plan.Stored) bool { return pl.MadeBy != "" })
		if fromFiles {
			header = append(header, "FROM FILE")
		}
		t := newTable(p.stdout, header...)
		for _, pl := range plans {
			row := []string{pl.Name, pl.Quota.String(), pl.Throttle.String()}
			if fromFiles {
				row = append(row, or(fileOf(pl.MadeBy), "-"))
			}
			t.row(row...)
		}
		return t.Flush()
	})
}

// planArg is the argument of the commands about one plan.
type planArg struct {
	database
	Plan string `arg:"" complete:"plans" help:"The plan's name."`
}

// with opens the database and does f, which is about the plan.
func (c planArg) with(p *program, f func(backend.Database, planInfo) error) error {
	return c.use(p, func(db backend.Database) error {
		pl, err := findPlan(p, db, c.Plan)
		if err != nil {
			return err
		}
		return f(db, pl)
	})
}

// A planInfo is a plan as it is shown.
type planInfo struct {
	plan.Stored
	Keys int `json:"keys"`
}

func findPlan(p *program, db backend.Database, name string) (planInfo, error) {
	plans, err := db.Plans(p.ctx)
	if err != nil {
		return planInfo{}, err
	}
	i := slices.IndexFunc(plans, func(pl plan.Stored) bool { return pl.Name == name })
	if i < 0 {
		return planInfo{}, unknownPlan(name)
	}
	info := planInfo{Stored: plans[i]}
	keys, err := db.Keys(p.ctx)
	for _, k := range keys {
		if k.Plan != nil && k.Plan.Name == name {
			info.Keys++
		}
	}
	return info, err
}

func (pl planInfo) print(p *program, o output) error {
	if o.Output == "json" {
		return printJSON(p.stdout, pl)
	}
	t := newTable(p.stdout)
	t.row("name", pl.Name)
	t.row("quota", pl.Quota.String())
	t.row("throttle", pl.Throttle.String())
	t.row("keys", fmt.Sprint(pl.Keys))
	if pl.MadeBy != "" {
		t.row("from file", fileOf(pl.MadeBy))
	}
	return t.Flush()
}

type plansShowCmd struct {
	planArg
	output
}

func (c *plansShowCmd) Run(p *program) error {
	return c.with(p, func(_ backend.Database, pl planInfo) error { return pl.print(p, c.output) })
}

// keysAre is the beginning of "3 keys are on it".
func keysAre(n int) string {
	if n == 1 {
		return "1 key is"
	}
	return count(n, "key") + " are"
}

// limitFlags are the limits of a plan, each on its own.
type limitFlags struct {
	Limit    *int64   `placeholder:"N" help:"So many requests of each key in a window: its quota."`
	Period   *string  `placeholder:"PERIOD" help:"The length of a window: DAY, WEEK or MONTH. Default: DAY."`
	Offset   *int     `placeholder:"DAY" help:"The day a window begins on: 0 (Sunday) to 6 for WEEK, 0 (the 1st) to 27 for MONTH."`
	Timezone *string  `placeholder:"ZONE" help:"The IANA zone in which windows begin, such as Europe/Berlin. Default: UTC."`
	Rate     *float64 `placeholder:"N" help:"So many requests of each key a second: its throttle."`
	Burst    *int64   `placeholder:"N" help:"So many requests at once. Default: the rate, rounded up."`
}

// set returns pl with the limits that are given.
func (f limitFlags) set(pl plan.Plan) (plan.Plan, error) {
	var errs []error
	if f.Limit != nil || f.Period != nil || f.Offset != nil || f.Timezone != nil {
		var q plan.Quota
		switch {
		case pl.Quota != nil:
			q = *pl.Quota
		case f.Limit == nil:
			errs = append(errs, errors.New("--period, --offset and --timezone are of a quota: give its --limit"))
		default:
			q.Period = plan.Day
		}
		setTo(&q.Limit, f.Limit)
		if f.Period != nil {
			if q.Period != plan.Period(*f.Period) {
				q.Offset = 0 // of the other period
			}
			q.Period = plan.Period(*f.Period)
		}
		setTo(&q.Offset, f.Offset)
		setTo(&q.Timezone, f.Timezone)
		pl.Quota = &q
	}
	if f.Rate != nil || f.Burst != nil {
		var t plan.Throttle
		switch {
		case pl.Throttle != nil:
			t = *pl.Throttle
		case f.Rate == nil:
			errs = append(errs, errors.New("--burst is of a throttle: give its --rate"))
		}
		if f.Rate != nil {
			t = plan.Throttle{Rate: *f.Rate, Burst: plan.DefaultBurst(*f.Rate)}
		}
		setTo(&t.Burst, f.Burst)
		pl.Throttle = &t
	}
	if len(errs) == 0 {
		errs = append(errs, pl.Validate())
	}
	return pl, errors.Join(errs...)
}

func setTo[T any](to, value *T) {
	if value != nil {
		*to = *value
	}
}

type plansCreateCmd struct {
	planArg
	output
	limitFlags
}

func (c *plansCreateCmd) Run(p *program) error {
	pl, err := c.set(plan.Plan{Name: c.Plan})
	if err != nil {
		return err
	}
	return c.use(p, func(db backend.Database) error {
		err := db.ApplyPlans(p.ctx, planfile.Scope{}, func(s planfile.State) (planfile.Changes, error) {
			if slices.ContainsFunc(s.Plans, func(old planfile.StoredPlan) bool { return old.Name == pl.Name }) {
				return planfile.Changes{}, fmt.Errorf("there is a plan %q already: `helloapi plans update` changes it", pl.Name)
			}
			return planfile.Changes{PutPlans: []planfile.StoredPlan{{Plan: pl}}}, nil
		})
		if err != nil {
			return err
		}
		done := fmt.Sprintf("Created plan %q: quota %s, throttle %s.", pl.Name, none(pl.Quota.String()), none(pl.Throttle.String()))
		created, err := findPlan(p, db, pl.Name) // as it is stored
		if err != nil {
			return err
		}
		return c.printDone(p, done, created)
	})
}

type plansUpdateCmd struct {
	planArg
	confirmation
	limitFlags
	NoQuota    bool `help:"Drop the quota."`
	NoThrottle bool `help:"Drop the throttle."`
}

func (c *plansUpdateCmd) Run(p *program) error {
	if c.limitFlags == (limitFlags{}) && !c.NoQuota && !c.NoThrottle {
		return errors.New("say what to change: --limit, --period, --offset, --timezone, --rate, --burst, --no-quota or --no-throttle")
	}
	return c.with(p, func(db backend.Database, before planInfo) error {
		after, err := c.update(before.Plan)
		if err != nil {
			return err
		}
		changes := limitChanges(before.Plan, after)
		if len(changes) == 0 {
			return c.printDone(p, fmt.Sprintf("Nothing to do: plan %q is like that already.", c.Plan), before)
		}
		what := fmt.Sprintf("Change plan %q, which %s on: %s.", c.Plan, keysAre(before.Keys), strings.Join(changes, "; "))
		drops := before.Quota != nil && after.Quota == nil || before.Throttle != nil && after.Throttle == nil
		if !drops || before.Keys == 0 {
			c.Yes = true // nobody gets without limit what was limited
		}
		if ok, err := c.confirm(p, what); !ok {
			return err
		}
		err = db.ApplyPlans(p.ctx, planfile.Scope{}, func(s planfile.State) (planfile.Changes, error) {
			i := slices.IndexFunc(s.Plans, func(old planfile.StoredPlan) bool { return old.Name == c.Plan })
			if i < 0 {
				return planfile.Changes{}, unknownPlan(c.Plan)
			}
			stored := s.Plans[i]
			var err error
			stored.Plan, err = c.update(stored.Plan) // what it is by now
			return planfile.Changes{PutPlans: []planfile.StoredPlan{stored}}, err
		})
		if err != nil {
			return err
		}
		noteFile(p, "plan", c.Plan, before.MadeBy)
		done := fmt.Sprintf("Changed plan %q: %s. That holds for the %s on it within a second.", c.Plan, strings.Join(changes, "; "), count(before.Keys, "key"))
		changed, err := findPlan(p, db, c.Plan) // as it is stored
		if err != nil {
			return err
		}
		return c.printDone(p, done, changed)
	})
}

// update returns pl as it is to be.
func (c *plansUpdateCmd) update(pl plan.Plan) (plan.Plan, error) {
	if c.NoQuota {
		pl.Quota = nil
	}
	if c.NoThrottle {
		pl.Throttle = nil
	}
	return c.set(pl)
}

// limitChanges says what differs between two states of a plan.
func limitChanges(before, after plan.Plan) (all []string) {
	for _, l := range []struct{ name, before, after string }{
		{"quota", before.Quota.String(), after.Quota.String()},
		{"throttle", before.Throttle.String(), after.Throttle.String()},
	} {
		if l.before != l.after {
			all = append(all, fmt.Sprintf("%s %s -> %s", l.name, none(l.before), none(l.after)))
		}
	}
	return all
}

type plansDeleteCmd struct {
	planArg
	confirmation
}

// A deletedPlan is a plan as it was, as it is shown.
type deletedPlan struct {
	planInfo
	Deleted bool `json:"deleted"`
}

func (c *plansDeleteCmd) Run(p *program) error {
	return c.with(p, func(db backend.Database, pl planInfo) error {
		if pl.Keys > 0 {
			return c.inUse(keysAre(pl.Keys))
		}
		what := fmt.Sprintf("Delete plan %q for good: quota %s, throttle %s.", c.Plan, none(pl.Quota.String()), none(pl.Throttle.String()))
		if ok, err := c.confirm(p, what); !ok {
			return err
		}
		var used *planfile.PlanInUseError
		err := db.ApplyPlans(p.ctx, planfile.Scope{}, func(planfile.State) (planfile.Changes, error) {
			return planfile.Changes{DropPlans: []string{c.Plan}}, nil
		})
		if errors.As(err, &used) {
			return c.inUse(fmt.Sprintf("key %q is", used.Key))
		} else if err != nil {
			return err
		}
		noteFile(p, "plan", c.Plan, pl.MadeBy)
		return c.printDone(p, fmt.Sprintf("Plan %q is deleted.", c.Plan), deletedPlan{pl, true})
	})
}

func (c *plansDeleteCmd) inUse(who string) error {
	return fmt.Errorf("%s on plan %q: move them first (`helloapi keys list --plan %s`, `helloapi keys update NAME --plan OTHER`)", who, c.Plan, shellWord(c.Plan))
}
