package server

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// freeHeader is how large the header of a request may be for its memory to
	// be part of its connection's. What is larger takes from a sum that all
	// connections share: sharedHeader for each of the maximum. It is small, since
	// net/http makes up to 15 bytes of one of a header with many fields.
	freeHeader   = 4 << 10
	sharedHeader = 2 << 10
	// fieldSize is what a header field takes beside its text.
	fieldSize = 64
	// unusedAfter is how long a connection must have been idle, or a request of
	// it have waited for its client, to be closed in favour of a new one. Those
	// of clients that are at work stay, while a new one waits so long at most.
	unusedAfter = time.Second
	// freshFor is how long a new connection is kept for its first request.
	freshFor = 100 * time.Millisecond
	// socketBuffer is what the kernel holds of what a client sends too early or
	// does not take (twice that, on Linux), in place of megabytes.
	socketBuffer = 32 << 10
)

// errHeaders ends the connection of a client that sends a large header while
// all memory for those is taken.
var errHeaders = errors.New("the memory for large headers is taken")

// connections holds the open connections of listeners, and bounds what they
// hold: their number, the number of requests that wait for their client, and
// the size of large headers.
type connections struct {
	max   int
	freed chan struct{} // receives when a connection can be closed or was

	mu sync.Mutex

	n       int       // guarded by mu; connections that are open
	working int       // guarded by mu; requests in a handler that do not wait for their client
	headers int       // guarded by mu; bytes of large headers
	fresh   list.List // guarded by mu; *conn without a request so far, the oldest first
	idle    list.List // guarded by mu; *conn between two requests, idle for the longest first
	waiting list.List // guarded by mu; *wait, the longest first

	openWaits int // guarded by mu; those of waiting whose connection is open

	closed *prometheus.CounterVec
}

// A wait is of a request that waits for its client: to send the body, or to
// take the answer.
type wait struct {
	conn  *conn
	since time.Time
}

func newConnections(max int) *connections {
	return &connections{max: max, freed: make(chan struct{}, 1), closed: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "helloapi_connections_closed_total",
		Help: "Connections closed to bound what clients hold, by what they did: fresh (sent no request), idle, stalled (did not send or read), headers (sent large ones).",
	}, []string{"client"})}
}

// Describe implements prometheus.Collector.
func (cs *connections) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(cs, ch) }

// Collect implements prometheus.Collector.
func (cs *connections) Collect(ch chan<- prometheus.Metric) {
	cs.mu.Lock()
	n, waiting := cs.n, cs.waiting.Len()
	cs.mu.Unlock()
	ch <- prometheus.MustNewConstMetric(descOpen, prometheus.GaugeValue, float64(n))
	ch <- prometheus.MustNewConstMetric(descMax, prometheus.GaugeValue, float64(cs.max))
	ch <- prometheus.MustNewConstMetric(descWaiting, prometheus.GaugeValue, float64(waiting))
	cs.closed.Collect(ch)
}

var (
	descOpen    = prometheus.NewDesc("helloapi_connections", "Open connections of clients.", nil, nil)
	descMax     = prometheus.NewDesc("helloapi_connections_max", "The maximum of open connections (MAX_CONNECTIONS).", nil, nil)
	descWaiting = prometheus.NewDesc("helloapi_requests_waiting_for_client", "Requests that wait for their client to send the body or take the answer.", nil, nil)
)

// makeRoom reports whether there is room for one more connection than are
// open. It closes one if there is none: stalled, else without a request so far,
// else idle, in each case for the longest.
func (cs *connections) makeRoom() bool {
	cs.mu.Lock()
	if cs.n < cs.max {
		cs.n++
		cs.mu.Unlock()
		return true
	}
	var victim *conn
	var client string
	if w := cs.stalled(); w != nil && time.Since(w.since) > unusedAfter {
		victim, client = w.conn, "stalled"
	} else if e := cs.fresh.Front(); e != nil && time.Since(e.Value.(*conn).since) > freshFor {
		victim, client = e.Value.(*conn), "fresh"
	} else if e := cs.idle.Front(); e != nil && time.Since(e.Value.(*conn).since) > unusedAfter {
		victim, client = e.Value.(*conn), "idle"
	} else {
		cs.mu.Unlock()
		return false
	}
	cs.n++
	cs.mu.Unlock()
	cs.closed.WithLabelValues(client).Inc()
	victim.Close()
	return true
}

// stalled returns what has waited for its client for the longest, or nil. The
// caller holds mu.
func (cs *connections) stalled() *wait {
	for e := cs.waiting.Front(); e != nil; e = e.Next() {
		if w := e.Value.(*wait); !w.conn.closed { // else it is about to end
			return w
		}
	}
	return nil
}

