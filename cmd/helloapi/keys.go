package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/backend"
	"helloapi/internal/clock"
	"helloapi/internal/limits"
	"helloapi/internal/plan"
)

type keysCmd struct {
	Create  keysCreateCmd  `cmd:"" help:"Create a key. Its value is printed this once."`
	List    keysListCmd    `cmd:"" help:"List the keys, and why one would be refused."`
	Show    keysShowCmd    `cmd:"" help:"Show a key, what it used of its quota, and what is known of its values."`
	Which   keysWhichCmd   `cmd:"" help:"Find the key that a value opens: whose it is, and whether it may call."`
	Update  keysUpdateCmd  `cmd:"" help:"Change a key's plan, expiry, description or customer id."`
	Rotate  keysRotateCmd  `cmd:"" help:"Give a key a new value. It is printed this once."`
	Enable  keysEnableCmd  `cmd:"" help:"Let a key call again."`
	Disable keysDisableCmd `cmd:"" help:"Refuse a key until it is enabled again."`
	Delete  keysDeleteCmd  `cmd:"" help:"Remove a key for good."`
}

// keyArg is the argument of the commands about one key.
type keyArg struct {
	database
	Key string `arg:"" complete:"keys" help:"The key's name, or its id."`
}

// with opens the database and does f, which is about the key.
func (c keyArg) with(p *program, f func(backend.Database) error) error {
	err := c.use(p, f)
	if errors.Is(err, apikey.ErrUnknown) {
		return noKey(c.Key)
	} else if errors.Is(err, apikey.ErrValueTaken) {
		return errors.New("that value opens a key already, or did: choose another one")
	} else if err != nil {
		return err
	}
	return nil
}

func noKey(ref string) error {
	return fmt.Errorf("there is no key %q: run `helloapi keys list` to see existing keys", ref)
}

func unknownPlan(name string) error {
	return fmt.Errorf("there is no plan %q: `helloapi plans list` shows existing plans", name)
}

// valueFlag is how a person gives a key a value of their own: not as an
// argument, which everyone on the machine can see.
type valueFlag struct {
	ValueFile string `placeholder:"FILE" help:"Take the key's value from a file, or from standard input (-), instead of making one: 20 to 128 printable ASCII characters without spaces."`
}

// value returns the value to use, and whether it was made just now.
func (f valueFlag) value(p *program) (v apikey.Value, made bool, err error) {
	if f.ValueFile == "" {
		return apikey.Generate(), true, nil
	}
	text, err := f.read(p)
	if err != nil {
		return apikey.Value{}, false, fmt.Errorf("read the key's value: %w", err)
	}
	v, err = apikey.Parse(text)
	if err == nil {
		err = v.CheckVariety()
	}
	if err != nil {
		return apikey.Value{}, false, fmt.Errorf("the key's value can't be used: %w", err)
	}
	return v, false, nil
}

func (f valueFlag) read(p *program) (string, error) {
	if f.ValueFile == "-" {
		return p.readSecret(valuePrompt)
	}
	file, err := os.Open(f.ValueFile)
	if err != nil {
		return "", err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, 4096))
	return strings.TrimRight(string(b), "\r\n"), err
}

// valuePrompt asks a person for a key's value.
const valuePrompt = "The key's value (it is not shown): "

type keysCreateCmd struct {
	database
	output
	valueFlag
	Name        string `arg:"" help:"What the key is known by."`
	Plan        string `required:"" placeholder:"PLAN" complete:"plans" help:"The usage plan that limits it; see helloapi plans list."`
	Description string `placeholder:"TEXT" help:"A note."`
	CustomerID  string `placeholder:"ID" help:"Your own id of whom the key belongs to."`
	Expires     string `placeholder:"WHEN" help:"When to refuse it from: a date (2030-12-31), a time (2030-12-31T12:00:00Z), or how long from now (720h, 30d). Default: never."`
}

