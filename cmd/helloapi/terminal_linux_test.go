package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"helloapi/internal/backendtest"
)

// terminal opens a terminal of 80 columns: what a person types into, and what a
// program has as its standard input.
func terminal(t testing.TB) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	fd := int(person.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

// onTerminal runs a command for a person who types text, and returns what they
// see and what goes to standard error.
func onTerminal(t testing.TB, url, text string, args ...string) (seen, stderr string, err error) {
	t.Helper()
	person, program := terminal(t)
	out := shownBy(person)
	errOut := new(backendtest.Buffer)
	ended := make(chan error, 1)
	go func() {
		ended <- run(t.Context(), args, func(k string) string { return map[string]string{"DATABASE_URL": url}[k] }, program, program, errOut)
	}()
	if text != "" {
		// A person types when asked: a secret when the terminal does not show it.
		waitFor(t, "a question", func() bool {
			if strings.HasSuffix(errOut.String(), "(it is not shown): ") {
				state, err := unix.IoctlGetTermios(int(person.Fd()), unix.TCGETS)
				return err == nil && state.Lflag&unix.ECHO == 0
			}
			return strings.HasSuffix(errOut.String(), ": ") || strings.HasSuffix(errOut.String(), "ends it.\n") || strings.HasSuffix(errOut.String(), "[y/N] ")
		})
		if _, err := person.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err = <-ended:
	case <-time.After(20 * time.Second):
		t.Fatalf("helloapi %q did not end:\n%s%s", args, out, errOut)
	}
	return allShown(t, out, program), errOut.String(), err
}

// shownBy returns what a terminal shows, as it comes.
func shownBy(person *os.File) *backendtest.Buffer {
	out := new(backendtest.Buffer)
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := person.Read(b)
			if err != nil {
				return
			}
			_, _ = out.Write(b[:n])
		}
	}()
	return out
}

// allShown waits until out has all that the program wrote, and returns it.
func allShown(t testing.TB, out *backendtest.Buffer, program *os.File) string {
	t.Helper()
	fmt.Fprint(program, "\x00") // what was written before has been read then
	waitFor(t, "the output", func() bool { return strings.HasSuffix(out.String(), "\x00") })
	return strings.TrimSuffix(out.String(), "\x00")
}

// A first start shows a person the keys, a line to paste and the page to try
// them on; a later one shows where that is, and how to get a value again.
func TestStartOnTerminal(t *testing.T) {
	t.Parallel()
	url := backendtest.SQLite(t)
	start := func(pages string) (seen, at string) {
		t.Helper()
		person, program := terminal(t)
		out, errOut := shownBy(person), new(backendtest.Buffer)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		ended := make(chan error, 1)
		env := map[string]string{"DATABASE_URL": url, "ADDR": "127.0.0.1:0", "ADMIN_ADDR": "127.0.0.1:0", "PAGES": pages, "HELLOAPI_COMMAND": "bin/helloapi"}
		go func() {
			ended <- run(ctx, []string{"serve"}, func(k string) string { return env[k] }, program, program, errOut)
		}()
		serving := regexp.MustCompile(`msg=serving addr=(\S+)`)
		waitFor(t, "it to serve", func() bool { return serving.MatchString(errOut.String()) })
		stop()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v\n%s", err, errOut)
		}
		return strings.ReplaceAll(allShown(t, out, program), "\r\n", "\n"), "http://" + serving.FindStringSubmatch(errOut.String())[1]
	}
	seen, at := start("")
	keys := keyValue.FindAllString(seen, -1)
	if len(keys) != 3 || keys[0] != keys[2] || !strings.HasSuffix(seen, "\n\nTry it:\n\n  curl -H 'x-api-key: "+keys[0]+"' \\\n    '"+at+"/hello?name=brooks'\n\nOr in a browser:\n\n  "+at+"/\n\n") {
		t.Errorf("the first start at %s shows:\n%s", at, seen)
	}
	for line := range strings.Lines(seen) {
		if n := displayWidth(strings.TrimSpace(line)); n > 78 {
			t.Errorf("a line of %d columns, in a terminal of 80: %s", n, line)
		}
	}
	seen, at = start("on")
	if want := "\nThe API is at " + at + "; open that in a browser to try it\n\n  bin/helloapi keys list "; !strings.HasPrefix(seen, want) {
		t.Errorf("the second start at %s shows:\n%s", at, seen)
	}
	seen, at = start("off")
	if want := "\nThe API is at " + at + "\n\n  bin/helloapi keys list "; !strings.HasPrefix(seen, want) {
		t.Errorf("without pages, the third start at %s shows:\n%s", at, seen)
	}
}

