package certs

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"helloapi/internal/clock"
	"helloapi/internal/hostname"
)

// Config says whose certificates to obtain, and how.
type Config struct {
	Store   Store
	Keys    Keys    // that seal what Store holds; or else
	KeyFile KeyFile // where they are, or are to be made

	Hosts      []string // as ParseHosts returns them
	Directory  string   // the URL of the ACME directory
	Email      string   // for the CA to write to; may be ""
	EAB        *acme.ExternalAccountBinding
	Challenges []string     // the types that can be answered: TLSALPN01, HTTP01
	HTTPClient *http.Client // to talk to the CA; nil for the default one
	UserAgent  string

	// Holder is the name under which leases are taken; "" for one of this
	// process alone. The one process of a database should always have the same,
	// so that it can go on at once where it was killed.
	Holder string

	Timing Timing
	Log    *slog.Logger
}

// The types of challenge.
const (
	TLSALPN01 = "tls-alpn-01"
	HTTP01    = "http-01"
)

// Timing is for tests to shorten.
type Timing struct {
	Poll      time.Duration   // how often the Store is asked for news
	PollSoon  time.Duration   // the same, while there is no certificate yet
	FirstWait time.Duration   // how long a handshake waits for the first certificate
	Order     time.Duration   // how long an order may take
	Lease     time.Duration   // how long a lease lasts: longer than an order
	Backoff   []time.Duration // after the first failure, the second, …
}

// DefaultTiming is what is used where Config has none. A handshake that waits
// has to end before the server's own limit of 10 seconds. The CA's limit of 5
// failures an hour is for all replicas together, and an attempt may cost two.
var DefaultTiming = Timing{
	Poll:      15 * time.Second,
	PollSoon:  250 * time.Millisecond,
	FirstWait: 8 * time.Second,
	Order:     100 * time.Second,
	Lease:     2 * time.Minute,
	Backoff:   []time.Duration{2 * time.Minute, 15 * time.Minute, 100 * time.Minute, 24 * time.Hour},
}

const (
	// storeTimeout is the deadline of one operation of the Store.
	storeTimeout = 2 * time.Second
	// mostOrders is how many orders a replica has under way at most.
	mostOrders = 4
	// mostSkew is how far this machine's clock may be off to order: the CA's
	// certificate might look as if it were not valid yet, and be thrown away.
	mostSkew = 30 * time.Minute
	// stopGrace is what an order under way gets to end when the replica stops.
	stopGrace = 5 * time.Second
)

// ACME obtains certificates and renews them, together with all other replicas
// that share the Store. It is safe for concurrent use.
type ACME struct {
	cfg       Config
	sites     map[string]*site // by host; not changed any more
	hosts     []string         // in order
	responder *autocert.Manager
	lookUps   chan struct{} // held by those that look up an answer to a challenge
	orders    chan struct{} // held by orders under way
	wake      chan struct{}
	stopping  context.Context // ends when no more orders may begin
	stop      context.CancelFunc
	wait      sync.WaitGroup
	metrics   *metrics

	mu      sync.Mutex
	trouble error // why this replica orders nothing; nil if there is no reason
}

// A site is a host with its certificate.
type site struct {
	id      ID
	current atomic.Pointer[tls.Certificate] // that is served; nil before the first
	first   chan struct{}                   // closed when there is one

	mu      sync.Mutex
	version string   // of the last certificate that was taken from the Store
	bad     error    // why that one can't be used
	noLease error    // why the Store gave none, if that is its own fault
	state   State    // as of the last poll
	busy    bool     // an attempt is under way
	unsaved *unsaved // an outcome that the Store could not be told yet
}

type unsaved struct {
	lease   Lease
	outcome Outcome
	err     error // of the last try
}

// ParseHosts returns the names as they are in certificates: in lower case, and
// IDNs in their ASCII form.
func ParseHosts(names []string) ([]string, error) {
	return hostname.List(names, func(name string) (string, error) {
		host, err := hostname.Parse(name)
		switch {
		case strings.HasPrefix(name, "*"):
			return "", errors.New("is a wildcard, which can't be obtained this way; name each host")
		case err != nil && strings.Contains(name, ":"):
			return "", errors.New("must be a host name such as api.example.com, without a scheme and a port")
		case err != nil:
			return "", err
		case net.ParseIP(host) != nil || !strings.Contains(host, "."):
			return "", errors.New("must be a name that a CA gives certificates for, such as api.example.com")
		}
		return host, nil
	})
}

