package groupcommit_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"helloapi/internal/groupcommit"
)

// Each test in a bubble of synctest fails if a goroutine is still there when
// it ends, so none of them needs to look for a Batcher's.

type (
	batcher = groupcommit.Batcher[int, string]
	call    = groupcommit.Call[int, string]
)

// roomy is a Config whose bounds are out of a test's way.
var roomy = groupcommit.Config{MaxBatch: 1000, MaxWaiting: 1000, Timeout: time.Minute}

// server is what a Batcher flushes to. It notes each flush, and holds it
// until the test lets it go.
type server struct {
	batches [][]int // what the flushes were given
	held    chan struct{}
}

func newServer() *server { return &server{held: make(chan struct{})} }

// letGo lets every flush go, those to come too.
func (s *server) letGo() { close(s.held) }

// flush answers n with "n!".
func (s *server) flush(_ context.Context, calls []*call) {
	in := make([]int, len(calls))
	for i, c := range calls {
		in[i] = c.In
	}
	s.batches = append(s.batches, in)
	<-s.held
	for _, c := range calls {
		c.Out = fmt.Sprint(c.In, "!")
	}
}

// sizes returns how many calls each flush was given.
func (s *server) sizes() []int {
	n := make([]int, len(s.batches))
	for i, b := range s.batches {
		n[i] = len(b)
	}
	return n
}

// callers call Do, each in a goroutine of its own.
type callers struct {
	t  *testing.T
	b  *batcher
	wg sync.WaitGroup
}

// calls has Do called with n, and returns when that call waits. The call has
// to be answered with want, or with "n!" if want is nil.
func (c *callers) calls(ctx context.Context, n int, want error) {
	c.wg.Go(func() {
		out, err := c.b.Do(ctx, n)
		switch {
		case !errors.Is(err, want):
			c.t.Errorf("call %d: error %v, want %v", n, err, want)
		case err == nil && out != fmt.Sprint(n, "!"):
			c.t.Errorf("call %d was answered %q", n, out)
		}
	})
	synctest.Wait()
}

func TestLoneCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.letGo()
		b := groupcommit.New(roomy, s.flush)
		begin := time.Now()
		for n := range 3 {
			if out, err := b.Do(t.Context(), n); err != nil || out != fmt.Sprint(n, "!") {
				t.Errorf("Do(%d) = %q, %v", n, out, err)
			}
		}
		if d := time.Since(begin); d != 0 {
			t.Errorf("lone calls waited %s for others", d)
		}
		if diff := cmp.Diff([]int{1, 1, 1}, s.sizes()); diff != "" {
			t.Errorf("flushes (-want +got)\n%s", diff)
		}
	})
}

func TestGathers(t *testing.T) {
	t.Parallel()
	upTo := func(first, last int) []int {
		var s []int
		for n := first; n <= last; n++ {
			s = append(s, n)
		}
		return s
	}
	tests := []struct {
		name     string
		maxBatch int
		want     [][]int
	}{
		{"one flush for 40", 1000, [][]int{{0}, upTo(1, 40)}},
		{"as many as fit", 40, [][]int{{0}, upTo(1, 40)}},
		{"three for 40", 16, [][]int{{0}, upTo(1, 16), upTo(17, 32), upTo(33, 40)}},
		{"one too many", 39, [][]int{{0}, upTo(1, 39), {40}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newServer()
				cfg := roomy
				cfg.MaxBatch = tt.maxBatch
				c := callers{t: t, b: groupcommit.New(cfg, s.flush)}
				for n := range 41 { // the first is being flushed while the others come
					c.calls(t.Context(), n, nil)
				}
				if got, want := c.b.Stats(), (groupcommit.Stats{Flushes: 1, Calls: 1, Waiting: 41}); got != want {
					t.Errorf("held: %+v, want %+v", got, want)
				}
				s.letGo()
				c.wg.Wait()
				if diff := cmp.Diff(tt.want, s.batches); diff != "" {
					t.Errorf("flushes (-want +got)\n%s", diff)
				}
				synctest.Wait()
				if got, want := c.b.Stats(), (groupcommit.Stats{Flushes: uint64(len(tt.want)), Calls: 41}); got != want {
					t.Errorf("%+v, want %+v", got, want)
				}
			})
		})
	}
}

func TestOneFlushAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var running, most int // the race detector objects if two flushes run at once
		cfg := roomy
		cfg.MaxBatch = 3
		b := groupcommit.New(cfg, func(_ context.Context, calls []*call) {
			running++
			most = max(most, running)
			time.Sleep(time.Millisecond)
			running--
		})
		var wg sync.WaitGroup
		for n := range 20 {
			wg.Go(func() {
				time.Sleep(time.Duration(n) * 300 * time.Microsecond)
				b.Do(t.Context(), n)
			})
		}
		wg.Wait()
		if most != 1 {
			t.Errorf("%d flushes ran at once", most)
		}
	})
}

// With an interval flushes keep their distance, however quick they are. A call
// that comes after that waits for nobody.
func TestInterval(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.letGo()
		cfg := roomy
		cfg.Interval = time.Second
		b := groupcommit.New(cfg, s.flush)
		defer b.Close()
		for range 10 { // each tenth of a second
			go func() { _, _ = b.Do(t.Context(), 1) }()
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		if got := s.sizes(); !slices.Equal(got, []int{1, 9}) {
			t.Errorf("flushes of %v", got)
		}
		time.Sleep(time.Second)
		begin := time.Now()
		if _, err := b.Do(t.Context(), 1); err != nil || time.Since(begin) != 0 {
			t.Errorf("a lone call took %v, %v", time.Since(begin), err)
		}
	})
}

func TestFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		cfg := roomy
		cfg.MaxWaiting = 3
		c := callers{t: t, b: groupcommit.New(cfg, s.flush)}
		for n := range 4 { // one is being flushed, three wait
			c.calls(t.Context(), n, nil)
		}
		for n := 4; n < 6; n++ {
			if _, err := c.b.Do(t.Context(), n); !errors.Is(err, groupcommit.ErrFull) {
				t.Errorf("call %d: %v, want ErrFull", n, err)
			}
		}
		s.letGo()
		c.wg.Wait()
		synctest.Wait()
		c.calls(t.Context(), 6, nil) // there is room again
		c.wg.Wait()
		if diff := cmp.Diff([][]int{{0}, {1, 2, 3}, {6}}, s.batches); diff != "" {
			t.Errorf("flushes (-want +got)\n%s", diff)
		}
	})
}

func TestCallerLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		c := callers{t: t, b: groupcommit.New(roomy, s.flush)}
		flushed, leaveFlushed := context.WithCancel(t.Context())
		c.calls(flushed, 0, context.Canceled)
		waiting, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		c.calls(waiting, 1, context.DeadlineExceeded)
		c.calls(t.Context(), 2, nil)

		leaveFlushed()
		time.Sleep(time.Second)
		synctest.Wait() // both have left, the flush has not returned
		if d := time.Since(begin); d != time.Second {
			t.Errorf("the caller left after %s", d)
		}
		if got := c.b.Stats().Waiting; got != 3 {
			t.Errorf("%d calls wait, want 3: nobody knows what becomes of the two", got)
		}
		s.letGo()
		c.wg.Wait()
		if diff := cmp.Diff([][]int{{0}, {1, 2}}, s.batches); diff != "" {
			t.Errorf("flushes (-want +got)\n%s", diff)
		}
	})
}

func TestContextHasEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.letGo()
		b := groupcommit.New(roomy, s.flush)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := b.Do(ctx, 0); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want Canceled", err)
		}
		synctest.Wait()
		if got := b.Stats(); got != (groupcommit.Stats{}) {
			t.Errorf("%+v, want nothing", got)
		}
	})
}

