package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

// dial opens a connection to addr and sends text.
func dial(t *testing.T, addr net.Addr, text string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	return c
}

const hello = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"

// answered reads one answer.
func answered(t *testing.T, c net.Conn) {
	t.Helper()
	if err := answer(c); err != nil {
		t.Fatal(err)
	}
}

func answer(c net.Conn) error {
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}

// isOpen reports whether the server keeps c.
func isOpen(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	defer c.SetReadDeadline(time.Time{})
	_, err := c.Read(make([]byte, 1))
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// closes waits until the server has closed c.
func closes(t *testing.T, what string, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s is still open", what)
	}
}

// metrics returns what is measured of the connections.
func (r *running) metrics(t *testing.T) map[string]float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(r.Connections())
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return got
}

func (cs *connections) counts() (n, waiting, headers int) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.n, cs.waiting.Len(), cs.headers
}

// wait waits until the connections are as f wants them.
func (cs *connections) waitFor(t *testing.T, what string, f func(n, waiting, headers int) bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(cs.counts()); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			n, waiting, headers := cs.counts()
			t.Fatalf("%s: %d connections, %d wait for their client, %d bytes of headers", what, n, waiting, headers)
		}
	}
}

// A connection over the maximum closes one without a request, else the one that
// is idle for the longest.
func TestMaxConnections(t *testing.T) {
	t.Parallel()
	r := runWith(t, Config{MaxConnections: 3}, nil)
	idle := dial(t, r.Addr(), hello)
	answered(t, idle)
	fresh := dial(t, r.Addr(), "")
	later := dial(t, r.HTTPAddr(), "") // the listeners share the maximum
	r.public.waitFor(t, "open", func(n, _, _ int) bool { return n == 3 })

	a := dial(t, r.Addr(), hello)
	answered(t, a)
	closes(t, "the first without a request", fresh)
	b := dial(t, r.TLSAddr(), "")
	closes(t, "the second without a request", later)
	if !isOpen(idle) || !isOpen(a) {
		t.Error("an idle connection was closed before one without a request")
	}
	c := dial(t, r.Addr(), hello)
	answered(t, c)
	closes(t, "a handshake that does not begin", b)
	d := dial(t, r.Addr(), hello)
	answered(t, d)
	closes(t, "the connection that is idle for the longest", idle)
	for name, conn := range map[string]net.Conn{"a": a, "c": c, "d": d} {
		if !isOpen(conn) {
			t.Errorf("connection %s was closed", name)
		}
	}
	want := map[string]float64{
		"helloapi_connections": 3, "helloapi_connections_max": 3, "helloapi_requests_waiting_for_client": 0,
		"helloapi_connections_closed_total fresh": 3, "helloapi_connections_closed_total idle": 1,
	}
	if diff := cmp.Diff(want, r.metrics(t)); diff != "" {
		t.Errorf("metrics (-want +got)\n%s", diff)
	}
	// The internal listener has connections of its own.
	if body, _, err := r.get("http://" + r.AdminAddr().String()); err != nil || body != "admin false" {
		t.Errorf("the internal listener: %q, %v", body, err)
	}
}

// A client that has just come is not closed for the next, while others stall.
func TestFreshBesideStalled(t *testing.T) {
	t.Parallel()
	r := runWith(t, Config{MaxConnections: 2, RequestTimeout: time.Minute}, answers)
	stalled := dial(t, r.Addr(), "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000\r\n\r\nabc")
	r.public.waitFor(t, "the request", func(_, waiting, _ int) bool { return waiting == 1 })
	fresh := dial(t, r.Addr(), "")
	time.Sleep(unusedAfter + freshFor)
	next := dial(t, r.Addr(), hello)
	answered(t, next)
	closes(t, "the stalled connection", stalled)
	fmt.Fprint(fresh, hello)
	answered(t, fresh)
	// All are at work or have just come: the one that comes next waits.
	begin := time.Now()
	answered(t, dial(t, r.Addr(), hello))
	if d := time.Since(begin); d < unusedAfter/2 {
		t.Errorf("a connection was closed for another after %v", d)
	}
}

