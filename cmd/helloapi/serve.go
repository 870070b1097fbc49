package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"helloapi/internal/admin"
	"helloapi/internal/api"
	"helloapi/internal/backend"
	"helloapi/internal/certs"
	"helloapi/internal/hostname"
	"helloapi/internal/idempotency"
	"helloapi/internal/logbuf"
	"helloapi/internal/plan"
	"helloapi/internal/planfile"
	"helloapi/internal/refusals"
	"helloapi/internal/server"
	"helloapi/internal/web"
)

type serveCmd struct {
	Addr       string   `setting:"" placeholder:"HOST:PORT" help:"Where to serve the API without TLS. Default: :8080, or nowhere if TLS is on."`
	AdminAddr  string   `setting:"" default:"127.0.0.1:8081" placeholder:"HOST:PORT" help:"Where to serve probes and metrics. Not for the public."`
	AdminHosts []string `setting:"" placeholder:"HOST" help:"Names by which ADMIN_ADDR is asked, as in the targets of Prometheus. Addresses, localhost, the machine's own name and that in ADMIN_ADDR always are."`
	database
	RedisURL     string `setting:"" placeholder:"URL" help:"Where all replicas count limits together: redis://:password@host:6379/0, redis+cluster://host1,host2 or redis+sentinel://host1,host2/mymaster; rediss in place of redis for TLS. Without it each counts for itself."`
	MeterOnError string `setting:"" enum:"local,deny" default:"local" placeholder:"HOW" help:"While Redis is away: local (each replica goes on by itself, on what the database says was used) or deny (503)."`
	Migrate      bool   `setting:"" help:"Migrate PostgreSQL before serving. SQLite always is."`
	PlansFile    string `setting:"" placeholder:"FILE" help:"A plans file to apply before serving from SQLite. With PostgreSQL helloapi apply does that, once for all replicas."`

	KeyStaleMax        time.Duration `setting:"" default:"1h" placeholder:"TIME" help:"How long a known key may be used while the database is away."`
	MaxInFlight        int           `setting:"" default:"4096" placeholder:"N" help:"Requests served at a time. More get 503. At most as many as MAX_CONNECTIONS."`
	MaxConnections     int           `setting:"" placeholder:"N" help:"Connections of clients open at a time. A further one closes the one that is idle for the longest. Default: from the limits of memory and open files, logged at the start."`
	RequestTimeout     time.Duration `setting:"" default:"10s" placeholder:"TIME" help:"How long a request may take: receiving its body, the stores, and sending its answer."`
	IdleTimeout        time.Duration `setting:"" default:"620s" placeholder:"TIME" help:"How long a connection may be idle. More than a load balancer keeps it, so that it is the one to close it."`
	DrainDelay         time.Duration `setting:"" default:"0s" placeholder:"TIME" help:"How long to go on serving when told to stop, for a load balancer to notice."`
	DrainTimeout       time.Duration `setting:"" default:"20s" placeholder:"TIME" help:"How long to wait then for requests in flight."`
	CORSAllowedOrigins []string      `name:"cors-allowed-origins" setting:"" default:"*" placeholder:"ORIGIN" help:"Whose pages may call: https://app.example.com, or * for any."`

	Pages          string   `setting:"" enum:"on,off" default:"on" placeholder:"on|off" help:"Serve what a person with a browser looks for, /, /docs and /openapi.json: on or off."`
	TrustedProxies []string `setting:"" placeholder:"CIDR" help:"Networks of the proxies in front, such as 10.0.0.0/8 or 192.0.2.7. Only theirs is believed: the client's address for the log (X-Forwarded-For, from its end), and X-Request-Id."`

	tlsSettings

	LogLevel  string `setting:"" enum:"debug,info,warn,error" default:"info" placeholder:"LEVEL" help:"What to log: debug, info, warn or error. Requests are info, those that failed error."`
	LogFormat string `setting:"" enum:"text,json" default:"text" placeholder:"FORMAT" help:"How to log: text or json."`
	Pprof     bool   `setting:"" help:"Serve profiles at ADMIN_ADDR under /debug/pprof/."`
}

