package apikey_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
	"helloapi/internal/web"
)

// Each test in a bubble of synctest fails if a goroutine is still there when
// it ends, so none of them needs to look for a Cache's, nor for otter's. Time
// stands still in a bubble unless the test sleeps, so nothing is proven to a
// Cache, nor does a proof grow old, but when the test says so.

// What cache.go has it, and docs/keys.md says.
const (
	cacheSize  = 1 << 17
	lease      = 800 * time.Millisecond
	retryAfter = time.Second
)

var errAway = errors.New("no route to the database")

// source is a Source that the test makes do what it wants.
type source struct {
	watched chan apikey.Watcher // gets the Watcher
	leaving chan struct{}       // Watch returns when its context has ended, and this was closed

	mu    sync.Mutex
	keys  map[apikey.Hash]*apikey.Key
	err   error         // if not nil: why it can't be asked
	held  chan struct{} // if not nil: it answers when this is closed
	asked int
	given map[apikey.Hash]int // how often it was asked for what opens a key
}

func newSource() *source {
	s := &source{
		watched: make(chan apikey.Watcher, 1),
		leaving: make(chan struct{}),
		keys:    map[apikey.Hash]*apikey.Key{},
		given:   map[apikey.Hash]int{},
	}
	close(s.leaving)
	return s
}

// Find answers with what is so when it is asked, though it may be long until
// the answer arrives: as a query that a change overtakes.
func (s *source) Find(ctx context.Context, h apikey.Hash) (*apikey.Key, error) {
	s.mu.Lock()
	s.asked++
	k, err, held := s.keys[h], s.err, s.held
	if k != nil {
		s.given[h]++
	}
	s.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("source: %w", err)
	case k == nil:
		return nil, fmt.Errorf("source: %w", apikey.ErrUnknown)
	}
	return k, nil
}

func (s *source) Watch(ctx context.Context, w apikey.Watcher) {
	s.watched <- w
	<-ctx.Done()
	<-s.leaving
}

// put has value open k from now on; no key if k is nil. It does not tell.
func (s *source) put(value string, k *apikey.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[hash(value)] = k
}

// fail has questions from now on answered with err, unless it is nil.
func (s *source) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// hold keeps the answers to questions from now on until release is called.
func (s *source) hold() (release func()) {
	held := make(chan struct{})
	s.setHeld(held)
	return func() {
		s.setHeld(nil)
		close(held)
	}
}

func (s *source) setHeld(held chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = held
}

// queries returns how many questions it was asked.
func (s *source) queries() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// answered returns how many of them were about value while it opened a key.
func (s *source) answered(value string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.given[hash(value)]
}

func hash(value string) apikey.Hash { return sha256.Sum256([]byte(value)) }

// cached is a Cache with the test at both of its ends.
type cached struct {
	*testing.T
	source *source
	cache  *apikey.Cache
	w      apikey.Watcher
}

// The keys that start puts into the source. No other value opens a key.
var (
	anna = &apikey.Key{ID: "1", Name: "anna", Plan: &plan.Plan{Name: "free"}, Enabled: true}
	bob  = &apikey.Key{ID: "2", Name: "bob", Plan: &plan.Plan{Name: "free"}, Enabled: true}

	annaDisabled = &apikey.Key{ID: "1", Name: "anna", Plan: &plan.Plan{Name: "free"}}
)

// start returns a Cache of a source with the keys anna and bob, which was
// proven to be current a moment ago. It is closed when the test ends.
func start(t *testing.T, staleMax time.Duration) *cached {
	t.Helper()
	s := newSource()
	s.put("anna", anna)
	s.put("bob", bob)
	c, err := apikey.NewCache(s, staleMax)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	cd := &cached{t, s, c, <-s.watched}
	cd.current()
	return cd
}

// current proves that the Cache has been told of every change until now.
func (c *cached) current() { c.w.Current(time.Now(), time.Now()) }

// finds says that value has to open the key want, by so many queries.
func (c *cached) finds(value string, want *apikey.Key, queries int) {
	c.Helper()
	before := c.source.queries()
	got, err := c.cache.Find(c.Context(), hash(value))
	if err != nil {
		c.Errorf("%s: %v, want the key %s", value, err, want.Name)
	} else if diff := cmp.Diff(want, got); diff != "" {
		c.Errorf("%s (-want +got)\n%s", value, diff)
	}
	if n := c.source.queries() - before; n != queries {
		c.Errorf("%s: %d queries, want %d", value, n, queries)
	}
}

