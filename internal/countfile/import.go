package countfile

import (
	"context"
	crand "crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"helloapi/internal/hello"
)

// defaultBatch is how many rows are written in one transaction: enough to be
// quick, few enough to keep nobody waiting who greets meanwhile.
const defaultBatch = 10_000

// A Store is a database that counts are imported to.
type Store interface {
	// AddCounts adds counts[i] to the greetings of names[i] and records next, with its
	// new prefixes, in one transaction. prev is what the import recorded
	// before, nil for its first rows. It fails with ErrConflict, and does
	// nothing, if that is no longer so: another import took the same rows. For
	// first rows, that is if there is an import that began with the same row
	// and is not among seenIDs.
	AddCounts(ctx context.Context, names []string, counts []int64, prev *Progress, next Progress, seenIDs []string) error

	// ReplaceCounts sets the counts of the names, or adds them to what the same
	// run has set.
	ReplaceCounts(ctx context.Context, names []string, counts []int64, run int64) error

	// Imports returns what was recorded of the imports that began with a row.
	Imports(ctx context.Context, first Digest) ([]Progress, error)
}

// ErrConflict says that another import takes, or took, the same rows.
var ErrConflict = errors.New("another import of the same rows is under way, or was until just now")

// A Digest is the SHA-256 over rows.
type Digest [sha256.Size]byte

// Progress is how far an import is. It is known by the rows that it took, so
// that a file which is renamed, compressed, appended to, or corrected further
// on, is still the same.
type Progress struct {
	ID     string
	First  Digest // over the first row
	Digest Digest // over all rows taken
	Taken  int64  // rows
	Done   bool   // there were no more
	At     time.Time

	// Prefixes are digests over the first 1, 2, 4, … rows, and over those of
	// each batch: they find a file that begins alike and differs later.
	Prefixes []Prefix
}

// A Prefix is the digest over the first rows of an import.
type Prefix struct {
	Rows   int64
	Digest Digest
}

// digester computes the Digest over rows, at any row.
type digester struct {
	h     hash.Hash
	buf   []byte
	first Digest
	n     int64
}

func newDigester() *digester { return &digester{h: sha256.New()} }

func (d *digester) add(c hello.Count) {
	d.buf = binary.AppendUvarint(d.buf[:0], uint64(len(c.Name)))
	d.buf = append(d.buf, c.Name...)
	d.buf = binary.AppendUvarint(d.buf, uint64(c.Count))
	d.h.Write(d.buf)
	if d.n++; d.n == 1 {
		d.first = d.sum()
	}
}

func digestOf(row Row) Digest {
	d := newDigester()
	d.add(row.Count)
	return d.first
}

func (d *digester) sum() (s Digest) {
	d.h.Sum(s[:0])
	return s
}

// How says how to import.
type How struct {
	Options
	Replace  bool  // set the counts; else add to those that are there
	Run      int64 // of several files whose counts are set together, not 0; 0: of this file alone
	DryRun   bool  // only look: write nothing
	FromLine int64 // add no line before, and all from there, whatever was added before; 0: see Import

	Batch int // rows that are written in one transaction; 0: 10,000

	// Progress, if not nil, is called now and then with what was read.
	Progress func(rows, bytes int64)
}

// A Result is what an import did. It is good also with an error.
type Result struct {
	Taken    int64     // rows
	Before   int64     // rows that an earlier import had taken, and this one continued after
	NextLine int64     // the first line that was not taken; 0 after all
	DoneAt   time.Time // when earlier imports had taken all of the file; this one then did nothing
}

// Import reads a file that open opens, and writes its counts to the store. The
// counts of a name that is on several lines are summed. Where it adds, no row
// is counted twice: an import that was interrupted continues where it stopped
// when the file is imported again, one that took all takes only what was
// appended since, and a file of which it can't tell how much was taken is
// refused with *OverlapError. For that, open may be called again; if it can't
// be, it returns ErrOnce then.
//
// If it fails with *LineError all rows before that line were taken, and none
// after. When ctx ends it finishes the batch that is being written, if there is
// one, and returns ctx's error.
func Import(ctx context.Context, store Store, open func() (io.Reader, error), how How) (Result, error) {
	im := &importer{store: store, how: how, open: open, digest: newDigester()}
	if im.how.Batch == 0 {
		im.how.Batch = defaultBatch
	}
	if im.how.Run == 0 {
		im.how.Run = NewRun()
	}
	err := im.run(ctx)
	return im.Result, err
}

