package browser

import (
	_ "embed"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/google/go-cmp/cmp"
)

//go:embed contrast.js
var contrast string

// lowContrast returns what of the page has too little contrast, and how much
// was looked at.
func (p *tester) lowContrast() (failures []string, checked int) {
	p.t.Helper()
	got, err := Eval[struct {
		Checked  int      `json:"checked"`
		Failures []string `json:"failures"`
	}](p.Page, contrast)
	p.must(err)
	return got.Failures, got.Checked
}

// States in which the page looks different, by what makes them of the one
// before.
var states = []struct {
	name string
	make func(p *tester, s *Server, free string)
}{
	{"before a call", func(*tester, *Server, string) {}},
	{"no key", func(p *tester, _ *Server, _ string) { p.must(p.Greet()) }},
	{"greeted", func(p *tester, _ *Server, free string) {
		p.fill(free, "brooks")
		p.greet()
		p.until(`document.querySelector('#chart .day')`)
		p.must(p.Do(chromedp.Click(chromedp.CSS("summary"))))
	}},
	{"long name", func(p *tester, _ *Server, free string) {
		p.fill(free, strings.Repeat("n", 256))
		p.greet()
	}},
	{"quota used up", func(p *tester, _ *Server, free string) {
		p.until(`(document.getElementById('send').click(), document.getElementById('left').innerText === '0 of 5 left')`)
	}},
	{"wrong key", func(p *tester, _ *Server, _ string) { p.fill("hk_nonsense", "brooks"); p.greet() }},
	{"key shown", func(p *tester, _ *Server, _ string) { p.must(p.Do(chromedp.Click(chromedp.ID("reveal")))) }},
	{"server gone", func(p *tester, s *Server, _ string) { p.must(s.Stop()); p.greet() }},
}

// In every state, text can be read on its ground in both schemes, and nothing is
// wider than a phone of 320 pixels (WCAG 2.2: 1.4.3, 1.4.10, 1.4.11, 2.5.8).
func TestContrastAndReflow(t *testing.T) {
	sameDay()
	s := serve(t)
	free, _ := s.firstKeys(t)
	p := open(t, s.URL+"/", Look{})
	for _, state := range states {
		state.make(p, s, free)
		for _, look := range []Look{{}, {Dark: true}, {Width: 320, Dark: true}, {Width: 320}} {
			p.must(p.Show(look))
			name := fmt.Sprintf("%s %+v", state.name, look)
			failures, checked := p.lowContrast()
			if checked < 20 || len(failures) > 0 {
				t.Errorf("%s: %d checked, too little contrast: %q", name, checked, failures)
			}
			if got := p.text(`document.documentElement.scrollWidth - innerWidth`); got != "0" {
				t.Errorf("%s: the page is %s pixels too wide", name, got)
			}
			small := p.text(`[...document.querySelectorAll('a, button, input, summary')].filter((e) => e.checkVisibility()).filter((e) => e.getBoundingClientRect().height < 24 || e.getBoundingClientRect().width < 24).map((e) => e.textContent + e.id).join()`)
			if small != "" {
				t.Errorf("%s: less than 24 pixels: %s", name, small)
			}
		}
	}

	// The check finds what is wrong.
	p.text(`document.body.style.setProperty('--soft', '#999'), document.body.style.setProperty('--edge', '#ddd')`)
	failures, _ := p.lowContrast()
	for _, want := range []string{"This page stores nothing", "edge of #name"} {
		if !slices.ContainsFunc(failures, func(f string) bool { return strings.Contains(f, want) }) {
			t.Errorf("%s: light grey on white is not found: %q", want, failures)
		}
	}
}