// fails says that value has to open nothing, because of want and nothing else,
// by so many queries.
func (c *cached) fails(value string, want error, queries int) {
	c.Helper()
	before := c.source.queries()
	k, err := c.cache.Find(c.Context(), hash(value))
	if k != nil || !errors.Is(err, want) || errors.Is(err, apikey.ErrUnknown) != (want == apikey.ErrUnknown) {
		c.Errorf("%s: %+v, error %v, want %v", value, k, err, want)
	}
	if n := c.source.queries() - before; n != queries {
		c.Errorf("%s: %d queries, want %d", value, n, queries)
	}
}

// later calls Find for a value in a goroutine of its own, and returns once
// that waits. The answer is checked when it comes.
func (c *cached) later(wg *sync.WaitGroup, value string, want *apikey.Key, wantErr error) {
	wg.Go(func() {
		if k, err := c.cache.Find(c.Context(), hash(value)); k != want || !errors.Is(err, wantErr) {
			c.Errorf("%s: %+v, error %v, want %+v, %v", value, k, err, want, wantErr)
		}
	})
	synctest.Wait()
}

// metrics returns what the Cache reports, without the common prefix.
func (c *cached) metrics() map[string]float64 {
	c.Helper()
	return metrics(c.T, c.cache)
}

func metrics(t testing.TB, c prometheus.Collector) map[string]float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, mf := range families {
		for _, m := range mf.GetMetric() {
			name := mf.GetName()[len("helloapi_key_"):]
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			values[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() // one of them is nil, and 0
		}
	}
	return values
}

func TestCacheWarm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := start(t, time.Hour)
		c.finds("anna", anna, 1)
		c.fails("nobody", apikey.ErrUnknown, 1)
		for range 100 {
			c.finds("anna", anna, 0)
			c.fails("nobody", apikey.ErrUnknown, 0)
		}
		c.finds("bob", bob, 1)
	})
}

func TestCacheFirstUses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := start(t, time.Hour)
		keys := map[string]*apikey.Key{} // nil: nobody's
		for i := range 100 {
			value := fmt.Sprint("value ", i)
			keys[value] = nil
			if i%2 == 0 {
				keys[value] = &apikey.Key{ID: value, Name: value}
				c.source.put(value, keys[value])
			}
		}
		use := func() {
			var wg sync.WaitGroup
			for value, want := range keys {
				var wantErr error
				if want == nil {
					wantErr = apikey.ErrUnknown
				}
				for range 5 {
					wg.Go(func() {
						if k, err := c.cache.Find(t.Context(), hash(value)); k != want || !errors.Is(err, wantErr) {
							t.Errorf("%s: %+v, error %v, want %+v, %v", value, k, err, want, wantErr)
						}
					})
				}
			}
			wg.Wait()
		}

		// All of the 500 are under way before the first is answered.
		release := c.source.hold()
		var wg sync.WaitGroup
		wg.Go(use)
		synctest.Wait()
		release()
		wg.Wait()
		if n := c.source.queries(); n < 100 || n > 500 {
			t.Errorf("%d queries for 500 first uses of 100 values", n)
		}

		before := c.source.queries()
		use()
		if n := c.source.queries() - before; n != 0 {
			t.Errorf("%d queries for the second uses, want 0", n)
		}
	})
}

func TestCacheLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := start(t, time.Hour)
		c.finds("anna", anna, 1)
		c.fails("nobody", apikey.ErrUnknown, 1)

		time.Sleep(lease - 1)
		c.finds("anna", anna, 0)
		c.fails("nobody", apikey.ErrUnknown, 0)
		c.finds("bob", bob, 1) // loading is no proof

		time.Sleep(time.Nanosecond)
		for range 3 { // what is loaded now is not to be believed either
			c.finds("anna", anna, 1)
			c.fails("nobody", apikey.ErrUnknown, 1)
		}

		// The proof is good from when it was asked for, not from when it came.
		c.w.Current(time.Now().Add(-lease+1), time.Now())
		c.finds("anna", anna, 0)
		c.finds("bob", bob, 0)
		c.fails("nobody", apikey.ErrUnknown, 0)
		time.Sleep(time.Nanosecond)
		c.finds("anna", anna, 1)
		c.fails("nobody", apikey.ErrUnknown, 1)

		for range 10 { // heartbeats
			c.current()
			time.Sleep(lease - 1)
			c.finds("anna", anna, 0)
			c.fails("nobody", apikey.ErrUnknown, 0)
		}
	})
}

