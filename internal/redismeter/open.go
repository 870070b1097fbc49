package redismeter

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"helloapi/internal/hostname"
)

// What a URL's scheme ends in, after redis or rediss.
const (
	single   = ""
	cluster  = "+cluster"
	sentinel = "+sentinel"
)

// forms are what a URL looks like after its scheme.
var forms = map[string]string{
	single:   "://user:password@host:6379/0",
	cluster:  "://user:password@host1:6379,host2:6379",
	sentinel: "://user:password@host1:26379,host2:26379/mymaster/0",
}

// How old the cluster client's map of the cluster may get. It is told of a
// move by a node that answers; of a failover nobody tells it, and until it asks
// it goes on calling the node that is dead. (github.com/redis/go-redis/issues/3979)
const clusterMapAge = time.Second

// What the client library has to say by itself, of Sentinels and of connections
// that fail, is for those who look for it. What comes of it is in the errors.
func init() { redis.SetLogger(debugLog{}) }

type debugLog struct{}

func (debugLog) Printf(ctx context.Context, format string, args ...any) {
	slog.DebugContext(ctx, "go-redis: "+fmt.Sprintf(format, args...))
}

// connect returns a client of one Redis, of a Redis Cluster, or of the master
// that Redis Sentinels agree on. It does not wait for them to be there.
//
//	redis://[[USER]:PASSWORD@]HOST[:6379][/DATABASE]
//	redis+cluster://[[USER]:PASSWORD@]HOST[:6379][,HOST[:6379]…]
//	redis+sentinel://[[USER]:PASSWORD@]HOST[:26379][,HOST[:26379]…]/MASTER[/DATABASE]
//
// Any of a cluster's nodes do, and any of the Sentinels: the others are found.
// The user and password are those of the Redis. Characters with a meaning in
// URLs are percent-encoded. The form with Sentinels is what redisvl, Prefect
// and others read; Lettuce and Spring have one of their own (redis-sentinel://).
//
// With rediss in place of redis all of it, the Sentinels too, is over TLS, and
// a server's certificate must be for the address by which it is called: of a
// cluster, and of a master, the one that the servers announce. A query may say
//
//	ca_file=PATH         who signed the certificates, if not one whom the system trusts
//	cert_file=PATH       the certificate to show, for a Redis that asks for one (its
//	key_file=PATH        default), and its key; read anew for each connection
//	server_name=NAME     whom the servers' certificates are for, all of them
//	sentinel_username=…  how to log in to the Sentinels, where they ask for it
//	sentinel_password=…
//
// Each new connection is handed to connected first.
//
// The error names no part of the URL but a file, for any other may be of a
// password that was not encoded.
func connect(url string, connected func(context.Context, *redis.Conn) error) (redis.UniversalClient, error) {
	topology, opts, err := parse(url)
	if err != nil {
		return nil, err
	}
	// The defaults of go-redis suit a cache. Here a request waits: give up soon,
	// honour deadlines, and never send a command twice. (A cluster's client
	// follows redirects, of commands that were refused, at once.)
	opts.ContextTimeoutEnabled = true
	opts.MaxRetries = -1
	opts.MinRetryBackoff = -1
	opts.MaxRetryBackoff = -1
	opts.DialerRetries = 1
	opts.DialTimeout = tripTimeout
	opts.ReadTimeout = tripTimeout
	opts.WriteTimeout = tripTimeout
	opts.PoolTimeout = tripTimeout
	opts.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	// Nearly all goes by pipelines: no connections of their own for those, which
	// would not be kept ready, but one kept ready, with room for a large batch.
	opts.PipelinePoolSize = -1
	opts.MinIdleConns = 1
	opts.OnConnect = connected
	opts.ReadBufferSize = redis.DefaultPipelineBufferSize
	opts.WriteBufferSize = redis.DefaultPipelineBufferSize

	var rdb redis.UniversalClient
	switch topology {
	case cluster:
		c := opts.Cluster()
		c.ClusterStateReloadInterval = clusterMapAge
		rdb = redis.NewClusterClient(c)
	case sentinel:
		rdb = redis.NewFailoverClient(opts.Failover())
	default:
		rdb = redis.NewClient(opts.Simple())
	}
	rdb.AddHook(hook{})
	return rdb, nil
}

// CheckURL returns what is wrong with a URL, in words that hold no part of it
// but a file.
func CheckURL(url string) error {
	_, _, err := parse(url)
	return err
}