// Open prepares to serve certificates of the Store, and fails if what is in it
// can't be read with the key. Nothing is ordered before Start.
func Open(ctx context.Context, cfg Config) (*ACME, error) {
	keys, err := openKeys(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	cfg.Keys = keys
	if cfg.Holder == "" {
		hostname, _ := os.Hostname()
		cfg.Holder = hostname + "/" + rand.Text()[:8]
	}
	if cfg.Timing.Poll == 0 {
		cfg.Timing = DefaultTiming
	}
	a := &ACME{
		cfg:     cfg,
		sites:   make(map[string]*site, len(cfg.Hosts)),
		hosts:   cfg.Hosts,
		lookUps: make(chan struct{}, 2),
		orders:  make(chan struct{}, mostOrders),
		wake:    make(chan struct{}, 1),
		metrics: newMetrics(),
	}
	a.stopping, a.stop = context.WithCancel(context.Background())
	for _, host := range cfg.Hosts {
		a.sites[host] = &site{id: ID{cfg.Directory, host}, first: make(chan struct{})}
	}
	a.responder = &autocert.Manager{Cache: answers{&a.cfg}}
	a.reseal(ctx)
	a.poll(ctx, false) // so that what there is can be served from the first handshake on
	return a, nil
}

// openKeys returns the keys, if they are those that the Store's content is
// sealed with.
func openKeys(ctx context.Context, cfg *Config) (Keys, error) {
	keys, file := cfg.Keys, cfg.KeyFile
	if keys == nil {
		var err error
		if keys, err = file.read(); err != nil {
			return nil, err
		}
	}
	const lost = "if it is lost, `helloapi certs forget` drops the certificates, and new ones are ordered"
	sealed, err := cfg.Store.Secret(ctx, canaryID)
	switch {
	case errors.Is(err, ErrNotFound):
		if keys == nil {
			if keys, err = file.create(); err != nil {
				return nil, err
			}
		}
		if err := cfg.Store.AddSecret(ctx, canaryID, keys.seal(KindSecret, canaryID, []byte("ok"))); err != nil {
			return nil, err
		}
		// Another replica may have been first, with another key.
		if sealed, err = cfg.Store.Secret(ctx, canaryID); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case keys == nil:
		return nil, fmt.Errorf("the certificates in the database are sealed with a key that was in %s, which is missing: restore that file; %s", file, lost)
	}
	if _, _, err := keys.open(KindSecret, canaryID, sealed); err != nil {
		const other = "is not the one that the certificates in the database are sealed with"
		if cfg.Keys == nil {
			return nil, fmt.Errorf("the key in %s %s: restore that file; %s", file, other, lost)
		}
		return nil, fmt.Errorf("the key in CERT_ENCRYPTION_KEY %s: give the same to all replicas (to change it, the new one first and the old one after a comma); %s", other, lost)
	}
	return keys, nil
}

// reseal brings what other keys sealed under the first one.
func (a *ACME) reseal(ctx context.Context) {
	err := a.cfg.Store.Reseal(ctx, func(kind Kind, id ID, sealed []byte) []byte {
		data, first, err := a.cfg.Keys.open(kind, id, sealed)
		if err != nil || first { // an entry that can't be opened is told of where it is needed
			return nil
		}
		a.cfg.Log.Info("sealing with the first key of CERT_ENCRYPTION_KEY", "what", string(kind), "name", id.Name)
		return a.cfg.Keys.seal(kind, id, data)
	})
	if err != nil {
		a.cfg.Log.Warn("what old keys sealed is not sealed anew: keep them", "error", err)
	}
}

// Start begins to order, in the background, until ctx ends.
func (a *ACME) Start(ctx context.Context) {
	context.AfterFunc(ctx, a.stop)
	a.wait.Go(a.run)
}

// Close waits until all that Start began has ended. An order under way gets a
// few seconds for it; if it is cut off, another replica may begin anew at once.
func (a *ACME) Close() error {
	a.stop()
	a.wait.Wait()
	return nil
}

func (a *ACME) run() {
	for {
		next := a.cfg.Timing.Poll
		if a.poll(a.stopping, true) {
			next = a.cfg.Timing.PollSoon
		}
		timer := time.NewTimer(next)
		select {
		case <-timer.C:
		case <-a.wake:
		case <-a.stopping.Done():
		}
		timer.Stop()
		if a.stopping.Err() != nil {
			return
		}
	}
}

// poll takes over what is new in the Store and, if it may, begins to order what
// is due. It returns whether something is expected to happen soon.
func (a *ACME) poll(ctx context.Context, order bool) (soon bool) {
	states, now, err := a.states(ctx)
	if ctx.Err() != nil {
		return false
	}
	if skew := clock.Now().Sub(now); err == nil && skew.Abs() > mostSkew {
		err = fmt.Errorf("this machine's clock is %v off from the database's: set it", skew.Round(time.Minute))
	}
	a.setTrouble(err)
	for _, host := range a.hosts {
		s := a.sites[host]
		if states != nil {
			s.mu.Lock()
			s.state = states[host]
			s.mu.Unlock()
			a.refresh(ctx, s)
		}
		if order && a.step(s, now, err == nil) {
			soon = true
		}
	}
	return soon
}

// states returns what the Store knows about this directory's certificates, by
// host, and the time that it is there.
func (a *ACME) states(ctx context.Context) (map[string]State, time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	list, now, err := a.cfg.Store.States(ctx)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("the state of the certificates can't be read: %w", err)
	}
	states := make(map[string]State, len(list))
	for _, st := range list {
		if st.Directory == a.cfg.Directory {
			states[st.Name] = st
		}
	}
	return states, now, nil
}

