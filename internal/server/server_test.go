package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"helloapi/internal/backendtest"
)

// running is a Server with all its listeners, each of which says which it is.
type running struct {
	*Server
	log    *backendtest.Buffer
	client *http.Client // that trusts it
	stop   context.CancelFunc
	done   chan error
	slow   chan bool // requests for /slow wait for it
}

func run(t *testing.T, delay time.Duration) *running {
	t.Helper()
	return runWith(t, Config{DrainDelay: delay}, nil)
}

// runWith runs a Server with cfg, whose handlers are h or, if that is nil, say
// which they are.
func runWith(t *testing.T, cfg Config, h http.Handler) *running {
	t.Helper()
	r := &running{log: new(backendtest.Buffer), done: make(chan error, 1), slow: make(chan bool)}
	cfg.Addr, cfg.TLSAddr, cfg.HTTPAddr, cfg.AdminAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.MaxConnections = cmp.Or(cfg.MaxConnections, 1000)
	cfg.RequestTimeout = cmp.Or(cfg.RequestTimeout, 10*time.Second)
	cfg.IdleTimeout, cfg.DrainTimeout = cmp.Or(cfg.IdleTimeout, time.Minute), cmp.Or(cfg.DrainTimeout, 10*time.Second)
	cfg.Log = slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.Server = s
	// The certificate of httptest, and a client for it.
	example := httptest.NewUnstartedServer(nil)
	example.EnableHTTP2 = true
	example.StartTLS()
	t.Cleanup(example.Close)
	r.client = example.Client()
	t.Cleanup(r.client.CloseIdleConnections)

	say := func(name string) http.Handler {
		if h != nil {
			return h
		}
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Path == "/slow" {
				<-r.slow
			}
			fmt.Fprintf(w, "%s %v", name, req.TLS != nil)
		})
	}
	ctx, stop := context.WithCancel(t.Context())
	r.stop = stop
	go func() {
		r.done <- s.Serve(ctx, Handlers{
			API: say("api"), TLS: say("tls"), HTTP: say("http"), Admin: say("admin"),
			TLSConfig: &tls.Config{Certificates: example.TLS.Certificates},
		})
	}()
	return r
}

func (r *running) get(url string) (body string, resp *http.Response, err error) {
	resp, err = r.client.Get(url)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), resp, err
}

func TestListeners(t *testing.T) {
	r := run(t, 0)
	for url, want := range map[string]string{
		"http://" + r.Addr().String(): "api false", "https://" + r.TLSAddr().String(): "tls true",
		"http://" + r.HTTPAddr().String(): "http false", "http://" + r.AdminAddr().String(): "admin false",
	} {
		body, resp, err := r.get(url)
		if err != nil || body != want {
			t.Errorf("%s: %q, %v; want %q", url, body, err, want)
		}
		if strings.HasPrefix(url, "https") != (resp.ProtoMajor == 2) {
			t.Errorf("%s: %s", url, resp.Proto)
		}
	}
	// What scanners do is no warning.
	conn, err := net.Dial("tcp", r.TLSAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
	_, _ = io.Copy(io.Discard, conn)
	conn.Close()
	for !strings.Contains(r.log.String(), "TLS handshake error") {
		time.Sleep(time.Millisecond)
	}
	if strings.Contains(r.log.String(), "level=WARN") {
		t.Errorf("a handshake that failed is a warning:\n%s", r.log)
	}
	r.stop()
	if err := <-r.done; err != nil {
		t.Error(err)
	}
	for _, addr := range []*net.TCPAddr{r.Addr(), r.TLSAddr(), r.HTTPAddr(), r.AdminAddr()} {
		if conn, err := net.Dial("tcp", addr.String()); err == nil {
			conn.Close()
			t.Errorf("%v is still open", addr)
		}
	}
}

// errOut is what a load balancer says of a server that it has taken out.
var errOut = errors.New("taken out")

// Clients that never pause see nothing of a drain, once the load balancer sends
// no more connections: all that was sent is answered.
func TestDrainUnderLoad(t *testing.T) {
	for name, http2 := range map[string]bool{"HTTP1": false, "HTTP2": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := run(t, 2*time.Second)
			var out atomic.Bool
			tr := r.client.Transport.(*http.Transport)
			tr.MaxIdleConnsPerHost = 100
			tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if out.Load() {
					return nil, errOut
				}
				return new(net.Dialer).DialContext(ctx, network, addr)
			}
			if !http2 {
				tr.ForceAttemptHTTP2, tr.TLSClientConfig.NextProtos = false, []string{"http/1.1"}
			}
			url := "https://" + r.TLSAddr().String()

			// One that is under way all the time.
			slow := make(chan error, 1)
			go func() {
				body, _, err := r.get(url + "/slow")
				if body != "tls true" {
					err = errors.Join(err, fmt.Errorf("answered %q", body))
				}
				slow <- err
			}()
			first := make(chan bool)
			var once sync.Once
			var wg sync.WaitGroup
			for range 16 {
				wg.Go(func() {
					for n := 0; ; n++ {
						_, resp, err := r.get(url)
						if errors.Is(err, errOut) {
							return
						}
						if err != nil {
							t.Errorf("request %d: %v", n, err)
							return
						}
						if want := map[bool]int{true: 2, false: 1}[http2]; resp.ProtoMajor != want {
							t.Errorf("%s, want HTTP/%d", resp.Proto, want)
							return
						}
						if n == 10 {
							once.Do(func() { close(first) })
						}
					}
				})
			}
			<-first
			r.stop()
			for !r.Draining() {
				time.Sleep(time.Millisecond)
			}
			out.Store(true)
			wg.Wait()
			// They were told to go, not cut off at the end.
			conn, err := net.Dial("tcp", r.TLSAddr().String())
			if err != nil {
				t.Error("clients stayed to the end of the drain")
			} else {
				conn.Close()
			}
			close(r.slow)
			if err := <-slow; err != nil {
				t.Errorf("the slow request: %v", err)
			}
			if err := <-r.done; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	for setting, cfg := range map[string]Config{
		"ADDR": {Addr: taken}, "TLS_ADDR": {TLSAddr: taken}, "HTTP_ADDR": {HTTPAddr: taken}, "ADMIN_ADDR": {AdminAddr: taken},
	} {
		if _, err := Listen(cfg); err == nil || !strings.Contains(err.Error(), "choose another address with "+setting+")") {
			t.Errorf("%s: %v", setting, err)
		}
	}
}
