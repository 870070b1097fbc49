package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// drainTimeout is the default of DRAIN_TIMEOUT.
const drainTimeout = 20 * time.Second

const (
	goodKey = "a-good-key-of-the-attack-program-1"
	plans   = "plans:\n  good:\n    keys:\n      - {name: good, value: " + goodKey + "}\n"
)

// config says how to serve.
type config struct {
	binary         string
	memory         int // MiB
	docker         bool
	requestTimeout time.Duration
	descriptors    int    // its limit, or 0 for that of this process
	dir            string // for its files
}

// A victim is a server under attack.
type victim struct {
	addr, tls, admin string
	container        string // its name, or ""
	pid              string
	cmd              *exec.Cmd
	log              *os.File
	exited           chan error
}

// build builds the program in dir.
func build(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "helloapi")
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "helloapi").Output()
	if err != nil {
		return "", fmt.Errorf("find the module helloapi (run this in internal/systemtest): %w", err)
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, "./cmd/helloapi")
	cmd.Dir = strings.TrimSpace(string(root))
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
}

// start serves, and waits until it does.
func start(ctx context.Context, c config) (*victim, error) {
	if err := errors.Join(os.MkdirAll(c.dir, 0o755), writePair(c.dir), os.WriteFile(filepath.Join(c.dir, "plans.yaml"), []byte(plans), 0o644)); err != nil {
		return nil, err
	}
	var addrs [3]string
	for i := range addrs {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		addrs[i] = l.Addr().String()
		l.Close()
	}
	v := &victim{addr: addrs[0], tls: addrs[1], admin: addrs[2], exited: make(chan error, 1)}
	env := []string{
		"ADDR=" + v.addr, "TLS_ADDR=" + v.tls, "ADMIN_ADDR=" + v.admin, "HTTP_ADDR=off",
		"TLS_CERT_FILE=cert.pem", "TLS_KEY_FILE=key.pem", "REQUEST_TIMEOUT=" + c.requestTimeout.String(), "PLANS_FILE=plans.yaml",
	}
	limit := c.descriptors
	if limit == 0 {
		limit = 20000
	}
	if c.docker {
		v.container = fmt.Sprintf("helloapi-attack-%d", time.Now().UnixNano())
		load := exec.CommandContext(ctx, "sh", "-c", `tar -c -C "$(dirname "$0")" "$(basename "$0")" | docker import - helloapi:attack`, c.binary)
		if out, err := load.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("make an image: %w\n%s", err, out)
		}
		size := strconv.Itoa(c.memory) + "m"
		args := []string{
			"run", "--rm", "--name", v.container, "--network", "host", "--memory", size, "--memory-swap", size,
			"--ulimit", fmt.Sprintf("nofile=%d:%[1]d", limit), "-v", c.dir + ":/data", "-w", "/data",
		}
		for _, e := range env {
			args = append(args, "-e", e)
		}
		v.cmd = exec.Command("docker", append(args, "helloapi:attack", "/"+filepath.Base(c.binary), "serve")...)
	} else {
		v.cmd = exec.Command("sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$0" serve`, limit), c.binary)
		v.cmd.Env = append(env, "PATH="+os.Getenv("PATH"), fmt.Sprintf("GOMEMLIMIT=%dMiB", c.memory))
	}
	v.cmd.Dir = c.dir
	var err error
	if v.log, err = os.Create(filepath.Join(c.dir, "log")); err != nil {
		return nil, err
	}
	v.cmd.Stderr = v.log
	if err := v.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { v.exited <- v.cmd.Wait() }()
	for range 300 {
		if v.alive() {
			if !c.docker {
				v.pid = strconv.Itoa(v.cmd.Process.Pid)
				return v, nil
			}
			out, err := exec.CommandContext(ctx, "docker", "inspect", "-f", "{{.State.Pid}}", v.container).Output()
			v.pid = strings.TrimSpace(string(out))
			return v, err
		}
		time.Sleep(100 * time.Millisecond)
	}
	v.kill()
	return nil, fmt.Errorf("it does not serve:\n%s", v.tail())
}

// alive reports whether the process is there and its probes are answered.
func (v *victim) alive() bool {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + v.admin + "/readyz")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// stop has the process end by itself, and returns how it did.
func (v *victim) stop() error {
	if v.container != "" {
		if out, err := exec.Command("docker", "kill", "--signal", "TERM", v.container).CombinedOutput(); err != nil {
			return fmt.Errorf("stop: %w: %s", err, out)
		}
	} else if err := v.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-v.exited:
		v.exited <- err
		return err
	case <-time.After(2 * drainTimeout):
		return errors.New("it does not end")
	}
}

// kill ends the process, if it is there.
func (v *victim) kill() {
	if v.container != "" {
		_ = exec.Command("docker", "kill", v.container).Run()
	}
	_ = v.cmd.Process.Kill()
	<-v.exited
	v.log.Close()
}

// tail is the end of the log.
func (v *victim) tail() string {
	b, _ := os.ReadFile(v.log.Name())
	return string(b[max(0, len(b)-2000):])
}

// rss is the resident memory in MiB: VmRSS now, VmHWM at its highest.
func (v *victim) rss(which string) int {
	b, _ := os.ReadFile("/proc/" + v.pid + "/status")
	m := regexp.MustCompile(which + `:\s+(\d+) kB`).FindSubmatch(b)
	if m == nil {
		return 0
	}
	kib, _ := strconv.Atoi(string(m[1]))
	return kib / 1024
}

// A measure is what good clients saw.
type measure struct {
	took   []time.Duration // of each request that was served
	failed int
	err    error // of the last that failed
}

func (m measure) p99() time.Duration {
	if len(m.took) == 0 {
		return 0
	}
	slices.Sort(m.took)
	return m.took[len(m.took)*99/100]
}

// measure has good clients greet for d: two on kept connections, one on a
// new connection for each request, one with HTTP/2.
func (v *victim) measure(ctx context.Context, d time.Duration) (m measure) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	insecure := &tls.Config{InsecureSkipVerify: true}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, c := range []struct {
		url string
		t   *http.Transport
	}{
		{"http://" + v.addr, &http.Transport{}},
		{"http://" + v.addr, &http.Transport{}},
		{"http://" + v.addr, &http.Transport{DisableKeepAlives: true}},
		{"https://" + v.tls, &http.Transport{TLSClientConfig: insecure, ForceAttemptHTTP2: true}},
	} {
		wg.Go(func() {
			defer c.t.CloseIdleConnections()
			client := &http.Client{Transport: c.t, Timeout: 15 * time.Second}
			for first := true; ; first = false {
				begin := time.Now()
				err := greet(client, c.url)
				mu.Lock()
				switch {
				case err != nil:
					m.failed++
					m.err = err
				case !first: // a new client opens its connection
					m.took = append(m.took, time.Since(begin))
				}
				mu.Unlock()
				select {
				case <-ctx.Done():
					return
				case <-time.After(5 * time.Millisecond):
				}
			}
		})
	}
	wg.Wait()
	return m
}

func greet(client *http.Client, url string) error {
	req, err := http.NewRequest(http.MethodGet, url+"/hello?name=good", nil)
	if err != nil {
		return err
	}
	req.Header.Set("x-api-key", goodKey)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return err
}

// writePair writes a certificate and its key to dir.
func writePair(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: time.Now().Add(24 * time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o644),
		os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600),
	)
}
