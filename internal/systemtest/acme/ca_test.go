package acme

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"

	"helloapi/internal/certs"
)

// caOptions are what tests ask of the CA.
type caOptions struct {
	lifetime              int    // of certificates, in seconds; 0: two days
	badNonces             int    // percent
	retryAuthz, retryDone int    // Retry-After, in seconds
	eab                   bool   // accounts need an external one
	only                  string // the challenge for which the CA gets through
}

// A testCA is a Pebble.
type testCA struct {
	*httptest.Server
	root  []byte // of the certificates, in PEM
	roots *x509.CertPool

	// A test may have requests answered its own way: it returns whether it has.
	intercept atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]

	mu       sync.Mutex
	orders   []string // the hosts of the orders that were made
	accounts int      // made
	requests int
}

const (
	eabID  = "kid-1"
	eabKey = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
)

// pebbleEnv guards the environment, which Pebble reads when it is made.
var pebbleEnv sync.Mutex

// startCA starts a CA that asks for its challenges at the balancers.
func startCA(t *testing.T, o caOptions, tlsPort, httpPort int) *testCA {
	t.Helper()
	if o.lifetime == 0 {
		o.lifetime = 48 * 3600
	}
	quiet := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	issuer := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {ValidityPeriod: uint64(o.lifetime)}})
	if o.eab {
		if err := store.AddExternalAccountKeyByID(eabID, eabKey); err != nil {
			t.Fatal(err)
		}
	}

	switch o.only { // ports of which nobody listens at one
	case certs.TLSALPN01:
		httpPort = 1
	case certs.HTTP01:
		tlsPort = 1
	}
	pebbleEnv.Lock()
	for name, value := range map[string]string{
		"PEBBLE_VA_NOSLEEP":      "1",
		"PEBBLE_AUTHZREUSE":      "0",
		"PEBBLE_WFE_NONCEREJECT": fmt.Sprint(o.badNonces),
	} {
		if err := os.Setenv(name, value); err != nil {
			t.Fatal(err)
		}
	}
	validator := va.New(quiet, httpPort, tlsPort, true, resolver(), store)
	front := wfe.New(quiet, store, validator, issuer, []string{"pebble.test"}, true, o.eab, o.retryAuthz, o.retryDone)
	pebbleEnv.Unlock()

	c := &testCA{root: issuer.GetRootCert(0).PEM(), roots: x509.NewCertPool()}
	if !c.roots.AppendCertsFromPEM(c.root) {
		t.Fatal("no root certificate")
	}
	c.Server = httptest.NewTLSServer(c.observe(front.Handler()))
	t.Cleanup(c.Close)
	return c
}

// observe counts orders. It lets one request through at a time: Pebble has data
// races of its own.
func (c *testCA) observe(next http.Handler) http.Handler {
	var one sync.Mutex
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		c.requests++
		c.mu.Unlock()
		if f := c.intercept.Load(); f != nil && (*f)(w, r) {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		rec := httptest.NewRecorder()
		one.Lock()
		next.ServeHTTP(rec, r)
		one.Unlock()
		c.mu.Lock()
		if r.URL.Path == orderPath && rec.Code == http.StatusCreated {
			c.orders = append(c.orders, hostOfOrder(body))
		}
		if r.URL.Path == "/sign-me-up" && rec.Code == http.StatusCreated {
			c.accounts++
		}
		c.mu.Unlock()
		for name, values := range rec.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes())
	})
}

const (
	orderPath     = "/order-plz"
	challengePath = "/chalZ/"
)

// hostOfOrder reads whom an order is for, in the request that makes it.
func hostOfOrder(body []byte) string {
	var signed struct{ Payload string }
	var order struct{ Identifiers []struct{ Value string } }
	if json.Unmarshal(body, &signed) != nil {
		return "?"
	}
	payload, err := base64.RawURLEncoding.DecodeString(signed.Payload)
	if err != nil || json.Unmarshal(payload, &order) != nil || len(order.Identifiers) != 1 {
		return "?"
	}
	return order.Identifiers[0].Value
}

// directory is the URL of the CA's directory.
func (c *testCA) directory() string { return c.URL + wfe.DirectoryPath }

// files writes the certificates to trust: that of the CA's own server, and the
// root of those it gives.
func (c *testCA) files(t *testing.T) (server, root string) {
	t.Helper()
	dir := t.TempDir()
	server, root = filepath.Join(dir, "server.pem"), filepath.Join(dir, "root.pem")
	for path, content := range map[string][]byte{
		server: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate().Raw}),
		root:   c.root,
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return server, root
}

// ordersOf returns how many orders there were for a host, or for all ("").
func (c *testCA) ordersOf(host string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if host == "" {
		return len(c.orders)
	}
	return len(slices.DeleteFunc(slices.Clone(c.orders), func(h string) bool { return h != host }))
}

func (c *testCA) requestCount() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.requests
}

// answer has all requests, or those that path begins, answered by f.
func (c *testCA) answer(path string, f http.HandlerFunc) {
	g := func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, path) {
			return false
		}
		f(w, r)
		return true
	}
	c.intercept.Store(&g)
}

func (c *testCA) down() {
	c.answer("", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "down", http.StatusServiceUnavailable) })
}

func (c *testCA) up() { c.intercept.Store(nil) }

// resolver returns the address of a DNS server (TCP) that knows every host:
// those under nowhere.test at an address where nobody listens.
var resolver = sync.OnceValue(func() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	server := &dns.Server{Listener: l, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		for _, q := range r.Question {
			if q.Qtype != dns.TypeA {
				continue
			}
			ip := net.IPv4(127, 0, 0, 1)
			if strings.HasSuffix(q.Name, "nowhere.test.") {
				ip = net.IPv4(127, 0, 0, 99)
			}
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: ip})
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = server.ActivateAndServe() }()
	return l.Addr().String()
})
