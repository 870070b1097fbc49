package main

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/backend"
	"helloapi/internal/clock"
	"helloapi/internal/plan"
	"helloapi/internal/refusals"
)

type usageCmd struct {
	Show   usageShowCmd   `cmd:"" help:"Show what keys used of their quotas, or were charged by day or month."`
	Grant  usageGrantCmd  `cmd:"" help:"Give a key units beyond its quota, in the current window."`
	Grants usageGrantsCmd `cmd:"" help:"List and revoke what was granted."`
}

type usageShowCmd struct {
	database
	Key     string `arg:"" optional:"" complete:"keys" help:"Only of one key: its name, or its id."`
	KeyOld  string `name:"key" hidden:"" variable:"HELLOAPI_USAGE_KEY" placeholder:"KEY" help:"As the argument."`
	By      string `enum:",day,month" default:"" help:"What was charged by day or month, with customer and plan as they were then, in place of the current windows."`
	Refused bool   `help:"How many requests were refused, by day and reason; \"-\" are those without a known key."`
	Near    int    `placeholder:"PERCENT" help:"Only keys that used that much of their quota or more, such as 80."`
	Since   string `placeholder:"DATE" help:"The first day (2006-01-02); implies --by day. Default: 30 days ago, or for months a year."`
	Until   string `placeholder:"DATE" help:"The last day; implies --by day. Default: today."`
	Output  string `short:"o" aliases:"format" enum:"table,json,csv" default:"table" help:"How to print: table, json or csv. CSV implies --by day."`
}

// Validate is called when the flags have been read.
func (c *usageShowCmd) Validate() error {
	if c.KeyOld != "" && c.Key == "" {
		c.Key = c.KeyOld
	}
	if c.Refused && (c.By == "month" || c.Near > 0) {
		return errors.New("--refused is by day, of all keys or one: leave out --by month and --near")
	}
	if c.By == "" && (c.Refused || c.Since != "" || c.Until != "" || c.Output == "csv") {
		c.By = "day"
	}
	if c.Near < 0 || c.Near > 100 {
		return errors.New("--near: must be 1 to 100")
	}
	if c.Near > 0 && c.By != "" {
		return errors.New("--near is about the current windows: leave out --by, --since, --until and CSV")
	}
	return nil
}

func (c *usageShowCmd) Run(p *program) error {
	return c.use(p, func(db backend.Database) error {
		if c.By == "" {
			return c.showStandings(p, db)
		}
		if c.Refused {
			return c.showRefusals(p, db)
		}
		return c.showCharges(p, db)
	})
}

// A refusedInfo is how many requests of a key were refused on a day, as it is
// shown.
type refusedInfo struct {
	Key     string    `json:"key"`   // its name; "" if it has none, or is deleted
	KeyID   string    `json:"keyId"` // "": without a known key
	Date    plan.Date `json:"date"`
	Reason  string    `json:"reason"`
	Refused int64     `json:"refused"`
}

func (c *usageShowCmd) showRefusals(p *program, db backend.Database) error {
	first, next, err := c.days(clock.Now())
	if err != nil {
		return err
	}
	keys, err := db.Keys(p.ctx)
	if err != nil {
		return err
	}
	names := make(map[string]string, len(keys))
	var id string
	for _, k := range keys {
		names[k.ID] = k.Name
		if c.Key != "" && (k.Name == c.Key || id == "" && k.ID == c.Key) {
			id = k.ID
		}
	}
	totals, err := refusals.List(p.ctx, db.Conn(), cmp.Or(id, c.Key), first, next)
	if err != nil {
		return err
	}
	if c.Key != "" && id == "" && len(totals) == 0 {
		return noKey(c.Key)
	}
	shown := make([]refusedInfo, len(totals))
	for i, t := range totals {
		shown[i] = refusedInfo{names[t.KeyID], t.KeyID, t.Date, t.Reason, t.Refused}
	}
	switch c.Output {
	case "json":
		return printJSON(p.stdout, shown)
	case "csv":
		w := csv.NewWriter(p.stdout)
		_ = w.Write([]string{"key", "key_id", "date", "reason", "refused"}) // kept until Error
		for _, r := range shown {
			_ = w.Write([]string{csvCell(r.Key), r.KeyID, string(r.Date), r.Reason, strconv.FormatInt(r.Refused, 10)})
		}
		w.Flush()
		return w.Error()
	}
	t := newTable(p.stdout, "KEY", "DAY", "REASON", "REFUSED")
	for _, r := range shown {
		t.row(cmp.Or(r.Key, r.KeyID, "-"), string(r.Date), r.Reason, strconv.FormatInt(r.Refused, 10))
	}
	return t.Flush()
}

