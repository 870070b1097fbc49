// Command screenshots takes the pictures of the README from the running program:
// make screenshots. With a folder as its argument it takes one of each state of
// each page there, to be looked at.
package main

import (
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	_ "modernc.org/sqlite"

	"helloapi/internal/systemtest/browser"
)

func main() {
	flag.Parse()
	if err := run(flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "screenshots:", err)
		os.Exit(1)
	}
}

const (
	key  = "the-key-of-a-team-in-the-picture-1"
	used = "the-key-of-a-used-quota-in-it-1"

	plans = `
plans:
  team:
    quota: {limit: 500, period: DAY}
    throttle: {rateLimit: 50, burstLimit: 50}
    keys: [{name: team, value: ` + key + `}]
  free:
    quota: {limit: 5, period: DAY}
    throttle: {rateLimit: 50, burstLimit: 50}
    keys: [{name: free, value: ` + used + `}]
`
)

// days are what was used on the 30 days before today, the last one first.
var days = []int{212, 248, 30, 44, 231, 198, 240, 251, 187, 21, 38, 176, 203, 190, 165, 171, 18, 12, 158, 149, 162, 120, 131, 9, 14, 117, 98, 104, 86, 71}

func run(all string) (err error) {
	dir, err := os.MkdirTemp("", "helloapi-screenshots")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program, err := browser.Build(dir)
	if err != nil {
		return err
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "plans.yaml"), []byte(plans), 0o600), useFonts(dir)); err != nil {
		return err
	}
	server, err := browser.Serve(program, dir, "PLANS_FILE=plans.yaml", "ADDR="+address())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	if err := use(filepath.Join(dir, "data/helloapi.db")); err != nil {
		return err
	}
	b, err := browser.Start()
	if err != nil {
		return err
	}
	defer b.Close()
	if all != "" {
		return takeAll(b, server, all)
	}
	return takePictures(b, server)
}

// address is where make run serves, if that is free.
func address() string {
	const usual = "127.0.0.1:8080"
	l, err := net.Listen("tcp", usual)
	if err != nil {
		return "127.0.0.1:0"
	}
	l.Close()
	return usual
}

// useFonts has Chromium show the font Inter (fonts-inter), where it is installed,
// for all that is not code.
func useFonts(dir string) error {
	path := filepath.Join(dir, "fonts.conf")
	const fonts = `<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <include>/etc/fonts/fonts.conf</include>
  <match target="pattern">
    <test name="family" qual="first" compare="not_contains"><string>mono</string></test>
    <test name="family" qual="first" compare="not_contains"><string>Mono</string></test>
    <test name="family" qual="first" compare="not_eq"><string>Menlo</string></test>
    <test name="family" qual="first" compare="not_eq"><string>Consolas</string></test>
    <edit name="family" mode="prepend" binding="strong"><string>Inter</string></edit>
  </match>
</fontconfig>
`
	return errors.Join(os.WriteFile(path, []byte(fonts), 0o600), os.Setenv("FONTCONFIG_FILE", path))
}

// use writes what the keys used before.
func use(path string) error {
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return err
	}
	defer db.Close()
	today := time.Now().UTC()
	for i, n := range append([]int{118}, days...) {
		for name, n := range map[string]int{"team": n, "free": min(n%6, 4)} {
			_, err := db.Exec(`INSERT INTO usage (key_id, day, writer, charged) SELECT id, ?, '', ? FROM api_keys WHERE name = ?`,
				today.AddDate(0, 0, -i).Format(time.DateOnly), n, name)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// takePictures takes those of the README.
func takePictures(b *browser.Browser, server *browser.Server) error {
	source, err := browser.Source("../..")
	if err != nil {
		return err
	}
	for _, picture := range browser.Pictures {
		page, err := b.Open(server.URL+"/", picture.Look)
		if err != nil {
			return err
		}
		taken, err := take(page, picture.Used)
		if err == nil {
			taken, err = browser.Sign(taken, source)
		}
		if err != nil {
			return err
		}
		path := filepath.Join("../../docs", picture.Name)
		if err := os.WriteFile(path, taken, 0o644); err != nil {
			return err
		}
		fmt.Printf("docs/%s: %d kB\n", picture.Name, (len(taken)+999)/1000)
		page.Close()
	}
	return nil
}

func take(page *browser.Page, used bool) ([]byte, error) {
	if !used {
		if err := greet(page, key); err != nil {
			return nil, err
		}
		return page.Screenshot()
	}
	if err := greetUntilUsed(page); err != nil {
		return nil, err
	}
	if _, err := browser.Eval[bool](page, `scrollTo(0, document.querySelector('.answer').offsetTop - 20), true`); err != nil {
		return nil, err
	}
	return page.Screen()
}

// greet greets with a key, and waits until all is shown. It greets another name
// before, so that the time is not that of the first request.
func greet(page *browser.Page, key string) error {
	return errors.Join(
		page.Type("key", key), page.Type("name", "world"), page.Greet(), page.Type("name", "brooks"), page.Greet(),
		page.Do(browser.Until(`document.querySelector('#chart .day')`)),
		rest(page),
	)
}

func greetUntilUsed(page *browser.Page) error {
	for {
		if err := greet(page, used); err != nil {
			return err
		}
		if status, err := browser.Eval[string](page, `document.getElementById('state').textContent.slice(0, 3)`); err != nil || status == "429" {
			return err
		}
	}
}

// rest leaves nothing that has the focus or is pointed at.
func rest(page *browser.Page) error {
	_, err := browser.Eval[bool](page, `document.activeElement.blur(), scrollTo(0, 0), true`)
	return errors.Join(err, page.Do(chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, 1, 1)))
}

// takeAll takes a picture of each state of each page, on a phone and a screen,
// light and dark.
func takeAll(b *browser.Browser, server *browser.Server, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	page, err := b.Open(server.URL+"/", browser.Look{})
	if err != nil {
		return err
	}
	defer page.Close()
	docs, err := b.Open(server.URL+"/docs", browser.Look{})
	if err != nil {
		return err
	}
	defer docs.Close()
	for _, state := range []struct {
		name string
		page *browser.Page
		make func() error
	}{
		{"docs", docs, func() error { return docs.Do(browser.Until(`document.querySelector('.opblock')`)) }},
		{"before", page, func() error { return nil }},
		{"greeted", page, func() error { return greet(page, key) }},
		{"used", page, func() error { return greetUntilUsed(page) }},
		{"headers", page, func() error {
			_, err := browser.Eval[bool](page, `document.getElementById('raw').open = true`)
			return err
		}},
		{"wrong", page, func() error {
			return errors.Join(page.Type("key", "hk_nonsense"), page.Greet(), rest(page))
		}},
		{"no-key", page, func() error { return errors.Join(page.Type("key", ""), page.Greet(), rest(page)) }},
		{"go", page, func() error {
			_, err := browser.Eval[bool](page, `document.getElementById('tab-go').click(), true`)
			return errors.Join(page.Type("key", key), err, rest(page))
		}},
		{"gone", page, func() error { return errors.Join(server.Stop(), page.Greet(), rest(page)) }},
	} {
		if err := state.make(); err != nil {
			return fmt.Errorf("%s: %w", state.name, err)
		}
		for name, look := range map[string]browser.Look{
			"1280-light": {}, "1280-dark": {Dark: true}, "360-light": {Width: 360}, "360-dark": {Width: 360, Dark: true},
		} {
			if err := state.page.Show(look); err != nil {
				return err
			}
			taken, err := state.page.Screenshot()
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, state.name+"-"+name+".png"), taken, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}
