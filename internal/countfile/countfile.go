// Package countfile reads how often each name was greeted from the export of
// another system, and imports it: many million rows in little memory.
package countfile

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"helloapi/internal/hello"
	"helloapi/internal/textfile"
)

// The length of the longest line of JSON, and of the longest row of CSV with
// all its lines, in bytes. An item of the replaced table has up to 400 kB, and
// more in JSON. Less than that may have been compressed to next to nothing.
const (
	maxLine = 4 << 20
	maxRow  = 1 << 20
)

// MaxCount is the largest count of a row.
const MaxCount = 1_000_000_000_000_000

// Options say where a row has its name and its count.
type Options struct {
	Name  string // the attribute or column; "": name
	Count string // "": greeting_count, or else count
}

// A Row is how often a name was greeted.
type Row struct {
	hello.Count
	Line int64 // it begins on, from 1
}

// A LineError is what is wrong with a line.
type LineError struct {
	Line int64
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }
func (e *LineError) Unwrap() error { return e.Err }

// A Reader reads the rows of a file, one after the other.
type Reader struct {
	opts Options
	raw  counter
	text *bufio.Reader // decompressed
	line int64         // read last; of CSV the one before the header

	rows  *csv.Reader // nil: a JSON object a line
	limit rowLimit    // of rows
	last  int64       // the line that the last row of CSV began on

	nameColumn, countColumn int
}

// A rowLimit fails when more than maxRow bytes are read for one row.
type rowLimit struct {
	r    io.Reader
	left int
}

var errLongRow = fmt.Errorf("it is longer than %d MB: is a quote not closed?", maxRow>>20)

func (l *rowLimit) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errLongRow
	}
	n, err := l.r.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

// counter counts what was read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// NewReader returns a Reader of in, which has a JSON object a line or CSV with
// a header, and may be compressed with gzip.
func NewReader(in io.Reader, opts Options) (*Reader, error) {
	if opts.Name == "" {
		opts.Name = "name"
	}
	r := &Reader{opts: opts, raw: counter{r: in}}
	r.text = bufio.NewReaderSize(&r.raw, 256<<10)
	if magic, _ := r.text.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(r.text)
		if err != nil {
			return nil, fmt.Errorf("decompress: %w", err)
		}
		r.text = bufio.NewReaderSize(z, 256<<10)
	}
	text, err := textfile.NewReader(r.text)
	if err != nil {
		return nil, readError(err)
	}
	r.text = text
	isJSON, err := r.isJSON()
	if err != nil || isJSON {
		return r, err
	}
	return r, r.header()
}

// isJSON reports whether the text begins as JSON does. Empty lines before that
// are skipped.
func (r *Reader) isJSON() (bool, error) {
	for {
		b, err := r.text.Peek(1)
		switch {
		case errors.Is(err, io.EOF):
			return true, nil // nothing
		case err != nil:
			return false, readError(err)
		case b[0] == '{' || b[0] == '[':
			return true, nil
		case b[0] == '\n':
			r.line++
		case b[0] != '\r' && b[0] != ' ' && b[0] != '\t':
			return false, nil
		}
		_, _ = r.text.Discard(1)
	}
}

func readError(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the file ends in the middle of what was compressed: is it whole?")
	}
	return err
}

// Offset returns how many bytes of the file were read, about.
func (r *Reader) Offset() int64 { return r.raw.n }

// Next returns the next row, or io.EOF after the last. A *LineError says that
// a line can't be used; there is no going on after an error.
func (r *Reader) Next() (Row, error) {
	if r.rows != nil {
		return r.nextCSV()
	}
	for {
		line, err := r.readLine()
		if err != nil {
			return Row{}, err
		}
		r.line++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		name, count, err := r.item(line)
		if err != nil {
			return Row{}, &LineError{r.line, err}
		}
		return r.row(name, count, r.line)
	}
}

// readLine returns a line. It is good until the next call.
func (r *Reader) readLine() ([]byte, error) {
	line, err := r.text.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		long := slices.Clone(line)
		for errors.Is(err, bufio.ErrBufferFull) && len(long) <= maxLine {
			line, err = r.text.ReadSlice('\n')
			long = append(long, line...)
		}
		if line = long; len(line) > maxLine {
			return nil, &LineError{r.line + 1, fmt.Errorf("it is longer than %d MB: is this one item a line?", maxLine>>20)}
		}
	}
	switch {
	case errors.Is(err, io.EOF) && len(line) > 0:
		return line, nil
	case errors.Is(err, io.EOF):
		return nil, io.EOF
	case err != nil:
		return nil, &LineError{r.line + 1, readError(err)}
	}
	return line, nil
}

