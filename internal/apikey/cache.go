package apikey

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// cacheSize is how many values a Cache knows at most, good and bad ones. It
	// keeps the ones in use: a flood of bad values does not drive out good ones.
	cacheSize = 1 << 17

	// lease is how long what the cache knows is good after the last proof that
	// there was no change. It bounds how long a replica that is cut off, and
	// can't know it yet, goes on with a key that was revoked: a second, less
	// what it takes to notice and to load.
	lease = 800 * time.Millisecond

	// retryAfter is how long the source is left alone after it failed, as far
	// as an old answer will do.
	retryAfter = time.Second
)

// A Source is a store of keys that tells of changes.
type Source interface {
	Finder

	// Watch tells w of every change to keys and plans, by whomever, until ctx
	// ends. While the store is away it goes on trying.
	Watch(ctx context.Context, w Watcher)
}

// A Watcher is told of changes. Its methods are called by one goroutine.
type Watcher interface {
	// Changed says that keys or plans may have changed.
	Changed()

	// Current says that every change made before asOf has been told, and that
	// the store's clock showed clock at that time or later.
	Current(asOf, clock time.Time)
}

// A Cache answers Find from memory for as long as it knows that nothing has
// changed. Any change makes all that it knows old at once: what is in use is
// loaded anew, in shared queries. It is safe for concurrent use.
type Cache struct {
	source   Source
	staleMax time.Duration
	known    *otter.Cache[Hash, known]
	stop     context.CancelFunc
	stopped  chan struct{}

	base    time.Time     // what the durations below are since, on the monotonic clock
	changes atomic.Uint64 // changes told of so far
	proved  atomic.Int64  // when it was last known that there was no other change
	contact atomic.Int64  // when the source last answered
	retry   atomic.Int64  // when to ask the source again after it failed; 0: it did not
	ahead   atomic.Int64  // how far the source's clock is ahead of this one

	mu    sync.Mutex
	marks []mark // when changes were told of, at most one a second, for staleMax

	hits, misses, stales atomic.Uint64
}

// A mark is when the change of a number was told of, and those that followed
// it until the next mark.
type mark struct {
	change uint64
	at     time.Duration
}

// known is what the source said of a value.
type known struct {
	key     *Key   // nil: no key has the value
	changes uint64 // those before it was asked
}

