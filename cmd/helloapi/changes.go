package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"helloapi/internal/backend"
	"helloapi/internal/changes"
)

type changesCmd struct {
	database
	output
	Key   string `variable:"HELLOAPI_CHANGES_KEY" complete:"keys" placeholder:"NAME" help:"Only of this key: its name or id, which may be deleted."`
	Plan  string `variable:"HELLOAPI_CHANGES_PLAN" complete:"plans" placeholder:"NAME" help:"Only of this plan, which may be deleted."`
	Since string `variable:"HELLOAPI_CHANGES_SINCE" placeholder:"WHEN" help:"From when on: a date (2030-12-31), a time (2030-12-31T12:00:00Z), or how long ago (36h, 7d)."`
	Most  int    `variable:"HELLOAPI_CHANGES_MOST" default:"100" help:"How many to list, the newest first."`
}

// Validate is called when the arguments have been read.
func (c *changesCmd) Validate() error {
	if c.Most < 1 {
		return fmt.Errorf("--most: must be 1 or more")
	}
	if c.Key != "" && c.Plan != "" {
		return fmt.Errorf("--key and --plan: choose one")
	}
	return nil
}

// A changeInfo is a change as it is shown.
type changeInfo struct {
	At      time.Time       `json:"at"`
	Actor   string          `json:"actor"`
	Action  string          `json:"action"`
	Subject string          `json:"subject"`
	KeyID   string          `json:"keyId,omitempty"`
	Before  json.RawMessage `json:"before"` // null before it was created
	After   json.RawMessage `json:"after"`  // null after it was deleted
}

func (c *changesCmd) Run(p *program) error {
	since, err := parseSince(c.Since, time.Now())
	if err != nil {
		return err
	}
	return c.use(p, func(db backend.Database) error {
		list, err := changes.List(p.ctx, db.Conn(), changes.Query{Key: c.Key, Plan: c.Plan, Since: since, Most: c.Most})
		if err != nil {
			return err
		}
		if c.Output == "json" {
			shown := make([]changeInfo, len(list))
			for i, ch := range list {
				shown[i] = changeInfo{*shownTime(ch.At), ch.Actor, ch.Action, ch.Subject, ch.KeyID, ch.Before, ch.After}
			}
			return printJSON(p.stdout, shown)
		}
		t := newTable(p.stdout, "AT (UTC)", "ACTION", "SUBJECT", "WHAT", "BY")
		for _, ch := range list {
			t.row(ch.At.UTC().Format("2006-01-02 15:04"), ch.Action, cmp.Or(ch.Subject, "-"), describeChange(ch), ch.Actor)
		}
		return t.Flush()
	})
}

func parseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, ok := afterNow(s, now); ok {
		return now.Add(-t.Sub(now)), nil
	}
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("--since %q: must be a date (2030-12-31), a time (2030-12-31T12:00:00Z), or how long ago (36h, 7d)", s)
	}
	return t, nil
}

// unsaid are columns that a line does not say: the subject does, or nobody asks.
var unsaid = []string{"id", "key_id", "name", "created_at", "made_by", "owner"}

// describeChange says in a line what a change did: of an update what differs, of
// the others what the row was.
func describeChange(c changes.Change) string {
	before, after := columnsOf(c.Before), columnsOf(c.After)
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(either(before, after))) {
		was, is := columnText(before[name]), columnText(after[name])
		switch {
		case before != nil && after != nil:
			if was != is {
				parts = append(parts, fmt.Sprintf("%s: %s → %s", name, cmp.Or(was, "-"), cmp.Or(is, "-")))
			}
		case was+is != "" && !slices.Contains(unsaid, name):
			parts = append(parts, fmt.Sprintf("%s: %s", name, was+is))
		}
	}
	return strings.Join(parts, ", ")
}

func columnsOf(object json.RawMessage) (columns map[string]any) {
	d := json.NewDecoder(bytes.NewReader(object))
	d.UseNumber()
	_ = d.Decode(&columns) // null, or nothing, has none
	return columns
}

func either(a, b map[string]any) map[string]any {
	if a == nil {
		return b
	}
	return a
}

// columnText is a column's value as it is shown, times in seconds.
func columnText(v any) string {
	if v == nil {
		return ""
	}
	s := fmt.Sprint(v)
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return shownTime(t).Format(time.RFC3339)
	}
	return s
}

// person says who runs this command, for the record of changes.
func person(getenv func(string) string) string {
	name := getenv("SUDO_USER")
	if u, err := user.Current(); name == "" && err == nil {
		name = u.Username
	}
	if name == "" {
		name = fmt.Sprint("uid ", os.Getuid())
	}
	host, err := os.Hostname()
	if err != nil {
		return name
	}
	return name + "@" + host
}
