// Package pages is the front door: what a person with a browser finds. All of
// it is in the binary, and costs no store anything.
package pages

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/swaggest/swgui/v5/static"

	"helloapi/internal/web"
)

// files are the pages and assets of our own.
//
//go:embed *.html *.css *.js *.svg *.txt
var files embed.FS

const (
	html       = "text/html; charset=utf-8"
	css        = "text/css; charset=utf-8"
	javascript = "text/javascript; charset=utf-8"
	svg        = "image/svg+xml"
	json       = "application/json"
	text       = "text/plain; charset=utf-8"
)

// New returns every page and asset. document is the contract, as OpenAPI.
func New(document []byte) ([]*Page, error) {
	var s site
	s.add("/openapi.json", json, document)

	s.file("/assets/docs.css", css, "docs.css")
	s.file("/assets/docs.js", javascript, "docs.js")
	s.swagger("/assets/swagger-ui.css", css, "swagger-ui.css.gz")
	s.swagger("/assets/swagger-ui.js", javascript, "swagger-ui-bundle.js.gz")
	s.file("/assets/swagger-ui-license.txt", text, "swagger-ui-license.txt")

	s.file("/assets/try.css", css, "try.css")
	s.file("/assets/try.js", javascript, "try.js")
	s.file("/assets/icon.svg", svg, "icon.svg")

	s.template("/docs", "docs.html", nil)
	s.hosted("/", "try.html")
	return s.pages, errors.Join(s.errs...)
}

// A Page is what is served at a path. It is safe for concurrent use.
type Page struct {
	Path string

	contentType string
	zipped      []byte // the content, by gzip
	version     string // changes with the content

	// Of a page that shows the URL of the server: its content is made of this.
	template *template.Template
	last     atomic.Pointer[hosted] // most clients use one URL
}

// hosted is a page as it is where the server has a URL.
type hosted struct {
	url  string
	page *Page
}

// contentSecurityPolicy lets a page load and call what is of its own origin,
// and nothing that is written in the page itself. Swagger UI has images in its
// style sheet.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// ServeHTTP answers GET and HEAD.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.template != nil {
		at, err := p.at(serverURL(r))
		if err != nil {
			web.Fail(w, r, err)
			return
		}
		p = at
	}
	h := w.Header()
	h.Set("Content-Security-Policy", contentSecurityPolicy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Add("Vary", "Accept-Encoding")
	if r.URL.RawQuery == p.query() {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	} else {
		h.Set("Cache-Control", "no-cache") // ask each time whether it is still this
	}
	zip := acceptsGzip(r.Header)
	etag := `"` + p.version + `"`
	if zip {
		etag = `"` + p.version + `-gzip"`
	}
	h.Set("ETag", etag)
	if matches(r.Header.Values("If-None-Match"), etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", p.contentType)
	size := p.size()
	if zip {
		h.Set("Content-Encoding", "gzip")
		size = len(p.zipped)
	}
	h.Set("Content-Length", strconv.Itoa(size))
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	if err := p.write(w, zip); err != nil {
		web.RecordOf(r.Context()).Note(fmt.Errorf("write answer: %w", err))
	}
}

// at returns the page as it is where the server has a URL.
func (p *Page) at(url string) (*Page, error) {
	if last := p.last.Load(); last != nil && last.url == url {
		return last.page, nil
	}
	var content bytes.Buffer
	data := struct{ Curl string }{"curl -H 'x-api-key: hk_…' \\\n  '" + strings.ReplaceAll(url, "'", `'\''`) + "/hello?name=world'"}
	if err := p.template.Execute(&content, data); err != nil {
		return nil, err
	}
	page, err := newPage(p.Path, p.contentType, content.Bytes())
	if err == nil {
		p.last.Store(&hosted{url, page})
	}
	return page, err
}

// serverURL is the URL of this server for the client of a request, without a
// slash at the end. Who ends TLS before this server says so.
func serverURL(r *http.Request) string {
	scheme := "http://"
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
		scheme = "https://"
	}
	return scheme + r.Host
}

func (p *Page) write(w io.Writer, zip bool) error {
	if zip {
		_, err := w.Write(p.zipped)
		return err
	}
	plain, err := gzip.NewReader(bytes.NewReader(p.zipped))
	if err != nil {
		return err
	}
	_, err = io.Copy(w, plain)
	return err
}

