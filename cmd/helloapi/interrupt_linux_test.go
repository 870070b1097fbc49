package main

import (
	"database/sql"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"helloapi/internal/backendtest"
)

// interrupt sends the signal of Ctrl-C to a command, which ends by itself then.
// It returns what it said.
func (p *process) interrupt(t testing.TB) string {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := p.wait(t); err == nil || p.cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("%q, interrupted: %v", p.cmd.Args, err)
	}
	return p.stderr.String()
}

// An import of counts that is interrupted says where it stopped, in one line,
// and that is true. Imported again it continues there.
func TestImportGreetingsInterrupted(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := backendtest.SQL(t, url)
		sum := func() (n int) {
			if err := db.QueryRow(`SELECT coalesce(sum(count), 0) FROM greetings`).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		for _, test := range []struct{ how, next string }{
			{"--add", "import the file again, it continues there"},
			{"--replace", "import all the files again"},
		} {
			backendtest.Exec(t, url, `DELETE FROM greetings`)
			// A file that never ends, and each line of which counts one.
			fifo := filepath.Join(t.TempDir(), "counts.csv")
			if err := syscall.Mkfifo(fifo, 0o600); err != nil {
				t.Fatal(err)
			}
			written := new(strings.Builder)
			done := make(chan error, 1)
			go func() {
				f, err := os.OpenFile(fifo, os.O_WRONLY, 0)
				if err != nil {
					done <- err
					return
				}
				defer f.Close()
				both := io.MultiWriter(written, f)
				_, err = io.WriteString(both, "name,count\n")
				for i := 0; err == nil; i += 100 {
					var lines strings.Builder
					for n := range 100 {
						fmt.Fprintf(&lines, "name%d,1\n", i+n)
					}
					_, err = io.WriteString(both, lines.String())
				}
				done <- nil // nobody reads it any more
			}()
			p := launchCommand(t, t.TempDir(), exec.Command(executable(t), "import", "greetings", fifo, test.how), "DATABASE_URL="+url)
			waitFor(t, "the first batch", func() bool { return sum() > 0 })
			said := p.interrupt(t)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			m := regexp.MustCompile(`^helloapi: ` + fifo + `: interrupted: the lines before line (\d+) are imported: ` + test.next + "\n$").FindStringSubmatch(said)
			if m == nil {
				t.Fatalf("%s: %s", test.how, said)
			}
			line, _ := strconv.Atoi(m[1]) // of digits
			if got := sum(); got != line-2 {
				t.Errorf("%s: %d lines are imported, said %s", test.how, got, said)
			}
			all := write(t, "counts.csv", written.String()[:strings.LastIndexByte(written.String(), '\n')+1])
			_, stderr, err := helloapi(t, map[string]string{"DATABASE_URL": url}, "import", "greetings", all, test.how, "--yes")
			if lines := strings.Count(written.String(), "\n") - 1; err != nil || sum() != lines {
				t.Errorf("%s again: %v, %s; %d of %d", test.how, err, stderr, sum(), lines)
			}
		}
	})
}

// An import of keys that is interrupted changes nothing and says so, in one
// line: while it reads, and while it waits for the database.
func TestImportKeysInterrupted(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		const want = "helloapi: interrupted: nothing was changed\n"
		listing := "name,key\nann,value-of-ann-0123456789\n"
		begin := func(stdin io.Reader, args ...string) *process {
			cmd := exec.Command(executable(t), args...)
			cmd.Stdin = stdin
			return launchCommand(t, t.TempDir(), cmd, "DATABASE_URL="+url)
		}
		for _, args := range [][]string{{"import", "keys", "-", "--plan", "free"}, {"apply", "-f", "-"}} {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			p := begin(r, args...)
			r.Close()
			// More than a pipe holds: it has been read when all is written.
			if _, err := io.WriteString(w, strings.Repeat("#", 1<<20)); err != nil {
				t.Fatal(err)
			}
			if said := p.interrupt(t); said != want {
				t.Errorf("%q reading: %s", args, said)
			}
			w.Close()
		}

		db := backendtest.SQL(t, url)
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback() }()
		lock := `LOCK TABLE api_keys IN EXCLUSIVE MODE`
		if strings.HasPrefix(url, "sqlite:") {
			lock = `UPDATE api_keys SET name = name`
		}
		if _, err := tx.Exec(lock); err != nil {
			t.Fatal(err)
		}
		p := begin(nil, "import", "keys", write(t, "keys.csv", listing), "--plan", "free")
		waitFor(t, "the import to wait", func() bool { return waits(t, p, db, url) })
		if said := p.interrupt(t); said != want {
			t.Errorf("waiting: %s", said)
		}
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
		if keys := listKeys(t, url); len(keys) != 0 {
			t.Errorf("keys: %v", keys)
		}
	})
}

// waits reports whether a process waits for a lock of the database or, on SQLite,
// is about to: it has opened it.
func waits(t testing.TB, p *process, db *sql.DB, url string) bool {
	t.Helper()
	if path, ok := strings.CutPrefix(url, "sqlite:"); ok {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.cmd.Process.Pid))
		for _, f := range files {
			if to, err := os.Readlink(f); err == nil && to == path {
				return true
			}
		}
		return false
	}
	var n int
	err := db.QueryRow(`SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}
