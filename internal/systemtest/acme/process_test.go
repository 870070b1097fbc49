package acme

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"helloapi/internal/backendtest"
	"helloapi/internal/certs"
)

// program builds the program once, with the race detector, and returns where
// it is.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "helloapi-acme")
	if err != nil {
		return "", err
	}
	cleanUp = func() { os.RemoveAll(dir) }
	path := filepath.Join(dir, "helloapi")
	build := exec.Command("go", "build", "-race", "-o", path, "./cmd/helloapi")
	build.Dir = "../../.."
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
})

// cleanUp is called when all tests have ended.
var cleanUp = func() {}

// A process is a `helloapi serve` with TLS.
type process struct {
	cmd              *exec.Cmd
	tls, http, admin string // addresses
	stdout, log      *backendtest.Buffer
	exited           chan error
	end              sync.Once
}

// run starts a process for hello.test, behind the balancers.
func (c *cluster) run(t *testing.T, dir string, env ...string) *process {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	server, _ := c.ca.files(t)
	p := &process{cmd: exec.Command(path, "serve"), stdout: new(backendtest.Buffer), log: new(backendtest.Buffer), exited: make(chan error, 1)}
	p.cmd.Dir = dir
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.log
	p.cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "TLS_DOMAINS=hello.test", "ACME_DIRECTORY_URL=" + c.ca.directory(), "ACME_CA_FILE=" + server,
		"TLS_ADDR=127.0.0.1:0", "HTTP_ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0",
	}, env...)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.exited <- p.cmd.Wait() }()
	t.Cleanup(func() {
		p.kill()
		for _, bad := range []string{"DATA RACE", "panic:", "PRIVATE KEY", sealKey} {
			if strings.Contains(p.log.String(), bad) {
				t.Errorf("a process logged %s:\n%s", bad, p.log)
			}
		}
	})
	serving := regexp.MustCompile(`msg=serving tls_addr=(\S+) http_addr=(\S+) admin_addr=(\S+)`)
	waitFor(t, "the process to serve", func() bool {
		select {
		case err := <-p.exited:
			p.exited <- err
			t.Fatalf("the process ended: %v\n%s", err, p.log)
		default:
		}
		m := serving.FindStringSubmatch(p.log.String())
		if m == nil {
			return false
		}
		p.tls, p.http, p.admin = m[1], m[2], m[3]
		return true
	})
	c.tls.add(p.tls)
	c.http.add(p.http)
	return p
}

// kill ends the process at once.
func (p *process) kill() {
	p.end.Do(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
	})
}

// stop has it end by itself.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.end.Do(func() {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		select {
		case err := <-p.exited:
			if err != nil {
				t.Errorf("exit: %v\n%s", err, p.log)
			}
		case <-time.After(40 * time.Second):
			t.Error("the process did not end")
			_ = p.cmd.Process.Kill()
			<-p.exited
		}
	})
}

// leave takes the process out of the balancers.
func (c *cluster) leave(p *process) {
	c.tls.remove(p.tls)
	c.http.remove(p.http)
}

// ask sends a GET to the internal listener of a process.
func (p *process) ask(t *testing.T, path string) (status int, body string) {
	t.Helper()
	resp, err := http.Get("http://" + p.admin + path)
	if err != nil {
		t.Errorf("GET %s: %v", path, err)
		return 0, ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("GET %s: %v", path, err)
	}
	return resp.StatusCode, string(b)
}

// curl runs curl for hello.test, as from outside.
func (c *cluster) curl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	_, root := c.ca.files(t)
	args = append([]string{
		"-sS", "--max-time", "20", "--cacert", root,
		"--connect-to", "hello.test:443:127.0.0.1:" + fmt.Sprint(c.tls.port()),
		"--connect-to", "hello.test:80:127.0.0.1:" + fmt.Sprint(c.http.port()),
	}, args...)
	out, err := exec.CommandContext(t.Context(), "curl", args...).CombinedOutput()
	return string(out), err
}