// mostWaits returns the open connection with the most requests that wait for
// their client. The caller holds mu.
func (cs *connections) mostWaits() (most *conn) {
	for e := cs.waiting.Front(); e != nil; e = e.Next() {
		if c := e.Value.(*wait).conn; !c.closed && (most == nil || c.waits > most.waits) {
			most = c
		}
	}
	return most
}

// wait adds a request of c to those that wait for their client. The caller
// holds mu.
func (cs *connections) wait(c *conn) *list.Element {
	if c.waits++; !c.closed {
		cs.openWaits++
	}
	return cs.waiting.PushBack(&wait{c, time.Now()})
}

// unwait takes it out. The caller holds mu.
func (cs *connections) unwait(e *list.Element) {
	c := cs.waiting.Remove(e).(*wait).conn
	if c.waits--; !c.closed {
		cs.openWaits--
	}
}

// free says that there may be room.
func (cs *connections) free() {
	select {
	case cs.freed <- struct{}{}:
	default:
	}
}

// A listener accepts connections while there is room for them.
type listener struct {
	*net.TCPListener
	conns *connections
	once  sync.Once
	done  chan struct{}
}

func (cs *connections) listener(l net.Listener) *listener {
	return &listener{TCPListener: l.(*net.TCPListener), conns: cs, done: make(chan struct{})}
}

// Accept returns the next connection, when there is room for it.
func (l *listener) Accept() (net.Conn, error) {
	raw, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	for !l.conns.makeRoom() {
		select {
		case <-l.conns.freed:
		case <-time.After(unusedAfter / 10): // one may have become unused
		case <-l.done:
			raw.Close()
			return nil, net.ErrClosed
		}
	}
	_ = raw.SetReadBuffer(socketBuffer) // an error is seen by the first read
	_ = raw.SetWriteBuffer(socketBuffer)
	c := &conn{TCPConn: raw, conns: l.conns}
	l.conns.mu.Lock()
	c.rest()
	l.conns.mu.Unlock()
	return c, nil
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.TCPListener.Close()
}

// A conn is a connection of a client.
type conn struct {
	*net.TCPConn
	conns    *connections
	stuck    atomic.Bool  // a write took too long
	active   atomic.Bool  // it has requests under way
	received atomic.Int64 // bytes since it has none: what it holds of a header

	// Guarded by conns.mu:
	closed  bool
	served  bool          // it has had a request
	place   *list.Element // in conns.fresh or conns.idle, nil while it is active
	since   time.Time     // when it got its place
	waits   int           // its requests in conns.waiting
	answer  *list.Element // HTTP/1: in conns.waiting, until it is idle
	headers int           // what received takes of conns.headers
}

// Read counts what the client sends of a header, before there is a request to
// charge for it. (The TLS handshake counts too; it is smaller than freeHeader.)
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if n > 0 && !c.active.Load() && c.received.Add(int64(n)) > freeHeader && !c.charge(n) {
		return 0, errHeaders
	}
	return n, err
}

// Write fails at once after a write that took too long: crypto/tls would try for
// 5 more seconds to say that it closes.
func (c *conn) Write(p []byte) (int, error) {
	if c.stuck.Load() {
		return 0, os.ErrDeadlineExceeded
	}
	n, err := c.TCPConn.Write(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.stuck.Store(true)
	}
	return n, err
}

// charge takes n bytes for the header that c receives. If there is no memory
// left, it closes c.
func (c *conn) charge(n int) bool {
	cs := c.conns
	cs.mu.Lock()
	ok := cs.take(n)
	if ok {
		c.headers += n
	}
	cs.mu.Unlock()
	if !ok {
		c.Close()
	}
	return ok
}

// take takes n bytes of the memory for large headers. The caller holds mu.
func (cs *connections) take(n int) bool {
	if cs.headers+n > cs.max*sharedHeader {
		cs.closed.WithLabelValues("headers").Inc()
		return false
	}
	cs.headers += n
	return true
}

// Close closes the connection, once.
func (c *conn) Close() error {
	cs := c.conns
	cs.mu.Lock()
	if c.closed {
		cs.mu.Unlock()
		return net.ErrClosed
	}
	c.release()
	c.closed = true
	cs.n--
	cs.openWaits -= c.waits // which end soon
	cs.mu.Unlock()
	cs.free()
	return c.TCPConn.Close()
}

// release takes c out of all lists. The caller holds mu.
func (c *conn) release() {
	cs := c.conns
	if c.place != nil {
		if c.served {
			cs.idle.Remove(c.place)
		} else {
			cs.fresh.Remove(c.place)
		}
		c.place = nil
	}
	if c.answer != nil {
		cs.unwait(c.answer)
		c.answer = nil
	}
	cs.headers -= c.headers
	c.headers = 0
}

