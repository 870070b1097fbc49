package hostname_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"helloapi/internal/hostname"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"api.example.com":       "api.example.com",
		"API.Example.COM.":      "api.example.com",
		"bücher.example":        "xn--bcher-kva.example",
		"BÜCHER.example":        "xn--bcher-kva.example",
		"xn--bcher-kva.example": "xn--bcher-kva.example",
		"localhost":             "localhost",
		"127.0.0.1":             "127.0.0.1",
		"a。b":                   "a.b",
	} {
		if got, err := hostname.Parse(in); err != nil || got != want {
			t.Errorf("Parse(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, bad := range []string{
		"", ".", "..", "a..b", "a b", "a_b", "-a", "a/b", "a:80", "[::1]", "a@b", "a\x00", "*.example.com", "xn--\xff", "0\xc30",
		strings.Repeat("a", 64), strings.Repeat("a.", 127) + "a",
	} {
		if got, err := hostname.Parse(bad); err == nil {
			t.Errorf("Parse(%q) = %q, want an error", bad, got)
		}
	}
}

// A name of any length comes with requests from anybody.
func TestLongNamesCostNothing(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ü", 30_000)
	begin := time.Now()
	for range 1000 {
		if _, err := hostname.Parse(long); err == nil {
			t.Fatal("60 kB are a name")
		}
	}
	if d := time.Since(begin); d > time.Second {
		t.Errorf("1000 times took %v", d)
	}
}

func TestOrigin(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"https://app.example.com":       "https://app.example.com",
		"https://app.example.com/":      "https://app.example.com",
		"https://app.example.com:443":   "https://app.example.com",
		"HTTPS://App.Example.com.:443/": "https://app.example.com",
		"http://app.example.com:80":     "http://app.example.com",
		"http://app.example.com:443":    "http://app.example.com:443",
		"https://app.example.com:8443":  "https://app.example.com:8443",
		"https://app.example.com:08443": "https://app.example.com:8443",
		"https://app.example.com:":      "https://app.example.com",
		"https://bücher.example":        "https://xn--bcher-kva.example",
		"https://*.bücher.example":      "https://*.xn--bcher-kva.example",
		"https://*.example.com:443":     "https://*.example.com",
		"https://app-*.example.com":     "https://app-*.example.com",
		"http://localhost:3000":         "http://localhost:3000",
		"http://127.0.0.1:3000":         "http://127.0.0.1:3000",
		"http://[::1]:3000":             "http://[::1]:3000",
		"http://[0:0:0:0:0:0:0:1]":      "http://[::1]",
		"capacitor://localhost":         "capacitor://localhost",
		"chrome-extension://abcdefghij": "chrome-extension://abcdefghij",
	} {
		if got, err := hostname.Origin(in); err != nil || got != want {
			t.Errorf("Origin(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for bad, why := range map[string]string{
		"":                         "begins with https://",
		"null":                     "begins with https://",
		"app.example.com":          "begins with https://",
		"app.example.com:443":      "must be like",
		"//app.example.com":        "begins with https://",
		"https://":                 "begins with https://",
		"https:app.example.com":    "must be like",
		"https://a.b/c":            "nothing but a port follows",
		"https://a.b?c":            "nothing but a port follows",
		"https://a.b?":             "nothing but a port follows",
		"https://a.b#c":            "nothing but a port follows",
		"https://a.b#":             "nothing but a port follows",
		"https://u:p@a.b":          "nothing precedes",
		"https://a.b:0":            "its port",
		"https://a.b:65536":        "its port",
		"https://a.b:https":        "must be like",
		"https://a_b.example":      "host name such as",
		"https://a b.example":      "must be like",
		"https://a.b,https://c.d":  "must be like",
		"https://*.*.example":      "host name such as",
		"https://bü*.example":      "internationalized label",
		"https://[fe80::1%25eth0]": "must be like",
		"https://Helloapi0any0.b":  "must be like",
		"https://[helloapi]":       "must be like",
		"https://" + strings.Repeat("ü", 30_000): "at most 253",
	} {
		if got, err := hostname.Origin(bad); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("Origin(%.40q) = %q, %v; want an error with %q", bad, got, err, why)
		}
	}
}

// What was read once is read as itself.
func FuzzOrigin(f *testing.F) {
	for _, s := range []string{"https://app.example.com:443/", "http://[::1]:80", "https://*.bücher.example", "HTTP://A.:0443", "x://a*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		origin, err := hostname.Origin(s)
		if err != nil {
			return
		}
		if again, err := hostname.Origin(origin); err != nil || again != origin {
			t.Errorf("Origin(%q) = %q, and Origin of that is %q, %v", s, origin, again, err)
		}
		if strings.ToLower(origin) != origin || strings.ContainsAny(origin, " ,/?#@") != strings.Contains(origin, "://") {
			t.Errorf("Origin(%q) = %q, which no browser sends", s, origin)
		}
	})
}