// Before the first proof a Cache believes nothing.
func TestCacheUnproven(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		s.put("anna", anna)
		cache, err := apikey.NewCache(s, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		defer cache.Close()
		c := &cached{t, s, cache, <-s.watched}
		for range 3 {
			c.finds("anna", anna, 1)
			c.fails("nobody", apikey.ErrUnknown, 1)
		}
		c.w.Changed() // as a Watch does that begins
		c.current()
		c.finds("anna", anna, 1)
		c.finds("anna", anna, 0)
	})
}

func TestCacheChanged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := start(t, time.Hour)
		c.finds("anna", anna, 1)
		c.finds("bob", bob, 1)
		c.fails("carl", apikey.ErrUnknown, 1) // tried before it is created
		c.fails("nobody", apikey.ErrUnknown, 1)

		carl := &apikey.Key{ID: "3", Name: "carl", Enabled: true}
		c.source.put("anna", annaDisabled)
		c.source.put("bob", nil)
		c.source.put("carl", carl)
		c.w.Changed()

		for _, queries := range []int{1, 0, 0} { // each is loaded anew, once
			c.finds("anna", annaDisabled, queries)
			c.fails("bob", apikey.ErrUnknown, queries)
			c.finds("carl", carl, queries)
			c.fails("nobody", apikey.ErrUnknown, queries)
		}
	})
}

// What was asked before a change was told may be older than that, however late
// the answer comes.
func TestCacheChangedWhileLoading(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		before, after *apikey.Key
	}{
		{"disabled", anna, annaDisabled},
		{"deleted", anna, nil},
		{"created", nil, anna},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := start(t, time.Hour)
				is := func(k *apikey.Key, queries int) {
					t.Helper()
					if k == nil {
						c.fails("anna", apikey.ErrUnknown, queries)
					} else {
						c.finds("anna", k, queries)
					}
				}
				var early error
				if tt.before == nil {
					early = apikey.ErrUnknown
				}
				c.source.put("anna", tt.before)
				var wg sync.WaitGroup
				releaseFirst := c.source.hold()
				c.later(&wg, "anna", tt.before, early)
				releaseSecond := c.source.hold()
				c.later(&wg, "anna", tt.before, early)

				c.source.put("anna", tt.after)
				c.w.Changed()
				c.current()
				releaseFirst()
				synctest.Wait()
				is(tt.after, 1)
				is(tt.after, 0)
				// The other one comes when the present answer is known already.
				releaseSecond()
				wg.Wait()
				is(tt.after, 0)
				is(tt.after, 0)
			})
		})
	}
}

// An answer that a change overtook must not take the place of the younger one
// that is known by then: once the database is away that is what is gone on
// with.
func TestCacheLateAnswerDoesNotReplaceYounger(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := start(t, time.Hour)
		var wg sync.WaitGroup
		release := c.source.hold()
		c.later(&wg, "anna", anna, nil)
		c.later(&wg, "bob", bob, nil)
		c.source.setHeld(nil)
		c.source.put("anna", annaDisabled)
		c.source.put("bob", nil)
		c.w.Changed()
		c.finds("anna", annaDisabled, 1)
		c.fails("bob", apikey.ErrUnknown, 1)
		release()
		wg.Wait()

		time.Sleep(lease)
		c.source.fail(errAway)
		c.finds("anna", annaDisabled, 1)
		c.fails("bob", errAway, 1)
	})
}

func TestCacheAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := start(t, time.Hour)
		c.finds("anna", anna, 1)
		c.finds("bob", bob, 1)
		c.fails("nobody", apikey.ErrUnknown, 1)
		c.source.fail(errAway)
		c.finds("anna", anna, 0) // nothing was noticed yet
		c.fails("nobody", apikey.ErrUnknown, 0)

		time.Sleep(lease)
		c.finds("anna", anna, 1)
		for range 10 { // now it is known to be away
			c.finds("anna", anna, 0)
			c.finds("bob", bob, 0)
		}
		// A value that was nobody's may be somebody's by now.
		c.fails("nobody", errAway, 1)
		c.fails("carl", errAway, 1)

		for range 10 {
			time.Sleep(retryAfter - 1)
			c.finds("bob", bob, 0)
			time.Sleep(time.Nanosecond)
			c.finds("anna", anna, 1)
			c.finds("bob", bob, 0)
		}

		// Though keys are old, they are not for ever.
		c.source.fail(nil)
		time.Sleep(retryAfter)
		c.source.put("anna", annaDisabled)
		c.finds("anna", annaDisabled, 1)
		c.finds("bob", bob, 1) // no longer away, but there is no proof yet
		c.finds("anna", annaDisabled, 1)
		c.fails("nobody", apikey.ErrUnknown, 1)
		c.source.fail(errAway) // what was seen last is gone on with, told of or not
		c.finds("anna", annaDisabled, 1)
		c.finds("anna", annaDisabled, 0)
	})
}

// While the source is away and does not even say so, one caller a second waits
// for it, and no other.
func TestCacheAwayOneAsks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := start(t, time.Hour)
		c.finds("anna", anna, 1)
		time.Sleep(lease)
		c.source.fail(errAway)
		c.finds("anna", anna, 1)

		release := c.source.hold()
		var wg sync.WaitGroup
		// use has 100 callers come at once. It says how many of them ask.
		use := func(queries int) {
			t.Helper()
			before := c.source.queries()
			var answered atomic.Int64
			for range 100 {
				wg.Go(func() {
					if k, err := c.cache.Find(t.Context(), hash("anna")); k != anna || err != nil {
						t.Errorf("%+v, error %v, want anna", k, err)
					}
					answered.Add(1)
				})
			}
			synctest.Wait()
			if n := c.source.queries() - before; n != queries {
				t.Errorf("%d callers asked, want %d", n, queries)
			}
			if n := int(answered.Load()); n != 100-queries {
				t.Errorf("%d callers were answered at once, want %d", n, 100-queries)
			}
		}
		use(0)
		time.Sleep(retryAfter - 1)
		use(0)
		time.Sleep(time.Nanosecond)
		for range 5 { // the one that asked is not back, and the next takes its turn
			use(1)
			time.Sleep(retryAfter - 1)
			use(0)
			time.Sleep(time.Nanosecond)
		}
		release() // all that asked learn that it failed, and get the old key too
		wg.Wait()
		c.finds("anna", anna, 0)
	})
}

func TestCacheStaleMax(t *testing.T) {
	t.Parallel()
	const staleMax = time.Minute
	for _, tt := range []struct {
		name    string
		contact func(c *cached) // with the source, after the key was loaded
	}{
		{"loaded", func(*cached) {}},
		{"proof", func(c *cached) {
			time.Sleep(10 * time.Second)
			c.current()
		}},
		{"other key", func(c *cached) {
			time.Sleep(10 * time.Second)
			c.finds("bob", bob, 1)
		}},
		{"unknown value", func(c *cached) {
			time.Sleep(10 * time.Second)
			c.fails("nobody", apikey.ErrUnknown, 1)
		}},
		{"long ago", func(c *cached) {
			for range 100 {
				c.current()
				time.Sleep(lease)
			}
			c.current()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := start(t, staleMax)
				c.finds("anna", anna, 1)
				tt.contact(c)
				c.source.fail(errAway)

				time.Sleep(lease)
				c.finds("anna", anna, 1)
				time.Sleep(staleMax - lease - 1) // to fail is no contact
				c.finds("anna", anna, 1)
				c.finds("anna", anna, 0)
				time.Sleep(time.Nanosecond)
				c.fails("anna", errAway, 1)
				time.Sleep(time.Hour)
				c.fails("anna", errAway, 1)

				c.source.fail(nil)
				c.finds("anna", anna, 1)
			})
		})
	}
	t.Run("zero", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c := start(t, 0)
			c.finds("anna", anna, 1)
			c.source.fail(errAway)
			c.finds("anna", anna, 0)
			time.Sleep(lease)
			c.fails("anna", errAway, 1)
			c.fails("anna", errAway, 1)
		})
	})
}

