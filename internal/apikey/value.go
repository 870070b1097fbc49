package apikey

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
)

// The form of a generated value, 41 characters: Prefix, 32 random characters
// of base62 (190.5 bits), and 6 of the CRC-32 of what stands before them. The
// prefix and the checksum let scanners of source code find a leaked key with
// next to no false alarms, and let nonsense be refused without a look-up.
const (
	Prefix = "hk_"

	base62      = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	randomLen   = 32
	checksumLen = 6
	valueLen    = len(Prefix) + randomLen + checksumLen
)

// The length of a value that a person chose, in bytes.
const (
	minLen = 20
	maxLen = 128
)

// A Value opens the API to whoever sends it. It prints as a placeholder, so
// that it can't end up in a log by mistake; Reveal is the way to see it. The
// zero Value is none.
type Value struct {
	s *string // not a string: fmt does not ask Format about unexported fields
}

// Reveal returns the value itself, to be shown to its owner once.
func (v Value) Reveal() string {
	if v.s == nil {
		return ""
	}
	return *v.s
}

// Format hides the value from every verb of fmt, %#v too.
func (v Value) Format(f fmt.State, _ rune) { fmt.Fprint(f, "(API key value)") }

// Hash is the SHA-256 of a value: what is stored in its place. A generated value
// has too many bits to be guessed from it, so no slow hash is needed; others
// should, see CheckVariety.
func (v Value) Hash() Hash {
	var b [maxLen]byte // on the stack
	return sha256.Sum256(append(b[:0], v.Reveal()...))
}

// Display returns what people may recognise the value by, too little to be of
// use to anyone else: the first characters of a generated one, and of another,
// whose first characters may be a word, the first digits of its SHA-256.
func (v Value) Display() string {
	if strings.HasPrefix(*v.s, Prefix) {
		return (*v.s)[:len(Prefix)+5]
	}
	hash := v.Hash()
	return "sha256:" + hex.EncodeToString(hash[:2])
}

// minPairs is how many different pairs of neighbouring characters a value that
// a person chose must have. 20 random digits have 17, give or take 2.
const minPairs = 12

// CheckVariety returns an error for a value that repeats itself so much that it
// can be guessed, also from its hash. The error does not hold it.
func (v Value) CheckVariety() error {
	pairs := map[string]bool{}
	for i := range len(*v.s) - 1 {
		pairs[(*v.s)[i:i+2]] = true
	}
	if len(pairs) < minPairs {
		return errors.New("a value must not repeat itself so much, or it can be guessed: `openssl rand -hex 20` makes a good one")
	}
	return nil
}

// A Hash stands for a Value in the stores.
type Hash [sha256.Size]byte

// Generate returns a new random value.
func Generate() Value {
	s := Prefix + randomBase62(randomLen)
	sum := checksum(s)
	s += string(sum[:])
	return Value{&s}
}

// Parse returns s as a value if it can be one: a generated one, or 20 to 128
// printable ASCII characters without spaces. The error never holds s.
func Parse(s string) (Value, error) {
	if strings.HasPrefix(s, Prefix) {
		if len(s) != valueLen || strings.Trim(s[len(Prefix):], base62) != "" || !hasChecksum(s) {
			return Value{}, errors.New("a value that starts with " + Prefix + " must be a generated one, whole: this one is cut off or mistyped")
		}
		return Value{&s}, nil
	}
	if len(s) < minLen || len(s) > maxLen {
		return Value{}, fmt.Errorf("a value must have %d to %d characters; this has %d", minLen, maxLen, len(s))
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return Value{}, errors.New("a value must be of printable ASCII characters, without spaces")
		}
	}
	return Value{&s}, nil
}

func checksum(s string) (sum [checksumLen]byte) { // 62^6 > 2^32
	n := crc32.ChecksumIEEE([]byte(s))
	for i := checksumLen - 1; i >= 0; i-- {
		sum[i] = base62[n%62]
		n /= 62
	}
	return sum
}

// hasChecksum reports whether s, which has the length of a value, ends in the
// checksum of the rest.
func hasChecksum(s string) bool {
	sum := checksum(s[:valueLen-checksumLen])
	return s[valueLen-checksumLen:] == string(sum[:])
}

// randomBase62 returns n characters, each of base62 with the same probability.
func randomBase62(n int) string {
	out := make([]byte, 0, n)
	buf := make([]byte, 2*n)
	for {
		rand.Read(buf) // never fails
		for _, c := range buf {
			if c >= 62*4 { // 256 is no multiple of 62
				continue
			}
			out = append(out, base62[c%62])
			if len(out) == n {
				return string(out)
			}
		}
	}
}
