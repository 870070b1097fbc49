package certs

import (
	"net"
	"net/http"
	"path"
	"regexp"
	"strings"

	"helloapi/internal/web"
)

// challengePath is where a CA asks for the answer to a http-01 challenge.
const challengePath = "/.well-known/acme-challenge/"

// Redirect is the handler for port 80. It sends readers to the same URL with
// TLS, where the host is one of ours. What might hold a secret is not redirected
// but refused: it must not be sent there once more.
func Redirect(known func(host string) bool) http.Handler {
	return web.Handler(func(w http.ResponseWriter, r *http.Request) error {
		host := hostOf(r)
		switch {
		case !known(host):
			return &web.Error{Status: http.StatusMisdirectedRequest, Message: "This host is not served here"}
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			return &web.Error{Status: http.StatusForbidden, Message: "Use https: what was sent could be read on the way"}
		}
		http.Redirect(w, r, "https://"+host+r.URL.RequestURI(), http.StatusPermanentRedirect)
		return nil
	})
}

// hostOf returns the host that a request is for, without port, as ParseHosts
// would.
func hostOf(r *http.Request) string {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return fold(host)
}

// HTTPHandler answers port 80: http-01 challenges, which any replica may be
// asked for, and else as Redirect.
func (a *ACME) HTTPHandler() http.Handler {
	known := func(host string) bool { return a.sites[host] != nil }
	redirect := Redirect(known)
	challenge := a.responder.HTTPHandler(redirect)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, challengePath) || !known(hostOf(r)) {
			redirect.ServeHTTP(w, r)
			return
		}
		if !token.MatchString(path.Base(r.URL.Path)) { // not worth a look-up
			http.NotFound(w, r)
			return
		}
		done, err := a.lookUp(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		defer done()
		challenge.ServeHTTP(w, r)
	})
}

// token matches those of RFC 8555, section 8.1.
var token = regexp.MustCompile(`^[A-Za-z0-9_-]{16,128}$`)

// WithHSTS has browsers use nothing but TLS for the host from now on. It is for
// answers over TLS only.
func WithHSTS(value string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Strict-Transport-Security", value)
		next.ServeHTTP(w, r)
	})
}