// Where the connection that brings the news works and look-ups fail (the pool is
// exhausted, a migration has the table locked), a key that was told to have
// changed is not gone on with for longer than KEY_STALE_MAX.
func TestCacheStaleMaxWhileHeartbeatsGoOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const staleMax = time.Minute
		c := start(t, staleMax)
		c.finds("anna", anna, 1)
		c.source.put("anna", annaDisabled)
		c.w.Changed()
		c.source.fail(errAway)
		const heartbeat = 200 * time.Millisecond
		for range 10 * staleMax / heartbeat {
			c.current()
			time.Sleep(heartbeat)
		}
		if k, err := c.cache.Find(t.Context(), hash("anna")); k == anna || !errors.Is(err, errAway) {
			t.Errorf("%s after it was told that keys changed: %+v, error %v, want %v", 10*staleMax, k, err, errAway)
		}
	})
}

// How long a key is gone on with counts from the change that made it old, or up
// to a second before, and not from those that followed; and where there was
// none, from the last contact. What happened to other keys is no matter.
func TestCacheStaleMaxOfEachKey(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const (
					staleMax = 10 * time.Second
					step     = 100 * time.Millisecond
					steps    = 400 // in each of them a key is loaded
					mark     = time.Second
				)
				random := rand.New(rand.NewPCG(seed, 0))
				c := start(t, staleMax)
				var outdated [steps]time.Time // when the change after a key's load was told; the zero time: there was none
				for i := range steps {
					name := fmt.Sprint("key ", i)
					k := &apikey.Key{ID: name, Name: name, Enabled: true}
					c.source.put(name, k)
					c.finds(name, k, 1)
					if random.Float64() < float64(seed)/20 { // from no change to one with most steps
						c.w.Changed()
						for j := range i + 1 {
							if outdated[j].IsZero() {
								outdated[j] = time.Now()
							}
						}
					}
					c.current()
					time.Sleep(step)
				}

				c.source.fail(errAway)
				contact := time.Now().Add(-step)
				for range 15 {
					for i, latest := range outdated {
						earliest := latest.Add(-mark)
						if latest.IsZero() {
							earliest, latest = contact, contact
						}
						_, err := c.cache.Find(t.Context(), hash(fmt.Sprint("key ", i)))
						switch {
						case err != nil && !errors.Is(err, errAway):
							t.Errorf("key %d: error %v, want %v", i, err, errAway)
						case err != nil && time.Since(earliest) < staleMax:
							t.Errorf("key %d: not found %s after it became old", i, time.Since(latest))
						case err == nil && time.Since(latest) >= staleMax:
							t.Errorf("key %d: found %s after it became old", i, time.Since(latest))
						}
					}
					time.Sleep(time.Duration(random.Int64N(int64(2 * time.Second))))
				}
			})
		})
	}
}

func TestCacheBack(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		told bool // of changes, before Current
	}{
		{"listening anew", true},
		{"nothing changed", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := start(t, time.Hour)
				c.finds("anna", anna, 1)
				c.finds("bob", bob, 1)
				c.fails("nobody", apikey.ErrUnknown, 1)
				c.source.fail(errAway)
				time.Sleep(10 * time.Minute)
				c.finds("anna", anna, 1)

				c.source.fail(nil)
				c.finds("anna", anna, 0) // it is left alone still
				if !tt.told {
					c.current()
					c.finds("anna", anna, 0)
					c.finds("bob", bob, 0)
					c.fails("nobody", apikey.ErrUnknown, 0)
					c.finds("anna", anna, 0)
					time.Sleep(lease)
					c.finds("anna", anna, 1) // it is not away any more
					c.finds("anna", anna, 1)
					return
				}
				c.source.put("anna", annaDisabled)
				c.source.put("bob", nil)
				c.finds("anna", anna, 0)
				c.w.Changed()
				c.current()
				for _, queries := range []int{1, 0} {
					c.finds("anna", annaDisabled, queries)
					c.fails("bob", apikey.ErrUnknown, queries)
					c.fails("nobody", apikey.ErrUnknown, queries)
				}
			})
		})
	}
}