func TestFlushDeadline(t *testing.T) {
	t.Parallel()
	type key struct{}
	synctest.Test(t, func(t *testing.T) {
		cfg := roomy
		cfg.Timeout = 3 * time.Second
		b := groupcommit.New(cfg, func(ctx context.Context, calls []*call) {
			if ctx.Value(key{}) != nil {
				t.Error("the flush has the context of a caller")
			}
			<-ctx.Done()
			for _, c := range calls {
				c.Err = ctx.Err()
			}
		})
		// One caller is in more of a hurry than the flush, one in less.
		for _, hurry := range []time.Duration{time.Second, 10 * time.Second} {
			ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, true), hurry)
			defer cancel()
			begin := time.Now()
			if _, err := b.Do(ctx, 0); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v, want DeadlineExceeded", err)
			}
			if d, want := time.Since(begin), min(hurry, cfg.Timeout); d != want {
				t.Errorf("a caller with %s had its answer after %s, want %s", hurry, d, want)
			}
			time.Sleep(time.Minute) // until the flush has ended as well
		}
		if got := b.Stats(); got.Flushes != 2 || got.Waiting != 0 {
			t.Errorf("%+v, want 2 flushes and nobody waiting", got)
		}
	})
}

func TestEachCallItsOwnError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		errOdd := errors.New("odd")
		s := newServer()
		c := callers{t: t, b: groupcommit.New(roomy, func(ctx context.Context, calls []*call) {
			s.flush(ctx, calls)
			for _, c := range calls {
				if c.In%2 != 0 {
					c.Err = errOdd
				}
			}
		})}
		for n := range 6 {
			c.calls(t.Context(), n, map[bool]error{true: errOdd}[n%2 != 0])
		}
		s.letGo()
		c.wg.Wait()
	})
}

func TestPanic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		b := groupcommit.New(roomy, func(ctx context.Context, calls []*call) {
			s.flush(ctx, calls)
			if calls[0].In < 10 {
				panic("out of cheese")
			}
		})
		var wg sync.WaitGroup
		for n := range 4 {
			wg.Go(func() {
				_, err := b.Do(t.Context(), n)
				if err == nil || !strings.Contains(err.Error(), "out of cheese") || !strings.Contains(err.Error(), "groupcommit_test.go") {
					t.Errorf("call %d: %v, want the panic and where it was", n, err)
				}
			})
			synctest.Wait()
		}
		s.letGo()
		wg.Wait()
		if out, err := b.Do(t.Context(), 10); err != nil || out != "10!" {
			t.Errorf("afterwards: %q, %v", out, err)
		}
		b.Close()
		if diff := cmp.Diff([][]int{{0}, {1, 2, 3}, {10}}, s.batches); diff != "" {
			t.Errorf("flushes (-want +got)\n%s", diff)
		}
	})
}

func TestClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		cfg := roomy
		cfg.MaxBatch = 2
		c := callers{t: t, b: groupcommit.New(cfg, s.flush)}
		for n := range 6 {
			c.calls(t.Context(), n, nil)
		}
		var closed atomic.Int32
		for range 2 { // from two places at once
			go func() {
				c.b.Close()
				closed.Add(1)
				if got := c.b.Stats(); got.Waiting != 0 {
					t.Errorf("Close has returned and %d calls wait", got.Waiting)
				}
			}()
			synctest.Wait()
		}
		if closed.Load() != 0 {
			t.Fatal("Close has returned while calls wait")
		}
		if _, err := c.b.Do(t.Context(), 6); !errors.Is(err, groupcommit.ErrClosed) {
			t.Errorf("a call while it is being closed: %v, want ErrClosed", err)
		}
		s.letGo()
		synctest.Wait()
		if got := closed.Load(); got != 2 {
			t.Errorf("%d calls of Close have returned, want 2", got)
		}
		c.wg.Wait()
		if _, err := c.b.Do(t.Context(), 7); !errors.Is(err, groupcommit.ErrClosed) {
			t.Errorf("a call afterwards: %v, want ErrClosed", err)
		}
		c.b.Close() // once more does no harm
		if diff := cmp.Diff([][]int{{0}, {1, 2}, {3, 4}, {5}}, s.batches); diff != "" {
			t.Errorf("flushes (-want +got)\n%s", diff)
		}
	})
}

func TestCloseUnused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		groupcommit.New(roomy, newServer().flush).Close() // else synctest reports a deadlock
	})
}

// table is what a Counter writes to.
type table struct {
	mu     sync.Mutex
	counts map[string]int64
	names  [][]string // of each write
	by     [][]int64

	// fail, if not nil, says what a write fails with, before anything is
	// stored, and lost what its answer is when everything has been.
	fail, lost func(names []string) error
}

