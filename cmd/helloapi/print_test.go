package main

import (
	"bytes"
	"encoding/csv"
	"strings"
	"testing"
	"time"
	"unicode"

	"helloapi/internal/backendtest"
)

func TestVisible(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"": "", "plain": "plain", "日本語 é 👩\u200d🚀": "日本語 é 👩\u200d🚀", "a\\b": "a\\b",
		"a\x1b[2Jb": `a\x1b[2Jb`, "a\nb\tc\r": `a\nb\tc\r`, "\u009b31m": `\u009b31m`, "a\u202eb": `a\u202eb`, "a\xffb": `a\xffb`, "a\u2028b": `a\u2028b`, "\ufffd": "\ufffd",
	} {
		if got := visible(in); got != want {
			t.Errorf("visible(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzVisible(f *testing.F) {
	for _, s := range []string{"a\x1b]0;x\x07", "\xff\x00", "\u2066"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got := visible(s); strings.ContainsFunc(got, unicode.IsControl) || visible(got) != got {
			t.Errorf("visible(%q) = %q", s, got)
		}
	})
}

// What somebody wrote in the database commands no terminal and no spreadsheet.
func TestPrintedIsEscaped(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		env := map[string]string{"DATABASE_URL": url}
		must(t, url, "keys", "create", "=cmd()", "--plan", "free", "--customer-id", "@SUM(A1)", "--description", "x\x1b]0;owned\x07\u202e")
		backendtest.Exec(t, url, `INSERT INTO greetings (name, count) VALUES ('a`+"\u202e"+`b', 1)`)
		key := keyOf(t, url, "=cmd()")
		backendtest.Exec(t, url, `INSERT INTO usage (key_id, day, writer, charged) VALUES ($1, $2, 'w1', 7)`, key.ID, time.Now().UTC().Format(time.DateOnly))
		for _, args := range [][]string{{"keys", "list"}, {"keys", "show", "=cmd()"}, {"greetings", "top"}, {"usage", "show"}} {
			out := must(t, url, args...)
			if strings.ContainsFunc(strings.ReplaceAll(out, "\n", ""), func(c rune) bool { return unicode.IsControl(c) || unicode.Is(unicode.Bidi_Control, c) }) {
				t.Errorf("%q prints %q", args, out)
			}
		}
		out, _, err := helloapi(t, env, "usage", "show", "--format", "csv")
		if err != nil {
			t.Fatal(err)
		}
		rows, err := csv.NewReader(bytes.NewReader([]byte(out))).ReadAll()
		if err != nil || len(rows) < 2 {
			t.Fatalf("%v in\n%s", err, out)
		}
		for _, row := range rows {
			for _, cell := range row {
				if cell != "" && strings.ContainsAny(cell[:1], "=+-@") {
					t.Errorf("a spreadsheet runs %q", cell)
				}
			}
		}
		for _, name := range []string{"a\x1b[2J", strings.Repeat("x", 257), " a", ""} {
			if _, _, err := helloapi(t, env, "keys", "create", "--plan", "free", "--", name); err == nil {
				t.Errorf("a key has the name %.20q", name)
			}
			if _, _, err := helloapi(t, env, "plans", "create", "--rate", "1", "--", name); err == nil {
				t.Errorf("a plan has the name %.20q", name)
			}
		}
	})
}