// setTrouble notes why nothing is ordered, and says so once.
func (a *ACME) setTrouble(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil && (a.trouble == nil || a.trouble.Error() != err.Error()) {
		a.cfg.Log.Warn("no certificates are ordered by this replica, those it has are served on", "error", err)
	}
	a.trouble = err
}

// step begins to order the host's certificate if that is due and may be done.
// It returns whether something is expected to happen soon.
func (a *ACME) step(s *site, now time.Time, may bool) (soon bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	none := s.current.Load() == nil
	switch {
	case s.busy:
		return none || s.unsaved != nil
	case s.unsaved != nil:
		a.begin(s, a.save)
		return true
	case !may:
		return none
	case !s.due(now) || now.Before(s.state.NextAttempt):
		return false
	case s.state.Holder == "" || s.state.Holder == a.cfg.Holder:
		a.begin(s, func(s *site) { a.attempt(s, now) })
	}
	return none
}

// begin does f in the background, alone for s. s.mu is held.
func (a *ACME) begin(s *site, f func(*site)) {
	s.busy = true
	a.wait.Go(func() {
		f(s)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.busy = false
	})
}

// due reports whether a certificate has to be ordered. One that is stored but
// can't be opened is no reason to: were its key wrong here, this replica and the
// others would order for ever, one over the other. s.mu is held.
func (s *site) due(now time.Time) bool {
	c := s.current.Load()
	switch {
	case s.state.Renew:
		return true
	case c == nil:
		return s.state.Version == ""
	}
	return !now.Before(renewAt(c.Leaf))
}

// renewAt is when to renew a certificate: with a third of its life left, or
// with half if that is less than ten days.
func renewAt(c *x509.Certificate) time.Time {
	life := c.NotAfter.Sub(c.NotBefore)
	if life < 10*24*time.Hour {
		return c.NotAfter.Add(-life / 2)
	}
	return c.NotAfter.Add(-life / 3)
}

// floor is how soon after one order the next may be: whatever goes wrong in
// finding out when to renew, it does not use up the CA's limits.
func floor(c *x509.Certificate) time.Duration { return c.NotAfter.Sub(c.NotBefore) / 8 }

