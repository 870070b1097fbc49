package certs

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/acme/autocert"
)

// selfSigned returns a certificate and its key in PEM.
func selfSigned(t testing.TB, hosts ...string) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: hosts[0]}, DNSNames: hosts,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
}

func testKeys(t testing.TB, s string) Keys {
	t.Helper()
	k, err := ParseKeys(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// base64Key is a key of 32 times b.
func base64Key(b byte) string {
	return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, keySize))
}

func TestSeal(t *testing.T) {
	id := ID{"https://ca.test/dir", "a.test"}
	old, both, young := testKeys(t, base64Key(1)), testKeys(t, base64Key(2)+","+base64Key(1)), testKeys(t, base64Key(2))
	sealed := old.seal(KindCertificate, id, []byte("secret"))
	if bytes.Contains(sealed, []byte("secret")) {
		t.Error("it is not sealed")
	}
	for what, test := range map[string]struct {
		keys  Keys
		first bool
	}{"the same": {old, true}, "the second": {both, false}} {
		if data, first, err := test.keys.open(KindCertificate, id, sealed); string(data) != "secret" || first != test.first || err != nil {
			t.Errorf("%s: %q, %v, %v", what, data, first, err)
		}
	}
	if data, _, err := young.open(KindCertificate, id, both.seal(KindCertificate, id, []byte("x"))); string(data) != "x" || err != nil {
		t.Errorf("the first does not seal: %q, %v", data, err)
	}
	if _, _, err := young.open(KindCertificate, id, sealed); !errors.Is(err, errWrongKey) {
		t.Errorf("another key: %v, want errWrongKey", err)
	}
	for what, bad := range map[string]ID{"another host": {id.Directory, "b.test"}, "another directory": {"https://ca.test/di", "ra.test"}} {
		if _, _, err := old.open(KindCertificate, bad, sealed); !errors.Is(err, errDamaged) {
			t.Errorf("%s: %v, want errDamaged", what, err)
		}
	}
	if _, _, err := old.open(KindSecret, id, sealed); !errors.Is(err, errDamaged) {
		t.Errorf("another kind: %v, want errDamaged", err)
	}
	for i := range sealed {
		bad := slices.Clone(sealed)
		bad[i] ^= 0x10
		if _, _, err := old.open(KindCertificate, id, bad); err == nil {
			t.Errorf("with byte %d changed it opens", i)
		}
		if _, _, err := old.open(KindCertificate, id, sealed[:i]); err == nil {
			t.Errorf("%d bytes of it open", i)
		}
	}
}

func FuzzOpen(f *testing.F) {
	keys := testKeys(f, base64Key(1))
	f.Add(keys.seal(KindSecret, ID{}, nil))
	f.Fuzz(func(t *testing.T, sealed []byte) {
		data, _, err := keys.open(KindSecret, ID{"d", "n"}, sealed)
		if err == nil {
			t.Errorf("what nobody sealed opens: %q", data)
		}
	})
}

func TestParseKeys(t *testing.T) {
	for in, want := range map[string]int{
		base64Key(1): 1, base64Key(1) + ", " + base64Key(2): 2, "\n" + base64Key(1) + "\n" + base64Key(2) + "\n": 2,
		"": 0, ",": 0, "c2VjcmV0": 0, "secret secret": 0, base64Key(1) + ",secret": 0, strings.TrimRight(base64Key(1), "="): 0,
	} {
		keys, err := ParseKeys(in)
		if len(keys) != want || (err == nil) != (want > 0) {
			t.Errorf("ParseKeys(%q) = %d keys, %v; want %d", in, len(keys), err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error has the key: %v", err)
		}
	}
}

func TestKeyFile(t *testing.T) {
	f := KeyFile(filepath.Join(t.TempDir(), "db.key"))
	if keys, err := f.read(); keys != nil || err != nil {
		t.Fatalf("no file: %v, %v", keys, err)
	}
	made, err := f.create()
	if err != nil {
		t.Fatal(err)
	}
	read, err := f.read()
	if err != nil || len(read) != 1 || read[0].id != made[0].id {
		t.Errorf("read another key than was made: %v", err)
	}
	info, err := os.Stat(string(f))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode())
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(string(f)), ".key-*")); left != nil {
		t.Errorf("left behind: %v", left)
	}
	if err := os.WriteFile(string(f), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.read(); err == nil || !strings.Contains(err.Error(), string(f)) {
		t.Errorf("a file with nonsense: %v", err)
	}
}