// With the tabulator key one comes by everything that can be used, in the order
// in which it is read, and each has a role, a name, and a frame that is seen.
func TestFocusOrder(t *testing.T) {
	s := serve(t)
	_, paid := s.firstKeys(t)
	p := open(t, s.URL+"/", Look{})
	p.fill(paid, "brooks")
	p.greet()
	p.until(`document.querySelector('#chart .day')`)
	p.must(p.Do(chromedp.Click(chromedp.CSS("summary"))))
	p.text(`document.activeElement.blur(), getSelection().removeAllRanges(), scrollTo(0, 0)`)
	p.text(`document.body.tabIndex = -1, document.body.focus(), document.body.removeAttribute('tabindex')`)

	want := []string{
		"link helloapi", "link Docs", "link OpenAPI",
		"textbox API key", "button Show key", "textbox Name", "button Say hello",
		"DisclosureTriangle Headers", "group Headers of the answer",
		"tab curl", "group Code", "button Copy",
	}
	var got []string
	for range want {
		p.must(p.Press(kb.Tab))
		got = append(got, p.focused())
		if failures, checked := p.lowContrast(); checked < 20 || len(failures) > 0 {
			t.Errorf("%s has the focus: %q", got[len(got)-1], failures)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the order of the focus (-want +got):\n%s", diff)
	}

	// The tabs are one stop; arrows go from one to the next.
	p.must(p.Do(chromedp.Focus(chromedp.ID("tab-curl"))))
	for _, c := range []struct{ key, want string }{
		{kb.ArrowRight, "tab JavaScript"}, {kb.ArrowLeft, "tab curl"}, {kb.ArrowLeft, "tab Go"}, {kb.ArrowRight, "tab curl"}, {kb.End, "tab Go"}, {kb.Home, "tab curl"},
	} {
		p.must(p.Press(c.key))
		if got := p.focused(); got != c.want {
			t.Errorf("the focus is on %q, want %q", got, c.want)
		}
		if got := p.text(`[...document.querySelectorAll('[role=tab]')].filter((t) => t.ariaSelected === 'true' && t.tabIndex === 0).map((t) => 'tab ' + t.innerText).join()`); got != c.want {
			t.Errorf("%s is selected, want %s", got, c.want)
		}
	}
}

// focused is the role and the name of what has the focus, as a screen reader has
// them.
func (p *tester) focused() string {
	p.t.Helper()
	for _, n := range p.tree() {
		for _, property := range n.Properties {
			if property.Name == accessibility.PropertyNameFocused && value(property.Value) == "true" && value(n.Role) != "RootWebArea" {
				return value(n.Role) + " " + value(n.Name)
			}
		}
	}
	return ""
}

// tree is what a screen reader gets of the page.
func (p *tester) tree() (nodes []*accessibility.Node) {
	p.t.Helper()
	tree, err := chromedp.Call(p.ctx, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
	p.must(err)
	for _, n := range tree.Nodes {
		if !n.Ignored {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// value is a value of the tree, as text.
func value(v *accessibility.Value) string {
	if v == nil {
		return ""
	}
	text := string(v.Value)
	if s, err := strconv.Unquote(text); err == nil {
		return s
	}
	return text
}

// What is shown has names, roles and an order of headings; what is answered is
// said aloud.
func TestScreenReader(t *testing.T) {
	sameDay()
	s := serve(t)
	free, _ := s.firstKeys(t)
	p := open(t, s.URL+"/", Look{})
	p.fill(free, "brooks")
	p.greet()
	p.until(`document.querySelector('#chart .day')`)

	var unnamed []string
	roles := map[string][]string{}
	for _, n := range p.tree() {
		role, name := value(n.Role), value(n.Name)
		roles[role] = append(roles[role], name)
		switch role {
		case "link", "button", "textbox", "tab", "meter", "image", "navigation", "region", "tablist", "tabpanel", "figure", "table":
			if name == "" {
				unnamed = append(unnamed, role)
			}
		}
	}
	if len(unnamed) > 0 {
		t.Errorf("without a name: %q", unnamed)
	}
	outline := p.text(`[...document.querySelectorAll('h1, h2, h3, h4')].filter((h) => h.checkVisibility()).map((h) => h.tagName[1] + ' ' + h.textContent).join('\n')`)
	if diff := cmp.Diff("1 Say hello.\n2 Answer\n3 Quota of plan free\n3 Last 30 days\n2 From your code", outline); diff != "" {
		t.Errorf("the headings (-want +got):\n%s", diff)
	}
	for role, want := range map[string]string{
		"banner": "", "navigation": "Documentation", "main": "", "contentinfo": "",
		"meter": "Quota of plan free", "tablist": "From your code", "tabpanel": "curl", "image": "1 used in the last 30 days, most on ",
	} {
		if !slices.ContainsFunc(roles[role], func(name string) bool { return strings.HasPrefix(name, want) && (want != "" || name == "") }) {
			t.Errorf("there is no %s %q: %q", role, want, roles[role])
		}
	}
	if got := p.text(`document.documentElement.lang + ' ' + document.title`); got != "en helloapi: try it" {
		t.Errorf("language and title: %q", got)
	}
	// A region that is said aloud when it changes.
	if got := p.text(`document.querySelector('[role=status]').innerText`); !strings.Contains(got, "Hello brooks #1!") || !strings.Contains(got, "4 of 5 left. Resets ") {
		t.Errorf("said aloud: %q", got)
	}
}

// Swagger UI shows every route of the contract.
func TestDocs(t *testing.T) {
	s := serve(t)
	p := open(t, s.URL+"/docs", Look{})
	paths, err := Eval[[]string](p.Page, `fetch('/openapi.json').then((r) => r.json()).then((d) => Object.keys(d.paths))`)
	p.must(err)
	if !slices.Contains(paths, "/hello") {
		t.Errorf("the contract has the paths %q", paths)
	}
	for _, path := range paths {
		p.until(fmt.Sprintf(`document.querySelector('.opblock-summary-path[data-path=%q]')`, path))
	}
}

// The policy keeps the page from what it does not need, and the tests see it.
func TestPolicy(t *testing.T) {
	s := serve(t)
	b, err := chromium()
	if err != nil {
		t.Fatal(err)
	}
	page, err := b.Open(s.URL+"/", Look{})
	if err != nil {
		t.Fatal(err)
	}
	defer page.Close()
	p := &tester{page, t}
	away := elsewhere(t)
	for _, c := range []struct{ script, want string }{
		{`document.body.append(Object.assign(document.createElement('script'), { textContent: '1' }))`, "script-src-elem inline"},
		{`document.body.append(Object.assign(document.createElement('style'), { textContent: 'p {}' }))`, "style-src-elem inline"},
		{`document.body.setAttribute('style', 'color: red')`, "style-src-attr inline"},
		{`document.body.append(Object.assign(document.createElement('img'), { src: '` + away + `/not' }))`, "img-src " + away + "/not"},
		{`fetch('` + away + `/not').catch(() => '')`, "connect-src " + away + "/not"},
		{`document.body.append(Object.assign(document.createElement('iframe'), { src: '` + away + `/not' }))`, "frame-src " + away},
		{`document.getElementById('form').submit()`, "form-action " + s.URL},
		{`document.head.append(Object.assign(document.createElement('base'), { href: '` + away + `' }))`, "base-uri " + away},
	} {
		p.text(c.script)
		p.until(violations + `.length > 0`)
		problems, err := p.Problems()
		if !slices.ContainsFunc(problems, func(s string) bool { return strings.HasPrefix(s, "violation: "+c.want) }) || err != nil {
			t.Errorf("%s: %q, %v", c.script, problems, err)
		}
		p.text(violations + `.length = 0`)
	}
}
