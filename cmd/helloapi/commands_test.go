package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"helloapi/internal/apikey"
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
			{[]string{"plans", "show", "gold"}, `there is no plan "gold": ` + "`helloapi plans list`"},
			{[]string{"keys", "create", "joe"}, "--plan"},
			{[]string{"keys", "create", " joe", "--plan", "free"}, "must not have spaces around it"},
			{[]string{"keys", "create", "", "--plan", "free"}, "must not be empty"},
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
		if got := must(t, url, "plans", "show", "free"); got != "name       free\nquota      5 a day\nthrottle   5/s, burst 5\nkeys       1" {
			t.Errorf("plans show:\n%s", got)
		}
		if got := must(t, url, "plans", "show", "paid", "-o", "json"); !strings.Contains(got, `"limit": 5000`) || !strings.Contains(got, `"keys": 1`) {
			t.Errorf("plans show -o json:\n%s", got)
		}
	})
}

func TestKeysOfOne(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		env := map[string]string{"DATABASE_URL": url}
		first := must(t, url, "keys", "create", "bob", "--plan", "free", "--expires", "2099-12-31", "--customer-id", "c1")
		second := must(t, url, "keys", "rotate", "bob", "--grace", "24h")
		if _, err := apikey.Parse(second); err != nil || second == first {
			t.Errorf("rotate prints %q", second)
		}
		var shown keyInfo
		if err := json.Unmarshal([]byte(must(t, url, "keys", "show", "bob", "-o", "json")), &shown); err != nil {
			t.Fatal(err)
		}
		if shown.Value != "" || shown.ValuePrefix != second[:8] || shown.CustomerID != "c1" || shown.ExpiresAt == nil ||
			shown.ExpiresAt.Format(time.DateOnly) != "2099-12-31" || len(shown.Values) != 2 || shown.Values[1].Prefix != first[:8] {
			t.Errorf("show: %+v", shown)
		}
		var rotated keyInfo
		if err := json.Unmarshal([]byte(must(t, url, "keys", "rotate", shown.ID, "-o", "json")), &rotated); err != nil {
			t.Fatal(err)
		}
		if _, err := apikey.Parse(rotated.Value); err != nil || rotated.Name != "bob" || rotated.ID != shown.ID {
			t.Errorf("rotate by id: %+v", rotated)
		}
		must(t, url, "keys", "disable", "bob")
		if table := must(t, url, "keys", "show", "bob"); !strings.Contains(table, "disabled") || strings.Contains(table, rotated.Value) {
			t.Errorf("show:\n%s", table)
		}
		if list := must(t, url, "keys", "list"); !strings.Contains(list, "disabled") || !strings.Contains(list, "2099-12-31") {
			t.Errorf("list:\n%s", list)
		}
		must(t, url, "keys", "enable", "bob")
		must(t, url, "keys", "delete", "bob", "--yes")

		// A value of one's own comes from a file, and is not printed.
		const own = "given-value-0123456789"
		var out, errOut bytes.Buffer
		err := run(t.Context(), []string{"keys", "create", "own", "--plan", "free", "--value-file", "-"},
			func(k string) string { return env[k] }, strings.NewReader(own+"\r\n"), &out, &errOut)
		if err != nil || out.Len() != 0 || strings.Contains(errOut.String(), own) {
			t.Errorf("create with a value: %v, printed %s%s", err, &out, &errOut)
		}
		file := filepath.Join(t.TempDir(), "value")
		for _, test := range []struct{ value, want string }{
			{own, "choose another one"},
			{"too-short-0123456", "20 to 128 characters"},
			{"hk_0123456789012345678901234567890123456", "cut off or mistyped"},
			{"with a space 0123456789", "without spaces"},
			{strings.Repeat("x", 5000), "20 to 128 characters"},
		} {
			if err := os.WriteFile(file, []byte(test.value), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{{"keys", "create", "b", "--plan", "free"}, {"keys", "rotate", "own"}} {
				_, _, err := helloapi(t, env, append(args, "--value-file", file)...)
				if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), test.value) {
					t.Errorf("%v with the value %.40s: %v, want %q", args, test.value, err, test.want)
				}
			}
		}
		for _, command := range []string{"show", "rotate", "enable", "disable", "delete"} {
			if _, _, err := helloapi(t, env, "keys", command, "nobody"); err == nil || !strings.Contains(err.Error(), `there is no key "nobody"`) {
				t.Errorf("keys %s of no key: %v", command, err)
			}
		}
		for _, args := range [][]string{
			{"keys", "create", "b", "--plan", "free", "--expires", "tomorrow"},
			{"keys", "create", "b", "--plan", "free", "--expires", "2001-01-01"},
			{"keys", "create", "b", "--plan", "free", "--expires", "-5h"},
			{"keys", "create", "b", "--plan", "free", "--value-file", "/nowhere"},
			{"keys", "rotate", "own", "--grace", "-1h"},
		} {
			if _, _, err := helloapi(t, env, args...); err == nil {
				t.Errorf("helloapi %q succeeded", args)
			}
		}
		if list := must(t, url, "keys", "list", "-o", "json"); strings.Contains(list, `"b"`) {
			t.Errorf("one that failed made a key:\n%s", list)
		}
		noSecrets(t, url, first, second, rotated.Value, own)
	})
}