// What removes or replaces something for good asks a person, and takes --yes
// where there is none.
func TestConfirmation(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		env := map[string]string{"DATABASE_URL": url}
		must(t, url, "plans", "create", "gold", "--rate", "5")
		must(t, url, "keys", "create", "brooks", "--plan", "gold", "--customer-id", "4711")
		must(t, url, "keys", "create", "eve", "--plan", "free")
		eve := keyOf(t, url, "eve").ID
		brooks := keyOf(t, url, "brooks").ID
		today := time.Now().UTC().Format(time.DateOnly)
		backendtest.Exec(t, url, `INSERT INTO usage (key_id, day, writer, charged) VALUES ($1, $2, 'w1', 7), ($3, $4, 'w1', 3)`, brooks, today, eve, today)
		backendtest.Exec(t, url, `INSERT INTO greetings (name, count) VALUES ('ann', 1)`)
		must(t, url, "usage", "grant", "eve", "2")
		file := write(t, "plans.yaml", "name: shop\nplans:\n  shop:\n    keys: [{name: kept, value: first-value-0123456789}, gone]\n")
		must(t, url, "apply", "-f", file)
		kept, gone := keyOf(t, url, "kept").ID, keyOf(t, url, "gone").ID
		backendtest.Exec(t, url, `INSERT INTO usage (key_id, day, writer, charged) VALUES ($1, $2, 'w1', 2), ($3, $4, 'w1', 1)`, kept, today, gone, today)
		if err := os.WriteFile(file, []byte("name: shop\nplans:\n  shop:\n    keys: [kept]\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		another := write(t, "another.yaml", "name: shop\nplans:\n  shop:\n    keys: [{name: kept, value: second-value-0123456789}]\n")
		listing := write(t, "listing.csv", "name,key\nkept,third-value-0123456789\n")
		counts := write(t, "counts.csv", "name,count\nann,5\n")
		var grant int
		if err := backendtest.SQL(t, url).QueryRow(`SELECT id FROM grants`).Scan(&grant); err != nil {
			t.Fatal(err)
		}
		exists := func(query string) func() bool {
			return func() bool {
				var n int
				if err := backendtest.SQL(t, url).QueryRow(`SELECT count(*) FROM ` + query).Scan(&n); err != nil {
					t.Fatal(err)
				}
				return n == 1
			}
		}
		for i, test := range []struct {
			args      []string
			question  string
			dryRun    string // what it prints; "": the question
			untouched func() bool
		}{
			{[]string{"apply", "-f", file, "--prune"}, `Remove for good: key gone. These keys had 1 requests`, "- key gone\n0 to add, 0 to change, 1 to remove.", exists(`api_keys WHERE name = 'gone'`)},
			{[]string{"apply", "-f", another}, `Refuse from now on the current values, which had requests in the last 30 days, of: kept.`, "~ key kept: another value", exists(`api_key_values WHERE key_id = '` + kept + `'`)},
			{[]string{"import", "keys", listing}, `in the last 30 days, of: kept.`, "~ key kept: another value", exists(`(SELECT count(*) AS n FROM api_key_values WHERE key_id = '` + kept + `') AS c WHERE n = 2`)},
			{[]string{"import", "greetings", counts, "--replace"}, `the highest is 1, of "ann"`, "would take 1 rows", exists(`greetings WHERE name = 'ann' AND count = 1`)},
			{[]string{"usage", "grants", "revoke", fmt.Sprint(grant)}, `2 requests for key "eve"`, "", exists(`grants`)},
			{[]string{"usage", "grant", "eve", "6"}, `its quota itself is 5 a day`, "", exists(`(SELECT 1) AS one WHERE NOT EXISTS (SELECT * FROM grants)`)},
			{[]string{"keys", "rotate", "brooks"}, `It had 7 requests in the last 30 days`, "", exists(`api_key_values WHERE key_id = '` + brooks + `'`)},
			{[]string{"plans", "update", "gold", "--no-throttle"}, `1 key is on: throttle 5/s, burst 5 -> none`, "", exists(`plans WHERE name = 'gold' AND throttle_rate = 5`)},
			{[]string{"keys", "delete", "brooks"}, `(customer 4711, plan gold)`, "", exists(`api_keys WHERE name = 'brooks'`)},
			{[]string{"keys", "delete", "eve"}, `Not yet billed: 3 requests in ` + today[:7], "", exists(`api_keys WHERE name = 'eve'`)},
			{[]string{"plans", "delete", "gold"}, `throttle none`, "", exists(`plans WHERE name = 'gold'`)},
			{[]string{"greetings", "delete", "ann"}, `"ann" and its count`, "", exists(`greetings WHERE name = 'ann'`)},
			{[]string{"certs", "forget"}, `CAs limit how many`, "", func() bool { return true }},
		} {
			if _, _, err := helloapi(t, env, test.args...); err == nil || !strings.Contains(err.Error(), test.question) || !strings.Contains(err.Error(), "--yes") || !test.untouched() {
				t.Errorf("%q without a person: %v, want %q, the way to do it, and no change", test.args, err, test.question)
			}
			out, errOut, err := helloapi(t, env, append(test.args, "--dry-run")...)
			if want := or(test.dryRun, test.question); err != nil || !strings.Contains(out+errOut, want) || !test.untouched() {
				t.Errorf("%q --dry-run: %v, printed %s%s; want %q and no change", test.args, err, out, errOut, want)
			}
			answer := []string{"n\n", "\n", "\x04"}[i%3] // Ctrl-D
			if _, stderr, err := onTerminal(t, url, answer, test.args...); err == nil || !strings.Contains(stderr, test.question) || !test.untouched() {
				t.Errorf("%q and %q: %v, %s; want no change", test.args, answer, err, stderr)
			}
			if _, stderr, err := onTerminal(t, url, "y\n", test.args...); err != nil || test.args[0] != "certs" && test.untouched() {
				t.Errorf("%q and y: %v, %s; want it to be done", test.args, err, stderr)
			}
		}
		// What cuts nobody off is not asked about.
		must(t, url, "keys", "create", "new", "--plan", "free")
		must(t, url, "keys", "rotate", "new")
		must(t, url, "plans", "update", "free", "--no-quota", "--yes")
	})
}

