package backendtest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// A RedisServer is a Redis for one test alone, which may kill, freeze, empty
// and restart it. It keeps its port and its directory, but its data only if it
// was told to: with "--appendonly yes", say.
type RedisServer struct {
	args    []string // of redis-server
	port    int
	tlsPort int           // 0 without TLS
	busPort int           // 0 without cluster
	admin   *redis.Client // for the test's own commands

	env     []string // of its process
	clock   *os.File // how far its clock is off; nil if it can't be
	process *os.Process
	exited  chan struct{} // closed when the process has
	log     *redisLog
}

// NewRedis starts a Redis, which is killed at the end of the test. The
// arguments are those of redis-server: "--requirepass", "secret", say.
func NewRedis(t testing.TB, args ...string) *RedisServer {
	t.Helper()
	return newRedis(t, "", args)
}

// NewRedisWithClock starts a Redis the clock of which SetClock sets.
func NewRedisWithClock(t testing.TB) *RedisServer {
	t.Helper()
	dir := t.TempDir()
	clock, err := os.Create(filepath.Join(dir, "offset"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { clock.Close() })
	if err := clock.Truncate(8); err != nil {
		t.Fatal(err)
	}
	lib := filepath.Join(dir, "clock.so")
	if out, err := exec.Command("cc", "-shared", "-fPIC", "-O1", "-o", lib, clockSource(t)).CombinedOutput(); err != nil {
		t.Fatalf("cc: %v\n%s", err, out)
	}
	s := &RedisServer{clock: clock, env: []string{"LD_PRELOAD=" + lib, "CLOCK_OFFSET=" + clock.Name()}}
	s.init(t, "", nil)
	return s
}

//go:embed testdata/clock.c
var clockC []byte

func clockSource(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "clock.c")
	if err := os.WriteFile(path, clockC, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// SetClock sets the server's clock.
func (s *RedisServer) SetClock(t testing.TB, now time.Time) {
	t.Helper()
	var offset [8]byte
	binary.NativeEndian.PutUint64(offset[:], uint64(time.Until(now)))
	if _, err := s.clock.WriteAt(offset[:], 0); err != nil {
		t.Fatal(err)
	}
}

func newRedis(t testing.TB, config string, args []string) *RedisServer {
	t.Helper()
	s := &RedisServer{}
	s.init(t, config, args)
	return s
}

// init starts the server, which is killed at the end of the test.
func (s *RedisServer) init(t testing.TB, config string, args []string) {
	t.Helper()
	dir := t.TempDir()
	// A file of its own, because a Sentinel has it rewritten.
	file := filepath.Join(dir, "redis.conf")
	err := os.WriteFile(file, []byte(config), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		s.port = freePort()
		s.args = []string{
			file, "--bind", "127.0.0.1", "--port", strconv.Itoa(s.port), "--dir", dir,
			"--save", "", "--repl-diskless-sync-delay", "0",
		}
		if slices.Contains(args, "--tls-cert-file") {
			s.tlsPort = freePort()
			s.args = append(s.args, "--tls-port", strconv.Itoa(s.tlsPort))
		}
		if slices.Contains(args, "--cluster-enabled") {
			s.busPort = freePort()
			s.args = append(s.args, "--cluster-port", strconv.Itoa(s.busPort))
		}
		s.args = append(s.args, args...)
		if err = s.start(); err == nil || !strings.Contains(err.Error(), "Address already in use") {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	s.admin = redis.NewClient(&redis.Options{
		Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)), Password: argument(args, "--requirepass"),
	})
	t.Cleanup(func() {
		s.admin.Close()
		s.Kill()
		if t.Failed() {
			t.Logf("%s %q:\n%s", s.Addr(), args, s.log)
		}
	})
}

// argument returns the value of one of the arguments.
func argument(args []string, name string) string {
	if i := slices.Index(args, name); i >= 0 {
		return args[i+1]
	}
	return ""
}

// freePort returns a port that is free now, below those that connections and
// other tests' servers take.
func freePort() int {
	for {
		port := 10_000 + mathrand.IntN(10_000)
		if ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			ln.Close()
			return port
		}
	}
}

func (s *RedisServer) start() error {
	cmd := exec.Command("redis-server", s.args...)
	cmd.Env = append(os.Environ(), s.env...)
	s.log = &redisLog{ready: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = s.log, s.log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%w: run the tests with `make test`, or `internal/backendtest/with-servers go test ./...`, which install it", err)
	}
	spare := orphanKiller(cmd.Process.Pid)
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it was killed, or the log says why
		spare()
		close(exited)
	}()
	s.process, s.exited = cmd.Process, exited
	select {
	case <-s.log.ready:
		return nil
	case <-exited:
	case <-time.After(20 * time.Second):
		s.Kill()
	}
	return fmt.Errorf("redis-server did not start:\n%s", s.log)
}

// orphanKiller has a process killed when this one ends, as by a panic, before
// spare is called.
func orphanKiller(pid int) (spare func()) {
	cmd := exec.Command("sh", "-c", fmt.Sprintf("read _ || kill -9 %d", pid))
	in, err := cmd.StdinPipe()
	if err != nil {
		return func() {}
	}
	if err := cmd.Start(); err != nil {
		return func() {}
	}
	return func() {
		_, _ = in.Write([]byte("\n"))
		_ = cmd.Wait()
	}
}