// noSecrets fails the test if a key's value is anywhere in the database.
func noSecrets(t testing.TB, url string, values ...string) {
	t.Helper()
	for _, table := range []string{"api_keys", "api_key_values", "plans", "greetings"} {
		rows, err := backendtest.SQL(t, url).Query("SELECT * FROM " + table)
		if err != nil {
			t.Fatal(err)
		}
		columns, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			row := make([]any, len(columns))
			for i := range row {
				row[i] = new(any)
			}
			if err := rows.Scan(row...); err != nil {
				t.Fatal(err)
			}
			for i, v := range row {
				text := fmt.Sprintf("%s", *v.(*any))
				for _, secret := range values {
					if strings.Contains(text, secret) {
						t.Errorf("%s.%s has a key's value", table, columns[i])
					}
				}
			}
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		rows.Close()
	}
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for s, want := range map[string]string{
		"30d":                       "2026-03-31T12:00:00Z",
		"36h":                       "2026-03-03T00:00:00Z",
		"2026-03-02":                "2026-03-02T00:00:00Z",
		"2026-03-02T10:00:00+02:00": "2026-03-02T08:00:00Z",
		"2026-03-01":                "", // has passed
		"0d":                        "",
		"d":                         "",
		"1000000d":                  "",
		"30":                        "",
	} {
		got, err := parseExpiry(s, now)
		if (err == nil) != (want != "") || err == nil && got.UTC().Format(time.RFC3339) != want {
			t.Errorf("%s: %v, %v; want %s", s, got, err, want)
		}
	}
}

func TestGreetings(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		env := map[string]string{"DATABASE_URL": url}
		backendtest.Exec(t, url, `INSERT INTO greetings (name, count) VALUES ('Zoë', 3), ('brooks', 5), ('ann', 1)`)
		if got, want := must(t, url, "greetings", "top", "-n", "2"), "COUNT   NAME\n5       brooks\n3       Zoë"; got != want {
			t.Errorf("greetings top:\n%s\nwant\n%s", got, want)
		}
		if got := must(t, url, "greetings", "top", "-o", "json"); !strings.Contains(got, `"name": "brooks"`) {
			t.Errorf("greetings top -o json:\n%s", got)
		}
		must(t, url, "greetings", "delete", "--yes", "Zoë") // the same, decomposed
		for _, args := range [][]string{{"delete", "Zoë", "--yes"}, {"delete", "a\tb", "--yes"}, {"top", "-n", "0"}} {
			if _, _, err := helloapi(t, env, append([]string{"greetings"}, args...)...); err == nil {
				t.Errorf("greetings %q succeeded", args)
			}
		}
	})
}

