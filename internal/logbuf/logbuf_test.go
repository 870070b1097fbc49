package logbuf_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"helloapi/internal/logbuf"
)

// A pipe takes a write when the test lets it, and fails as the test says.
type pipe struct {
	written strings.Builder
	may     chan error
}

func (p *pipe) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if err := <-p.may; err != nil {
		return 0, err
	}
	return p.written.Write(b)
}

func text(w io.Writer) slog.Handler {
	return slog.NewTextHandler(w, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
}

func TestWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipe{may: make(chan error)}
		w := logbuf.New(p, text)
		write := func(record string) { // never waits, whatever the pipe does
			if n, err := w.Write([]byte(record)); n != len(record) || err != nil {
				t.Fatalf("wrote %d, %v", n, err)
			}
		}
		write("first\n")
		synctest.Wait() // it is being written
		record := strings.Repeat("x", 1023) + "\n"
		for range logbuf.Size / len(record) {
			write(record)
		}
		if d := w.Dropped(); d != 0 {
			t.Errorf("dropped %d while there was room", d)
		}
		for range 3 {
			write("too much\n")
		}
		if d := w.Dropped(); d != 3 {
			t.Errorf("dropped %d, want 3", d)
		}
		for range 3 { // the first, the rest, the report
			p.may <- nil
		}
		synctest.Wait()
		write("last\n")
		close(p.may)
		w.Close(time.Hour)
		want := "first\n" + strings.Repeat(record, logbuf.Size/len(record)) +
			"level=WARN msg=\"log records were dropped: nobody read them in time\" dropped=3\n" + "last\n"
		if got := p.written.String(); got != want {
			t.Errorf("written %d bytes, want %d; the end is %q", len(got), len(want), got[max(0, len(got)-200):])
		}
		write("after Close\n")
		if d := w.Dropped(); d != 4 {
			t.Errorf("dropped %d after Close, want 4", d)
		}
	})
}

// What can't be written is reported once something can be again.
func TestWriterErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipe{may: make(chan error)}
		w := logbuf.New(p, text)
		for i := range 2 {
			fmt.Fprintf(w, "lost %d\n", i)
			p.may <- errors.New("broken pipe")
			synctest.Wait()
		}
		fmt.Fprintln(w, "written")
		p.may <- nil
		p.may <- errors.New("broken pipe") // the report is lost, and is made again
		synctest.Wait()
		fmt.Fprintln(w, "also written")
		close(p.may)
		w.Close(time.Hour)
		want := "written\nalso written\n" + "level=WARN msg=\"log records were dropped: nobody read them in time\" dropped=2\n"
		if got := p.written.String(); got != want || w.Dropped() != 2 {
			t.Errorf("written %q, want %q; dropped %d", got, want, w.Dropped())
		}
	})
}

// Close waits for a pipe that nobody reads only as long as it may.
func TestWriterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipe{may: make(chan error)}
		w := logbuf.New(p, text)
		fmt.Fprintln(w, "stuck")
		begin := time.Now()
		w.Close(time.Second)
		if d := time.Since(begin); d != time.Second {
			t.Errorf("Close took %v", d)
		}
		close(p.may) // so that the goroutine ends with the test
	})
}

type writes struct{ sizes []int }

func (w *writes) Write(b []byte) (int, error) {
	w.sizes = append(w.sizes, len(b))
	return len(b), nil
}

// A record that comes alone is written at once, and many share a write.
func TestWriterGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := new(writes)
		w := logbuf.New(out, text)
		fmt.Fprintln(w, "alone")
		synctest.Wait()
		if len(out.sizes) != 1 {
			t.Errorf("one record made %d writes", len(out.sizes))
		}
		for range 100 {
			fmt.Fprintln(w, "many")
			time.Sleep(time.Millisecond)
		}
		w.Close(time.Hour)
		if n := len(out.sizes); n > 12 {
			t.Errorf("100 records in 100 milliseconds made %d writes", n)
		}
	})
}
