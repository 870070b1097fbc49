package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"helloapi/internal/backend"
	"helloapi/internal/backendtest"
	"helloapi/internal/certs"
)

// aKey is one of CERT_ENCRYPTION_KEY.
const aKey = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

func TestTLSSettings(t *testing.T) {
	t.Parallel()
	for what, test := range map[string]struct {
		env  map[string]string
		want string
	}{
		"two modes":           {map[string]string{"TLS_DOMAINS": "a.test", "TLS_CERT_FILE": "c", "TLS_KEY_FILE": "k"}, "either certificates are obtained or they are given"},
		"no key file":         {map[string]string{"TLS_CERT_FILE": "c"}, "TLS_CERT_FILE and TLS_KEY_FILE: give both"},
		"no certificate file": {map[string]string{"TLS_KEY_FILE": "k"}, "TLS_CERT_FILE and TLS_KEY_FILE: give both"},
		"a wildcard":          {map[string]string{"TLS_DOMAINS": "a.test,*.b.test"}, "is a wildcard"},
		"an address":          {map[string]string{"TLS_DOMAINS": "127.0.0.1"}, `TLS_DOMAINS: "127.0.0.1" must be a name`},
		"email, off":          {map[string]string{"ACME_EMAIL": "a@b.c"}, "ACME_EMAIL: no certificate is obtained without TLS_DOMAINS"},
		"directory, off":      {map[string]string{"ACME_DIRECTORY_URL": "https://ca.test/dir"}, "ACME_DIRECTORY_URL: no certificate"},
		"CA file, with files": {map[string]string{"TLS_CERT_FILE": "c", "TLS_KEY_FILE": "k", "ACME_CA_FILE": "x"}, "ACME_CA_FILE: no certificate"},
		"bad TLS_ADDR":        {map[string]string{"TLS_DOMAINS": "a.test", "TLS_ADDR": "8443"}, `TLS_ADDR: "8443" must be like :443`},
		"plain directory":     {map[string]string{"TLS_DOMAINS": "a.test", "ACME_DIRECTORY_URL": "http://ca.test/dir"}, "ACME_DIRECTORY_URL: must be like https://"},
		"bad email":           {map[string]string{"TLS_DOMAINS": "a.test", "ACME_EMAIL": "mailto:a@b.c"}, "ACME_EMAIL"},
		"bad challenge":       {map[string]string{"TLS_DOMAINS": "a.test", "ACME_CHALLENGES": "dns-01"}, `ACME_CHALLENGES: "dns-01" must be tls-alpn-01 or http-01`},
		"no challenge left":   {map[string]string{"TLS_DOMAINS": "a.test", "ACME_CHALLENGES": "http-01", "HTTP_ADDR": "off"}, "none is left"},
		"half of an account":  {map[string]string{"TLS_DOMAINS": "a.test", "ACME_EAB_KID": "k"}, "ACME_EAB_KID and ACME_EAB_HMAC_KEY: give both"},
		"bad account key":     {map[string]string{"TLS_DOMAINS": "a.test", "ACME_EAB_KID": "k", "ACME_EAB_HMAC_KEY": "s ecret"}, "ACME_EAB_HMAC_KEY: must be base64url"},
		"bad encryption key":  {map[string]string{"TLS_DOMAINS": "a.test", "CERT_ENCRYPTION_KEY": "secret"}, "CERT_ENCRYPTION_KEY: key 1 is not 32 bytes"},
		"bad HSTS":            {map[string]string{"TLS_DOMAINS": "a.test", "HSTS": "yes"}, "HSTS"},
		"old TLS":             {map[string]string{"TLS_DOMAINS": "a.test", "TLS_MIN_VERSION": "1.1"}, "TLS_MIN_VERSION: must be one of"},
	} {
		test.env["DATABASE_URL"] = "sqlite:/proc/nothing/helloapi.db" // it does not get there
		_, _, err := helloapi(t, test.env, "serve")
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v; want %q", what, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), "ecret") {
			t.Errorf("%s: the error has a secret: %v", what, err)
		}
	}
}