func TestUsage(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		env := map[string]string{"DATABASE_URL": url}
		var bob, eve keyInfo
		for name, k := range map[string]*keyInfo{"bob": &bob, "eve": &eve} {
			if err := json.Unmarshal([]byte(must(t, url, "keys", "create", name, "--plan", "free", "-o", "json")), k); err != nil {
				t.Fatal(err)
			}
		}
		today := time.Now().UTC().Format(time.DateOnly)
		const insert = `INSERT INTO usage (key_id, day, writer, charged) VALUES ($1, $2, $3, $4)`
		backendtest.Exec(t, url, insert, bob.ID, today, "w1", 2)
		backendtest.Exec(t, url, insert, bob.ID, today, "w2", 3)
		backendtest.Exec(t, url, insert, bob.ID, "2026-01-31", "w1", 7)
		const insertBilled = `INSERT INTO usage (key_id, day, writer, charged, key_name, customer_id, plan, timezone) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`
		backendtest.Exec(t, url, insertBilled, eve.ID, today, "w1", 1, "eve", "c7", "paid", "UTC")

		if got, want := must(t, url, "usage", "show", "--key", "bob", "--format", "csv"), "key,key_id,date,used,customer_id,plan,timezone\nbob,"+bob.ID+","+today+",5,,free,UTC"; got != want {
			t.Errorf("usage show of one:\n%s\nwant\n%s", got, want)
		}
		var shown []usageInfo
		if err := json.Unmarshal([]byte(must(t, url, "usage", "show", "--since", "2026-01-31", "--until", "2026-01-31", "--format", "json")), &shown); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]usageInfo{{"bob", bob.ID, "2026-01-31", 7, "", "free", "UTC"}}, shown); diff != "" {
			t.Errorf("usage show of one day (-want +got):\n%s", diff)
		}
		// What a key used outlives it.
		must(t, url, "keys", "delete", "eve", "--yes")
		for _, args := range [][]string{{}, {"--key", "eve"}, {"--key", eve.ID}} {
			if got := must(t, url, append([]string{"usage", "show", "--format", "csv"}, args...)...); !strings.Contains(got, "eve,"+eve.ID+","+today+",1,c7,paid,UTC") {
				t.Errorf("usage show %v lacks the deleted key:\n%s", args, got)
			}
		}

		_, stderr, err := helloapi(t, env, "usage", "grant", "bob", "3")
		if err != nil || !strings.Contains(stderr, `Key "bob" may use 3 more until `+time.Now().UTC().AddDate(0, 0, 1).Format(time.DateOnly)) {
			t.Errorf("usage grant: %v, %s", err, stderr)
		}
		backendtest.Exec(t, url, `INSERT INTO plans (name) VALUES ('none')`)
		must(t, url, "keys", "create", "joe", "--plan", "none")
		for _, test := range []struct {
			args []string
			want string
		}{
			{[]string{"show", "--key", "nobody"}, `there is no key "nobody"`},
			{[]string{"show", "--since", "yesterday"}, "must be a date"},
			{[]string{"grant", "nobody", "3"}, `there is no key "nobody"`},
			{[]string{"grant", "bob", "0"}, "must be 1 to"},
			{[]string{"grant", "joe", "3"}, "has no quota"},
		} {
			if _, _, err := helloapi(t, env, append([]string{"usage"}, test.args...)...); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("usage %q: %v, want %q", test.args, err, test.want)
			}
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
			if out := must(t, url, "migrate", "-o", "json"); !strings.Contains(out, `"applied": []`) {
				t.Errorf("migrate -o json: %s", out)
			}
			if out := must(t, url, "migrate", "status", "-o", "json"); !strings.Contains(out, `"needed": `) {
				t.Errorf("migrate status -o json: %s", out)
			}
			must(t, url, "migrate", "status")
		})
	}
	// A program that is started before the migration waits for it.
	url := backendtest.EmptyPostgres(t)
	env := map[string]string{"DATABASE_URL": url, "HELLOAPI_WAIT": "1m"}
	waited := make(chan error)
	go func() {
		_, stderr, err := helloapi(t, env, "migrate", "status")
		if err == nil && strings.Count(stderr, "waiting: schema version 0") != 1 {
			err = fmt.Errorf("it did not say once that it waits: %s", stderr)
		}
		waited <- err
	}()
	select {
	case err := <-waited:
		t.Fatalf("migrate status --wait did not wait: %v", err)
	case <-time.After(time.Second):
	}
	must(t, url, "migrate")
	if err := <-waited; err != nil {
		t.Error(err)
	}
	env = map[string]string{"DATABASE_URL": "postgres://127.0.0.1:1/none"}
	if _, _, err := helloapi(t, env, "migrate", "--wait", "1ms"); err == nil || !strings.Contains(err.Error(), "can't be reached") {
		t.Errorf("migrate --wait where there is no database: %v", err)
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
	// An address that names no host, as in a container, is this machine's too.
	_, port, _ := net.SplitHostPort(p.admin)
	if out, _, err := helloapi(t, map[string]string{"ADMIN_ADDR": ":" + port}, "healthcheck"); err != nil || out != "ready\n" {
		t.Errorf("healthcheck of :PORT: %q, %v", out, err)
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
	for _, args := range [][]string{{}, {"help"}} {
		if bare, stderr, err := helloapi(t, nil, args...); err != nil || bare == "" || !strings.Contains(bare, "Usage: helloapi <command>") || stderr != "" {
			t.Errorf("%q: %v, %s%s", args, err, bare, stderr)
		}
	}
	if help, _, err := helloapi(t, nil, "help", "serve"); err != nil || help != out {
		t.Errorf("help serve: %v, %s", err, help)
	}
	for _, test := range []struct {
		args []string
		hint string
	}{
		{[]string{"nope"}, "`helloapi --help`"},
		{[]string{"help", "nope"}, "`helloapi --help`"},
		{[]string{"--nope"}, "`helloapi --help`"},
		{[]string{"keys"}, "`helloapi keys --help`"},
		{[]string{"keys", "create"}, "`helloapi keys create --help`"},
		{[]string{"keys", "create", "brooks", "--nope"}, "`helloapi keys create --help`"},
		{[]string{"serve", "--max-in-flight=0"}, "`helloapi serve --help`"},
	} {
		if _, _, err := helloapi(t, nil, test.args...); err == nil || !strings.Contains(err.Error(), test.hint) {
			t.Errorf("%q: %v, want a hint at %s", test.args, err, test.hint)
		}
	}
	if _, _, err := helloapi(t, map[string]string{"MAX_IN_FLIGHT": "many"}, "serve"); err == nil || !strings.Contains(err.Error(), "`helloapi serve --help`") {
		t.Errorf("a wrong setting in the environment: %v", err)
	}
	short, _, err := helloapi(t, nil, "--version")
	if long, _, err2 := helloapi(t, nil, "version"); err != nil || err2 != nil || short != long {
		t.Errorf("--version: %v %v, %s", err, err2, short)
	}
	if out, _, err = helloapi(t, nil, "version"); err != nil || !strings.HasPrefix(out, "helloapi ") {
		t.Errorf("version: %v, %s", err, out)
	}
}

// Hints name commands as a person calls them there.
func TestHintsNameCommand(t *testing.T) {
	t.Parallel()
	env := map[string]string{"HELLOAPI_COMMAND": "docker compose run --rm helloapi", "DATABASE_URL": "sqlite:" + t.TempDir() + "/none.db"}
	for want, args := range map[string][]string{
		"`docker compose run --rm helloapi keys create --help` shows": {"keys", "create", "bob"},
		"`docker compose run --rm helloapi --help` shows":             {"serv"},
		"run `docker compose run --rm helloapi migrate`":              {"keys", "list"},
	} {
		if _, _, err := helloapi(t, env, args...); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "`helloapi ") {
			t.Errorf("helloapi %s: %v, want %s", strings.Join(args, " "), err, want)
		}
	}
}