// size is how many bytes the content has: the last four of a gzip file say so
// (RFC 1952).
func (p *Page) size() int {
	return int(binary.LittleEndian.Uint32(p.zipped[len(p.zipped)-4:]))
}

// query is that of a URL under which this content, and no other, is served. A
// replica of another version serves its own there, which may not be kept.
func (p *Page) query() string { return "v=" + p.version }

// acceptsGzip reports whether a client takes what is compressed.
func acceptsGzip(h http.Header) bool {
	for _, field := range h.Values("Accept-Encoding") {
		for coding := range strings.SplitSeq(field, ",") {
			name, params, _ := strings.Cut(coding, ";")
			q, weighted := strings.CutPrefix(strings.ReplaceAll(params, " ", ""), "q=")
			weight, err := strconv.ParseFloat(q, 64)
			if strings.EqualFold(strings.TrimSpace(name), "gzip") && (!weighted || err == nil && weight > 0) {
				return true
			}
		}
	}
	return false
}

// matches reports whether If-None-Match has the tag (RFC 9110, section 13.1.2).
func matches(fields []string, etag string) bool {
	for _, field := range fields {
		for tag := range strings.SplitSeq(field, ",") {
			tag = strings.TrimSpace(tag)
			if tag == "*" || strings.TrimPrefix(tag, "W/") == etag {
				return true
			}
		}
	}
	return false
}

// A site gathers pages, and what is wrong with them.
type site struct {
	pages []*Page
	errs  []error
}

// add adds what is served at a path.
func (s *site) add(path, contentType string, content []byte) {
	p, err := newPage(path, contentType, content)
	s.addPage(path, p, err)
}

func (s *site) addPage(path string, p *Page, err error) {
	if err != nil {
		s.errs = append(s.errs, fmt.Errorf("page %s: %w", path, err))
		return
	}
	s.pages = append(s.pages, p)
}

// zippers are used again: each holds most of a megabyte.
var zippers = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}

func newPage(path, contentType string, content []byte) (*Page, error) {
	var zipped bytes.Buffer
	w := zippers.Get().(*gzip.Writer)
	defer zippers.Put(w)
	w.Reset(&zipped)
	_, err := w.Write(content)
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	return newZipped(path, contentType, zipped.Bytes()), nil
}

func newZipped(path, contentType string, zipped []byte) *Page {
	sum := sha256.Sum256(zipped)
	version := base64.RawURLEncoding.EncodeToString(sum[:12])
	return &Page{Path: path, contentType: contentType, zipped: zipped, version: version}
}

// file adds a file of this package.
func (s *site) file(path, contentType, name string) {
	content, err := files.ReadFile(name)
	if err != nil {
		s.errs = append(s.errs, fmt.Errorf("page %s: %w", path, err))
		return
	}
	s.add(path, contentType, content)
}

// swagger adds a file of Swagger UI.
func (s *site) swagger(path, contentType, name string) {
	content, err := static.FS.ReadFile(name)
	if err == nil && !strings.HasSuffix(name, ".gz") {
		s.add(path, contentType, content)
		return
	}
	s.addPage(path, newZipped(path, contentType, content), err)
}

// template adds a page of html/template. It has {{asset "/assets/docs.js"}},
// the URL of an asset that was added before.
func (s *site) template(path, name string, data any) {
	t, err := s.parse(name)
	var content bytes.Buffer
	if err == nil {
		err = t.Execute(&content, data)
	}
	if err != nil {
		s.errs = append(s.errs, fmt.Errorf("page %s: %w", path, err))
		return
	}
	s.add(path, html, content.Bytes())
}

// hosted adds a page of html/template that shows the URL of the server.
func (s *site) hosted(path, name string) {
	t, err := s.parse(name)
	p := &Page{Path: path, contentType: html, template: t}
	if err == nil {
		_, err = p.at("") // so that what is wrong with it is found now
	}
	s.addPage(path, p, err)
}

func (s *site) parse(name string) (*template.Template, error) {
	return template.New(name).Funcs(template.FuncMap{"asset": s.asset}).ParseFS(files, name)
}

// asset returns the URL under which a client may keep an asset for good.
func (s *site) asset(path string) (string, error) {
	for _, p := range s.pages {
		if p.Path == path {
			return path + "?" + p.query(), nil
		}
	}
	return "", fmt.Errorf("there is no asset %s: add it before the page", path)
}
