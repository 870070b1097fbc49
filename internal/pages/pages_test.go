package pages_test

import (
	"compress/gzip"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"helloapi/internal/pages"
)

// get asks for a URL, with headers in pairs. The client unzips nothing itself.
func get(t *testing.T, all []*pages.Page, method, url string, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, url, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	for _, p := range all {
		if p.Path == r.URL.Path {
			w := httptest.NewRecorder()
			p.ServeHTTP(w, r)
			return w.Result()
		}
	}
	t.Fatalf("there is no page %s", url)
	return nil
}

func read(t *testing.T, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func newPages(t *testing.T) []*pages.Page {
	t.Helper()
	all, err := pages.New([]byte(`{"openapi": "3.1.0"}`))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Each page is served whole, compressed and not, and not again to who has it.
func TestPages(t *testing.T) {
	t.Parallel()
	all := newPages(t)
	for _, p := range all {
		t.Run(p.Path, func(t *testing.T) {
			t.Parallel()
			plain := get(t, all, "GET", p.Path)
			zipped := get(t, all, "GET", p.Path, "Accept-Encoding", "br, gzip")
			body, zippedBody := read(t, plain.Body), read(t, zipped.Body)
			z, err := gzip.NewReader(strings.NewReader(zippedBody))
			if err != nil {
				t.Fatal(err)
			}
			if unzipped := read(t, z); unzipped != body || body == "" {
				t.Errorf("unzipped it has %d bytes, not zipped %d", len(unzipped), len(body))
			}
			etags := map[string]bool{}
			for _, r := range []*http.Response{plain, zipped} {
				size := map[string]int{"": len(body), "gzip": len(zippedBody)}[r.Header.Get("Content-Encoding")]
				etags[r.Header.Get("ETag")] = true
				if r.StatusCode != 200 || r.Header.Get("Content-Length") != strconv.Itoa(size) || r.Header.Get("Cache-Control") != "no-cache" ||
					r.Header.Get("Vary") != "Accept-Encoding" || r.Header.Get("Content-Type") == "" ||
					r.Header.Get("Referrer-Policy") != "no-referrer" || !strings.Contains(r.Header.Get("Content-Security-Policy"), "default-src 'none'") {
					t.Errorf("%d %v, of %d bytes", r.StatusCode, r.Header, size)
				}
				for _, tag := range []string{r.Header.Get("ETag"), "W/" + r.Header.Get("ETag"), `"a", ` + r.Header.Get("ETag"), "*"} {
					again := get(t, all, "GET", p.Path, "If-None-Match", tag, "Accept-Encoding", r.Header.Get("Content-Encoding"))
					if got := read(t, again.Body); again.StatusCode != 304 || got != "" || again.Header.Get("ETag") != r.Header.Get("ETag") || again.Header.Get("Vary") == "" {
						t.Errorf("If-None-Match: %s: %d %v %.20s", tag, again.StatusCode, again.Header, got)
					}
				}
				if again := get(t, all, "GET", p.Path, "If-None-Match", `"a"`); again.StatusCode != 200 {
					t.Errorf("another version: %d", again.StatusCode)
				}
				head := get(t, all, "HEAD", p.Path, "Accept-Encoding", r.Header.Get("Content-Encoding"))
				if got := read(t, head.Body); head.StatusCode != 200 || got != "" || head.Header.Get("Content-Length") != r.Header.Get("Content-Length") {
					t.Errorf("HEAD: %d %v %.20s", head.StatusCode, head.Header, got)
				}
			}
			if len(etags) != 2 {
				t.Errorf("two encodings have the tags %v", etags)
			}
		})
	}
}

func TestAcceptEncoding(t *testing.T) {
	t.Parallel()
	all := newPages(t)
	for accept, want := range map[string]string{
		"gzip": "gzip", "GZIP": "gzip", "br;q=1, gzip;q=0.5": "gzip", "gzip ; q=0.001": "gzip",
		"": "", "br": "", "gzip;q=0": "", "gzip; q=0.000": "", "identity": "", "x-gzipped": "", "gzip;q=x": "",
	} {
		if got := get(t, all, "GET", "/docs", "Accept-Encoding", accept).Header.Get("Content-Encoding"); got != want {
			t.Errorf("Accept-Encoding %q: %q, want %q", accept, got, want)
		}
	}
}

// A page names each of its assets by the version it has, under which it may be
// kept for good; under another one, as of another replica, it may not.
func TestAssets(t *testing.T) {
	t.Parallel()
	all := newPages(t)
	n := 0
	for _, p := range all {
		page := get(t, all, "GET", p.Path)
		if !strings.HasPrefix(page.Header.Get("Content-Type"), "text/html") {
			continue
		}
		text := read(t, page.Body)
		for _, m := range regexp.MustCompile(`(?:src|href)="(/assets/[^"]*)"`).FindAllStringSubmatch(text, -1) {
			n++
			if got := get(t, all, "GET", m[1]).Header.Get("Cache-Control"); got != "public, max-age=31536000, immutable" {
				t.Errorf("%s of %s: Cache-Control %q", m[1], p.Path, got)
			}
			if got := get(t, all, "GET", m[1]+"x").Header.Get("Cache-Control"); got != "no-cache" {
				t.Errorf("another version of %s: Cache-Control %q", m[1], got)
			}
		}
		// The policy forbids what is written in the page, and what is elsewhere.
		if m := regexp.MustCompile(`(?i)<script(?:>| [^>]*[^s]>)[^<]|<style|\son\w+=|style=|(?:src|href)="?https?:`).FindString(text); m != "" {
			t.Errorf("%s has %s", p.Path, m)
		}
	}
	if n < 5 {
		t.Errorf("only %d assets were found", n)
	}
}

// The page to try the API has a line to paste that reaches this server, by the
// name and the scheme by which it was asked, whatever that name is.
func TestTryPage(t *testing.T) {
	t.Parallel()
	all := newPages(t)
	for _, c := range []struct{ url, host, proto, want string }{
		{"http://localhost:8080/", "", "", "http://localhost:8080/hello"},
		{"https://api.example.com/", "", "", "https://api.example.com/hello"},
		{"http://api.example.com/", "", "https", "https://api.example.com/hello"},
		{"http://api.example.com/", "", "gopher", "http://api.example.com/hello"},
		{"http://localhost/", `a'b"<script>`, "", `http://a'\''b"<script>/hello`},
	} {
		r := httptest.NewRequest("GET", c.url, nil)
		if c.host != "" {
			r.Host = c.host
		}
		if c.proto != "" {
			r.Header.Set("X-Forwarded-Proto", c.proto)
		}
		page := all[slices.IndexFunc(all, func(p *pages.Page) bool { return p.Path == "/" })]
		w := httptest.NewRecorder()
		page.ServeHTTP(w, r)
		body := read(t, w.Result().Body)
		want := html.EscapeString("curl -H 'x-api-key: hk_…' \\\n  '" + c.want + "?name=world'")
		if !strings.Contains(body, want) || strings.Contains(body, "<script>") {
			t.Errorf("%s %s %s: the page has not %s:\n%s", c.url, c.host, c.proto, want, body)
		}
	}
}
