package backendtest_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"go/format"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"helloapi/internal/backendtest"
)

const (
	endpointDoc = "docs/your-endpoint.md"
	moduleRoot  = "../.."
)

// TestYourEndpoint does what docs/your-endpoint.md says in a copy of this
// module: makes its files and edits, builds, serves, and sends its requests.
func TestYourEndpoint(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(moduleRoot, endpointDoc))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := parseDoc(string(text))
	if err != nil {
		t.Fatal(err)
	}
	repo, err := readModule(moduleRoot)
	if err != nil {
		t.Fatal(err)
	}
	const without, with = "An endpoint without storage", "An endpoint with storage"

	t.Run("paths", func(t *testing.T) {
		made := map[string]bool{}
		for _, b := range doc.blocks {
			for p := b.path; p != "." && p != ""; p = path.Dir(p) {
				made[p] = true
			}
		}
		for _, p := range doc.paths() {
			if _, err := os.Stat(filepath.Join(moduleRoot, p)); err != nil && !made[p] {
				t.Errorf("%s mentions %s, which is not there", endpointDoc, p)
			}
		}
	})

	// A reader may want one recipe or both, in either order, though only in the
	// page's own are the lines sorted.
	justOne, justTwo := repo.follow(t, doc, without), repo.follow(t, doc, with)
	repo.follow(t, doc, with, without)
	both := repo.follow(t, doc, without, with)
	both.checkFormat(t, repo)

	dir := t.TempDir()
	justOne.vet(t, dir, without)
	justTwo.vet(t, dir, with)
	helloapi := both.build(t, dir)

	t.Run("without storage", func(t *testing.T) {
		url := backendtest.SQLite(t)
		p := helloapi.serve(t, url)
		key := firstKey(t, url)
		doc.replay(t, without, p, key)

		for range 50 {
			var answer struct{ Sides, Roll int }
			r := p.get(t, "/roll?sides=2", key)
			if err := json.Unmarshal([]byte(r.body), &answer); err != nil || answer.Sides != 2 || answer.Roll < 1 || answer.Roll > 2 {
				t.Fatalf("/roll?sides=2: %d %s, want 200 and a roll of 1 or 2", r.StatusCode, r.body)
			}
		}
		checkBuiltIn(t, p, "/roll", "/roll?sides=1", key, 400)
	})

	t.Run("size", func(t *testing.T) {
		folder, elsewhere := doc.size(with)
		t.Logf("%d lines in the folder and its migrations, %d elsewhere", folder, elsewhere)
		if folder > 150 || elsewhere > 6 {
			t.Errorf("%d lines in the folder and its migrations, %d elsewhere; at most 150 and 6", folder, elsewhere)
		}
	})

	t.Run("routes", func(t *testing.T) {
		for _, section := range []string{without, with} {
			for _, route := range doc.routes(section) {
				if !doc.calls(section, route) {
					t.Errorf("%s adds %s and has no command that calls it", endpointDoc, route)
				}
			}
		}
	})

	t.Run("with storage", func(t *testing.T) {
		t.Run("SQLite", func(t *testing.T) {
			url := backendtest.SQLite(t)
			p := helloapi.serve(t, url)
			key := firstKey(t, url)
			doc.replay(t, with, p, key)
			checkBuiltIn(t, p, "/notes", "/notes/none", key, 404)
			first := postNote(t, p, key, "restart")

			p.kill() // no grace: what was answered is durable
			p = helloapi.serve(t, url)
			if again := postNote(t, p, key, "restart"); again != first {
				t.Errorf("after a restart: %s, want the first answer %s", again, first)
			}
		})

		t.Run("PostgreSQL", func(t *testing.T) {
			url := backendtest.EmptyPostgres(t)
			helloapi.run(t, url, "migrate")
			key := strings.TrimSpace(helloapi.run(t, url, "keys", "create", "mine", "--plan", "paid"))
			replicas := []*process{helloapi.serve(t, url), helloapi.serve(t, url)}
			doc.replay(t, with, replicas[0], key)
			checkBuiltIn(t, replicas[1], "/notes", "/notes/none", key, 404)
			first := postNote(t, replicas[0], key, "restart")
			if again := postNote(t, replicas[1], key, "restart"); again != first {
				t.Errorf("by another replica: %s, want the first answer %s", again, first)
			}
			other := strings.TrimSpace(helloapi.run(t, url, "keys", "create", "other", "--plan", "paid"))
			if r := replicas[0].get(t, "/notes", other); r.body != "[]" {
				t.Errorf("another key sees %s", r)
			}

			for _, p := range replicas {
				p.kill()
			}
			p := helloapi.serve(t, url)
			if again := postNote(t, p, key, "restart"); again != first {
				t.Errorf("after a restart: %s, want the first answer %s", again, first)
			}
		})

		t.Run("its tests", func(t *testing.T) {
			runGo(t, dir, endpointDoc+": its tests", "test", "-trimpath", "./internal/notes")
		})
	})
}