func (c *keysCreateCmd) Run(p *program) (err error) {
	if err := plan.CheckName(c.Name); err != nil {
		return fmt.Errorf("the key's name %w", err)
	}
	expires, err := parseExpiry(c.Expires, time.Now())
	if err != nil {
		return err
	}
	value, made, err := c.value(p)
	if err != nil {
		return err
	}
	return keyArg{c.database, c.Name}.with(p, func(db backend.Database) error {
		key, err := db.CreateKey(p.ctx, apikey.Key{
			Name: c.Name, Plan: &plan.Plan{Name: c.Plan}, Enabled: true,
			Description: c.Description, CustomerID: c.CustomerID, ExpiresAt: expires,
		}, value)
		switch {
		case errors.Is(err, apikey.ErrNameTaken):
			return fmt.Errorf("there is a key %q already: choose another name", c.Name)
		case errors.Is(err, apikey.ErrUnknownPlan):
			return unknownPlan(c.Plan)
		case err != nil:
			return err
		}
		return printValue(p, c.output, fmt.Sprintf("Created key %q on plan %q.", key.Name, c.Plan), key, value, made)
	})
}

// printValue says what was done to a key, and shows its value if it was made
// just now.
func printValue(p *program, o output, done string, key apikey.Key, value apikey.Value, made bool) error {
	if o.Output == "json" {
		shown := keyJSON(key, time.Now())
		if made {
			shown.Value = value.Reveal()
		}
		return valueLost(printJSON(p.stdout, shown), key.Name, made)
	}
	if !made {
		fmt.Fprintln(p.stderr, done)
		return nil
	}
	// The value alone on standard output, for scripts.
	fmt.Fprintln(p.stderr, done, "This is its value, shown this once:")
	_, err := fmt.Fprintln(p.stdout, value.Reveal())
	return valueLost(err, key.Name, made)
}

// valueLost says what to do if a value could not be printed that was made just
// now: nobody knows it.
func valueLost(err error, name string, made bool) error {
	if err == nil || !made {
		return err
	}
	return fmt.Errorf("the key is changed, but its new value could not be printed and is lost (%w): `helloapi keys rotate %s` gives it another one", err, shellWord(name))
}

// parseExpiry reads when a key expires: a date, a time, or how long from now.
func parseExpiry(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, ok := afterNow(s, now)
	if ok {
	} else if d, err := time.Parse(time.DateOnly, s); err == nil {
		t = d
	} else if t, err = time.Parse(time.RFC3339, s); err != nil {
		return time.Time{}, fmt.Errorf("--expires %q: must be a date (2030-12-31), a time (2030-12-31T12:00:00Z), or how long from now (720h, 30d)", s)
	}
	if !t.After(now) {
		return time.Time{}, fmt.Errorf("--expires %q: has passed already", s)
	}
	return t, nil
}

// afterNow reads how long from now: 720h, or in days 30d.
func afterNow(s string, now time.Time) (time.Time, bool) {
	if days, ok := strings.CutSuffix(s, "d"); ok && strings.Trim(days, "0123456789") == "" && len(days) > 0 && len(days) < 6 {
		n, _ := strconv.Atoi(days) // of digits
		return now.AddDate(0, 0, n), true
	}
	d, err := time.ParseDuration(s)
	return now.Add(d), err == nil
}

type keysUpdateCmd struct {
	keyArg
	output
	Plan        *string `variable:"HELLOAPI_UPDATE_PLAN" placeholder:"PLAN" complete:"plans" help:"The usage plan that limits it from now on. What it used so far stays used."`
	Expires     *string `variable:"HELLOAPI_UPDATE_EXPIRES" placeholder:"WHEN" help:"When to refuse it from: a date (2030-12-31), a time (2030-12-31T12:00:00Z), how long from now (720h, 30d), or never."`
	Description *string `variable:"HELLOAPI_UPDATE_DESCRIPTION" placeholder:"TEXT" help:"A note."`
	CustomerID  *string `variable:"HELLOAPI_UPDATE_CUSTOMER_ID" placeholder:"ID" help:"Your own id of whom the key belongs to, from now on."`
}