// A value that is typed is not shown, and the first Ctrl-C ends it.
func TestWhichOnTerminal(t *testing.T) {
	t.Parallel()
	url := backendtest.SQLite(t)
	backendtest.Migrate(t, url)
	value := must(t, url, "keys", "create", "brooks", "--plan", "free")
	seen, stderr, err := onTerminal(t, url, value+"\n", "keys", "which")
	if err != nil || !strings.Contains(seen, "brooks") || !strings.Contains(seen, "may call") || strings.Contains(seen+stderr, value) {
		t.Errorf("keys which: %v, %s%s", err, seen, stderr)
	}
	_, program := terminal(t)
	ctx, interrupt := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	errOut := new(backendtest.Buffer)
	go func() {
		ended <- run(ctx, []string{"keys", "which", "--database-url", url}, func(string) string { return "" }, program, new(bytes.Buffer), errOut)
	}()
	waitFor(t, "a question", func() bool { return errOut.String() != "" })
	interrupt()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "interrupted") {
			t.Errorf("interrupted: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("Ctrl-C does not end it")
	}
	state, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
	if err != nil || state.Lflag&unix.ECHO == 0 {
		t.Errorf("the terminal is left without echo: %v", err)
	}
}

// What reads standard input says so where that is a terminal, and does not show
// a secret. The first Ctrl-C ends it.
func TestReadsFromTerminal(t *testing.T) {
	t.Parallel()
	url := backendtest.SQLite(t)
	backendtest.Migrate(t, url)
	const value, reads = "given-value-0123456789", "Reading from the terminal."
	for _, test := range []struct {
		args         []string
		typed, asked string
		secret       string
		want         string // of the error, if there is one
	}{
		{[]string{"keys", "create", "own", "--plan", "free", "--value-file", "-"}, value + "\n", valuePrompt, value, ""},
		{[]string{"keys", "rotate", "own", "--value-file", "-"}, "another-" + value + "\n", valuePrompt, value, ""},
		{[]string{"invoke", "--url", "http://127.0.0.1:1"}, value + "\n", valuePrompt, value, "no answer"},
		{[]string{"apply", "-f", "-"}, "plans:\n  typed: {}\n\x04", reads, "", ""},
		{[]string{"import", "keys", "-", "--plan", "typed"}, "name,key\ntyped,typed-value-0123456789\n\x04", reads, "", ""},
		{[]string{"import", "greetings", "-", "--add"}, "name,count\nann,2\n\x04", reads, "", ""},
	} {
		seen, stderr, err := onTerminal(t, url, test.typed, test.args...)
		if !strings.Contains(stderr, test.asked) {
			t.Errorf("%q does not say that it reads from the terminal: %s", test.args, stderr)
		}
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%q: %v, want %q", test.args, err, test.want)
		}
		if test.secret != "" && strings.Contains(seen+stderr, test.secret) {
			t.Errorf("%q shows what is typed:\n%s%s", test.args, seen, stderr)
		}
	}
	if got := keyOf(t, url, "typed").Plan + must(t, url, "greetings", "top"); got != "typed"+"COUNT   NAME\n2       ann" {
		t.Errorf("what was typed is not there:\n%s", got)
	}
	for _, args := range [][]string{
		{"apply", "-f", "-"},
		{"import", "keys", "-"},
		{"import", "greetings", "-", "--add"},
		{"invoke"},
		{"keys", "create", "new", "--plan", "free", "--value-file", "-"},
		{"keys", "delete", "own"},
	} {
		_, program := terminal(t)
		ctx, interrupt := context.WithCancel(t.Context())
		errOut, ended := new(backendtest.Buffer), make(chan error, 1)
		go func() {
			ended <- run(ctx, args, func(k string) string { return map[string]string{"DATABASE_URL": url}[k] }, program, new(bytes.Buffer), errOut)
		}()
		waitFor(t, "a question", func() bool { return errOut.String() != "" })
		interrupt()
		select {
		case err := <-ended:
			if err == nil || !strings.Contains(err.Error(), "interrupted") {
				t.Errorf("%q, interrupted: %v", args, err)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("Ctrl-C does not end %q", args)
		}
	}
}

