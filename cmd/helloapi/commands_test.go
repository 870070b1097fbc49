package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"helloapi/internal/apikey"
	"helloapi/internal/backend"
	"helloapi/internal/backendtest"
)

// onBoth runs a test on a migrated database of each kind.
func onBoth(t *testing.T, test func(t *testing.T, url string)) {
	for name, fresh := range map[string]func(testing.TB) string{
		"Postgres": backendtest.Postgres,
		"SQLite": func(t testing.TB) string {
			url := backendtest.SQLite(t)
			backendtest.Migrate(t, url)
			return url
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, fresh(t))
		})
	}
}

func TestKeysAndPlans(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		env := map[string]string{"DATABASE_URL": url}
		stdout, stderr, err := helloapi(t, env, "keys", "create", "bob", "--plan", "free", "--description", "for Bob")
		if err != nil {
			t.Fatal(err)
		}
		value := strings.TrimSuffix(stdout, "\n") // and nothing else
		if _, err := apikey.Parse(value); err != nil {
			t.Errorf("standard output is not a key's value alone: %v", err)
		}
		if strings.Contains(stderr, value) || !strings.Contains(stderr, "shown this once") {
			t.Errorf("standard error: %s", stderr)
		}

		var made keyInfo
		if err := json.Unmarshal([]byte(must(t, url, "keys", "create", "eve", "--plan", "paid", "--customer-id", "c1", "-o", "json")), &made); err != nil {
			t.Fatal(err)
		}
		if _, err := apikey.Parse(made.Value); err != nil || made.Name != "eve" || made.Plan != "paid" || made.Status != "ok" || made.CustomerID != "c1" {
			t.Errorf("created %+v", made)
		}

		var listed []keyInfo
		out := must(t, url, "keys", "list", "-o", "json")
		if err := json.Unmarshal([]byte(out), &listed); err != nil {
			t.Fatal(err)
		}
		if len(listed) != 2 || listed[0].Name != "bob" || listed[0].ValuePrefix != value[:8] || listed[1].CustomerID != "c1" {
			t.Errorf("listed %+v", listed)
		}
		table := must(t, url, "keys", "list")
		if strings.Contains(out+table, value) {
			t.Error("a list has the key's value")
		}
		if want := []string{"bob", value[:8] + "…", "free", "ok"}; !cmp.Equal(want, strings.Fields(strings.Split(table, "\n")[1])[:4]) {
			t.Errorf("listed\n%s\nwant %v", table, want)
		}

		for _, test := range []struct {
			args []string
			want string
		}{
			{[]string{"keys", "create", "bob", "--plan", "free"}, `there is a key "bob" already`},
			{[]string{"keys", "create", "joe", "--plan", "gold"}, `there is no plan "gold": ` + "`helloapi plans list`"},
			{[]string{"keys", "create", "joe"}, "--plan"},
			{[]string{"keys", "create", " joe", "--plan", "free"}, "without spaces around it"},
			{[]string{"keys", "create", "", "--plan", "free"}, "needs a name"},
			{[]string{"keys", "list", "-o", "xml"}, "must be one of"},
			{[]string{"keys"}, "--help"},
			{[]string{"greet"}, "--help"},
		} {
			if _, _, err := helloapi(t, env, test.args...); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("helloapi %q: %v, want %q", test.args, err, test.want)
			}
		}

		const plans = "NAME   QUOTA        THROTTLE\nfree   5 a day      5/s, burst 5\npaid   5000 a day   100/s, burst 200"
		if got := must(t, url, "plans", "list"); got != plans {
			t.Errorf("plans list:\n%s", got)
		}
		if got := must(t, url, "plans", "list", "-o", "json"); !strings.Contains(got, `"rateLimit": 5`) {
			t.Errorf("plans list -o json:\n%s", got)
		}
	})
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]string{"Postgres": backendtest.EmptyPostgres(t), "SQLite": backendtest.SQLite(t)} {
		t.Run(name, func(t *testing.T) {
			env := map[string]string{"DATABASE_URL": url}
			if _, _, err := helloapi(t, env, "migrate", "status"); err == nil || !strings.Contains(err.Error(), "helloapi migrate") {
				t.Errorf("status of an empty database: %v", err)
			}
			if _, _, err := helloapi(t, env, "keys", "list"); err == nil || !strings.Contains(err.Error(), "helloapi migrate") {
				t.Errorf("keys of an empty database: %v", err)
			}
			if out := must(t, url, "migrate"); !strings.HasPrefix(out, "applied 00001_keys_plans_greetings.sql") {
				t.Errorf("migrate: %s", out)
			}
			if out := must(t, url, "migrate", "up"); out != "nothing to do: the schema is up to date" {
				t.Errorf("migrate again: %s", out)
			}
			must(t, url, "migrate", "status")
		})
	}
	// Only serve and migrate make a file.
	path := filepath.Join(t.TempDir(), "none.db")
	if _, _, err := helloapi(t, nil, "plans", "list", "--database-url", "sqlite:"+path); err == nil || !strings.Contains(err.Error(), "there is no database at "+path) {
		t.Errorf("plans of a file that is not there: %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the file was made")
	}
}

