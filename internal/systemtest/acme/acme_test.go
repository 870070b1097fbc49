package acme

import (
	"crypto/ecdsa"
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"helloapi/internal/backendtest"
	"helloapi/internal/certs"
)

// However many start together, each host's certificate is ordered once, and
// the clients that are there first get it.
func TestTogether(t *testing.T) {
	t.Parallel()
	for _, replicas := range []int{2, 4, 8} {
		for _, challenge := range []string{certs.TLSALPN01, certs.HTTP01} {
			t.Run(fmt.Sprintf("%d/%s", replicas, challenge), func(t *testing.T) {
				t.Parallel()
				c := newCluster(t, caOptions{only: challenge}, "a.test", "b.test")
				all := make([]*replica, replicas)
				var wg sync.WaitGroup
				for i := range all {
					wg.Go(func() { all[i] = c.start(t, func(cfg *certs.Config) { cfg.Challenges = []string{challenge} }) })
				}
				wg.Wait()
				var mu sync.Mutex
				serials := map[string]bool{}
				for _, r := range all {
					for _, host := range c.hosts {
						for range 3 {
							wg.Go(func() {
								cert, err := c.handshake(t.Context(), r.tls, host)
								if err != nil {
									t.Errorf("an early client of %s: %v", host, err)
									return
								}
								mu.Lock()
								defer mu.Unlock()
								serials[host+cert.SerialNumber.String()] = true
							})
						}
					}
				}
				wg.Wait()
				if len(serials) != 2 {
					t.Errorf("%d certificates are served, want 2", len(serials))
				}
				c.orders(t, "a.test", 1)
				c.orders(t, "b.test", 1)
			})
		}
	}
}

