package main

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A line is what the bill has of a key on a day or in a month.
type billLine struct{ key, date, customer, plan, zone string }

// readBill returns the lines of a bill in CSV, by all but what was used.
func readBill(t testing.TB, text string) map[billLine]int {
	t.Helper()
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	lines := map[billLine]int{}
	for _, r := range rows[1:] { // key, key_id, date, used, customer_id, plan, timezone
		used, err := strconv.Atoi(r[3])
		line := billLine{r[0], r[2], r[4], r[5], r[6]}
		if _, twice := lines[line]; err != nil || twice {
			t.Errorf("the line %q: %v, a second time: %v", r, err, twice)
		}
		lines[line] = used
	}
	return lines
}

// A month in the life of five customers: created, moved between plans, granted,
// refused, rotated, deleted, billed. The bill accounts for every request that
// was served, and nothing else, to whom the key belonged at that moment.
func TestMonth(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		near := midday()
		_, ahead := time.Now().In(near).Zone()
		hours := ahead/3600 + 3 // in the afternoon there, or in the morning
		if ahead > 0 {
			hours -= 6
		}
		far := fmt.Sprintf("Etc/GMT%+d", -hours)
		zones := map[string]string{"small": near.String(), "big": far, "huge": near.String()}

		var offset time.Duration
		command := func(args ...string) (string, string) {
			t.Helper()
			cmd := exec.Command(self, args...)
			cmd.Env = []string{asProgram + "=1", clockOffset + "=" + offset.String(), "DATABASE_URL=" + url}
			var out, errOut bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errOut
			if err := cmd.Run(); err != nil {
				t.Fatalf("helloapi %q: %v, %s", args, err, &errOut)
			}
			return strings.TrimSpace(out.String()), errOut.String()
		}
		command("plans", "create", "small", "--limit", "5", "--timezone", zones["small"])
		command("plans", "create", "big", "--limit", "40", "--period", "MONTH", "--timezone", zones["big"])
		command("plans", "create", "huge", "--limit", "1000", "--period", "WEEK", "--timezone", zones["huge"])
		values, plans, customers := map[string]string{}, map[string]string{}, map[string]string{}
		create := func(name, plan, customer string) {
			values[name], _ = command("keys", "create", name, "--plan", plan, "--customer-id", customer)
			plans[name], customers[name] = plan, customer
		}
		create("ann", "small", "c-1")
		create("bob", "small", "c-2")
		create("cid", "huge", "c-3")
		create("dan", "big", "c-4")
		create("eve", "huge", "c-5")

		var p *process
		want := map[billLine]int{} // what was served
		// ask sends requests of which so many are to be served, and the rest
		// refused with a status.
		ask := func(name string, n, served, otherwise int) {
			t.Helper()
			for range n {
				a := get(t, "http://"+p.addr+"/hello?name=x", values[name])
				switch {
				case a.status == http.StatusOK && served > 0:
					served--
					zone, err := time.LoadLocation(zones[plans[name]])
					if err != nil {
						t.Fatal(err)
					}
					day := time.Now().Add(offset).In(zone).Format(time.DateOnly)
					want[billLine{name, day, customers[name], plans[name], zone.String()}]++
				case served > 0 || a.status != otherwise:
					t.Errorf("%s at %v: %d %s, with %d to be served and then %d", name, offset, a.status, a.body, served, otherwise)
				}
			}
			if a := get(t, "http://"+p.addr+"/hello?name=%zz", values[name]); a.status == http.StatusOK {
				t.Errorf("a bad request is answered %d", a.status)
			}
		}
		// until waits for a change to be effective.
		until := func(what, name string, cond func(answer) bool) {
			t.Helper()
			waitFor(t, what, func() bool { return cond(get(t, "http://"+p.addr+"/hello?name=%zz", values[name])) })
		}
		policy := func(quota string) func(answer) bool {
			return func(a answer) bool { return strings.Contains(a.header.Get("RateLimit-Policy"), "q="+quota+";") }
		}
		status := func(code int) func(answer) bool { return func(a answer) bool { return a.status == code } }

		for _, day := range []struct {
			ago int
			do  func()
		}{
			{31, func() {
				ask("ann", 7, 5, http.StatusTooManyRequests)
				ask("bob", 3, 3, 0)
				ask("cid", 4, 4, 0)
				ask("dan", 20, 20, 0)
				ask("eve", 2, 2, 0)
			}},
			{20, func() {
				ask("ann", 2, 2, 0)
				command("keys", "update", "ann", "--plan", "big") // in the middle of a day
				plans["ann"] = "big"
				until("another plan", "ann", policy("40"))
				ask("ann", 9, 9, 0)
				ask("bob", 6, 5, http.StatusTooManyRequests)
				command("usage", "grant", "bob", "3", "--note", "a bad day")
				until("a grant", "bob", policy("8"))
				ask("bob", 4, 3, http.StatusTooManyRequests)
				command("keys", "update", "eve", "--customer-id", "c-55")
				customers["eve"] = "c-55"
				command("keys", "disable", "eve")
				until("a disabled key", "eve", status(http.StatusForbidden))
				ask("eve", 3, 0, http.StatusForbidden)
			}},
			{10, func() {
				old := values["cid"]
				values["cid"], _ = command("keys", "rotate", "cid", "--yes")
				until("a new value", "cid", status(http.StatusBadRequest))
				ask("cid", 6, 6, 0)
				if a := get(t, "http://"+p.addr+"/hello?name=x", old); a.status != http.StatusForbidden {
					t.Errorf("an old value is answered %d", a.status)
				}
				ask("dan", 4, 4, 0)
				command("keys", "enable", "eve")
				until("an enabled key", "eve", status(http.StatusBadRequest))
				ask("eve", 5, 5, 0)
				command("keys", "update", "ann", "--plan", "small")
				plans["ann"] = "small"
				until("the first plan", "ann", policy("5"))
				ask("ann", 1, 1, 0)
			}},
			{0, func() {
				if _, said := command("keys", "delete", "dan", "--yes"); !strings.Contains(said, "Not yet billed: ") {
					t.Errorf("keys delete: %s", said)
				}
				until("a deleted key", "dan", status(http.StatusForbidden))
				ask("dan", 2, 0, http.StatusForbidden)
				create("dan", "huge", "c-44") // another key, of another customer
				ask("dan", 3, 3, 0)
				ask("bob", 6, 5, http.StatusTooManyRequests)
			}},
		} {
			offset = -time.Duration(day.ago) * 24 * time.Hour
			p = start(t, t.TempDir(), "DATABASE_URL="+url, clockOffset+"="+offset.String())
			day.do()
			if err := p.stop(t); err != nil {
				t.Fatal(err)
			}
		}

		bill, _ := command("usage", "show", "--since", time.Now().AddDate(0, 0, -40).Format(time.DateOnly), "--format", "csv")
		if diff := cmp.Diff(want, readBill(t, bill), cmp.AllowUnexported(billLine{})); diff != "" {
			t.Errorf("the bill by day (-served +billed):\n%s", diff)
		}
		byMonth := map[billLine]int{}
		total := 0
		for line, n := range want {
			line.date = line.date[:len("2006-01")]
			byMonth[line] += n
			total += n
		}
		bill, _ = command("usage", "show", "--by", "month", "--format", "csv")
		if diff := cmp.Diff(byMonth, readBill(t, bill), cmp.AllowUnexported(billLine{})); diff != "" {
			t.Errorf("the bill by month (-served +billed):\n%s", diff)
		}
		if counted, _ := command("greetings", "top", "-n", "1"); !strings.HasPrefix(strings.Split(counted, "\n")[1], fmt.Sprint(total)) {
			t.Errorf("%d requests were served, and these greetings counted:\n%s", total, counted)
		}
	})
}