// postNote makes a note, or repeats to, and returns the answer.
func postNote(t *testing.T, p *process, key, idempotencyKey string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+"/notes", strings.NewReader(`{"text":"a"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true // leave no connection behind
	r.Header.Set("X-Api-Key", key)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Idempotency-Key", idempotencyKey)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("POST /notes: %d %s %v", resp.StatusCode, body, err)
	}
	return string(body)
}

// size counts the lines that a section has a reader write: in the endpoint's
// folder and its migrations, without its tests, and elsewhere.
func (d docPage) size(section string) (folder, elsewhere int) {
	for _, b := range d.blocks {
		switch {
		case b.section != section || b.path == "" || strings.HasSuffix(b.path, "_test.go"):
		case b.lang == "diff":
			elsewhere += len(regexp.MustCompile(`(?m)^\+`).FindAllString(b.text, -1))
		default:
			folder += strings.Count(b.text, "\n")
		}
	}
	return folder, elsewhere
}

var docRoute = regexp.MustCompile(`(?m)^\+.*Method: "(\w+)", Path: "([^"]+)"`)

// routes are the endpoints that a section adds, like "GET /notes/{id}".
func (d docPage) routes(section string) (routes []string) {
	for _, b := range d.blocks {
		if b.section == section && b.lang == "diff" {
			for _, m := range docRoute.FindAllStringSubmatch(b.text, -1) {
				routes = append(routes, m[1]+" "+m[2])
			}
		}
	}
	return routes
}

// calls reports whether a command of the section calls the route.
func (d docPage) calls(section, route string) bool {
	method, path, _ := strings.Cut(route, " ")
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		if strings.HasPrefix(segment, "{") {
			segments[i] = `[^/?' ]+`
		} else {
			segments[i] = regexp.QuoteMeta(segment)
		}
	}
	target := regexp.MustCompile(`http://localhost:8080` + strings.Join(segments, "/") + `(\?|'|$)`)
	for _, b := range d.blocks {
		if b.section != section || b.lang != "console" {
			continue
		}
		for line := range strings.Lines(b.text) {
			if strings.HasPrefix(line, "$ curl") && target.MatchString(strings.TrimSpace(line)) && strings.Contains(line, "--json") == (method == "POST") {
				return true
			}
		}
	}
	return false
}

