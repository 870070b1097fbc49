// Package hostname reads the names of hosts, and what has one in it, as people
// and clients write them. It is the one place that says what a host is.
package hostname

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// maxLength is that of the longest name in DNS. Converting an internationalized
// name takes time that grows with the square of its length, so nothing longer
// is looked at.
const maxLength = 253

// profile is idna.Lookup that also refuses empty labels and too long ones.
var profile = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(true), idna.VerifyDNSLength(true))

var errName = errors.New("must be a host name such as api.example.com")

// Parse returns a name as DNS and certificates have it: in lower case, without
// a dot at its end, an internationalized one in its ASCII form. An IP address
// in this form is a name too.
func Parse(s string) (string, error) {
	s = strings.TrimSuffix(s, ".")
	if len(s) > maxLength {
		return "", fmt.Errorf("must have at most %d characters", maxLength)
	}
	name, err := profile.ToASCII(s)
	if err != nil || name == "" || !utf8.ValidString(s) {
		return "", errName
	}
	return name, nil
}

// wildcard stands for * while the rest of a name is read.
const wildcard = "helloapi0any0"

// Origin returns the origin of a page as browsers send it: with the scheme and
// the host in lower case, the host in its ASCII form, without the port that the
// scheme has anyway. One * in the host stands for any characters.
func Origin(s string) (string, error) {
	const form = "must be like https://app.example.com"
	u, err := url.Parse(strings.Replace(s, "*", wildcard, 1))
	switch {
	case err != nil || u.Opaque != "" || strings.Contains(strings.ToLower(s), wildcard):
		return "", errors.New(form)
	case u.Scheme == "" || u.Host == "":
		return "", errors.New(form + ": it begins with https:// or http://")
	case u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.ForceQuery || strings.Contains(s, "#"):
		return "", errors.New(form + ": nothing but a port follows the host, and nothing precedes it")
	}
	host, err := originHost(u.Hostname())
	if err != nil {
		return "", fmt.Errorf("%s: its host %w", form, err)
	}
	if strings.HasPrefix(u.Host, "[") != strings.HasPrefix(host, "[") {
		return "", errors.New(form)
	}
	if port := u.Port(); port != "" && port != map[string]string{"http": "80", "https": "443"}[u.Scheme] {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return "", errors.New(form + ": its port is 1 to 65535")
		}
		host += ":" + strconv.FormatUint(n, 10)
	}
	return u.Scheme + "://" + host, nil
}

func originHost(s string) (string, error) {
	if ip, err := netip.ParseAddr(s); err == nil && ip.Zone() == "" {
		if ip.Is6() {
			return "[" + ip.String() + "]", nil
		}
		return ip.String(), nil
	}
	host, err := Parse(s)
	if err == nil && strings.Contains(s, wildcard) {
		before, _, ok := strings.Cut(host, wildcard)
		if label := before[strings.LastIndexByte(before, '.')+1:]; !ok || strings.HasPrefix(label, "xn--") {
			return "", errors.New("can't have a * within an internationalized label")
		}
		host = strings.Replace(host, wildcard, "*", 1)
	}
	return host, err
}

// List reads each entry of a list, and returns them without duplicates. Empty
// entries are left out, but not all of them; all mistakes are reported.
func List[T comparable](entries []string, read func(string) (T, error)) ([]T, error) {
	var (
		list []T
		errs []error
		seen = make(map[T]bool)
	)
	for _, entry := range entries {
		if entry = strings.TrimSpace(entry); entry == "" {
			continue
		}
		value, err := read(entry)
		if err != nil {
			errs = append(errs, fmt.Errorf("%q %w", entry, err))
		} else if !seen[value] {
			seen[value] = true
			list = append(list, value)
		}
	}
	if len(entries) > 0 && len(list) == 0 && errs == nil {
		return nil, errors.New("has no entry that is not empty")
	}
	return list, errors.Join(errs...)
}

// Network reads a network in CIDR notation, or a single address.
func Network(s string) (netip.Prefix, error) {
	const form = "must be a network such as 10.0.0.0/8 or fd00::/8, or an IP address"
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	network, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, errors.New(form)
	}
	if addr := network.Addr(); addr.Is4In6() {
		if network.Bits() < 96 {
			return netip.Prefix{}, errors.New(form)
		}
		network = netip.PrefixFrom(addr.Unmap(), network.Bits()-96)
	}
	if network != network.Masked() {
		return netip.Prefix{}, fmt.Errorf("is an address in a network: write %v for the network, or %v for the address", network.Masked(), network.Addr())
	}
	return network, nil
}

// Server reports whether s may be the host of a server that this program
// connects to: a name, with underscores since those of containers may have
// them, or an IP address.
func Server(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	return s != "" && len(s) <= maxLength && !strings.ContainsFunc(s, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("-._", c))
	})
}

// ErrEncode says how a user or password is written in a URL.
var ErrEncode = errors.New("percent-encode what has a meaning in URLs, in the user and the password: @ as %40, / as %2F, ? as %3F, # as %23, % as %25, a space as %20")

// CheckLogin returns ErrEncode if the user or password in a server's URL may
// have a character that ends it, so that what follows would be taken for a
// host.
func CheckLogin(url string) error {
	_, rest, _ := strings.Cut(url, "://")
	at := strings.IndexByte(rest, '@')
	if strings.Count(rest, "@") > 1 || at > strings.IndexAny(rest+"/", "/?") {
		return ErrEncode
	}
	return nil
}