// NewRun returns the Run of another import.
func NewRun() int64 { return 1 + rand.Int64N(math.MaxInt64) }

// ErrOnce says that a file can be read once only.
var ErrOnce = errors.New("an import that begins with the same row was made before, and standard input can't be read twice to find what is new: name the file, or give the first line to add, --from-line N")

var errChanged = errors.New("the file was changed while it was read: import it again")

// An OverlapError says that rows of the file were added before, and that it is
// not known which.
type OverlapError struct {
	From, To int64 // rows that were added: To or more
	Other    Progress
}

func (e *OverlapError) Error() string {
	rows := fmt.Sprintf("row %d of this file is", e.From)
	if e.To > e.From {
		rows = fmt.Sprintf("rows %d to %d of this file are", e.From, e.To)
	}
	return fmt.Sprintf("%s also what an import of %d rows on %s begins with, whose other rows differ: adding the file could count rows twice. "+
		"If this is another file, add all of it with --from-line 1; if it is the same and was changed, give the first line to add, --from-line N",
		rows, e.Other.Taken, e.Other.At.UTC().Format(time.RFC3339))
}

// An importer is one import.
type importer struct {
	Result
	store Store
	how   How
	open  func() (io.Reader, error)

	digest   *digester
	prefixes []Prefix  // not recorded yet
	prev     *Progress // recorded last, by this import or the one it continues
	seenIDs  []string  // of imports that began with the same row

	batch []hello.Count
	line  int64 // of the first row in batch
}

func (im *importer) run(ctx context.Context) error {
	rows, row, err := im.begin()
	if err != nil || im.how.Replace {
		return im.write(ctx, rows, row, err)
	}
	imports, err := im.store.Imports(ctx, digestOf(row))
	if err != nil {
		return err
	}
	for _, p := range imports {
		im.seenIDs = append(im.seenIDs, p.ID)
	}
	if len(imports) == 0 || im.how.FromLine > 0 {
		return im.write(ctx, rows, row, nil)
	}
	m, err := im.match(ctx, imports, 0)
	switch {
	case err != nil:
		return err
	case m.end:
		im.DoneAt = m.of.At
		return nil
	case !m.whole:
		return &OverlapError{1, m.rows, *m.of}
	}
	im.prev = m.of
	if rows, row, err = im.begin(); err != nil {
		return err
	}
	for err == nil && im.Before < im.prev.Taken {
		im.digest.add(row.Count)
		im.Before++
		if err := im.tell(ctx, im.Before, rows); err != nil {
			return err
		}
		row, err = rows.Next()
	}
	if im.digest.sum() != im.prev.Digest {
		return errChanged
	}
	if err == nil {
		if err := im.added(ctx, row); err != nil {
			return err
		}
	}
	return im.write(ctx, rows, row, err)
}

// added returns an *OverlapError if the rest of the file, which begins with
// row, was imported by itself.
func (im *importer) added(ctx context.Context, row Row) error {
	imports, err := im.store.Imports(ctx, digestOf(row))
	if err != nil {
		return err
	}
	// Where rows repeat, the import that is continued may begin like its rest.
	imports = slices.DeleteFunc(imports, func(p Progress) bool { return p.ID == im.prev.ID })
	if len(imports) == 0 {
		return nil
	}
	m, err := im.match(ctx, imports, im.Before)
	if err == nil && (m.whole || m.end) {
		err = &OverlapError{im.Before + 1, im.Before + m.rows, *m.of}
	}
	return err
}

// begin reads the file from its beginning, and returns the first row to take.
func (im *importer) begin() (*Reader, Row, error) {
	in, err := im.open()
	if err != nil {
		return nil, Row{}, err
	}
	rows, err := NewReader(in, im.how.Options)
	if err != nil {
		return nil, Row{}, err
	}
	for {
		row, err := rows.Next()
		if err != nil || row.Line >= im.how.FromLine {
			return rows, row, err
		}
	}
}

// A match is what the rows of a file have in common with an import.
type match struct {
	of    *Progress
	rows  int64
	whole bool // of took these rows and no others
	end   bool // the file ends with them
}