func TestCacheNow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := start(t, time.Hour)
		ahead := func(want time.Duration) {
			t.Helper()
			if got := time.Until(c.cache.Now()); got != want {
				t.Errorf("%s ahead of this machine, want %s", got, want)
			}
		}
		ahead(0)
		for _, d := range []time.Duration{3 * time.Hour, -3 * time.Hour, 365 * 24 * time.Hour, time.Millisecond, 0} {
			asOf := time.Now()
			time.Sleep(50 * time.Millisecond) // what the answer takes to come
			c.w.Current(asOf, asOf.Add(d).UTC().Round(0))
			ahead(d)
			time.Sleep(time.Minute) // also while it is away
			ahead(d)
		}

		// The lease does not follow the source's clock.
		c.w.Current(time.Now(), time.Now().Add(-24*time.Hour))
		c.finds("anna", anna, 1)
		c.finds("anna", anna, 0)
		c.w.Current(time.Now(), time.Now().Add(24*time.Hour))
		time.Sleep(lease)
		c.finds("anna", anna, 1)
		c.finds("anna", anna, 1)
	})
}

func TestCacheClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		s.put("anna", anna)
		s.leaving = make(chan struct{})
		cache, err := apikey.NewCache(s, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		c := &cached{t, s, cache, <-s.watched}
		c.current()
		for i := range 1000 { // so that otter has something to clean up
			c.fails(fmt.Sprint("nobody ", i), apikey.ErrUnknown, 1)
		}
		c.finds("anna", anna, 1)

		closed := make(chan struct{})
		go func() {
			cache.Close()
			close(closed)
		}()
		synctest.Wait()
		select {
		case <-closed:
			t.Error("Close returned before Watch did")
		default:
		}
		close(s.leaving) // which does something only if the context of Watch has ended
		<-closed

		// Nobody tells of changes any more: no more than a lease of what is known.
		c.finds("anna", anna, 0)
		time.Sleep(lease)
		c.finds("anna", anna, 1)
		c.finds("anna", anna, 1)
	})
}

func TestCacheMetrics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		s.put("anna", anna)
		cache, err := apikey.NewCache(s, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		defer cache.Close()
		c := &cached{t, s, cache, <-s.watched}
		want := map[string]float64{
			"lookups_total hit": 0, "lookups_total miss": 0, "lookups_total stale": 0,
			"cache_size": 0, "cache_current": 0, "changes_total": 0,
		}
		reports := func(when string) {
			t.Helper()
			if diff := cmp.Diff(want, c.metrics()); diff != "" {
				t.Errorf("%s (-want +got)\n%s", when, diff)
			}
		}
		reports("new")

		c.current()
		want["cache_current"] = 1
		reports("proven")

		c.finds("anna", anna, 1)
		c.finds("anna", anna, 0)
		c.fails("nobody", apikey.ErrUnknown, 1)
		c.fails("nobody", apikey.ErrUnknown, 0)
		c.fails("nobody", apikey.ErrUnknown, 0)
		want["lookups_total hit"], want["lookups_total miss"], want["cache_size"] = 3, 2, 2
		reports("used")

		c.w.Changed()
		c.w.Changed()
		c.finds("anna", anna, 1)
		want["changes_total"], want["lookups_total miss"] = 2, 3
		reports("changed")

		time.Sleep(lease)
		want["cache_current"] = 0
		reports("unproven")

		// (How the look-ups that find out are counted is another test's.)
		s.fail(errAway)
		c.fails("carl", errAway, 1)
		want = c.metrics()
		c.finds("anna", anna, 0)
		c.finds("anna", anna, 0)
		want["lookups_total stale"] += 2
		reports("away")

		c.current()
		want["cache_current"] = 1
		reports("back")
	})
}

