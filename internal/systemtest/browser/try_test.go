package browser

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/google/go-cmp/cmp"

	"helloapi/internal/backendtest"
)

// A person with the free key greets until the quota is used up, with the
// keyboard only.
func TestTry(t *testing.T) {
	sameDay()
	s := serve(t)
	free, paid := s.firstKeys(t)
	p := open(t, s.URL+"/", Look{Timezone: "Asia/Kolkata"}) // 5:30 ahead of UTC

	if got := p.seen("preview"); !strings.Contains(got, "Hello world #…") {
		t.Errorf("before the first call it shows %q", got)
	}
	p.must(p.Do(chromedp.Focus(chromedp.ID("key"))))
	p.must(p.Press(free + kb.Tab + kb.Tab + "Zoë" + kb.Enter)) // over the button that shows the key
	p.until(`document.getElementById('greeting').innerText === 'Hello Zoë #1!'`)
	if got := p.seen("left"); got != "4 of 5 left" {
		t.Errorf("the quota: %q", got)
	}
	resets := regexp.MustCompile(`^Resets (today|tomorrow) at 5:30\sAM your time, in \d+ (hours?|minutes?|seconds?)( \d+ minutes?)?$`)
	if got := p.seen("resets"); !resets.MatchString(got) {
		t.Errorf("it resets: %q", got)
	}
	p.until(`document.querySelectorAll('#chart .day').length === 1`)
	if got := p.text(`document.querySelectorAll('#chart g').length`); got != "30" {
		t.Errorf("the chart has %s days", got)
	}

	for _, want := range []string{"Hello Zoë #2!", "Hello Zoë #3!", "Hello Zoë #4!", "Hello Zoë #5!", "The quota is used up."} {
		p.must(p.Press(kb.Enter)) // in the field of the name
		// The plan is throttled as well: a person tries again.
		p.until(`document.querySelector('#send:not([aria-disabled])')`)
		for p.seen("greeting") == "Not so fast." {
			if got := p.seen("detail"); !strings.Contains(got, "Try again in 1 second.") {
				t.Fatalf("throttled: %q", got)
			}
			p.must(p.Press(kb.Enter))
			p.until(`document.querySelector('#send:not([aria-disabled])')`)
		}
		if got := p.seen("greeting"); got != want {
			t.Fatalf("greeted %q, want %q", got, want)
		}
	}
	if got := p.seen("state"); !strings.HasPrefix(got, "429 Too Many Requests") {
		t.Errorf("the sixth call: %q", got)
	}
	if got := p.seen("detail"); !regexp.MustCompile(`^This key works again (today|tomorrow) at 5:30\sAM your time\. This request was not charged\.$`).MatchString(got) {
		t.Errorf("the sixth call: %q", got)
	}
	if got := p.text(`['aria-valuenow', 'aria-valuemax', 'aria-valuetext'].map((a) => document.getElementById('bar').getAttribute(a))`); got != "0,5,0 of 5 left" {
		t.Errorf("the bar: %s", got)
	}
	if got := p.text(`document.querySelector('#bar div').clientWidth`); got != "0" {
		t.Errorf("the bar is %s pixels wide", got)
	}
	p.until(`document.getElementById('total').innerText === '5 used'`)
	if got := p.text(`document.querySelector('#chart table').rows.length + ' ' + document.querySelector('#chart table').rows[0].cells[1].innerText`); got != "1 5" {
		t.Errorf("the table of days and what was used today: %s", got)
	}
	p.must(p.Do(chromedp.Click(chromedp.CSS("summary"))))
	for _, want := range []string{"HTTP 429\n", "\nratelimit: \"quota\";r=0;t=", "\nretry-after: ", "\nx-request-id: ", "\n\n{\"message\":\"Limit Exceeded\"}"} {
		if got := p.seen("headers"); !strings.Contains(got, want) {
			t.Errorf("the headers have no %q:\n%s", want, got)
		}
	}

	// Another key: nothing of the first one stays.
	p.fill(paid, "")
	if got := p.greet(); got != "Hello anonymous #1!" {
		t.Errorf("greeted %q", got)
	}
	if got := p.seen("left"); got != "4,999 of 5,000 left" {
		t.Errorf("the quota of the other key: %q", got)
	}
	p.until(`document.getElementById('quota-title').innerText === 'Quota of plan paid' && document.getElementById('total').innerText === '1 used'`)

	// Nothing is kept.
	kept := p.text(`(async () => JSON.stringify([localStorage.length, sessionStorage.length, document.cookie, (await indexedDB.databases()).length, (await caches.keys()).length, location.href, history.state]))()`)
	if want := `[0,0,"",0,0,"` + s.URL + `/",null]`; kept != want {
		t.Errorf("kept %s, want %s", kept, want)
	}
	p.must(p.Do(chromedp.Reload()))
	if got := p.text(`document.getElementById('key').value`); got != "" {
		t.Errorf("after a reload the key is %q", got)
	}
}

