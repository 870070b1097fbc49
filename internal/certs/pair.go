package certs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// pairPoll is how often the files are read: 20 µs of work. What watches files
// for changes misses some, as when Kubernetes swaps the link that leads to them.
const pairPoll = 5 * time.Second

// A Pair is a certificate in two files that someone else renews. It is safe for
// concurrent use.
type Pair struct {
	certFile, keyFile string
	log               *slog.Logger
	current           atomic.Pointer[tls.Certificate]
	stop              chan struct{}
	stopOnce          sync.Once
	wait              sync.WaitGroup

	sum [sha256.Size]byte // of the files as last read; owned by reload's caller

	mu  sync.Mutex
	err error // why the files as last read can't be used
}

// OpenPair reads a certificate, followed by its chain, and its private key, and
// goes on reading them until Close. Files that don't fit are left alone then.
func OpenPair(certFile, keyFile string, log *slog.Logger) (*Pair, error) {
	p := &Pair{certFile: certFile, keyFile: keyFile, log: log, stop: make(chan struct{})}
	p.reload()
	if p.err != nil {
		return nil, p.err
	}
	return p, nil
}

// Start begins to read the files anew every few seconds.
func (p *Pair) Start(ctx context.Context) {
	p.wait.Go(func() {
		ticks := time.NewTicker(pairPoll)
		defer ticks.Stop()
		for {
			select {
			case <-ticks.C:
				p.reload()
			case <-p.stop:
				return
			case <-ctx.Done():
				return
			}
		}
	})
}

// Close ends what Start began.
func (p *Pair) Close() error {
	p.stopOnce.Do(func() { close(p.stop) })
	p.wait.Wait()
	return nil
}

// reload reads the files, and serves what is in them if that has changed and
// can be used.
func (p *Pair) reload() {
	c, sum, err := p.read()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("the certificate in TLS_CERT_FILE and TLS_KEY_FILE can't be used: %w", err)
		if p.current.Load() != nil && (p.err == nil || p.err.Error() != err.Error()) { // once
			p.log.Error("certificate; serving the one from before on", "error", err)
		}
		p.err = err
		return
	}
	p.err = nil
	if c == nil {
		return
	}
	p.sum = sum
	p.current.Store(c)
	p.log.Info("serving certificate", "file", p.certFile, "hosts", c.Leaf.DNSNames, "not_after", c.Leaf.NotAfter)
}

// read returns the certificate in the files, or nil if it is the same as before.
func (p *Pair) read() (_ *tls.Certificate, sum [sha256.Size]byte, err error) {
	cert, err := os.ReadFile(p.certFile)
	if err != nil {
		return nil, sum, err
	}
	key, err := os.ReadFile(p.keyFile)
	if err != nil {
		return nil, sum, err
	}
	sum = sha256.Sum256(bytes.Join([][]byte{cert, key}, []byte{0}))
	if sum == p.sum {
		return nil, sum, nil
	}
	c, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, sum, err
	}
	return &c, sum, nil
}

// GetCertificate is for tls.Config. Every host gets the same certificate.
func (p *Pair) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return p.current.Load(), nil
}

// TLSConfig returns what a server needs, with TLS of minVersion and up.
func (p *Pair) TLSConfig(minVersion uint16) *tls.Config {
	return &tls.Config{MinVersion: minVersion, GetCertificate: p.GetCertificate, NextProtos: []string{"h2", "http/1.1"}}
}

// HTTPHandler redirects port 80 to TLS, for the hosts of the certificate.
func (p *Pair) HTTPHandler() http.Handler {
	return redirect(func(host string) bool { return host != "" && p.current.Load().Leaf.VerifyHostname(host) == nil })
}

// Names returns the hosts of the certificate, for people to try.
func (p *Pair) Names() []string { return p.current.Load().Leaf.DNSNames }

// Statuses returns the state of the certificate.
func (p *Pair) Statuses() []Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.current.Load().Leaf
	s := Status{Host: c.Subject.CommonName, NotAfter: c.NotAfter}
	if len(c.DNSNames) > 0 {
		s.Host = c.DNSNames[0]
	}
	if p.err != nil {
		s.Error = p.err.Error()
	}
	return []Status{s}
}

// Describe implements prometheus.Collector.
func (p *Pair) Describe(ch chan<- *prometheus.Desc) { describe(ch) }

// Collect implements prometheus.Collector.
func (p *Pair) Collect(ch chan<- prometheus.Metric) { collect(ch, p.Statuses()) }