// A table fits the terminal, whatever is in it.
func TestTableOnTerminal(t *testing.T) {
	t.Parallel()
	url := backendtest.SQLite(t)
	backendtest.Migrate(t, url)
	must(t, url, "keys", "create", "brooks", "--plan", "free", "--customer-id", "customer-4711", "--description", strings.Repeat("a long note ", 10))
	must(t, url, "keys", "create", strings.Repeat("日本語", 20), "--plan", "paid", "--description", "e\u0301te\u0301")
	for _, args := range [][]string{{"keys", "list"}, {"keys", "show", "brooks"}, {"usage", "show"}, {"plans", "list"}} {
		seen, _, err := onTerminal(t, url, "", args...)
		if err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(seen) {
			if n := displayWidth(strings.TrimRight(line, "\r\n")); n > 80 {
				t.Errorf("%q prints a line of %d columns:\n%s", args, n, line)
			}
		}
	}
	if list := must(t, url, "keys", "list"); !strings.Contains(list, strings.Repeat("日本語", 20)) {
		t.Errorf("cut off where there is no terminal:\n%s", list)
	}
	for s, want := range map[string]int{"abc": 3, "日本語": 6, "e\u0301te\u0301": 3, "ｈａ": 4, "한국": 4, "🦊": 2, "a\u200bb": 2, "": 0} {
		if got := displayWidth(s); got != want {
			t.Errorf("displayWidth(%q) = %d, want %d", s, got, want)
		}
	}
	var b bytes.Buffer
	table := newTable(&b, "A", "B", "C")
	table.width = 18
	table.row("日本語日本語", "1", "x")
	if err := table.Flush(); err != nil || b.String() != "A            B   C\n日本語日…    1   x\n" {
		t.Errorf("%v:\n%s", err, &b)
	}
}
