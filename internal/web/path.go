package web

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/go-chi/chi/v5"
)

// NormalizePath routes by RoutePath.
func NormalizePath(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rctx := chi.RouteContext(r.Context()); rctx != nil {
			rctx.RoutePath = RoutePath(r.URL)
		}
		next.ServeHTTP(w, r)
	})
}

// RoutePath returns the path that u is routed by, so that all spellings of one
// URL (RFC 3986, section 6.2.2) get the same answer: /%68ello is /hello, and so
// is /hello/. What is encoded because it would mean something else, as the
// slash of /hello%2F, stays so; then the rest of the path does too.
func RoutePath(u *url.URL) string {
	path := normalizeEscapes(u.EscapedPath())
	if path == (&url.URL{Path: u.Path}).EscapedPath() {
		path = u.Path // decoded, as handlers want to read it
	}
	if len(path) > 1 {
		path = strings.TrimSuffix(path, "/")
	}
	return path
}

// normalizeEscapes decodes the unreserved characters of a path, and writes
// what stays encoded in capitals.
func normalizeEscapes(path string) string {
	if !strings.Contains(path, "%") {
		return path
	}
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] != '%' || i+2 >= len(path) {
			b.WriteByte(path[i])
			continue
		}
		escape := path[i : i+3]
		i += 2
		c, err := url.PathUnescape(escape)
		if err == nil && unreserved(c[0]) {
			b.WriteByte(c[0])
		} else {
			b.WriteString(strings.ToUpper(escape))
		}
	}
	return b.String()
}

// unreserved reports whether c means the same encoded and not (RFC 3986,
// section 2.3).
func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0
}