// While certificates of a few seconds are renewed, no client sees anything of it.
func TestRenewalUnderTraffic(t *testing.T) {
	t.Parallel()
	c := newCluster(t, caOptions{lifetime: 10}, "a.test")
	begin := time.Now()
	for range 4 {
		c.start(t)
	}
	c.get(t, c.tls.Addr().String(), "a.test")

	var handshakes atomic.Int64
	var mu sync.Mutex
	publicKeys := map[string]string{} // by serial number
	end := time.Now().Add(22 * time.Second)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for time.Now().Before(end) {
				cert, err := c.handshake(t.Context(), c.tls.Addr().String(), "a.test")
				if err != nil {
					t.Errorf("handshake: %v", err)
					return
				}
				handshakes.Add(1)
				mu.Lock()
				publicKeys[cert.SerialNumber.String()] = fmt.Sprintf("%x", cert.RawSubjectPublicKeyInfo)
				mu.Unlock()
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	different := map[string]bool{}
	for _, k := range publicKeys {
		different[k] = true
	}
	orders := c.ca.ordersOf("a.test")
	t.Logf("%d handshakes, %d orders, %d certificates seen", handshakes.Load(), orders, len(publicKeys))
	// They are renewed with half of their life left: every 5 seconds, and somewhat
	// later than that.
	if took := time.Since(begin); orders < 3 || orders > 1+int(took/(5*time.Second)) {
		t.Errorf("%d orders in %v of certificates for 10 seconds", orders, took)
	}
	if len(publicKeys) < orders-1 || len(publicKeys) > orders {
		t.Errorf("%d certificates were seen, of %d orders: each order has to bring one that all serve", len(publicKeys), orders)
	}
	if len(different) != len(publicKeys) {
		t.Errorf("%d keys in %d certificates: each needs its own", len(different), len(publicKeys))
	}
}

// While the CA is away what there is is served on, also past its end, and by
// replicas that start then; and few orders are tried.
func TestCADown(t *testing.T) {
	t.Parallel()
	c := newCluster(t, caOptions{lifetime: 4}, "a.test")
	backoff := func(cfg *certs.Config) {
		cfg.Timing.Backoff = []time.Duration{2 * time.Second, 3 * time.Second}
	}
	r := c.start(t, backoff)
	first := c.get(t, r.tls, "a.test")
	c.ca.down()
	before := c.ca.ordersOf("")
	waitFor(t, "the certificate to end, and attempts to fail", func() bool {
		return time.Now().After(first.NotAfter.Add(time.Second)) && c.state(t, r.store, "a.test").Failures > 0
	})
	late := c.start(t, backoff)
	for _, addr := range []string{r.tls, late.tls} {
		if cert, err := c.soon(t, addr, "a.test", anyDate); err != nil || !cert.Equal(first) {
			t.Errorf("handshake after the end: %v", err)
		}
	}
	st := c.state(t, r.store, "a.test")
	if !strings.Contains(st.LastError, "503") || r.Statuses()[0].Error == "" {
		t.Errorf("the state does not tell of it: %+v, %+v", st, r.Statuses()[0])
	}
	if n := c.ca.ordersOf(""); n != before {
		t.Errorf("%d orders of a CA that is down", n-before)
	}
	c.ca.up()
	waitFor(t, "a new certificate on both", func() bool {
		for _, addr := range []string{r.tls, late.tls} {
			cert, err := c.handshake(t.Context(), addr, "a.test", anyDate)
			if err != nil || cert.Equal(first) {
				return false
			}
		}
		return true
	})
	if st := r.Statuses()[0]; st.Error != "" || st.Failures != 0 {
		t.Errorf("status afterwards: %+v", st)
	}
}

// An attempt that fails is shared knowledge: no replica tries again too soon.
func TestBackoffIsShared(t *testing.T) {
	t.Parallel()
	c := newCluster(t, caOptions{}, "a.nowhere.test")
	var all []*replica
	for range 4 {
		all = append(all, c.start(t, func(cfg *certs.Config) { cfg.Timing.FirstWait = time.Second }))
	}
	waitFor(t, "the attempt to fail", func() bool { return c.state(t, all[0].store, "a.nowhere.test").Failures > 0 })
	time.Sleep(10 * quick().Poll) // in which others would try
	st := c.state(t, all[0].store, "a.nowhere.test")
	if st.Failures != 1 || time.Until(st.NextAttempt) < 59*time.Minute {
		t.Errorf("state: %+v", st)
	}
	// One order for each type of challenge, and no third.
	c.orders(t, "", 2)
	for _, want := range []string{"tls-alpn-01: ", "http-01: ", "could not validate"} {
		if !strings.Contains(st.LastError, want) {
			t.Errorf("the last error does not have %q: %s", want, st.LastError)
		}
	}
	if _, err := c.handshake(t.Context(), all[1].tls, "a.nowhere.test"); err == nil {
		t.Error("a handshake without a certificate")
	}
}

func TestRateLimited(t *testing.T) {
	t.Parallel()
	c := newCluster(t, caOptions{}, "a.test")
	c.ca.answer(orderPath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.Header().Set("Retry-After", "7200")
		w.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprint(w, `{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many certificates","status":429}`)
	})
	r := c.start(t)
	waitFor(t, "the attempt to fail", func() bool { return c.state(t, r.store, "a.test").Failures > 0 })
	st := c.state(t, r.store, "a.test")
	if wait := time.Until(st.NextAttempt); wait < 7190*time.Second || wait > 7210*time.Second || !strings.Contains(st.LastError, "too many certificates") {
		t.Errorf("the next attempt in %v, want the 7200 s that the CA said; last error: %s", wait, st.LastError)
	}
}

// With what a CA does on a bad day an order takes longer, and is still one.
func TestSlowAndForgetful(t *testing.T) {
	t.Parallel()
	c := newCluster(t, caOptions{badNonces: 50, retryAuthz: 3, retryDone: 5}, "a.test")
	for range 2 {
		c.start(t)
	}
	c.get(t, c.tls.Addr().String(), "a.test")
	c.orders(t, "", 1)
}