// A usageInfo is a key's usage on a day or in a month, as it is shown: with the
// key's name, customer and plan as they were when it was charged.
type usageInfo struct {
	Key        string `json:"key"` // its name; "" if it has none
	KeyID      string `json:"keyId"`
	Date       string `json:"date"` // 2006-01-02, or 2006-01
	Used       int64  `json:"used"`
	CustomerID string `json:"customerId"`
	Plan       string `json:"plan"`
	Timezone   string `json:"timezone"` // in which days and windows begin
}

func (c *usageShowCmd) showCharges(p *program, db backend.Database) error {
	first, next, err := c.days(clock.Now())
	if err != nil {
		return err
	}
	shown, err := c.charges(p, db, first, next)
	if err != nil {
		return err
	}
	switch c.Output {
	case "json":
		return printJSON(p.stdout, shown)
	case "csv":
		w := csv.NewWriter(p.stdout)
		_ = w.Write([]string{"key", "key_id", map[string]string{"day": "date", "month": "month"}[c.By], "used", "customer_id", "plan", "timezone"}) // kept until Error
		for _, u := range shown {
			_ = w.Write([]string{csvCell(u.Key), u.KeyID, u.Date, strconv.FormatInt(u.Used, 10), csvCell(u.CustomerID), csvCell(u.Plan), u.Timezone})
		}
		w.Flush()
		return w.Error()
	}
	t := newTable(p.stdout, "KEY", strings.ToUpper(c.By), "USED", "CUSTOMER", "PLAN", "ZONE")
	for _, u := range shown {
		t.row(or(u.Key, u.KeyID), u.Date, strconv.FormatInt(u.Used, 10), or(u.CustomerID, "-"), or(u.Plan, "-"), u.Timezone)
	}
	return t.Flush()
}

