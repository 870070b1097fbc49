package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"helloapi/internal/apikey"
	"helloapi/internal/backendtest"
)

// keyOf returns a key as `keys show -o json` has it.
func keyOf(t testing.TB, url, ref string) (k keyInfo) {
	t.Helper()
	if err := json.Unmarshal([]byte(must(t, url, "keys", "show", ref, "-o", "json")), &k); err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeysUpdate(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		env := map[string]string{"DATABASE_URL": url}
		must(t, url, "keys", "create", "brooks", "--plan", "free", "--customer-id", "1", "--description", "d", "--expires", "2099-12-31")
		for _, test := range []struct {
			args             []string
			said             string
			plan, id, d, end string
		}{
			{[]string{"--plan", "paid"}, "plan free -> paid", "paid", "1", "d", "2099-12-31"},
			{[]string{"--customer-id", "2"}, "customer id 1 -> 2", "paid", "2", "d", "2099-12-31"},
			{[]string{"--description", ""}, "description d -> none", "paid", "2", "", "2099-12-31"},
			{[]string{"--expires", "2099-12-30"}, "expires 2099-12-31T00:00:00Z -> 2099-12-30T00:00:00Z", "paid", "2", "", "2099-12-30"},
			{[]string{"--expires", "never", "--plan", "free"}, "plan paid -> free; expires 2099-12-30T00:00:00Z -> never", "free", "2", "", "never"},
			{[]string{"--plan", "free"}, "Nothing to do", "free", "2", "", "never"},
		} {
			_, stderr, err := helloapi(t, env, append([]string{"keys", "update", "brooks"}, test.args...)...)
			if err != nil || !strings.Contains(stderr, test.said) {
				t.Errorf("update %q: %v, %s; want %q", test.args, err, stderr, test.said)
			}
			if k := keyOf(t, url, "brooks"); k.Plan != test.plan || k.CustomerID != test.id || k.Description != test.d || shortDate(k.ExpiresAt) != test.end {
				t.Errorf("after update %q: %+v", test.args, k)
			}
		}
		for _, test := range []struct{ args, want string }{
			{"brooks", "say what to change"},
			{"brooks --plan gold", `there is no plan "gold"`},
			{"nobody --plan free", `there is no key "nobody"`},
			{"brooks --expires 2001-01-01", "has passed already"},
		} {
			if _, _, err := helloapi(t, env, append([]string{"keys", "update"}, strings.Fields(test.args)...)...); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("keys update %s: %v, want %q", test.args, err, test.want)
			}
		}
		// What a file will undo is said.
		backendtest.Exec(t, url, `UPDATE api_keys SET made_by = 'name:shop'`)
		if _, stderr, err := helloapi(t, env, "keys", "update", "brooks", "--plan", "paid"); err != nil || !strings.Contains(stderr, "is from the file shop") {
			t.Errorf("update of a file's key: %v, %s", err, stderr)
		}
	})
}

func TestKeysWhich(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		which := func(value string) (string, error) {
			var out, errOut bytes.Buffer
			err := run(t.Context(), []string{"keys", "which"}, func(k string) string { return map[string]string{"DATABASE_URL": url}[k] },
				strings.NewReader(value+"\n"), &out, &errOut)
			return out.String(), err
		}
		first := must(t, url, "keys", "create", "brooks", "--plan", "free", "--customer-id", "4711")
		k := keyOf(t, url, "brooks")
		check := func(value, want string) {
			t.Helper()
			out, err := which(value)
			if err != nil || !strings.Contains(out, "brooks") || !strings.Contains(out, "4711") || !strings.Contains(out, "may call      "+want) || strings.Contains(out, value) {
				t.Errorf("keys which: %v\n%s\nwant may call: %s", err, out, want)
			}
		}
		check(first, "yes")
		must(t, url, "keys", "disable", "brooks")
		check(first, "no: disabled")
		must(t, url, "keys", "enable", "brooks")
		second := must(t, url, "keys", "rotate", "brooks")
		check(first, "no: expired")
		check(second, "yes")
		backendtest.Exec(t, url, `INSERT INTO usage (key_id, day, writer, charged) VALUES ($1, $2, 'w1', 5)`, k.ID, time.Now().UTC().Format(time.DateOnly))
		check(second, "no: its quota is used up until ")
		must(t, url, "usage", "grant", "brooks", "1")
		check(second, "yes")
		backendtest.Exec(t, url, `UPDATE api_keys SET plan = NULL`)
		check(second, "no: no plan")
		for value, want := range map[string]string{
			apikey.Generate().Reveal(): "no key has that value",
			second[:40]:                "cut off or mistyped",
			"":                         "20 to 128 characters",
		} {
			if _, err := which(value); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("keys which of a bad value: %v, want %q", err, want)
			}
		}
	})
}

