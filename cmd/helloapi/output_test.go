package main

import (
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"helloapi/internal/backendtest"
)

// Every command prints JSON to programs that ask for it in the same way.
func TestEveryCommandHasJSON(t *testing.T) {
	t.Parallel()
	without := map[string]string{
		"serve":      "writes logs, for which there is LOG_FORMAT",
		"completion": "prints a script",
		"complete":   "prints lines for such a script",
	}
	parser, err := newParser(&commands{})
	if err != nil {
		t.Fatal(err)
	}
	for _, leaf := range parser.Model.Leaves(false) {
		path := strings.TrimPrefix(leaf.FullPath(), "helloapi ")
		path, _, _ = strings.Cut(path, " (")
		found := false
		for _, f := range leaf.Flags {
			if f.Short != 'o' {
				continue
			}
			found = true
			if f.Name != "output" || variable(f) != "HELLOAPI_OUTPUT" || f.Default != "table" || !slices.Contains(strings.Split(f.Enum, ","), "json") {
				t.Errorf("%s: -o is --%s (%s) with the values %s", path, f.Name, variable(f), f.Enum)
			}
		}
		if _, ok := without[path]; ok == found {
			t.Errorf("%s: has -o json: %v", path, found)
		}
		delete(without, path)
	}
	if len(without) > 0 {
		t.Errorf("no commands: %v", without)
	}
}

// The environment has one variable for all commands.
func TestOutputVariable(t *testing.T) {
	t.Parallel()
	url := backendtest.SQLite(t)
	backendtest.Migrate(t, url)
	env := map[string]string{"DATABASE_URL": url, "HELLOAPI_OUTPUT": "json"}
	for _, args := range [][]string{{"usage", "show"}, {"usage", "show", "--by", "day"}, {"keys", "list"}, {"plans", "update", "free", "--rate", "5"}} {
		if out, _, err := helloapi(t, env, args...); err != nil || !json.Valid([]byte(out)) {
			t.Errorf("%q: %v\n%s", args, err, out)
		}
	}
	env["HELLOAPI_OUTPUT"] = "csv"
	if out, _, err := helloapi(t, env, "usage", "show"); err != nil || !strings.HasPrefix(out, "key,key_id,date,") {
		t.Errorf("usage show as CSV: %v\n%s", err, out)
	}
	if _, _, err := helloapi(t, env, "keys", "list"); err == nil || !strings.Contains(err.Error(), "HELLOAPI_OUTPUT: must be one of table,json") {
		t.Errorf("keys list as CSV: %v", err)
	}
}

// What commands print to programs is what docs/commands.md says: run in its
// order, but for what differs each time.
func TestDocsJSON(t *testing.T) {
	examples := blocks(t, "../../docs/commands.md", "console")
	dir := t.TempDir()
	p := start(t, dir)
	t.Chdir(dir) // with the database that is the default
	if err := errors.Join(
		os.WriteFile("plans.yaml", []byte("plans:\n  silver:\n    quota: {limit: 10, period: DAY}\n    keys: [ann]\n"), 0o600),
		os.WriteFile("counts.csv", []byte("name,count\nann,3\nbob,1\n"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	url := "sqlite:" + dir + "/data/helloapi.db"
	backendtest.Exec(t, url, `INSERT INTO greetings (name, count) VALUES ('brooks', 2)`)
	backendtest.Exec(t, url, `INSERT INTO certificates (directory, host, data) VALUES ('https://ca.example', 'api.example.com', X'00')`)

	// same is what a text is each time.
	same := func(s string) string {
		for _, r := range [][2]string{
			{`"(id|keyId|actor)": "[^"]+"`, `"$1": ID`},
			{`hk_([0-9A-Za-z]{38}|…)`, "VALUE"},
			{`hk_[0-9A-Za-z]{5}"`, `PREFIX"`},
			{`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`, "TIME"},
			{`\d{4}-\d\d(-\d\d)?`, "DATE"},
		} {
			s = regexp.MustCompile(r[0]).ReplaceAllString(s, r[1])
		}
		return strings.ReplaceAll(s, dir+"/", "")
	}
	n := 0
	for _, block := range examples {
		for _, example := range strings.Split("\n"+block, "\n$ helloapi ")[1:] {
			n++
			command, want, _ := strings.Cut(example, "\n")
			out, stderr, err := helloapi(t, map[string]string{"ADMIN_ADDR": p.admin}, words(command)...)
			if err != nil || !json.Valid([]byte(out)) {
				t.Errorf("%s: %v\n%s%s", command, err, out, stderr)
			}
			if diff := cmp.Diff(strings.TrimSpace(same(want)), strings.TrimSpace(same(out))); diff != "" {
				t.Errorf("%s (-docs +printed):\n%s\n%s", command, diff, out)
			}
		}
	}
	if n < 15 {
		t.Errorf("only %d commands were found", n)
	}
}
