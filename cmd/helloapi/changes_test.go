package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"helloapi/internal/backendtest"
)

// Each command that changes a key or a plan is in the record, with who ran it
// and from which file.
func TestChanges(t *testing.T) {
	t.Parallel()
	for name, fresh := range map[string]func(testing.TB) string{"SQLite": backendtest.SQLite, "PostgreSQL": backendtest.Postgres} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := fresh(t)
			backendtest.Migrate(t, url)
			env := map[string]string{"DATABASE_URL": url, "SUDO_USER": "ann"}
			dir := t.TempDir()
			plans, listing := filepath.Join(dir, "plans.yaml"), filepath.Join(dir, "keys.csv")
			const value = "a-value-of-somebody-1234567"
			for file, text := range map[string]string{
				plans:   "plans:\n  gold:\n    quota: {limit: 10, period: DAY}\n    keys: [goldie]\n",
				listing: "Name,key,description,Enabled,usageplanIds\nmoved," + value + ",,TRUE,free\n",
			} {
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var secrets []string
			for _, args := range [][]string{
				{"keys", "create", "shop", "--plan", "free"},
				{"keys", "update", "shop", "--customer-id", "c-1\x1b[31m"},
				{"keys", "disable", "shop"},
				{"keys", "enable", "shop"},
				{"keys", "rotate", "shop", "--yes"},
				{"plans", "create", "silver", "--limit", "5", "--period", "DAY"},
				{"plans", "update", "silver", "--limit", "6", "--period", "DAY"},
				{"plans", "delete", "silver", "--yes"},
				{"usage", "grant", "shop", "3", "--note", "outage"},
				{"usage", "grants", "revoke", "1", "--yes"},
				{"apply", "-f", plans},
				{"import", "keys", listing, "--plan", "free"},
				{"keys", "delete", "shop", "--yes"},
			} {
				out, stderr, err := helloapi(t, env, args...)
				if err != nil {
					t.Fatalf("%q: %v\n%s%s", args, err, out, stderr)
				}
				secrets = append(secrets, regexp.MustCompile(`hk_[0-9A-Za-z]{38}`).FindAllString(out, -1)...)
			}
			if len(secrets) != 3 {
				t.Fatalf("%d values were printed, want 3", len(secrets))
			}
			out, _, err := helloapi(t, env, "changes", "-o", "json")
			if err != nil {
				t.Fatal(err)
			}
			for _, secret := range append(secrets, value) {
				if strings.Contains(out, secret) {
					t.Errorf("the record has a value:\n%s", out)
				}
			}
			var shown []changeInfo
			if err := json.Unmarshal([]byte(out), &shown); err != nil {
				t.Fatal(err)
			}
			slices.Reverse(shown)
			var got []string
			for _, c := range shown {
				who, file, _ := strings.Cut(c.Actor, ", ")
				if !strings.HasPrefix(who, "ann@") {
					t.Errorf("%s %s by %q, want ann@…", c.Action, c.Subject, c.Actor)
				}
				got = append(got, strings.TrimSpace(c.Action+" "+c.Subject+" "+filepath.Base(file)))
			}
			want := []string{
				"create key shop .", "update key shop .", "update key shop .", "update key shop .",
				"update key value shop .", "create key value shop .",
				"create plan silver .", "update plan silver .", "delete plan silver .",
				"create grant shop .", "delete grant shop .",
				"create plan gold plans.yaml", "create key goldie plans.yaml", "create key moved keys.csv", "delete key shop .",
			}
			if !slices.Equal(got, want) {
				t.Errorf("recorded:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}

			table, _, err := helloapi(t, env, "changes", "--key", "shop", "--since", "1h")
			if err != nil || strings.Contains(table, "\x1b") || !strings.Contains(table, "enabled: true → false") || strings.Contains(table, "goldie") {
				t.Errorf("changes of shop: %v\n%s", err, table)
			}
			for _, args := range [][]string{{"--since", "yesterday"}, {"--most", "0"}, {"--key", "a", "--plan", "b"}} {
				if _, _, err := helloapi(t, env, append([]string{"changes"}, args...)...); err == nil {
					t.Errorf("changes %q: no error", args)
				}
			}
		})
	}
}

func TestParseSince(t *testing.T) {
	t.Parallel()
	now := time.Date(2030, 3, 31, 12, 0, 0, 0, time.UTC)
	for s, want := range map[string]string{
		"": "0001-01-01T00:00:00Z", "36h": "2030-03-30T00:00:00Z", "7d": "2030-03-24T12:00:00Z",
		"2030-01-02": "2030-01-02T00:00:00Z", "2030-01-02T03:04:05+01:00": "2030-01-02T02:04:05Z",
		"last week": "", "7": "", "2030-13-01": "",
	} {
		got, err := parseSince(s, now)
		if (err != nil) != (want == "") || err == nil && got.UTC().Format(time.RFC3339) != want {
			t.Errorf("%q: got %v, %v; want %q", s, got, err, want)
		}
	}
}