func TestKeysListFilters(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		must(t, url, "keys", "create", "ann", "--plan", "free", "--customer-id", "c1", "--expires", "3d", "--description", "Mobile App")
		must(t, url, "keys", "create", "bob", "--plan", "paid", "--customer-id", "c1")
		must(t, url, "keys", "create", "Zoë", "--plan", "paid", "--customer-id", "c12", "--expires", "10d")
		must(t, url, "keys", "create", "old", "--plan", "free")
		must(t, url, "keys", "disable", "bob")
		past := "now() - interval '1 minute'"
		if strings.HasPrefix(url, "sqlite:") {
			past = "1000 * (unixepoch() - 60)"
		}
		backendtest.Exec(t, url, `UPDATE api_keys SET expires_at = `+past+` WHERE name = 'old'`)
		for args, want := range map[string]string{
			"":                         "Zoë ann bob old",
			"--plan paid":              "Zoë bob",
			"--status ok":              "Zoë ann",
			"--status disabled":        "bob",
			"--status expired":         "old",
			"--status no-plan":         "",
			"--customer-id c1":         "ann bob",
			"--expiring 7d":            "ann",
			"--expiring 300h":          "Zoë ann",
			"--search APP":             "ann",
			"--search zOË":             "Zoë",
			"--search c1 --status ok":  "Zoë ann",
			"--plan paid --search ann": "",
		} {
			var names []string
			var shown []keyInfo
			if err := json.Unmarshal([]byte(must(t, url, append([]string{"keys", "list", "-o", "json"}, strings.Fields(args)...)...)), &shown); err != nil {
				t.Fatal(err)
			}
			for _, k := range shown {
				names = append(names, k.Name)
			}
			slices.Sort(names) // databases sort them in their own ways
			if got := strings.Join(names, " "); got != want {
				t.Errorf("keys list %s: %s, want %s", args, got, want)
			}
		}
		if list := must(t, url, "keys", "list"); !strings.Contains(list, "CUSTOMER") || !strings.Contains(list, "c12") {
			t.Errorf("keys list:\n%s", list)
		}
		for _, args := range []string{"--status good", "--expiring soon", "--expiring -1h"} {
			if _, _, err := helloapi(t, map[string]string{"DATABASE_URL": url}, append([]string{"keys", "list"}, strings.Fields(args)...)...); err == nil {
				t.Errorf("keys list %s succeeded", args)
			}
		}
	})
}