// While each connection has a request that is served, a further one waits.
func TestMaxConnectionsBusy(t *testing.T) {
	t.Parallel()
	enter, leave := make(chan bool), make(chan bool)
	r := runWith(t, Config{MaxConnections: 2}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		enter <- true
		<-leave
	}))
	busy := []net.Conn{dial(t, r.Addr(), hello), dial(t, r.Addr(), hello)}
	<-enter
	<-enter
	next := dial(t, r.Addr(), hello)
	select {
	case <-enter:
		t.Fatal("a request over the maximum is served")
	case <-time.After(300 * time.Millisecond):
	}
	leave <- true
	<-enter
	leave <- true
	leave <- true
	answered(t, next)
	open := 0
	for _, c := range busy {
		if answer(c) == nil && isOpen(c) {
			open++
		}
	}
	if open != 1 {
		t.Errorf("%d of two connections are open, want the one", open)
	}
}

// stalling are the ways to keep a request from its end.
var stalling = []struct {
	name  string
	start func(t *testing.T, r *running)
}{
	{"slow body", func(t *testing.T, r *running) {
		dial(t, r.Addr(), "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000\r\n\r\nabc")
	}},
	{"slow body that is not read", func(t *testing.T, r *running) {
		dial(t, r.Addr(), "POST /ignore HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000\r\n\r\nabc")
	}},
	{"slow reader", func(t *testing.T, r *running) {
		c := dial(t, r.Addr(), "")
		_ = c.(*net.TCPConn).SetReadBuffer(2048)
		go func() { _, _ = io.WriteString(c, strings.Repeat("GET /large HTTP/1.1\r\nHost: a.test\r\n\r\n", 100)) }()
	}},
	{"slow reader with TLS", func(t *testing.T, r *running) {
		raw := dial(t, r.TLSAddr(), "")
		_ = raw.(*net.TCPConn).SetReadBuffer(2048)
		c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
		go func() { _, _ = io.WriteString(c, strings.Repeat("GET /large HTTP/1.1\r\nHost: a.test\r\n\r\n", 100)) }()
	}},
	{"HTTP/2 stream without a window", func(t *testing.T, r *running) { smallWindow(t, r, "/large") }},
	{"HTTP/2 stream without a window for a small answer", func(t *testing.T, r *running) { smallWindow(t, r, "/") }},
}

// smallWindow gets path with HTTP/2 and leaves the answer unread.
func smallWindow(t *testing.T, r *running, path string) {
	tr := r.client.Transport.(*http.Transport).Clone()
	tr.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 16}
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := (&http.Client{Transport: tr}).Do(must(http.NewRequestWithContext(ctx, http.MethodGet, "https://"+r.TLSAddr().String()+path, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		resp.Body.Close()
		tr.CloseIdleConnections()
	})
	if resp.ProtoMajor != 2 {
		t.Fatalf("HTTP/%d", resp.ProtoMajor)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// answers answers with 100 bytes, or 10 MB for /large, and reads a body.
var answers = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/ignore" {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			w.WriteHeader(http.StatusRequestTimeout)
			return
		}
	}
	n := 100
	if r.URL.Path == "/large" {
		n = 10 << 20
	}
	_, _ = w.Write(make([]byte, n))
})

