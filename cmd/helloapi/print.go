package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
	"golang.org/x/text/width"
)

// shownTime is a time as it is shown; nil for the zero time.
func shownTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}

func expiry(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return t.Format(time.RFC3339)
}

// A table prints rows in columns. On a terminal it fits the width: what is too
// long is cut off, and ends with an ellipsis.
type table struct {
	w     io.Writer
	width int // of the terminal; 0: any
	rows  [][]string
}

func newTable(w io.Writer, header ...string) *table {
	t := &table{w: w}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		t.width, _, _ = term.GetSize(int(f.Fd())) // 0 if it is not known
	}
	if len(header) > 0 {
		t.row(header...)
	}
	return t
}

func (t *table) row(cells ...string) {
	row := make([]string, len(cells))
	for i, cell := range cells {
		row[i] = visible(cell)
	}
	t.rows = append(t.rows, row)
}

// visible escapes what would command a terminal in place of being shown: control
// characters, and those that turn the direction of what follows. It is not for
// JSON, which escapes them itself, nor for what programs read.
func visible(s string) string {
	unsafe := func(c rune) bool {
		return unicode.In(c, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Bidi_Control)
	}
	if utf8.ValidString(s) && !strings.ContainsFunc(s, unsafe) {
		return s
	}
	var b strings.Builder
	for i, c := range s {
		_, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case c == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unsafe(c):
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(c), "'"))
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}

// csvCell is a text as a spreadsheet shows it: what begins as a formula does
// gets an apostrophe before it.
func csvCell(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r\n＝＋－＠", []rune(s)[0]) {
		return "'" + s
	}
	return s
}

const (
	columnGap   = 3
	leastColumn = 8 // no column is cut off below that
)

// Flush prints the table.
func (t *table) Flush() error {
	var columns []int // their widths
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(columns) {
				columns = append(columns, 0)
			}
			columns[i] = max(columns[i], displayWidth(cell))
		}
	}
	if t.width > 0 {
		fit(columns, t.width)
	}
	var b strings.Builder
	for _, row := range t.rows {
		for i, cell := range row {
			cell = cutOff(cell, columns[i])
			b.WriteString(cell)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", columns[i]-displayWidth(cell)+columnGap))
			}
		}
		b.WriteByte('\n')
	}
	t.rows = nil
	_, err := io.WriteString(t.w, b.String())
	return err
}

// fit narrows columns until they fit the width, as far as they can: the last
// one first, then always the widest.
func fit(columns []int, width int) {
	over := columnGap*(len(columns)-1) - width
	for _, c := range columns {
		over += c
	}
	for ; over > 0; over-- {
		narrow := len(columns) - 1
		if columns[narrow] <= leastColumn {
			for i, c := range columns {
				if c > columns[narrow] {
					narrow = i
				}
			}
		}
		if columns[narrow] <= leastColumn {
			return
		}
		columns[narrow]--
	}
}

// cutOff returns as much of s as fits the width.
func cutOff(s string, width int) string {
	if displayWidth(s) <= width {
		return s
	}
	var b strings.Builder
	n := 1 // the ellipsis
	for _, c := range s {
		if n += runeWidth(c); n > width {
			break
		}
		b.WriteRune(c)
	}
	return b.String() + "…"
}

// displayWidth returns how many cells of a terminal s takes.
func displayWidth(s string) (n int) {
	for _, c := range s {
		n += runeWidth(c)
	}
	return n
}

func runeWidth(c rune) int {
	switch {
	case c < 0x300:
		return 1
	case unicode.In(c, unicode.Mn, unicode.Me, unicode.Cf), c >= 0x1160 && c <= 0x11ff: // drawn over the one before; Hangul, too
		return 0
	}
	switch width.LookupRune(c).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// printDone says what a command has changed: in a sentence to people, on standard
// error, or as JSON to programs.
func (o output) printDone(p *program, sentence string, changed any) error {
	if o.Output == "json" {
		return printJSON(p.stdout, changed)
	}
	_, err := fmt.Fprintln(p.stderr, sentence)
	return err
}

// or returns s, or other if s is empty.
func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// fileOf is what people call the file that made a plan or a key.
func fileOf(madeBy string) string {
	kind, name, _ := strings.Cut(madeBy, ":")
	if kind == "service" {
		return "serverless.yml of " + name
	}
	return name
}

// none is how a sentence says the "-" of a table.
func none(s string) string {
	if s == "-" {
		return "none"
	}
	return s
}

// count returns "1 key", "2 keys".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}