func TestHealthcheck(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	env := map[string]string{"ADMIN_ADDR": p.admin}
	if out, _, err := helloapi(t, env, "healthcheck"); err != nil || out != "ready\n" {
		t.Errorf("healthcheck: %q, %v", out, err)
	}
	if err := p.stop(t); err != nil {
		t.Error(err)
	}
	if _, _, err := helloapi(t, env, "healthcheck"); err == nil || !strings.Contains(err.Error(), "not serving") {
		t.Errorf("healthcheck of a stopped process: %v", err)
	}
}

func TestHelpAndVersion(t *testing.T) {
	t.Parallel()
	out, stderr, err := helloapi(t, nil, "--help")
	if err != nil || !strings.Contains(out, "Usage: helloapi <command>") || stderr != "" {
		t.Errorf("--help: %v, %s%s", err, out, stderr)
	}
	out, _, err = helloapi(t, nil, "serve", "--help")
	if err != nil || !strings.Contains(out, "($DATABASE_URL)") {
		t.Errorf("serve --help: %v, %s", err, out)
	}
	if out, _, err = helloapi(t, nil, "version"); err != nil || !strings.HasPrefix(out, "helloapi ") {
		t.Errorf("version: %v, %s", err, out)
	}
}

// All that is wrong with the settings is said at once, and none of it quotes
// what may be secret.
func TestSettingsErrors(t *testing.T) {
	t.Parallel()
	_, _, err := helloapi(t, map[string]string{
		"ADDR": "here", "ADMIN_ADDR": "there", "MAX_IN_FLIGHT": "many", "REQUEST_TIMEOUT": "5", "DRAIN_TIMEOUT": "0s",
		"DRAIN_DELAY": "-1s", "LOG_LEVEL": "loud", "CORS_ALLOWED_ORIGINS": "example.com,*,https://a.b/c", "MIGRATE": "perhaps",
	}, "serve")
	if err == nil {
		t.Fatal("served")
	}
	for _, want := range []string{
		"ADDR", "ADMIN_ADDR", "MAX_IN_FLIGHT", "REQUEST_TIMEOUT", "DRAIN_TIMEOUT", "DRAIN_DELAY", "LOG_LEVEL",
		`CORS_ALLOWED_ORIGINS: "example.com"`, `CORS_ALLOWED_ORIGINS: "https://a.b/c"`, "MIGRATE",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not reported in:\n%v", want, err)
		}
	}
	// A flag goes before the environment.
	if _, _, err := helloapi(t, map[string]string{"ADDR": "here"}, "serve", "--addr", "nowhere"); err == nil || !strings.Contains(err.Error(), `"nowhere"`) {
		t.Errorf("with a flag and its twin: %v", err)
	}
}

// The README's table of settings is that of the flags.
func TestREADMESettings(t *testing.T) {
	t.Parallel()
	parser, err := kong.New(&commands{}, kong.Vars{"database": backend.DefaultURL})
	if err != nil {
		t.Fatal(err)
	}
	want := "| Variable | Default | |\n|---|---|---|\n"
	for _, cmd := range parser.Model.Children {
		if cmd.Name != "serve" {
			continue
		}
		for _, flag := range cmd.Flags {
			def := ""
			if flag.Default != "" {
				def = "`" + flag.Default + "`"
			}
			want += fmt.Sprintf("| `%s` | %s | %s |\n", variable(flag), def, strings.ReplaceAll(flag.Help, "|", "\\|"))
		}
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), want) {
		t.Errorf("README.md lacks this table:\n%s", want)
	}
}
