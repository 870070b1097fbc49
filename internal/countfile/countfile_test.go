package countfile_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"helloapi/internal/countfile"
)

// readAll reads all rows, and the error that ends them.
func readAll(in io.Reader, opts countfile.Options) string {
	var b strings.Builder
	r, err := countfile.NewReader(in, opts)
	for err == nil {
		var row countfile.Row
		if row, err = r.Next(); err == nil {
			fmt.Fprintf(&b, "%d: %s %d\n", row.Line, row.Name, row.Count.Count)
		}
	}
	if !errors.Is(err, io.EOF) {
		fmt.Fprintln(&b, err)
	}
	return b.String()
}

func zipped(t testing.TB, s string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestReader(t *testing.T) {
	t.Parallel()
	const dynamo = `{"Item":{"name":{"S":"brooks"},"greeting_count":{"N":"5"},"seen":{"M":{"x":{"N":"1"}}}}}
{"Item":{"greeting_count":{"N":"0"},"name":{"S":"Zoe\u0308"}}}
`
	tests := []struct {
		name, data string
		opts       countfile.Options
		want       string
	}{
		{"an export of DynamoDB", dynamo, countfile.Options{}, "1: brooks 5\n2: Zoë 0\n"},
		{"compressed", zipped(t, dynamo), countfile.Options{}, "1: brooks 5\n2: Zoë 0\n"},
		{"compressed in parts", zipped(t, dynamo) + zipped(t, dynamo), countfile.Options{}, "1: brooks 5\n2: Zoë 0\n3: brooks 5\n4: Zoë 0\n"},
		{"items alone", `{"name":{"S":"a"},"greeting_count":{"N":"7"}}`, countfile.Options{}, "1: a 7\n"},
		{"plain JSON", "\n{\"name\":\"a\",\"count\":7}\r\n\r\n {\"count\":\"8\",\"name\":\"b\"}", countfile.Options{}, "2: a 7\n4: b 8\n"},
		{"other attributes", `{"Item":{"id":{"S":"a"},"n":{"N":"7"},"name":{"S":"x"},"count":{"N":"1"}}}`, countfile.Options{Name: "id", Count: "n"}, "1: a 7\n"},
		{"CSV", "\xef\xbb\xbfName,other,greeting_count\r\n\"a, b\",x,5\r\n\"two\",\"of\n2\",6\r\nc,,7\r\n", countfile.Options{}, "2: a, b 5\n3: two 6\n5: c 7\n"},
		{"CSV after empty lines", "\n\nname,count\na,1\n", countfile.Options{}, "4: a 1\n"},
		{"CSV with other columns", "who,n\na,1\n", countfile.Options{Name: "who", Count: "n"}, "2: a 1\n"},
		{"nothing", "", countfile.Options{}, ""},
		{"empty lines", "\r\n\n", countfile.Options{}, ""},
		{"nothing, compressed", zipped(t, ""), countfile.Options{}, ""},
		{"an item called Item", `{"Item":"a","count":5,"name":"b"}`, countfile.Options{}, "1: b 5\n"},

		{"not JSON", "{\"name\":\"a\",\"count\":1}\n{\"name\":", countfile.Options{}, "1: a 1\nline 2: not JSON: unexpected end of JSON input\n"},
		{"JSON over several lines", "{\n \"Items\": [\n", countfile.Options{}, "line 1: there must be a whole JSON object on each line: `jq -c '.[]'` or `jq -c '.Items[]'` makes such lines of a list\n"},
		{"a list", "[{\"name\":\"a\",\"count\":1}]\n", countfile.Options{}, "line 1: there must be a whole JSON object on each line: `jq -c '.[]'` or `jq -c '.Items[]'` makes such lines of a list\n"},
		{"a list of items", `{"Items":[{"name":{"S":"a"},"greeting_count":{"N":"7"}}],"Count":1}`, countfile.Options{}, "line 1: there must be one item on each line: `jq -c '.Items[]'` makes such lines\n"},
		{"no name", `{"Item":{"id":{"S":"a"},"greeting_count":{"N":"7"}}}`, countfile.Options{}, `line 1: it has no attribute "name", only "greeting_count", "id": --name-attribute says which is the name` + "\n"},
		{"no count", `{"Item":{"name":{"S":"a"},"n":{"N":"7"}}}`, countfile.Options{}, `line 1: it has no attribute "greeting_count", only "n", "name": --count-attribute says which is the count` + "\n"},
		{"an empty item", `{"Item":{}}`, countfile.Options{}, `line 1: it has no attribute "name", only none: --name-attribute says which is the name` + "\n"},
		{"a number as a name", `{"name":{"N":"5"},"count":{"N":"7"}}`, countfile.Options{}, "line 1: attribute \"name\" must be a text\n"},
		{"a name of null", `{"name":null,"count":7}`, countfile.Options{}, "line 1: attribute \"name\" must be a text\n"},
		{"a count of null", `{"name":"a","count":null}`, countfile.Options{}, "line 1: attribute \"count\" must be a number\n"},
		{"a text as a count", `{"name":{"S":"a"},"count":{"S":"7"}}`, countfile.Options{}, "line 1: attribute \"count\" must be a number\n"},
		{"a list as a count", `{"name":"a","count":[7]}`, countfile.Options{}, "line 1: attribute \"count\" must be a number\n"},
		{"a fraction", `{"name":"a","count":1.5}`, countfile.Options{}, "line 1: the count must be a whole number from 0 to 1000000000000000\n"},
		{"below zero", `{"name":"a","count":-1}`, countfile.Options{}, "line 1: the count must be a whole number from 0 to 1000000000000000\n"},
		{"too much", `{"name":"a","count":1000000000000001}`, countfile.Options{}, "line 1: the count must be a whole number from 0 to 1000000000000000\n"},
		{"a sign", "name,count\na,+1\n", countfile.Options{}, "line 2: the count must be a whole number from 0 to 1000000000000000\n"},
		{"no number", "name,count\na,\n", countfile.Options{}, "line 2: the count must be a whole number from 0 to 1000000000000000\n"},
		{"an empty name", `{"name":"","count":1}`, countfile.Options{}, "line 1: the name is empty\n"},
		{"a control character", `{"name":"a\u0000b","count":1}`, countfile.Options{}, "line 1: the name has a control character\n"},
		{"a long name", `{"name":"` + strings.Repeat("x", 257) + `","count":1}`, countfile.Options{}, "line 1: the name has more than 256 characters\n"},
		{"not UTF-8", "{\"name\":\"caf\xe9\",\"count\":1}", countfile.Options{}, "line 1: it is not UTF-8\n"},
		{"CSV that is not UTF-8", "name,count\ncaf\xe9,1\n", countfile.Options{}, "line 2: the name is not UTF-8\n"},
		{"a long line", `{"name":"` + strings.Repeat("x", 5<<20), countfile.Options{}, "line 1: it is longer than 4 MB: is this one item a line?\n"},
		{"CSV without a header", "a,1\n", countfile.Options{}, "line 1: the first line must name the columns, \"name\" and \"greeting_count\" among them; --name-attribute and --count-attribute say what they are called\n"},
		{"a field more", "name,count\na,1\nb,2,3\n", countfile.Options{}, "2: a 1\nline 3: not CSV: wrong number of fields\n"},
		{"a quote", "name,count\na,1\n\"b,2\n", countfile.Options{}, "2: a 1\nline 3: not CSV: extraneous or missing \" in quoted-field\n"},
		{"cut off", zipped(t, dynamo)[:60], countfile.Options{}, "line 1: the file ends in the middle of what was compressed: is it whole?\n"},
		{"cut off within the header", zipped(t, dynamo)[:5], countfile.Options{}, "decompress: unexpected EOF\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := readAll(strings.NewReader(tt.data), tt.opts)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(got, readAll(iotest.OneByteReader(strings.NewReader(tt.data)), tt.opts)); len(tt.data) < 1<<20 && diff != "" {
				t.Errorf("a byte at a time\n%s", diff)
			}
		})
	}

	// A disk that fails in the middle is not the end of the file.
	for _, data := range []string{dynamo, "name,count\na,1\nb,2\n", zipped(t, dynamo)} {
		got := readAll(io.MultiReader(strings.NewReader(data[:len(data)-3]), iotest.ErrReader(errors.New("disk on fire"))), countfile.Options{})
		if !strings.HasSuffix(got, "disk on fire\n") {
			t.Errorf("of a disk that fails:\n%s", got)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(`{"Item":{"name":{"S":"brooks"},"greeting_count":{"N":"5"}}}`))
	f.Add([]byte("name,count\n\"a\nb\",5\n"))
	f.Add([]byte(zipped(f, "{\"name\":\"a\",\"count\":5}\n")))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := countfile.NewReader(bytes.NewReader(data), countfile.Options{})
		last := int64(0)
		for err == nil {
			var row countfile.Row
			if row, err = r.Next(); err == nil {
				if row.Line <= last || row.Name == "" || row.Count.Count < 0 {
					t.Fatalf("row %+v after line %d", row, last)
				}
				last = row.Line
			}
		}
		var bad *countfile.LineError
		if errors.As(err, &bad) && bad.Line < 1 {
			t.Errorf("line %d", bad.Line)
		}
	})
}