// All that is wrong with the settings is said at once, and none of it quotes
// what may be secret.
func TestSettingsErrors(t *testing.T) {
	t.Parallel()
	_, _, err := helloapi(t, map[string]string{
		"ADDR": "here", "ADMIN_ADDR": "there", "MAX_IN_FLIGHT": "many", "REQUEST_TIMEOUT": "5", "DRAIN_TIMEOUT": "0s",
		"DRAIN_DELAY": "-1s", "LOG_LEVEL": "loud", "CORS_ALLOWED_ORIGINS": "example.com,*,https://a.b/c", "MIGRATE": "perhaps",
		"TLS_DOMAINS": "a.test, https://b.test:443, c_d.test", "DATABASE_URL": "postgres://u:pa@secret,word@h/db", "REDIS_URL": "redis://:pa@secret@h",
		"TRUSTED_PROXIES": "10.0.0.1/8,balancer,192.0.2.7",
	}, "serve")
	if err == nil {
		t.Fatal("served")
	}
	for _, want := range []string{
		"ADDR", "ADMIN_ADDR", "MAX_IN_FLIGHT", "REQUEST_TIMEOUT", "DRAIN_TIMEOUT", "DRAIN_DELAY", "LOG_LEVEL",
		`CORS_ALLOWED_ORIGINS: "example.com"`, `CORS_ALLOWED_ORIGINS: "https://a.b/c"`, "MIGRATE",
		`TLS_DOMAINS: "https://b.test:443"`, `TLS_DOMAINS: "c_d.test"`, "DATABASE_URL must be like", "REDIS_URL must be like", "@ as %40",
		`TRUSTED_PROXIES: "10.0.0.1/8"`, `TRUSTED_PROXIES: "balancer"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not reported in:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("a part of a password is in:\n%v", err)
	}
	// A flag goes before the environment.
	if _, _, err := helloapi(t, map[string]string{"ADDR": "here"}, "serve", "--addr", "nowhere"); err == nil || !strings.Contains(err.Error(), `"nowhere"`) {
		t.Errorf("with a flag and its twin: %v", err)
	}
}

// White space at the ends of a setting, and of an entry of one that is a list,
// is none of it: files of secrets end in a newline.
func TestSettingsWithWhiteSpace(t *testing.T) {
	t.Parallel()
	settings := map[string]string{
		"addr": ":1", "admin-addr": "127.0.0.1:2", "database-url": "postgres://u:p@h/db", "redis-url": "redis://:p@h", "meter-on-error": "deny",
		"migrate": "true", "max-in-flight": "7", "request-timeout": "3s", "log-level": "debug",
		"cors-allowed-origins": "https://a.b\n , https://bücher.example:443,",
		"tls-domains":          "a.test,  B.test", "acme-challenges": "http-01 ,tls-alpn-01", "cert-encryption-key": aKey,
		"trusted-proxies": "10.0.0.0/8\n , fd00::1",
	}
	parse := func(space string, asFlag bool) (c commands) {
		t.Helper()
		env, args := map[string]string{}, []string{"serve"}
		for name, value := range settings {
			// kong reads what is no text itself.
			if asFlag && !slices.Contains([]string{"migrate", "max-in-flight", "request-timeout"}, name) {
				args = append(args, "--"+name+"="+space+value+space)
			} else {
				env[strings.ToUpper(strings.ReplaceAll(name, "-", "_"))] = space + value + space
			}
		}
		var invalid []error
		parser, err := newParser(&c, kong.Resolvers(fromEnvironment(func(k string) string { return env[k] }, &invalid)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parser.Parse(args); err != nil || invalid != nil {
			t.Errorf("with %q at the ends: %v %v", space, err, invalid)
		}
		return c
	}
	want := parse("", false)
	if got := want.Serve.CORSAllowedOrigins; !slices.Equal(got, []string{"https://a.b", "https://xn--bcher-kva.example"}) {
		t.Errorf("the origins are %q", got)
	}
	if got := want.Serve.TLSDomains; !slices.Equal(got, []string{"a.test", "b.test"}) {
		t.Errorf("the domains are %q", got)
	}
	for _, space := range []string{" ", "\n", "\r\n\t "} {
		for _, asFlag := range []bool{false, true} {
			if got := parse(space, asFlag); !reflect.DeepEqual(got, want) {
				t.Errorf("with %q at the ends (flags: %v):\n%+v\n%+v", space, asFlag, got.Serve, want.Serve)
			}
		}
	}
	// An argument is taken as it is: a name may begin with a space.
	var c commands
	parser, err := newParser(&c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse([]string{"greetings", "delete", " a "}); err != nil || c.Greetings.Delete.Name != " a " {
		t.Errorf("%v, %q", err, c.Greetings.Delete.Name)
	}
}

// A list of origins that has none would allow any.
func TestNoOrigin(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"--cors-allowed-origins=", "--cors-allowed-origins=,", "--tls-domains=,"} {
		if _, _, err := helloapi(t, map[string]string{"ADDR": "wrong"}, "serve", flag); err == nil || strings.Count(err.Error(), "\n") < 2 {
			t.Errorf("%s: %v", flag, err)
		}
	}
}

// The README's table of settings is that of the flags.
func TestREADMESettings(t *testing.T) {
	t.Parallel()
	parser, err := newParser(&commands{})
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

// A value that can't be printed is lost: what to do is said.
func TestValueLost(t *testing.T) {
	t.Parallel()
	url := backendtest.SQLite(t)
	backendtest.Migrate(t, url)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	r, closed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer closed.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, stdout := range map[string]*os.File{"full": full, "closed": closed} {
		for i, args := range [][]string{
			{"keys", "create", "it's " + name, "--plan", "free"},
			{"keys", "rotate", "it's " + name},
			{"keys", "rotate", "it's " + name, "-o", "json"},
		} {
			cmd := exec.Command(self, args...)
			cmd.Env = []string{asProgram + "=1", "DATABASE_URL=" + url}
			var stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = stdout, &stderr
			err := cmd.Run()
			if want := "`helloapi keys rotate 'it'\\''s " + name + "'`"; err == nil || !strings.Contains(stderr.String(), want) {
				t.Errorf("%s output, %d: %v, want %s in\n%s", name, i, err, want, &stderr)
			}
		}
	}
}

