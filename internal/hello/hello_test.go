package hello

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"helloapi/internal/web"
)

// greetings counts in memory.
type greetings struct {
	counts map[string]int64
	err    error // if not nil: what Greet fails with
}

func (g *greetings) Greet(_ context.Context, name string) (int64, error) {
	if g.err != nil {
		return 0, g.err
	}
	if g.counts == nil {
		g.counts = map[string]int64{}
	}
	g.counts[name]++
	return g.counts[name], nil
}

// get asks the endpoint with a raw query, just as it stands.
func get(t *testing.T, g Greetings, query string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/hello", nil)
	r.URL.RawQuery = query
	w := httptest.NewRecorder()
	Handler(g).ServeHTTP(w, r)
	return w
}

func TestGreets(t *testing.T) {
	t.Parallel()
	times := strings.Repeat
	tests := []struct {
		name  string
		query string
		want  string // who is greeted
	}{
		{"no query", "", "anonymous"},
		{"another parameter", "nome=brooks", "anonymous"},
		{"the parameter's case counts", "Name=brooks", "anonymous"},
		{"empty", "name=", "anonymous"},
		{"without =", "name", "anonymous"},
		{"one", "name=brooks", "brooks"},
		{"last of several", "name=a&name=b&name=c", "c"},
		{"last is empty", "name=a&name=", "anonymous"},
		{"only the last is not", "name=&name=a", "a"},
		{"one that is not the last is bad", "name=%00&name=a", "a"},
		{"among others", "x=1&name=a&y=2", "a"},
		{"empty parameters", "&&name=a&", "a"},
		{"= in the name", "name=a=b", "a=b"},
		{"encoded parameter", "n%61me=a", "a"},

		{"+ is a space", "name=Ada+Lovelace", "Ada Lovelace"},
		{"%20 too", "name=Ada%20Lovelace", "Ada Lovelace"},
		{"%2B is +", "name=C%2B%2B", "C++"},
		{"spaces are kept", "name=+a++b+", " a  b "},
		{"only a space", "name=+", " "},
		{"encoded", "name=%62%72%6F%6fks", "brooks"},
		{"encoded &, =, ; and %", "name=%26%3D%3B%25", "&=;%"},
		{"UTF-8", "name=Zo%C3%AB", "Zoë"},
		{"UTF-8, not encoded", "name=Zoë", "Zoë"},
		{"beyond 16 bits", "name=%F0%9F%91%8B", "👋"},
		{"joined by U+200D", "name=👩‍💻", "👩‍💻"},
		{"HTML", "name=<b>%26'</b>", "<b>&'</b>"},
		{"format characters are no control characters", "name=%E2%80%8Fa%C2%AD", "\u200fa\u00ad"},
		{"a replacement character", "name=%EF%BF%BD", "\ufffd"},

		{"not folded: case", "name=BROOKS", "BROOKS"},
		{"not folded: width", "name=ＡＢＣ", "ＡＢＣ"},
		{"not folded: ligature", "name=ﬁ", "ﬁ"},
		{"NFC", "name=e%CC%81", "é"},
		{"NFC: order of marks", "name=a\u0301\u0323", "ạ\u0301"},
		{"NFC: ångström sign", "name=\u212b", "Å"},
		{"NFC: Hangul", "name=\u1112\u1161\u11ab", "한"},

		{"256 letters", "name=" + times("a", 256), times("a", 256)},
		{"256 code points of 2 bytes", "name=" + times("é", 256), times("é", 256)},
		{"256 code points of 4 bytes", "name=" + times("👋", 256), times("👋", 256)},
		{"512 that make 256", "name=" + times("e\u0301", 256), times("é", 256)},
		{"128 that make 256", "name=" + times("\u0958", 128), times("\u0915\u093c", 128)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := get(t, &greetings{}, tt.query)
			if want := fmt.Sprintf(`{"message":"Hello %s #1!"}`, tt.want); w.Code != http.StatusOK || w.Body.String() != want {
				t.Errorf("%s: answered %d %s, want 200 %s", tt.query, w.Code, w.Body, want)
			}
			if got := w.Header().Get("Content-Type"); got != "application/json" {
				t.Errorf("Content-Type %q", got)
			}
		})
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	times := strings.Repeat
	tests := []struct {
		name  string
		query string
		want  string // what the message speaks of
	}{
		{"%zz", "name=%zz", "query"},
		{"% at the end", "name=a%", "query"},
		{"% and a digit at the end", "name=a%2", "query"},
		{"%zz in another parameter", "x=%zz&name=a", "query"},
		{"%zz in the parameter's name", "na%zze=a", "query"},
		{";", "name=a;b", "query"},
		{"; between parameters", "x=1;name=a", "query"},

		{"stray byte", "name=%FF", "UTF-8"},
		{"stray byte, not encoded", "name=\xff", "UTF-8"},
		{"Latin-1", "name=Zo%EB", "UTF-8"},
		{"cut short", "name=%E2%82", "UTF-8"},
		{"overlong", "name=%C0%80", "UTF-8"},
		{"surrogate", "name=%ED%A0%80", "UTF-8"},
		{"beyond Unicode", "name=%F4%90%80%80", "UTF-8"},

		{"NUL", "name=%00", "control"},
		{"NUL within", "name=a%00b", "control"},
		{"newline", "name=a%0A", "control"},
		{"tab", "name=%09", "control"},
		{"tab, not encoded", "name=\t", "control"},
		{"escape", "name=%1B[2J", "control"},
		{"DEL", "name=%7F", "control"},
		{"U+0080", "name=%C2%80", "control"},
		{"U+0085", "name=a%C2%85", "control"},
		{"U+009F", "name=%C2%9F", "control"},

		{"257 letters", "name=" + times("a", 257), "256"},
		{"257 code points of 2 bytes", "name=" + times("é", 257), "256"},
		{"514 that make 257", "name=" + times("e\u0301", 257), "256"},
		{"129 that make 258", "name=" + times("\u0958", 129), "256"},
		{"very long", "name=" + times("a", 1<<20), "256"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var g greetings
			w := get(t, &g, tt.query)
			if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), tt.want) {
				t.Errorf("answered %d %s, want 400 about %q", w.Code, w.Body, tt.want)
			}
			if !strings.HasPrefix(w.Body.String(), `{"message":"`) {
				t.Errorf("body %s", w.Body)
			}
			if len(g.counts) > 0 {
				t.Errorf("counted all the same: %v", g.counts)
			}
		})
	}
}