// checkBuiltIn checks what the page says comes by itself, on two targets of an
// endpoint: one that it serves and one that it refuses.
func checkBuiltIn(t *testing.T, p *process, good, bad, key string, badStatus int) {
	t.Helper()
	for _, test := range []struct {
		method, target, key string
		status              int
		headers             map[string]string // regular expressions
	}{
		{"GET", good, key, 200, map[string]string{"RateLimit": `^"quota";r=\d+;t=\d+$`, "RateLimit-Policy": `^"quota";q=5000;w=86400, "throttle";q=200;w=2$`}},
		{"GET", bad, key, badStatus, nil},
		{"GET", good, "", 403, nil},
		{"GET", good, "hk_wrong", 403, nil},
		{"PUT", good, key, 405, map[string]string{"Allow": `^GET(, POST)?$`}},
		{"GET", "/nowhere", key, 404, nil},
	} {
		r, err := p.request(test.method, test.target, test.key)
		if err != nil {
			t.Fatal(err)
		}
		if r.StatusCode != test.status {
			t.Errorf("%s %s with key %q: %v, want %d", test.method, test.target, test.key, r, test.status)
		}
		for name, want := range map[string]string{"Access-Control-Allow-Origin": `^\*$`, "X-Request-Id": `.`} {
			if !regexp.MustCompile(want).MatchString(r.Header.Get(name)) {
				t.Errorf("%s %s: header %s: %q, want %s", test.method, test.target, name, r.Header.Get(name), want)
			}
		}
		for name, want := range test.headers {
			if !regexp.MustCompile(want).MatchString(r.Header.Get(name)) {
				t.Errorf("%s %s: header %s: %q, want %s", test.method, test.target, name, r.Header.Get(name), want)
			}
		}
	}
	route, _, _ := strings.Cut(good, "?")
	p.waitFor(t, regexp.MustCompile(`msg=request .*route=`+route+` status=200`))
}

// TestDriftedDoc: the author of a change that the page has to follow is told so.
func TestDriftedDoc(t *testing.T) {
	doc, err := parseDoc("# Title\n\n## Recipe\n\n```diff a.go\n@@ first\n+\tnew\n \tplace\n@@ later\n \tend\n+\tlast\n```\n")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		files moduleFiles
		want  string // the file then, or the error
	}{
		"as written": {moduleFiles{"a.go": "\tone\n\tplace\n\tend\n"}, "\tone\n\tnew\n\tplace\n\tend\n\tlast\n"},
		"no file":    {moduleFiles{}, endpointDoc + ":5: it edits a.go, which is not there"},
		"no place":   {moduleFiles{"a.go": "\tplaces\n\tend\n"}, endpointDoc + ":5: it edits a.go at lines that are not there (the code has changed: let the page follow it):\n \tplace"},
		"two places": {moduleFiles{"a.go": "\tplace\n\tplace\n\tend\n"}, endpointDoc + ":5: it edits a.go at lines that are there 2 times (give more of the lines around):\n \tplace"},
	} {
		got := ""
		if err := test.files.apply(doc.blocks, "Recipe"); err != nil {
			got = err.Error()
		} else {
			got = test.files["a.go"]
		}
		if got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

// A docBlock is a block of code on the page.
type docBlock struct {
	section string // the heading it stands under
	line    int    // where it starts
	lang    string // "diff" is an edit of a file, "console" what a person types and sees, others a new file
	path    string // the file, "" for "console"
	text    string
}

// A docPage is the page, taken apart.
type docPage struct {
	blocks []docBlock
	prose  string // all that is not in a block
}

func parseDoc(text string) (docPage, error) {
	var (
		page    docPage
		prose   strings.Builder
		section string
		block   *docBlock
	)
	n := 0
	for line := range strings.Lines(text) {
		n++
		fence, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case isFence && block == nil:
			lang, path, _ := strings.Cut(fence, " ")
			if (lang == "console") != (path == "") {
				return page, fmt.Errorf("%s:%d: a block starts with ```console, or ```LANGUAGE and the path of its file", endpointDoc, n)
			}
			block = &docBlock{section: section, line: n, lang: lang, path: path}
		case isFence:
			page.blocks = append(page.blocks, *block)
			block = nil
		case block != nil:
			block.text += line
		default:
			if heading, ok := strings.CutPrefix(line, "## "); ok {
				section = strings.TrimSpace(heading)
			}
			prose.WriteString(line)
		}
	}
	if block != nil {
		return page, fmt.Errorf("%s:%d: this block does not end", endpointDoc, block.line)
	}
	page.prose = prose.String()
	return page, nil
}

var (
	codeSpan = regexp.MustCompile("`([^`]+)`")
	repoPath = regexp.MustCompile(`^(?:\./)?((?:\.ci|cmd|deploy|docs|internal|migrations)(?:/[\w.-]+)+)/?$`)
)

