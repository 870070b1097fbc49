package backendtest

import (
	"bytes"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A Proxy stands between a client and a server, and can fail as networks do.
type Proxy struct {
	addr string

	mu     sync.Mutex
	target string
	ln     net.Listener  // nil while connections are refused
	hold   bool          // whether new connections are accepted but not served
	delay  time.Duration // before what the server says is passed on
	cut    *cut          // the next cut to make, or nil
	conns  map[*link]bool
	wg     sync.WaitGroup
}

// A link is a connection through the proxy.
type link struct {
	client, server net.Conn // server is nil for one that is not served
	frozen         chan struct{}
	freeze         func()
	cut            atomic.Pointer[cut] // instead of what the server says next, if not nil
}

// A cut is of a connection on which the server is sent something.
type cut struct {
	sent  []byte
	reset bool // with a RST rather than a FIN
	made  atomic.Bool
}

// NewProxy returns a proxy before the server of a URL, and the URL through it.
func NewProxy(t testing.TB, server string) (*Proxy, string) {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{addr: ln.Addr().String(), target: u.Host, conns: map[*link]bool{}}
	p.serve(ln)
	t.Cleanup(func() {
		p.Refuse()
		p.wg.Wait()
	})
	u.Host = p.addr
	return p, u.String()
}

// serve accepts connections on ln. The caller holds p.mu, or is alone.
func (p *Proxy) serve(ln net.Listener) {
	p.ln = ln
	p.wg.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			p.accept(client)
		}
	})
}

func (p *Proxy) accept(client net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := &link{client: client, frozen: make(chan struct{})}
	l.freeze = sync.OnceFunc(func() { close(l.frozen) })
	p.conns[l] = true
	if p.hold || p.ln == nil {
		return
	}
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		client.Close()
		return
	}
	l.server = server
	p.wg.Go(func() { l.copy(server, client, func(b []byte) bool { return p.arm(l, b) }) })
	p.wg.Go(func() { l.copy(client, server, func([]byte) bool { return p.answer(l) }) })
}

// arm has what the server answers cut, if that is to be cut.
func (p *Proxy) arm(l *link, sent []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut != nil && bytes.Contains(sent, p.cut.sent) {
		l.cut.Store(p.cut)
		p.cut = nil
	}
	return true
}

// answer reports whether to pass on what the server says.
func (p *Proxy) answer(l *link) bool {
	if c := l.cut.Load(); c != nil {
		if tcp, ok := l.client.(*net.TCPConn); ok && c.reset {
			_ = tcp.SetLinger(0)
		}
		c.made.Store(true)
		return false
	}
	p.mu.Lock()
	d := p.delay
	p.mu.Unlock()
	time.Sleep(d)
	return true
}

// CutAnswer has the next connection on which the server is sent the text cut
// when it answers, which then is lost: with a FIN, or with a RST. It returns a
// function that reports whether that was done.
func (p *Proxy) CutAnswer(sent string, reset bool) (made func() bool) {
	c := &cut{sent: []byte(sent), reset: reset}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = c
	return c.made.Load
}

// copy forwards until either side closes. What comes while the link is frozen
// is read and lost; it still ends when the client gives it up, so that the
// server does not run out of connections.
func (l *link) copy(to, from net.Conn, pass func([]byte) bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		select {
		case <-l.frozen:
			if err == nil {
				continue
			}
			n = 0
		default:
		}
		if n > 0 {
			if !pass(buf[:n]) {
				break
			}
			if _, err := to.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	l.client.Close()
	l.server.Close()
}

// Retarget has new connections go to the server of another URL. Those there are
// stay.
func (p *Proxy) Retarget(t testing.TB, server string) {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = u.Host
}

// Freeze has the connections there are neither forward nor close. New ones
// are not affected.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.conns {
		l.freeze()
	}
}

// Delay has what the server says come that much later from now on.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Hold freezes the connections there are, and accepts new ones but does not
// serve them.
func (p *Proxy) Hold() {
	p.Freeze()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hold = true
}

// Refuse closes the connections there are, and refuses new ones.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ln != nil {
		p.ln.Close()
		p.ln = nil
	}
	for l := range p.conns {
		l.client.Close()
		if l.server != nil {
			l.server.Close()
		}
	}
	clear(p.conns)
}

// Pass forwards connections from now on. Those that are frozen stay so.
func (p *Proxy) Pass(t testing.TB) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hold = false
	if p.ln == nil {
		ln, err := net.Listen("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		p.serve(ln)
	}
}
