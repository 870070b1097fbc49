// Package server listens, serves and stops without failing a request.
package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Limits of a connection. With those of Config they protect from clients that
// are slow, many, or send too much.
const (
	readHeaderTimeout = 10 * time.Second // for the TLS handshake too
	answerTime        = time.Second      // to write the answer of a request that took all its time
	maxHeaderBytes    = 64 << 10
	maxStreams        = 32 // of an HTTP/2 connection: each may hold an answer that its client does not take
	pingAfter         = 30 * time.Second
	// adminConnections are kept for the internal listener.
	adminConnections = 32
	adminTimeout     = 2 * time.Minute // for a profile too
)

// Config says where to listen and how to stop. An address that is "" is not
// listened at.
type Config struct {
	Addr      string // of the API without TLS
	TLSAddr   string // of the API with TLS
	HTTPAddr  string // of port 80 beside TLS
	AdminAddr string // of the internal listener

	MaxConnections int           // open at a time, except those of the internal listener
	RequestTimeout time.Duration // for reading the body of a request, and all else up to its answer
	IdleTimeout    time.Duration // of a connection between two requests

	DrainDelay   time.Duration // between being told to stop and refusing connections
	DrainTimeout time.Duration // for the requests then in flight
	Log          *slog.Logger
}

// Handlers answer the requests of the listeners, each those of one.
type Handlers struct {
	API   http.Handler // at Addr
	TLS   http.Handler // at TLSAddr
	HTTP  http.Handler // at HTTPAddr
	Admin http.Handler // at AdminAddr

	TLSConfig *tls.Config
}

// A Server holds the listeners.
type Server struct {
	cfg                     Config
	api, tls, port80, admin net.Listener // nil if not listened at
	public, internal        *connections
	draining                atomic.Bool
}

// Listen opens the listeners, so that a port that is taken is known before
// anything else is done. Connections wait until Serve is called.
func Listen(cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, public: newConnections(cfg.MaxConnections), internal: newConnections(adminConnections)}
	for _, l := range []struct {
		to                  *net.Listener
		what, addr, setting string
	}{
		{&s.api, "requests", cfg.Addr, "ADDR"},
		{&s.tls, "requests with TLS", cfg.TLSAddr, "TLS_ADDR"},
		{&s.port80, "challenges, and requests without TLS", cfg.HTTPAddr, "HTTP_ADDR"},
		{&s.admin, "probes and metrics", cfg.AdminAddr, "ADMIN_ADDR"},
	} {
		if l.addr == "" {
			continue
		}
		var err error
		if *l.to, err = net.Listen("tcp", l.addr); err != nil {
			hint := "choose another address with " + l.setting
			if errors.Is(err, fs.ErrPermission) {
				hint += ", or let the program use ports below 1024: CAP_NET_BIND_SERVICE"
			}
			return nil, errors.Join(fmt.Errorf("listen for %s: %w (%s)", l.what, err, hint), s.Close())
		}
	}
	return s, nil
}

// Addr is the address of the API without TLS, with the port that was chosen for
// 0; nil if it is not listened at, as for those that follow.
func (s *Server) Addr() *net.TCPAddr { return addr(s.api) }

// TLSAddr is the address of the API with TLS.
func (s *Server) TLSAddr() *net.TCPAddr { return addr(s.tls) }

// HTTPAddr is the address of port 80 beside TLS.
func (s *Server) HTTPAddr() *net.TCPAddr { return addr(s.port80) }

// AdminAddr is the internal listener's address.
func (s *Server) AdminAddr() *net.TCPAddr { return addr(s.admin) }

func addr(l net.Listener) *net.TCPAddr {
	if l == nil {
		return nil
	}
	return l.Addr().(*net.TCPAddr)
}

// Connections measures the connections, for metrics. Those of the internal
// listener are not among them.
func (s *Server) Connections() prometheus.Collector { return s.public }

// Draining reports whether the server has been told to stop.
func (s *Server) Draining() bool { return s.draining.Load() }

// Close closes the listeners of a Server that is not served.
func (s *Server) Close() error {
	var errs []error
	for _, l := range []net.Listener{s.api, s.tls, s.port80, s.admin} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}

