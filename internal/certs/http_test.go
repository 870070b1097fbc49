package certs

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// An answerStore is a Store of nothing but answers to challenges.
type answerStore struct {
	Store
	keys    Keys
	answers map[string]string
	err     error
}

func (s *answerStore) Secret(_ context.Context, id ID) ([]byte, error) {
	if s.err != nil {
		return nil, s.err
	}
	answer, ok := s.answers[strings.TrimPrefix(id.Name, AnswerPrefix)]
	if !ok {
		return nil, ErrNotFound
	}
	return s.keys.seal(KindSecret, id, []byte(answer)), nil
}

// port80 is ACME's handler for a.test, with a Store.
func port80(t *testing.T) (http.Handler, *answerStore) {
	t.Helper()
	a := serving(t, "a.test")
	store := &answerStore{keys: testKeys(t, base64Key(1)), answers: map[string]string{"0123456789abcdef+http-01": "the answer"}}
	a.cfg.Store, a.cfg.Keys, a.cfg.Directory = store, store.keys, "d"
	a.lookUps = make(chan struct{}, 1)
	return a.HTTPHandler(), store
}

// request is what a server makes of a request as it was sent.
func request(t *testing.T, lines ...string) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(strings.Join(lines, "\r\n") + "\r\n\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Whatever the request's first line says, a redirect leads to the host that
// was checked, and to a path there.
func TestRedirect(t *testing.T) {
	h, _ := port80(t)
	for _, test := range []struct {
		target, host string
		status       int
		location     string
	}{
		{"/x?a=b&c=%20", "a.test", 308, "https://a.test/x?a=b&c=%20"},
		{"/", "A.test.:80", 308, "https://a.test/"},
		{"/%2e%2e//evil.example", "a.test", 308, "https://a.test/%2e%2e//evil.example"},
		{"//evil.example/x", "a.test", 308, "https://a.test//evil.example/x"},
		{`/\evil.example`, "a.test", 308, "https://a.test/%5Cevil.example"},
		{"/é?é#x", "a.test", 308, "https://a.test/%C3%A9?%C3%A9%23x"},
		{"http://a.test/x", "evil.example", 308, "https://a.test/x"}, // RFC 9112, section 3.2.2: the target decides
		{"http://user:pw@a.test:80/x", "a.test", 308, "https://a.test/x"},
		{"http://a.test", "a.test", 400, ""},
		{"http:@evil.example/x", "a.test", 400, ""},
		{"http:.evil.example/x", "a.test", 400, ""},
		{"x:y", "a.test", 400, ""},
		{"http://evil.example/x", "a.test", 421, ""},
		{"http://a.test@evil.example/x", "a.test", 421, ""},
		{"/x", "a.test@evil.example", 421, ""},
		{"/x", "b.test", 421, ""},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, request(t, "GET "+test.target+" HTTP/1.1", "Host: "+test.host))
		if got := w.Header().Get("Location"); w.Code != test.status || got != test.location {
			t.Errorf("GET %s of %s: %d to %q, want %d to %q", test.target, test.host, w.Code, got, test.status, test.location)
		}
		if ct := w.Header().Get("Content-Type"); ct != "application/json" {
			t.Errorf("GET %s of %s: answered with %s", test.target, test.host, ct)
		}
	}
	for _, method := range []string{"POST", "OPTIONS", "PROPFIND"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, request(t, method+" /x HTTP/1.1", "Host: a.test"))
		if w.Code != http.StatusForbidden {
			t.Errorf("%s: %d, want 403", method, w.Code)
		}
	}
}

func TestHTTP01(t *testing.T) {
	h, store := port80(t)
	ask := func(host, token string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, request(t, "GET "+challengePath+token+" HTTP/1.1", "Host: "+host))
		return w
	}
	const token = "0123456789abcdef"
	if w := ask("a.test", token); w.Code != 200 || w.Body.String() != "the answer" {
		t.Errorf("answered %d %s", w.Code, w.Body)
	}
	for _, unknown := range []string{"fedcba9876543210", "short", "../" + token, token + "+http-01"} {
		if w := ask("a.test", unknown); w.Code != 404 || w.Body.String() != `{"message":"Not Found"}` {
			t.Errorf("%s: answered %d %s", unknown, w.Code, w.Body)
		}
	}
	if w := ask("b.test", token); w.Code != 421 {
		t.Errorf("another host: answered %d %s", w.Code, w.Body)
	}
	// Nobody knows whether there is an answer, nor hears why.
	store.err = errors.New("dial tcp 10.0.0.1:5432: user helloapi_serve: connection refused")
	if w := ask("a.test", token); w.Code != 503 || w.Body.String() != `{"message":"Service Unavailable"}` || w.Header().Get("Retry-After") == "" {
		t.Errorf("without a store: answered %d %s", w.Code, w.Body)
	}
	store.err, store.keys = nil, testKeys(t, base64Key(2))
	if w := ask("a.test", token); w.Code != 503 {
		t.Errorf("sealed with another key: answered %d %s", w.Code, w.Body)
	}
}

// A name that is too long costs nothing: IDNA takes seconds for 60 kB.
func TestLongHost(t *testing.T) {
	h, _ := port80(t)
	a := serving(t, "a.test")
	var name strings.Builder
	for c := rune(0x4e00); c < 0x9e00; c++ { // each another
		name.WriteRune(c)
	}
	long := name.String() + ".test"
	begin := time.Now()
	for range 100 {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/x", nil)
		r.Host = long
		h.ServeHTTP(w, r)
		if w.Code != http.StatusMisdirectedRequest {
			t.Fatalf("answered %d, want 421", w.Code)
		}
		if _, err := a.GetCertificate(&tls.ClientHelloInfo{ServerName: long}); !errors.Is(err, errUnknownHost) {
			t.Fatalf("a certificate for it: %v", err)
		}
	}
	if d := time.Since(begin); d > time.Second {
		t.Errorf("200 such names took %v", d)
	}
}