func TestList(t *testing.T) {
	t.Parallel()
	got, err := hostname.List([]string{"b.example", " A.example\n", "", "a.example.", " "}, hostname.Parse)
	if diff := cmp.Diff([]string{"b.example", "a.example"}, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
	if _, err := hostname.List([]string{"", " "}, hostname.Parse); err == nil {
		t.Error("a list of nothing is accepted")
	}
	if _, err := hostname.List([]string{"a_b", "c", "d/e"}, hostname.Parse); err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("two mistakes: %v", err)
	}
}

func TestNetwork(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", "192.0.2.7": "192.0.2.7/32", "0.0.0.0/0": "0.0.0.0/0", "fd00::/8": "fd00::/8", "2001:DB8:0::1": "2001:db8::1/128",
		"::ffff:10.0.0.0/104": "10.0.0.0/8", "::ffff:192.0.2.7": "192.0.2.7/32", "::/0": "::/0",
		"": "", "10.0.0.1/8": "", "10.0.0.0/33": "", "10.0.0": "", "10.0.0.0/": "", "/8": "", "10.0.0.0-10.0.0.255": "", "10.*": "", "balancer": "",
		"fe80::1%eth0": "", "fe80::%eth0/10": "", "::ffff:0:0/90": "", "[::1]": "", "127.0.0.1:80": "", "010.0.0.0/8": "", "*": "",
	} {
		got, err := hostname.Network(s)
		if (err == nil) != (want != "") || err == nil && got.String() != want {
			t.Errorf("Network(%q) = %v, %v; want %q", s, got, err, want)
		}
	}
	if _, err := hostname.Network("10.0.0.1/8"); err == nil || !strings.Contains(err.Error(), "10.0.0.0/8") || !strings.Contains(err.Error(), "10.0.0.1 ") {
		t.Errorf("an address within a network: %v", err)
	}
}

func TestServer(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]bool{
		"db": true, "project_db_1": true, "db.example.com.": true, "127.0.0.1": true, "::1": true, "fe80::1%eth0": true,
		"": false, "a b": false, "pass@db": false, "a,b": false, "bücher": false, "/var/run": false, "a:b": false, strings.Repeat("a", 254): false,
	} {
		if got := hostname.Server(s); got != want {
			t.Errorf("Server(%q) = %v", s, got)
		}
	}
}

func TestCheckLogin(t *testing.T) {
	t.Parallel()
	for url, ok := range map[string]bool{
		"postgres://db/app":                    true,
		"postgres://u@db/app":                  true,
		"postgres://u:p%40ss%2Fw@db:1,e:2/app": true,
		"postgres://u:p,ss@db":                 true,
		"postgres:///app?host=/run":            true,
		"postgres://u:p@ss@db":                 false,
		"postgres://u:p@ss,w@db":               false,
		"postgres://u:p@ss/w@db":               false,
		"postgres://u:12/w@db":                 false,
		"postgres://u:p?w@db":                  false,
		"redis://:p@ss@db":                     false,
		"redis+sentinel://:12/w@db/m":          false,
	} {
		if err := hostname.CheckLogin(url); (err == nil) != ok {
			t.Errorf("CheckLogin(%s): %v", url, err)
		}
	}
}