// A client that does not send or read is cut when its request's time is over,
// and does not make stopping fail.
func TestStalled(t *testing.T) {
	for _, tt := range stalling {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := runWith(t, Config{RequestTimeout: time.Second}, answers)
			tt.start(t, r)
			r.public.waitFor(t, "the request", func(_, waiting, _ int) bool { return waiting == 1 })
			begin := time.Now()
			r.stop()
			if err := <-r.done; err != nil {
				t.Error(err)
			}
			// net/http asks twice a second whether all has ended.
			if d := time.Since(begin); d > 4*time.Second {
				t.Errorf("it took %v to stop", d)
			}
			if n, waiting, headers := r.public.counts(); n != 0 || waiting != 0 || headers != 0 {
				t.Errorf("%d connections, %d waiting requests, %d bytes of headers stay", n, waiting, headers)
			}
		})
		t.Run(tt.name+", to the end", func(t *testing.T) {
			t.Parallel()
			r := runWith(t, Config{RequestTimeout: time.Minute, DrainTimeout: time.Second}, answers)
			tt.start(t, r)
			r.public.waitFor(t, "the request", func(_, waiting, _ int) bool { return waiting == 1 })
			r.stop()
			if err := <-r.done; err != nil {
				t.Errorf("that a client does not take its answer is an error: %v", err)
			}
		})
		t.Run(tt.name+", while others come", func(t *testing.T) {
			t.Parallel()
			r := runWith(t, Config{MaxConnections: 3, RequestTimeout: time.Minute}, answers)
			for range 3 {
				tt.start(t, r)
			}
			r.public.waitFor(t, "the requests", func(_, waiting, _ int) bool { return waiting == 3 })
			answered(t, dial(t, r.Addr(), hello))
		})
	}
}

// A request that is not answered in time is an error.
func TestDrainTimeout(t *testing.T) {
	t.Parallel()
	leave, in := make(chan bool), make(chan bool)
	defer close(leave)
	r := runWith(t, Config{DrainTimeout: 100 * time.Millisecond}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(in)
		<-leave
	}))
	dial(t, r.Addr(), hello)
	<-in
	r.stop()
	if err := <-r.done; err == nil || !strings.Contains(err.Error(), "requests still in flight") {
		t.Errorf("stopped with %v", err)
	}
}

// A body has REQUEST_TIMEOUT, however old its connection is.
func TestBodyTimeout(t *testing.T) {
	t.Parallel()
	r := runWith(t, Config{RequestTimeout: time.Second}, answers)
	c := dial(t, r.Addr(), "")
	time.Sleep(600 * time.Millisecond)
	fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 6\r\n\r\nabc")
	time.Sleep(600 * time.Millisecond)
	fmt.Fprint(c, "def")
	resp := must(http.ReadResponse(bufio.NewReader(c), nil))
	if resp.StatusCode != http.StatusOK {
		t.Errorf("a body that took 0.6 of 1 s: %s", resp.Status)
	}
	c = dial(t, r.Addr(), "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 6\r\n\r\nabc")
	begin := time.Now()
	resp = must(http.ReadResponse(bufio.NewReader(c), nil))
	if d := time.Since(begin); resp.StatusCode != http.StatusRequestTimeout || d > 1500*time.Millisecond {
		t.Errorf("a body that stalls: %s after %v", resp.Status, d)
	}
}

