package textfile_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf16"

	"helloapi/internal/textfile"
)

// encode returns s in UTF-16, with a byte order mark.
func encode(order binary.AppendByteOrder, s string) string {
	b := order.AppendUint16(nil, 0xfeff)
	for _, u := range utf16.Encode([]rune(s)) {
		b = order.AppendUint16(b, u)
	}
	return string(b)
}

func TestNewReader(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("Zoë 🚀\r\n", 1000)
	for name, data := range map[string]string{
		"UTF-8":                  text,
		"a mark":                 "\xef\xbb\xbf" + text,
		"UTF-16 of Windows":      encode(binary.LittleEndian, text),
		"UTF-16, the other way":  encode(binary.BigEndian, text),
		"not UTF-8, left alone":  "caf\xe9",
		"nothing":                "",
		"a mark and nothing":     "\xef\xbb\xbf",
		"UTF-16 of nothing":      "\xff\xfe",
		"something with a brand": "PARISIAN",
	} {
		want := text
		switch {
		case strings.Contains(name, "nothing"):
			want = ""
		case len(data) < 20:
			want = data
		}
		for how, in := range map[string]io.Reader{"whole": strings.NewReader(data), "a byte at a time": iotest.OneByteReader(strings.NewReader(data))} {
			r, err := textfile.NewReader(in)
			if err != nil {
				t.Errorf("%s, %s: %v", name, how, err)
				continue
			}
			if got, err := io.ReadAll(r); err != nil || string(got) != want {
				t.Errorf("%s, %s: %v, %.40q", name, how, err, got)
			}
		}
	}
	for data, want := range map[string]string{
		"$ion_1_0 {Item:{}}":          "Amazon Ion",
		"\xe0\x01\x00\xea":            "Amazon Ion",
		"PAR1\x15":                    "Parquet",
		"PK\x03\x04\x14":              "zip",
		"\x1f\x8b\x08":                "gzip",
		"BZh9":                        "bzip2",
		"\x28\xb5\x2f\xfd":            "zstd",
		"\xfd7zXZ\x00":                "xz",
		"SQLite format 3\x00":         "SQLite",
		"\xff\xfea\x00b":              "UTF-16",
		"\xff\xfea\x00\x3d\xd8":       "UTF-16", // half of a pair, at the end
		"\xff\xfe\x3d\xd8a\x00b\x00":  "UTF-16", // and before another character
		"\xff\xfe\x80\xdea\x00b\x00":  "UTF-16", // the other half alone
		"\xfe\xff\x00a\xd8\x3d\x00bc": "UTF-16",
	} {
		if got, _, err := textfile.Decode([]byte(data)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %q, %v; want %s", data, got, err, want)
		}
	}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	if got, line, err := textfile.Decode([]byte("\xef\xbb\xbfa\tb\r\nc")); string(got) != "a\tb\r\nc" || line != 2 || err != nil {
		t.Errorf("got %q, %d, %v", got, line, err)
	}
	for _, bad := range []string{"a\n\xe9", "a\n\x00", "a\nb\x01", "a\n\x7f", encode(binary.LittleEndian, "a\n\x00")} {
		if got, line, err := textfile.Decode([]byte(bad)); err == nil || line != 2 {
			t.Errorf("%q: %q, %d", bad, got, line)
		}
	}
}

func TestPairs(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`plain \n \u00e9`:        `plain \n \u00e9`,
		`\ud83d\ude80`:           `🚀`,
		`a\uD83D\uDE80b\u00e9`:   `a🚀b\u00e9`,
		`\\ud83d\\ude80`:         `\\ud83d\\ude80`, // a backslash, and letters
		`\\\ud83d\ude80`:         `\\🚀`,
		`\ud83d`:                 "",
		`\ude80`:                 "",
		`\ud83d\n`:               "",
		`\ud83d\ud83d\ude80`:     "",
		`\ud83dx\ude80`:          "",
		`\ud83d\ude80\ude80 end`: "",
	} {
		if got, whole := textfile.Pairs([]byte(in)); whole != (want != "") || whole && string(got) != want {
			t.Errorf("%s: %s, %v; want %s", in, got, whole, want)
		}
	}
	if got, _ := textfile.Pairs([]byte("x")); !bytes.Equal(got, []byte("x")) {
		t.Errorf("got %s", got)
	}
}

func TestWhole(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int64{
		"5": 5, "-5": -5, "+5": 5, "5.0": 5, "5.": 5, "1e3": 1000, "1E+3": 1000, "1.5e1": 15, "50e-1": 5, "0": 0, "0.0": 0, "0e999": 0, "007": 7,
		"9223372036854775807": 1<<63 - 1, "9.223372036854775807e18": 1<<63 - 1, "100000000000000000000e-20": 1,
	} {
		if got, ok := textfile.Whole(in); !ok || got != want {
			t.Errorf("%s: %d, %v; want %d", in, got, ok, want)
		}
	}
	for _, in := range []string{"", "five", "1.5", "15e-2", "1e-1", "9223372036854775808", "1e19", "1e999", "1e9999999", "0x10", ".5", "5 ", "1e", "--5", "٥"} {
		if got, ok := textfile.Whole(in); ok {
			t.Errorf("%q: %d", in, got)
		}
	}
}