// The look-up that finds out that the database is away, and is answered from
// memory, is not counted as answered by the database too.
func TestCacheMetricsCountALookUpOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := start(t, time.Hour)
		c.finds("anna", anna, 1)
		time.Sleep(lease)
		c.source.fail(errAway)
		want := c.metrics()
		want["lookups_total stale"]++
		c.finds("anna", anna, 1)
		if diff := cmp.Diff(want, c.metrics()); diff != "" {
			t.Errorf("after one look-up, answered from memory (-want +got)\n%s", diff)
		}
		want["lookups_total miss"]++
		c.fails("nobody", errAway, 1)
		if diff := cmp.Diff(want, c.metrics()); diff != "" {
			t.Errorf("after one that memory could not answer (-want +got)\n%s", diff)
		}
	})
}

// A flood of values that nobody has takes up no more than its room, does not
// drive out a key that is used now and then, and lets new ones in.
func TestCacheFlood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const (
			workers = 4
			flood   = 3 * cacheSize
		)
		// otter evicts behind the callers' backs, who may be a buffer ahead of it.
		slack := 1024 * runtime.GOMAXPROCS(0)
		c := start(t, time.Hour)
		c.finds("anna", anna, 1)
		var largest int // worker 0's
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				use := func(value string, want *apikey.Key) {
					if k, err := c.cache.Find(t.Context(), hash(value)); k != want || err != nil {
						t.Errorf("%+v, error %v, want %s", k, err, want.Name)
					}
				}
				for i := range flood / workers {
					var h apikey.Hash
					binary.BigEndian.PutUint64(h[:], uint64(workers*i+w))
					if _, err := c.cache.Find(t.Context(), h); !errors.Is(err, apikey.ErrUnknown) {
						t.Errorf("a value of the flood: %v", err)
					}
					switch {
					case w == 0 && i%500 == 0:
						largest = max(largest, int(c.metrics()["cache_size"]))
					case w == 1 && i%2500 == 0:
						use("anna", anna)
					case w == 2 && i%500 == 0 && i > flood/workers/2: // a newcomer
						use("bob", bob)
					}
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		if largest < cacheSize || largest > cacheSize+slack {
			t.Errorf("it knew up to %d values, want %d and at most %d more", largest, cacheSize, slack)
		}
		if n := c.metrics()["cache_size"]; n > cacheSize {
			t.Errorf("it knows %v values after the flood, want %d at most", n, cacheSize)
		}
		if n := c.source.answered("anna"); n != 1 {
			t.Errorf("%d queries for a key that was known before, want the first only", n)
		}
		// It has to prove that it is worth more than what comes only once.
		if n := c.source.answered("bob"); n < 1 || n > 5 {
			t.Errorf("%d queries for a key that came amid the flood, want a few", n)
		}
		if n := c.source.queries() - c.source.answered("anna") - c.source.answered("bob"); n != flood {
			t.Errorf("%d queries for %d values that nobody has", n, flood)
		}
	})
}

// versions is a Source of a key that changes, and of keys that are created:
// the value n opens one as soon as there were n changes.
type versions struct {
	watched chan apikey.Watcher
	made    atomic.Int64
}

var changing = hash("the key that changes")

func created(n int64) (h apikey.Hash) {
	binary.BigEndian.PutUint64(h[:], uint64(n))
	return h
}

func (s *versions) Find(_ context.Context, h apikey.Hash) (*apikey.Key, error) {
	made := s.made.Load()
	runtime.Gosched() // others may overtake the answer
	if h != changing && made < int64(binary.BigEndian.Uint64(h[:])) {
		return nil, apikey.ErrUnknown
	}
	return &apikey.Key{ID: strconv.FormatInt(made, 10)}, nil
}

func (s *versions) Watch(ctx context.Context, w apikey.Watcher) {
	s.watched <- w
	<-ctx.Done()
}