func TestCounts(t *testing.T) {
	t.Parallel()
	var g greetings
	for _, tt := range []struct{ query, want string }{
		{"name=Zoë", "Hello Zoë #1!"},
		{"name=Zoe%CC%88", "Hello Zoë #2!"}, // one name, written in two ways
		{"name=Zo%C3%AB", "Hello Zoë #3!"},
		{"name=zoë", "Hello zoë #1!"},
		{"name=Zoe", "Hello Zoe #1!"},
		{"name=Ｚｏｅ", "Hello Ｚｏｅ #1!"},
		{"name=Zoe+", "Hello Zoe  #1!"},
		{"", "Hello anonymous #1!"},
		{"name=", "Hello anonymous #2!"},
		{"name=anonymous", "Hello anonymous #3!"},
	} {
		if got, want := get(t, &g, tt.query).Body.String(), `{"message":"`+tt.want+`"}`; got != want {
			t.Errorf("%q: got %s, want %s", tt.query, got, want)
		}
	}
}

// The body is JSON, so what JSON has to escape is, and nothing more.
func TestBody(t *testing.T) {
	t.Parallel()
	w := get(t, &greetings{}, `name=<"\>`)
	want := `{"message":"Hello <\"\\> #1!"}` // no newline
	if got := w.Body.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := w.Header().Get("Content-Length"); got != fmt.Sprint(len(want)) {
		t.Errorf("Content-Length %s, want %d", got, len(want))
	}
}

func TestStoreFails(t *testing.T) {
	t.Parallel()
	for _, err := range []error{errors.New("no route to db.internal"), context.DeadlineExceeded} {
		w := get(t, &greetings{err: err}, "name=a")
		if w.Code != http.StatusServiceUnavailable || w.Body.String() != `{"message":"Service Unavailable"}` {
			t.Errorf("%v: answered %d %s", err, w.Code, w.Body)
		}
		if got := w.Header().Get("Retry-After"); got != "1" {
			t.Errorf("%v: Retry-After %q, want 1", err, got)
		}
	}
}

// nameOf is how the handler comes from a query to a name.
func nameOf(query string) (string, error) {
	values, err := web.Query(&http.Request{URL: &url.URL{RawQuery: query}})
	if err != nil {
		return "", err
	}
	name, err := nameFrom(values["name"])
	if err != nil {
		err = statuses.Answer(err)
	}
	return name, err
}

func FuzzName(f *testing.F) {
	for _, query := range []string{
		"", "name=", "name=a&name=b", "name=a+b", "name=%zz", "name=a;b", "name=%FF", "name=%00", "name=%C2%85",
		"name=e%CC%81", "name=" + strings.Repeat("a", 257), "name=" + strings.Repeat("e\u0301", 256),
		"name=a" + strings.Repeat("\u0301\u0323", 40), "name=\u0344\u0f73\u1112\u1161\u11ab", "n%61me=\u0958",
	} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		name, err := nameOf(query)
		if err != nil {
			e, ok := errors.AsType[*web.Error](err)
			if !ok || e.Status != http.StatusBadRequest || e.Message == "" {
				t.Errorf("nameOf(%q): %v, want a 400 with a message", query, err)
			}
			return
		}
		if !utf8.ValidString(name) || !norm.NFC.IsNormalString(name) {
			t.Errorf("nameOf(%q) = %+q, which is not UTF-8 in NFC", query, name)
		}
		if n := utf8.RuneCountInString(name); n < 1 || n > 256 {
			t.Errorf("nameOf(%q) = %q, which has %d code points", query, name, n)
		}
		for _, r := range name {
			if unicode.Is(unicode.Cc, r) {
				t.Errorf("nameOf(%q) = %q, which has the control character %U", query, name, r)
			}
		}
		// Who is greeted by the name that was returned is the same.
		if again, err := nameOf("name=" + url.QueryEscape(name)); err != nil || again != name {
			t.Errorf("nameOf(%q) = %q, whose own name is %q, %v", query, name, again, err)
		}
	})
}