func TestPlansCommands(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		env := map[string]string{"DATABASE_URL": url}
		limits := func(name string) string {
			t.Helper()
			var p planInfo
			if err := json.Unmarshal([]byte(must(t, url, "plans", "show", name, "-o", "json")), &p); err != nil {
				t.Fatal(err)
			}
			return p.Quota.String() + " | " + p.Throttle.String()
		}
		for _, test := range []struct{ args, want string }{
			{"create gold --limit 100 --rate 2.5", "100 a day | 2.5/s, burst 3"},
			{"update gold --period MONTH --offset 27", "100 a month, offset 27 | 2.5/s, burst 3"},
			{"update gold --limit 200", "200 a month, offset 27 | 2.5/s, burst 3"},
			{"update gold --timezone Europe/Berlin", "200 a month, offset 27, Europe/Berlin | 2.5/s, burst 3"},
			{"update gold --burst 9", "200 a month, offset 27, Europe/Berlin | 2.5/s, burst 9"},
			{"update gold --rate 7", "200 a month, offset 27, Europe/Berlin | 7/s, burst 7"},
			{"update gold --period WEEK", "200 a week, Europe/Berlin | 7/s, burst 7"},
			{"update gold --no-throttle", "200 a week, Europe/Berlin | -"},
			{"update gold --no-quota --rate 1", "- | 1/s, burst 1"},
			{"update gold --limit 5", "5 a day | 1/s, burst 1"},
		} {
			must(t, url, append([]string{"plans"}, strings.Fields(test.args)...)...)
			if got := limits("gold"); got != test.want {
				t.Errorf("plans %s: %s, want %s", test.args, got, test.want)
			}
		}
		must(t, url, "plans", "create", "internal")
		must(t, url, "keys", "create", "brooks", "--plan", "gold")
		_, stderr, err := helloapi(t, env, "plans", "update", "gold", "--limit", "6")
		if err != nil || !strings.Contains(stderr, "quota 5 a day -> 6 a day. That holds for the 1 key on it") {
			t.Errorf("plans update: %v, %s", err, stderr)
		}
		for _, test := range []struct{ args, want string }{
			{"create gold", `there is a plan "gold" already`},
			{"create bad --limit 0", "quota limit 0: must be 1 to"},
			{"create bad --limit 1 --period YEAR", "must be DAY, WEEK or MONTH"},
			{"create bad --period DAY", "give its --limit"},
			{"create bad --burst 2", "give its --rate"},
			{"create bad --limit 1 --timezone Mars", "IANA time zone"},
			{"update gold", "say what to change"},
			{"update gold --offset 1", "quota offset 1"},
			{"update gold --no-quota", "1 key is on: quota 6 a day -> none. Nobody can be asked here: give --yes"},
			{"update none --limit 1", `there is no plan "none"`},
			{"delete none", `there is no plan "none"`},
			{"delete gold --yes", `1 key is on plan "gold": move them first`},
		} {
			if _, _, err := helloapi(t, env, append([]string{"plans"}, strings.Fields(test.args)...)...); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("plans %s: %v, want %q", test.args, err, test.want)
			}
		}
		if got := limits("gold"); got != "6 a day | 1/s, burst 1" {
			t.Errorf("one that failed changed the plan to %s", got)
		}
		must(t, url, "keys", "update", "brooks", "--plan", "internal")
		// A plan that a file made says so, and stays that file's.
		backendtest.Exec(t, url, `UPDATE plans SET made_by = 'name:shop' WHERE name = 'gold'`)
		if got := must(t, url, "plans", "list") + must(t, url, "plans", "show", "gold"); strings.Count(got, "shop") != 2 {
			t.Errorf("plans list and show:\n%s", got)
		}
		for _, args := range []string{"update gold --limit 7", "delete gold --yes"} {
			if _, stderr, err := helloapi(t, env, append([]string{"plans"}, strings.Fields(args)...)...); err != nil || !strings.Contains(stderr, `plan "gold" is from the file shop`) {
				t.Errorf("plans %s: %v, %s", args, err, stderr)
			}
		}
		if list := must(t, url, "plans", "list"); strings.Contains(list, "gold") || !strings.Contains(list, "internal") {
			t.Errorf("plans list:\n%s", list)
		}
	})
}