// refresh takes the stored certificate, if it is another one.
func (a *ACME) refresh(ctx context.Context, s *site) {
	s.mu.Lock()
	known := s.version == s.state.Version
	s.mu.Unlock()
	if known {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	sealed, version, err := a.cfg.Store.Certificate(ctx, s.id)
	if err != nil && !errors.Is(err, ErrNotFound) {
		a.cfg.Log.Warn("a certificate can't be read; trying again", "host", s.id.Name, "error", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version, s.bad = version, nil
	if err != nil { // it was there, and is no more
		return
	}
	data, _, err := a.cfg.Keys.open(KindCertificate, s.id, sealed)
	var c *tls.Certificate
	if err == nil {
		c, err = parse(data, s.id.Name)
	}
	if err != nil {
		s.bad = fmt.Errorf("the stored certificate can't be used: %w (`helloapi certs renew %s` orders another)", err, s.id.Name)
		a.cfg.Log.Error("certificate", "host", s.id.Name, "error", s.bad)
		return
	}
	a.adopt(s, c)
}

// parse reads a private key and its chain from PEM.
func parse(data []byte, host string) (*tls.Certificate, error) {
	c, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, err
	}
	if err := c.Leaf.VerifyHostname(host); err != nil {
		return nil, err
	}
	return &c, nil
}

// adopt serves c, unless a younger one is served. s.mu is held.
func (a *ACME) adopt(s *site, c *tls.Certificate) {
	old := s.current.Load()
	if old != nil && c.Leaf.NotBefore.Before(old.Leaf.NotBefore) {
		return
	}
	s.current.Store(c)
	if old == nil {
		close(s.first)
	}
	if old == nil || old.Leaf.SerialNumber.Cmp(c.Leaf.SerialNumber) != 0 {
		a.cfg.Log.Info("serving certificate", "host", s.id.Name, "not_after", c.Leaf.NotAfter)
	}
}

// attempt orders a certificate, if this replica gets the lease. now is when that
// was found to be due.
func (a *ACME) attempt(s *site, now time.Time) {
	select {
	case a.orders <- struct{}{}:
		defer func() { <-a.orders }()
	case <-a.stopping.Done():
		return
	}
	s.mu.Lock()
	due := s.due(now) // still, after waiting for others
	s.mu.Unlock()
	if !due {
		return
	}
	lease, err := a.acquire(s)
	if err != nil {
		return // a poll will try again
	}
	s.mu.Lock()
	overtaken := lease.Version != s.version // others were quicker than the poll
	s.mu.Unlock()
	var outcome Outcome
	if !overtaken {
		outcome = a.order(s, lease)
	}
	s.mu.Lock()
	s.unsaved = &unsaved{lease: lease, outcome: outcome}
	s.mu.Unlock()
	a.save(s)
	select { // a poll, to see what has come of it
	case a.wake <- struct{}{}:
	default:
	}
}

// acquire takes the lease. What keeps the Store from giving it is noted.
func (a *ACME) acquire(s *site) (Lease, error) {
	ctx, cancel := context.WithTimeout(a.stopping, storeTimeout)
	defer cancel()
	lease, err := a.cfg.Store.Acquire(ctx, s.id, a.cfg.Holder, a.cfg.Timing.Lease)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil || errors.Is(err, ErrNotNow) {
		s.noLease = nil
		return lease, err
	}
	if s.noLease == nil { // once, not for each attempt
		a.cfg.Log.Warn("no certificate can be ordered; trying on", "host", s.id.Name, "error", err)
	}
	s.noLease = err
	return lease, err
}

// order makes one order, serves the certificate it brings, and returns its
// outcome.
func (a *ACME) order(s *site, lease Lease) Outcome {
	a.cfg.Log.Info("ordering certificate", "host", s.id.Name, "directory", s.id.Directory)
	ctx, cancel := context.WithTimeout(context.Background(), a.cfg.Timing.Order)
	defer cancel()
	stop := context.AfterFunc(a.stopping, func() { time.AfterFunc(stopGrace, cancel) })
	defer stop()

	data, ordered, asked, err := a.obtain(ctx, s.id.Name)
	var c *tls.Certificate
	if err == nil {
		c, err = parse(data, s.id.Name)
	}
	if err != nil && a.stopping.Err() != nil {
		a.cfg.Log.Info("an order was cut off by stopping", "host", s.id.Name, "error", err)
		return Outcome{} // nobody's fault: another replica may begin at once
	}
	if err != nil {
		retry := a.retry(lease.Failures, ordered, asked)
		a.metrics.orders.WithLabelValues(s.id.Name, "failed").Inc()
		a.cfg.Log.Error("no certificate was obtained", "host", s.id.Name, "error", err, "next_attempt_in", retry)
		return Outcome{Error: printable(err.Error()), Retry: retry}
	}
	a.metrics.orders.WithLabelValues(s.id.Name, "ok").Inc()
	s.mu.Lock()
	a.adopt(s, c)
	s.mu.Unlock()
	return Outcome{
		Certificate: a.cfg.Keys.seal(KindCertificate, s.id, data), NotAfter: c.Leaf.NotAfter, Retry: floor(c.Leaf),
	}
}

// printable is what a CA said, without what a database might not take.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}

// retry is how long to wait after a failure that follows others, at least as
// long as the CA asked for. An attempt that made no order cost nothing of the
// CA's limits, so the next may be made soon: the CA was away.
func (a *ACME) retry(failures int, ordered bool, asked time.Duration) time.Duration {
	backoff := a.cfg.Timing.Backoff
	switch {
	case asked > 0:
		return max(asked, backoff[0])
	case !ordered:
		failures = min(failures, 1)
	}
	return backoff[min(failures, len(backoff)-1)]
}

// save tells the Store the outcome of the last attempt. It is called by the
// goroutine that made the site busy.
func (a *ACME) save(s *site) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	s.mu.Lock()
	u := s.unsaved
	s.mu.Unlock()
	version, err := a.cfg.Store.Finish(ctx, u.lease, u.outcome)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case errors.Is(err, ErrLeaseLost):
		a.cfg.Log.Warn("the outcome of an order was stored already, or came too late", "host", s.id.Name, "error", err)
	case err != nil:
		if u.err == nil { // once, not for each try
			a.cfg.Log.Warn("the outcome of an order can't be stored; trying on", "host", s.id.Name, "error", err)
		}
		u.err = err
		return
	case u.outcome.Certificate != nil:
		s.version, s.bad = version, nil
	}
	s.unsaved = nil
}

