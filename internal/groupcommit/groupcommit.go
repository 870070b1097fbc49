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

	// done is that of the batch which the call is in. A flush may add the call
	// to a batch of another Batcher, which then answers it.
	done chan struct{}
}

// A batch is the calls that one flush takes.
type batch[In, Out any] struct {
	calls []*Call[In, Out]
	done  chan struct{} // closed when Out and Err of all calls are set
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
	queue   []*batch[In, Out] // that no flush has taken, all but the last full
	queued  int               // calls in queue
	last    int               // the size of the last batch that was taken
	running bool              // whether run is at work; it is not when idle
	began   time.Time         // when the last flush did; run's
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
	c := &Call[In, Out]{In: in}
	done, err := b.enqueue(c)
	if err != nil {
		return none, err
	}
	return c.wait(ctx, done)
}

// wait returns what came of the call, which is in the batch of done or was
// handed over, or the error of ctx if that ends first.
func (c *Call[In, Out]) wait(ctx context.Context, done chan struct{}) (Out, error) {
	for {
		select {
		case <-done:
			if done == c.done {
				return c.Out, c.Err
			}
			done = c.done
		case <-ctx.Done():
			var none Out
			return none, fmt.Errorf("gave up waiting for the store: %w", ctx.Err())
		}
	}
}

// enqueue adds c to a batch, and returns what is closed when that was flushed.
func (b *Batcher[In, Out]) enqueue(c *Call[In, Out]) (done chan struct{}, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, ErrClosed
	}
	if b.queued >= b.cfg.MaxWaiting {
		return nil, ErrFull
	}
	n := len(b.queue)
	if n == 0 || len(b.queue[n-1].calls) == b.cfg.MaxBatch {
		b.queue = append(b.queue, &batch[In, Out]{calls: make([]*Call[In, Out], 0, max(1, b.last)), done: make(chan struct{})})
		n++
	}
	to := b.queue[n-1]
	to.calls = append(to.calls, c)
	c.done = to.done
	b.queued++
	b.stats.Waiting++
	if !b.running {
		b.running = true
		go b.run()
	}
	return to.done, nil
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
		next := b.queue[0]
		b.queue = b.queue[1:]
		b.last = len(next.calls)
		b.queued -= b.last
		b.stats.Flushes++
		b.stats.Calls += uint64(b.last)
		b.mu.Unlock()

		b.carryOut(next)

		b.mu.Lock()
		b.stats.Waiting -= len(next.calls)
	}
	b.queue = nil // not the array that grew
	b.running = false
	b.idle.Broadcast()
}

func (b *Batcher[In, Out]) carryOut(next *batch[In, Out]) {
	ctx, cancel := context.WithTimeout(context.Background(), b.cfg.Timeout)
	defer cancel()
	defer close(next.done)
	defer func() {
		// A panic here would end the process, not one request.
		if v := recover(); v != nil {
			for _, c := range next.calls {
				if c.done == next.done {
					c.Err = fmt.Errorf("panic in a flush: %v\n%s", v, debug.Stack())
				}
			}
		}
	}()
	b.flush(ctx, next.calls)
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
