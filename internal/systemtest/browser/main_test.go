package browser

import (
	"encoding/csv"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// Made once, for all tests.
var (
	chromium = sync.OnceValues(Start)
	program  = sync.OnceValues(func() (string, error) {
		dir, err := os.MkdirTemp("", "helloapi-browser")
		if err != nil {
			return "", err
		}
		cleanUp = append(cleanUp, func() { os.RemoveAll(dir) })
		return Build(dir, "-race")
	})
	cleanUp []func()
)

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if b, err := chromium(); err == nil {
		b.Close()
	}
	for _, f := range cleanUp {
		f()
	}
	os.Exit(code)
}

// serve serves with the environment env until the end of the test.
func serve(t *testing.T, env ...string) *Server {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	s, err := Serve(path, t.TempDir(), env...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		for _, bad := range []string{"DATA RACE", "panic:", "level=ERROR msg=panic"} {
			if strings.Contains(s.Log(), bad) {
				t.Errorf("the server logged %s:\n%s", bad, s.Log())
			}
		}
	})
	return s
}

// firstKeys are the values of the keys that a new database starts with: one of
// the free plan and one of the paid one.
func (s *Server) firstKeys(t *testing.T) (free, paid string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.dir, "data", "*.keys-*.csv"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files of keys: %v, %v", files, err)
	}
	f, err := os.Open(files[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil || len(rows) != 3 {
		t.Fatalf("keys: %d rows, %v", len(rows), err)
	}
	return rows[1][1], rows[2][1]
}

// open opens a page until the end of the test, which fails if the page had a
// problem by then, or asked for anything of another origin than those.
func open(t *testing.T, url string, look Look, origins ...string) *tester {
	t.Helper()
	b, err := chromium()
	if err != nil {
		t.Fatal(err)
	}
	p, err := b.Open(url, look)
	if err != nil {
		t.Fatal(err)
	}
	page := &tester{p, t}
	origins = append(origins, regexp.MustCompile(`^http://[^/]+`).FindString(url))
	t.Cleanup(func() {
		defer p.Close()
		problems, err := p.Problems()
		if len(problems) > 0 || err != nil {
			t.Errorf("problems in %s: %q, %v", url, problems, err)
		}
		for _, r := range p.Requests() {
			ours := strings.HasPrefix(r, "data:")
			for _, o := range origins {
				ours = ours || strings.HasPrefix(r, o)
			}
			if !ours {
				t.Errorf("%s asked for %s", url, r)
			}
		}
	})
	return page
}

// A tester is a page whose errors fail the test.
type tester struct {
	*Page
	t *testing.T
}

func (p *tester) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// text is what an expression is in the page, as a string.
func (p *tester) text(expression string) string {
	p.t.Helper()
	s, err := Eval[string](p.Page, "Promise.resolve("+expression+").then(String)")
	p.must(err)
	return s
}

// seen is the text that is shown of the element that has an id, or "".
func (p *tester) seen(id string) string {
	p.t.Helper()
	return p.text(`document.getElementById("` + id + `").checkVisibility() ? document.getElementById("` + id + `").innerText : ""`)
}

// fill fills in the form.
func (p *tester) fill(key, name string) {
	p.t.Helper()
	p.must(p.Type("key", key))
	p.must(p.Type("name", name))
}

// greet clicks, and returns the greeting or why there is none.
func (p *tester) greet() string {
	p.t.Helper()
	p.must(p.Greet())
	return p.seen("greeting")
}

// until waits until an expression is true.
func (p *tester) until(expression string) {
	p.t.Helper()
	p.must(p.Do(Until(expression)))
}

// elsewhere serves an empty page of another origin, at any path but /not.
func elsewhere(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/not" {
			t.Errorf("something asked for %s", r.URL)
		}
		w.Header().Set("Content-Type", "text/html")
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// sameDay waits until a test of some seconds ends on the day (UTC) on which it
// begins: that is how long a quota of the free plan is for.
func sameDay() {
	now := time.Now()
	if next := now.UTC().Truncate(24 * time.Hour).Add(24 * time.Hour); next.Sub(now) < time.Minute {
		time.Sleep(next.Sub(now))
	}
}
