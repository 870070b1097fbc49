// Package textfile reads the text files that people bring along: it decodes
// UTF-16, drops a byte order mark, and refuses other formats by their name.
package textfile

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// formats are what files are that are not text, by how they begin.
var formats = []struct{ magic, name string }{
	{"$ion_1_0", "Amazon Ion; export it as JSON (--export-format DYNAMODB_JSON)"},
	{"\xe0\x01\x00\xea", "Amazon Ion in its binary form; export it as JSON (--export-format DYNAMODB_JSON)"},
	{"PAR1", "Parquet; export it as CSV or JSON"},
	{"PK\x03\x04", "a zip archive or a workbook of a spreadsheet; unpack it, or save it as CSV"},
	{"\x1f\x8b", "compressed with gzip; unpack it with gunzip"},
	{"BZh", "compressed with bzip2; unpack it with bunzip2"},
	{"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it with unzstd"},
	{"\xfd7zXZ\x00", "compressed with xz; unpack it with unxz"},
	{"SQLite format 3\x00", "a SQLite database; export its table as CSV"},
}

// NewReader returns a reader of the text of in, in UTF-8 and without a byte
// order mark. It fails at once if in has another format.
func NewReader(in io.Reader) (*bufio.Reader, error) {
	const size = 256 << 10
	b := bufio.NewReaderSize(in, size)
	begin, err := b.Peek(16)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	for _, f := range formats {
		if bytes.HasPrefix(begin, []byte(f.magic)) {
			return nil, fmt.Errorf("this is not text: it is %s", f.name)
		}
	}
	switch {
	case bytes.HasPrefix(begin, []byte("\xef\xbb\xbf")):
		_, _ = b.Discard(3)
	case bytes.HasPrefix(begin, []byte("\xff\xfe")):
		_, _ = b.Discard(2)
		return bufio.NewReaderSize(&utf16Reader{in: b, order: binary.LittleEndian}, size), nil
	case bytes.HasPrefix(begin, []byte("\xfe\xff")):
		_, _ = b.Discard(2)
		return bufio.NewReaderSize(&utf16Reader{in: b, order: binary.BigEndian}, size), nil
	}
	return b, nil
}

// Decode returns the text of a whole file, as NewReader does, or the line that
// is not text: it must be UTF-8 without control characters.
func Decode(data []byte) (text []byte, line int, err error) {
	r, err := NewReader(bytes.NewReader(data))
	if err == nil {
		text, err = io.ReadAll(r)
	}
	if err != nil {
		return nil, 1, err
	}
	line = 1
	for i := 0; i < len(text); {
		c, size := utf8.DecodeRune(text[i:])
		if c == utf8.RuneError && size == 1 || c < ' ' && c != '\t' && c != '\n' && c != '\r' || c == 0x7f {
			return nil, line, errors.New("this is not text in UTF-8: save the file as UTF-8")
		}
		if c == '\n' {
			line++
		}
		i += size
	}
	return text, line, nil
}

// A utf16Reader decodes UTF-16. Half a character is an error, not U+FFFD: two
// names that are broken in different places must not become one.
type utf16Reader struct {
	in    *bufio.Reader
	order binary.ByteOrder
	text  []byte // decoded, not yet read
	err   error  // sticky
}

var errUTF16 = errors.New("this is not text in UTF-16: a character is cut in half; save the file as UTF-8")

func (r *utf16Reader) Read(p []byte) (int, error) {
	for r.err == nil && len(r.text) < 4096 {
		c := r.unit()
		if utf16.IsSurrogate(c) && r.err == nil {
			if c = utf16.DecodeRune(c, r.unit()); c == unicode.ReplacementChar && (r.err == nil || errors.Is(r.err, io.EOF)) {
				r.err = errUTF16
			}
		}
		if r.err == nil {
			r.text = utf8.AppendRune(r.text, c)
		}
	}
	if len(r.text) == 0 {
		return 0, r.err
	}
	n := copy(p, r.text)
	r.text = r.text[:copy(r.text, r.text[n:])]
	return n, nil
}

// unit returns the next 16 bits.
func (r *utf16Reader) unit() rune {
	b, err := r.in.Peek(2)
	if len(b) == 1 && errors.Is(err, io.EOF) {
		err = errUTF16
	}
	if r.err = err; err != nil {
		return 0
	}
	_, _ = r.in.Discard(2)
	return rune(r.order.Uint16(b))
}

var escapePattern = regexp.MustCompile(`\\(?:u[0-9a-fA-F]{4}|.)`)

// Pairs replaces the two escapes that JSON writes a character beyond U+FFFF
// with, \ud83d\ude80, by the character. It reports false if there is half of one.
func Pairs(json []byte) ([]byte, bool) {
	if !bytes.Contains(json, []byte(`\ud`)) && !bytes.Contains(json, []byte(`\uD`)) {
		return json, true
	}
	whole := true
	var out []byte
	rest := json
	for {
		at := escapePattern.FindIndex(rest)
		if at == nil {
			return append(out, rest...), whole
		}
		out = append(out, rest[:at[0]]...)
		escape := rest[at[0]:at[1]]
		rest = rest[at[1]:]
		c := escaped(escape)
		if !utf16.IsSurrogate(c) {
			out = append(out, escape...)
			continue
		}
		var low rune
		if len(rest) >= 6 {
			low = escaped(rest[:6])
		}
		if c = utf16.DecodeRune(c, low); c == unicode.ReplacementChar {
			whole = false
			out = append(out, escape...)
			continue
		}
		out = utf8.AppendRune(out, c)
		rest = rest[6:]
	}
}

// escaped returns the character that \uXXXX is, or 0.
func escaped(s []byte) rune {
	if len(s) != 6 || s[0] != '\\' || s[1] != 'u' {
		return 0
	}
	n, _ := strconv.ParseUint(string(s[2:]), 16, 16)
	return rune(n)
}

var numberPattern = regexp.MustCompile(`^([+-]?)([0-9]+)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]{1,3}))?$`)

// Whole returns the whole number that s is, in whatever form: 5.0 is 5, and
// 1e3 is 1000. It reports false for any other, and for one beyond int64.
func Whole(s string) (int64, bool) {
	m := numberPattern.FindStringSubmatch(s)
	if m == nil {
		return 0, false
	}
	digits := m[2] + m[3]
	exponent, _ := strconv.Atoi(m[4])
	switch exponent -= len(m[3]); {
	case strings.Trim(digits, "0") == "":
		digits = "0"
	case exponent >= 0 && exponent <= 19:
		digits += strings.Repeat("0", exponent)
	case exponent > 19 || len(digits) <= -exponent || strings.Trim(digits[len(digits)+exponent:], "0") != "":
		return 0, false
	default:
		digits = digits[:len(digits)+exponent]
	}
	n, err := strconv.ParseInt(m[1]+digits, 10, 64)
	return n, err == nil
}
