package acme

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"helloapi/internal/backend"
	"helloapi/internal/backendtest"
	"helloapi/internal/certs"
)

// sealKey is one of CERT_ENCRYPTION_KEY.
var sealKey = base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("k"), 32))

func keys(t testing.TB, s string) certs.Keys {
	t.Helper()
	k, err := certs.ParseKeys(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// quick is a timing for tests.
func quick() certs.Timing {
	return certs.Timing{
		Poll: 200 * time.Millisecond, PollSoon: 50 * time.Millisecond, FirstWait: 20 * time.Second,
		Order: 30 * time.Second, Lease: 40 * time.Second, Backoff: []time.Duration{time.Hour},
	}
}

// A balancer hands TCP connections to one backend after the other.
type balancer struct {
	net.Listener
	mu       sync.Mutex
	backends []string
	next     int
}

func newBalancer(t *testing.T) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{Listener: l}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go b.forward(conn)
		}
	}()
	return b
}

func (b *balancer) port() int { return b.Addr().(*net.TCPAddr).Port }

func (b *balancer) add(addr string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.backends = append(b.backends, addr)
}

func (b *balancer) remove(addr string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var kept []string
	for _, a := range b.backends {
		if a != addr {
			kept = append(kept, a)
		}
	}
	b.backends = kept
}

// pick returns the next backend, and waits for one if there is none.
func (b *balancer) pick() string {
	for {
		b.mu.Lock()
		if len(b.backends) > 0 {
			defer b.mu.Unlock()
			b.next++
			return b.backends[b.next%len(b.backends)]
		}
		b.mu.Unlock()
		time.Sleep(5 * time.Millisecond)
	}
}