// Validate returns every mistake in the settings. It is called when they have
// been read.
func (c *serveCmd) Validate() error {
	var errs []error
	for _, s := range []struct{ name, addr string }{{"ADDR", c.addr()}, {"ADMIN_ADDR", c.AdminAddr}} {
		if _, _, err := net.SplitHostPort(s.addr); err != nil && (s.addr != "" || s.name == "ADMIN_ADDR") {
			errs = append(errs, fmt.Errorf("%s: %q must be like :8080 or 127.0.0.1:8080", s.name, s.addr))
		}
	}
	origins, err := hostname.List(c.CORSAllowedOrigins, func(o string) (string, error) {
		if o == "*" {
			return o, nil
		}
		return hostname.Origin(o)
	})
	if err == nil && len(origins) == 0 {
		err = errors.New("name the origins, or * for any")
	}
	errs = append(errs, inSetting("CORS_ALLOWED_ORIGINS", err))
	_, err = hostname.List(c.AdminHosts, func(name string) (string, error) {
		if !hostname.Server(name) {
			return "", errors.New("must be a name such as api-1.internal, without a port")
		}
		return name, nil
	})
	errs = append(errs, inSetting("ADMIN_HOSTS", err), backend.Check(c.URL, c.RedisURL))
	c.CORSAllowedOrigins = origins
	_, err = c.proxies()
	errs = append(errs, inSetting("TRUSTED_PROXIES", err))
	if c.PlansFile != "" && !strings.HasPrefix(c.URL, "sqlite:") {
		errs = append(errs, errors.New("PLANS_FILE: is for SQLite, which one process serves; with PostgreSQL run `helloapi apply -f FILE` once, before the replicas start"))
	}
	if c.MaxInFlight < 1 {
		errs = append(errs, errors.New("MAX_IN_FLIGHT: must be at least 1"))
	}
	if c.MaxConnections < 0 {
		errs = append(errs, errors.New("MAX_CONNECTIONS: must not be negative"))
	}
	if c.RequestTimeout <= 0 {
		errs = append(errs, errors.New("REQUEST_TIMEOUT: must be more than 0s"))
	}
	if c.IdleTimeout <= 0 {
		errs = append(errs, errors.New("IDLE_TIMEOUT: must be more than 0s"))
	}
	if c.KeyStaleMax < 0 {
		errs = append(errs, errors.New("KEY_STALE_MAX: must not be negative"))
	}
	if c.DrainDelay < 0 {
		errs = append(errs, errors.New("DRAIN_DELAY: must not be negative"))
	}
	if c.DrainTimeout <= 0 {
		errs = append(errs, errors.New("DRAIN_TIMEOUT: must be more than 0s"))
	}
	return errors.Join(append(errs, c.validate()...)...)
}

// inSetting returns the mistakes in a setting, each with its name.
func inSetting(name string, err error) error {
	if list, ok := err.(interface{ Unwrap() []error }); ok {
		var errs []error
		for _, err := range list.Unwrap() {
			errs = append(errs, inSetting(name, err))
		}
		return errors.Join(errs...)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// addr is where the API is served without TLS; "" for nowhere.
func (c *serveCmd) addr() string {
	if c.Addr == "" && !c.on() {
		return ":8080"
	}
	return c.Addr
}

// adminHosts are the names that ADMIN_ADDR is asked by.
func (c *serveCmd) adminHosts() []string {
	host, _, _ := net.SplitHostPort(c.AdminAddr) // validated
	machine, _ := os.Hostname()                  // or ""
	return append(c.AdminHosts, host, machine)
}

// proxies are the networks in TRUSTED_PROXIES.
func (c *serveCmd) proxies() (web.Proxies, error) {
	return hostname.List(c.TrustedProxies, hostname.Network)
}

// logGrace is what records that are not written yet get when the process ends.
const logGrace = time.Second

func (c *serveCmd) Run(p *program) error {
	logs := logbuf.New(p.stderr, c.logFormat)
	defer logs.Close(logGrace)
	log := slog.New(c.logFormat(logs))
	if err := c.serve(p, log, logs); err != nil {
		return err
	}
	log.Info("stopped")
	return nil
}

// serve serves until p.ctx ends and everything is closed.
func (c *serveCmd) serve(p *program, log *slog.Logger, logs *logbuf.Writer) (err error) {
	var plans *planfile.File
	if c.PlansFile != "" {
		if plans, err = readPlans(p, c.PlansFile, planfile.Options{}); err != nil {
			return err
		}
	}

	room := server.LimitMemory()
	connections := cmp.Or(c.MaxConnections, room.Connections())
	if err := room.Check(connections); err != nil {
		return err
	}
	listen := server.Config{
		Addr: c.addr(), AdminAddr: c.AdminAddr,
		MaxConnections: connections, RequestTimeout: c.RequestTimeout, IdleTimeout: c.IdleTimeout,
		DrainDelay: c.DrainDelay, DrainTimeout: c.DrainTimeout, Log: log,
	}
	if c.on() {
		listen.TLSAddr, listen.HTTPAddr = c.TLSAddr, c.httpAddr()
	}
	srv, err := server.Listen(listen)
	if err != nil {
		return err
	}
	stores, err := backend.Open(p.ctx, backend.Config{
		DatabaseURL: c.URL, RedisURL: c.RedisURL, Migrate: c.Migrate, KeyStaleMax: c.KeyStaleMax, Deny: c.MeterOnError == "deny", Log: log,
	})
	if err != nil {
		return errors.Join(err, srv.Close())
	}
	defer func() { err = errors.Join(err, stores.Close()) }()

	metrics := prometheus.NewRegistry()
	certificates, err := c.open(p.ctx, stores, log)
	if err != nil {
		return errors.Join(err, srv.Close())
	}
	var names []string
	if certificates != nil {
		metrics.MustRegister(certificates)
		names = certificates.Names()
	}
	if plans != nil {
		err = apply(p, stores, plans, planfile.ApplyOptions{}, shownValues{file: keysFile(p, stores)}, output{})
	} else {
		err = firstStart(p, log, stores, publicURL(srv, names), c.Pages != off)
	}
	if err != nil {
		return errors.Join(err, srv.Close())
	}

	metrics.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "helloapi_log_dropped_total",
		Help: "Log records that were dropped because nobody read them in time, or that could not be written.",
	}, func() float64 { return float64(logs.Dropped()) }))
	metrics.MustRegister(srv.Connections(), stores, stores.KeyCache, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	ctx, stop := context.WithCancel(context.WithoutCancel(p.ctx)) // until the last request has its answer
	var background sync.WaitGroup
	defer background.Wait()
	defer stop()
	db := stores.Conn()
	refused := refusals.New(db, rand.Text(), stores.KeyCache.Now, log)
	answers := idempotency.New(db, stores.KeyCache.Now, c.RequestTimeout)
	proxies, _ := c.proxies() // validated
	config := api.Config{
		Greetings:          stores.Greetings,
		DB:                 db,
		Answers:            answers,
		Keys:               stores.KeyCache,
		Limits:             stores.Limits,
		Refusals:           refused,
		Log:                log,
		Metrics:            web.NewMetrics(metrics),
		TrustedProxies:     proxies,
		CORSAllowedOrigins: c.CORSAllowedOrigins,
		MaxInFlight:        min(c.MaxInFlight, connections), // also those of HTTP/2 hold memory
		RequestTimeout:     c.RequestTimeout,
		Pages:              c.Pages != off,
	}
	public, err := api.New(config)
	if err != nil {
		return errors.Join(err, srv.Close())
	}
	background.Go(func() { answers.Run(ctx) })
	background.Go(func() {
		if err := refused.Run(ctx); err != nil {
			log.Error("refusals of the last second are lost", "error", err)
		}
	})
	handlers := server.Handlers{API: public}
	operator := admin.Config{
		Ready: stores.Ready, Draining: srv.Draining, Metrics: metrics, Pprof: c.Pprof, Version: version(), About: stores.About,
		Hosts: c.adminHosts(),
	}
	if certificates != nil {
		handlers.TLS, handlers.HTTP, handlers.TLSConfig = public, api.NewPort80(config, certificates.HTTPHandler()), certificates.TLSConfig(c.minVersion())
		if c.HSTS != off {
			handlers.TLS = certs.WithHSTS(c.HSTS, public)
		}
		operator.Certificates = certificates.Statuses
		certificates.Start(p.ctx)
		defer func() { err = errors.Join(err, certificates.Close()) }()
	}
	handlers.Admin = admin.New(operator)
	c.logStart(p.ctx, log, srv, stores, publicURL(srv, names), room, connections)
	return srv.Serve(p.ctx, handlers)
}

