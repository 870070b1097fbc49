package main

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A target is a server under test, of one process or of several replicas.
type target struct {
	procs   []*process
	counts  counts // nil for the bare handler, which counts nothing
	postgre bool   // whether it uses PostgreSQL and Redis
}

// counts are what a target has stored.
type counts interface {
	greeted(context.Context) (int64, error) // greetings, in all
	charged(context.Context) (int64, error) // units of quota, in all
}

// A process is one server.
type process struct {
	cmd     *exec.Cmd
	addr    string
	metrics string // the URL of its metrics
	log     string // the file that standard output and error go to
	exited  chan struct{}
}

// start starts a server with the environment env and ADDR, and waits until it
// takes connections.
func start(ctx context.Context, dir, path string, args []string, env ...string) (*process, error) {
	p := &process{exited: make(chan struct{})}
	p.addr = freeAddr()
	admin := freeAddr()
	p.metrics = "http://" + p.addr + "/metrics"
	if filepath.Base(path) == "helloapi" {
		p.metrics = "http://" + admin + "/metrics"
	}
	log, err := os.CreateTemp(dir, "log-")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.log = log.Name()
	p.cmd = exec.Command(path, args...)
	p.cmd.Dir = dir
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "ADDR=" + p.addr, "ADMIN_ADDR=" + admin}, env...)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	for {
		conn, err := net.Dial("tcp", p.addr)
		if err == nil {
			return p, conn.Close()
		}
		select {
		case <-p.exited:
			out, _ := os.ReadFile(p.log)
			return nil, fmt.Errorf("%s ended: %s", path, out)
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), p.stop())
		case <-time.After(time.Millisecond):
		}
	}
}

// stop ends the process, in peace if it can.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.exited:
		return nil
	case <-time.After(20 * time.Second):
		return p.cmd.Process.Kill()
	}
}

// freeAddr returns an address that nothing listens at.
func freeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (t *target) addrs() (addrs []string) {
	for _, p := range t.procs {
		addrs = append(addrs, p.addr)
	}
	return addrs
}

func (t *target) cpu() (sum time.Duration, err error) {
	for _, p := range t.procs {
		d, err := cpu(p.cmd.Process.Pid)
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

// allocations returns how many objects the target has allocated.
func (t *target) allocations() (sum float64, err error) {
	for _, p := range t.procs {
		n, err := p.metric("go_memstats_mallocs_total")
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

func (p *process) metric(name string) (float64, error) {
	resp, err := http.Get(p.metrics)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	lines := bufio.NewScanner(bytes.NewReader(body))
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(v, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", p.metrics, name)
}

// ownCounts are helloapi's, in either database.
type ownCounts struct{ db *sql.DB }

func (c ownCounts) greeted(ctx context.Context) (int64, error) {
	return number(ctx, c.db, `SELECT CAST(coalesce(sum(count), 0) AS bigint) FROM greetings`)
}

func (c ownCounts) charged(ctx context.Context) (int64, error) {
	return number(ctx, c.db, `SELECT CAST(coalesce(sum(charged), 0) AS bigint) FROM usage`)
}

// naiveCounts are those of the naive version.
type naiveCounts struct {
	db    *sql.DB
	redis *redisServer
}

func (c naiveCounts) greeted(ctx context.Context) (int64, error) {
	return ownCounts{c.db}.greeted(ctx)
}

func (c naiveCounts) charged(ctx context.Context) (sum int64, err error) {
	keys := c.redis.Scan(ctx, 0, "quota:id-*", 1000).Iterator()
	for keys.Next(ctx) {
		n, err := c.redis.Get(ctx, keys.Val()).Int64()
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, keys.Err()
}

func number(ctx context.Context, db *sql.DB, query string, args ...any) (n int64, err error) {
	err = db.QueryRowContext(ctx, query, args...).Scan(&n)
	return n, err
}
