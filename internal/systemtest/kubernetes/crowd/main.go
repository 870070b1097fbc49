// Crowd puts load on the API from within a cluster: the test copies it into a
// pod and runs it there. It reads a key from standard input, goes on until it
// is told to stop (SIGTERM) or has sent as many requests as it is to, and
// prints a load.Report.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"helloapi/internal/systemtest/load"
)

func main() {
	log.SetFlags(0)
	var cfg load.Config
	flag.StringVar(&cfg.URL, "url", "", "where the API is")
	flag.StringVar(&cfg.Name, "name", "", "whom to greet")
	flag.IntVar(&cfg.Workers, "workers", 8, "how many send at a time")
	requests := flag.Int64("requests", 0, "how many requests in all (0: until told to stop)")
	flag.DurationVar(&cfg.Pause, "pause", 0, "of a worker between two requests")
	flag.Parse()
	key, err := io.ReadAll(os.Stdin)
	if err != nil {
		log.Fatal("crowd: ", err)
	}
	cfg.Key = strings.TrimSpace(string(key))

	var report load.Report
	if *requests > 0 {
		report = send(cfg, *requests)
	} else {
		told, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		l := load.Start(cfg)
		<-told.Done()
		report = l.Stop()
	}
	if err := json.NewEncoder(os.Stdout).Encode(report); err != nil {
		log.Fatal("crowd: ", err)
	}
}

// send sends n requests, no more and no less.
func send(cfg load.Config, n int64) load.Report {
	var (
		client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: cfg.Workers}, Timeout: 15 * time.Second}
		begin  = time.Now()
		left   atomic.Int64
		wg     sync.WaitGroup
		mu     sync.Mutex // guards report
		report load.Report
	)
	left.Store(n)
	for range cfg.Workers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				sent := time.Now()
				number, err := load.Greet(context.Background(), client, cfg.URL, cfg.Key, cfg.Name)
				mu.Lock()
				report.Slowest = max(report.Slowest, time.Since(sent))
				var answer *load.StatusError
				switch {
				case err == nil:
					report.Numbers = append(report.Numbers, number)
				case errors.As(err, &answer):
					report.Failures = append(report.Failures, load.Failure{At: time.Now(), Status: answer.Status, Body: answer.Body})
				default:
					report.Failures = append(report.Failures, load.Failure{At: time.Now(), Body: err.Error()})
				}
				mu.Unlock()
				time.Sleep(cfg.Pause)
			}
		})
	}
	wg.Wait()
	report.Took = time.Since(begin)
	slices.Sort(report.Numbers)
	return report
}