// What is no greeting is said in plain words.
func TestTryRefusals(t *testing.T) {
	const throttled = "a-key-that-is-throttled-1"
	dir := t.TempDir()
	plans := filepath.Join(dir, "plans.yaml")
	write(t, plans, "plans:\n  slow:\n    throttle: {rateLimit: 0.02, burstLimit: 2}\n    keys: [{name: slow, value: "+throttled+"}]\n")
	s := serve(t, "PLANS_FILE="+plans)
	p := open(t, s.URL+"/", Look{})
	want := func(title, state, detail string) {
		t.Helper()
		if got := p.greet(); got != title {
			t.Errorf("it says %q, want %q", got, title)
		}
		if got := p.seen("state"); !strings.HasPrefix(got, state) {
			t.Errorf("%s: it is %q, want %q", title, got, state)
		}
		if got := p.seen("detail"); !strings.Contains(got, detail) {
			t.Errorf("%s: it explains %q, want %q", title, got, detail)
		}
	}

	p.must(p.Greet())
	if got := p.seen("key-error"); !strings.HasPrefix(got, "Enter a key.") || p.text(`document.activeElement.id`) != "key" {
		t.Errorf("without a key it says %q", got)
	}
	p.fill("a key", "brooks")
	p.must(p.Greet())
	if got := p.seen("key-error"); !strings.Contains(got, "no spaces") {
		t.Errorf("with a key that can't be one it says %q", got)
	}
	for _, r := range p.Requests() {
		if strings.Contains(r, "/hello") {
			t.Errorf("it asked for %s without a key", r)
		}
	}
	p.fill("hk_nonsense", "brooks")
	want("This key is refused.", "403 Forbidden", "helloapi keys which")
	if got := p.text(`document.getElementById('key').getAttribute('aria-invalid')`); got != "true" {
		t.Errorf("the key is marked %s", got)
	}
	p.fill(throttled, strings.Repeat("n", 257))
	want("That is not a valid request.", "400 Bad Request", "256 characters")
	if got := p.seen("quota"); got != "" {
		t.Errorf("a plan without a quota shows %q", got)
	}
	p.fill(throttled, "brooks")
	// The bucket of 2 has lost a token to that request, and one to GET /usage.
	p.until(`!document.getElementById('usage').hidden`)
	want("Not so fast.", "429 Too Many Requests", "Try again in")

	p.must(s.Stop())
	want("The server does not answer.", "no answer", s.URL)
	if got := p.seen("raw"); got != "" {
		t.Errorf("without an answer it shows %q", got)
	}
}

// A store is away.
func TestTryUnavailable(t *testing.T) {
	db := backendtest.Postgres(t)
	proxy, url := backendtest.NewProxy(t, db)
	plan := backendtest.AddPlan(t, db, backendtest.Quota(10))
	key := backendtest.AddKeys(t, db, plan.Name, 1)[0]
	s := serve(t, "DATABASE_URL="+url, "REQUEST_TIMEOUT=5s")
	p := open(t, s.URL+"/", Look{})
	p.fill(key, "brooks")
	if got := p.greet(); got != "Hello brooks #1!" {
		t.Errorf("greeted %q", got)
	}
	proxy.Refuse()
	if got := p.greet(); got != "The server can’t answer now." {
		t.Errorf("it says %q", got)
	}
	if got := p.seen("state"); !strings.HasPrefix(got, "503 Service Unavailable") {
		t.Errorf("it is %q", got)
	}
	if got := p.seen("detail"); !strings.Contains(got, "Nothing was charged. Try again in 1 second.") {
		t.Errorf("it explains %q", got)
	}
	if got := p.seen("left"); got != "9 of 10 left" {
		t.Errorf("the quota: %q", got)
	}
	proxy.Pass(t)
	for p.greet() != "Hello brooks #2!" {
		if got := p.seen("state"); !strings.HasPrefix(got, "503") {
			t.Fatalf("when the store is back it is %q, %q", p.seen("greeting"), got)
		}
	}
}

// awkward has what languages write in different ways, and what can't be seen.
const (
	awkward    = "O'Brien \"x\" \\n \\ $HOME ${a} `id` %41 & = + # {} [] ! zoë 👩‍👩‍👧 \u2028 \ufeff \u202e </script> \U0001F44B"
	awkwardKey = `it's-"a"-$HOME-\n-` + "`id`" + `-!!-%41-{x}-key`
)

