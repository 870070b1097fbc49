package countfile

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
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
	// AddCounts adds the counts to the greetings and puts down next, in one
	// transaction. prev is what the import put down before, nil for its first
	// rows. It fails with ErrConflict, and does nothing, if that is not what is
	// there: another import is at the same rows. For first rows, that is if any
	// import is there that began with the same row and is not among known.
	AddCounts(ctx context.Context, counts []hello.Count, prev *Progress, next Progress, known []string) error

	// ReplaceCounts sets the counts of the names.
	ReplaceCounts(ctx context.Context, counts []hello.Count) error

	// Imports returns what was put down of the imports that began with a row.
	Imports(ctx context.Context, first Digest) ([]Progress, error)
}

// ErrConflict says that another import takes, or took, the same rows.
var ErrConflict = errors.New("another import of the same rows is under way, or was until just now")

// A Digest is the SHA-256 over rows.
type Digest [sha256.Size]byte

// Progress is how far an import is. It is known by the rows that it took, so
// that a file which is renamed, compressed, or corrected further on, is still
// the same.
type Progress struct {
	ID     string
	First  Digest // over the first row
	Digest Digest // over all rows taken
	Taken  int64  // rows
	Done   bool   // there were no more
	At     time.Time
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

func (d *digester) sum() (s Digest) {
	d.h.Sum(s[:0])
	return s
}

// How says how to import.
type How struct {
	Options
	Replace  bool  // set the counts; else add to those that are there
	FromLine int64 // take no line before, and all from there, whatever was taken before; 0: see Import

	Batch int // rows that are written in one transaction; 0: 10,000

	// Progress, if not nil, is called now and then with what was read.
	Progress func(rows, bytes int64)
}

// A Result is what an import did. It is good also with an error.
type Result struct {
	Taken    int64     // rows
	Names    int64     // written, a name in several batches as often
	Before   int64     // rows that an interrupted import had taken, and this one went on from
	NextLine int64     // the first line that was not taken; 0 after all
	DoneAt   time.Time // when an earlier import took all of the file; this one then did nothing
}

// Import reads a file that open opens, and writes its counts to the store.
// Where it replaces counts, a name has that of its last row. Where it adds, no
// row is counted twice: an import that was interrupted goes on where it stopped
// when it is done again, and one that took all is not done again. For that,
// open may be called twice; if it can't be, it returns ErrOnce then.
//
// If it fails with *LineError all rows before that line were taken, and none
// after.
func Import(ctx context.Context, store Store, open func() (io.Reader, error), how How) (Result, error) {
	im := &importer{store: store, how: how, open: open}
	if im.how.Batch == 0 {
		im.how.Batch = defaultBatch
	}
	err := im.run(ctx)
	return im.Result, err
}

// ErrOnce says that a file can be read once only.
var ErrOnce = errors.New("an import that begins with the same row was made before, and from standard input there is no telling where it stopped: name the file, or say --from-line N")

var errChanged = errors.New("the file was changed while it was read: import it again")

// An EditedError says that a file can't be told to be the one whose import was
// interrupted.
type EditedError struct{ Taken int64 }

func (e *EditedError) Error() string {
	return fmt.Sprintf("an import of a file that begins with the same row was interrupted after %d rows, and those are not the same in this file: "+
		"if it is another one, or was changed there, say which is the first line to take: --from-line N", e.Taken)
}

// An importer is one import.
type importer struct {
	Result
	store Store
	how   How
	open  func() (io.Reader, error)

	digest *digester
	prev   *Progress // put down last, by this import or the one it goes on with
	known  []string  // IDs of imports that began with the same row

	batch []hello.Count
	line  int64 // of the first row in batch
}

func (im *importer) run(ctx context.Context) error {
	rows, err := im.reader()
	if err != nil {
		return err
	}
	row, err := im.from(rows)
	if err == nil && !im.how.Replace {
		d := newDigester()
		d.add(row.Count)
		candidates, err := im.store.Imports(ctx, d.first)
		if err != nil {
			return err
		}
		for _, p := range candidates {
			im.known = append(im.known, p.ID)
		}
		if len(candidates) > 0 && im.how.FromLine == 0 {
			if im.prev, err = im.match(ctx, candidates); err != nil {
				return err
			}
			if im.prev != nil && im.prev.Done {
				im.DoneAt = im.prev.At
				return nil
			}
			if rows, err = im.reader(); err != nil {
				return err
			}
			if row, err = im.from(rows); err != nil {
				return errChanged
			}
		}
	}
	return im.write(ctx, rows, row, err)
}

// reader reads the file from its beginning.
func (im *importer) reader() (*Reader, error) {
	in, err := im.open()
	if err != nil {
		return nil, err
	}
	return NewReader(in, im.how.Options)
}

// from returns the first row to take.
func (im *importer) from(rows *Reader) (Row, error) {
	for {
		row, err := rows.Next()
		if err != nil || row.Line >= im.how.FromLine {
			return row, err
		}
	}
}

// match finds the import that took the rows of this file up to one, or all.
func (im *importer) match(ctx context.Context, candidates []Progress) (*Progress, error) {
	var most, interrupted int64
	for _, p := range candidates {
		most = max(most, p.Taken)
		if !p.Done {
			interrupted = max(interrupted, p.Taken)
		}
	}
	rows, err := im.reader()
	if err != nil {
		return nil, err
	}
	d := newDigester()
	var found, all *Progress // all: if the file ends here
	for d.n <= most && ctx.Err() == nil {
		row, err := rows.Next()
		if errors.Is(err, io.EOF) && all != nil {
			return all, nil
		}
		if err != nil { // which is met again
			break
		}
		all = nil
		d.add(row.Count)
		for _, p := range candidates {
			if p.Taken != d.n || p.Digest != d.sum() {
				continue
			}
			if p.Done {
				all = &p
			} else {
				found = &p
			}
		}
		im.tell(d.n, rows)
	}
	if found == nil && interrupted > 0 && ctx.Err() == nil {
		return nil, &EditedError{interrupted}
	}
	return found, ctx.Err()
}

// write writes the rows, of which row and err came first.
func (im *importer) write(ctx context.Context, rows *Reader, row Row, err error) error {
	im.digest = newDigester()
	for ; err == nil; row, err = rows.Next() {
		if im.digest.n%1000 == 0 && ctx.Err() != nil {
			if len(im.batch) == 0 {
				im.line = row.Line
			}
			im.NextLine = im.line
			return ctx.Err()
		}
		im.digest.add(row.Count)
		im.tell(im.digest.n, rows)
		if im.prev != nil && im.digest.n <= im.prev.Taken {
			im.Before = im.digest.n
			if im.Before == im.prev.Taken && im.digest.sum() != im.prev.Digest {
				return errChanged
			}
			continue
		}
		if len(im.batch) == 0 {
			im.line = row.Line
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
// used. What stands before it is written.
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
	counts, err := im.merge()
	switch {
	case err != nil:
	case im.how.Replace:
		err = im.store.ReplaceCounts(ctx, counts)
	default:
		next := Progress{ID: rand.Text(), First: im.digest.first, Digest: im.digest.sum(), Taken: im.digest.n, Done: done}
		if im.prev != nil {
			next.ID, next.First = im.prev.ID, im.prev.First
		}
		if err = im.store.AddCounts(ctx, counts, im.prev, next, im.known); err == nil {
			im.prev = &next
		}
	}
	if err != nil {
		im.NextLine = im.line
		return err
	}
	im.Taken += rows
	im.Names += int64(len(counts))
	im.batch = im.batch[:0]
	return nil
}

// merge returns the counts of the batch, a name once and sorted, so that
// nobody who writes some of them too waits for each other.
func (im *importer) merge() ([]hello.Count, error) {
	// Stable: of equal names the last row counts.
	slices.SortStableFunc(im.batch, func(a, b hello.Count) int { return strings.Compare(a.Name, b.Name) })
	counts := make([]hello.Count, 0, len(im.batch))
	for _, c := range im.batch {
		last := len(counts) - 1
		switch {
		case last < 0 || counts[last].Name != c.Name:
			counts = append(counts, c)
		case im.how.Replace:
			counts[last].Count = c.Count
		case counts[last].Count > math.MaxInt64-c.Count:
			return nil, fmt.Errorf("the counts of %q add up to more than can be stored", c.Name)
		default:
			counts[last].Count += c.Count
		}
	}
	return counts, nil
}

// tell reports progress, not at every row.
func (im *importer) tell(rows int64, r *Reader) {
	if im.how.Progress != nil && rows%1000 == 0 {
		im.how.Progress(rows, r.Offset())
	}
}
