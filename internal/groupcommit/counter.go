package groupcommit

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrRejected marks an error of a write that proves that nothing of it was
	// stored, because one of its rows is not acceptable.
	ErrRejected = errors.New("rejected by the store")
	// ErrHeld is what Add fails with when somebody else holds the name's row for
	// longer than the store waits. Nothing was counted.
	ErrHeld = errors.New("somebody else holds the row of this name in the store")
)

// A Counter counts under names, many counts in one write. It is safe for
// concurrent use, and any number of Counters may write to the same store.
//
// A name whose row somebody else holds gets writes of its own, for as long as
// calls wait for it, so that other names do not wait.
type Counter struct {
	*Batcher[string, int64]
	write  Write
	lanes  Config                   // of held names
	places chan struct{}            // has one for each write of a held name under way
	failed atomic.Pointer[[]string] // names of the last write that failed

	mu   sync.Mutex
	held map[string]*Batcher[string, int64] // by name; each has calls
}

// Write adds by[i] to the count of names[i], for all i or, after an error or
// beside held rows, for some, and returns the new counts by name once they are durable. The names are sorted
// and each is there once: writers that lock rows in that order can't deadlock.
// It waits for no row that somebody else holds for long, unless it is alone:
// it counts the others, and leaves names whose rows are held out of what it
// returns.
//
// An error is about the names that have no new count. One that wraps
// ErrRejected has them tried again in smaller writes, until only those at fault
// fail. After any other error they may still have been counted; that is never
// tried again.
type Write func(ctx context.Context, names []string, by []int64, alone bool) (map[string]int64, error)

// NewCounter returns a Counter that stores its counts with write. It writes to
// as many held rows at a time as alone says.
func NewCounter(cfg Config, alone int, write Write) *Counter {
	c := &Counter{write: write, lanes: cfg, places: make(chan struct{}, alone), held: map[string]*Batcher[string, int64]{}}
	c.Batcher = New(cfg, c.flush)
	return c
}

// Add counts one under name and returns the new count, which no other Add of
// the name has been or will be given. After an error the one may have been
// counted or not, but nobody was given its number.
func (c *Counter) Add(ctx context.Context, name string) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	call := &Call[string, int64]{In: name}
	c.mu.Lock()
	b := c.held[name]
	if b == nil {
		b = c.Batcher
	}
	done, err := b.enqueue(call)
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return call.wait(ctx, done)
}

// Check repeats the last write that failed, with nothing to count, and returns
// its error. If none failed it is a write of no names.
func (c *Counter) Check(ctx context.Context) error {
	failed := c.failed.Load()
	var names []string
	if failed != nil {
		names = *failed
	}
	_, err := c.write(ctx, names, make([]int64, len(names)), false)
	if err == nil || errors.Is(err, ErrRejected) {
		c.failed.CompareAndSwap(failed, nil)
		return nil
	}
	return err
}

// Stats returns the counts up to now.
func (c *Counter) Stats() Stats {
	stats := c.Batcher.Stats()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.held {
		stats.Waiting += b.Stats().Waiting
	}
	return stats
}

// Close refuses further calls and returns when all earlier ones have been
// answered.
func (c *Counter) Close() {
	c.Batcher.Close() // nothing is handed over from here on
	c.mu.Lock()
	held := slices.Collect(maps.Values(c.held))
	c.mu.Unlock()
	for _, b := range held {
		b.Close()
	}
}

func (c *Counter) flush(ctx context.Context, calls []*Call[string, int64]) {
	// Equal names next to each other, in the order of arrival.
	slices.SortStableFunc(calls, func(a, b *Call[string, int64]) int { return strings.Compare(a.In, b.In) })
	names, by := make([]string, 0, len(calls)), make([]int64, 0, len(calls))
	for _, call := range calls {
		n := len(names)
		if n == 0 || names[n-1] != call.In {
			names, by = append(names, call.In), append(by, 0)
			n++
		}
		by[n-1]++
	}
	c.add(ctx, names, by, calls)
}

// add counts by[i] calls for names[i], which are the next of calls.
func (c *Counter) add(ctx context.Context, names []string, by []int64, calls []*Call[string, int64]) {
	counts, err := c.write(ctx, names, by, false)
	var rest []string // names without a new count
	var restBy []int64
	var restCalls []*Call[string, int64]
	for i, name := range names {
		own := calls[:by[i]]
		calls = calls[by[i]:]
		if count, ok := counts[name]; ok {
			settle(own, count, nil)
			continue
		}
		rest, restBy, restCalls = append(rest, name), append(restBy, by[i]), append(restCalls, own...)
	}
	switch {
	case len(rest) == 0:
	case err == nil:
		for _, call := range restCalls {
			c.handOver(call)
		}
	case errors.Is(err, ErrRejected) && len(rest) > 1:
		half := len(rest) / 2
		var first int64
		for _, n := range restBy[:half] {
			first += n
		}
		c.add(ctx, rest[:half], restBy[:half], restCalls[:first])
		c.add(ctx, rest[half:], restBy[half:], restCalls[first:])
	default:
		c.note(rest, err)
		settle(restCalls, 0, err)
	}
}

// settle gives the calls of a name its last numbers up to count, in the order
// of arrival, or the error.
func settle(calls []*Call[string, int64], count int64, err error) {
	for i, call := range calls {
		if err != nil {
			call.Err = err
		} else {
			call.Out = count - int64(len(calls)) + int64(i) + 1
		}
	}
}

// note remembers the names of a write that failed for no fault of theirs.
func (c *Counter) note(names []string, err error) {
	if err != nil && !errors.Is(err, ErrRejected) {
		c.failed.Store(&names)
	}
}

// handOver has a call answered by writes of its name alone.
func (c *Counter) handOver(call *Call[string, int64]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.held[call.In]
	if b == nil {
		b = New(c.lanes, c.flushHeld)
		c.held[call.In] = b
	}
	if _, err := b.enqueue(call); err != nil {
		call.Err = err
	}
}

// flushHeld writes one name.
func (c *Counter) flushHeld(ctx context.Context, calls []*Call[string, int64]) {
	name := calls[0].In
	var counts map[string]int64
	err := ErrHeld
	select {
	case c.places <- struct{}{}:
		counts, err = c.write(ctx, []string{name}, []int64{int64(len(calls))}, true)
		<-c.places
		if _, ok := counts[name]; err == nil && !ok {
			err = ErrHeld
		} else {
			c.note([]string{name}, err)
		}
	case <-time.After(c.lanes.Timeout / 2): // enough is left for a write
	}
	settle(calls, counts[name], err)

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[name].Stats().Waiting == len(calls) { // no other call waits
		delete(c.held, name)
	}
}
