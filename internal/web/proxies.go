package web

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Proxies are the networks of the proxies whose word on a request is believed:
// which client it is of (X-Forwarded-For) and what its id is (X-Request-Id).
// Anybody else can write anything there. The nil Proxies believe nobody.
type Proxies []netip.Prefix

// maxHops bounds how many proxies a request is followed through.
const maxHops = 16

// trust reports whether addr is that of a proxy which is believed.
func (p Proxies) trust(addr netip.Addr) bool {
	return slices.ContainsFunc(p, func(network netip.Prefix) bool { return network.Contains(addr) })
}

// sent reports whether r comes from a proxy that is believed.
func (p Proxies) sent(r *http.Request) bool {
	return len(p) > 0 && p.trust(peer(r))
}

// client returns the IP address of r's client. Each proxy adds the address that
// a request came from at the end of X-Forwarded-For, so that list is followed
// from its end, for as long as the address reached is that of a proxy which is
// believed. Where it does not say more, or not in a valid form, the client is
// the last address reached.
func (p Proxies) client(r *http.Request) string {
	if !p.sent(r) {
		if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
			return host
		}
		return r.RemoteAddr
	}
	addr, hops := peer(r), 0
	for _, line := range slices.Backward(r.Header["X-Forwarded-For"]) {
		for more := true; more; {
			var entry string
			if i := strings.LastIndexByte(line, ','); i >= 0 {
				line, entry = line[:i], line[i+1:]
			} else {
				entry, more = line, false
			}
			if entry = strings.Trim(entry, " \t"); entry == "" {
				continue // an empty element of a list says nothing (RFC 9110, 5.6.1)
			}
			before, ok := parseAddr(entry)
			if !ok {
				return addr.String()
			}
			addr = before
			if hops++; hops == maxHops || !p.trust(addr) {
				return addr.String()
			}
		}
	}
	return addr.String()
}

// peer is the address that r's connection comes from; invalid, and so believed
// by nobody, if that is no IP address.
func peer(r *http.Request) netip.Addr {
	addr, _ := parseAddr(r.RemoteAddr)
	return addr
}

// parseAddr reads an address of either IP version, with or without a port, and
// of version 6 with or without brackets. One of version 4 that is written as one of
// version 6 is the former, and zones are dropped: they mean something on one
// machine only.
func parseAddr(s string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(s)
	if err != nil {
		var ap netip.AddrPort
		if ap, err = netip.ParseAddrPort(s); err == nil {
			addr = ap.Addr()
		} else if inner, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(inner, "]") {
			addr, err = netip.ParseAddr(inner[:len(inner)-1])
			if err == nil && addr.Is4() {
				return netip.Addr{}, false
			}
		}
	}
	return addr.Unmap().WithZone(""), err == nil
}

// maxRequestID is the greatest length of an id that is taken over.
const maxRequestID = 128

// requestID returns the id that r came with, or "" if there is none to take
// over: one from a proxy that is believed, of characters that mean nothing to a
// terminal, a shell or a log.
func (p Proxies) requestID(r *http.Request) string {
	ids := r.Header["X-Request-Id"]
	if len(ids) != 1 || ids[0] == "" || len(ids[0]) > maxRequestID || strings.ContainsFunc(ids[0], notOfID) || !p.sent(r) {
		return ""
	}
	return ids[0]
}

func notOfID(c rune) bool {
	return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("-._:/+=@", c))
}