// parse returns what a URL says.
func parse(s string) (topology string, _ *redis.UniversalOptions, _ error) {
	scheme, rest, _ := strings.Cut(s, "://")
	scheme = strings.ToLower(scheme)
	plus := strings.IndexByte(scheme+"+", '+')
	protocol, topology := scheme[:plus], scheme[plus:]
	form, known := forms[topology]
	if !known || (protocol != "redis" && protocol != "rediss") {
		return "", nil, fmt.Errorf("REDIS_URL must be like redis%s, redis%s%s or redis%s%s, or rediss… for TLS",
			forms[single], cluster, forms[cluster], sentinel, forms[sentinel])
	}
	bad := func(problem string) (string, *redis.UniversalOptions, error) {
		return "", nil, fmt.Errorf("REDIS_URL must be like %s%s: %s", scheme, form, problem)
	}

	if err := hostname.CheckLogin(s); err != nil {
		return bad(err.Error())
	}
	// The hosts are taken out here: net/url takes one at most.
	end := strings.IndexAny(rest+"/", "/?#")
	at := strings.LastIndexByte(rest[:end], '@') + 1
	hosts, port := strings.Split(rest[at:end], ","), "6379"
	u, err := url.Parse("redis://" + rest[:at] + "host" + rest[end:])
	if err != nil || strings.Contains(rest, "#") {
		return bad(hostname.ErrEncode.Error())
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return bad("what follows the question mark is not name=value&name=value")
	}

	opts := &redis.UniversalOptions{}
	if topology == sentinel {
		port = "26379"
	}
	for _, host := range hosts {
		addr, ok := address(host, port)
		if !ok {
			return bad("a host is missing or is not host:port")
		}
		opts.Addrs = append(opts.Addrs, addr)
	}
	if topology == single && len(hosts) > 1 {
		return bad("several hosts are for redis+cluster:// and redis+sentinel://")
	}
	opts.Username = u.User.Username()
	opts.Password, _ = u.User.Password()
	if opts.Username != "" && opts.Password == "" {
		return bad("there is a user but no password; a password alone is :password@")
	}

	path := strings.FieldsFunc(u.Path, func(r rune) bool { return r == '/' })
	if topology == sentinel {
		if len(path) == 0 {
			return bad("the name is missing by which the Sentinels know the master")
		}
		opts.MasterName, path = path[0], path[1:]
	}
	if len(path) > 0 {
		opts.DB, err = strconv.Atoi(path[0])
		if err != nil || opts.DB < 0 || len(path) > 1 {
			return bad("the path must end in the number of a database")
		}
	}
	if topology == cluster && opts.DB != 0 {
		return bad("a cluster has only database 0")
	}

	for name, values := range query {
		var ok bool
		switch name {
		case "ca_file", "cert_file", "key_file", "server_name":
			ok = protocol == "rediss"
		case "sentinel_username", "sentinel_password":
			ok = topology == sentinel
		}
		if !ok || len(values) > 1 || values[0] == "" {
			return bad("the options are ca_file, cert_file, key_file and server_name with rediss, and sentinel_username and sentinel_password with +sentinel, each once at most")
		}
	}
	opts.SentinelUsername, opts.SentinelPassword = query.Get("sentinel_username"), query.Get("sentinel_password")
	if opts.SentinelUsername != "" && opts.SentinelPassword == "" {
		return bad("there is a sentinel_username but no sentinel_password")
	}
	if protocol == "rediss" {
		if opts.TLSConfig, err = tlsConfig(query); err != nil {
			return "", nil, fmt.Errorf("REDIS_URL: %w", err)
		}
	}
	return topology, opts, nil
}

// address returns a host with its port.
func address(s, port string) (_ string, ok bool) {
	u, err := url.Parse("redis://" + s)
	if err != nil || u.Host != s || !hostname.Server(u.Hostname()) || strings.Contains(u.Hostname(), ":") != (s[0] == '[') {
		return "", false
	}
	if u.Port() != "" {
		port = u.Port()
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return net.JoinHostPort(u.Hostname(), port), err == nil && n != 0
}

func tlsConfig(query url.Values) (*tls.Config, error) {
	// Without a name go-redis has a certificate be for the address it calls.
	cfg := &tls.Config{ServerName: query.Get("server_name")}
	if path := query.Get("ca_file"); path != "" {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("ca_file: no certificate in it")
		}
	}
	if cert, key := query.Get("cert_file"), query.Get("key_file"); cert != "" || key != "" {
		load := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(cert, key)
			return &pair, err
		}
		if _, err := load(nil); err != nil {
			return nil, fmt.Errorf("cert_file and key_file: %w", err)
		}
		cfg.GetClientCertificate = load
	}
	return cfg, nil
}

// hook mends three things in go-redis.
type hook struct{}

// DialHook says what it means that the Sentinels answered with nothing.
func (hook) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		if errors.Is(err, redis.Nil) {
			err = errors.New("the Sentinels know no master of the name in REDIS_URL")
		}
		return conn, err
	}
}

// ProcessHook keeps a cluster's client from first asking up to three servers
// about a command, which it does past the deadline and which a user may not be
// allowed to.
func (hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		cmd.SetStepCount(1)
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook tells the commands why they were not sent when it is the
// server that refuses the connection: for a wrong password, or for too many
// clients. They would pass for having succeeded, with no answer.
func (hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		if err != nil && !slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool { return cmd.Err() != nil }) {
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
		}
		return err
	}
}