// What is wrong with TLS in a way that only shows when it is used.
func TestTLSRefusals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	listen := []string{"TLS_ADDR=127.0.0.1:0", "HTTP_ADDR=off"}
	db := backendtest.Postgres(t)
	for what, test := range map[string]struct {
		env  []string
		want string
	}{
		"no encryption key": {[]string{"DATABASE_URL=" + db, "TLS_DOMAINS=a.test"}, "CERT_ENCRYPTION_KEY is needed"},
		"no such CA file":   {[]string{"TLS_DOMAINS=a.test", "ACME_CA_FILE=" + dir + "/none"}, "ACME_CA_FILE"},
		"empty CA file":     {[]string{"TLS_DOMAINS=a.test", "ACME_CA_FILE=" + empty}, "there is no certificate"},
		"no such files":     {[]string{"TLS_CERT_FILE=" + dir + "/none", "TLS_KEY_FILE=" + dir + "/none"}, "TLS_CERT_FILE"},
		"empty files":       {[]string{"TLS_CERT_FILE=" + empty, "TLS_KEY_FILE=" + empty}, "TLS_CERT_FILE"},
	} {
		p := launch(t, t.TempDir(), append(listen, test.env...)...)
		if err := p.wait(t); err == nil || !strings.Contains(p.stderr.String(), test.want) {
			t.Errorf("%s: %v\n%s", what, err, p.stderr)
		}
	}
}

// Listeners that have to be there can't be left out by an empty flag.
func TestEmptyAddresses(t *testing.T) {
	t.Parallel()
	env := map[string]string{"TLS_DOMAINS": "a.test", "DATABASE_URL": backendtest.SQLite(t)}
	for flag, want := range map[string]string{"--admin-addr=": "ADMIN_ADDR: \"\" must be like", "--tls-addr=": "TLS_ADDR: \"\" must be like"} {
		if _, _, err := helloapi(t, env, "serve", flag); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", flag, err, want)
		}
	}
}

