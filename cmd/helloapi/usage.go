package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"strconv"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/backend"
	"helloapi/internal/plan"
)

type usageCmd struct {
	Show  usageShowCmd  `cmd:"" help:"Show what keys were charged, by day."`
	Grant usageGrantCmd `cmd:"" help:"Give a key units beyond its quota, in its present window."`
}

type usageShowCmd struct {
	database
	Key    string `variable:"HELLOAPI_USAGE_KEY" placeholder:"KEY" help:"Only of one key: its name, or its id."`
	Since  string `placeholder:"DATE" help:"The first day (2006-01-02). Default: 30 days ago."`
	Until  string `placeholder:"DATE" help:"The last day. Default: today."`
	Format string `short:"o" aliases:"output" enum:"table,json,csv" default:"table" help:"How to print: table, json or csv."`
}

// A usageInfo is a key's usage on a day, as it is shown: with the key's name,
// customer and plan as they were when it was charged.
type usageInfo struct {
	Key        string    `json:"key"` // its name; "" if it has none
	KeyID      string    `json:"keyId"`
	Date       plan.Date `json:"date"`
	Used       int64     `json:"used"`
	CustomerID string    `json:"customerId"`
	Plan       string    `json:"plan"`
	Timezone   string    `json:"timezone"` // of the day
}

func (c *usageShowCmd) Run(p *program) error {
	first, next, err := c.days(time.Now())
	if err != nil {
		return err
	}
	return c.use(p, func(db backend.Database) error {
		shown, err := c.read(p, db, first, next)
		if err != nil {
			return err
		}
		switch c.Format {
		case "json":
			return printJSON(p.stdout, shown)
		case "csv":
			w := csv.NewWriter(p.stdout)
			_ = w.Write([]string{"key", "key_id", "date", "used", "customer_id", "plan", "timezone"}) // kept until Error
			for _, u := range shown {
				_ = w.Write([]string{u.Key, u.KeyID, string(u.Date), strconv.FormatInt(u.Used, 10), u.CustomerID, u.Plan, u.Timezone})
			}
			w.Flush()
			return w.Error()
		}
		t := newTable(p.stdout, "KEY", "DATE", "USED")
		for _, u := range shown {
			t.row(or(u.Key, u.KeyID), string(u.Date), strconv.FormatInt(u.Used, 10))
		}
		return t.Flush()
	})
}

// days returns the days to show, from first to before next.
func (c *usageShowCmd) days(now time.Time) (first, next plan.Date, err error) {
	// A day more, for time zones that are ahead.
	first, next = plan.DateOf(now.UTC()).AddDays(-30), plan.DateOf(now.UTC()).AddDays(2)
	if c.Since != "" {
		if first, err = parseDate("--since", c.Since); err != nil {
			return "", "", err
		}
	}
	if c.Until != "" {
		if next, err = parseDate("--until", c.Until); err != nil {
			return "", "", err
		}
		next = next.Next()
	}
	return first, next, nil
}

func parseDate(flag, s string) (plan.Date, error) {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		return "", fmt.Errorf("%s %q: must be a date such as 2030-12-31", flag, s)
	}
	return plan.DateOf(t), nil
}

func (c *usageShowCmd) read(p *program, db backend.Database, first, next plan.Date) ([]usageInfo, error) {
	var id string
	deleted := false
	if c.Key != "" {
		switch key, err := db.Key(p.ctx, c.Key); {
		case errors.Is(err, apikey.ErrUnknown):
			deleted = true // what a key used outlives it, under its name and id
		case err != nil:
			return nil, err
		default:
			id = key.ID
		}
	}
	days, err := db.DailyUsage(p.ctx, id, first, next)
	if err != nil {
		return nil, err
	}
	shown := make([]usageInfo, 0, len(days))
	for _, d := range days {
		if !deleted || d.KeyName == c.Key || d.KeyID == c.Key {
			shown = append(shown, usageInfo{d.KeyName, d.KeyID, d.Date, d.Charged, d.CustomerID, d.Plan, d.Timezone})
		}
	}
	if deleted && len(shown) == 0 {
		return nil, noKey(c.Key)
	}
	return shown, nil
}

type usageGrantCmd struct {
	keyArg
	Units int64 `arg:"" help:"How many more requests."`
}

// Validate is called when the arguments have been read.
func (c *usageGrantCmd) Validate() error {
	if c.Units < 1 || c.Units > plan.MaxLimit {
		return fmt.Errorf("units: must be 1 to %d", int64(plan.MaxLimit))
	}
	return nil
}

func (c *usageGrantCmd) Run(p *program) error {
	return c.change(p, func(keys apikey.Keys) error {
		key, err := keys.Key(p.ctx, c.Key)
		if err != nil {
			return err
		}
		if key.Plan == nil || key.Plan.Quota == nil {
			return fmt.Errorf("key %q has no quota to go beyond", c.Key)
		}
		q := *key.Plan.Quota
		now := time.Now()
		date, err := q.Date(now)
		if err != nil {
			return err
		}
		window, err := q.Window(now)
		if err != nil {
			return err
		}
		if err := keys.GrantUnits(p.ctx, key.ID, plan.Grant{Date: date, Units: c.Units}); err != nil {
			return err
		}
		_, err = fmt.Fprintf(p.stderr, "Key %q may use %d more until %s.\n", c.Key, c.Units, window.End.UTC().Format(time.RFC3339))
		return err
	})
}