// newKey makes an API key in the cluster's database.
func (c *cluster) newKey(t *testing.T, env ...string) string {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "keys", "create", "someone", "--plan", "paid")
	cmd.Env = append([]string{"DATABASE_URL=" + c.url}, env...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	c := newCluster(t, caOptions{}, "hello.test")
	key := c.newKey(t)
	env := []string{"DATABASE_URL=" + c.url, "CERT_ENCRYPTION_KEY=" + sealKey, "DRAIN_DELAY=500ms"}
	var wg sync.WaitGroup
	procs := make([]*process, 2)
	for i := range procs {
		wg.Go(func() { procs[i] = c.run(t, t.TempDir(), env...) })
	}
	wg.Wait()
	for i, p := range procs {
		// Whether there is a certificate yet or not.
		if status, body := p.ask(t, "/readyz"); status != http.StatusOK {
			t.Errorf("process %d is not ready: %d %s", i, status, body)
		}
	}
	for i := range 10 {
		out, err := c.curl(t, "-H", "x-api-key: "+key, "https://hello.test/hello?name=brooks")
		if want := fmt.Sprintf(`{"message":"Hello brooks #%d!"}`, i+1); err != nil || out != want {
			t.Errorf("curl: %v, %s; want %s", err, out, want)
		}
	}
	count := regexp.MustCompile(`helloapi_requests_total\{route="/hello",status="200"\} (\d+)`)
	total := 0
	for i, p := range procs {
		_, metrics := p.ask(t, "/metrics")
		m := count.FindStringSubmatch(metrics)
		if m == nil {
			t.Fatalf("process %d served nothing", i)
		}
		n, _ := strconv.Atoi(m[1])
		total += n
		for _, want := range []string{
			`helloapi_certificate_expiry_timestamp_seconds{host="hello.test"} 1.`,
			`helloapi_certificate_trouble{host="hello.test"} 0`,
		} {
			if !strings.Contains(metrics, want) {
				t.Errorf("the metrics of process %d do not have %s", i, want)
			}
		}
		if status, page := p.ask(t, "/"); status != http.StatusOK || !strings.Contains(page, "hello.test") || strings.Contains(page, `class="bad"`) {
			t.Errorf("the page of process %d: %d\n%s", i, status, page)
		}
	}
	if total != 10 {
		t.Errorf("both served %d requests, want 10", total)
	}
	c.orders(t, "", 1)

	out, err := c.curl(t, "-i", "https://hello.test/hello")
	if err != nil || !strings.HasPrefix(out, "HTTP/2 403") || !strings.Contains(out, "strict-transport-security: max-age=31536000") {
		t.Errorf("curl -i: %v\n%s", err, out)
	}
	out, err = c.curl(t, "-i", "http://hello.test/hello?name=x")
	if err != nil || !strings.HasPrefix(out, "HTTP/1.1 308") || !strings.Contains(out, "Location: https://hello.test/hello?name=x") ||
		strings.Contains(out, "Strict-Transport") {
		t.Errorf("curl to port 80: %v\n%s", err, out)
	}
	// A key in clear is refused, and not sent once more with TLS.
	if out, err = c.curl(t, "-L", "-H", "x-api-key: "+key, "http://hello.test/hello?name=redirected"); !strings.Contains(out, "rotate it") {
		t.Errorf("curl -L with a key: %v, %s", err, out)
	}

	t.Run("RollingRestart", func(t *testing.T) {
		var served, failed atomic.Int64
		stop := make(chan bool)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				tr := &http.Transport{
					DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
						return new(net.Dialer).DialContext(ctx, "tcp", c.tls.Addr().String())
					},
					TLSClientConfig: &tls.Config{RootCAs: c.ca.roots}, ForceAttemptHTTP2: i%2 == 0,
				}
				defer tr.CloseIdleConnections()
				for {
					select {
					case <-stop:
						return
					default:
					}
					req, _ := http.NewRequest(http.MethodGet, "https://hello.test/hello?name=rolling", nil)
					req.Header.Set("x-api-key", key)
					resp, err := tr.RoundTrip(req)
					if err != nil {
						t.Errorf("request: %v", err)
						failed.Add(1)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if want := []int{1, 2}[(i+1)%2]; resp.ProtoMajor != want {
						t.Errorf("HTTP/%d, want %d", resp.ProtoMajor, want)
					}
					served.Add(1)
				}
			})
		}
		for i, p := range procs {
			waitFor(t, "some requests", func() bool { return served.Load()+failed.Load() > int64(200*(i+1)) })
			done := make(chan bool)
			go func() { p.stop(t); close(done) }()
			waitFor(t, "it to be unready", func() bool {
				status, _ := p.ask(t, "/readyz")
				return status == http.StatusServiceUnavailable
			})
			c.leave(p)
			<-done
			procs[i] = c.run(t, t.TempDir(), env...)
		}
		close(stop)
		wg.Wait()
		t.Logf("%d requests, none failed", served.Load())
	})
	c.orders(t, "", 1)
}