func TestStoreDown(t *testing.T) {
	t.Parallel()
	c := newCluster(t, caOptions{lifetime: 6}, "a.test")
	store := &faulty{Store: c.open(t)}
	r := c.start(t, func(cfg *certs.Config) { cfg.Store = store })
	first := c.get(t, r.tls, "a.test")
	store.down.Store(true)

	// One that finds no certificate before the store goes away.
	empty := &faulty{Store: c.open(t)}
	other := c.start(t, func(cfg *certs.Config) {
		cfg.Store, cfg.Timing.FirstWait = empty, time.Second
		cfg.Hosts = []string{"b.test"}
		empty.readOnly.Store(true)
	})
	// That nothing can be written is said, and does not make it busy.
	waitFor(t, "the status to tell", func() bool { return strings.Contains(other.Statuses()[0].Error, "store is down") })
	calls := empty.calls.Load()
	time.Sleep(time.Second)
	if n := empty.calls.Load() - calls; n > 60 {
		t.Errorf("%d calls of a store that can't be written to, in a second", n)
	}
	if n := strings.Count(other.log.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, other.log)
	}
	empty.down.Store(true)
	begin := time.Now()
	if _, err := c.handshake(t.Context(), other.tls, "b.test"); err == nil || time.Since(begin) < time.Second || time.Since(begin) > 5*time.Second {
		t.Errorf("a handshake without a certificate: %v after %v, want an error after a second", err, time.Since(begin))
	}
	other.stop()

	waitFor(t, "the time to renew to be over", func() bool { return time.Now().After(first.NotAfter) })
	if cert, err := c.soon(t, r.tls, "a.test", anyDate); err != nil || !cert.Equal(first) {
		t.Errorf("handshake while the store is down: %v", err)
	}
	c.orders(t, "", 1)
	if got := r.Statuses()[0].Error; !strings.Contains(got, "store is down") {
		t.Errorf("the status does not tell of it: %q", got)
	}
	store.down.Store(false)
	waitFor(t, "a new certificate", func() bool {
		cert, err := c.handshake(t.Context(), r.tls, "a.test")
		return err == nil && !cert.Equal(first)
	})
}

// A certificate that can't be stored is served, kept, and not ordered again.
func TestStoreReadOnlyAfterOrder(t *testing.T) {
	t.Parallel()
	c := newCluster(t, caOptions{}, "a.test")
	store := &faulty{Store: c.open(t)}
	// From the moment the CA has validated, nothing can be written.
	c.ca.answer("/finalize-order/", func(w http.ResponseWriter, r *http.Request) {
		store.readOnly.Store(true)
		c.ca.up()
		c.ca.Config.Handler.ServeHTTP(w, r)
	})
	r := c.start(t, func(cfg *certs.Config) { cfg.Store = store })
	first := c.get(t, r.tls, "a.test")
	other := c.start(t, func(cfg *certs.Config) { cfg.Timing.FirstWait = 100 * time.Millisecond })
	if _, err := c.handshake(t.Context(), other.tls, "a.test"); err == nil {
		t.Error("another replica has a certificate that was not stored")
	}
	waitFor(t, "the status to tell", func() bool { return strings.Contains(r.Statuses()[0].Error, "not stored yet") })
	if cert, err := c.soon(t, r.tls, "a.test"); err != nil || !cert.Equal(first) {
		t.Errorf("handshake: %v", err)
	}
	store.readOnly.Store(false)
	waitFor(t, "the other replica to have it", func() bool {
		cert, err := c.handshake(t.Context(), other.tls, "a.test")
		return err == nil && cert.Equal(first)
	})
	c.orders(t, "", 1)
	if st := c.state(t, r.store, "a.test"); time.Until(st.NextAttempt) < time.Hour || st.Failures != 0 {
		t.Errorf("state: %+v", st)
	}
}