// Start starts a server that was killed.
func (s *RedisServer) Start(t testing.TB) {
	t.Helper()
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
}

// Kill ends the server as kill -9 does.
func (s *RedisServer) Kill() {
	_ = s.process.Kill() // it may have ended
	<-s.exited
}

// Freeze stops the server where it is: it still accepts connections, by the
// kernel, but does not answer.
func (s *RedisServer) Freeze() { _ = s.process.Signal(syscall.SIGSTOP) }

// Thaw has a frozen server go on.
func (s *RedisServer) Thaw() { _ = s.process.Signal(syscall.SIGCONT) }

// Flush deletes all that the server holds.
func (s *RedisServer) Flush(t testing.TB) {
	t.Helper()
	s.Do(t, "FLUSHALL")
}

// Do returns the server's answer to a command.
func (s *RedisServer) Do(t testing.TB, args ...any) any {
	t.Helper()
	answer, err := s.admin.Do(t.Context(), args...).Result()
	if err != nil {
		t.Fatalf("%v at %s: %v", args, s.Addr(), err)
	}
	return answer
}

// has reports whether the server's answer to INFO or CLUSTER INFO has a line.
func (s *RedisServer) has(ctx context.Context, line string, args ...any) bool {
	info, _ := s.admin.Do(ctx, args...).Text()
	return slices.Contains(strings.Fields(info), line)
}

