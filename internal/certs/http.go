package certs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"golang.org/x/crypto/acme/autocert"

	"helloapi/internal/web"
)

// challengePath is where a CA asks for the answer to a http-01 challenge.
const challengePath = "/.well-known/acme-challenge/"

// redirect sends readers to the same URL with TLS, if the host is known. What
// might hold a secret is refused: it must not be sent in clear once more.
func redirect(known func(host string) bool) web.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		host := hostOf(r)
		switch {
		case !known(host):
			return &web.Error{Status: http.StatusMisdirectedRequest, Message: "This host is not served here"}
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			return &web.Error{Status: http.StatusForbidden, Message: "Use https: what was sent could be read on the way"}
		case !strings.HasPrefix(r.URL.Path, "/"): // http:opaque, which a browser would read as part of the host
			return web.BadRequest("The request needs a path that starts with /")
		}
		// Of the URL that was asked for only path and query: it may name another host.
		w.Header().Set("Location", "https://"+host+r.URL.EscapedPath()+query(r.URL))
		return web.JSON(w, http.StatusPermanentRedirect, web.Message{Message: "Use https"})
	}
}

// query returns the query of u with its question mark, in printable ASCII.
func query(u *url.URL) string {
	if u.RawQuery == "" && !u.ForceQuery {
		return ""
	}
	var b strings.Builder
	b.WriteByte('?')
	for _, c := range []byte(u.RawQuery) {
		if c <= ' ' || c > '~' || c == '#' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// hostOf returns the host that a request is for, without port, as ParseHosts
// would; "" if it is none.
func hostOf(r *http.Request) string {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return fold(host)
}

// HTTPHandler answers port 80: http-01 challenges, which any replica may be
// asked for, and redirects to TLS.
func (a *ACME) HTTPHandler() http.Handler {
	known := func(host string) bool { return a.sites[host] != nil }
	elsewhere := redirect(known)
	return web.Handler(func(w http.ResponseWriter, r *http.Request) error {
		token, ok := strings.CutPrefix(r.URL.Path, challengePath)
		if !ok || r.Method != http.MethodGet && r.Method != http.MethodHead || !known(hostOf(r)) {
			return elsewhere(w, r)
		}
		answer, err := a.http01(r.Context(), token)
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		_, err = w.Write(answer)
		return err
	})
}

// tokens match those of RFC 8555, section 8.1.
var tokens = regexp.MustCompile(`^[A-Za-z0-9_-]{16,128}$`)

// http01 returns the answer to a http-01 challenge. It is a 404 only if the
// Store has none.
func (a *ACME) http01(ctx context.Context, token string) ([]byte, error) {
	if !tokens.MatchString(token) { // not worth a look-up
		return nil, &web.Error{Status: http.StatusNotFound}
	}
	done, err := a.lookUp(ctx)
	if err != nil {
		return nil, web.Unavailable(err)
	}
	defer done()
	answer, err := answers{&a.cfg}.Get(ctx, token+"+http-01") // as autocert calls it
	switch {
	case errors.Is(err, autocert.ErrCacheMiss):
		return nil, &web.Error{Status: http.StatusNotFound}
	case err != nil:
		return nil, web.Unavailable(err)
	}
	return answer, nil
}

// WithHSTS has browsers use nothing but TLS for the host from now on. It is for
// answers over TLS only.
func WithHSTS(value string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Strict-Transport-Security", value)
		next.ServeHTTP(w, r)
	})
}
