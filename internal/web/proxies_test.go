package web_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"helloapi/internal/web"
)

// observed returns the client and the id that are logged of a request, and the
// id that its answer has.
func observed(t testing.TB, proxies web.Proxies, peer string, header http.Header) (client, id, answered string) {
	t.Helper()
	var log bytes.Buffer
	h := web.Observe(slog.New(slog.NewJSONHandler(&log, nil)), web.NewMetrics(prometheus.NewRegistry()), proxies)(
		http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr, r.Header = peer, header
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var rec struct{ Client, ID string }
	if err := json.Unmarshal(log.Bytes(), &rec); err != nil {
		t.Fatalf("log %q: %v", &log, err)
	}
	return rec.Client, rec.ID, w.Header().Get("X-Request-Id")
}

func networks(list ...string) (proxies web.Proxies) {
	for _, s := range list {
		proxies = append(proxies, netip.MustParsePrefix(s))
	}
	return proxies
}

func TestClientBehindProxies(t *testing.T) {
	t.Parallel()
	trusted := networks("10.0.0.0/8", "192.0.2.7/32", "fd00::/8")
	many := strings.Repeat("10.0.0.1,", 100)
	for _, tt := range []struct {
		name, peer string
		lines      []string // of X-Forwarded-For
		want       string
	}{
		{"no proxy", "203.0.113.9:4711", nil, "203.0.113.9"},
		{"no proxy, spoofed", "203.0.113.9:4711", []string{"198.51.100.1"}, "203.0.113.9"},
		{"no proxy, the spoofed client is a proxy", "203.0.113.9:4711", []string{"10.0.0.1"}, "203.0.113.9"},
		{"one beside the networks", "192.0.2.8:4711", []string{"198.51.100.1"}, "192.0.2.8"},
		{"a proxy", "10.0.0.1:4711", []string{"198.51.100.1"}, "198.51.100.1"},
		{"a proxy that says nothing", "10.0.0.1:4711", nil, "10.0.0.1"},
		{"a proxy that says nothing in a header", "10.0.0.1:4711", []string{" , ,"}, "10.0.0.1"},
		{"behind a proxy, spoofed", "10.0.0.1:4711", []string{"192.0.2.66, 198.51.100.1"}, "198.51.100.1"},
		{"behind a proxy, spoofed as another proxy's", "10.0.0.1:4711", []string{"192.0.2.66, 10.0.0.2, 198.51.100.1"}, "198.51.100.1"},
		{"behind two proxies, spoofed", "10.0.0.1:4711", []string{"192.0.2.66,198.51.100.1,192.0.2.7"}, "198.51.100.1"},
		{"two lines", "10.0.0.1:4711", []string{"192.0.2.66", "198.51.100.1, 10.0.0.2"}, "198.51.100.1"},
		{"two lines, the first of the client's", "10.0.0.1:4711", []string{"192.0.2.66, 10.0.0.3", "198.51.100.1"}, "198.51.100.1"},
		{"two lines, the second of proxies only", "10.0.0.1:4711", []string{"192.0.2.66, 198.51.100.1", "10.0.0.2"}, "198.51.100.1"},
		{"empty lines and elements", "10.0.0.1:4711", []string{"192.0.2.66, 198.51.100.1,\t, ", "", ","}, "198.51.100.1"},
		{"all are proxies", "10.0.0.1:4711", []string{"10.0.0.9, 10.0.0.2"}, "10.0.0.9"},
		{"not an address", "10.0.0.1:4711", []string{"unknown"}, "10.0.0.1"},
		{"not an address, behind two", "10.0.0.1:4711", []string{"198.51.100.1, _hidden, 10.0.0.2"}, "10.0.0.2"},
		{"an obfuscated line of the log", "10.0.0.1:4711", []string{`" key=admin`}, "10.0.0.1"},
		{"a list with other separators", "10.0.0.1:4711", []string{"198.51.100.1;192.0.2.66"}, "10.0.0.1"},
		{"half an address", "10.0.0.1:4711", []string{"198.51.100"}, "10.0.0.1"},
		{"leading zeros", "10.0.0.1:4711", []string{"198.051.100.001"}, "10.0.0.1"},
		{"a network", "10.0.0.1:4711", []string{"198.51.100.0/24"}, "10.0.0.1"},
		{"a port", "10.0.0.1:4711", []string{"198.51.100.1:55555"}, "198.51.100.1"},
		{"a port of a proxy", "10.0.0.1:4711", []string{"198.51.100.1:55555, 10.0.0.2:80"}, "198.51.100.1"},
		{"a port that is none", "10.0.0.1:4711", []string{"198.51.100.1:99999"}, "10.0.0.1"},
		{"version 6", "[fd00::1]:4711", []string{"2001:DB8:0::1"}, "2001:db8::1"},
		{"version 6 in brackets", "[fd00::1]:4711", []string{"[2001:db8::1]"}, "2001:db8::1"},
		{"version 6 with a port", "[fd00::1]:4711", []string{"192.0.2.66, [2001:db8::1]:443, [fd00::2]:443"}, "2001:db8::1"},
		{"version 6, not a proxy", "[2001:db8::2]:4711", []string{"2001:db8::1"}, "2001:db8::2"},
		{"version 4 in brackets", "10.0.0.1:4711", []string{"[198.51.100.1]"}, "10.0.0.1"},
		{"version 4 as version 6", "[::ffff:10.0.0.1]:4711", []string{"::ffff:198.51.100.1, ::ffff:10.0.0.2"}, "198.51.100.1"},
		{"a zone", "[fd00::1%eth0]:4711", []string{"fe80::1%eth1"}, "fe80::1"},
		{"a zone, not a proxy", "[fe80::1%eth0]:4711", []string{"2001:db8::1"}, "fe80::1%eth0"},
		{"more than anybody looks at", "10.0.0.1:4711", []string{"192.0.2.66," + many + "10.0.0.2"}, "10.0.0.1"},
		{"no address", "@", []string{"198.51.100.1"}, "@"},
	} {
		if got, _, _ := observed(t, trusted, tt.peer, http.Header{"X-Forwarded-For": tt.lines}); got != tt.want {
			t.Errorf("%s: of %s with %q logged the client %q, want %q", tt.name, tt.peer, tt.lines, got, tt.want)
		}
		if got, _, _ := observed(t, nil, tt.peer, http.Header{"X-Forwarded-For": tt.lines}); !strings.Contains(tt.peer, got) || got == "" {
			t.Errorf("%s: nobody is trusted, and of %s with %q logged the client %q", tt.name, tt.peer, tt.lines, got)
		}
	}
}

func TestRequestIDOfProxy(t *testing.T) {
	t.Parallel()
	trusted := networks("10.0.0.0/8")
	const uuid = "0b9e63a2-50b4-4d5c-a7b5-9f6f62dbb9a1"
	for _, tt := range []struct {
		name, peer string
		ids        []string
		taken      bool
	}{
		{"a proxy's", "10.0.0.1:4711", []string{uuid}, true},
		{"of every character", "10.0.0.1:4711", []string{"aZ09-._:/+=@"}, true},
		{"the longest", "10.0.0.1:4711", []string{strings.Repeat("a", 128)}, true},
		{"a client's", "203.0.113.9:4711", []string{uuid}, false},
		{"too long", "10.0.0.1:4711", []string{strings.Repeat("a", 129)}, false},
		{"two", "10.0.0.1:4711", []string{uuid, "b"}, false},
		{"empty", "10.0.0.1:4711", []string{""}, false},
		{"with a space", "10.0.0.1:4711", []string{"a b"}, false},
		{"with a quote", "10.0.0.1:4711", []string{`a"b`}, false},
		{"with a terminal's sequence", "10.0.0.1:4711", []string{"a\x1b[2J"}, false},
		{"not ASCII", "10.0.0.1:4711", []string{"ä"}, false},
	} {
		for _, proxies := range []web.Proxies{trusted, nil} {
			_, id, answered := observed(t, proxies, tt.peer, http.Header{"X-Request-Id": tt.ids})
			if id != answered {
				t.Errorf("%s: logged the id %q and answered %q", tt.name, id, answered)
			}
			if taken := id == tt.ids[0]; taken != (tt.taken && proxies != nil) || !taken && len(id) < 20 {
				t.Errorf("%s: with the proxies %v %q became %q", tt.name, proxies, tt.ids, id)
			}
		}
	}
}

// Whatever is sent, what is logged is an address, and that of the peer unless
// the peer is trusted.
func FuzzForwardedFor(f *testing.F) {
	f.Add("198.51.100.1, 10.0.0.1", "")
	f.Add("[2001:db8::1]:443,,10.0.0.1:80", "192.0.2.66")
	f.Fuzz(func(t *testing.T, last, first string) {
		header := http.Header{"X-Forwarded-For": {first, last}}
		if got, _, _ := observed(t, networks("10.0.0.0/8"), "192.0.2.1:1", header); got != "192.0.2.1" {
			t.Errorf("a stranger with %q is logged as %q", header, got)
		}
		if got, _, _ := observed(t, networks("10.0.0.0/8"), "10.0.0.1:1", header); !netip.MustParseAddr(got).IsValid() {
			t.Errorf("%q is logged as %q", header, got)
		}
	})
}