// An answer that can't be shared is not one that the CA should ask for.
func TestAnswerNotStored(t *testing.T) {
	t.Parallel()
	c := newCluster(t, caOptions{}, "a.test")
	store := &faulty{Store: c.open(t)}
	c.ca.answer("/authZ/", func(w http.ResponseWriter, r *http.Request) {
		store.readOnly.Store(true)
		c.ca.up()
		c.ca.Config.Handler.ServeHTTP(w, r)
	})
	r := c.start(t, func(cfg *certs.Config) { cfg.Store = store })
	waitFor(t, "the attempt to fail", func() bool { return strings.Contains(r.log.String(), "no certificate") })
	if !strings.Contains(r.log.String(), "can't be shared") {
		t.Errorf("the log does not tell why:\n%s", r.log)
	}
	c.orders(t, "", 1)
	store.readOnly.Store(false)
	waitFor(t, "the failure to be stored", func() bool { return c.state(t, r.store, "a.test").Failures == 1 })
}

// What can't be opened is an error, and no reason to order.
func TestCorruptEntry(t *testing.T) {
	t.Parallel()
	c := newCluster(t, caOptions{}, "a.test", "b.test")
	r := c.start(t)
	first, other := c.get(t, r.tls, "a.test"), c.get(t, r.tls, "b.test")

	data := map[string][]byte{}
	for _, host := range c.hosts {
		var b []byte
		if err := backendtest.SQL(t, c.url).QueryRow(`SELECT data FROM certificates WHERE host = $1`, host).Scan(&b); err != nil {
			t.Fatal(err)
		}
		data[host] = b
	}
	good := data["a.test"]
	flipped := slices.Clone(good)
	flipped[len(flipped)/2] ^= 1
	seen := 0
	for what, bad := range map[string][]byte{
		"garbage": {1, 2, 3, 4, 5, 6, 7, 8}, "empty": {}, "cut": good[:len(good)-1], "flipped": flipped, "longer": append(slices.Clone(good), 0),
		"moved": data["b.test"],
	} {
		backendtest.Exec(t, c.url, `UPDATE certificates SET data = $1, version = $2, next_attempt = 'epoch' WHERE host = 'a.test'`, bad, what)
		seen++
		waitFor(t, "the replica to see it: "+what, func() bool { return strings.Count(r.log.String(), "can't be used") == seen })
		if got := r.Statuses()[0].Error; !strings.Contains(got, "helloapi certs renew a.test") {
			t.Errorf("%s: status %q", what, got)
		}
		late := c.start(t, func(cfg *certs.Config) { cfg.Timing.FirstWait = 300 * time.Millisecond })
		if _, err := c.handshake(t.Context(), late.tls, "a.test"); err == nil {
			t.Errorf("%s: a replica that starts serves it", what)
		}
		if cert, err := c.soon(t, late.tls, "b.test"); err != nil || !cert.Equal(other) {
			t.Errorf("%s: the other host: %v", what, err)
		}
		if cert, err := c.soon(t, r.tls, "a.test"); err != nil || !cert.Equal(first) {
			t.Errorf("%s: the replica that had it: %v", what, err)
		}
		late.stop()
	}
	c.orders(t, "", 2)

	// A person has it replaced.
	if err := r.store.Renew(t.Context(), "a.test"); err != nil {
		t.Fatal(err)
	}
	late := c.start(t)
	waitFor(t, "a new certificate on both", func() bool {
		x, err1 := c.handshake(t.Context(), r.tls, "a.test")
		y, err2 := c.handshake(t.Context(), late.tls, "a.test")
		return err1 == nil && err2 == nil && !x.Equal(first) && x.Equal(y)
	})
	c.orders(t, "a.test", 2)
	c.orders(t, "b.test", 1)
	if st := r.Statuses()[0]; st.Error != "" {
		t.Errorf("status afterwards: %+v", st)
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	c := newCluster(t, caOptions{}, "a.test")
	old, young := sealKey, strings.Repeat("bmV3", 10)+"bmU=" // 32 bytes
	r := c.start(t)
	first := c.get(t, r.tls, "a.test")
	var stored string
	query := `SELECT string_agg(encode(data, 'escape'), '') FROM (SELECT data FROM certificates UNION ALL SELECT data FROM certificate_secrets) AS t`
	if err := backendtest.SQL(t, c.url).QueryRow(query).Scan(&stored); err != nil || strings.Contains(stored, "PRIVATE") || strings.Contains(stored, "CERTIFICATE") {
		t.Errorf("a key is stored in clear (%v)", err)
	}

	cfg := c.config(t)
	cfg.Keys, cfg.Log = keys(t, young), discard
	if _, err := certs.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "CERT_ENCRYPTION_KEY is not the one") {
		t.Errorf("with another key: %v, want the advice to give the same to all", err)
	}
	// Both, then the new one alone.
	for _, k := range []string{old + "," + young, young + "," + old, young} {
		next := c.start(t, func(cfg *certs.Config) { cfg.Keys = keys(t, k) })
		if cert, err := c.soon(t, next.tls, "a.test"); err != nil || !cert.Equal(first) {
			t.Errorf("after the key was changed: %v", err)
		}
		r.stop()
		r = next
	}
	cfg.Keys = keys(t, old)
	if _, err := certs.Open(t.Context(), cfg); err == nil {
		t.Error("the old key is still good")
	}
	// The account goes on as well.
	if err := r.store.Renew(t.Context(), "a.test"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "another certificate", func() bool {
		cert, err := c.handshake(t.Context(), c.tls.Addr().String(), "a.test")
		return err == nil && !cert.Equal(first)
	})
}

