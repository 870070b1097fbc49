package main

import (
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"helloapi/internal/backendtest"
)

// Every command prints JSON to programs that ask for it in the same way.
func TestEveryCommandHasJSON(t *testing.T) {
	t.Parallel()
	without := map[string]string{
		"serve":      "writes logs, for which there is LOG_FORMAT",
		"completion": "prints a script",
		"man":        "prints a page",
		"complete":   "prints lines for such a script",
	}
	for path, leaf := range leaves(t) {
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

// Every command that may remove or replace something for good asks by the same
// flags; of the others it is known why they need not.
func TestEveryCommandThatAsks(t *testing.T) {
	t.Parallel()
	asks := map[string]string{
		"apply":               "--prune removes keys and plans; another value in the file replaces the one in use",
		"import keys":         "the listing's values replace those in use",
		"import greetings":    "--replace sets counts",
		"keys rotate":         "the value in use is refused",
		"keys delete":         "removes a key",
		"plans update":        "may drop a limit from keys",
		"plans delete":        "removes a plan",
		"usage grant":         "what was used of it can't be taken back",
		"usage grants revoke": "removes a grant",
		"greetings delete":    "removes a count",
		"certs forget":        "removes certificates",
	}
	needNot := map[string]string{
		"serve":             "nobody can be asked at a start; PLANS_FILE is applied without --prune, as the person who set it wants",
		"migrate up":        "every migration keeps the data",
		"migrate status":    "reads",
		"keys create":       "a name or a value that exists is refused",
		"keys list":         "reads",
		"keys show":         "reads",
		"keys which":        "reads",
		"keys update":       "prints what was, which can be set again",
		"keys enable":       "keys disable undoes it",
		"keys disable":      "keys enable undoes it",
		"plans list":        "reads",
		"plans show":        "reads",
		"plans create":      "a name that exists is refused",
		"usage show":        "reads",
		"usage grants list": "reads",
		"greetings top":     "reads",
		"changes":           "reads",
		"certs list":        "reads",
		"certs renew":       "the certificate serves on until there is another",
		"backup":            "a file that exists is refused",
		"invoke":            "a request as any other",
		"completion":        "prints",
		"man":               "prints",
		"complete":          "reads",
		"healthcheck":       "reads",
		"version":           "prints",
	}
	for path, leaf := range leaves(t) {
		flags := 0
		for _, f := range leaf.Flags {
			if f.Name == "yes" && f.Short == 'y' || f.Name == "dry-run" {
				flags++
			}
		}
		_, asked := asks[path]
		_, not := needNot[path]
		if asked == not || asked != (flags == 2) || not != (flags == 0) {
			t.Errorf("%s: asks %v, need not %v; has %d of --yes and --dry-run", path, asked, not, flags)
		}
		delete(asks, path)
		delete(needNot, path)
	}
	if len(asks)+len(needNot) > 0 {
		t.Errorf("no commands: %v, %v", asks, needNot)
	}
}

// leaves returns the commands that can be run, by their paths.
func leaves(t testing.TB) map[string]*kong.Node {
	t.Helper()
	parser, err := newParser(&commands{})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]*kong.Node{}
	for _, leaf := range parser.Model.Leaves(false) {
		path, _, _ := strings.Cut(strings.TrimPrefix(leaf.FullPath(), "helloapi "), " (")
		found[path] = leaf
	}
	return found
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

	// Its former name is not read, and who sets it alone is told.
	env = map[string]string{"DATABASE_URL": url, "HELLOAPI_FORMAT": "json"}
	const want = "HELLOAPI_FORMAT is not read: set HELLOAPI_OUTPUT in its place"
	if _, _, err := helloapi(t, env, "usage", "show"); err == nil || strings.Count(err.Error(), want) != 1 {
		t.Errorf("HELLOAPI_FORMAT alone: %v", err)
	}
	for _, args := range [][]string{{"usage", "show", "-o", "json"}, {"man"}} { // which it can't be about
		if _, _, err := helloapi(t, env, args...); err != nil {
			t.Errorf("%q: %v", args, err)
		}
	}
	env["HELLOAPI_OUTPUT"] = "json"
	if out, _, err := helloapi(t, env, "usage", "show"); err != nil || !json.Valid([]byte(out)) {
		t.Errorf("both: %v\n%s", err, out)
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
