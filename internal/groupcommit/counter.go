package groupcommit

import (
	"context"
	"errors"
	"slices"
	"strings"
)

// ErrRejected marks an error of a write that proves that nothing of it was
// stored, because one of its rows is not acceptable.
var ErrRejected = errors.New("rejected by the store")

// A Counter counts under names, many counts in one write. It is safe for
// concurrent use, and any number of Counters may write to the same store.
type Counter struct {
	*Batcher[string, int64]
	write Write
}

// Write adds by[i] to the count of names[i], for all i or for none, and
// returns the new counts by name once they are durable. The names are sorted
// and each is there once: writers that lock rows in that order can't deadlock.
//
// An error that wraps ErrRejected has the rows tried again in smaller writes,
// until only those at fault fail. After any other error the write may still
// have been carried out; it is never tried again.
type Write func(ctx context.Context, names []string, by []int64) (map[string]int64, error)

// NewCounter returns a Counter that stores its counts with write.
func NewCounter(cfg Config, write Write) *Counter {
	c := &Counter{write: write}
	c.Batcher = New(cfg, c.flush)
	return c
}

// Add counts one under name and returns the new count, which no other Add of
// the name has been or will be given. After an error the one may have been
// counted or not, but nobody was given its number.
func (c *Counter) Add(ctx context.Context, name string) (int64, error) {
	return c.Do(ctx, name)
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
	counts, err := c.write(ctx, names, by)
	if errors.Is(err, ErrRejected) && len(names) > 1 {
		half := len(names) / 2
		var first int64
		for _, n := range by[:half] {
			first += n
		}
		c.add(ctx, names[:half], by[:half], calls[:first])
		c.add(ctx, names[half:], by[half:], calls[first:])
		return
	}
	for i, name := range names {
		count, ok := counts[name]
		for j, call := range calls[:by[i]] {
			switch {
			case err != nil:
				call.Err = err
			case !ok:
				call.Err = errors.New("the store did not return the new count")
			default:
				// Of the by[i] numbers up to count, in the order of arrival.
				call.Out = count - by[i] + int64(j) + 1
			}
		}
		calls = calls[by[i]:]
	}
}