// The snippets of the page do what the page does: as they are copied, in each
// language.
func TestSnippets(t *testing.T) {
	plans := filepath.Join(t.TempDir(), "plans.yaml")
	write(t, plans, "plans:\n  any:\n    keys:\n      - name: any\n        value: |-\n          "+awkwardKey+"\n")
	s := serve(t, "PLANS_FILE="+plans)
	p := open(t, s.URL+"/", Look{})
	for _, name := range []string{"clipboard-read", "clipboard-write"} {
		_, err := chromedp.CallBrowser(p.ctx, browser.SetPermission, browser.SetPermissionParams{
			Permission: &browser.PermissionDescriptor{Name: name}, Setting: browser.PermissionSettingGranted,
			Origin: s.URL, BrowserContextID: chromedp.FromContext(p.ctx).BrowserContextID,
		})
		p.must(err)
	}
	p.fill(awkwardKey, awkward)
	dir := t.TempDir()
	other := open(t, elsewhere(t), Look{}, s.URL)
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	for i, language := range []struct {
		tab string
		run func(code string) string
	}{
		{"curl", func(code string) string { return "200 " + run("sh", "-c", code+" --silent --show-error") }},
		{"javascript", func(code string) string {
			return other.text(`(async () => { const lines = [], console = { log: (status, body) => lines.push(status + ' ' + JSON.stringify(body)) }; ` + code + `; return lines })()`)
		}},
		{"python", func(code string) string {
			write(t, filepath.Join(dir, "hello.py"), code)
			return run("python3", "hello.py")
		}},
		{"go", func(code string) string {
			write(t, filepath.Join(dir, "hello.go"), code+"\n")
			if diff := run("gofmt", "-d", "hello.go"); diff != "" {
				t.Errorf("the Go code is not formatted:\n%s", diff)
			}
			return run("go", "run", "hello.go")
		}},
	} {
		p.must(p.Do(chromedp.Click(chromedp.ID("tab-"+language.tab)), chromedp.Click(chromedp.ID("copy"))))
		p.until(`document.getElementById('copied').innerText === 'Copied'`)
		code := p.text(`navigator.clipboard.readText()`)
		if shown := p.seen("snippet"); strings.Contains(shown, "key-\n") || strings.Contains(shown, "HOME-") || !strings.Contains(shown, "hk_••••") {
			t.Errorf("%s: the key is hidden in its field, but not in the code:\n%s", language.tab, shown)
		}
		// Marking the code by hand copies the same.
		p.text(`getSelection().selectAllChildren(document.getElementById('snippet')), document.execCommand('copy')`)
		if diff := cmp.Diff(code, p.text(`navigator.clipboard.readText()`)); diff != "" {
			t.Errorf("%s: (-button +by hand):\n%s", language.tab, diff)
		}
		want := `200 {"message":"Hello ` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\u2028", `\u2028`).Replace(awkward) + " #" + string(rune('1'+i)) + `!"}`
		got := strings.ReplaceAll(language.run(code), "\u2028", `\u2028`)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s\nof:\n%s", language.tab, diff, code)
		}
	}
	// The page itself says the same.
	if want, got := "Hello "+awkward+" #5!", p.text(`(document.getElementById('send').click(), new Promise((done) => { const o = new MutationObserver(() => { if (!document.getElementById('greeting').hidden) done(document.getElementById('greeting').textContent) }); o.observe(document.getElementById('answer'), { childList: true, subtree: true, attributes: true }) }))`); got != want {
		t.Errorf("greeted %q, want %q", got, want)
	}
	p.must(p.Do(chromedp.Click(chromedp.ID("reveal"))))
	if got := p.seen("snippet"); !strings.Contains(got, "HOME-") {
		t.Errorf("the key is shown in its field, but not in the code:\n%s", got)
	}

	// Over plain HTTP a page has no clipboard.
	plain := open(t, strings.Replace(s.URL, "localhost", plainHost, 1)+"/", Look{})
	if got := plain.text(`isSecureContext`); got != "false" {
		t.Fatalf("is %s a secure context? %s", plainHost, got)
	}
	plain.fill("hk_some-key-of-theirs", "x")
	plain.must(plain.Do(chromedp.Click(chromedp.ID("copy"))))
	plain.until(`document.getElementById('copied').innerText === 'Copied'`)
	want := "curl -H 'x-api-key: hk_some-key-of-theirs' \\\n  '" + strings.Replace(s.URL, "localhost", plainHost, 1) + "/hello?name=x'"
	if got := p.text(`navigator.clipboard.readText()`); got != want {
		t.Errorf("copied over plain HTTP: %q, want %q", got, want)
	}
}

// Without JavaScript the page says what it is, and how to try it.
func TestTryWithoutScript(t *testing.T) {
	s := serve(t)
	p := open(t, s.URL+"/", Look{NoScript: true})
	got := p.text(`document.body.innerText`)
	for _, want := range []string{"greets people by name", "needs JavaScript", "curl -H 'x-api-key: hk_…' \\\n  '" + s.URL + "/hello?name=world'", "Docs"} {
		if !strings.Contains(got, want) {
			t.Errorf("it does not say %q:\n%s", want, got)
		}
	}
	for _, id := range []string{"key", "send", "copy", "preview"} {
		if got := p.text(`document.getElementById("` + id + `").checkVisibility()`); got != "false" {
			t.Errorf("#%s is shown, and can't be used", id)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
