package apikey_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"helloapi/internal/apikey"
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

func parse(t *testing.T, s string) apikey.Value {
	t.Helper()
	v, err := apikey.Parse(s)
	if err != nil {
		t.Fatalf("Parse(%q): %v", s, err)
	}
	return v
}

func TestGenerate(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^hk_[0-9A-Za-z]{38}$`)
	seen := map[string]bool{}
	for range 100 {
		v := apikey.Generate()
		s := v.Reveal()
		if !form.MatchString(s) {
			t.Fatalf("generated %q, want %s", s, form)
		}
		if seen[s] {
			t.Fatalf("generated %q twice", s)
		}
		seen[s] = true
		if got := parse(t, s); got.Reveal() != s || got.Hash() != v.Hash() {
			t.Fatalf("Parse(%q) is %q", s, got.Reveal())
		}
	}
}

// Scanners of other people's code compute the checksum as well.
func TestGeneratedChecksum(t *testing.T) {
	t.Parallel()
	s := apikey.Generate().Reveal()
	if want := checksum(s[:35]); s[35:] != want {
		t.Errorf("the checksum of %q is %q, want %q", s, s[35:], want)
	}
	// Written out once, so that the form does not change with the test.
	const fixed = "hk_" + "0123456789ABCDEFGHIJKLMNOPQRSTUV" + "1aEa6A"
	if want := checksum(fixed[:35]); fixed[35:] != want {
		t.Errorf("the checksum of %q is %q, want %q", fixed, fixed[35:], want)
	}
	parse(t, fixed)
}

// checksum is the CRC-32 in six digits of base 62.
func checksum(s string) string {
	n := uint64(crc32.ChecksumIEEE([]byte(s)))
	var digits string
	for range 6 {
		digits = string(base62[n%62]) + digits
		n /= 62
	}
	return digits
}

// The bounds lie 10 standard deviations from what is expected.
func TestGeneratedIsEven(t *testing.T) {
	t.Parallel()
	const values, random = 2000, 32
	counts := map[byte]int{}
	for range values {
		s := apikey.Generate().Reveal()
		for i := range random {
			counts[s[3+i]]++
		}
	}
	var early int // what a plain modulo of a random byte favours
	for i := range len(base62) {
		if counts[base62[i]] == 0 {
			t.Errorf("no %q among %d random characters", base62[i], values*random)
		}
		if i < 256%62 {
			early += counts[base62[i]]
		}
	}
	if expect := values * random * (256 % 62) / 62; early < expect-850 || early > expect+850 {
		t.Errorf("the first %d characters were given %d times, expected about %d", 256%62, early, expect)
	}
}

// Any damage but to the prefix, without which it could be a given value.
func TestParseRefusesDamaged(t *testing.T) {
	t.Parallel()
	for range 3 {
		s := apikey.Generate().Reveal()
		for i := len(apikey.Prefix); i < len(s); i++ {
			for _, c := range []byte(base62 + "-_ \x00\xff") {
				if c == s[i] {
					continue
				}
				refused(t, s[:i]+string([]byte{c})+s[i+1:])
			}
			refused(t, s[:i])                // cut short
			refused(t, s[:i]+s[i+1:])        // one left out
			refused(t, s[:i]+s[i:i+1]+s[i:]) // one twice
		}
		refused(t, s+"0")
		refused(t, s+"\n")
		refused(t, s+s)
		refused(t, " "+s) // not trimmed: whoever sends it has to mend it
	}
}

func refused(t *testing.T, s string) {
	t.Helper()
	v, err := apikey.Parse(s)
	if err == nil {
		t.Fatalf("Parse(%q) accepted it", s)
	}
	if v != (apikey.Value{}) {
		t.Fatalf("Parse(%q) failed and returned a value", s)
	}
}

func TestParseGiven(t *testing.T) {
	t.Parallel()
	var printable strings.Builder
	for c := byte('!'); c <= '~'; c++ {
		printable.WriteByte(c)
	}
	tests := []struct {
		name string
		s    string
		ok   bool
	}{
		{"20 characters", strings.Repeat("k", 20), true},
		{"128 characters", strings.Repeat("k", 128), true},
		{"all printable ones", printable.String(), true},
		{"the prefix in capitals", "HK_" + strings.Repeat("k", 38), true},
		{"the prefix elsewhere", "khk_" + strings.Repeat("k", 30), true},
		{"none", "", false},
		{"19 characters", strings.Repeat("k", 19), false},
		{"129 characters", strings.Repeat("k", 129), false},
		{"20 code points, but not ASCII", strings.Repeat("é", 20), false},
		{"the prefix without a checksum", "hk_" + strings.Repeat("k", 38), false},
		{"the prefix alone", "hk_", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if !tt.ok {
				refused(t, tt.s)
				return
			}
			if got := parse(t, tt.s).Reveal(); got != tt.s {
				t.Errorf("Reveal() = %q, want %q", got, tt.s)
			}
		})
	}
}

func TestParseRefusesCharacters(t *testing.T) {
	t.Parallel()
	for c := range 256 {
		if c > ' ' && c <= '~' {
			continue
		}
		for _, i := range []int{0, 10, 20} {
			s := strings.Repeat("k", i) + string([]byte{byte(c)}) + strings.Repeat("k", 20-i)
			refused(t, s)
		}
	}
}

// A right checksum does not make a value of control characters one of ours:
// its first characters are printed for people to see.
func TestParseRefusesUnprintableWithChecksum(t *testing.T) {
	t.Parallel()
	for _, random := range []string{
		strings.Repeat(" ", 32),
		"\x1b[2J" + strings.Repeat("k", 28),
		strings.Repeat("k", 31) + "-",
		strings.Repeat("k", 16) + "\n" + strings.Repeat("k", 15),
		strings.Repeat("é", 16),
	} {
		s := apikey.Prefix + random + checksum(apikey.Prefix+random)
		refused(t, s)
	}
}

func TestParseErrorHidesValue(t *testing.T) {
	t.Parallel()
	s := apikey.Generate().Reveal()
	for _, bad := range []string{
		s[:40],
		s + "x",
		s[:35] + "000000",
		"a secret with spaces in it",
		"short-secret",
		strings.Repeat("long-secret", 20),
		"sécrét-of-twenty-letters",
	} {
		_, err := apikey.Parse(bad)
		if err == nil {
			t.Fatalf("Parse(%q) accepted it", bad)
		}
		for n := 0; n+8 <= len(bad); n++ {
			if part := bad[n : n+8]; strings.Contains(err.Error(), part) {
				t.Errorf("the error for %q holds %q of it: %v", bad, part, err)
			}
		}
	}
}

func TestValueIsHidden(t *testing.T) {
	t.Parallel()
	for _, v := range []apikey.Value{apikey.Generate(), parse(t, "a-value-that-somebody-chose")} {
		type holder struct {
			Name  string
			Value apikey.Value
		}
		held := holder{"k", v}
		random := v.Reveal()[4:]
		for name, in := range map[string]any{
			"value": v, "pointer": &v, "struct": held, "struct pointer": &held,
			"slice": []apikey.Value{v}, "map": map[string]apikey.Value{"k": v}, "any": any(v),
		} {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%10.3s"} {
				hidden(t, name+" with "+verb, fmt.Sprintf(verb, in), random)
			}
			hidden(t, name+" printed", fmt.Sprint(in)+fmt.Sprintln(in), random)
			hidden(t, name+" in an error", fmt.Errorf("open %v", in).Error(), random)

			b, err := json.Marshal(in)
			if err != nil {
				t.Fatal(err)
			}
			hidden(t, name+" as JSON", string(b), random)

			var log bytes.Buffer
			for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
				slog.New(h).Info("m", "k", in, slog.Group("g", "k", in))
			}
			hidden(t, name+" in a log", log.String(), random)
		}
	}
	if got := fmt.Sprint(apikey.Generate()); got != "(API key value)" {
		t.Errorf("a value prints as %q", got)
	}
}

// hidden fails if out has any five characters in a row of the secret, in any
// of the ways in which fmt may write them.
func hidden(t *testing.T, what, out, secret string) {
	t.Helper()
	for i := 0; i+5 <= len(secret); i++ {
		part := secret[i : i+5]
		for _, form := range []string{part, fmt.Sprintf("%x", part), fmt.Sprintf("%X", part)} {
			if strings.Contains(out, form) {
				t.Fatalf("%s shows %q of the value: %s", what, part, out)
			}
		}
	}
}

// The package fmt does not call Format for an operand that the verb does not
// suit (%w that is no error, %p that is no pointer), nor for a field that is
// not exported: it prints what the Value is made of.
func TestValueHiddenFromFmt(t *testing.T) {
	t.Parallel()
	v := apikey.Generate()
	random := v.Reveal()[4:]
	for _, tt := range []struct {
		name string
		out  string
	}{
		{"%w", fmt.Errorf([]string{"parse %w"}[0], v).Error()},
		{"%p", fmt.Sprintf([]string{"%p"}[0], v)},
		{"unexported field", fmt.Sprintf("%[1]v %+[1]v %#[1]v %[1]s %[1]q %[1]x", struct{ value apikey.Value }{v})},
		{"pointer in one", fmt.Sprintf("%+v", struct{ value *apikey.Value }{&v})},
		{"slice in one", fmt.Sprintf("%+v", struct{ values []apikey.Value }{[]apikey.Value{v}})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			hidden(t, tt.name, tt.out, random)
		})
	}
}

func TestDisplay(t *testing.T) {
	t.Parallel()
	v := apikey.Generate()
	if got, want := v.Display(), v.Reveal()[:8]; got != want {
		t.Errorf("generated: %q, want %q", got, want)
	}
	if got := parse(t, "a-value-that-somebody-chose").Display(); got != "sha256:6ed3" {
		t.Errorf("given: %q, want %q", got, "a-va")
	}
}

func TestHash(t *testing.T) {
	t.Parallel()
	v := parse(t, "a-value-that-somebody-chose")
	if got, want := v.Hash(), apikey.Hash(sha256.Sum256([]byte("a-value-that-somebody-chose"))); got != want {
		t.Errorf("got %x, want %x", got, want)
	}
	if v.Hash() == parse(t, "a-value-that-somebody-chosE").Hash() {
		t.Error("two values have one hash")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(apikey.Generate().Reveal())
	f.Add("hk_")
	f.Add("")
	f.Add("a-value-that-somebody-chose")
	f.Add(strings.Repeat("k", 129))
	f.Add("characters") // a word of the errors themselves
	f.Add("hk_\x1b[2Jkkkkkkkkkkkkkkkkkkkkkkkkkkkkk000000")
	f.Fuzz(func(t *testing.T, s string) {
		v, err := apikey.Parse(s)
		if err == nil {
			if v.Reveal() != s {
				t.Errorf("Parse(%q).Reveal() = %q", s, v.Reveal())
			}
			if len(s) < 20 || len(s) > 128 {
				t.Errorf("Parse(%q) accepted %d characters", s, len(s))
			}
			if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
				t.Errorf("Parse(%q) accepted its characters", s)
			}
			if shown := v.Display(); len(shown) > 11 || strings.HasPrefix(s, apikey.Prefix) != strings.HasPrefix(s, shown) {
				t.Errorf("Parse(%q).Display() = %q", s, v.Display())
			}
			return
		}
		// The error is the one of any other bad value of this length and kind,
		// so it holds nothing of this one.
		other := strings.Repeat(" ", len(s))
		if strings.HasPrefix(s, apikey.Prefix) {
			other = apikey.Prefix
		}
		if _, want := apikey.Parse(other); err.Error() != want.Error() {
			t.Errorf("Parse(%q): %v; Parse(%q): %v", s, err, other, want)
		}
	})
}

func TestCheckVariety(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		strings.Repeat("a", 25), strings.Repeat("ab", 64), "passwordpasswordpassword", "12345678901234567890", "changeme-changeme-changeme",
	} {
		if err := parse(t, s).CheckVariety(); err == nil || strings.Contains(err.Error(), s) {
			t.Errorf("CheckVariety(%q) = %v, want an error without it", s, err)
		}
	}
	good := []string{"testkey1-local-for-everyone", "a-value-that-somebody-chose", "correct-horse-battery", "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"}
	for range 1000 {
		var digits strings.Builder
		for range 20 {
			digits.WriteByte('0' + byte(rand.IntN(10)))
		}
		good = append(good, digits.String(), apikey.Generate().Reveal())
	}
	for _, s := range good {
		if err := parse(t, s).CheckVariety(); err != nil {
			t.Errorf("CheckVariety(%q) = %v", s, err)
		}
	}
}