// writePair makes a certificate and writes it to two files.
func writePair(t *testing.T, dir string, host string) (certFile, keyFile string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	roots.AppendCertsFromPEM(certPEM)
	for path, content := range map[string][]byte{certFile: certPEM, keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile, roots
}

func TestServeFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key, roots := writePair(t, dir, "localhost")
	p := launch(t, dir, "ADDR=", "TLS_CERT_FILE="+cert, "TLS_KEY_FILE="+key, "TLS_ADDR=127.0.0.1:0", "HTTP_ADDR=127.0.0.1:0", "TLS_MIN_VERSION=1.3", "HSTS=off")
	serving := regexp.MustCompile(`msg=serving tls_addr=127\.0\.0\.1:(\d+) http_addr=(\S+) admin_addr=(\S+)`)
	waitFor(t, "serve to begin", func() bool { return serving.MatchString(p.stderr.String()) })
	m := serving.FindStringSubmatch(p.stderr.String())

	url := "https://localhost:" + m[1]
	if !strings.Contains(p.stderr.String(), " url="+url+"\n") {
		t.Errorf("the log does not say where to call, %s:\n%s", url, p.stderr)
	}
	curl := []string{"", p.keys(t)[0], url + "/hello?name=brooks"}
	client := &http.Client{
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MaxVersion: tls.VersionTLS13}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	req, _ := http.NewRequest(http.MethodGet, curl[2], nil)
	req.Header.Set("x-api-key", curl[1])
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || resp.TLS.Version != tls.VersionTLS13 || resp.Header.Get("Strict-Transport-Security") != "" {
		t.Errorf("answered %d with TLS %x and HSTS %q", resp.StatusCode, resp.TLS.Version, resp.Header.Get("Strict-Transport-Security"))
	}
	if conn, err := tls.Dial("tcp", "127.0.0.1:"+m[1], &tls.Config{RootCAs: roots, ServerName: "localhost", MaxVersion: tls.VersionTLS12}); err == nil {
		conn.Close()
		t.Error("TLS 1.2 is spoken, with TLS_MIN_VERSION 1.3")
	}
	req, _ = http.NewRequest(http.MethodGet, "http://"+m[2]+"/hello", nil)
	req.Host = "localhost"
	if resp, err = client.Do(req); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusPermanentRedirect || resp.Header.Get("Location") != "https://localhost/hello" {
		t.Errorf("port 80 answered %d to %q", resp.StatusCode, resp.Header.Get("Location"))
	}
	// Port 80 is recorded as the API is. A key there is refused, and named to nobody.
	req.Header.Set("x-api-key", curl[1])
	if resp, err = client.Do(req); err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden || !strings.Contains(string(body), "rotate it") || resp.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a key at port 80: %d %s", resp.StatusCode, body)
	}
	for _, header := range []string{"X-Request-Id", "X-Content-Type-Options", "Cache-Control", "Vary"} {
		if resp.Header.Get(header) == "" {
			t.Errorf("an answer of port 80 has no %s", header)
		}
	}
	if id := resp.Header.Get("X-Request-Id"); !strings.Contains(p.stderr.String(), id) {
		waitFor(t, "the record of "+id, func() bool { return strings.Contains(p.stderr.String(), id) })
	}
	if strings.Contains(p.stderr.String(), curl[1]) {
		t.Error("the log has the key")
	}
	p.admin = m[3]
	for metric, want := range map[string]string{
		`helloapi_requests_total{route="/*",status="308"}`: "1",
		`helloapi_requests_total{route="/*",status="403"}`: "1",
		`helloapi_refused_total{reason="key in clear"}`:    "1",
	} {
		if got := p.metric(t, metric); got != want {
			t.Errorf("%s is %q, want %s", metric, got, want)
		}
	}
	if a := get(t, "http://"+m[3]+"/", ""); a.status != 200 || !strings.Contains(a.body, "localhost") || !strings.Contains(a.body, "SQLite, data/helloapi.db") {
		t.Errorf("the operator's page: %d\n%s", a.status, a.body)
	}
	if err := p.stop(t); err != nil {
		t.Errorf("stop: %v\n%s", err, p.stderr)
	}
}

// With TLS on, the API is served without it only where that is asked for.
func TestServeBoth(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key, _ := writePair(t, dir, "localhost")
	p := start(t, dir, "TLS_CERT_FILE="+cert, "TLS_KEY_FILE="+key, "TLS_ADDR=127.0.0.1:0", "HTTP_ADDR=off")
	key1 := p.keys(t)[0]
	if a := get(t, "http://"+p.addr+"/hello", key1); a.status != 200 || a.header.Get("Strict-Transport-Security") != "" {
		t.Errorf("without TLS: %d, HSTS %q", a.status, a.header.Get("Strict-Transport-Security"))
	}
}