func TestEmbeddedProcess(t *testing.T) {
	t.Parallel()
	c := newCluster(t, caOptions{}, "hello.test")
	dir := t.TempDir()
	p := c.run(t, dir)
	files, err := filepath.Glob(filepath.Join(dir, "data", "*.keys-*.csv"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files of keys: %q, %v", files, err)
	}
	keys, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	key := regexp.MustCompile(`hk_\w{38}`).FindString(string(keys))
	port := p.tls[strings.LastIndex(p.tls, ":")+1:]
	out, err := c.curl(t, "--resolve", "hello.test:"+port+":127.0.0.1", "-H", "x-api-key: "+key, "https://hello.test:"+port+"/hello?name=brooks")
	if err != nil || out != `{"message":"Hello brooks #1!"}` {
		t.Errorf("curl: %v, %s", err, out)
	}
	info, err := os.Stat(filepath.Join(dir, "data", "helloapi.db.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key file: %v, %v", info.Mode(), err)
	}
	waitFor(t, "the certificate to be stored", func() bool { return strings.Contains(metricsOf(t, p), `orders_total{host="hello.test",result="ok"} 1`) })
	c.leave(p)
	p.stop(t)

	p = c.run(t, dir)
	if out, err := c.curl(t, "-H", "x-api-key: "+key, "https://hello.test/hello?name=brooks"); err != nil || out != `{"message":"Hello brooks #2!"}` {
		t.Errorf("curl after a restart: %v, %s", err, out)
	}
	c.orders(t, "", 1)
	c.leave(p)
	p.stop(t)

	// Without its key it does not start, and says what to do.
	if err := os.Rename(filepath.Join(dir, "data", "helloapi.db.key"), filepath.Join(dir, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	path, _ := program()
	cmd := exec.Command(path, "serve")
	cmd.Dir, cmd.Env = dir, p.cmd.Env
	msg, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(msg), "restore that file") || !strings.Contains(string(msg), "helloapi certs forget") {
		t.Errorf("without the key: %v\n%s", err, msg)
	}
}

func metricsOf(t *testing.T, p *process) string {
	_, body := p.ask(t, "/metrics")
	return body
}

// hold has the CA keep the process that finishes an order waiting. It returns
// when one does, and release ends it.
func (c *testCA) hold() (held chan bool, release func()) {
	held, released := make(chan bool, 8), make(chan bool)
	c.answer("/finalize-order/", func(w http.ResponseWriter, r *http.Request) {
		held <- true
		<-released
		http.Error(w, "", http.StatusServiceUnavailable) // nobody reads it
	})
	return held, func() {
		c.up()
		close(released)
	}
}

// A process that is killed while it orders goes on when it is back: with the
// same account, and one more order.
func TestKilledEmbedded(t *testing.T) {
	t.Parallel()
	c := newCluster(t, caOptions{}, "hello.test")
	dir := t.TempDir()
	held, release := c.ca.hold()
	p := c.run(t, dir)
	<-held
	c.leave(p)
	p.kill()
	release()

	begin := time.Now()
	p = c.run(t, dir)
	c.get(t, p.tls, "hello.test")
	if d := time.Since(begin); d > 20*time.Second {
		t.Errorf("it took %v", d)
	}
	c.orders(t, "", 2)
	if c.ca.accounts != 1 {
		t.Errorf("%d accounts, want 1", c.ca.accounts)
	}
}

// Of two processes, the one that does not order leaves the other's lease alone
// until it has run out.
func TestKilledHolder(t *testing.T) {
	t.Parallel()
	c := newCluster(t, caOptions{}, "hello.test")
	env := []string{"DATABASE_URL=" + c.url, "CERT_ENCRYPTION_KEY=" + sealKey}
	held, release := c.ca.hold()
	holder := c.run(t, t.TempDir(), env...)
	<-held
	other := c.run(t, t.TempDir(), env...)
	c.leave(holder)
	holder.kill()
	release()

	store := c.open(t)
	st := c.state(t, store, "hello.test")
	if left := time.Until(st.LeaseUntil); st.Holder == "" || left > certs.DefaultTiming.Lease {
		t.Errorf("the lease of the one that was killed: %q, for %v", st.Holder, left)
	}
	time.Sleep(2 * time.Second) // eight polls of the other one
	c.orders(t, "", 1)
	if status, body := other.ask(t, "/readyz"); status != http.StatusOK {
		t.Errorf("without a certificate it is not ready: %d %s", status, body)
	}
	if _, page := other.ask(t, "/"); !strings.Contains(page, "none yet") || !strings.Contains(page, st.Holder) {
		t.Errorf("the page does not tell who is at it:\n%s", page)
	}
	// Two minutes later.
	backendtest.Exec(t, c.url, `UPDATE certificates SET lease_until = now()`)
	c.get(t, other.tls, "hello.test")
	c.orders(t, "", 2)
	if c.ca.accounts != 1 {
		t.Errorf("%d accounts, want 1", c.ca.accounts)
	}
}
