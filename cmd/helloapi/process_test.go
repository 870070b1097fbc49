package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"helloapi/internal/clock"

	"helloapi/internal/backendtest"
)

// asProgram is set in the environment of a test binary that is to be the
// program itself: so tests run real processes, with the race detector on.
const asProgram = "HELLOAPI_TEST_AS_PROGRAM"

// clockOffset is how far the clock of such a process is off, as "-24h".
const clockOffset = "HELLOAPI_TEST_CLOCK_OFFSET"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		clock.Offset, _ = time.ParseDuration(os.Getenv(clockOffset))
		main()
		return
	}
	os.Exit(m.Run())
}

// A process is a `helloapi serve` under test.
type process struct {
	cmd         *exec.Cmd
	addr, admin string // of its listeners
	stdout      *backendtest.Buffer
	stderr      *backendtest.Buffer
	exited      chan error
	stopOnce    sync.Once
}

// start runs `helloapi serve` with the environment env, waits until it serves,
// and kills it at the end of the test.
func start(t testing.TB, dir string, env ...string) *process {
	t.Helper()
	p := launch(t, dir, env...)
	p.awaitServing(t)
	return p
}

// awaitServing waits until the process serves.
func (p *process) awaitServing(t testing.TB) {
	t.Helper()
	serving := regexp.MustCompile(`msg=serving addr=(\S+) (?:\S+ )*admin_addr=(\S+)`)
	deadline := time.Now().Add(30 * time.Second)
	for {
		if m := serving.FindStringSubmatch(p.stderr.String()); m != nil {
			p.addr, p.admin = m[1], m[2]
			return
		}
		select {
		case err := <-p.exited:
			t.Fatalf("serve ended: %v\n%s", err, p.stderr)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("serve does not begin:\n%s", p.stderr)
		}
	}
}

// launch runs `helloapi serve` and does not wait for anything.
func launch(t testing.TB, dir string, env ...string) *process {
	t.Helper()
	return launchCommand(t, dir, exec.Command(executable(t), "serve"), env...)
}

// executable is the file to run for the program itself.
func executable(t testing.TB) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return self
}

// launchCommand runs cmd, which is to end in the program. Standard error is
// kept unless cmd has one.
func launchCommand(t testing.TB, dir string, cmd *exec.Cmd, env ...string) *process {
	t.Helper()
	p := &process{cmd: cmd, stdout: new(backendtest.Buffer), stderr: new(backendtest.Buffer), exited: make(chan error, 1)}
	p.cmd.Dir = dir
	p.cmd.Stdout = p.stdout
	if p.cmd.Stderr == nil {
		p.cmd.Stderr = p.stderr
	}
	p.cmd.Env = append([]string{asProgram + "=1", "PATH=" + os.Getenv("PATH"), "ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0"}, env...)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.exited <- p.cmd.Wait() }()
	t.Cleanup(func() {
		p.stopOnce.Do(func() {
			_ = p.cmd.Process.Kill()
			<-p.exited
		})
		for _, out := range []*backendtest.Buffer{p.stdout, p.stderr} {
			if s := out.String(); strings.Contains(s, "DATA RACE") || strings.Contains(s, "panic:") {
				t.Errorf("process:\n%s", s)
			}
		}
		if m := keyValue.FindString(p.stderr.String() + p.stdout.String()); m != "" {
			t.Errorf("what is logged has a key's value: %.12s…", m)
		}
	})
	return p
}

var keyValue = regexp.MustCompile(`hk_[0-9A-Za-z]{38}`)

// keys returns the values of the keys that the process made when it started, in
// their order. Where no person sees standard output they are in a file.
func (p *process) keys(t testing.TB) (values []string) {
	t.Helper()
	for _, dir := range []string{".", "data"} {
		files, err := filepath.Glob(filepath.Join(p.cmd.Dir, dir, "*.keys-*.csv"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, keyValue.FindAllString(string(b), -1)...)
		}
	}
	if len(values) == 0 {
		t.Fatalf("no file of keys:\n%s", p.stderr)
	}
	return values
}

// stop tells the process to stop, and returns how it ended.
func (p *process) stop(t testing.TB) error {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	return p.wait(t)
}

func (p *process) wait(t testing.TB) (err error) {
	t.Helper()
	p.stopOnce.Do(func() {
		select {
		case err = <-p.exited:
		case <-time.After(40 * time.Second):
			_ = p.cmd.Process.Kill()
			err = errors.Join(errors.New("did not end by itself"), <-p.exited)
		}
	})
	return err
}

// metric returns the value of a metric of the process, with its labels in the
// name.
func (p *process) metric(t testing.TB, name string) string {
	t.Helper()
	a := get(t, "http://"+p.admin+"/metrics", "")
	lines := bufio.NewScanner(strings.NewReader(a.body))
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return v
		}
	}
	return ""
}

// helloapi runs a command in this process and returns what it prints.
func helloapi(t testing.TB, env map[string]string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var out, errOut bytes.Buffer
	err = run(ctx, args, func(k string) string { return env[k] }, strings.NewReader(""), &out, &errOut)
	return out.String(), errOut.String(), err
}

// must runs a command that has to succeed, and returns its standard output
// without the newline.
func must(t testing.TB, url string, args ...string) string {
	t.Helper()
	out, _, err := helloapi(t, map[string]string{"DATABASE_URL": url}, args...)
	if err != nil {
		t.Fatalf("helloapi %s: %v", strings.Join(args, " "), err)
	}
	return strings.TrimSuffix(out, "\n")
}
