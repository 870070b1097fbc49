package main

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"helloapi/internal/backendtest"
	"helloapi/internal/logbuf"
)

// startPiped starts a process whose log is read only when the test reads it,
// through the file that is returned.
func startPiped(t *testing.T, env ...string) (*process, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	cmd := exec.Command(executable(t), "serve")
	cmd.Stderr = w
	p := launchCommand(t, t.TempDir(), cmd, env...)
	w.Close()
	readUntil(t, p, r, "msg=serving")
	p.awaitServing(t)
	return p, r
}

// readUntil reads the log of the process up to what it is to hold.
func readUntil(t *testing.T, p *process, r *os.File, want string) {
	t.Helper()
	if err := r.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 32<<10)
	for tail := ""; !strings.Contains(tail, want); {
		n, err := r.Read(buf)
		if err != nil {
			t.Fatalf("no %q in the log: %v", want, err)
		}
		_, _ = p.stderr.Write(buf[:n])
		tail = tail[max(0, len(tail)-len(want)):] + string(buf[:n])
	}
}

// A log that nobody reads holds no answer and no probe, and does not keep the
// process from stopping.
func TestLogNobodyReads(t *testing.T) {
	t.Parallel()
	db := backendtest.SQLite(t)
	must(t, db, "migrate")
	backendtest.Exec(t, db, `INSERT INTO plans (name) VALUES ('unlimited')`)
	key := must(t, db, "keys", "create", "all", "--plan", "unlimited")
	p, log := startPiped(t, "DATABASE_URL="+db)
	flood := func(requests int) {
		t.Helper()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for range requests / 20 {
					if a := get(t, "http://"+p.addr+"/hello", key); a.status != http.StatusOK {
						t.Errorf("answered %d %s", a.status, a.body)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	const record = 150 // bytes, at least
	flood((logbuf.Size + 64<<10) / record)
	dropped, err := strconv.ParseFloat(p.metric(t, "helloapi_log_dropped_total"), 64)
	if err != nil || dropped == 0 {
		t.Errorf("%v records were dropped (%v): the test shows nothing", dropped, err)
	}
	if a := get(t, "http://"+p.admin+"/readyz", ""); a.status != http.StatusOK {
		t.Errorf("ready: %d %s", a.status, a.body)
	}
	readUntil(t, p, log, "log records were dropped")

	flood(64 << 10 / record) // nobody reads again
	begin := time.Now()
	if err := p.stop(t); err != nil {
		t.Errorf("stop: %v", err)
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("it took %v to stop", d)
	}
}

// An error is reported by who reads it, and else the process ends all the same.
func TestErrorNobodyReads(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	fd := int(w.Fd())
	if err := syscall.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for full := make([]byte, 4096); err == nil; {
		_, err = syscall.Write(fd, full)
	}
	if err := syscall.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(executable(t), "serve")
	cmd.Stderr = w
	p := launchCommand(t, t.TempDir(), cmd, "MAX_IN_FLIGHT=0")
	select {
	case <-p.exited:
		p.exited <- nil
		if code := cmd.ProcessState.ExitCode(); code != 1 {
			t.Errorf("exit status %d, want 1", code)
		}
	case <-time.After(10 * time.Second):
		t.Error("the process does not end")
	}
}

// Nobody listens to the log any more: that does not end the process.
func TestLogClosed(t *testing.T) {
	t.Parallel()
	p, log := startPiped(t)
	log.Close()
	key := p.keys(t)[0]
	for range 3 {
		if a := get(t, "http://"+p.addr+"/hello", key); a.status != http.StatusOK {
			t.Fatalf("answered %d %s", a.status, a.body)
		}
	}
	waitFor(t, "lost records to be counted", func() bool { return p.metric(t, "helloapi_log_dropped_total") != "0" })
	if err := p.stop(t); err != nil {
		t.Errorf("stop: %v", err)
	}
}

// SIGHUP stops the process as SIGTERM does: every request gets its answer and
// its charge is in the ledger. "stopped" is the last word, said when the stores
// are closed.
func TestHangUp(t *testing.T) {
	t.Parallel()
	// Where the tests run under nohup, their processes would ignore SIGHUP too.
	hangUps := make(chan os.Signal, 1)
	signal.Notify(hangUps, syscall.SIGHUP)
	defer signal.Stop(hangUps)
	db := backendtest.Postgres(t)
	key := must(t, db, "keys", "create", "all", "--plan", "paid")
	p := start(t, t.TempDir(), "DATABASE_URL="+db, "REDIS_URL="+backendtest.RedisURL(t))
	unlock := backendtest.LockGreetings(t, db)
	var answers []answer
	done := make(chan bool)
	go func() {
		defer close(done)
		answers = storm(t, []*process{p}, 5, key, "/hello?name=brooks")
	}()
	waitFor(t, "5 requests in flight", func() bool {
		return sum(t, []*process{p}, `helloapi_store_waiting{store="greetings"}`) == 5
	})
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the process to notice", func() bool { return strings.Contains(p.stderr.String(), "msg=stopping") })
	unlock()
	<-done
	numbers(t, answers) // all are greetings
	if err := p.wait(t); err != nil {
		t.Errorf("serve ended with %v:\n%s", err, p.stderr)
	}
	log := strings.TrimSpace(p.stderr.String())
	if last := log[strings.LastIndexByte(log, '\n')+1:]; !strings.Contains(last, "msg=stopped") {
		t.Errorf("the last record is %q, want stopped", last)
	}
	var used int
	if err := backendtest.SQL(t, db).QueryRow(`SELECT sum(charged) FROM usage`).Scan(&used); err != nil || used != 5 {
		t.Errorf("the ledger has %d (%v), want 5", used, err)
	}
}

// Who started it under nohup wants it to go on.
func TestNoHangUp(t *testing.T) {
	t.Parallel()
	p := launchCommand(t, t.TempDir(), exec.Command("sh", "-c", `trap "" HUP; exec "$0" serve`, executable(t)))
	p.awaitServing(t)
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	if a := get(t, "http://"+p.admin+"/readyz", ""); a.status != http.StatusOK || strings.Contains(p.stderr.String(), "msg=stopping") {
		t.Errorf("after SIGHUP: %d\n%s", a.status, p.stderr)
	}
}

// What a command prints goes nowhere: that is an error, and no signal.
func TestOutputClosed(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	cmd := exec.Command(executable(t), "version")
	cmd.Env = append(os.Environ(), asProgram+"=1")
	var stderr strings.Builder
	cmd.Stdout, cmd.Stderr = w, io.Writer(&stderr)
	if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), "broken pipe") {
		t.Errorf("%v: %s", err, stderr.String())
	}
}