// NewCache returns a Cache of source, which must be closed. While source is
// away it goes on with the keys that it knows for staleMax at most.
func NewCache(source Source, staleMax time.Duration) (*Cache, error) {
	entries, err := otter.New(&otter.Options[Hash, known]{MaximumSize: cacheSize})
	if err != nil {
		return nil, fmt.Errorf("key cache: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	c := &Cache{
		source: source, staleMax: staleMax, known: entries,
		stop: stop, stopped: make(chan struct{}), base: time.Now(),
	}
	c.proved.Store(int64(-lease)) // not yet
	go func() {
		defer close(c.stopped)
		source.Watch(ctx, c)
	}()
	return c, nil
}

// Close stops watching for changes.
func (c *Cache) Close() {
	c.stop()
	<-c.stopped
	c.known.StopAllGoroutines()
}

// Changed implements Watcher.
func (c *Cache) Changed() {
	now := time.Since(c.base)
	c.mu.Lock()
	if n := len(c.marks); n == 0 || now-c.marks[n-1].at >= time.Second {
		c.marks = append(c.marks, mark{c.changes.Load() + 1, now})
		for len(c.marks) > 1 && now-c.marks[1].at > c.staleMax {
			c.marks = c.marks[1:]
		}
	}
	c.mu.Unlock()
	c.changes.Add(1) // last: whoever sees it finds its mark
}

// confirmed returns when it was last known that nothing had changed since an
// answer from before which the source had told of that many changes.
func (c *Cache) confirmed(changes uint64) time.Duration {
	if changes == c.changes.Load() {
		return time.Duration(c.contact.Load())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var at time.Duration // of the first change after those, or a second before
	for _, m := range c.marks {
		if m.change > changes+1 {
			break
		}
		at = m.at
	}
	return at
}

// Current implements Watcher.
func (c *Cache) Current(asOf, clock time.Time) {
	at := int64(asOf.Sub(c.base))
	c.proved.Store(at)
	c.contact.Store(at)
	c.retry.Store(0)
	c.ahead.Store(int64(clock.Sub(asOf)))
}

// Now returns the time by the source's clock, as far as it is known: the same
// on every replica. Keys expire by it.
func (c *Cache) Now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func (c *Cache) current(now time.Duration) bool {
	return now < time.Duration(c.proved.Load())+lease
}

// Find implements Finder.
func (c *Cache) Find(ctx context.Context, h Hash) (*Key, error) {
	now := time.Since(c.base)
	old, ok := c.known.GetIfPresent(h)
	if ok && old.changes == c.changes.Load() && c.current(now) {
		c.hits.Add(1)
		if old.key == nil {
			return nil, ErrUnknown
		}
		return old.key, nil
	}
	// That no key has the value is not worth to be remembered once the source
	// can't be asked: it may have been given to a key meanwhile.
	usable := ok && old.key != nil && now < c.confirmed(old.changes)+c.staleMax
	if usable && c.away(now) {
		c.stales.Add(1)
		return old.key, nil
	}

	// Before asking: a change that is told of from now on may come too late
	// for the answer, which then is not used a second time.
	changes := c.changes.Load()
	key, err := c.source.Find(ctx, h)
	if err == nil || errors.Is(err, ErrUnknown) {
		c.misses.Add(1)
		c.learn(h, known{key, changes})
		c.contact.Store(int64(now))
		c.retry.Store(0)
		return key, err
	}
	if ctx.Err() == nil { // it was not the caller who had enough
		c.retry.Store(int64(time.Since(c.base) + retryAfter))
	}
	if usable {
		c.stales.Add(1)
		return old.key, nil
	}
	c.misses.Add(1)
	return nil, err
}

// learn remembers what the source said, unless something younger is known.
func (c *Cache) learn(h Hash, k known) {
	c.known.Compute(h, func(old known, found bool) (known, otter.ComputeOp) {
		if found && old.changes > k.changes {
			return old, otter.CancelOp
		}
		return k, otter.WriteOp
	})
}

// away reports whether to leave the source alone. When it is time to ask again
// one caller is told so, and the others not to wait for it.
func (c *Cache) away(now time.Duration) bool {
	retry := c.retry.Load()
	if retry == 0 {
		return false
	}
	return now < time.Duration(retry) || !c.retry.CompareAndSwap(retry, int64(now+retryAfter))
}

var (
	lookupsDesc = prometheus.NewDesc("helloapi_key_lookups_total",
		"Look-ups of keys: answered from memory (hit), by the database (miss), or from memory because the database is away (stale).",
		[]string{"result"}, nil)
	sizeDesc = prometheus.NewDesc("helloapi_key_cache_size",
		"Values that the key cache knows, those of no key included.", nil, nil)
	changesDesc = prometheus.NewDesc("helloapi_key_changes_total",
		"Changes to keys and plans that this process was told of.", nil, nil)
	currentDesc = prometheus.NewDesc("helloapi_key_cache_current",
		"1 while it is known that no change was missed, so that look-ups are answered from memory.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c *Cache) Describe(ch chan<- *prometheus.Desc) {
	ch <- lookupsDesc
	ch <- sizeDesc
	ch <- changesDesc
	ch <- currentDesc
}

// Collect implements prometheus.Collector.
func (c *Cache) Collect(ch chan<- prometheus.Metric) {
	for result, n := range map[string]*atomic.Uint64{"hit": &c.hits, "miss": &c.misses, "stale": &c.stales} {
		ch <- prometheus.MustNewConstMetric(lookupsDesc, prometheus.CounterValue, float64(n.Load()), result)
	}
	current := 0.0
	if c.current(time.Since(c.base)) {
		current = 1
	}
	ch <- prometheus.MustNewConstMetric(currentDesc, prometheus.GaugeValue, current)
	ch <- prometheus.MustNewConstMetric(changesDesc, prometheus.CounterValue, float64(c.changes.Load()))
	ch <- prometheus.MustNewConstMetric(sizeDesc, prometheus.GaugeValue, float64(c.known.EstimatedSize()))
}