// logFormat returns the handler that writes records to w, as the settings say.
func (c *serveCmd) logFormat(w io.Writer) slog.Handler {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.LogLevel)) // one of the enum
	opts := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		opts.ReplaceAttr = inSeconds
		return slog.NewJSONHandler(w, opts)
	}
	return slog.NewTextHandler(w, opts)
}

// inSeconds writes a duration as a number whose name has the unit: in JSON it
// would be a bare number of nanoseconds.
func inSeconds(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		return slog.Float64(a.Key+"_seconds", a.Value.Duration().Seconds())
	}
	return a
}

func plansByName(ctx context.Context, plans plan.Plans) (map[string]plan.Plan, error) {
	all, err := plans.Plans(ctx)
	byName := make(map[string]plan.Plan, len(all))
	for _, p := range all {
		byName[p.Name] = p.Plan
	}
	return byName, err
}

// listeners are the addresses that are served, for the log.
func listeners(srv *server.Server) (attrs []any) {
	for _, l := range []struct {
		name string
		addr *net.TCPAddr
	}{{"addr", srv.Addr()}, {"tls_addr", srv.TLSAddr()}, {"http_addr", srv.HTTPAddr()}, {"admin_addr", srv.AdminAddr()}} {
		if l.addr != nil {
			attrs = append(attrs, l.name, l.addr.String())
		}
	}
	return attrs
}

// publicURL is where a person can try the API: on this machine if it is served
// there without TLS, else at the first of the names that there is a certificate
// for.
func publicURL(srv *server.Server, names []string) string {
	if addr := srv.Addr(); addr != nil {
		return "http://" + localAddr(addr)
	}
	host := "localhost"
	if len(names) > 0 {
		host = strings.Replace(names[0], "*", "www", 1)
	}
	if port := srv.TLSAddr().Port; port != 443 {
		host = net.JoinHostPort(host, strconv.Itoa(port))
	}
	return "https://" + host
}

// localAddr is how a program on this machine reaches a listener.
func localAddr(a *net.TCPAddr) string {
	host := a.IP.String()
	if len(a.IP) == 0 || a.IP.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, strconv.Itoa(a.Port))
}