func (c *keysUpdateCmd) Run(p *program) error {
	u := apikey.KeyUpdate{Plan: c.Plan, Description: c.Description, CustomerID: c.CustomerID}
	if c.Expires != nil {
		var t time.Time
		if *c.Expires != "never" {
			var err error
			if t, err = parseExpiry(*c.Expires, time.Now()); err != nil {
				return err
			}
		}
		u.ExpiresAt = &t
	}
	if u == (apikey.KeyUpdate{}) {
		return errors.New("say what to change: --plan, --expires, --description or --customer-id")
	}
	return c.with(p, func(db backend.Database) error {
		before, err := db.Key(p.ctx, c.Key)
		if err != nil {
			return err
		}
		if err := db.UpdateKey(p.ctx, before.ID, u); errors.Is(err, apikey.ErrUnknownPlan) {
			return unknownPlan(*c.Plan)
		} else if err != nil {
			return err
		}
		after, err := db.Key(p.ctx, before.ID)
		if err != nil {
			return err
		}
		noteFile(p, "key", before.Name, before.MadeBy)
		done := fmt.Sprintf("Nothing to do: key %q is like that already.", c.Key)
		if changes := differences(keyJSON(before, time.Now()), keyJSON(after, time.Now())); len(changes) > 0 {
			done = fmt.Sprintf("Key %q is changed: %s.", c.Key, strings.Join(changes, "; "))
		}
		return c.printDone(p, done, keyJSON(after, time.Now()))
	})
}

// differences says what of a key was changed.
func differences(before, after keyInfo) (all []string) {
	for _, f := range []struct{ name, before, after string }{
		{"plan", before.Plan, after.Plan},
		{"expires", expiry(before.ExpiresAt), expiry(after.ExpiresAt)},
		{"description", before.Description, after.Description},
		{"customer id", before.CustomerID, after.CustomerID},
	} {
		if f.before != f.after {
			all = append(all, fmt.Sprintf("%s %s -> %s", f.name, or(f.before, "none"), or(f.after, "none")))
		}
	}
	return all
}

// noteFile says that a file will undo a change.
func noteFile(p *program, kind, name, madeBy string) {
	if madeBy != "" {
		fmt.Fprintf(p.stderr, "note: %s %q is from the file %s: when that is applied again, what it says of the %[1]s holds again\n", kind, name, fileOf(madeBy))
	}
}

type keysRotateCmd struct {
	keyArg
	valueFlag
	confirmation
	Grace time.Duration `default:"0s" placeholder:"TIME" help:"How long the present value goes on opening the key beside the new one, such as 24h. Default: not at all."`
}

// Validate is called when the flags have been read.
func (c *keysRotateCmd) Validate() error {
	if c.Grace < 0 {
		return errors.New("--grace: must not be negative")
	}
	return nil
}

func (c *keysRotateCmd) Run(p *program) error {
	return c.with(p, func(db backend.Database) error {
		if ok, err := c.confirmCut(p, db); !ok {
			return err
		}
		value, made, err := c.value(p)
		if err != nil {
			return err
		}
		if err := db.RotateKey(p.ctx, c.Key, value, c.Grace); err != nil {
			return err
		}
		done := fmt.Sprintf("Key %q has a new value; the old one is refused from now on.", c.Key)
		if c.Grace > 0 {
			done = fmt.Sprintf("Key %q has a new value; the old one is good for %v more.", c.Key, c.Grace)
		}
		key, err := db.Key(p.ctx, c.Key)
		if err != nil {
			// It has happened: the value must not be lost.
			key = apikey.Key{Name: c.Key, Display: value.Display(), Enabled: true}
		}
		return errors.Join(printValue(p, c.output, done, key, value, made), err)
	})
}

// confirmCut has a person confirm that the value of a key in use is refused at
// once.
func (c *keysRotateCmd) confirmCut(p *program, db backend.Database) (bool, error) {
	key, err := db.Key(p.ctx, c.Key)
	if err != nil {
		return false, err
	}
	today := plan.DateOf(clock.Now().UTC())
	used, err := charged(p, db, key.ID, today.AddDays(-30), today.AddDays(2))
	if err != nil {
		return false, err
	}
	if used == 0 || c.Grace > 0 {
		c.Yes = true // nobody is cut off
	}
	return c.confirm(p, fmt.Sprintf("Give key %q a new value. It had %d requests in the last 30 days; its current value is refused at once; with --grace 24h it would be good for a day more.", c.Key, used))
}

type keysEnableCmd struct {
	keyArg
	output
}

func (c *keysEnableCmd) Run(p *program) error {
	return c.enable(p, c.output, true)
}

type keysDisableCmd struct {
	keyArg
	output
}