// GetCertificate is for tls.Config. A host that is served costs a look-up in a
// map; the first certificate of a host is waited for. Other hosts are refused. A
// client that names none, because it is old or connects to an IP address, gets
// the first host's.
func (a *ACME) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	challenge := len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acme.ALPNProto
	name := hello.ServerName
	if name == "" && !challenge {
		name = a.hosts[0]
	}
	s := a.sites[name]
	if s == nil {
		if s = a.sites[fold(name)]; s == nil {
			return nil, errUnknownHost
		}
	}
	if challenge {
		return a.answer(hello, s)
	}
	if c := s.current.Load(); c != nil {
		return c, nil
	}
	return a.awaitFirst(hello.Context(), s)
}

var errUnknownHost = errors.New("no certificate is kept for that host")

// fold returns a host as ParseHosts would. It is "" for what is no host.
func fold(host string) string {
	host, _ = hostname.Parse(host)
	return host
}

func (a *ACME) awaitFirst(ctx context.Context, s *site) (*tls.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Timing.FirstWait)
	defer cancel()
	select {
	case <-s.first:
		return s.current.Load(), nil
	case <-ctx.Done():
	case <-a.stopping.Done():
	}
	return nil, fmt.Errorf("there is no certificate for %s yet", s.id.Name)
}

// answer returns the certificate that answers a tls-alpn-01 challenge, which
// any replica may be asked for.
func (a *ACME) answer(hello *tls.ClientHelloInfo, s *site) (*tls.Certificate, error) {
	done, err := a.lookUp(hello.Context())
	if err != nil {
		return nil, err
	}
	defer done()
	return a.responder.GetCertificate(&tls.ClientHelloInfo{ServerName: s.id.Name, SupportedProtos: hello.SupportedProtos})
}

// lookUp waits for a place to look up an answer, and returns what gives it back.
// Few do so at a time, since anybody may ask and the Store has better to do.
func (a *ACME) lookUp(ctx context.Context) (done func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	select {
	case a.lookUps <- struct{}{}:
		return func() { <-a.lookUps }, nil
	case <-ctx.Done():
		return nil, errors.New("too many ask for answers to challenges")
	}
}

// TLSConfig returns what a server needs, with TLS of minVersion and up.
func (a *ACME) TLSConfig(minVersion uint16) *tls.Config {
	return &tls.Config{
		MinVersion:     minVersion,
		GetCertificate: a.GetCertificate,
		NextProtos:     []string{"h2", "http/1.1", acme.ALPNProto},
	}
}

// Names returns the hosts, for people to try.
func (a *ACME) Names() []string { return a.hosts }