// No answer is older than the last change that was told before it was asked for.
func TestCacheNeverOlderThanTold(t *testing.T) {
	t.Parallel()
	const (
		readers = 8
		finds   = 8_000 // of each
		each    = 50    // as many between two changes, about
	)
	s := &versions{watched: make(chan apikey.Watcher, 1)}
	c, err := apikey.NewCache(s, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w := <-s.watched
	w.Current(time.Now(), time.Now())

	var told atomic.Int64
	due := make(chan struct{})
	var changer, wg sync.WaitGroup
	changer.Go(func() {
		for range due {
			n := s.made.Add(1)
			w.Changed()
			told.Store(n)
			w.Current(time.Now(), time.Now())
		}
	})
	for range readers {
		wg.Go(func() {
			for i := range finds {
				if i%each == 0 {
					due <- struct{}{}
				}
				before := told.Load()
				k, err := c.Find(t.Context(), changing)
				if err != nil {
					t.Errorf("find: %v", err)
					return
				}
				if v, err := strconv.ParseInt(k.ID, 10, 64); err != nil || v < before {
					t.Errorf("change %d was told, and then the key found as of change %s (%v)", before, k.ID, err)
					return
				}

				before = told.Load()
				c.Find(t.Context(), created(before+1)) // before it is created, most likely
				if _, err := c.Find(t.Context(), created(before)); err != nil {
					t.Errorf("the key created by change %d, which was told: %v", before, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(due)
	changer.Wait()
	m := metrics(t, c)
	if m["lookups_total hit"] < finds || m["lookups_total miss"] < finds/each {
		t.Errorf("%v: too few of one kind to say anything", m)
	}
	if n := told.Load(); n != readers*finds/each || m["changes_total"] != float64(n) {
		t.Errorf("%d changes made, %v counted, want %d", n, m["changes_total"], readers*finds/each)
	}
}

// Nobody can tell from an answer, or from how long it took, whether a value
// opens a key that is disabled, one that has expired, or none.
//
// It is not parallel, and in real time, since it measures.
func TestRequireRefusesAlikeInTime(t *testing.T) {
	const samples = 5000
	s := newSource()
	values := []string{"the-value-of-an-unknown-key", "the-value-of-a-disabled-key", "the-value-of-an-expired-key"}
	s.put(values[1], annaDisabled)
	expired := *bob
	expired.ExpiresAt = time.Now().Add(-time.Hour)
	s.put(values[2], &expired)
	cache, err := apikey.NewCache(s, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	provenForGood(<-s.watched)

	h := web.Observe(slog.New(slog.NewJSONHandler(io.Discard, nil)), web.NewMetrics(prometheus.NewRegistry()), nil)(
		apikey.Require(cache, cache.Now, func(*apikey.Key, string) {})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("one was let in") })))
	ask := func(value string) (*httptest.ResponseRecorder, time.Duration) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set(apikey.Header, value)
		w := httptest.NewRecorder()
		begin := time.Now()
		h.ServeHTTP(w, r)
		return w, time.Since(begin)
	}
	first, _ := ask(values[0])
	first.Header().Del("X-Request-Id") // a random one each
	if first.Code != http.StatusForbidden {
		t.Fatalf("answered %d %s", first.Code, first.Body)
	}
	for _, v := range values[1:] {
		ask(v)
	}
	if n := s.queries(); n != len(values) {
		t.Fatalf("%d queries to get warm, want %d", n, len(values))
	}

	took := make([][]time.Duration, len(values))
	for i := range samples {
		for j := range values {
			n := (i + j) % len(values) // none always comes after the same
			w, d := ask(values[n])
			took[n] = append(took[n], d)
			w.Header().Del("X-Request-Id")
			if w.Code != first.Code || w.Body.String() != first.Body.String() {
				t.Fatalf("%s: answered %d %s, others %d %s", values[n], w.Code, w.Body, first.Code, first.Body)
			}
			if diff := cmp.Diff(first.Header(), w.Header()); diff != "" {
				t.Fatalf("%s: headers differ from those of %s\n%s", values[n], values[0], diff)
			}
		}
	}
	if n := s.queries(); n != len(values) {
		t.Errorf("%d queries, want none but the first %d", n, len(values))
	}
	medians := make([]time.Duration, len(values))
	for n, d := range took {
		slices.Sort(d)
		medians[n] = d[len(d)/2]
	}
	t.Logf("medians: unknown %s, disabled %s, expired %s", medians[0], medians[1], medians[2])
	if slowest, fastest := slices.Max(medians), slices.Min(medians); slowest > 2*fastest {
		t.Errorf("median times of %v: %v: more than a factor of 2", values, medians)
	}
}

// provenForGood gives a Cache a proof that lasts for the time of a test in real
// time, which then needs no heartbeats.
func provenForGood(w apikey.Watcher) {
	later := time.Now().Add(time.Hour)
	w.Current(later, later)
}