func TestParseHosts(t *testing.T) {
	got, err := ParseHosts([]string{"API.Example.com", "api.example.com.", " bücher.example ", "a.b.c.d"})
	if diff := cmp.Diff([]string{"api.example.com", "xn--bcher-kva.example", "a.b.c.d"}, got); diff != "" || err != nil {
		t.Errorf("ParseHosts (-want +got): %v\n%s", err, diff)
	}
	for _, bad := range []string{"", "localhost", "*.example.com", "127.0.0.1", "::1", "https://example.com", "example.com:443", "exa mple.com", "a..b", "-a.example"} {
		if got, err := ParseHosts([]string{bad}); err == nil {
			t.Errorf("ParseHosts(%q) = %v, want an error", bad, got)
		}
	}
}

func TestRenewAt(t *testing.T) {
	day := 24 * time.Hour
	for life, left := range map[time.Duration]time.Duration{
		90 * day: 30 * day, 45 * day: 15 * day, 160 * time.Hour: 80 * time.Hour, 20 * time.Second: 10 * time.Second,
	} {
		begin := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		c := &x509.Certificate{NotBefore: begin, NotAfter: begin.Add(life)}
		if got := c.NotAfter.Sub(renewAt(c)); got != left {
			t.Errorf("of %v, renewed with %v left, want %v", life, got, left)
		}
		// The floor may not be what puts a renewal off.
		if f := floor(c); begin.Add(f).After(renewAt(c)) || f < life/10 {
			t.Errorf("of %v, the floor is %v", life, f)
		}
	}
}

func TestRetry(t *testing.T) {
	a := &ACME{cfg: Config{Timing: DefaultTiming}}
	for _, test := range []struct {
		failures int
		ordered  bool
		asked    time.Duration
		want     time.Duration
	}{
		{0, true, 0, 2 * time.Minute},
		{1, true, 0, 15 * time.Minute},
		{2, true, 0, 100 * time.Minute},
		{3, true, 0, 24 * time.Hour},
		{99, true, 0, 24 * time.Hour},
		{99, false, 0, 15 * time.Minute},
		{0, false, 0, 2 * time.Minute},
		{0, true, 3 * time.Hour, 3 * time.Hour},
		{9, false, time.Second, 2 * time.Minute},
	} {
		if got := a.retry(test.failures, test.ordered, test.asked); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}

// serving is an ACME that serves a certificate for each host, without a Store.
func serving(t testing.TB, hosts ...string) *ACME {
	t.Helper()
	a := &ACME{sites: map[string]*site{}, hosts: hosts, cfg: Config{Log: slog.New(slog.DiscardHandler), Timing: DefaultTiming}}
	for _, host := range hosts {
		cert, key := selfSigned(t, host)
		c, err := parse(append(cert, key...), host)
		if err != nil {
			t.Fatal(err)
		}
		s := &site{id: ID{"d", host}, first: make(chan struct{})}
		s.current.Store(c)
		a.sites[host] = s
	}
	return a
}

func TestGetCertificate(t *testing.T) {
	a := serving(t, "a.test", "xn--bcher-kva.test")
	for name, host := range map[string]string{
		"a.test": "a.test", "A.TEST": "a.test", "a.test.": "a.test", "bücher.test": "xn--bcher-kva.test",
		"": "a.test", "b.test": "", "127.0.0.1": "", "a": "", "a.test/": "", strings.Repeat("a", 70) + ".test": "",
	} {
		c, err := a.GetCertificate(&tls.ClientHelloInfo{ServerName: name})
		if host == "" && !errors.Is(err, errUnknownHost) || host != "" && (err != nil || c != a.sites[host].current.Load()) {
			t.Errorf("%q: %v, %v", name, c, err)
		}
	}

	hello := &tls.ClientHelloInfo{ServerName: "a.test", SupportedProtos: []string{"h2", "http/1.1"}}
	// Whoever holds the locks does not keep a handshake waiting.
	a.mu.Lock()
	a.sites["a.test"].mu.Lock()
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := a.GetCertificate(hello); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("a handshake allocates %v times", n)
	}
}