func (c *keysDisableCmd) Run(p *program) error {
	return c.enable(p, c.output, false)
}

func (c keyArg) enable(p *program, o output, enabled bool) error {
	return c.with(p, func(db backend.Database) error {
		if err := db.EnableKey(p.ctx, c.Key, enabled); err != nil {
			return err
		}
		key, err := db.Key(p.ctx, c.Key)
		if err != nil {
			return err
		}
		state := map[bool]string{true: "enabled", false: "disabled"}[enabled]
		return o.printDone(p, fmt.Sprintf("Key %q is %s.", c.Key, state), keyJSON(key, time.Now()))
	})
}

type keysDeleteCmd struct {
	keyArg
	confirmation
}

// A deletedKey is a key as it was, as it is shown.
type deletedKey struct {
	keyInfo
	Deleted  bool             `json:"deleted"`
	Unbilled map[string]int64 `json:"unbilled"` // what it was charged in this month and the last, by month
}

func (c *keysDeleteCmd) Run(p *program) error {
	return c.with(p, func(db backend.Database) error {
		key, err := db.Key(p.ctx, c.Key)
		if err != nil {
			return err
		}
		months, unbilled, err := unbilled(p, db, key)
		if err != nil {
			return err
		}
		what := fmt.Sprintf("Delete key %q (customer %s, plan %s) for good.", c.Key, or(key.CustomerID, "-"), or(keyJSON(key, time.Now()).Plan, "-"))
		if ok, err := c.confirm(p, what+"\n"+unbilled); !ok {
			return err
		}
		if err := db.DeleteKey(p.ctx, key.ID); err != nil {
			return err
		}
		noteFile(p, "key", key.Name, key.MadeBy)
		return c.printDone(p, fmt.Sprintf("Key %q is deleted. %s", c.Key, unbilled), deletedKey{keyJSON(key, time.Now()), true, months})
	})
}

// unbilled returns what a key was charged in the months whose bills may not have
// been made, and says it.
func unbilled(p *program, db backend.Database, key apikey.Key) (months map[string]int64, sentence string, err error) {
	tomorrow := plan.DateOf(clock.Now().UTC()).AddDays(2) // also where the day has begun already
	month := plan.DateOf(clock.Now().UTC()).FirstOfMonth()
	last := month.AddDays(-1).FirstOfMonth()
	now, err := charged(p, db, key.ID, month, tomorrow)
	if err != nil {
		return nil, "", err
	}
	before, err := charged(p, db, key.ID, last, month)
	if err != nil {
		return nil, "", err
	}
	months = map[string]int64{last.Month(): before, month.Month(): now}
	if now+before == 0 {
		return months, "It used nothing this month and last.", nil
	}
	return months, fmt.Sprintf("Not yet billed: %d requests in %s, and %d in %s unless that bill is made; they stay in `helloapi usage show %s --by month`.",
		now, month.Month(), before, last.Month(), shellWord(or(key.Name, key.ID))), nil
}

// charged adds up what a key was charged.
func charged(p *program, db backend.Database, keyID string, first, next plan.Date) (total int64, err error) {
	days, err := db.DailyUsage(p.ctx, keyID, first, next)
	for _, d := range days {
		total += d.Charged
	}
	return total, err
}

type keysShowCmd struct {
	keyArg
	output
}

func (c *keysShowCmd) Run(p *program) error {
	return c.with(p, func(db backend.Database) error {
		key, err := db.Key(p.ctx, c.Key)
		if err != nil {
			return err
		}
		return showKey(p, db, c.output, key)
	})
}