// Serve answers requests with h until ctx ends. Then it says that it is not
// ready and goes on for DrainDelay, so that the load balancer can take it out;
// then it refuses connections and waits for the requests in flight for
// DrainTimeout at most. It returns nil if each of them got its answer.
func (s *Server) Serve(ctx context.Context, h Handlers) error {
	failed := make(chan error, 4)
	serve := func(l net.Listener, conns *connections, h http.Handler, timeout time.Duration, config *tls.Config) *http.Server {
		srv := s.newServer(conns, h, timeout)
		srv.TLSConfig = config
		go func() {
			if config != nil {
				failed <- srv.ServeTLS(conns.listener(l), "", "")
			} else {
				failed <- srv.Serve(conns.listener(l))
			}
		}()
		return srv
	}
	var public []*http.Server
	if s.api != nil {
		public = append(public, serve(s.api, s.public, s.closeWhenDraining(h.API), s.cfg.RequestTimeout, nil))
	}
	if s.tls != nil {
		public = append(public, serve(s.tls, s.public, s.closeWhenDraining(h.TLS), s.cfg.RequestTimeout, h.TLSConfig))
	}
	if s.port80 != nil {
		public = append(public, serve(s.port80, s.public, s.closeWhenDraining(h.HTTP), s.cfg.RequestTimeout, nil))
	}
	admin := serve(s.admin, s.internal, h.Admin, adminTimeout, nil)

	stopIdle := make(chan struct{})
	defer close(stopIdle)
	for _, conns := range []*connections{s.public, s.internal} {
		go conns.closeIdle(s.cfg.IdleTimeout, stopIdle)
	}

	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
		s.draining.Store(true)
		s.cfg.Log.Info("stopping", "drain_delay", s.cfg.DrainDelay)
		select {
		case err = <-failed:
		case <-time.After(s.cfg.DrainDelay):
		}
	}
	if err != nil {
		err = fmt.Errorf("serve: %w", err)
	}
	// The internal one last, so that probes are answered until then.
	return errors.Join(err, s.shutdown(ctx, public), admin.Close())
}

// shutdown closes the listeners of all servers at a time, and waits for the
// requests in flight. That a client did not take its answer is no error.
func (s *Server) shutdown(ctx context.Context, servers []*http.Server) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DrainTimeout)
	defer cancel()
	errs := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, srv := range servers {
		wg.Go(func() {
			err := srv.Shutdown(ctx)
			if err == nil {
				return
			}
			if s.public.busy() > 0 {
				errs[i] = fmt.Errorf("stop: requests still in flight after %v were cut off: %w", s.cfg.DrainTimeout, err)
			}
			errs[i] = errors.Join(errs[i], srv.Close())
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// newServer returns a server of h whose requests take at most timeout, and
// answerTime to write the answer then.
func (s *Server) newServer(conns *connections, h http.Handler, timeout time.Duration) *http.Server {
	return &http.Server{
		Handler:           conns.handler(h, timeout),
		ReadHeaderTimeout: min(readHeaderTimeout, timeout),
		ReadTimeout:       timeout,
		WriteTimeout:      timeout + answerTime,
		// connections closes idle ones. After an HTTP/2 connection that closes
		// with a stream open, net/http would keep all it held for this time.
		IdleTimeout:                  -1,
		MaxHeaderBytes:               maxHeaderBytes,
		DisableGeneralOptionsHandler: true, // OPTIONS * gets an answer like any other
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReadFrameSize:              16 << 10, // its buffer is allocated before it is received
			MaxReceiveBufferPerConnection: 64 << 10,
			MaxReceiveBufferPerStream:     64 << 10,
			SendPingTimeout:               pingAfter, // ends a header that is not finished, too
			WriteByteTimeout:              timeout,
		},
		ErrorLog:    log.New(errorLog{s.cfg.Log}, "", 0),
		ConnState:   conns.connState,
		ConnContext: conns.connContext,
	}
}

// closeWhenDraining has clients open a new connection, to another replica,
// for their next request. Of a HTTP/2 connection net/http makes a GOAWAY of
// this, and serves the requests that it crosses. Idle connections are not
// closed meanwhile: a request may be on its way on one.
func (s *Server) closeWhenDraining(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// An errorLog takes net/http's own words. That a handshake failed says nothing
// about this server: on a public port most are by programs that look for holes.
type errorLog struct{ log *slog.Logger }

func (l errorLog) Write(p []byte) (int, error) {
	level := slog.LevelWarn
	if bytes.HasPrefix(p, []byte("http: TLS handshake error")) {
		level = slog.LevelDebug
	}
	l.log.Log(context.Background(), level, string(bytes.TrimSpace(p)))
	return len(p), nil
}
