package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
)

type keysCmd struct {
	Create keysCreateCmd `cmd:"" help:"Create a key. Its value is printed this once."`
	List   keysListCmd   `cmd:"" help:"List the keys, and why one would be refused."`
}

type keysCreateCmd struct {
	database
	output
	Name        string `arg:"" help:"What the key is known by."`
	Plan        string `required:"" help:"The usage plan that limits it; see helloapi plans list."`
	Description string `help:"A note."`
	CustomerID  string `help:"Your own id of whom the key belongs to."`
}

func (c *keysCreateCmd) Run(p *program) (err error) {
	if strings.TrimSpace(c.Name) != c.Name || c.Name == "" {
		return errors.New("a key needs a name, without spaces around it")
	}
	db, err := c.open(p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()

	value := apikey.Generate()
	key, err := db.CreateKey(p.ctx, apikey.Key{
		Name: c.Name, Plan: &plan.Plan{Name: c.Plan}, Enabled: true,
		Description: c.Description, CustomerID: c.CustomerID,
	}, value)
	switch {
	case errors.Is(err, apikey.ErrNameTaken):
		return fmt.Errorf("there is a key %q already: choose another name", c.Name)
	case errors.Is(err, apikey.ErrUnknownPlan):
		return fmt.Errorf("there is no plan %q: `helloapi plans list` shows those there are", c.Plan)
	case err != nil:
		return err
	}
	if c.Output == "json" {
		shown := keyJSON(key, time.Now())
		shown.Value = value.Reveal()
		return printJSON(p.stdout, shown)
	}
	// The value alone on standard output, for scripts.
	fmt.Fprintf(p.stderr, "Created key %q on plan %q. This is its value, shown this once:\n", key.Name, c.Plan)
	fmt.Fprintln(p.stdout, value.Reveal())
	return nil
}

type keysListCmd struct {
	database
	output
}

func (c *keysListCmd) Run(p *program) (err error) {
	db, err := c.open(p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
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
		expires := "never"
		if k.ExpiresAt != nil {
			expires = k.ExpiresAt.Format(time.RFC3339)
		}
		t.row(or(k.Name, "-"), k.ValuePrefix+"…", or(k.Plan, "-"), k.Status, k.CreatedAt.Format(time.RFC3339), expires, k.Description)
	}
	return t.Flush()
}

// A keyInfo is a key as it is shown.
type keyInfo struct {
	Name        string     `json:"name"`
	Value       string     `json:"value,omitempty"` // only when it was just made
	ValuePrefix string     `json:"valuePrefix"`
	Plan        string     `json:"plan"`
	Status      string     `json:"status"` // "ok", or why the key is refused
	Description string     `json:"description,omitempty"`
	CustomerID  string     `json:"customerId,omitempty"`
	CreatedAt   time.Time  `json:"createdAt"`
	ExpiresAt   *time.Time `json:"expiresAt,omitempty"`
}

func keyJSON(k apikey.Key, now time.Time) keyInfo {
	info := keyInfo{
		Name: k.Name, ValuePrefix: k.Display, Status: or(k.Refusal(now), "ok"),
		Description: k.Description, CustomerID: k.CustomerID, CreatedAt: k.CreatedAt.UTC().Truncate(time.Second),
	}
	if k.Plan != nil {
		info.Plan = k.Plan.Name
	}
	if !k.ExpiresAt.IsZero() {
		expires := k.ExpiresAt.UTC()
		info.ExpiresAt = &expires
	}
	return info
}

// A table prints rows in columns.
type table struct{ *tabwriter.Writer }

func newTable(w io.Writer, header ...string) table {
	t := table{tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)}
	t.row(header...)
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
