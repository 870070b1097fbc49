package certs

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

const (
	// requestTimeout bounds a request to the CA.
	requestTimeout = 30 * time.Second
	// tidyTime is what autocert gets, once an order has ended, to give back the
	// authorizations that it did not use: there is a limit on those too.
	tidyTime = 10 * time.Second
)

// obtain makes one order for a certificate, and returns the key and the chain
// in PEM. After an error it returns whether the CA took the order, and how long
// it asked to be left alone, if it did.
//
// The work is done by an autocert.Manager that is used this once: one that
// lives on would order by itself, whatever other replicas do.
func (a *ACME) obtain(ctx context.Context, host string) (pem []byte, ordered bool, asked time.Duration, err error) {
	key, err := a.account(ctx)
	if err != nil {
		return nil, false, 0, fmt.Errorf("account key: %w", err)
	}
	g := &gate{base: http.DefaultTransport, types: a.cfg.Challenges}
	if a.cfg.HTTPClient != nil && a.cfg.HTTPClient.Transport != nil {
		g.base = a.cfg.HTTPClient.Transport
	}
	cache := &orderCache{answers: answers{&a.cfg}, host: host, gate: g}
	m := &autocert.Manager{
		Prompt:                 autocert.AcceptTOS,
		Cache:                  cache,
		RenewBefore:            time.Second, // it is long gone by then, and the gate is closed
		Email:                  a.cfg.Email,
		ExternalAccountBinding: a.cfg.EAB,
		Client: &acme.Client{
			Key:          key,
			DirectoryURL: a.cfg.Directory,
			HTTPClient:   &http.Client{Transport: g, Timeout: requestTimeout},
			RetryBackoff: backoff,
			UserAgent:    a.cfg.UserAgent,
		},
	}
	if slices.Contains(a.cfg.Challenges, HTTP01) {
		m.HTTPHandler(nil) // has it use this type of challenge too
	}
	hello := &tls.ClientHelloInfo{
		ServerName:   host,
		CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}, // else it orders for RSA
	}
	// It has a deadline of its own, so it is left behind at ours.
	done := make(chan error, 1)
	go func() {
		_, err := m.GetCertificate(hello)
		done <- err
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = errors.New("it took too long")
	}
	g.stop(errors.New("the order has ended"))
	time.AfterFunc(tidyTime, g.close)

	if pem := cache.certificate(); pem != nil { // be it in the last moment
		return pem, true, 0, nil
	}
	if err == nil {
		err = errors.New("autocert did not store its certificate") // which it does
	}
	ordered, asked = g.result()
	return nil, ordered, asked, g.explain(err)
}

// account returns the key of the account at the directory. All replicas use
// the same one.
func (a *ACME) account(ctx context.Context) (crypto.Signer, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	id := ID{a.cfg.Directory, accountName}
	sealed, err := a.cfg.Store.Secret(ctx, id)
	if errors.Is(err, ErrNotFound) {
		sealed, err = a.newAccount(ctx, id)
	}
	if err != nil {
		return nil, err
	}
	der, _, err := a.cfg.Keys.open(KindSecret, id, sealed)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParseECPrivateKey(der)
	if err != nil {
		return nil, errDamaged // not err, which might quote the key
	}
	return key, nil
}

// newAccount makes the key of an account, and returns the one that is stored,
// sealed: another replica may have been first.
func (a *ACME) newAccount(ctx context.Context, id ID) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := a.cfg.Store.AddSecret(ctx, id, a.cfg.Keys.seal(KindSecret, id, der)); err != nil {
		return nil, err
	}
	return a.cfg.Store.Secret(ctx, id)
}

// backoff is how long to wait before a request to the CA is repeated; 0 to give
// up, and try the whole order another time.
func backoff(n int, _ *http.Request, resp *http.Response) time.Duration {
	const most = 10 * time.Second
	after := retryAfter(resp)
	switch {
	case resp.StatusCode == http.StatusTooManyRequests, after > most:
		return 0
	case resp.StatusCode == http.StatusBadRequest && n <= 20: // the nonce was too old
		return 50 * time.Millisecond
	case n <= 3:
		return max(after, time.Duration(n)*time.Second)
	}
	return 0
}

// retryAfter reads the header of that name; 0 if there is none.
func retryAfter(resp *http.Response) time.Duration {
	v := resp.Header.Get("Retry-After")
	if n, err := strconv.Atoi(v); err == nil {
		return max(0, time.Duration(n)*time.Second)
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(t))
	}
	return 0
}

// A gate stands between autocert and the CA. It keeps autocert from what it does
// not know about: types of challenge that can't be answered here, trying for
// longer than it may, and orders that can come to nothing.
type gate struct {
	base  http.RoundTripper
	types []string // of challenge

	mu       sync.Mutex
	orderURL string   // where orders are made
	authzs   []string // where the authorizations of this one are
	orders   int      // made
	problems []string // why the CA could not validate
	after    time.Duration
	stopped  error // nothing but tidying up any more
	closed   bool  // nothing at all
}

