// Package server listens, serves and stops without failing a request.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// Limits of a connection. They protect from clients that are slow or send too
// much; how long a request may take is the API's own matter.
const (
	readHeaderTimeout = 10 * time.Second
	readTimeout       = 30 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
)

// Config says where to listen and how to stop.
type Config struct {
	Addr         string        // of the public listener
	AdminAddr    string        // of the internal listener
	DrainDelay   time.Duration // between being told to stop and refusing connections
	DrainTimeout time.Duration // for the requests then in flight
	Log          *slog.Logger
}

// A Server holds the two listeners.
type Server struct {
	cfg           Config
	public, admin net.Listener
	draining      atomic.Bool
}

// Listen opens the listeners, so that a port that is taken is known before
// anything else is done. Connections wait until Serve is called.
func Listen(cfg Config) (*Server, error) {
	s := &Server{cfg: cfg}
	var err error
	if s.public, err = net.Listen("tcp", cfg.Addr); err != nil {
		return nil, fmt.Errorf("listen for requests: %w (choose another address with ADDR)", err)
	}
	if s.admin, err = net.Listen("tcp", cfg.AdminAddr); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for probes and metrics: %w (choose another address with ADMIN_ADDR)", err), s.public.Close())
	}
	return s, nil
}

// Addr is the public listener's address, with the port that was chosen for 0.
func (s *Server) Addr() *net.TCPAddr { return s.public.Addr().(*net.TCPAddr) }

// AdminAddr is the internal listener's address.
func (s *Server) AdminAddr() *net.TCPAddr { return s.admin.Addr().(*net.TCPAddr) }

// Draining reports whether the server has been told to stop.
func (s *Server) Draining() bool { return s.draining.Load() }

// Close closes the listeners of a Server that is not served.
func (s *Server) Close() error { return errors.Join(s.public.Close(), s.admin.Close()) }

// Serve answers requests with public and those of the internal listener with
// admin until ctx ends. Then it says that it is not ready and goes on for
// DrainDelay, so that the load balancer can take it out; then it refuses
// connections and waits for the requests in flight for DrainTimeout at most.
// It returns nil if each of them got its answer.
func (s *Server) Serve(ctx context.Context, public, admin http.Handler) error {
	pub := s.newServer(s.closeWhenDraining(public))
	adm := s.newServer(admin)
	failed := make(chan error, 2)
	go func() { failed <- pub.Serve(s.public) }()
	go func() { failed <- adm.Serve(s.admin) }()

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

	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DrainTimeout)
	defer cancel()
	if e := pub.Shutdown(stop); e != nil {
		err = errors.Join(err, fmt.Errorf("stop: requests still in flight after %v were cut off: %w", s.cfg.DrainTimeout, e), pub.Close())
	}
	// Last, so that probes are answered until then.
	return errors.Join(err, adm.Close())
}

func (s *Server) newServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:                      h,
		ReadHeaderTimeout:            readHeaderTimeout,
		ReadTimeout:                  readTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeaderBytes,
		DisableGeneralOptionsHandler: true, // OPTIONS * gets an answer like any other
		ErrorLog:                     slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelWarn),
	}
}

// closeWhenDraining has clients open a new connection, to another replica,
// for their next request. Idle connections are not closed meanwhile: a request
// may be on its way on one.
func (s *Server) closeWhenDraining(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}