// item returns name and count of a line of JSON: an item of an export of
// DynamoDB, {"Item": {"name": {"S": "brooks"}, …}}, what is in one, or a plain
// object, {"name": "brooks", …}.
func (r *Reader) item(line []byte) (name, count string, err error) {
	if !utf8.Valid(line) {
		return "", "", errors.New("it is not UTF-8")
	}
	var item map[string]json.RawMessage
	if err := json.Unmarshal(line, &item); err != nil {
		if line[0] == '[' || len(line) == 1 {
			return "", "", errors.New("there must be a whole JSON object on each line: `jq -c '.[]'` or `jq -c '.Items[]'` makes such lines of a list")
		}
		return "", "", fmt.Errorf("not JSON: %w", err)
	}
	if item["Metadata"] != nil && item["Keys"] != nil {
		return "", "", errors.New("this is an incremental export of DynamoDB, which has changes and not counts: make a full export (--export-type FULL_EXPORT)")
	}
	if inner, ok := item["Item"]; ok && len(item) == 1 {
		item = nil
		if err := json.Unmarshal(inner, &item); err != nil {
			return "", "", errors.New(`"Item" must be an object`)
		}
	}
	if _, ok := item["Items"]; ok {
		return "", "", errors.New("there must be one item on each line: `jq -c '.Items[]'` makes such lines")
	}
	raw, ok := item[r.opts.Name]
	if !ok {
		return "", "", fmt.Errorf("it has no attribute %q, only %s: --name-attribute says which is the name", r.opts.Name, attributes(item))
	}
	if name, ok = scalar(raw, "S"); !ok {
		return "", "", fmt.Errorf("attribute %q must be a text", r.opts.Name)
	}
	if _, whole := textfile.Pairs(raw); !whole {
		return "", "", fmt.Errorf("attribute %q has half of a character (a lone surrogate, \\ud800 to \\udfff): correct the name", r.opts.Name)
	}
	attribute := r.opts.Count
	if attribute == "" {
		attribute = "greeting_count"
		if _, ok := item[attribute]; !ok {
			attribute = "count"
		}
	}
	if raw, ok = item[attribute]; !ok {
		return "", "", fmt.Errorf("it has no attribute %q, only %s: --count-attribute says which is the count", cmp.Or(r.opts.Count, "greeting_count"), attributes(item))
	}
	if count, ok = scalar(raw, "N"); !ok {
		return "", "", fmt.Errorf("attribute %q must be a number", attribute)
	}
	return name, count, nil
}

func attributes(item map[string]json.RawMessage) string {
	names := make([]string, 0, len(item))
	for n := range item {
		names = append(names, strconv.Quote(n))
	}
	slices.Sort(names)
	if len(names) > 10 {
		names = append(names[:10], "…")
	}
	return cmp.Or(strings.Join(names, ", "), "none")
}

// scalar returns a text or number, plain or in the form of DynamoDB, where an
// object names its type.
func scalar(raw json.RawMessage, kind string) (string, bool) {
	if len(raw) > 0 && raw[0] == '{' {
		var typed map[string]json.RawMessage
		if json.Unmarshal(raw, &typed) != nil || len(typed) != 1 {
			return "", false
		}
		var ok bool
		if raw, ok = typed[kind]; !ok {
			return "", false
		}
	}
	var s string
	if json.Unmarshal(raw, &s) == nil && raw[0] == '"' {
		return s, true
	}
	var n json.Number
	if kind == "N" && json.Unmarshal(raw, &n) == nil && raw[0] != 'n' { // not null
		return n.String(), true
	}
	return "", false
}

// header reads the names of the columns of CSV.
func (r *Reader) header() error {
	before := r.line
	r.limit.r = r.text
	r.rows = csv.NewReader(bufio.NewReaderSize(&r.limit, 64<<10))
	r.rows.ReuseRecord = true
	names, err := r.readCSV()
	if err != nil {
		return r.csvError(err)
	}
	column := func(want ...string) int {
		for _, w := range want {
			if i := slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(strings.TrimSpace(n), w) }); i >= 0 {
				return i
			}
		}
		return -1
	}
	counts := []string{r.opts.Count}
	if r.opts.Count == "" {
		counts = []string{"greeting_count", "count"}
	}
	r.nameColumn, r.countColumn = column(r.opts.Name), column(counts...)
	if len(names) == 1 && strings.ContainsAny(names[0], ";\t") {
		return &LineError{before + 1, errors.New("the columns are separated by semicolons or tabs: save the file with commas")}
	}
	if r.nameColumn < 0 || r.countColumn < 0 {
		return &LineError{before + 1, fmt.Errorf("the first line must name the columns, %q and %q among them; --name-attribute and --count-attribute say what they are called", r.opts.Name, counts[0])}
	}
	return nil
}

func (r *Reader) readCSV() ([]string, error) {
	r.limit.left = maxRow
	return r.rows.Read()
}

func (r *Reader) nextCSV() (Row, error) {
	fields, err := r.readCSV()
	if err != nil {
		return Row{}, r.csvError(err)
	}
	line, _ := r.rows.FieldPos(0)
	r.last = r.line + int64(line)
	return r.row(fields[r.nameColumn], strings.TrimSpace(fields[r.countColumn]), r.last)
}

func (r *Reader) csvError(err error) error {
	var bad *csv.ParseError
	switch {
	case errors.Is(err, io.EOF):
		return io.EOF
	case errors.As(err, &bad):
		return &LineError{r.line + int64(bad.StartLine), fmt.Errorf("not CSV: %w", bad.Err)}
	}
	return &LineError{r.last + 1, readError(err)}
}

// row checks name and count as they are written.
func (r *Reader) row(name, count string, line int64) (Row, error) {
	if name == "" {
		return Row{}, &LineError{line, errors.New("the name is empty")}
	}
	name, err := hello.NormalizeName(name)
	if err != nil {
		return Row{}, &LineError{line, err}
	}
	n, ok := textfile.Whole(count)
	if !ok || n < 0 || n > MaxCount || count[0] == '+' || count[0] == '-' {
		return Row{}, &LineError{line, fmt.Errorf("the count must be a whole number from 0 to %d", int64(MaxCount))}
	}
	return Row{hello.Count{Name: name, Count: n}, line}, nil
}
