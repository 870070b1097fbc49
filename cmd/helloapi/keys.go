package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/backend"
	"helloapi/internal/plan"
)

type keysCmd struct {
	Create  keysCreateCmd  `cmd:"" help:"Create a key. Its value is printed this once."`
	List    keysListCmd    `cmd:"" help:"List the keys, and why one would be refused."`
	Show    keysShowCmd    `cmd:"" help:"Show a key, with what is known of its values."`
	Rotate  keysRotateCmd  `cmd:"" help:"Give a key a new value. It is printed this once."`
	Enable  keysEnableCmd  `cmd:"" help:"Let a key call again."`
	Disable keysDisableCmd `cmd:"" help:"Refuse a key until it is enabled again."`
	Delete  keysDeleteCmd  `cmd:"" help:"Remove a key for good."`
}

// keyArg is the argument of the commands about one key.
type keyArg struct {
	database
	Key string `arg:"" help:"The key's name, or its id."`
}

// change opens the database and does f, which is about the key.
func (c keyArg) change(p *program, f func(apikey.Keys) error) error {
	err := c.use(p, func(db backend.Database) error { return f(db) })
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
	return fmt.Errorf("there is no key %q: `helloapi keys list` shows those there are", ref)
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
	in := p.stdin
	if f.ValueFile != "-" {
		file, err := os.Open(f.ValueFile)
		if err != nil {
			return apikey.Value{}, false, fmt.Errorf("read the key's value: %w", err)
		}
		defer file.Close()
		in = file
	}
	b, err := io.ReadAll(io.LimitReader(in, 4096))
	if err != nil {
		return apikey.Value{}, false, fmt.Errorf("read the key's value: %w", err)
	}
	v, err = apikey.Parse(strings.TrimRight(string(b), "\r\n"))
	if err != nil {
		return apikey.Value{}, false, fmt.Errorf("the key's value can't be used: %w", err)
	}
	return v, false, nil
}

type keysCreateCmd struct {
	database
	output
	valueFlag
	Name        string `arg:"" help:"What the key is known by."`
	Plan        string `required:"" help:"The usage plan that limits it; see helloapi plans list."`
	Description string `help:"A note."`
	CustomerID  string `help:"Your own id of whom the key belongs to."`
	Expires     string `placeholder:"WHEN" help:"When to refuse it from: a date (2030-12-31), a time (2030-12-31T12:00:00Z), or how long from now (720h, 30d). Default: never."`
}