// connState is the hook of http.Server.
func (cs *connections) connState(nc net.Conn, state http.ConnState) {
	c := connOf(nc)
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if c.closed || state == http.StateNew {
		return
	}
	c.release()
	c.received.Store(0)
	c.active.Store(state == http.StateActive)
	if state == http.StateIdle {
		c.rest()
		cs.free()
	}
}

// rest gives c its place among those without a request. The caller holds mu.
func (c *conn) rest() {
	c.since = time.Now()
	if c.served {
		c.place = c.conns.idle.PushBack(c)
	} else {
		c.place = c.conns.fresh.PushBack(c)
	}
}

// closeIdle closes connections that had no request for limit, until stop is
// closed.
func (cs *connections) closeIdle(limit time.Duration, stop <-chan struct{}) {
	tick := time.NewTicker(min(limit, time.Second))
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		var over []*conn
		cs.mu.Lock()
		for _, l := range []*list.List{&cs.fresh, &cs.idle} {
			for e := l.Front(); e != nil && time.Since(e.Value.(*conn).since) >= limit; e = e.Next() {
				over = append(over, e.Value.(*conn))
			}
		}
		cs.mu.Unlock()
		for _, c := range over {
			c.Close()
		}
	}
}

type connKey struct{}

// connContext is the hook of http.Server.
func (cs *connections) connContext(ctx context.Context, nc net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, connOf(nc))
}

func connOf(nc net.Conn) *conn {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	return nc.(*conn)
}

// handler counts the requests of next, those that wait for their client, and
// what their headers hold. A body has to arrive within timeout.
func (cs *connections) handler(next http.Handler, timeout time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req := &request{ResponseWriter: w, conn: r.Context().Value(connKey{}).(*conn)}
		if !cs.begin(req, headerSize(r)) {
			panic(http.ErrAbortHandler)
		}
		if r.Body != http.NoBody {
			// ReadTimeout of net/http is from when the connection was accepted.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(timeout))
			r.Body = &body{ReadCloser: r.Body, req: req}
		}
		defer cs.end(req, r.ProtoMajor)
		next.ServeHTTP(req, r)
		req.wait()
		if r.ProtoMajor == 2 {
			// The answer is delivered here, where it is seen that it waits.
			// net/http does so after the handler only, and reports no end.
			_ = http.NewResponseController(w).Flush()
		}
	})
}

// headerSize is about what the header of r takes of memory, or 0 if that is
// little.
func headerSize(r *http.Request) int {
	n := len(r.RequestURI)
	for k, vv := range r.Header {
		n += len(k)
		for _, v := range vv {
			n += fieldSize + len(v)
		}
	}
	if n <= freeHeader {
		return 0
	}
	return n
}

func (cs *connections) begin(req *request, header int) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if c := req.conn; !c.served {
		c.served = true
		if c.place != nil { // the client has taken this request back already
			cs.fresh.Remove(c.place)
			c.rest()
		}
	}
	if !cs.take(header) {
		return false
	}
	req.header = header
	cs.working++
	return true
}

func (cs *connections) end(req *request, major int) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.headers -= req.header
	if req.waits == nil {
		cs.working-- // it panicked
		return
	}
	if major == 1 && !req.conn.closed {
		req.conn.answer = req.waits // net/http delivers the rest
		return
	}
	cs.unwait(req.waits)
}

// busy returns the number of requests in a handler that do not wait for their
// client.
func (cs *connections) busy() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.working
}

// A request is one in a handler. It sees when it waits for its client.
type request struct {
	http.ResponseWriter
	conn   *conn
	header int           // bytes of conns.headers
	waits  *list.Element // in conns.waiting, nil while it does not wait; guarded by conns.mu
}

// wait has the request wait for its client. Where more wait than there may be
// connections, it closes the connection with the most of them.
func (req *request) wait() {
	cs := req.conn.conns
	var victim *conn
	cs.mu.Lock()
	if req.waits == nil {
		req.waits = cs.wait(req.conn)
		cs.working--
		if cs.openWaits > cs.max {
			victim = cs.mostWaits()
		}
	}
	cs.mu.Unlock()
	if victim != nil {
		cs.closed.WithLabelValues("stalled").Inc()
		victim.Close()
	}
}

// resume says that the request waits no more.
func (req *request) resume() {
	cs := req.conn.conns
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if req.waits != nil {
		cs.unwait(req.waits)
		req.waits = nil
		cs.working++
	}
}

func (req *request) WriteHeader(status int) {
	if status >= 200 {
		req.wait()
	}
	req.ResponseWriter.WriteHeader(status)
}

func (req *request) Write(p []byte) (int, error) {
	req.wait()
	return req.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (req *request) Unwrap() http.ResponseWriter { return req.ResponseWriter }

// A body is the body of a request, which waits for its client until it has
// been read.
type body struct {
	io.ReadCloser
	req *request
}

func (b *body) Read(p []byte) (int, error) {
	b.req.wait()
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.req.resume()
	}
	return n, err
}