// paths returns the paths in this repository that the prose mentions.
func (d docPage) paths() []string {
	var paths []string
	for _, span := range codeSpan.FindAllStringSubmatch(d.prose, -1) {
		for _, word := range strings.Fields(span[1]) { // a path may be in a command
			if m := repoPath.FindStringSubmatch(word); m != nil {
				paths = append(paths, m[1])
			}
		}
	}
	return paths
}

// docRandom finds what differs from one run to the next.
var docRandom = regexp.MustCompile(`"roll":(\d+)|"id":"(\w{26})"`)

// replay runs the commands of a section against p, and expects what stands
// below them. An id that the page shows stands for the one that p gave.
func (d docPage) replay(t *testing.T, section string, p *process, key string) {
	t.Helper()
	ids := map[string]string{}
	requests := 0
	for _, b := range d.blocks {
		if b.section != section || b.lang != "console" {
			continue
		}
		for step := range strings.SplitSeq(strings.TrimPrefix(b.text, "$ "), "\n$ ") {
			command, want, _ := strings.Cut(step, "\n")
			if !strings.HasPrefix(command, "curl") {
				continue
			}
			run := strings.ReplaceAll(command, "http://localhost:8080", p.url)
			for shown, id := range ids {
				run, want = strings.ReplaceAll(run, shown, id), strings.ReplaceAll(want, shown, id)
			}
			cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(run, "curl", "curl -sS --max-time 20", 1))
			cmd.Env = append(cmd.Environ(), "KEY="+key)
			out, err := cmd.CombinedOutput()
			got := string(out)
			if err != nil {
				t.Errorf("%s:%d: %s: %v\n%s", endpointDoc, b.line, command, err, got)
			}
			want = strings.TrimSuffix(want, "\n")
			if docRandom.ReplaceAllString(got, "random") != docRandom.ReplaceAllString(want, "random") {
				t.Errorf("%s:%d: %s\nis answered\n%s\nbut the page says\n%s", endpointDoc, b.line, command, got, want)
			}
			shown, given := docRandom.FindStringSubmatch(want), docRandom.FindStringSubmatch(got)
			if shown != nil && given != nil && shown[2] != given[2] {
				for s := range ids {
					if ids[s] == shown[2] {
						t.Errorf("%s:%d: %s\nis answered\n%s\nwith another id than before", endpointDoc, b.line, command, got)
					}
				}
				ids[shown[2]] = given[2]
			}
			requests++
		}
	}
	if requests == 0 {
		t.Fatalf("%s: no requests under %q", endpointDoc, section)
	}
}

// moduleFiles are what a program of this module is built from, by path.
type moduleFiles map[string]string