// Addr returns the server's host and port.
func (s *RedisServer) Addr() string {
	port := s.port
	if s.tlsPort != 0 {
		port = s.tlsPort
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

// URL returns the server's URL, without a password or the options for TLS.
func (s *RedisServer) URL() string { return redisURL("", []*RedisServer{s}) + "/0" }

func redisURL(topology string, servers []*RedisServer) string {
	scheme := "redis"
	var addrs []string
	for _, s := range servers {
		if s.tlsPort != 0 {
			scheme = "rediss"
		}
		addrs = append(addrs, s.Addr())
	}
	return scheme + topology + "://" + strings.Join(addrs, ",")
}

// A redisLog keeps what a redis-server prints, and tells when it is ready.
type redisLog struct {
	ready chan struct{} // closed then

	mu   sync.Mutex
	text bytes.Buffer
}

func (l *redisLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.text.Write(b)
	select {
	case <-l.ready:
	default:
		if text := l.text.String(); strings.Contains(text, "Ready to accept connections") || strings.Contains(text, "+monitor") {
			close(l.ready)
		}
	}
	return n, err
}

// String returns the end of the log.
func (l *redisLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := l.text.String()
	return text[max(0, len(text)-2000):]
}

// A RedisCluster is a Redis Cluster for one test alone.
type RedisCluster struct {
	Nodes []*RedisServer // first those that began as masters, then their replicas
}

// NewRedisCluster starts a cluster of so many masters, with one replica each
// if replicas is true. They take each other for dead only after a minute:
// see HurryFailover. The arguments are those of redis-server.
func NewRedisCluster(t testing.TB, masters int, replicas bool, args ...string) *RedisCluster {
	t.Helper()
	args = append([]string{
		"--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1",
		"--cluster-node-timeout", "60000", "--cluster-replica-validity-factor", "0",
	}, args...)
	n := masters
	if replicas {
		n = 2 * masters
	}
	c := &RedisCluster{}
	for i := range n {
		s := NewRedis(t, args...)
		s.Do(t, "CLUSTER", "SET-CONFIG-EPOCH", i+1)
		if i < masters {
			s.Do(t, "CLUSTER", "ADDSLOTSRANGE", i*16384/masters, (i+1)*16384/masters-1)
		}
		for _, other := range c.Nodes {
			_, port, _ := net.SplitHostPort(other.Addr())
			s.Do(t, "CLUSTER", "MEET", "127.0.0.1", port, other.busPort)
		}
		c.Nodes = append(c.Nodes, s)
	}
	for i, s := range c.Nodes {
		waitFor(t, "the nodes to meet", func() bool {
			return s.has(t.Context(), fmt.Sprintf("cluster_known_nodes:%d", n), "CLUSTER", "INFO")
		})
		if i >= masters {
			id := c.Nodes[i-masters].Do(t, "CLUSTER", "MYID")
			waitFor(t, "a replica to know its master", func() bool {
				return s.admin.Do(t.Context(), "CLUSTER", "REPLICATE", id).Err() == nil
			})
		}
	}
	for i, s := range c.Nodes {
		waitFor(t, "the cluster to be up", func() bool { return s.has(t.Context(), "cluster_state:ok", "CLUSTER", "INFO") })
		if replicas && i < masters {
			waitFor(t, "a replica", func() bool { return s.has(t.Context(), "connected_slaves:1", "INFO", "replication") })
		}
	}
	return c
}

// URL returns the URL of the cluster.
func (c *RedisCluster) URL() string { return redisURL("+cluster", c.Nodes) }

// HurryFailover has the nodes take one for dead that does not answer for half
// a second, which a busy machine may bring about too.
func (c *RedisCluster) HurryFailover(t testing.TB) {
	t.Helper()
	for _, s := range c.Nodes {
		s.Do(t, "CONFIG", "SET", "cluster-node-timeout", 500)
	}
}

// Master returns the node that serves a key, as all the others see it that
// answer.
func (c *RedisCluster) Master(t testing.TB, key string) *RedisServer {
	t.Helper()
	slot := int(c.Nodes[0].Do(t, "CLUSTER", "KEYSLOT", key).(int64))
	shards, err := c.Nodes[0].admin.ClusterShards(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, shard := range shards {
		if !slices.ContainsFunc(shard.Slots, func(r redis.SlotRange) bool { return int64(slot) >= r.Start && int64(slot) <= r.End }) {
			continue
		}
		for _, n := range shard.Nodes {
			for _, s := range c.Nodes {
				if n.Role == "master" && (n.Port == int64(s.port) || n.TLSPort == int64(s.port)) {
					return s
				}
			}
		}
	}
	t.Fatalf("no node serves slot %d", slot)
	return nil
}

// A RedisSentinel is a Redis with a replica, watched over by Sentinels that
// call it "mymaster", for one test alone.
type RedisSentinel struct {
	Master, Replica *RedisServer // as they began
	Sentinels       []*RedisServer
}

// NewRedisSentinel starts a master, a replica and 1 to 3 Sentinels, the
// majority of which is a quorum. They take the master for dead only after a
// minute: see HurryFailover. The arguments are those of redis-server.
func NewRedisSentinel(t testing.TB, sentinels int, args ...string) *RedisSentinel {
	t.Helper()
	r := &RedisSentinel{Master: NewRedis(t, args...)}
	host, port, _ := net.SplitHostPort(r.Master.Addr())
	config := fmt.Sprintf(`
		sentinel monitor mymaster %s %s %d
		sentinel down-after-milliseconds mymaster 60000
		sentinel failover-timeout mymaster 3000
	`, host, port, sentinels/2+1)
	replica := append([]string{"--replicaof", host + " " + port}, args...)
	if password := argument(args, "--requirepass"); password != "" {
		config += "sentinel auth-pass mymaster " + password
		replica = append(replica, "--masterauth", password)
	}
	r.Replica = NewRedis(t, replica...)
	// A Sentinel looks for replicas at once, and then only each ten seconds.
	waitFor(t, "the replica", func() bool {
		return r.Replica.has(t.Context(), "master_link_status:up", "INFO", "replication")
	})
	for range sentinels {
		r.Sentinels = append(r.Sentinels, newRedis(t, config, append([]string{"--sentinel"}, args...)))
	}
	return r
}

// URL returns the URL of what the Sentinels watch over, without a password or
// the options for TLS.
func (r *RedisSentinel) URL() string { return redisURL("+sentinel", r.Sentinels) + "/mymaster/0" }

// HurryFailover has the Sentinels take the master for dead when it does not
// answer for half a second, which a busy machine may bring about too. It
// returns when they know each other and the replica, and so can fail over.
func (r *RedisSentinel) HurryFailover(t testing.TB) {
	t.Helper()
	for _, s := range r.Sentinels {
		waitFor(t, "the Sentinels to know all", func() bool {
			cmd := redis.NewMapStringStringCmd(t.Context(), "SENTINEL", "MASTER", "mymaster")
			_ = s.admin.Process(t.Context(), cmd)
			return cmd.Val()["num-slaves"] == "1" && cmd.Val()["num-other-sentinels"] == strconv.Itoa(len(r.Sentinels)-1)
		})
		s.Do(t, "SENTINEL", "SET", "mymaster", "down-after-milliseconds", 500)
	}
}

// RedisTLS returns arguments for redis-server with which it talks TLS, as
// 127.0.0.1 and only to who has a certificate too, and the options with which
// a URL does. The certificates are of a CA that nobody else knows.
func RedisTLS(t testing.TB) (args []string, options string) {
	t.Helper()
	dir := t.TempDir()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test Redis"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var keys [2]*ecdsa.PrivateKey
	var certs [2][]byte
	for i, cert := range []*x509.Certificate{ca, server} {
		var err error
		if keys[i], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err == nil {
			certs[i], err = x509.CreateCertificate(rand.Reader, cert, ca, keys[i].Public(), keys[0])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := x509.MarshalPKCS8PrivateKey(keys[1])
	if err != nil {
		t.Fatal(err)
	}
	caFile := write("ca.pem", "CERTIFICATE", certs[0])
	certFile := write("cert.pem", "CERTIFICATE", certs[1])
	keyFile := write("key.pem", "PRIVATE KEY", key)
	return []string{
		"--tls-ca-cert-file", caFile, "--tls-cert-file", certFile, "--tls-key-file", keyFile,
		"--tls-replication", "yes", "--tls-cluster", "yes",
	}, "?" + url.Values{
		"ca_file": {caFile}, "cert_file": {certFile}, "key_file": {keyFile},
	}.Encode()
}