// showKey prints all that is known of a key.
func showKey(p *program, db backend.Database, o output, key apikey.Key) error {
	at, err := standings(p, db, []apikey.Key{key})
	if err != nil {
		return err
	}
	last, err := limits.LastCharged(p.ctx, db.Conn(), key.ID)
	if err != nil {
		return err
	}
	shown := keyJSON(key, time.Now())
	shown.LastUsed = last[key.ID]
	if len(at) > 0 {
		shown.Usage = &at[0]
	}
	if o.Output == "json" {
		return printJSON(p.stdout, shown)
	}
	t := newTable(p.stdout)
	t.row("name", or(shown.Name, "-"))
	t.row("id", shown.ID)
	t.row("status", shown.Status)
	t.row("may call", mayCall(shown))
	t.row("plan", or(shown.Plan, "-"))
	if key.Plan != nil {
		t.row("quota", key.Plan.Quota.String())
		t.row("throttle", key.Plan.Throttle.String())
	}
	if u := shown.Usage; u != nil {
		t.row("used", u.describe())
		if u.ResetsAt != nil {
			t.row("", u.bar())
			t.row("resets", u.ResetsAt.Format(time.RFC3339))
		}
		t.row("refused", u.describeRefused())
	}
	t.row("last used", or(string(shown.LastUsed), "never"))
	t.row("description", or(shown.Description, "-"))
	t.row("customer id", or(shown.CustomerID, "-"))
	t.row("created", shown.CreatedAt.Format(time.RFC3339))
	t.row("expires", expiry(shown.ExpiresAt))
	if shown.MadeBy != "" {
		t.row("from file", fileOf(shown.MadeBy))
	}
	for _, v := range shown.Values {
		t.row("value", v.Prefix+"…, created "+v.CreatedAt.Format(time.RFC3339)+", expires "+expiry(v.ExpiresAt))
	}
	return t.Flush()
}

// mayCall says whether the API lets a key in now, and why not.
func mayCall(k keyInfo) string {
	switch u := k.Usage; {
	case k.Status != "ok":
		return "no: " + k.Status
	case u != nil && u.Remaining != nil && *u.Remaining == 0:
		return "no: its quota is used up until " + u.ResetsAt.Format(time.RFC3339)
	}
	return "yes"
}

type keysWhichCmd struct {
	database
	output
}

func (c *keysWhichCmd) Help() string {
	return "It reads the value from standard input. On a terminal it asks, and does not show what is typed."
}

func (c *keysWhichCmd) Run(p *program) error {
	text, err := p.readSecret(valuePrompt)
	if err != nil {
		return fmt.Errorf("read the key's value: %w", err)
	}
	value, err := apikey.Parse(strings.TrimSpace(text))
	if err != nil {
		return fmt.Errorf("no key has that value: %w", err)
	}
	return c.use(p, func(db backend.Database) error {
		key, err := db.Find(p.ctx, value.Hash())
		if errors.Is(err, apikey.ErrUnknown) {
			return errors.New("no key has that value: it was never given to one, or its key is deleted")
		} else if err != nil {
			return err
		}
		whole, err := db.Key(p.ctx, key.ID)
		if err != nil {
			return err
		}
		// The value may end before its key.
		whole.Display, whole.ExpiresAt = key.Display, key.ExpiresAt
		return showKey(p, db, c.output, whole)
	})
}

type keysListCmd struct {
	database
	output
	Plan       string `variable:"HELLOAPI_LIST_PLAN" placeholder:"PLAN" complete:"plans" help:"Only keys on this plan."`
	Status     string `variable:"HELLOAPI_LIST_STATUS" enum:",ok,disabled,expired,no-plan" default:"" help:"Only keys of this status: ok, disabled, expired or no-plan."`
	CustomerID string `variable:"HELLOAPI_LIST_CUSTOMER_ID" placeholder:"ID" help:"Only keys of this customer."`
	Expiring   string `variable:"HELLOAPI_LIST_EXPIRING" placeholder:"TIME" help:"Only keys that expire within so long from now: 36h, 7d."`
	Unused     string `variable:"HELLOAPI_LIST_UNUSED" placeholder:"TIME" help:"Only keys that are older than so long and were not charged since: 90d."`
	Search     string `variable:"HELLOAPI_LIST_SEARCH" placeholder:"TEXT" help:"Only keys with this text in their name, description, customer id or id, in capitals or not."`
}

