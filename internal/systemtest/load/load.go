// Package load puts a steady load on the API and keeps account of every
// answer, so that a test can say that no request failed and no number was
// given twice.
package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config says what to send where.
type Config struct {
	URL     string // http://localhost:8080
	Key     string
	Name    string        // whom to greet
	Workers int           // that send at a time, half of them on a new connection for each request
	Pause   time.Duration // of a worker between two requests
}

// A Failure is a request that was not served.
type Failure struct {
	At     time.Time
	Status int    // 0: no answer
	Body   string // or the error
}

func (f Failure) String() string {
	return fmt.Sprintf("%s: %d %s", f.At.Format("15:04:05.000"), f.Status, f.Body)
}

// A Report is what became of the requests.
type Report struct {
	Numbers  []int64 // that were answered, sorted
	Failures []Failure
	Resent   int // failures whose request may have counted twice
	Slowest  time.Duration
	Took     time.Duration
}

// Sent returns the number of requests.
func (r Report) Sent() int { return len(r.Numbers) + len(r.Failures) }

func (r Report) String() string {
	return fmt.Sprintf("%d requests in %v, %d failed, the slowest took %v", r.Sent(), r.Took.Round(time.Millisecond), len(r.Failures), r.Slowest.Round(time.Millisecond))
}

// Twice returns the numbers that were given more than once.
func (r Report) Twice() []int64 {
	var twice []int64
	for i := 1; i < len(r.Numbers); i++ {
		if r.Numbers[i] == r.Numbers[i-1] {
			twice = append(twice, r.Numbers[i])
		}
	}
	return slices.Compact(twice)
}

// A Load is under way from Start to Stop.
type Load struct {
	cfg    Config
	stop   chan struct{}
	wg     sync.WaitGroup
	begin  time.Time
	mu     sync.Mutex
	report Report // guarded by mu
}

// Start sends requests until Stop is called.
func Start(cfg Config) *Load {
	l := &Load{cfg: cfg, stop: make(chan struct{}), begin: time.Now()}
	kept := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: cfg.Workers}, Timeout: 15 * time.Second}
	fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 15 * time.Second}
	for i := range cfg.Workers {
		client := kept
		if i%2 == 1 {
			client = fresh
		}
		l.wg.Go(func() {
			for {
				l.send(client)
				select {
				case <-l.stop:
					return
				case <-time.After(cfg.Pause):
				}
			}
		})
	}
	return l
}

// Stop waits for the answers to what was sent and reports.
func (l *Load) Stop() Report {
	close(l.stop)
	l.wg.Wait()
	return l.Report()
}

// Report returns what became of the requests so far.
func (l *Load) Report() Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.report
	r.Numbers, r.Failures, r.Took = slices.Clone(r.Numbers), slices.Clone(r.Failures), time.Since(l.begin)
	slices.Sort(r.Numbers)
	return r
}

func (l *Load) send(client *http.Client) {
	begin := time.Now()
	number, err := Greet(context.Background(), client, l.cfg.URL, l.cfg.Key, l.cfg.Name)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report.Slowest = max(l.report.Slowest, time.Since(begin))
	if err == nil {
		l.report.Numbers = append(l.report.Numbers, number)
		return
	}
	failure := Failure{At: time.Now(), Body: err.Error()}
	if errors.Is(err, ErrResent) {
		l.report.Resent++
	}
	var status *StatusError
	if errors.As(err, &status) {
		failure.Status, failure.Body = status.Status, status.Body
	}
	l.report.Failures = append(l.report.Failures, failure)
}

// A StatusError is an answer that is no greeting.
type StatusError struct {
	Status int
	Header http.Header
	Body   string
}

func (e *StatusError) Error() string { return fmt.Sprintf("%d %s", e.Status, e.Body) }

// ErrResent says that net/http sent the request twice, as it does with a GET
// if a connection that it kept is closed before the answer.
var ErrResent = errors.New("the connection was closed before an answer, and the request sent again")

// Greet sends one request and returns the number that it was given.
func Greet(ctx context.Context, client *http.Client, to, key, name string) (int64, error) {
	var sent atomic.Int32
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { sent.Add(1) }})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(to, "/")+"/hello?name="+url.QueryEscape(name), nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("x-api-key", key)
	resp, err := client.Do(req)
	if sent.Load() > 1 {
		if err == nil {
			resp.Body.Close()
		}
		return 0, errors.Join(ErrResent, err)
	}
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return 0, err
	}
	var said struct{ Message string }
	var number int64
	if resp.StatusCode == http.StatusOK && json.Unmarshal(body, &said) == nil {
		rest, ok := strings.CutPrefix(said.Message, "Hello "+name+" ")
		if n, err := fmt.Sscanf(rest, "#%d!", &number); ok && n == 1 && err == nil {
			return number, nil
		}
	}
	return 0, &StatusError{resp.StatusCode, resp.Header, string(body)}
}