// match returns the longest match of the file's rows after the first skip with
// any of the imports, which begin with the row that comes then.
func (im *importer) match(ctx context.Context, imports []Progress, skip int64) (m match, err error) {
	prefixes, most := map[Prefix]match{}, int64(0)
	for i := range imports {
		for _, x := range imports[i].Prefixes {
			prefixes[x] = match{of: &imports[i], rows: x.Rows}
		}
	}
	for i, p := range imports {
		prefixes[Prefix{p.Taken, p.Digest}] = match{of: &imports[i], rows: p.Taken, whole: true}
		most = max(most, p.Taken)
	}
	rows, row, err := im.begin()
	for n := int64(0); err == nil && n < skip; n++ {
		row, err = rows.Next()
	}
	d := newDigester()
	for err == nil && d.n < most {
		d.add(row.Count)
		if err := im.tell(ctx, skip+d.n, rows); err != nil {
			return m, err
		}
		if longer, ok := prefixes[Prefix{d.n, d.sum()}]; ok {
			m = longer
		}
		row, err = rows.Next()
	}
	switch {
	case d.n == 0 && err != nil:
		return m, err
	case m.of == nil: // even the first row is another one now
		return m, errChanged
	}
	m.end = errors.Is(err, io.EOF) && m.rows == d.n
	return m, nil // an error further on is met again
}

// write writes the rows, of which row and err came first.
func (im *importer) write(ctx context.Context, rows *Reader, row Row, err error) error {
	if rows == nil {
		return err
	}
	for ; err == nil; row, err = rows.Next() {
		if len(im.batch) == 0 {
			im.line = row.Line
		}
		im.digest.add(row.Count)
		if n := im.digest.n; n&(n-1) == 0 {
			im.prefixes = append(im.prefixes, Prefix{n, im.digest.sum()})
		}
		if err := im.tell(ctx, im.digest.n, rows); err != nil {
			im.NextLine = im.line
			return err
		}
		im.batch = append(im.batch, row.Count)
		if len(im.batch) == im.how.Batch {
			if err := im.flush(ctx, false); err != nil {
				return err
			}
		}
	}
	return im.stop(ctx, err)
}

// stop ends the import, at the end of the file or at a line that can't be
// used. The rows before it are written.
func (im *importer) stop(ctx context.Context, err error) error {
	end := errors.Is(err, io.EOF)
	if ferr := im.flush(ctx, end); ferr != nil {
		return ferr
	}
	if end {
		return nil
	}
	var bad *LineError
	if errors.As(err, &bad) {
		im.NextLine = bad.Line
	}
	return err
}

// flush writes the batch.
func (im *importer) flush(ctx context.Context, done bool) (err error) {
	if len(im.batch) == 0 && (im.how.Replace || im.prev == nil || !done) {
		return nil
	}
	rows := int64(len(im.batch))
	ctx = context.WithoutCancel(ctx) // an interruption does not leave it unknown whether the batch is written
	names, counts, err := im.merge()
	switch {
	case err != nil || im.how.DryRun:
	case im.how.Replace:
		err = im.store.ReplaceCounts(ctx, names, counts, im.how.Run)
	default:
		next := Progress{ID: crand.Text(), First: im.digest.first, Digest: im.digest.sum(), Taken: im.digest.n, Done: done}
		if im.prev != nil {
			next.ID, next.First = im.prev.ID, im.prev.First
		}
		next.Prefixes = append(im.prefixes, Prefix{next.Taken, next.Digest})
		if err = im.store.AddCounts(ctx, names, counts, im.prev, next, im.seenIDs); err == nil {
			im.prev, im.prefixes = &next, nil
		}
	}
	if err != nil {
		im.NextLine = im.line
		return err
	}
	im.Taken += rows
	im.batch = im.batch[:0]
	return nil
}

// merge returns the counts of the batch, a name once with its sum, sorted so
// that concurrent writers cannot deadlock.
func (im *importer) merge() (names []string, counts []int64, err error) {
	slices.SortFunc(im.batch, func(a, b hello.Count) int { return strings.Compare(a.Name, b.Name) })
	for _, c := range im.batch {
		last := len(names) - 1
		switch {
		case last < 0 || names[last] != c.Name:
			names, counts = append(names, c.Name), append(counts, c.Count)
		case counts[last] > math.MaxInt64-c.Count:
			return nil, nil, fmt.Errorf("the counts of %q add up to more than can be stored", c.Name)
		default:
			counts[last] += c.Count
		}
	}
	return names, counts, nil
}

// tell reports progress, not at every row. It fails when ctx has ended.
func (im *importer) tell(ctx context.Context, rows int64, r *Reader) error {
	if rows%1000 != 0 {
		return nil
	}
	if im.how.Progress != nil {
		im.how.Progress(rows, r.Offset())
	}
	return ctx.Err()
}