func readModule(root string) (moduleFiles, error) {
	files := moduleFiles{}
	for _, top := range []string{"cmd", "internal", "migrations", "go.mod", "go.sum"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || strings.HasSuffix(p, "_test.go") {
				return err
			}
			rel, err := filepath.Rel(root, p)
			if err != nil {
				return err
			}
			b, err := os.ReadFile(p)
			files[filepath.ToSlash(rel)] = string(b)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

// apply makes the files and the edits of a section.
func (m moduleFiles) apply(blocks []docBlock, section string) error {
	number, err := m.nextMigration()
	if err != nil {
		return err
	}
	applied := 0
	for _, b := range blocks {
		if b.section != section || b.path == "" {
			continue
		}
		applied++
		p := strings.ReplaceAll(b.path, "NNNNN", number)
		old, found := m[p]
		if b.lang != "diff" {
			if found {
				return fmt.Errorf("%s:%d: it makes %s, which is there already", endpointDoc, b.line, p)
			}
			m[p] = b.text
			continue
		}
		if !found {
			return fmt.Errorf("%s:%d: it edits %s, which is not there", endpointDoc, b.line, p)
		}
		if m[p], err = patch(old, b.text); err != nil {
			return fmt.Errorf("%s:%d: it edits %s at lines that are %w", endpointDoc, b.line, p, err)
		}
	}
	if applied == 0 {
		return fmt.Errorf("%s: no code under %q", endpointDoc, section)
	}
	return nil
}

// patch makes the edits of a diff whose hunks have no line numbers.
func patch(file, diff string) (string, error) {
	for _, hunk := range regexp.MustCompile(`(?m)^@@.*\n`).Split(diff, -1) {
		if hunk == "" { // before a first @@
			continue
		}
		var before, after, shown strings.Builder
		for line := range strings.Lines(hunk) {
			switch line[0] {
			case '+':
				after.WriteString(line[1:])
			case '-':
				before.WriteString(line[1:])
				shown.WriteString(line)
			case ' ':
				before.WriteString(line[1:])
				after.WriteString(line[1:])
				shown.WriteString(line)
			default:
				return "", fmt.Errorf("not marked by a space, + or -:\n%s", strings.TrimRight(line, "\n"))
			}
		}
		// Whole lines: "\n" before each.
		text, place := "\n"+file, "\n"+before.String()
		where := strings.TrimRight(shown.String(), "\n")
		places, at := 0, 0
		for i := 0; ; i = at + 1 {
			n := strings.Index(text[i:], place)
			if n < 0 {
				break
			}
			places, at = places+1, i+n
		}
		switch {
		case where == "" || places == 0:
			return "", fmt.Errorf("not there (the code has changed: let the page follow it):\n%s", where)
		case places > 1:
			return "", fmt.Errorf("there %d times (give more of the lines around):\n%s", places, where)
		}
		file = (text[:at] + "\n" + after.String() + text[at+len(place):])[1:]
	}
	return file, nil
}

// nextMigration is the next free number: the databases have the same.
func (m moduleFiles) nextMigration() (string, error) {
	last := map[string]int{}
	for p := range m {
		dir, name := path.Split(p)
		if path.Ext(name) != ".sql" || path.Dir(path.Clean(dir)) != "migrations" {
			continue
		}
		number, _, _ := strings.Cut(name, "_")
		n, err := strconv.Atoi(number)
		if err != nil {
			return "", fmt.Errorf("the migration %s has no number", p)
		}
		last[dir] = max(last[dir], n)
	}
	if pg, lite := last["migrations/postgres/"], last["migrations/sqlite/"]; pg != lite {
		return "", fmt.Errorf("the last migration for PostgreSQL is %d and for SQLite %d: they have the same numbers", pg, lite)
	}
	return fmt.Sprintf("%05d", last["migrations/postgres/"]+1), nil
}

// checkFormat checks the Go files that repo did not have, or not like this.
func (m moduleFiles) checkFormat(t *testing.T, repo moduleFiles) {
	t.Helper()
	for p, text := range m {
		if path.Ext(p) != ".go" || text == repo[p] {
			continue
		}
		switch formatted, err := format.Source([]byte(text)); {
		case err != nil:
			t.Errorf("%s: %s: %v", endpointDoc, p, err)
		case string(formatted) != text:
			t.Errorf("%s: gofmt would change %s: put the added lines where it would, aligned", endpointDoc, p)
		}
	}
}

// follow returns the module after one or more sections were followed in order.
func (m moduleFiles) follow(t *testing.T, doc docPage, sections ...string) moduleFiles {
	t.Helper()
	edited := maps.Clone(m)
	for _, section := range sections {
		if err := edited.apply(doc.blocks, section); err != nil {
			t.Fatal(err)
		}
	}
	return edited
}

// vet compiles and vets the module, in dir. What is reported is the fault of
// the section.
func (m moduleFiles) vet(t *testing.T, dir, section string) {
	t.Helper()
	m.write(t, dir)
	runGo(t, dir, endpointDoc+": after "+section, "vet", "-trimpath", "./...")
}

// build builds the program, in dir.
func (m moduleFiles) build(t *testing.T, dir string) program {
	t.Helper()
	m.write(t, dir)
	bin := filepath.Join(t.TempDir(), "helloapi")
	runGo(t, dir, endpointDoc+": after all of it", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "./cmd/helloapi")
	return program(bin)
}

// write makes the module all that is in dir.
func (m moduleFiles) write(t *testing.T, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for p, text := range m {
		p = filepath.Join(dir, filepath.FromSlash(p))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// runGo runs a go command in dir. It compiles as make build does, so that what
// that has built is taken from the cache: -trimpath has it there for a copy too.
func runGo(t *testing.T, dir, when string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: go %s: %v\n%s", when, strings.Join(args, " "), err, out)
	}
}

// A program is the path of a built helloapi.
type program string

// command returns a command with no settings but these.
func (b program) command(ctx context.Context, databaseURL string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, string(b), args...)
	cmd.Env = []string{"DATABASE_URL=" + databaseURL, "ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0"}
	return cmd
}

// run runs a command to its end and returns what it printed.
func (b program) run(t *testing.T, databaseURL string, args ...string) string {
	t.Helper()
	cmd := b.command(t.Context(), databaseURL, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("helloapi %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return string(out)
}

// A process is a helloapi that serves.
type process struct {
	url  string
	kill func() // ends it at once, and waits until it has

	mu    sync.Mutex
	log   []string      // guarded by mu
	ended bool          // guarded by mu; whether log is complete
	more  chan struct{} // guarded by mu; closed when log or ended changes
}

// serve starts to serve from a database, until the end of the test.
func (b program) serve(t *testing.T, databaseURL string) *process {
	t.Helper()
	cmd := b.command(context.Background(), databaseURL, "serve")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{more: make(chan struct{})}
	read := make(chan struct{})
	go func() {
		defer close(read)
		p.readLog(stderr)
	}()
	p.kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill() // fails only if it has ended
		<-read
		_ = cmd.Wait() // "signal: killed"
	})
	t.Cleanup(p.kill)
	p.url = "http://" + p.waitFor(t, regexp.MustCompile(`msg=serving addr=(\S+)`))[1]
	return p
}

func (p *process) readLog(stderr io.Reader) {
	changed := func(f func()) {
		p.mu.Lock()
		defer p.mu.Unlock()
		f()
		close(p.more)
		p.more = make(chan struct{})
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		changed(func() { p.log = append(p.log, lines.Text()) })
	}
	changed(func() { p.ended = true })
}

// waitFor waits for a line of the log and returns its submatches.
func (p *process) waitFor(t *testing.T, line *regexp.Regexp) []string {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		p.mu.Lock()
		log, ended, more := p.log, p.ended, p.more
		p.mu.Unlock()
		for _, l := range log {
			if m := line.FindStringSubmatch(l); m != nil {
				return m
			}
		}
		if ended {
			t.Fatalf("helloapi ended without logging %s:\n%s", line, strings.Join(log, "\n"))
		}
		select {
		case <-more:
		case <-timeout:
			t.Fatalf("helloapi did not log %s:\n%s", line, strings.Join(log, "\n"))
		}
	}
}

// firstKey returns the key that the page says to take of those that the first
// start makes. Where no person sees standard output they are in a file beside
// the database.
func firstKey(t *testing.T, databaseURL string) string {
	t.Helper()
	files, err := filepath.Glob(strings.TrimPrefix(databaseURL, "sqlite:") + ".keys-*.csv")
	if err != nil || len(files) != 1 {
		t.Fatalf("files of keys: %v, %v", files, err)
	}
	rows, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^.*\btestkey2\b.*$`).Find(rows)
	value := regexp.MustCompile(`hk_\w+`).Find(m)
	if value == nil {
		t.Fatalf("the first start made no testkey2: the file has %d bytes", len(rows))
	}
	return string(value)
}

// A reply is an answer with its body read.
type reply struct {
	*http.Response
	body string
}

func (r reply) String() string {
	if r.Response == nil {
		return "no answer"
	}
	return r.Status + " " + r.body
}

// request asks p as a page of another origin would.
func (p *process) request(method, target, key string) (reply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, p.url+target, nil)
	if err != nil {
		return reply{}, err
	}
	req.Header.Set("Origin", "https://app.example.com")
	if key != "" {
		req.Header.Set("X-Api-Key", key)
	}
	req.Close = true // leave no connection behind
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return reply{resp, string(body)}, err
}

func (p *process) get(t *testing.T, target, key string) reply {
	t.Helper()
	r, err := p.request(http.MethodGet, target, key)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