// stop lets nothing pass but what tidies up, for the reason err.
func (g *gate) stop(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped == nil {
		g.stopped = err
	}
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

// result returns whether the CA took an order, and how long it asked to be left
// alone.
func (g *gate) result() (ordered bool, after time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.orders > 0, g.after
}

// explain returns what came in the way of an order that failed with err: the
// CA's own words where autocert does not pass them on.
func (g *gate) explain(err error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.problems) > 0 {
		return fmt.Errorf("the CA could not validate the host: %s", strings.Join(g.problems, "; "))
	}
	return fmt.Errorf("ACME: %w", err)
}

// errAllTried is why there is no further order.
var errAllTried = errors.New("every type of challenge has been tried")

func (g *gate) pass(r *http.Request) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	url := r.URL.String()
	switch {
	case g.closed:
		return errors.New("the order has ended")
	case g.stopped != nil && r.Method == http.MethodPost && !slices.Contains(g.authzs, url):
		return g.stopped
	case url == g.orderURL && g.orders >= len(g.types):
		return errAllTried
	}
	return nil
}

// RoundTrip implements http.RoundTripper.
func (g *gate) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := g.pass(r); err != nil {
		return nil, err
	}
	resp, err := g.base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(resp.Header.Get("Content-Type"), "json") {
		return resp, nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	body = g.read(r.URL.String(), resp, body)
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return resp, nil
}

// read learns from an answer, and returns what autocert gets of it.
func (g *gate) read(url string, resp *http.Response, body []byte) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
		g.after = max(g.after, retryAfter(resp))
	}
	var v struct {
		NewOrder       string            // a directory
		Authorizations []string          // an order
		Challenges     []json.RawMessage // an authorization
	}
	if json.Unmarshal(body, &v) != nil {
		return body
	}
	if v.NewOrder != "" {
		g.orderURL = v.NewOrder
	}
	if url == g.orderURL && resp.StatusCode == http.StatusCreated {
		g.orders++
	}
	g.authzs = append(g.authzs, v.Authorizations...)
	if v.Challenges == nil {
		return body
	}
	v.Challenges = slices.DeleteFunc(v.Challenges, func(raw json.RawMessage) bool {
		var c struct {
			Type  string
			Error *struct{ Detail string }
		}
		if json.Unmarshal(raw, &c) == nil && c.Error != nil {
			if p := c.Type + ": " + c.Error.Detail; !slices.Contains(g.problems, p) {
				g.problems = append(g.problems, p)
			}
		}
		return !slices.Contains(g.types, c.Type)
	})
	var all map[string]any
	if json.Unmarshal(body, &all) != nil {
		return body
	}
	all["challenges"] = v.Challenges
	if changed, err := json.Marshal(all); err == nil {
		return changed
	}
	return body
}

// answers is the autocert.Cache that shares the answers to challenges. What
// can't be opened is an error, and never missing.
type answers struct{ cfg *Config }

func (c answers) id(key string) ID { return ID{c.cfg.Directory, AnswerPrefix + key} }

func (c answers) Get(ctx context.Context, key string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	sealed, err := c.cfg.Store.Secret(ctx, c.id(key))
	if errors.Is(err, ErrNotFound) {
		return nil, autocert.ErrCacheMiss
	} else if err != nil {
		return nil, err
	}
	data, _, err := c.cfg.Keys.open(KindSecret, c.id(key), sealed)
	return data, err
}

func (c answers) Put(ctx context.Context, key string, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return c.cfg.Store.PutAnswer(ctx, c.id(key), c.cfg.Keys.seal(KindSecret, c.id(key), data))
}

func (c answers) Delete(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return c.cfg.Store.DeleteAnswer(ctx, c.id(key))
}

// An orderCache is the autocert.Cache of one order: it has no certificate, so
// that one is ordered, and catches that.
type orderCache struct {
	answers
	host string
	gate *gate

	mu   sync.Mutex
	cert []byte
}

func (c *orderCache) certificate() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cert
}

func (c *orderCache) Get(context.Context, string) ([]byte, error) {
	return nil, autocert.ErrCacheMiss
}

func (c *orderCache) Put(ctx context.Context, key string, data []byte) error {
	if key == c.host {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.cert = bytes.Clone(data)
		return nil
	}
	err := c.answers.Put(ctx, key, data)
	if err != nil {
		// autocert would go on, and have the CA ask replicas that don't know it.
		c.gate.stop(fmt.Errorf("the answer to a challenge can't be shared: %w", err))
	}
	return err
}