// days returns the days to show, from first to before next.
func (c *usageShowCmd) days(now time.Time) (first, next plan.Date, err error) {
	// A day more, for time zones that are ahead.
	first, next = plan.DateOf(now.UTC()).AddDays(-30), plan.DateOf(now.UTC()).AddDays(2)
	if c.By == "month" {
		first = plan.DateOf(now.UTC().AddDate(-1, 0, 0)).FirstOfMonth()
	}
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

// charges returns what was charged, of all keys or of one, which may be deleted.
func (c *usageShowCmd) charges(p *program, db backend.Database, first, next plan.Date) ([]usageInfo, error) {
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
	at := map[usageInfo]int{} // where in shown, by all but what was used
	for _, d := range days {
		if deleted && d.KeyName != c.Key && d.KeyID != c.Key {
			continue
		}
		u := usageInfo{d.KeyName, d.KeyID, string(d.Date), 0, d.CustomerID, d.Plan, d.Timezone}
		if c.By == "month" {
			u.Date = d.Date.Month()
		}
		i, ok := at[u]
		if !ok {
			i = len(shown)
			at[u], shown = i, append(shown, u)
		}
		shown[i].Used += d.Charged
	}
	if deleted && len(shown) == 0 {
		return nil, noKey(c.Key)
	}
	return shown, nil
}

// A standing is what a key used of its quota in the current window; without a
// quota, today.
type standing struct {
	Key        string     `json:"key"`
	KeyID      string     `json:"keyId"`
	CustomerID string     `json:"customerId,omitempty"`
	Plan       string     `json:"plan"`
	Used       int64      `json:"used"`
	Limit      *int64     `json:"limit,omitempty"` // of the plan; absent without a quota
	Granted    int64      `json:"granted"`
	Remaining  *int64     `json:"remaining,omitempty"`
	Since      time.Time  `json:"since"`
	ResetsAt   *time.Time `json:"resetsAt,omitempty"`

	Refused map[string]int64 `json:"refused,omitempty"` // requests on the window's days, by reason
}

// standings returns where keys stand; those without a plan are left out. What
// was charged in the last second may be missing.
func standings(p *program, db backend.Database, keys []apikey.Key) ([]standing, error) {
	type days struct{ first, next plan.Date }
	now := clock.Now()
	today := plan.DateOf(now.UTC())
	all := days{today, today.Next()}
	windows := map[string]days{}
	shown := make([]standing, 0, len(keys))
	for _, k := range keys {
		if k.Plan == nil {
			continue
		}
		s := standing{Key: k.Name, KeyID: k.ID, CustomerID: k.CustomerID, Plan: k.Plan.Name, Since: now.UTC().Truncate(24 * time.Hour)}
		d := days{today, today.Next()}
		if q := k.Plan.Quota; q != nil {
			w, err := q.Window(now)
			if err != nil {
				return nil, err
			}
			if s.Granted, err = q.Granted(w, k.Grants); err != nil {
				return nil, err
			}
			if d.first, d.next, err = q.Dates(w); err != nil {
				return nil, err
			}
			s.Limit, s.Since, s.ResetsAt = &q.Limit, w.Start.UTC(), shownTime(w.End)
		}
		windows[k.ID] = d
		all = days{min(all.first, d.first), max(all.next, d.next)}
		shown = append(shown, s)
	}
	var id string
	if len(keys) == 1 {
		id = keys[0].ID
	}
	charges, err := db.DailyUsage(p.ctx, id, all.first, all.next)
	if err != nil {
		return nil, err
	}
	totals, err := refusals.List(p.ctx, db.Conn(), id, all.first, all.next)
	if err != nil {
		return nil, err
	}
	used := map[string]int64{}
	for _, c := range charges {
		if d := windows[c.KeyID]; d.first <= c.Date && c.Date < d.next {
			used[c.KeyID] += c.Charged
		}
	}
	refused := map[string]map[string]int64{}
	for _, t := range totals {
		if d := windows[t.KeyID]; d.first <= t.Date && t.Date < d.next {
			if refused[t.KeyID] == nil {
				refused[t.KeyID] = map[string]int64{}
			}
			refused[t.KeyID][t.Reason] += t.Refused
		}
	}
	for i := range shown {
		s := &shown[i]
		s.Used, s.Refused = used[s.KeyID], refused[s.KeyID]
		if s.Limit != nil {
			left := max(0, *s.Limit+s.Granted-s.Used)
			s.Remaining = &left
		}
	}
	return shown, nil
}

// percent is how much of its quota a key used; -1 without a quota.
func (s standing) percent() int {
	if s.Limit == nil {
		return -1
	}
	return int(float64(s.Used) / float64(*s.Limit+s.Granted) * 100)
}

// bar draws it.
func (s standing) bar() string {
	n := s.percent()
	if n < 0 {
		return "-"
	}
	full := min(n/10, 10)
	return fmt.Sprintf("%s%s %d%%", strings.Repeat("#", full), strings.Repeat(".", 10-full), n)
}

// describe says it in a line.
func (s standing) describe() string {
	if s.Limit == nil {
		return fmt.Sprintf("%d today", s.Used)
	}
	if s.Granted == 0 {
		return fmt.Sprintf("%d of %d; %d left", s.Used, *s.Limit, *s.Remaining)
	}
	return fmt.Sprintf("%d of %d and %d granted; %d left", s.Used, *s.Limit, s.Granted, *s.Remaining)
}

// describeRefused says how many requests were refused, and why: "3 throttled, 2
// over quota", or "none".
func (s standing) describeRefused() string {
	var parts []string
	for _, reason := range slices.Sorted(maps.Keys(s.Refused)) {
		parts = append(parts, fmt.Sprintf("%d %s", s.Refused[reason], reason))
	}
	return cmp.Or(strings.Join(parts, ", "), "none")
}

func (c *usageShowCmd) showStandings(p *program, db backend.Database) error {
	var keys []apikey.Key
	if c.Key == "" {
		var err error
		if keys, err = db.Keys(p.ctx); err != nil {
			return err
		}
	} else {
		key, err := db.Key(p.ctx, c.Key)
		if errors.Is(err, apikey.ErrUnknown) {
			return fmt.Errorf("%w; of a deleted key there is `helloapi usage show %s --by day`", noKey(c.Key), shellWord(c.Key))
		} else if err != nil {
			return err
		}
		keys = []apikey.Key{key}
	}
	shown, err := standings(p, db, keys)
	if err != nil {
		return err
	}
	if c.Near > 0 {
		shown = slices.DeleteFunc(shown, func(s standing) bool { return s.percent() < c.Near })
		slices.SortStableFunc(shown, func(a, b standing) int { return b.percent() - a.percent() })
	}
	if c.Output == "json" {
		return printJSON(p.stdout, shown)
	}
	t := newTable(p.stdout, "KEY", "PLAN", "USED", "LIMIT", "GRANTED", "LEFT", "RESETS", "")
	for _, s := range shown {
		if s.Limit == nil {
			t.row(or(s.Key, s.KeyID), s.Plan, strconv.FormatInt(s.Used, 10), "-", "-", "-", "-", "today")
			continue
		}
		t.row(or(s.Key, s.KeyID), s.Plan, strconv.FormatInt(s.Used, 10), strconv.FormatInt(*s.Limit, 10), strconv.FormatInt(s.Granted, 10),
			strconv.FormatInt(*s.Remaining, 10), howLong(s.ResetsAt.Sub(clock.Now())), s.bar())
	}
	if err := t.Flush(); err != nil || c.Key == "" {
		return err
	}
	for _, s := range shown {
		fmt.Fprintf(p.stdout, "\nRefused in this window: %s.\n", s.describeRefused())
	}
	return nil
}

// howLong says a duration in its two largest units: "in 3d4h".
func howLong(d time.Duration) string {
	minutes := int(max(d, 0).Round(time.Minute).Minutes())
	switch {
	case minutes >= 24*60:
		return fmt.Sprintf("in %dd%dh", minutes/60/24, minutes/60%24)
	case minutes >= 60:
		return fmt.Sprintf("in %dh%dm", minutes/60, minutes%60)
	}
	return fmt.Sprintf("in %dm", minutes)
}

type usageGrantCmd struct {
	keyArg
	confirmation
	Units int64  `arg:"" help:"How many more requests."`
	Note  string `help:"Why, for those who read the list of grants."`
}

// Validate is called when the arguments have been read.
func (c *usageGrantCmd) Validate() error {
	if c.Units < 1 || c.Units > plan.MaxLimit {
		return fmt.Errorf("units: must be 1 to %d", int64(plan.MaxLimit))
	}
	return nil
}

func (c *usageGrantCmd) Run(p *program) error {
	return c.with(p, func(db backend.Database) error {
		key, err := db.Key(p.ctx, c.Key)
		if err != nil {
			return err
		}
		if key.Plan == nil || key.Plan.Quota == nil {
			return fmt.Errorf("key %q has no quota to go beyond", c.Key)
		}
		q := *key.Plan.Quota
		date, err := q.Date(clock.Now())
		if err != nil {
			return err
		}
		if c.Units <= q.Limit {
			c.Yes = true // no slip of the finger
		}
		what := fmt.Sprintf("Grant key %q %d requests: its quota itself is %s.", c.Key, c.Units, key.Plan.Quota)
		if ok, err := c.confirm(p, what); !ok {
			return err
		}
		id, err := db.GrantUnits(p.ctx, key.ID, plan.Grant{Date: date, Units: c.Units, Note: c.Note})
		if err != nil {
			return err
		}
		usage, err := usageOf(p, db, key.ID)
		if err != nil {
			return err
		}
		return c.printDone(p, fmt.Sprintf("Key %q may use %d more%s.", c.Key, c.Units, usage.holds()), grantedInfo{id, key.Name, key.ID, c.Units, c.Note, usage})
	})
}

// A grantedInfo is what was granted, as it is shown.
type grantedInfo struct {
	ID    int64     `json:"id"`
	Key   string    `json:"key"`
	KeyID string    `json:"keyId"`
	Units int64     `json:"units"`
	Note  string    `json:"note"`
	Usage *standing `json:"usage,omitempty"` // as it is now
}

// usageOf returns where a key stands, nil without a plan.
func usageOf(p *program, db backend.Database, keyID string) (*standing, error) {
	key, err := db.Key(p.ctx, keyID)
	if err != nil {
		return nil, err
	}
	at, err := standings(p, db, []apikey.Key{key})
	if err != nil || len(at) == 0 {
		return nil, err
	}
	return &at[0], nil
}

// holds says what holds for a key with a quota, after its grants were changed.
func (s *standing) holds() string {
	if s == nil || s.Limit == nil {
		return ""
	}
	return fmt.Sprintf(" until %s: quota %d, granted %d, used %d, left %d", s.ResetsAt.Format(time.RFC3339), *s.Limit, s.Granted, s.Used, *s.Remaining)
}

type usageGrantsCmd struct {
	List   grantsListCmd   `cmd:"" help:"List what was granted, and what of it holds now."`
	Revoke grantsRevokeCmd `cmd:"" help:"Take a grant back. What was used of it stays used."`
}

type grantsListCmd struct {
	database
	output
	Key string `arg:"" optional:"" complete:"keys" help:"Only of one key: its name, or its id."`
}

// A grantInfo is a grant as it is shown.
type grantInfo struct {
	ID        int64      `json:"id"`
	Key       string     `json:"key"`
	KeyID     string     `json:"keyId"`
	Units     int64      `json:"units"`
	Date      plan.Date  `json:"date"`                 // the window that it is for has this day
	Holds     bool       `json:"holds"`                // in the current window
	HoldsTill *time.Time `json:"holdsUntil,omitempty"` // if it holds
	Note      string     `json:"note"`
	CreatedAt time.Time  `json:"createdAt"`
}

func (c *grantsListCmd) Run(p *program) error {
	return keyArg{c.database, c.Key}.with(p, func(db backend.Database) error {
		shown, err := grants(p, db, c.Key)
		if err != nil {
			return err
		}
		if c.Output == "json" {
			return printJSON(p.stdout, shown)
		}
		t := newTable(p.stdout, "ID", "KEY", "UNITS", "GRANTED", "HOLDS UNTIL", "NOTE")
		for _, g := range shown {
			t.row(strconv.FormatInt(g.ID, 10), or(g.Key, g.KeyID), strconv.FormatInt(g.Units, 10), g.CreatedAt.Format(time.DateOnly), g.holds(), g.Note)
		}
		return t.Flush()
	})
}

func (g grantInfo) holds() string {
	if !g.Holds {
		return "over"
	}
	return g.HoldsTill.Format(time.RFC3339)
}

// grants returns the grants to a key, or to all.
func grants(p *program, db backend.Database, ref string) ([]grantInfo, error) {
	var keys []apikey.Key
	var id string
	if ref != "" {
		key, err := db.Key(p.ctx, ref)
		if err != nil {
			return nil, err
		}
		keys, id = []apikey.Key{key}, key.ID
	} else {
		var err error
		if keys, err = db.Keys(p.ctx); err != nil {
			return nil, err
		}
	}
	byID := make(map[string]apikey.Key, len(keys))
	for _, k := range keys {
		byID[k.ID] = k
	}
	stored, err := db.Grants(p.ctx, id)
	if err != nil {
		return nil, err
	}
	shown := make([]grantInfo, 0, len(stored))
	for _, g := range stored {
		key := byID[g.KeyID]
		info := grantInfo{ID: g.ID, Key: key.Name, KeyID: g.KeyID, Units: g.Units, Date: g.Date, Note: g.Note, CreatedAt: *shownTime(g.CreatedAt)}
		if key.Plan != nil && key.Plan.Quota != nil {
			q := key.Plan.Quota
			w, err := q.Window(clock.Now())
			if err != nil {
				return nil, err
			}
			units, err := q.Granted(w, []plan.Grant{g.Grant})
			if err != nil {
				return nil, err
			}
			if info.Holds = units > 0; info.Holds {
				info.HoldsTill = shownTime(w.End)
			}
		}
		shown = append(shown, info)
	}
	return shown, nil
}

type grantsRevokeCmd struct {
	database
	confirmation
	ID int64 `arg:"" help:"The grant's id, as usage grants list shows it."`
}

// A revokedInfo is a grant as it was, as it is shown.
type revokedInfo struct {
	grantInfo
	Revoked bool      `json:"revoked"`
	Usage   *standing `json:"usage,omitempty"` // as it is now
}

func (c *grantsRevokeCmd) Run(p *program) error {
	return c.use(p, func(db backend.Database) error {
		all, err := grants(p, db, "")
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(g grantInfo) bool { return g.ID == c.ID })
		if i < 0 {
			return noGrant(c.ID)
		}
		g := all[i]
		what := fmt.Sprintf("Revoke grant %d: %d requests for key %q, until %s.", g.ID, g.Units, or(g.Key, g.KeyID), g.holds())
		if ok, err := c.confirm(p, what); !ok {
			return err
		}
		if err := db.RevokeGrant(p.ctx, g.ID); errors.Is(err, apikey.ErrNoGrant) {
			return noGrant(c.ID)
		} else if err != nil {
			return err
		}
		usage, err := usageOf(p, db, g.KeyID)
		if err != nil {
			return err
		}
		done := fmt.Sprintf("Grant %d is revoked; this holds for key %q%s.", g.ID, or(g.Key, g.KeyID), usage.holds())
		return c.printDone(p, done, revokedInfo{g, true, usage})
	})
}

func noGrant(id int64) error {
	return fmt.Errorf("there is no grant %d: run `helloapi usage grants list` to see existing grants", id)
}
