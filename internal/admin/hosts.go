package admin

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"helloapi/internal/web"
)

// protect answers only what programs and operators ask for, since a browser
// inside may be made to ask by a page of anybody's. Such a page reads an answer
// if its own name leads here (DNS rebinding), so the Host must be an address,
// localhost or one of names. Other pages may link to the operator's page.
func protect(names []string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return web.Handler(func(w http.ResponseWriter, r *http.Request) error {
			if !isLocal(r.Host, names) {
				return &web.Error{
					Status:  http.StatusMisdirectedRequest,
					Message: "Only addresses, localhost and the names of this machine are answered here: add the name that you use to ADMIN_HOSTS",
				}
			}
			if crossSite(r) {
				return &web.Error{Status: http.StatusForbidden, Message: "Pages of other sites are not answered here"}
			}
			next.ServeHTTP(w, r)
			return nil
		})
	}
}

// isLocal reports whether the Host of a request is an address, localhost or one
// of names. HTTP/1.0 needs none: no browser speaks that.
func isLocal(host string, names []string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(host, ".")
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil || host == "" || strings.EqualFold(host, "localhost") {
		return true
	}
	for _, name := range names {
		if strings.EqualFold(host, name) {
			return true
		}
	}
	return false
}

// crossSite reports whether a browser asks for a page of another site.
func crossSite(r *http.Request) bool {
	if origin := r.Header.Get("Origin"); origin != "" {
		if u, err := url.Parse(origin); err != nil || u.Host != r.Host {
			return true
		}
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none": // no browser, this page, the address bar
		return false
	}
	link := r.Method == http.MethodGet && r.URL.Path == "/" && r.Header.Get("Sec-Fetch-Dest") == "document"
	return !link
}