// Whom nobody serves costs nothing.
func TestRefused(t *testing.T) {
	t.Parallel()
	c := newCluster(t, caOptions{}, "a.test")
	store := &faulty{Store: c.open(t)}
	r := c.start(t, func(cfg *certs.Config) { cfg.Store, cfg.Timing.Poll = store, time.Hour })
	c.get(t, r.tls, "a.test")
	waitFor(t, "the order to be stored", func() bool { return c.state(t, c.open(t), "a.test").Version != "" })
	// The one poll that follows an order.
	waitFor(t, "the poll afterwards", func() bool { return r.Statuses()[0].NextAttempt.After(time.Now()) })
	calls, requests := store.calls.Load(), c.ca.requestCount()

	challenge := func(cfg *tls.Config) { cfg.NextProtos = []string{"acme-tls/1"} }
	for what, test := range map[string]struct {
		host   string
		change func(*tls.Config)
	}{
		"unlisted":           {"x.test", anyDate},
		"below":              {"www.a.test", anyDate},
		"challenge, no name": {"", func(cfg *tls.Config) { anyDate(cfg); challenge(cfg) }},
		"challenge, others'": {"x.test", func(cfg *tls.Config) { anyDate(cfg); challenge(cfg) }},
		"old TLS":            {"a.test", func(cfg *tls.Config) { cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }},
	} {
		if _, err := c.soon(t, r.tls, test.host, test.change); err == nil {
			t.Errorf("%s: got a certificate", what)
		}
	}
	// A client that names no host gets the first one's certificate.
	trusting := func(*tls.Config) {}
	for host, change := range map[string]func(*tls.Config){"A.Test": trusting, "a.test": trusting, "": anyDate, "127.0.0.1": anyDate} {
		if _, err := c.soon(t, r.tls, host, change); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for what, test := range map[string]struct {
		method, host, path string
		status             int
		location           string
	}{
		"redirect":            {"GET", "a.test", "/hello?name=x%20y", 308, "https://a.test/hello?name=x%20y"},
		"with a port":         {"HEAD", "A.TEST:8080", "/", 308, "https://a.test/"},
		"with a body":         {"POST", "a.test", "/hello", 403, ""},
		"another host":        {"GET", "x.test", "/hello", 421, ""},
		"challenge, others'":  {"GET", "x.test", "/.well-known/acme-challenge/abcdefghijklmnopqrstuvwxyz", 421, ""},
		"challenge, nonsense": {"GET", "a.test", "/.well-known/acme-challenge/a.b", 404, ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), test.method, "http://"+r.http+test.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = test.host
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != test.status || resp.Header.Get("Location") != test.location {
			t.Errorf("%s: %d to %q, want %d to %q", what, resp.StatusCode, resp.Header.Get("Location"), test.status, test.location)
		}
	}
	if n := store.calls.Load() - calls; n != 0 {
		t.Errorf("that asked the store %d times", n)
	}
	if n := c.ca.requestCount() - requests; n != 0 {
		t.Errorf("that sent the CA %d requests", n)
	}
	// A challenge that nobody has set: looked up, and refused.
	if _, err := c.soon(t, r.tls, "a.test", anyDate, challenge); err == nil {
		t.Error("an answer to a challenge that there is not")
	}
}

// What a client can do does not decide what is ordered.
func TestClients(t *testing.T) {
	t.Parallel()
	c := newCluster(t, caOptions{}, "a.test")
	r := c.start(t)
	first := c.get(t, r.tls, "a.test")
	if _, ok := first.PublicKey.(*ecdsa.PublicKey); !ok {
		t.Errorf("the key is a %T", first.PublicKey)
	}
	for what, change := range map[string]func(*tls.Config){
		"TLS 1.3 only": func(cfg *tls.Config) { cfg.MinVersion = tls.VersionTLS13 },
		"TLS 1.2 only": func(cfg *tls.Config) { cfg.MaxVersion = tls.VersionTLS12 },
		"X25519 only":  func(cfg *tls.Config) { cfg.CurvePreferences = []tls.CurveID{tls.X25519} },
		"X25519, 1.3": func(cfg *tls.Config) {
			cfg.CurvePreferences, cfg.MinVersion = []tls.CurveID{tls.X25519}, tls.VersionTLS13
		},
		"HTTP/2 only":    func(cfg *tls.Config) { cfg.NextProtos = []string{"h2"} },
		"many protocols": func(cfg *tls.Config) { cfg.NextProtos = []string{"acme-tls/1", "http/1.1"} },
	} {
		if cert, err := c.soon(t, r.tls, "a.test", change); err != nil || !cert.Equal(first) {
			t.Errorf("%s: %v", what, err)
		}
	}
	rsaOnly := func(cfg *tls.Config) {
		cfg.MaxVersion, cfg.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	}
	if _, err := c.soon(t, r.tls, "a.test", rsaOnly); err == nil {
		t.Error("a client that wants RSA got a certificate")
	}
	c.orders(t, "", 1)
}

// A replica that dies in the middle of an order leaves a lease behind, which
// runs out.
func TestHolderDies(t *testing.T) {
	t.Parallel()
	c := newCluster(t, caOptions{}, "a.test")
	store := c.open(t)
	id := certs.ID{Directory: c.ca.directory(), Name: "a.test"}
	if _, err := store.Acquire(t.Context(), id, "dead", 3*time.Second); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for range 3 {
		c.start(t)
	}
	c.get(t, c.tls.Addr().String(), "a.test")
	if d := time.Since(begin); d < 2500*time.Millisecond || d > 12*time.Second {
		t.Errorf("taken over after %v, want some more than 3 s", d)
	}
	c.orders(t, "", 1)
}

// One that stops in the middle of an order lets another begin at once.
func TestStopDuringOrder(t *testing.T) {
	t.Parallel()
	c := newCluster(t, caOptions{}, "a.test")
	reached, slow := make(chan bool, 1), make(chan bool)
	c.ca.answer(orderPath, func(http.ResponseWriter, *http.Request) {
		reached <- true
		<-slow
	})
	r := c.start(t)
	<-reached
	c.ca.up()
	begin := time.Now()
	r.stop()
	close(slow)
	if d := time.Since(begin); d > 8*time.Second {
		t.Errorf("stopping took %v", d)
	}
	other := c.start(t)
	if st := c.state(t, other.store, "a.test"); st.Failures != 0 {
		t.Errorf("stopping counts as a failure: %+v", st)
	}
	c.get(t, other.tls, "a.test")
	c.orders(t, "", 1)
}

// A wrong clock makes no orders: neither this machine's, nor one that the
// store tells.
func TestWrongClock(t *testing.T) {
	t.Parallel()
	c := newCluster(t, caOptions{lifetime: 50 * 60}, "a.test")
	right := c.start(t)
	c.get(t, right.tls, "a.test")
	for _, ahead := range []time.Duration{80 * 24 * time.Hour, -80 * 24 * time.Hour, 28 * time.Minute} {
		store := &faulty{Store: c.open(t)}
		store.ahead.Store(int64(ahead))
		wrong := c.start(t, func(cfg *certs.Config) { cfg.Store = store })
		calls := store.calls.Load()
		waitFor(t, "some polls", func() bool { return store.calls.Load() > calls+5 })
		if _, err := c.soon(t, wrong.tls, "a.test"); err != nil {
			t.Errorf("%v: %v", ahead, err)
		}
		got := wrong.Statuses()[0].Error
		if far := ahead.Abs() > time.Hour; far != strings.Contains(got, "clock is") {
			t.Errorf("%v: status %q", ahead, got)
		}
	}
	c.orders(t, "", 1)
}

func TestDirectories(t *testing.T) {
	t.Parallel()
	staging := newCluster(t, caOptions{}, "a.test")
	production := *staging
	production.ca = startCA(t, caOptions{}, staging.tls.port(), staging.http.port())
	r := staging.start(t)
	old := staging.get(t, r.tls, "a.test")
	r.stop()
	r = production.start(t)
	if cert := production.get(t, r.tls, "a.test"); cert.Equal(old) {
		t.Error("the certificate of the other directory is served")
	}
	r.stop()
	r = staging.start(t)
	if cert := staging.get(t, r.tls, "a.test"); !cert.Equal(old) {
		t.Error("the certificate of the first directory is lost")
	}
	staging.orders(t, "", 1)
	production.orders(t, "", 1)
}

func TestExternalAccount(t *testing.T) {
	t.Parallel()
	c := newCluster(t, caOptions{eab: true}, "a.test")
	r := c.start(t)
	waitFor(t, "the attempt to fail", func() bool { return c.state(t, r.store, "a.test").Failures > 0 })
	if got := c.state(t, r.store, "a.test").LastError; !strings.Contains(strings.ToLower(got), "external") {
		t.Errorf("last error: %s", got)
	}
	c.orders(t, "", 0)
	r.stop()
	if err := r.store.Renew(t.Context(), "a.test"); err != nil {
		t.Fatal(err)
	}
	r = c.start(t, func(cfg *certs.Config) { cfg.EAB = externalAccount(t) })
	c.get(t, r.tls, "a.test")
	c.orders(t, "", 1)
}

// One process on a file: it works, and a restart orders nothing, even if the
// process was killed while it did.
func TestSQLite(t *testing.T) {
	t.Parallel()
	c := newCluster(t, caOptions{}, "a.test")
	c.url = backendtest.SQLite(t)
	backendtest.Migrate(t, c.url)
	keyFile := certs.KeyFile(strings.TrimPrefix(c.url, "sqlite:") + ".key")
	embedded := func(cfg *certs.Config) { cfg.Keys, cfg.KeyFile, cfg.Holder = nil, keyFile, "me" }

	id := certs.ID{Directory: c.ca.directory(), Name: "a.test"}
	if _, err := c.open(t).Acquire(t.Context(), id, "me", time.Hour); err != nil { // and killed
		t.Fatal(err)
	}
	r := c.start(t, embedded)
	first := c.get(t, r.tls, "a.test")
	r.stop()
	r = c.start(t, embedded)
	if cert, err := c.soon(t, r.tls, "a.test"); err != nil || !cert.Equal(first) {
		t.Errorf("after a restart: %v", err)
	}
	c.orders(t, "", 1)
}