func TestUsageStandings(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		must(t, url, "plans", "create", "none")
		today := time.Now().UTC()
		for name, used := range map[string]int{"ann": 0, "bob": 4, "cid": 5, "dan": 9} {
			p := "free"
			if name == "dan" {
				p = "none"
			}
			must(t, url, "keys", "create", name, "--plan", p)
			id := keyOf(t, url, name).ID
			backendtest.Exec(t, url, `INSERT INTO usage (key_id, day, writer, charged) VALUES ($1, $2, 'w1', $3), ($1, $4, 'w1', 100)`,
				id, today.Format(time.DateOnly), used, today.AddDate(0, 0, -1).Format(time.DateOnly))
		}
		must(t, url, "usage", "grant", "cid", "5", "--note", "sorry")
		rows := func(args ...string) (all []string) {
			for i, line := range strings.Split(must(t, url, append([]string{"usage", "show"}, args...)...), "\n") {
				if f := strings.Fields(line); i > 0 && len(f) > 7 && f[0] != "Refused" {
					all = append(all, strings.Join(append(f[:6], f[len(f)-2:]...), " "))
				}
			}
			return all
		}
		want := []string{
			"ann free 0 5 0 5 .......... 0%",
			"bob free 4 5 0 1 ########.. 80%",
			"cid free 5 5 5 5 #####..... 50%",
			"dan none 9 - - - - today",
		}
		if diff := cmp.Diff(want, rows()); diff != "" {
			t.Errorf("usage show (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(want[2:3], rows("cid")); diff != "" {
			t.Errorf("usage show cid (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{want[1], want[2]}, rows("--near", "50")); diff != "" {
			t.Errorf("usage show --near 50 (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(want[1:2], rows("--near", "80")); diff != "" {
			t.Errorf("usage show --near 80 (-want +got):\n%s", diff)
		}
		k := keyOf(t, url, "bob")
		if u := k.Usage; u == nil || u.Used != 4 || *u.Limit != 5 || *u.Remaining != 1 || u.ResetsAt.Format(time.DateOnly) != today.AddDate(0, 0, 1).Format(time.DateOnly) {
			t.Errorf("keys show has %+v", k.Usage)
		}
		if shown := must(t, url, "keys", "show", "bob"); !strings.Contains(shown, "4 of 5; 1 left") || !strings.Contains(shown, "########.. 80%") {
			t.Errorf("keys show:\n%s", shown)
		}
		backendtest.Exec(t, url, `INSERT INTO refusals (key_id, day, reason, writer, refused) VALUES ($1, $2, 'throttled', 'w1', 3), ($1, $2, 'throttled', 'w2', 1), ($1, $2, 'over quota', 'w1', 2), ($1, $3, 'disabled', 'w1', 7), ('', $2, 'unknown key', 'w1', 9)`,
			k.ID, today.Format(time.DateOnly), today.AddDate(0, 0, -1).Format(time.DateOnly))
		for _, args := range []string{"keys show bob", "usage show bob"} {
			if shown := must(t, url, strings.Fields(args)...); !strings.Contains(shown, "2 over quota, 4 throttled") {
				t.Errorf("%s:\n%s", args, shown)
			}
		}
		wantCSV := fmt.Sprintf("key,key_id,date,reason,refused\n,,%[1]s,unknown key,9\nbob,%[2]s,%[3]s,disabled,7\nbob,%[2]s,%[1]s,over quota,2\nbob,%[2]s,%[1]s,throttled,4",
			today.Format(time.DateOnly), k.ID, today.AddDate(0, 0, -1).Format(time.DateOnly))
		if got := must(t, url, "usage", "show", "--refused", "-o", "csv"); got != wantCSV {
			t.Errorf("usage show --refused:\n%s\nwant:\n%s", got, wantCSV)
		}
		if got := must(t, url, "usage", "show", "bob", "--refused", "--since", today.Format(time.DateOnly)); strings.Contains(got, "disabled") || !strings.Contains(got, "throttled") || strings.Contains(got, "unknown") {
			t.Errorf("usage show bob --refused:\n%s", got)
		}
		if got := must(t, url, "usage", "show", "ann", "--refused"); strings.Contains(got, "throttled") {
			t.Errorf("usage show ann --refused:\n%s", got)
		}

		backendtest.Exec(t, url, `DELETE FROM usage WHERE key_id = $1`, k.ID)
		backendtest.Exec(t, url, `INSERT INTO usage (key_id, day, writer, charged) VALUES ($1, '2026-01-02', 'w1', 3), ($1, '2026-01-05', 'w1', 0)`, k.ID)
		if shown := must(t, url, "keys", "show", "bob"); !strings.Contains(shown, "2026-01-02") {
			t.Errorf("keys show has not when it was used last:\n%s", shown)
		}
		if list := must(t, url, "keys", "list", "--unused", "30d"); strings.Contains(list, "bob") {
			t.Errorf("keys list --unused 30d has a key of today:\n%s", list)
		}
		created := any(time.Now().AddDate(0, 0, -40))
		if strings.HasPrefix(url, "sqlite:") {
			created = time.Now().AddDate(0, 0, -40).UnixMilli()
		}
		backendtest.Exec(t, url, `UPDATE api_keys SET created_at = $1`, created)
		if list := must(t, url, "keys", "list", "--unused", "30d"); !strings.Contains(list, "bob") || strings.Contains(list, "cid") {
			t.Errorf("keys list --unused 30d:\n%s", list)
		}
		list := must(t, url, "usage", "grants", "list")
		if !strings.Contains(list, "sorry") || !strings.Contains(list, today.AddDate(0, 0, 1).Format(time.DateOnly)+"T00:00:00Z") {
			t.Errorf("usage grants list:\n%s", list)
		}
		backendtest.Exec(t, url, `UPDATE grants SET day = '2026-01-01'`)
		if list := must(t, url, "usage", "grants", "list", "cid"); !strings.Contains(list, "over") {
			t.Errorf("usage grants list of an old one:\n%s", list)
		}
		for _, args := range []string{"show --near 80 --by day", "show --near 101", "show --by year", "grants list nobody", "grants revoke 99 --yes", "show nobody", "show nobody --refused", "show --refused --near 5"} {
			if _, _, err := helloapi(t, map[string]string{"DATABASE_URL": url}, append([]string{"usage"}, strings.Fields(args)...)...); err == nil {
				t.Errorf("usage %s succeeded", args)
			}
		}
	})
}