// Any user may serve, also one without a name, in group 0, as OpenShift runs
// images; where it may not write, one line says so.
func TestAnyUser(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "helloapi")
	if err := errors.Join(
		os.Chmod(filepath.Dir(dir), 0o755),
		os.WriteFile(program, binary, 0o755),
		os.Mkdir(filepath.Join(dir, "group"), 0o770), os.Chmod(filepath.Join(dir, "group"), 0o770),
		os.Mkdir(filepath.Join(dir, "others"), 0o555),
	); err != nil {
		t.Fatal(err)
	}
	user := os.Geteuid()
	run := func(args ...string) (string, error) {
		cmd := exec.Command(program, args...)
		cmd.Dir = dir
		cmd.Env = []string{asProgram + "=1", "ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0"}
		if os.Geteuid() == 0 {
			user = 12345
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 0, NoSetGroups: true}}
		}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, args := range [][]string{
		{"migrate", "--database-url=sqlite:group/data/helloapi.db"},
		{"keys", "list", "--database-url=sqlite:group/data/helloapi.db"},
	} {
		if out, err := run(args...); err != nil {
			t.Errorf("%q: %v\n%s", args, err, out)
		}
	}
	for _, path := range []string{"others/helloapi.db", "others/data/helloapi.db"} {
		for _, command := range []string{"serve", "migrate"} {
			out, err := run(command, "--database-url=sqlite:"+path)
			if want := fmt.Sprintf("let user %d (group", user); err == nil || !strings.Contains(out, want) || strings.Count(out, "\n") != 1 {
				t.Errorf("%s in %s: %v, want one line with %q:\n%s", command, path, err, want, out)
			}
		}
	}
}
