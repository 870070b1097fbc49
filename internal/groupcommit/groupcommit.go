// Package groupcommit lets many callers share one round trip to a store. While
// one flush is under way the calls that arrive gather, and make up the next. A
// lone call is flushed at once and waits for nobody.
package groupcommit

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// What Do fails with, when the call will not be flushed.
var (
	ErrFull   = errors.New("too many calls wait for the store")
	ErrClosed = errors.New("the store is being closed")
)

// A Call is one caller's part of a flush: the flush reads In and sets Out or Err.
type Call[In, Out any] struct {
	In  In
	Out Out
	Err error

	done chan struct{} // closed when Out and Err are set
}

// Config bounds a Batcher.
type Config struct {
	// MaxBatch is how many calls a flush takes at most.
	MaxBatch int
	// MaxWaiting is how many calls may wait at most; one more gets ErrFull.
	MaxWaiting int
	// Timeout is the deadline of a flush. It does not depend on any caller's.
	Timeout time.Duration
	// Interval is the least time from the beginning of one flush to that of the
	// next, if not 0: for flushes that are so quick that little would gather.
	Interval time.Duration
}

// Stats counts what a Batcher did since it was made.
type Stats struct {
	Flushes uint64 // flushes begun
	Calls   uint64 // calls they took
	Waiting int    // calls that wait or are being flushed now
}

// A Batcher gathers calls into flushes, one flush at a time. It is safe for
// concurrent use.
type Batcher[In, Out any] struct {
	flush func(context.Context, []*Call[In, Out])
	cfg   Config

	mu      sync.Mutex
	queue   []*Call[In, Out] // calls that no flush has taken
	running bool             // whether run is at work; it is not when idle
	began   time.Time        // when the last flush did; run's
	closed  bool
	idle    sync.Cond // signals that running became false
	stats   Stats
}

// New returns a Batcher whose calls are carried out by flush, which sets Out
// or Err of each call it is given. Only one flush runs at a time.
func New[In, Out any](cfg Config, flush func(context.Context, []*Call[In, Out])) *Batcher[In, Out] {
	b := &Batcher[In, Out]{flush: flush, cfg: cfg}
	b.idle.L = &b.mu
	return b
}

// Do has in flushed and returns what came of it. When ctx ends first Do
// returns its error, and what becomes of the call is not known: it may well be
// carried out.
func (b *Batcher[In, Out]) Do(ctx context.Context, in In) (Out, error) {
	var none Out
	if err := ctx.Err(); err != nil {
		return none, err
	}
	c := &Call[In, Out]{In: in, done: make(chan struct{})}
	if err := b.enqueue(c); err != nil {
		return none, err
	}
	select {
	case <-c.done:
		return c.Out, c.Err
	case <-ctx.Done():
		return none, fmt.Errorf("gave up waiting for the store: %w", ctx.Err())
	}
}

func (b *Batcher[In, Out]) enqueue(c *Call[In, Out]) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	if len(b.queue) >= b.cfg.MaxWaiting {
		return ErrFull
	}
	b.queue = append(b.queue, c)
	b.stats.Waiting++
	if !b.running {
		b.running = true
		go b.run()
	}
	return nil
}

// run flushes until nothing waits.
func (b *Batcher[In, Out]) run() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.queue) > 0 {
		if wait := b.cfg.Interval - time.Since(b.began); wait > 0 {
			b.mu.Unlock()
			time.Sleep(wait)
			b.mu.Lock()
		}
		b.began = time.Now()
		n := min(len(b.queue), b.cfg.MaxBatch)
		batch := b.queue[:n:n]
		b.queue = b.queue[n:]
		b.stats.Flushes++
		b.stats.Calls += uint64(n)
		b.mu.Unlock()

		b.carryOut(batch)

		b.mu.Lock()
		b.stats.Waiting -= n
	}
	b.queue = nil // not the array that grew
	b.running = false
	b.idle.Broadcast()
}

func (b *Batcher[In, Out]) carryOut(batch []*Call[In, Out]) {
	ctx, cancel := context.WithTimeout(context.Background(), b.cfg.Timeout)
	defer cancel()
	defer func() {
		// A panic here would end the process, not one request.
		if v := recover(); v != nil {
			for _, c := range batch {
				c.Err = fmt.Errorf("panic in a flush: %v\n%s", v, debug.Stack())
			}
		}
		for _, c := range batch {
			close(c.done)
		}
	}()
	b.flush(ctx, batch)
}

// Close refuses further calls and returns when all earlier ones have been
// answered, which takes no longer than the flushes they need.
func (b *Batcher[In, Out]) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for b.running {
		b.idle.Wait()
	}
}

// Stats returns the counts up to now.
func (b *Batcher[In, Out]) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stats
}
