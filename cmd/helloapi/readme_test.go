package main

import (
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"helloapi/internal/web"
)

// blocks returns the blocks of a page in a language.
func blocks(t testing.TB, path, language string) (all []string) {
	t.Helper()
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range strings.Split(string(page), "```"+language+"\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		all = append(all, block)
	}
	return all
}

// What the README says that curl prints is what the server answers.
func TestREADMECurl(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	keys := p.keys(t) // of the free plan and of the paid one
	// same is what a text is each time.
	same := func(s string) string {
		for _, r := range [][2]string{{`#\d+`, "#N"}, {`t=\d+`, "t=N"}, {`(Retry-After): \d+`, "$1: N"}, {`(X-Request-Id): [A-Z2-7]{26}`, "$1: ID"}} {
			s = regexp.MustCompile(r[0]).ReplaceAllString(s, r[1])
		}
		return s
	}
	n := 0
	for _, block := range blocks(t, "../../README.md", "console") {
		_, example, ok := strings.Cut(block, "$ curl ")
		if !ok {
			continue
		}
		n++
		command, want, _ := strings.Cut(example, "\n")
		want, _, _ = strings.Cut(want, "$ ")
		args := words(command)
		withHead := slices.Contains(args, "-i")
		name, value, _ := strings.Cut(args[slices.Index(args, "-H")+1], ": ")
		url := strings.Replace(args[len(args)-1], "localhost:8080", p.addr, 1)
		if value != "hk_…" || url == args[len(args)-1] {
			t.Fatalf("curl %s: no key or not this server", command)
		}
		var a answer
		if strings.Contains(want, "429") {
			waitFor(t, "the end of the quota", func() bool {
				a = request(t, http.MethodGet, url, map[string]string{name: keys[0]})
				return strings.Contains(a.body, "Limit")
			})
		} else {
			a = request(t, http.MethodGet, url, map[string]string{name: keys[1]})
		}
		var got strings.Builder
		if withHead {
			got.WriteString("HTTP/1.1 429 Too Many Requests\n")
			if a.status != http.StatusTooManyRequests {
				t.Errorf("curl %s: answered %d", command, a.status)
			}
			for line := range strings.Lines(want) { // the headers that it shows
				if name, _, ok := strings.Cut(line, ": "); ok && http.CanonicalHeaderKey(name) == name {
					got.WriteString(name + ": " + a.header.Get(name) + "\n")
				}
			}
			got.WriteString("…\n\n")
		}
		got.WriteString(a.body)
		if diff := cmp.Diff(strings.TrimSpace(same(want)), strings.TrimSpace(same(got.String()))); diff != "" {
			t.Errorf("curl %s (-README +answered):\n%s", command, diff)
		}
	}
	if n != 3 {
		t.Errorf("%d examples were found, want 3", n)
	}
}

// A page of another origin may do what the README's does: send the header, and
// read the answers and the headers that it reads.
func TestREADMEFetch(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	key := p.keys(t)[0]
	script := strings.Join(blocks(t, "../../README.md", "js"), "")
	find := func(pattern string) string {
		m := regexp.MustCompile(pattern).FindStringSubmatch(script)
		if m == nil {
			t.Fatalf("the README's script has no %s:\n%s", pattern, script)
		}
		return m[1]
	}
	url := "http://" + p.addr + find(`'http://localhost:8080(/[^']+)'`) + "brooks"
	sent, read := find(`headers: \{ '([^']+)': key \}`), find(`headers\.get\('([^']+)'\)`)
	find(`const \{ (message) \} = await response\.json\(\)`)

	const origin = "https://app.example"
	preflight := request(t, http.MethodOptions, url, map[string]string{
		"Origin": origin, "Access-Control-Request-Method": http.MethodGet, "Access-Control-Request-Headers": sent,
	})
	if h := preflight.header; preflight.status/100 != 2 || h.Get("Access-Control-Allow-Origin") != "*" || !listed(h, "Access-Control-Allow-Headers", sent) {
		t.Errorf("the preflight is answered %d, %v", preflight.status, h)
	}
	ask := func(key, want string) answer {
		t.Helper()
		a := request(t, http.MethodGet, url, map[string]string{"Origin": origin, sent: key})
		var m web.Message
		if err := json.Unmarshal([]byte(a.body), &m); err != nil || want != "" && m.Message != want || a.header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("answered %d %s (%v), %v; want %s", a.status, a.body, err, a.header, want)
		}
		return a
	}
	ask(key, find(`return message // (.+)`))
	if a := ask("nobodys", "Forbidden"); a.header.Get(read) != "" {
		t.Errorf("%s is %q where another try does not help", read, a.header.Get(read))
	}
	var last answer
	waitFor(t, "a refusal", func() bool {
		last = ask(key, "")
		return last.status == http.StatusTooManyRequests
	})
	if last.header.Get(read) == "" || !listed(last.header, "Access-Control-Expose-Headers", read) {
		t.Errorf("a page can't read %s: %v", read, last.header)
	}
}

// listed reports whether a header has a name in its list.
func listed(h http.Header, header, name string) bool {
	return slices.ContainsFunc(strings.Split(h.Get(header), ","), func(s string) bool { return strings.EqualFold(strings.TrimSpace(s), name) })
}
