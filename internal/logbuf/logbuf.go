// Package logbuf keeps a log that nobody reads from stopping the program: a
// pipe that is full blocks whoever writes to it.
package logbuf

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
)

// Size is how many bytes of records may wait to be written. More are dropped.
const Size = 1 << 20

// gather is the time between two writes, for records to share one. One that
// comes alone does not wait.
const gather = 10 * time.Millisecond

// A Writer passes records on to another writer in the background. Its Write
// never waits and never fails. It is safe for concurrent use.
type Writer struct {
	out    io.Writer
	report slog.Handler // writes to out

	mu      sync.Mutex
	pending []byte // at most Size bytes: whole records, each a line
	dropped int64  // records, since the start
	closed  bool   // no more are taken

	wake chan struct{} // holds a value while run has something to do
	done chan struct{} // closed when run has ended
}

// New returns a Writer to out. format returns a handler that writes records to
// a writer, one line each: with it the Writer reports in the log how many were
// dropped.
func New(out io.Writer, format func(io.Writer) slog.Handler) *Writer {
	w := &Writer{out: out, report: format(out), wake: make(chan struct{}, 1), done: make(chan struct{})}
	go w.run()
	return w
}

// Write takes a record, or drops it if too many are waiting.
func (w *Writer) Write(record []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || len(w.pending)+len(record) > Size {
		w.dropped++
	} else {
		w.pending = append(w.pending, record...)
		if len(w.pending) == len(record) { // the first since run took some
			w.wakeUp()
		}
	}
	return len(record), nil
}

func (w *Writer) wakeUp() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Dropped returns how many records were dropped, or could not be written.
func (w *Writer) Dropped() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dropped
}

// Close waits until all records are written, for limit at most: the other
// writer may never take them. Later records are dropped.
func (w *Writer) Close(limit time.Duration) {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.wakeUp()
	select {
	case <-w.done:
	case <-time.After(limit):
	}
}

// run writes the records, until Close.
func (w *Writer) run() {
	defer close(w.done)
	var batch []byte
	var reported int64
	for range w.wake {
		w.mu.Lock()
		batch, w.pending = w.pending, batch[:0]
		dropped, closed := w.dropped, w.closed
		w.mu.Unlock()
		if n, err := w.out.Write(batch); err != nil {
			w.mu.Lock()
			w.dropped += int64(bytes.Count(batch[n:], []byte("\n")))
			w.mu.Unlock()
		} else if dropped > reported {
			r := slog.NewRecord(time.Now(), slog.LevelWarn, "log records were dropped: nobody read them in time", 0)
			r.AddAttrs(slog.Int64("dropped", dropped-reported))
			if w.report.Handle(context.Background(), r) == nil {
				reported = dropped
			}
		}
		if closed {
			return
		}
		time.Sleep(gather)
	}
}
