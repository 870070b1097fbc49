package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/acme"

	"helloapi/internal/backend"
	"helloapi/internal/certs"
)

// off is what a setting is that turns something off.
const off = "off"

// tlsSettings are the settings of serve about TLS. There are three modes:
// certificates by ACME, a pair of files, and none.
type tlsSettings struct {
	TLSDomains  []string `name:"tls-domains" setting:"" placeholder:"HOST" help:"The hosts to obtain certificates for, by ACME. That is to accept the CA's terms."`
	TLSCertFile string   `name:"tls-cert-file" setting:"" placeholder:"FILE" help:"A certificate with its chain (PEM) that someone else renews; in place of TLS_DOMAINS. It is read anew when it changes."`
	TLSKeyFile  string   `name:"tls-key-file" setting:"" placeholder:"FILE" help:"The private key of TLS_CERT_FILE (PEM)."`
	TLSAddr     string   `name:"tls-addr" setting:"" default:":443" placeholder:"HOST:PORT" help:"Where to serve the API with TLS, if it is on."`
	HTTPAddr    string   `name:"http-addr" setting:"" default:":80" placeholder:"HOST:PORT" help:"Where to answer http-01 challenges and redirect to https, if TLS is on; or off."`

	TLSMinVersion string `name:"tls-min-version" setting:"" enum:"1.2,1.3" default:"1.2" placeholder:"VERSION" help:"The oldest TLS to speak: 1.2 or 1.3."`
	HSTS          string `name:"hsts" setting:"" default:"max-age=31536000" placeholder:"VALUE" help:"The Strict-Transport-Security header of answers over TLS; or off."`

	ACMEEmail         string   `name:"acme-email" setting:"" placeholder:"EMAIL" help:"Where the CA may write to."`
	ACMEDirectoryURL  string   `name:"acme-directory-url" setting:"" placeholder:"URL" help:"The CA's ACME directory. Default: https://acme-v02.api.letsencrypt.org/directory (Let's Encrypt)."`
	ACMECAFile        string   `name:"acme-ca-file" setting:"" placeholder:"FILE" help:"The root certificates (PEM) to know a private CA's directory by, in place of the system's."`
	ACMEChallenges    []string `name:"acme-challenges" setting:"" default:"tls-alpn-01,http-01" placeholder:"TYPE" help:"The challenges that reach this server: tls-alpn-01 at port 443, http-01 at port 80."`
	ACMEEABKID        string   `name:"acme-eab-kid" setting:"" placeholder:"ID" help:"The id of an account with the CA, where it asks for one (external account binding)."`
	ACMEEABHMACKey    string   `name:"acme-eab-hmac-key" setting:"" placeholder:"KEY" help:"The key of ACME_EAB_KID, in base64url. Secret: better in the environment."`
	CertEncryptionKey string   `name:"cert-encryption-key" setting:"" placeholder:"KEY" help:"What certificates are sealed with in PostgreSQL: 32 bytes in base64, the same for all replicas. To change it, the new one before the old one, with a comma. Secret: better in the environment."`
}

// letsEncrypt is the directory of no other setting.
const letsEncrypt = "https://acme-v02.api.letsencrypt.org/directory"

// on reports whether TLS is served.
func (c *tlsSettings) on() bool { return len(c.TLSDomains) > 0 || c.TLSCertFile != "" }

// httpAddr is where port 80 is; "" for nowhere.
func (c *tlsSettings) httpAddr() string {
	if c.HTTPAddr == off {
		return ""
	}
	return c.HTTPAddr
}