func TestCertsCommands(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		env := map[string]string{"DATABASE_URL": url}
		if out := must(t, url, "certs", "list", "-o", "json"); out != "[]" {
			t.Errorf("of nothing: %s", out)
		}
		if _, _, err := helloapi(t, env, "certs", "renew", "a.test"); err == nil || !strings.Contains(err.Error(), "helloapi certs list") {
			t.Errorf("renew what was never ordered: %v", err)
		}
		db, err := backend.OpenDatabase(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		end := time.Now().Add(90 * 24 * time.Hour).UTC().Truncate(time.Second)
		for host, outcome := range map[string]certs.Outcome{
			"a.test": {Certificate: []byte("sealed"), NotAfter: end, Retry: time.Hour},
			"b.test": {Error: "the CA said no", Retry: time.Hour},
			"c.test": {},
		} {
			l, err := db.Certs().Acquire(t.Context(), certs.ID{Directory: "https://ca.test/dir", Name: host}, "replica/1", time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			if host == "c.test" { // being ordered
				continue
			}
			if _, err := db.Certs().Finish(t.Context(), l, outcome); err != nil {
				t.Fatal(err)
			}
		}
		list := func() (shown []certInfo) {
			t.Helper()
			if err := json.Unmarshal([]byte(must(t, url, "certs", "list", "-o", "json")), &shown); err != nil || len(shown) != 3 {
				t.Fatalf("listed %+v, %v", shown, err)
			}
			return shown
		}
		a, b, c := list()[0], list()[1], list()[2]
		if a.Host != "a.test" || a.NotAfter == nil || !a.NotAfter.Equal(end) || a.Failures != 0 || a.NextAttempt == nil || a.Renew {
			t.Errorf("a: %+v", a)
		}
		if b.NotAfter != nil || b.Failures != 1 || b.LastError != "the CA said no" || b.NextAttempt == nil || c.Holder != "replica/1" {
			t.Errorf("b: %+v, c: %+v", b, c)
		}
		table := must(t, url, "certs", "list")
		for _, want := range []string{"HOST", end.Format(time.RFC3339), "the CA said no", "none yet", "replica/1", "https://ca.test/dir"} {
			if !strings.Contains(table, want) {
				t.Errorf("no %q in\n%s", want, table)
			}
		}

		if _, stderr, err := helloapi(t, env, "certs", "renew", "A.test"); err != nil || !strings.Contains(stderr, "within 15 seconds") {
			t.Errorf("renew: %v, %s", err, stderr)
		}
		if a := list()[0]; !a.Renew || a.NextAttempt != nil {
			t.Errorf("after renew: %+v", a)
		}
		if _, _, err := helloapi(t, env, "certs", "forget"); err == nil || !strings.Contains(err.Error(), "--yes") {
			t.Errorf("forget: %v", err)
		}
		if _, stderr, err := helloapi(t, env, "certs", "forget", "--yes"); err != nil || !strings.Contains(stderr, "Forgot 1 certificates") {
			t.Errorf("forget: %v, %s", err, stderr)
		}
		if out := must(t, url, "certs", "list", "-o", "json"); out != "[]" {
			t.Errorf("after forget: %s", out)
		}
	})
}

// A replica with another key than the others refuses to start.
func TestWrongCertKey(t *testing.T) {
	t.Parallel()
	db := backendtest.Postgres(t)
	env := func(key string) []string {
		return []string{
			"DATABASE_URL=" + db, "TLS_DOMAINS=a.test", "ACME_DIRECTORY_URL=https://127.0.0.1:1/dir", "TLS_ADDR=127.0.0.1:0", "HTTP_ADDR=off",
			"CERT_ENCRYPTION_KEY=" + key,
		}
	}
	good := start(t, t.TempDir(), env(aKey)...)
	other := strings.Replace(aKey, "M", "N", 1)
	p := launch(t, t.TempDir(), env(other)...)
	if err := p.wait(t); err == nil || !strings.Contains(p.stderr.String(), "CERT_ENCRYPTION_KEY is not the one") {
		t.Errorf("another key: %v\n%s", err, p.stderr)
	}
	for _, p := range []*process{good, p} {
		if strings.Contains(p.stderr.String(), aKey[:20]) || strings.Contains(p.stderr.String(), other[:20]) {
			t.Errorf("the log has the key:\n%s", p.stderr)
		}
	}
	if a := get(t, "http://"+good.admin+"/readyz", ""); a.status != 200 {
		t.Errorf("ready without a certificate: %d %s", a.status, a.body)
	}
	// The CA does not answer, and the metrics tell.
	waitFor(t, "the failure to be counted", func() bool {
		return good.metric(t, `helloapi_certificate_failures{host="a.test"}`) == "1" && good.metric(t, `helloapi_certificate_trouble{host="a.test"}`) == "1"
	})
}