func (c *keysCreateCmd) Run(p *program) (err error) {
	if strings.TrimSpace(c.Name) != c.Name || c.Name == "" {
		return errors.New("a key needs a name, without spaces around it")
	}
	expires, err := parseExpiry(c.Expires, time.Now())
	if err != nil {
		return err
	}
	value, made, err := c.value(p)
	if err != nil {
		return err
	}
	return keyArg{c.database, c.Name}.change(p, func(keys apikey.Keys) error {
		key, err := keys.CreateKey(p.ctx, apikey.Key{
			Name: c.Name, Plan: &plan.Plan{Name: c.Plan}, Enabled: true,
			Description: c.Description, CustomerID: c.CustomerID, ExpiresAt: expires,
		}, value)
		switch {
		case errors.Is(err, apikey.ErrNameTaken):
			return fmt.Errorf("there is a key %q already: choose another name", c.Name)
		case errors.Is(err, apikey.ErrUnknownPlan):
			return fmt.Errorf("there is no plan %q: `helloapi plans list` shows those there are", c.Plan)
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
		return printJSON(p.stdout, shown)
	}
	if !made {
		fmt.Fprintln(p.stderr, done)
		return nil
	}
	// The value alone on standard output, for scripts.
	fmt.Fprintln(p.stderr, done, "This is its value, shown this once:")
	_, err := fmt.Fprintln(p.stdout, value.Reveal())
	return err
}

// parseExpiry reads when a key expires: a date, a time, or how long from now.
func parseExpiry(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	var t time.Time
	if days, ok := strings.CutSuffix(s, "d"); ok && strings.Trim(days, "0123456789") == "" && len(days) > 0 && len(days) < 6 {
		n, _ := strconv.Atoi(days) // of digits
		t = now.AddDate(0, 0, n)
	} else if d, err := time.ParseDuration(s); err == nil {
		t = now.Add(d)
	} else if t, err = time.Parse(time.DateOnly, s); err == nil {
	} else if t, err = time.Parse(time.RFC3339, s); err != nil {
		return time.Time{}, fmt.Errorf("--expires %q: must be a date (2030-12-31), a time (2030-12-31T12:00:00Z), or how long from now (720h, 30d)", s)
	}
	if !t.After(now) {
		return time.Time{}, fmt.Errorf("--expires %q: has passed already", s)
	}
	return t, nil
}

type keysRotateCmd struct {
	keyArg
	output
	valueFlag
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
	value, made, err := c.value(p)
	if err != nil {
		return err
	}
	return c.change(p, func(keys apikey.Keys) error {
		if err := keys.RotateKey(p.ctx, c.Key, value, c.Grace); err != nil {
			return err
		}
		done := fmt.Sprintf("Key %q has a new value; the old one is refused from now on.", c.Key)
		if c.Grace > 0 {
			done = fmt.Sprintf("Key %q has a new value; the old one is good for %v more.", c.Key, c.Grace)
		}
		key, err := keys.Key(p.ctx, c.Key)
		if err != nil {
			// It has happened: the value must not be lost.
			key = apikey.Key{Name: c.Key, Display: value.Display(), Enabled: true}
		}
		return errors.Join(printValue(p, c.output, done, key, value, made), err)
	})
}

type keysEnableCmd struct{ keyArg }

func (c *keysEnableCmd) Run(p *program) error {
	return c.set(p, true, "enabled")
}

type keysDisableCmd struct{ keyArg }

func (c *keysDisableCmd) Run(p *program) error {
	return c.set(p, false, "disabled")
}

func (c keyArg) set(p *program, enabled bool, done string) error {
	return c.change(p, func(keys apikey.Keys) error {
		if err := keys.EnableKey(p.ctx, c.Key, enabled); err != nil {
			return err
		}
		_, err := fmt.Fprintf(p.stderr, "Key %q is %s.\n", c.Key, done)
		return err
	})
}

type keysDeleteCmd struct{ keyArg }

func (c *keysDeleteCmd) Run(p *program) error {
	return c.change(p, func(keys apikey.Keys) error {
		if err := keys.DeleteKey(p.ctx, c.Key); err != nil {
			return err
		}
		_, err := fmt.Fprintf(p.stderr, "Key %q is deleted.\n", c.Key)
		return err
	})
}

type keysShowCmd struct {
	keyArg
	output
}

func (c *keysShowCmd) Run(p *program) error {
	return c.change(p, func(keys apikey.Keys) error {
		key, err := keys.Key(p.ctx, c.Key)
		if err != nil {
			return err
		}
		shown := keyJSON(key, time.Now())
		if c.Output == "json" {
			return printJSON(p.stdout, shown)
		}
		t := newTable(p.stdout)
		t.row("name", or(shown.Name, "-"))
		t.row("id", shown.ID)
		t.row("status", shown.Status)
		t.row("plan", or(shown.Plan, "-"))
		if key.Plan != nil {
			t.row("quota", key.Plan.Quota.String())
			t.row("throttle", key.Plan.Throttle.String())
		}
		t.row("description", or(shown.Description, "-"))
		t.row("customer id", or(shown.CustomerID, "-"))
		t.row("created", shown.CreatedAt.Format(time.RFC3339))
		t.row("expires", expiry(shown.ExpiresAt))
		for _, v := range shown.Values {
			t.row("value", v.Prefix+"…, created "+v.CreatedAt.Format(time.RFC3339)+", expires "+expiry(v.ExpiresAt))
		}
		return t.Flush()
	})
}

type keysListCmd struct {
	database
	output
}

func (c *keysListCmd) Run(p *program) error {
	return c.use(p, func(db backend.Database) error {
		keys, err := db.Keys(p.ctx)
		if err != nil {
			return err
		}
		shown := make([]keyInfo, 0, len(keys))
		for _, k := range keys {
			shown = append(shown, keyJSON(k, time.Now()))
		}
		if c.Output == "json" {
			return printJSON(p.stdout, shown)
		}
		t := newTable(p.stdout, "NAME", "VALUE", "PLAN", "STATUS", "CREATED", "EXPIRES", "DESCRIPTION")
		for _, k := range shown {
			t.row(or(k.Name, k.ID), k.ValuePrefix+"…", or(k.Plan, "-"), k.Status, k.CreatedAt.Format(time.RFC3339), expiry(k.ExpiresAt), k.Description)
		}
		return t.Flush()
	})
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
		Description: k.Description, CustomerID: k.CustomerID, CreatedAt: *shownTime(k.CreatedAt), ExpiresAt: shownTime(k.ExpiresAt),
	}
	if k.Plan != nil {
		info.Plan = k.Plan.Name
	}
	for _, v := range k.Values {
		info.Values = append(info.Values, valueInfo{v.Display, *shownTime(v.CreatedAt), shownTime(v.ExpiresAt)})
	}
	return info
}

// shownTime is a time as it is shown; nil for none that is meant.
func shownTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}

func expiry(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return t.Format(time.RFC3339)
}

// A table prints rows in columns.
type table struct{ *tabwriter.Writer }

func newTable(w io.Writer, header ...string) table {
	t := table{tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)}
	if len(header) > 0 {
		t.row(header...)
	}
	return t
}

func (t table) row(cells ...string) {
	// An error is kept by the writer until Flush.
	fmt.Fprintln(t, strings.Join(cells, "\t"))
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// or returns s, or other if s is empty.
func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