// validate returns every mistake in the settings.
func (c *tlsSettings) validate() []error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c.TLSDomains) > 0 && (c.TLSCertFile != "" || c.TLSKeyFile != "") {
		wrong("TLS_DOMAINS, or TLS_CERT_FILE with TLS_KEY_FILE: either certificates are obtained or they are given")
	} else if (c.TLSCertFile == "") != (c.TLSKeyFile == "") {
		wrong("TLS_CERT_FILE and TLS_KEY_FILE: give both or none")
	}
	hosts, err := certs.ParseHosts(c.TLSDomains)
	if err == nil {
		c.TLSDomains = hosts
	}
	errs = append(errs, inSetting("TLS_DOMAINS", err))
	for _, s := range []struct {
		name, addr, normal string
	}{{"TLS_ADDR", c.TLSAddr, ":443"}, {"HTTP_ADDR", c.httpAddr(), ":80"}} {
		if _, _, err := net.SplitHostPort(s.addr); err != nil && (s.addr != "" || s.name == "TLS_ADDR") {
			wrong("%s: %q must be like %s", s.name, s.addr, s.normal)
		}
	}
	if c.HSTS != off && !strings.HasPrefix(strings.ToLower(c.HSTS), "max-age=") {
		wrong("HSTS: %q must be like max-age=31536000, or off", c.HSTS)
	}
	for _, s := range []struct{ name, value string }{
		{"ACME_EMAIL", c.ACMEEmail},
		{"ACME_DIRECTORY_URL", c.ACMEDirectoryURL},
		{"ACME_CA_FILE", c.ACMECAFile},
		{"ACME_EAB_KID", c.ACMEEABKID},
	} {
		if s.value != "" && len(c.TLSDomains) == 0 {
			wrong("%s: no certificate is obtained without TLS_DOMAINS", s.name)
		}
	}
	if u, err := url.Parse(c.ACMEDirectoryURL); c.ACMEDirectoryURL != "" && (err != nil || u.Scheme != "https" || u.Host == "") {
		wrong("ACME_DIRECTORY_URL: must be like %s", letsEncrypt)
	}
	if strings.ContainsAny(c.ACMEEmail, " ,:") || c.ACMEEmail != "" && !strings.Contains(c.ACMEEmail, "@") {
		wrong("ACME_EMAIL: %q must be one address, like ops@example.com", c.ACMEEmail)
	}
	for _, t := range c.ACMEChallenges {
		if t != certs.TLSALPN01 && t != certs.HTTP01 {
			wrong("ACME_CHALLENGES: %q must be %s or %s", t, certs.TLSALPN01, certs.HTTP01)
		}
	}
	if len(c.challenges()) == 0 {
		wrong("ACME_CHALLENGES: none is left, with HTTP_ADDR off")
	}
	if (c.ACMEEABKID == "") != (c.ACMEEABHMACKey == "") {
		wrong("ACME_EAB_KID and ACME_EAB_HMAC_KEY: give both or none")
	} else if _, err := c.eabKey(); err != nil {
		wrong("ACME_EAB_HMAC_KEY: must be base64url, as the CA shows it") // not the value
	}
	if c.CertEncryptionKey != "" {
		if _, err := certs.ParseKeys(c.CertEncryptionKey); err != nil {
			wrong("CERT_ENCRYPTION_KEY: %w", err)
		}
	}
	return errs
}

// challenges are the types that can be answered.
func (c *tlsSettings) challenges() []string {
	return slices.DeleteFunc(slices.Clone(c.ACMEChallenges), func(t string) bool {
		return t == certs.HTTP01 && c.httpAddr() == ""
	})
}

func (c *tlsSettings) eabKey() ([]byte, error) {
	return base64.RawURLEncoding.DecodeString(strings.TrimRight(c.ACMEEABHMACKey, "="))
}

func (c *tlsSettings) minVersion() uint16 {
	if c.TLSMinVersion == "1.3" {
		return tls.VersionTLS13
	}
	return tls.VersionTLS12
}

// certificates are what both modes of TLS do.
type certificates interface {
	prometheus.Collector
	TLSConfig(minVersion uint16) *tls.Config
	HTTPHandler() http.Handler // of port 80
	Names() []string           // of hosts, for people to try
	Statuses() []certs.Status
	Start(ctx context.Context)
	Close() error
}

// open returns the certificates that the settings ask for, or nil.
func (c *tlsSettings) open(ctx context.Context, stores *backend.Backend, log *slog.Logger) (certificates, error) {
	if !c.on() {
		return nil, nil
	}
	if c.TLSCertFile != "" {
		return certs.OpenPair(c.TLSCertFile, c.TLSKeyFile, log)
	}
	cfg := certs.Config{
		Store: stores.Certs(), Hosts: c.TLSDomains, Directory: c.ACMEDirectoryURL, Email: c.ACMEEmail, Challenges: c.challenges(),
		UserAgent: "helloapi/" + version(), Log: log,
	}
	if cfg.Directory == "" {
		cfg.Directory = letsEncrypt
	}
	if c.ACMEEABKID != "" {
		key, _ := c.eabKey() // validated
		cfg.EAB = &acme.ExternalAccountBinding{KID: c.ACMEEABKID, Key: key}
	}
	file, alone := stores.File()
	switch {
	case c.CertEncryptionKey != "":
		cfg.Keys, _ = certs.ParseKeys(c.CertEncryptionKey) // validated
	case alone:
		cfg.KeyFile = certs.KeyFile(file + ".key")
	default:
		return nil, errors.New("CERT_ENCRYPTION_KEY is needed to keep certificates in PostgreSQL: make one with `openssl rand -base64 32`, and give the same to all replicas")
	}
	if alone {
		cfg.Holder = "the one process of " + file // whatever its machine is called next time
	}
	if c.ACMECAFile != "" {
		pem, err := os.ReadFile(c.ACMECAFile)
		if err != nil {
			return nil, fmt.Errorf("ACME_CA_FILE: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ACME_CA_FILE: there is no certificate (PEM) in %s", c.ACMECAFile)
		}
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.TLSClientConfig = &tls.Config{RootCAs: roots}
		cfg.HTTPClient = &http.Client{Transport: t}
	}
	return certs.Open(ctx, cfg)
}