// repeated reads the same text over and over.
type repeated string

func (r repeated) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		n += copy(p[n:], r)
	}
	return n, nil
}

// A record without an end is refused before it fills the memory: 1.5 MB of gzip
// may have gigabytes in it.
func TestLongRecords(t *testing.T) {
	for name, parts := range map[string][2]string{
		"a field":           {"name,count\n\"", "aaaaaaaa"},
		"lines of a field":  {"name,count\n\"", "aaaaaaa\n"},
		"fields":            {"name,count\n", "a,a,a,a,"},
		"columns":           {"name,count,", ",,,,,,,,"},
		"a name of columns": {"name,count,\"", "aaaaaaaa"},
		"JSON":              {`{"name":"`, "aaaaaaaa"},
		"JSON fields":       {`{"name":"a"`, `,"a":"b"`},
		"an empty line":     {"name,count\n", "        "},
	} {
		in := io.MultiReader(strings.NewReader(parts[0]), io.LimitReader(repeated(parts[1]), 512<<20))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r, err := countfile.NewReader(in, countfile.Options{})
		if err == nil {
			_, err = r.Next()
		}
		runtime.ReadMemStats(&after)
		var line *countfile.LineError
		if !errors.As(err, &line) || !strings.Contains(err.Error(), "is longer than") {
			t.Errorf("%s: %v, want that it is too long", name, err)
		}
		if used := (after.TotalAlloc - before.TotalAlloc) >> 20; used > 200 {
			t.Errorf("%s: %d MB were allocated", name, used)
		} else {
			t.Logf("%s: %d MB were allocated", name, used)
		}
	}
}
