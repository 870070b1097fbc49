package web_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"helloapi/internal/web"
)

func TestRoutePath(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ target, want string }{
		{"/", "/"},
		{"/hello", "/hello"},
		{"/hello/", "/hello"},
		{"/hello//", "/hello/"},
		{"//hello", "//hello"},
		{"/Hello", "/Hello"},
		{"/%68ello", "/hello"},
		{"/%68%65%6C%6c%6f/", "/hello"},
		{"/%7Ehello%2D%5f%2E", "/~hello-_."},
		{"/hello%2F", "/hello%2F"},
		{"/hello%2f", "/hello%2F"},
		{"/hello%2F/", "/hello%2F"},
		{"/%2Fhello", "/%2Fhello"},
		{"/hello%20", "/hello "},
		{"/hello%3Fname=a", "/hello?name=a"},
		{"/hello%00", "/hello\x00"},
		{"/hello%252F", "/hello%2F"}, // a per cent sign, which is not a slash either
		{"/notes/a%20b", "/notes/a b"},
		{"/notes/b%C3%BCcher", "/notes/bücher"},
		{"/notes/b%c3%bcch%65r", "/notes/bücher"},
		{"/notes/a%2fb%20c", "/notes/a%2Fb%20c"},
		{"/x/%2e%2e/hello", "/x/../hello"},
		{"*", "*"},
		{"http://host/%68ello/", "/hello"},
		{"http://host", ""},
	} {
		u, err := url.ParseRequestURI(tt.target)
		if err != nil {
			t.Errorf("%s: %v", tt.target, err)
		} else if got := web.RoutePath(u); got != tt.want {
			t.Errorf("RoutePath(%s) = %q, want %q", tt.target, got, tt.want)
		}
	}
}

// Whatever a client encodes of what needs no encoding, the route is the same.
func FuzzRoutePath(f *testing.F) {
	for _, s := range []string{"/hello", "/hello/", "/hello%2f", "/a%20b/%c3%bc", "/%", "//x", "/%25%32%46"} {
		f.Add(s, uint64(0b10110))
	}
	f.Fuzz(func(t *testing.T, target string, which uint64) {
		u, err := url.ParseRequestURI(target)
		if err != nil || !strings.HasPrefix(target, "/") || strings.Contains(target, "?") {
			t.Skip()
		}
		want := web.RoutePath(u)
		var other strings.Builder
		for i := 0; i < len(target); i++ {
			c := target[i]
			switch {
			case c == '%': // with its digits, in the other case
				if escape := target[i : i+3]; which>>(i%64)&1 == 0 {
					other.WriteString(strings.ToLower(escape))
				} else {
					other.WriteString(strings.ToUpper(escape))
				}
				i += 2
			case which>>(i%64)&1 == 1 && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '~'):
				fmt.Fprintf(&other, "%%%02x", c)
			default:
				other.WriteByte(c)
			}
		}
		v, err := url.ParseRequestURI(other.String())
		if err != nil {
			t.Fatalf("%q of %q: %v", other.String(), target, err)
		}
		if got := web.RoutePath(v); got != want {
			t.Errorf("%q is routed as %q, and %q as %q", target, want, other.String(), got)
		}
	})
}

// A path that is spelled in another way is the same to routes, to what is
// allowed, and to the metrics.
func TestSpellingsOfAPath(t *testing.T) {
	t.Parallel()
	for target, known := range map[string]bool{
		"/hello": true, "/%68ello": true, "/hell%6F/": true, "/hello/?a=%2F": true,
		"/hello%2F": false, "/hello%2f/": false, "/%2Fhello": false, "/hello%20": false,
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "OPTIONS", "TRACE", "BREW"} {
			f := newFrame()
			w := serve(routes(f), method, target)
			status, route, allow := 404, "", ""
			switch {
			case known && method == http.MethodGet:
				status, route = 200, "/hello"
			case known:
				status, allow = 405, "GET"
			}
			rec := f.record(t)
			if w.Code != status || w.Header().Get("Allow") != allow || route != "" && rec["route"] != route {
				t.Errorf("%s %s: answered %d, Allow %q, route %v; want %d, %q, %q",
					method, target, w.Code, w.Header().Get("Allow"), rec["route"], status, allow, route)
			}
		}
	}
}