// A connection without a request is closed after IDLE_TIMEOUT.
func TestIdleTimeout(t *testing.T) {
	t.Parallel()
	r := runWith(t, Config{IdleTimeout: time.Second}, nil)
	begin := time.Now()
	c := dial(t, r.Addr(), hello)
	answered(t, c)
	time.Sleep(500 * time.Millisecond)
	fmt.Fprint(c, hello)
	answered(t, c)
	two := dial(t, r.TLSAddr(), "")
	tlsConn := tls.Client(two, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	fmt.Fprint(tlsConn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	closes(t, "an idle connection", c)
	if d := time.Since(begin); d < 1500*time.Millisecond {
		t.Errorf("it was closed %v after it opened, 1 s after its last request at the earliest", d)
	}
	closes(t, "an HTTP/2 connection without a request", two)
}

// A HTTP/2 connection that ends while it has requests leaves nothing behind.
func TestHTTP2Leak(t *testing.T) {
	r := runWith(t, Config{RequestTimeout: time.Minute}, answers)
	var ended atomic.Int32
	const conns = 20
	for range conns {
		smallWindow(t, r, "/")
	}
	r.public.mu.Lock()
	var open []*conn
	for e := r.public.waiting.Front(); e != nil; e = e.Next() {
		open = append(open, e.Value.(*wait).conn)
	}
	r.public.mu.Unlock()
	for _, c := range open {
		runtime.AddCleanup(c, func(int) { ended.Add(1) }, 0)
		c.Close()
	}
	open = nil
	r.public.waitFor(t, "to end", func(n, waiting, _ int) bool { return n == 0 && waiting == 0 })
	for end := time.Now().Add(10 * time.Second); ended.Load() < conns; time.Sleep(10 * time.Millisecond) {
		runtime.GC()
		if time.Now().After(end) {
			t.Fatalf("%d of %d connections are still in memory", conns-ended.Load(), conns)
		}
	}
}

// More answers than connections are allowed do not wait for HTTP/2 clients.
func TestUndelivered(t *testing.T) {
	t.Parallel()
	r := runWith(t, Config{MaxConnections: 10, RequestTimeout: time.Minute}, answers)
	tr := r.client.Transport.(*http.Transport).Clone()
	tr.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 16}
	defer tr.CloseIdleConnections()
	most := 0
	for range 50 {
		resp, err := (&http.Client{Transport: tr}).Do(must(http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+r.TLSAddr().String(), nil)))
		if err != nil {
			continue // its connection was closed
		}
		defer resp.Body.Close()
		_, waiting, _ := r.public.counts()
		most = max(most, waiting)
	}
	if most < 5 {
		t.Errorf("%d answers waited", most)
	}
	r.public.waitFor(t, "50 answers that nobody reads", func(_, waiting, _ int) bool { return waiting <= 10 })
	if r.metrics(t)["helloapi_connections_closed_total stalled"] == 0 {
		t.Error("no connection was closed")
	}
	if body, _, err := r.get("http://" + r.Addr().String()); err != nil || len(body) != 100 {
		t.Errorf("a good client: %d bytes, %v", len(body), err)
	}
}

// Large headers share a sum, whether they are finished or not.
func TestHeaders(t *testing.T) {
	t.Parallel()
	const conns = 100
	leave := make(chan bool)
	r := runWith(t, Config{MaxConnections: conns}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stay" {
			<-leave
		}
	}))
	within := func(what string) {
		t.Helper()
		if _, _, headers := r.public.counts(); headers > conns*sharedHeader {
			t.Errorf("%s hold %d bytes, more than %d", what, headers, conns*sharedHeader)
		}
	}
	long := "GET /stay HTTP/1.1\r\nHost: a.test\r\nX-Long: " + strings.Repeat("a", 60_000)
	var unfinished []net.Conn
	for range 10 {
		c := must(net.Dial("tcp", r.Addr().String()))
		defer c.Close()
		_, _ = io.WriteString(c, long) // it may be closed already
		unfinished = append(unfinished, c)
	}
	r.public.waitFor(t, "the sum", func(n, _, headers int) bool { return n < 10 && headers > 100_000 })
	within("headers that are not finished")
	answered(t, dial(t, r.Addr(), hello))
	for _, c := range unfinished {
		c.Close()
	}
	r.public.waitFor(t, "to be left", func(n, _, headers int) bool { return headers == 0 })

	// Many small fields hold more than their bytes.
	var fields strings.Builder
	fields.WriteString("GET /stay HTTP/1.1\r\nHost: a.test\r\n")
	for i := range 1000 {
		fmt.Fprintf(&fields, "%x:\r\n", i)
	}
	fields.WriteString("\r\n")
	for range 10 {
		c := must(net.Dial("tcp", r.Addr().String()))
		defer c.Close()
		_, _ = io.WriteString(c, fields.String())
	}
	r.public.waitFor(t, "the sum", func(n, _, headers int) bool { return n < 10 && headers > 100_000 })
	within("headers of requests")
	answered(t, dial(t, r.Addr(), hello))
	close(leave)
	r.public.waitFor(t, "to be answered", func(_, _, headers int) bool { return headers == 0 })
}