func newTable() *table { return &table{counts: map[string]int64{}} }

func (s *table) write(_ context.Context, names []string, by []int64, _ bool) (map[string]int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = append(s.names, slices.Clone(names))
	s.by = append(s.by, slices.Clone(by))
	if s.fail != nil {
		if err := s.fail(names); err != nil {
			return nil, err
		}
	}
	counts := map[string]int64{}
	for i, name := range names {
		s.counts[name] += by[i]
		counts[name] = s.counts[name]
	}
	if s.lost != nil {
		if err := s.lost(names); err != nil {
			return nil, err
		}
	}
	return counts, nil
}

// results are what came of adding to a Counter.
type results struct {
	mu      sync.Mutex
	numbers map[string][]int64
	errs    map[string][]error
}

// addAll adds one under each of the names, all of them in one flush. It holds
// back the flush of an empty name before.
func addAll(t *testing.T, write groupcommit.Write, names ...string) *results {
	t.Helper()
	held := make(chan struct{})
	c := groupcommit.NewCounter(roomy, 1, func(ctx context.Context, names []string, by []int64, alone bool) (map[string]int64, error) {
		if names[0] == "" {
			<-held
			return map[string]int64{"": 1}, nil
		}
		return write(ctx, names, by, alone)
	})
	r := results{numbers: map[string][]int64{}, errs: map[string][]error{}}
	var wg sync.WaitGroup
	for _, name := range slices.Concat([]string{""}, names) {
		wg.Go(func() {
			n, err := c.Add(t.Context(), name)
			r.mu.Lock()
			defer r.mu.Unlock()
			switch {
			case name == "":
			case err != nil:
				r.errs[name] = append(r.errs[name], err)
			default:
				r.numbers[name] = append(r.numbers[name], n)
			}
		})
		synctest.Wait()
	}
	close(held)
	wg.Wait()
	for _, n := range r.numbers {
		slices.Sort(n)
	}
	return &r
}

func TestCounterSums(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newTable()
		s.counts["b"] = 10
		r := addAll(t, s.write, "b", "é", "a", "b", "c", "B", "b", "a")
		if diff := cmp.Diff([][]string{{"B", "a", "b", "c", "é"}}, s.names); diff != "" {
			t.Errorf("names (-want +got)\n%s", diff)
		}
		if diff := cmp.Diff([][]int64{{1, 2, 3, 1, 1}}, s.by); diff != "" {
			t.Errorf("by (-want +got)\n%s", diff)
		}
		want := map[string][]int64{"B": {1}, "a": {1, 2}, "b": {11, 12, 13}, "c": {1}, "é": {1}}
		if diff := cmp.Diff(want, r.numbers); diff != "" {
			t.Errorf("numbers (-want +got)\n%s", diff)
		}
		if len(r.errs) > 0 {
			t.Errorf("errors %v", r.errs)
		}
	})
}

func TestCounterRejected(t *testing.T) {
	t.Parallel()
	rejected := fmt.Errorf("write: %w", groupcommit.ErrRejected)
	tests := []struct {
		name   string
		bad    []int // of 64 names
		writes int   // at most
	}{
		{"first", []int{0}, 1 + 2*6},
		{"middle", []int{31}, 1 + 2*6},
		{"last", []int{63}, 1 + 2*6},
		{"two", []int{5, 50}, 1 + 4*6},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				name := func(i int) string { return fmt.Sprintf("name%02d", i) }
				isBad := map[string]bool{}
				for _, i := range tt.bad {
					isBad[name(i)] = true
				}
				s := newTable()
				s.fail = func(names []string) error {
					if slices.ContainsFunc(names, func(n string) bool { return isBad[n] }) {
						return rejected
					}
					return nil
				}
				var names []string
				for i := range 64 {
					names = append(names, name(i), name(i)) // each from two callers
				}
				r := addAll(t, s.write, names...)
				for i := range 64 {
					n := name(i)
					if !isBad[n] {
						if diff := cmp.Diff([]int64{1, 2}, r.numbers[n]); diff != "" {
							t.Errorf("%s: (-want +got)\n%s", n, diff)
						}
						continue
					}
					if len(r.errs[n]) != 2 || !errors.Is(r.errs[n][0], groupcommit.ErrRejected) || !errors.Is(r.errs[n][1], groupcommit.ErrRejected) {
						t.Errorf("%s: errors %v, want ErrRejected twice", n, r.errs[n])
					}
				}
				if len(r.errs) != len(tt.bad) {
					t.Errorf("%d names failed: %v", len(r.errs), slices.Sorted(maps.Keys(r.errs)))
				}
				if len(s.names) > tt.writes {
					t.Errorf("%d writes, want %d at most", len(s.names), tt.writes)
				}
				for _, names := range s.names {
					if !slices.IsSorted(names) {
						t.Errorf("names are not sorted: %v", names)
					}
				}
			})
		})
	}
}

func TestCounterRejectedAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newTable()
		s.fail = func([]string) error { return groupcommit.ErrRejected }
		r := addAll(t, s.write, "a", "b", "c", "a")
		if len(r.numbers) > 0 || len(r.errs) != 3 {
			t.Errorf("numbers %v, errors %v", r.numbers, r.errs)
		}
		if len(s.names) != 5 { // a b c, a, b c, b, c: a row alone is not tried again
			t.Errorf("writes %v, want 5", s.names)
		}
	})
}

// An error that may come after the rows were stored must not store them twice.
func TestCounterNotRetried(t *testing.T) {
	t.Parallel()
	errGone := errors.New("connection reset")
	tests := []struct {
		name string
		set  func(*table)
		next int64 // the number given afterwards
	}{
		{"nothing stored", func(s *table) { s.fail = func([]string) error { return errGone } }, 1},
		{"answer lost", func(s *table) { s.lost = func([]string) error { return errGone } }, 3}, // a gap
		{
			"answer lost in a smaller write",
			func(s *table) {
				s.fail = func(names []string) error {
					if len(names) > 1 {
						return groupcommit.ErrRejected
					}
					return nil
				}
				s.lost = func([]string) error { return errGone }
			}, 3,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newTable()
				tt.set(s)
				r := addAll(t, s.write, "a", "b", "a")
				if len(r.numbers) > 0 {
					t.Errorf("numbers were given: %v", r.numbers)
				}
				for _, name := range []string{"a", "a", "b"} {
					for _, err := range r.errs[name] {
						if !errors.Is(err, errGone) {
							t.Errorf("%s: %v, want the write's error", name, err)
						}
					}
				}
				if len(r.errs["a"]) != 2 || len(r.errs["b"]) != 1 {
					t.Errorf("errors %v, want one for each caller", r.errs)
				}
				var wrote int
				for _, names := range s.names {
					if slices.Contains(names, "a") && (len(names) == 1 || len(s.names) == 1) {
						wrote++
					}
				}
				if wrote != 1 {
					t.Errorf("a was written %d times: %v", wrote, s.names)
				}

				s.fail, s.lost = nil, nil
				r = addAll(t, s.write, "a")
				if diff := cmp.Diff([]int64{tt.next}, r.numbers["a"]); diff != "" {
					t.Errorf("afterwards (-want +got)\n%s", diff)
				}
			})
		})
	}
}

// A lockedTable is a table some rows of which somebody else holds.
type lockedTable struct {
	*table
	locked map[string]chan struct{} // closed when the row is free
}

func (s *lockedTable) write(ctx context.Context, names []string, by []int64, alone bool) (map[string]int64, error) {
	var free []string
	var freeBy []int64
	for i, name := range names {
		if lock := s.locked[name]; lock != nil {
			select {
			case <-lock:
			default:
				if !alone {
					continue
				}
				select {
				case <-lock:
				case <-time.After(time.Second):
					continue
				}
			}
		}
		free, freeBy = append(free, name), append(freeBy, by[i])
	}
	return s.table.write(ctx, free, freeBy, alone)
}

