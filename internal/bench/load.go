package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A job is what a load process does: Conns connections each send a request,
// wait for the answer, and send the next.
type job struct {
	Addrs    []string // connections are spread over them
	Conns    int
	Keys     []string // a random one for each request
	Names    int      // 1: one name; more: a random one of so many
	Duration time.Duration
	Requests int64 // stop after so many, if not 0
	Each     bool  // go through Keys in order, once
	Rate     int   // requests a second of all connections, if not 0
}

// A tally is what the answers were.
type tally struct {
	Status   map[int]int64 // answers by status, without those of WarmUp
	WarmUp   int64         // 200s before the measurement, one for each connection
	Twice    int64         // numbers that were given more than once
	Took     time.Duration
	P50, P99 time.Duration
	CPU      time.Duration // of the load process
}

func (t tally) served() int64 { return t.Status[200] }

func (t tally) requests() (n int64) {
	for _, c := range t.Status {
		n += c
	}
	return n
}

// loadMain is the load process. It reads a job, connects, says that it is
// ready, waits for the word to begin, and prints a tally.
func loadMain() error {
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	var j job
	if err := json.Unmarshal(line, &j); err != nil {
		return err
	}
	clients := make([]*client, j.Conns)
	for i := range clients {
		if clients[i], err = dial(j.Addrs[i%len(j.Addrs)], uint64(i)); err != nil {
			return err
		}
		if j.Each {
			continue
		}
		if err := clients[i].send(j.request(clients[i])); err != nil { // connected, and everything is warm
			return err
		}
	}
	var warmUp int64
	for _, c := range clients {
		warmUp += c.status[200]
		clear(c.status)
		c.took = c.took[:0]
	}
	fmt.Println("ready")
	if _, err := in.ReadBytes('\n'); err != nil {
		return err
	}

	begin, cpu := time.Now(), ownCPU()
	var sent atomic.Int64
	errs := make([]error, len(clients))
	var wg sync.WaitGroup
	for i, c := range clients {
		wg.Go(func() { errs[i] = j.run(c, begin, &sent) })
	}
	wg.Wait()
	took := time.Since(begin)
	cpu = ownCPU() - cpu
	if err := errors.Join(errs...); err != nil {
		return err
	}
	t := total(clients)
	t.WarmUp, t.Took, t.CPU = warmUp, took, cpu
	return json.NewEncoder(os.Stdout).Encode(t)
}

// total sums up what the clients were answered.
func total(clients []*client) tally {
	t := tally{Status: map[int]int64{}}
	var took []time.Duration
	var numbers []uint64
	for _, c := range clients {
		for status, n := range c.status {
			t.Status[status] += n
		}
		took = append(took, c.took...)
		numbers = append(numbers, c.numbers...)
	}
	slices.Sort(took)
	if n := len(took); n > 0 {
		t.P50, t.P99 = took[n/2], took[n*99/100]
	}
	slices.Sort(numbers)
	t.Twice = int64(len(numbers) - len(slices.Compact(numbers)))
	return t
}

func (j *job) run(c *client, begin time.Time, sent *atomic.Int64) error {
	for {
		n := sent.Add(1)
		if j.Requests > 0 && n > j.Requests || j.Duration > 0 && time.Since(begin) > j.Duration {
			return nil
		}
		if j.Rate > 0 {
			time.Sleep(time.Until(begin.Add(time.Duration(n) * time.Second / time.Duration(j.Rate))))
		}
		name, key := j.request(c)
		if j.Each {
			key = j.Keys[(n-1)%int64(len(j.Keys))]
		}
		if err := c.send(name, key); err != nil {
			return err
		}
	}
}

func (j *job) request(c *client) (name int, key string) {
	if j.Names > 1 {
		name = 1 + c.random.IntN(j.Names)
	}
	if len(j.Keys) == 1 {
		return name, j.Keys[0]
	}
	return name, j.Keys[c.random.IntN(len(j.Keys))]
}

// nameOf returns a name by its number: 0 is the one that all greet.
func nameOf(i int) string {
	if i == 0 {
		return "world"
	}
	return "name-" + strconv.Itoa(i)
}

// A client is one connection. It reads just enough HTTP for what our servers
// answer, so that it costs less than what it measures.
type client struct {
	conn    net.Conn
	r       *bufio.Reader
	random  *rand.Rand
	out     []byte
	body    []byte
	status  map[int]int64
	took    []time.Duration
	numbers []uint64 // those of the 200s, with the name's above 40 bits
}

func dial(addr string, seed uint64) (*client, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return newClient(conn, seed), nil
}

func newClient(conn net.Conn, seed uint64) *client {
	return &client{
		conn: conn, r: bufio.NewReaderSize(conn, 4096), status: map[int]int64{},
		random: rand.New(rand.NewPCG(seed, uint64(os.Getpid()))),
	}
}

func (c *client) send(name int, key string) error {
	c.out = append(c.out[:0], "GET /hello?name="...)
	c.out = append(c.out, nameOf(name)...)
	c.out = append(c.out, " HTTP/1.1\r\nHost: bench\r\nX-Api-Key: "...)
	c.out = append(c.out, key...)
	c.out = append(c.out, "\r\n\r\n"...)
	begin := time.Now()
	if err := c.conn.SetDeadline(begin.Add(30 * time.Second)); err != nil {
		return err
	}
	if _, err := c.conn.Write(c.out); err != nil {
		return err
	}
	status, err := c.answer()
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	c.took = append(c.took, time.Since(begin))
	c.status[status]++
	if status != 200 {
		return nil
	}
	// {"message":"Hello NAME #N!"}
	_, number, _ := bytes.Cut(c.body, []byte("#"))
	number, _, _ = bytes.Cut(number, []byte("!"))
	n, err := strconv.ParseUint(string(number), 10, 40)
	if err != nil {
		return fmt.Errorf("answer %q has no number", c.body)
	}
	c.numbers = append(c.numbers, uint64(name)<<40|n)
	return nil
}

// answer reads an answer, its body into c.body.
func (c *client) answer() (status int, err error) {
	length := -1
	for first := true; ; first = false {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		switch {
		case first:
			if len(line) < 12 {
				return 0, fmt.Errorf("no status in %q", line)
			}
			if status, err = strconv.Atoi(string(line[9:12])); err != nil {
				return 0, err
			}
		case len(line) == 0:
			if length < 0 {
				return 0, errors.New("no Content-Length")
			}
			c.body = slices.Grow(c.body[:0], length)[:length]
			_, err = io.ReadFull(c.r, c.body)
			return status, err
		case len(line) > 16 && bytes.EqualFold(line[:16], []byte("Content-Length: ")):
			if length, err = strconv.Atoi(string(line[16:])); err != nil {
				return 0, err
			}
		}
	}
}

// ownCPU is the time that this process has used.
func ownCPU() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // can't fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