func (b *balancer) forward(conn net.Conn) {
	defer conn.Close()
	up, err := net.Dial("tcp", b.pick())
	if err != nil {
		return
	}
	defer up.Close()
	go func() {
		_, _ = io.Copy(up, conn)
		_ = up.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(conn, up)
}

// A cluster is a CA, a database, and replicas behind a balancer for each port.
type cluster struct {
	ca        *testCA
	url       string // of the database
	hosts     []string
	tls, http *balancer
}

func newCluster(t *testing.T, o caOptions, hosts ...string) *cluster {
	t.Helper()
	c := &cluster{url: backendtest.Postgres(t), hosts: hosts, tls: newBalancer(t), http: newBalancer(t)}
	c.ca = startCA(t, o, c.tls.port(), c.http.port())
	return c
}

// A replica obtains certificates and serves with them.
type replica struct {
	*certs.ACME
	store     certs.Store
	tls, http string // addresses
	log       *backendtest.Buffer
	stop      func()
}

// open is the store of another process.
func (c *cluster) open(t *testing.T) certs.Store {
	t.Helper()
	db, err := backend.OpenDatabase(t.Context(), c.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db.Certs()
}

// config is what a replica is started with.
func (c *cluster) config(t *testing.T) certs.Config {
	t.Helper()
	return certs.Config{
		Store: c.open(t), Keys: keys(t, sealKey), Hosts: c.hosts, Directory: c.ca.directory(), HTTPClient: c.ca.Client(),
		Challenges: []string{certs.TLSALPN01, certs.HTTP01}, Timing: quick(),
	}
}

// start starts a replica, with what change makes of its settings.
func (c *cluster) start(t *testing.T, change ...func(*certs.Config)) *replica {
	t.Helper()
	cfg := c.config(t)
	r := &replica{log: new(backendtest.Buffer)}
	cfg.Log = slog.New(slog.NewTextHandler(r.log, nil))
	for _, f := range change {
		f(&cfg)
	}
	r.store = cfg.Store
	var err error
	if r.ACME, err = certs.Open(t.Context(), cfg); err != nil {
		t.Fatalf("open: %v", err)
	}
	quiet := log.New(io.Discard, "", 0)
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	secure := &http.Server{Handler: ok, TLSConfig: r.TLSConfig(tls.VersionTLS12), ErrorLog: quiet}
	plain := &http.Server{Handler: r.HTTPHandler(), ErrorLog: quiet}
	r.tls = serve(t, func(l net.Listener) { _ = secure.ServeTLS(l, "", "") })
	r.http = serve(t, func(l net.Listener) { _ = plain.Serve(l) })
	c.tls.add(r.tls)
	c.http.add(r.http)
	r.Start(t.Context())
	r.stop = sync.OnceFunc(func() {
		c.tls.remove(r.tls)
		c.http.remove(r.http)
		_ = r.Close()
		_ = secure.Close()
		_ = plain.Close()
		for _, secret := range []string{"PRIVATE KEY", sealKey, eabKey} {
			if strings.Contains(r.log.String(), secret) {
				t.Errorf("the log has a secret: %s", r.log)
			}
		}
	})
	t.Cleanup(r.stop)
	return r
}

func serve(t *testing.T, f func(net.Listener)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go f(l)
	return l.Addr().String()
}

// handshake connects to addr as a client that trusts the CA, unless cfg says
// otherwise, and returns the certificate it got.
func (c *cluster) handshake(ctx context.Context, addr, host string, change ...func(*tls.Config)) (*x509.Certificate, error) {
	cfg := &tls.Config{ServerName: host, RootCAs: c.ca.roots}
	for _, f := range change {
		f(cfg)
	}
	conn, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}

// get is handshake for a test that needs it to work.
func (c *cluster) get(t *testing.T, addr, host string, change ...func(*tls.Config)) *x509.Certificate {
	t.Helper()
	cert, err := c.handshake(t.Context(), addr, host, change...)
	if err != nil {
		t.Fatalf("handshake for %s: %v", host, err)
	}
	return cert
}

// anyDate is for clients that take an expired certificate.
func anyDate(cfg *tls.Config) { cfg.InsecureSkipVerify = true }

// soon is handshake for one that has to be answered, or refused, at once.
func (c *cluster) soon(t *testing.T, addr, host string, change ...func(*tls.Config)) (*x509.Certificate, error) {
	t.Helper()
	begin := time.Now()
	cert, err := c.handshake(t.Context(), addr, host, change...)
	if d := time.Since(begin); d > 2*time.Second {
		t.Errorf("a handshake for %s took %v", host, d)
	}
	return cert, err
}

func (c *cluster) state(t *testing.T, store certs.Store, host string) certs.State {
	t.Helper()
	states, _, err := store.States(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range states {
		if s.Name == host && s.Directory == c.ca.directory() {
			return s
		}
	}
	return certs.State{}
}

// orders tests how many orders there were of a host.
func (c *cluster) orders(t *testing.T, host string, want int) {
	t.Helper()
	if n := c.ca.ordersOf(host); n != want {
		t.Errorf("%d orders for %q, want %d", n, host, want)
	}
}

func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// A faulty store fails when told to, and counts what it is asked.
type faulty struct {
	certs.Store
	down     atomic.Bool // fails at everything
	readOnly atomic.Bool // fails to write
	calls    atomic.Int64
	ahead    atomic.Int64 // how much later it says it is
}

var errDown = fmt.Errorf("the store is down")

func (f *faulty) fail(writes bool) error {
	f.calls.Add(1)
	if f.down.Load() || writes && f.readOnly.Load() {
		return errDown
	}
	return nil
}

func (f *faulty) States(ctx context.Context) ([]certs.State, time.Time, error) {
	if err := f.fail(false); err != nil {
		return nil, time.Time{}, err
	}
	states, now, err := f.Store.States(ctx)
	return states, now.Add(time.Duration(f.ahead.Load())), err
}

func (f *faulty) Certificate(ctx context.Context, id certs.ID) ([]byte, string, error) {
	if err := f.fail(false); err != nil {
		return nil, "", err
	}
	return f.Store.Certificate(ctx, id)
}

func (f *faulty) Acquire(ctx context.Context, id certs.ID, holder string, ttl time.Duration) (certs.Lease, error) {
	if err := f.fail(true); err != nil {
		return certs.Lease{}, err
	}
	return f.Store.Acquire(ctx, id, holder, ttl)
}

func (f *faulty) Finish(ctx context.Context, l certs.Lease, o certs.Outcome) (string, error) {
	if err := f.fail(true); err != nil {
		return "", err
	}
	return f.Store.Finish(ctx, l, o)
}

func (f *faulty) Secret(ctx context.Context, id certs.ID) ([]byte, error) {
	if err := f.fail(false); err != nil {
		return nil, err
	}
	return f.Store.Secret(ctx, id)
}

func (f *faulty) PutAnswer(ctx context.Context, id certs.ID, data []byte) error {
	if err := f.fail(true); err != nil {
		return err
	}
	return f.Store.PutAnswer(ctx, id, data)
}