func (c *keysListCmd) Run(p *program) error {
	now := time.Now()
	var expiring time.Time
	if c.Expiring != "" {
		var ok bool
		if expiring, ok = afterNow(c.Expiring, now); !ok || expiring.Before(now) {
			return fmt.Errorf("--expiring %q: must be how long from now, such as 36h or 7d", c.Expiring)
		}
	}
	unusedSince := time.Time{}
	if c.Unused != "" {
		after, ok := afterNow(c.Unused, now)
		if unusedSince = now.Add(-after.Sub(now)); !ok || unusedSince.After(now) {
			return fmt.Errorf("--unused %q: must be how long, such as 36h or 90d", c.Unused)
		}
	}
	return c.use(p, func(db backend.Database) error {
		keys, err := db.Keys(p.ctx)
		if err != nil {
			return err
		}
		last, err := limits.LastCharged(p.ctx, db.Conn(), "")
		if err != nil {
			return err
		}
		shown := make([]keyInfo, 0, len(keys))
		for _, k := range keys {
			info := keyJSON(k, now)
			info.LastUsed = last[k.ID]
			if c.matches(info, now, expiring, unusedSince) {
				shown = append(shown, info)
			}
		}
		if c.Output == "json" {
			return printJSON(p.stdout, shown)
		}
		t := newTable(p.stdout, "NAME", "VALUE", "PLAN", "STATUS", "CUSTOMER", "LAST USED", "EXPIRES", "DESCRIPTION")
		for _, k := range shown {
			t.row(or(k.Name, k.ID), k.ValuePrefix+"…", or(k.Plan, "-"), k.Status, or(k.CustomerID, "-"), or(string(k.LastUsed), "never"), shortDate(k.ExpiresAt), k.Description)
		}
		return t.Flush()
	})
}

// matches reports whether a key is one that was asked for.
func (c *keysListCmd) matches(k keyInfo, now, expiring, unusedSince time.Time) bool {
	contains := func(s string) bool { return strings.Contains(strings.ToLower(s), strings.ToLower(c.Search)) }
	return (c.Plan == "" || k.Plan == c.Plan) &&
		(c.Status == "" || strings.ReplaceAll(k.Status, " ", "-") == c.Status) &&
		(c.CustomerID == "" || k.CustomerID == c.CustomerID) &&
		(c.Expiring == "" || k.ExpiresAt != nil && k.ExpiresAt.After(now) && !k.ExpiresAt.After(expiring)) &&
		(c.Unused == "" || k.CreatedAt.Before(unusedSince) && k.LastUsed < plan.DateOf(unusedSince.UTC())) &&
		(c.Search == "" || contains(k.Name) || contains(k.Description) || contains(k.CustomerID) || contains(k.ID))
}

// shortDate is a time in a list, where the day will do.
func shortDate(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return t.Format(time.DateOnly)
}

// A keyInfo is a key as it is shown.
type keyInfo struct {
	ID          string      `json:"id"`
	Name        string      `json:"name"`
	Value       string      `json:"value,omitempty"` // only when it was just made
	ValuePrefix string      `json:"valuePrefix"`
	Plan        string      `json:"plan"`
	Status      string      `json:"status"` // "ok", or why the key is refused
	Description string      `json:"description,omitempty"`
	CustomerID  string      `json:"customerId,omitempty"`
	CreatedAt   time.Time   `json:"createdAt"`
	ExpiresAt   *time.Time  `json:"expiresAt,omitempty"`
	LastUsed    plan.Date   `json:"lastUsed,omitempty"` // the day of the last charge; only of keys show and list
	MadeBy      string      `json:"madeBy,omitempty"`   // the file that did
	Usage       *standing   `json:"usage,omitempty"`    // only of one key
	Values      []valueInfo `json:"values,omitempty"`
}

// A valueInfo is what is known of a value that opens a key.
type valueInfo struct {
	Prefix    string     `json:"prefix"`
	CreatedAt time.Time  `json:"createdAt"`
	ExpiresAt *time.Time `json:"expiresAt,omitempty"`
}

func keyJSON(k apikey.Key, now time.Time) keyInfo {
	info := keyInfo{
		ID: k.ID, Name: k.Name, ValuePrefix: k.Display, Status: or(k.Refusal(now), "ok"),
		Description: k.Description, CustomerID: k.CustomerID, MadeBy: k.MadeBy, CreatedAt: *shownTime(k.CreatedAt), ExpiresAt: shownTime(k.ExpiresAt),
	}
	if k.Plan != nil {
		info.Plan = k.Plan.Name
	}
	for _, v := range k.Values {
		info.Values = append(info.Values, valueInfo{v.Display, *shownTime(v.CreatedAt), shownTime(v.ExpiresAt)})
	}
	return info
}