// BenchmarkGetCertificate is what is done for a handshake whose certificate is
// in memory, beside what autocert does.
func BenchmarkGetCertificate(b *testing.B) {
	cert, key := selfSigned(b, "a.test")
	manager := &autocert.Manager{
		Prompt: autocert.AcceptTOS, HostPolicy: autocert.HostWhitelist("a.test"), Cache: memoryCache(append(key, cert...)),
	}
	hello := &tls.ClientHelloInfo{
		ServerName: "a.test", SupportedProtos: []string{"h2", "http/1.1"},
		CipherSuites: []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	}
	for _, bench := range []struct {
		name string
		get  func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	}{{"helloapi", serving(b, "a.test").GetCertificate}, {"autocert", manager.GetCertificate}} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := bench.get(hello); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// memoryCache is an autocert.Cache that has one thing.
type memoryCache []byte

func (c memoryCache) Get(context.Context, string) ([]byte, error) { return c, nil }
func (memoryCache) Put(context.Context, string, []byte) error     { return nil }
func (memoryCache) Delete(context.Context, string) error          { return nil }

func TestHSTS(t *testing.T) {
	w := httptest.NewRecorder()
	WithHSTS("max-age=1", http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if got := w.Header().Get("Strict-Transport-Security"); got != "max-age=1" || w.Code != http.StatusNotFound {
		t.Errorf("HSTS %q of a %d", got, w.Code)
	}
}

// A pairOf is a directory with the two files, as Kubernetes mounts a secret:
// names that lead through a link to a directory, which is swapped.
type pairOf struct {
	t    *testing.T
	dir  string
	many int
}

func (p *pairOf) cert() string { return filepath.Join(p.dir, "tls.crt") }
func (p *pairOf) key() string  { return filepath.Join(p.dir, "tls.key") }

func newPair(t *testing.T) *pairOf {
	p := &pairOf{t: t, dir: t.TempDir()}
	for _, name := range []string{"tls.crt", "tls.key"} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(p.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// swap has the names lead to other content, both at once.
func (p *pairOf) swap(cert, key []byte) {
	p.t.Helper()
	p.many++
	version := "..v" + strings.Repeat("i", p.many)
	must := func(err error) {
		if err != nil {
			p.t.Fatal(err)
		}
	}
	must(os.Mkdir(filepath.Join(p.dir, version), 0o700))
	must(os.WriteFile(filepath.Join(p.dir, version, "tls.crt"), cert, 0o600))
	must(os.WriteFile(filepath.Join(p.dir, version, "tls.key"), key, 0o600))
	must(os.Symlink(version, filepath.Join(p.dir, "tmp")))
	must(os.Rename(filepath.Join(p.dir, "tmp"), filepath.Join(p.dir, "..data")))
}

func TestPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := newPair(t)
		cert, key := selfSigned(t, "api.example.com", "*.example.org")
		files.swap(cert, key)
		var log bytes.Buffer
		p, err := OpenPair(files.cert(), files.key(), slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		p.Start(t.Context())
		defer p.Close()
		first, _ := p.GetCertificate(nil)
		poll := func() *tls.Certificate {
			time.Sleep(pairPoll)
			synctest.Wait()
			c, err := p.GetCertificate(nil)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		if c := poll(); c != first {
			t.Error("files that did not change were taken for others")
		}
		otherCert, otherKey := selfSigned(t, "api.example.com")
		for what, bad := range map[string][2][]byte{
			"mismatched": {otherCert, key}, "cut": {otherCert, otherKey[:len(otherKey)/2]}, "empty": {nil, nil}, "swapped": {otherKey, otherCert},
		} {
			files.swap(bad[0], bad[1])
			if c := poll(); c != first {
				t.Errorf("%s: it is served", what)
			}
			if s := p.Statuses()[0]; s.Error == "" || !s.NotAfter.Equal(first.Leaf.NotAfter) || s.Host != "api.example.com" {
				t.Errorf("%s: status %+v", what, s)
			}
		}
		if err := os.Remove(filepath.Join(files.dir, "..data")); err != nil {
			t.Fatal(err)
		}
		if c := poll(); c != first || p.Statuses()[0].Error == "" {
			t.Error("missing files: the certificate is gone, or the status does not tell")
		}
		files.swap(otherCert, otherKey)
		if c := poll(); c == first || !bytes.Contains(otherCert, []byte("CERTIFICATE")) || c.Leaf.DNSNames[0] != "api.example.com" {
			t.Error("the new pair is not served")
		}
		if s := p.Statuses()[0]; s.Error != "" {
			t.Errorf("status %+v", s)
		}
		if strings.Contains(log.String(), "PRIVATE") {
			t.Errorf("the log has a key:\n%s", &log)
		}
	})
}

func TestOpenPairRefuses(t *testing.T) {
	files := newPair(t)
	cert, key := selfSigned(t, "a.test")
	_, other := selfSigned(t, "a.test")
	log := slog.New(slog.DiscardHandler)
	if _, err := OpenPair(files.cert(), files.key(), log); err == nil || !strings.Contains(err.Error(), "TLS_CERT_FILE") {
		t.Errorf("no files: %v", err)
	}
	files.swap(cert, other)
	if _, err := OpenPair(files.cert(), files.key(), log); err == nil {
		t.Error("a pair that does not fit is taken")
	}
	files.swap(cert, key)
	p, err := OpenPair(files.cert(), files.key(), log)
	if err != nil {
		t.Fatal(err)
	}
	for host, status := range map[string]int{"a.test": 308, "A.test:80": 308, "b.test": 421, "": 421} {
		w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/x", nil)
		r.Host = host
		p.HTTPHandler().ServeHTTP(w, r)
		if w.Code != status {
			t.Errorf("%q: %d, want %d", host, w.Code, status)
		}
	}
}

// What autocert gets to see of the CA, and what the CA gets to see of it.
func TestGate(t *testing.T) {
	var posts []string
	g := &gate{types: []string{HTTP01}, base: roundTrip(func(r *http.Request) (*http.Response, error) {
		if r.Method == http.MethodPost {
			posts = append(posts, r.URL.Path)
		}
		body, status := "{}", 200
		switch r.URL.Path {
		case "/dir":
			body = `{"newOrder":"https://ca.test/order"}`
		case "/order":
			body, status = `{"status":"pending","authorizations":["https://ca.test/authz/1"]}`, 201
		case "/authz/1":
			body = `{"status":"invalid","identifier":{"type":"dns","value":"a.test"},"challenges":[
				{"type":"tls-alpn-01","url":"https://ca.test/c/1"},{"type":"http-01","url":"https://ca.test/c/2","error":{"detail":"refused"}},{"type":"new-02"}]}`
		}
		return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body))}, nil
	})}
	send := func(method, path string) (string, error) {
		r := httptest.NewRequest(method, "https://ca.test"+path, nil)
		resp, err := g.RoundTrip(r)
		if err != nil {
			return "", err
		}
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	}
	for _, path := range []string{"/dir", "/order", "/authz/1"} {
		method := "POST"
		if path == "/dir" {
			method = "GET"
		}
		body, err := send(method, path)
		if err != nil {
			t.Fatal(err)
		}
		if path == "/authz/1" && (strings.Contains(body, TLSALPN01) || strings.Contains(body, "new-02") || !strings.Contains(body, `"https://ca.test/c/2"`) || !strings.Contains(body, `"value":"a.test"`)) {
			t.Errorf("autocert sees %s", body)
		}
	}
	if _, err := send("POST", "/order"); !errors.Is(err, errAllTried) {
		t.Errorf("a second order, with one type of challenge: %v", err)
	}
	if got := g.explain(errAllTried).Error(); !strings.Contains(got, "http-01: refused") {
		t.Errorf("explained as %q", got)
	}
	g.stop(errors.New("stopped"))
	for _, path := range []string{"/c/2", "/finalize", "/order"} {
		if _, err := send("POST", path); err == nil {
			t.Errorf("after the stop %s passes", path)
		}
	}
	if _, err := send("POST", "/authz/1"); err != nil {
		t.Errorf("after the stop nothing can be tidied up: %v", err)
	}
	g.close()
	if _, err := send("POST", "/authz/1"); err == nil {
		t.Error("something passes a closed gate")
	}
	if diff := cmp.Diff([]string{"/order", "/authz/1", "/authz/1"}, posts); diff != "" {
		t.Errorf("the CA saw (-want +got):\n%s", diff)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