// Who greets a name that somebody else holds waits, alone.
func TestCounterHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &lockedTable{newTable(), map[string]chan struct{}{"b": make(chan struct{}), "d": make(chan struct{})}}
		c := groupcommit.NewCounter(roomy, 2, s.write)
		var wg sync.WaitGroup
		add := func(name string, want int64, wantErr error, after time.Duration) {
			wg.Go(func() {
				began := time.Now()
				n, err := c.Add(t.Context(), name)
				if n != want || !errors.Is(err, wantErr) || time.Since(began) != after {
					t.Errorf("%s: %d, %v after %v; want %d, %v after %v", name, n, err, time.Since(began), want, wantErr, after)
				}
			})
			synctest.Wait()
		}
		add("d", 0, groupcommit.ErrHeld, time.Second)
		add("b", 1, nil, 500*time.Millisecond) // held for half a second
		add("b", 2, nil, 500*time.Millisecond)
		add("a", 1, nil, 0)
		writes := len(s.names)
		add("a", 2, nil, 0)
		if len(s.names) != writes+1 {
			t.Errorf("a took %d writes while b and d are held", len(s.names)-writes)
		}
		if waiting := c.Stats().Waiting; waiting != 3 {
			t.Errorf("%d calls wait, want 3", waiting)
		}
		time.Sleep(500 * time.Millisecond)
		close(s.locked["b"])
		wg.Wait()
		close(s.locked["d"])
		add("d", 1, nil, 0)
		wg.Wait()
		// What waits when it is closed is answered.
		s.locked["b"] = make(chan struct{})
		add("b", 3, nil, 100*time.Millisecond)
		closed := make(chan struct{})
		go func() {
			c.Close()
			close(closed)
		}()
		time.Sleep(100 * time.Millisecond)
		close(s.locked["b"])
		wg.Wait()
		<-closed
		if _, err := c.Add(t.Context(), "b"); !errors.Is(err, groupcommit.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// Check does what failed, and counts nothing.
func TestCounterCheck(t *testing.T) {
	t.Parallel()
	s := newTable()
	c := groupcommit.NewCounter(roomy, 1, s.write)
	defer c.Close()
	check := func(want error, names ...string) {
		t.Helper()
		if err := c.Check(t.Context()); !errors.Is(err, want) {
			t.Errorf("Check: %v, want %v", err, want)
		}
		if got := s.names[len(s.names)-1]; !slices.Equal(got, names) {
			t.Errorf("Check wrote %q, want %q", got, names)
		}
	}
	check(nil)
	if _, err := c.Add(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	errFull := errors.New("disk full")
	s.fail = func(names []string) error {
		if slices.Contains(names, "b") {
			return errFull
		}
		return nil
	}
	if _, err := c.Add(t.Context(), "b"); !errors.Is(err, errFull) {
		t.Fatalf("Add: %v", err)
	}
	check(errFull, "b")
	if _, err := c.Add(t.Context(), "a"); err != nil { // proves nothing for b
		t.Fatal(err)
	}
	check(errFull, "b")
	s.fail = nil
	check(nil, "b")
	check(nil)
	if n, err := c.Add(t.Context(), "b"); n != 1 || err != nil {
		t.Errorf("Add = %d, %v; want 1", n, err)
	}
}

// Two replicas and one store. Not in a bubble, so that goroutines run as they
// please.
func TestCounterConcurrent(t *testing.T) {
	t.Parallel()
	const adds = 500
	s := newTable()
	replicas := []*groupcommit.Counter{groupcommit.NewCounter(roomy, 1, s.write), groupcommit.NewCounter(roomy, 1, s.write)}
	numbers := make([]int64, adds)
	var wg sync.WaitGroup
	for i := range adds {
		wg.Go(func() {
			n, err := replicas[i%2].Add(t.Context(), "brooks")
			if err != nil {
				t.Error(err)
			}
			numbers[i] = n
		})
		wg.Go(func() { // others, so that there is something to sort
			if _, err := replicas[i%2].Add(t.Context(), fmt.Sprint(i%7)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	slices.Sort(numbers)
	for i, n := range numbers {
		if n != int64(i)+1 {
			t.Fatalf("the numbers are not 1 to %d: %v", adds, numbers)
		}
	}
	for _, c := range replicas {
		c.Close()
	}
}
