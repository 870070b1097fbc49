package meter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"helloapi/internal/plan"
)

// redis is a Shared that a test can take away.
type redis struct {
	limiter
	mu     sync.Mutex
	err    error // what every call returns
	frozen bool  // whether calls wait for their context's end
	asked  []string
	pings  atomic.Int64
}

func (r *redis) set(err error, frozen bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err, r.frozen = err, frozen
}

func (r *redis) answer(ctx context.Context, name string) error {
	r.mu.Lock()
	err, frozen := r.err, r.frozen
	if name != "ping" {
		r.asked = append(r.asked, name)
	}
	r.mu.Unlock()
	if frozen {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

// took returns the calls but for pings since it was last asked.
func (r *redis) took() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := strings.Join(r.asked, " ")
	r.asked = nil
	return s
}

func (r *redis) Ping(ctx context.Context) error {
	r.pings.Add(1)
	return r.answer(ctx, "ping")
}

func (r *redis) Throttle(ctx context.Context, keyID string, t plan.Throttle) (time.Duration, error) {
	if err := r.answer(ctx, "throttle"); err != nil {
		return 0, err
	}
	return r.limiter.Throttle(ctx, keyID, t)
}

func (r *redis) Charge(ctx context.Context, keyID string, q plan.Quota) (Charge, error) {
	if err := r.answer(ctx, "charge"); err != nil {
		return Charge{}, err
	}
	return r.limiter.Charge(ctx, keyID, q)
}

func (r *redis) Raise(ctx context.Context, keyID string, w plan.Window, used int64) error {
	if err := r.answer(ctx, "raise"); err != nil {
		return err
	}
	return r.limiter.Raise(ctx, keyID, w, used)
}

func (r *redis) Refund(ctx context.Context, c Charge) error {
	if err := r.answer(ctx, "refund"); err != nil {
		return err
	}
	return r.limiter.Refund(ctx, c)
}

var errRefused = fmt.Errorf("%w: connection refused", ErrAway)

// replica is a Fallback with what it stands on.
type replica struct {
	*Fallback
	redis *redis
	local *limiter // of the throttles of this process alone
	usage *usage
	peers peers
	log   bytes.Buffer
}

// peers are Peers that others reach Redis or not, and notes who says so.
type peers struct {
	mu      sync.Mutex
	others  bool
	err     error
	reached []string
}

func (p *peers) Reached(_ context.Context, replica string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reached = append(p.reached, replica)
	return p.err
}

func (p *peers) OthersReach(context.Context, string) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.others, p.err
}

// newReplica returns a replica, which must be closed.
func newReplica(u *usage, deny bool) *replica {
	r := &replica{redis: new(redis), local: new(limiter), usage: u}
	r.Fallback = NewFallback(r.redis, r.local, newLedger(u), &r.peers, deny, slog.New(slog.NewTextHandler(&r.log, nil)))
	return r
}

// awayReplica returns a replica that goes on without Redis.
func awayReplica(t *testing.T, u *usage) *replica {
	t.Helper()
	r := newReplica(u, false)
	r.redis.set(errRefused, false)
	if _, err := r.Throttle(t.Context(), "1", plan.Throttle{Rate: 1, Burst: 1}); err != nil {
		t.Fatal(err)
	}
	r.redis.took()
	return r
}

// charge charges the key "1".
func (r *replica) charge(t *testing.T, q *plan.Quota) (Charge, error) {
	t.Helper()
	ctx, cancel := bounded(t.Context())
	defer cancel()
	return r.Charge(ctx, "1", *q)
}

// flood charges till nothing is granted any more, at once, and returns what was
// granted. It settles nothing.
func (r *replica) flood(t *testing.T, q *plan.Quota) (granted []Charge) {
	t.Helper()
	for range 1000 {
		c, err := r.charge(t, q)
		if err != nil && !errors.Is(err, ErrAway) {
			t.Errorf("charge: %v", err)
		}
		if !c.Granted {
			return granted
		}
		granted = append(granted, c)
	}
	t.Error("there is no end of what is granted")
	return granted
}

// settle puts what was granted into the ledger.
func (r *replica) settle(t *testing.T, granted []Charge) {
	t.Helper()
	for _, c := range granted {
		r.ledger.Add(Slot{c.KeyID, plan.DateOf(c.Window.Start.UTC())}, Account{})
		r.ledger.release(c) // as Meter does
	}
}

func wantGranted(t *testing.T, got []Charge, want int) {
	t.Helper()
	if len(got) != want {
		t.Errorf("%d units were granted, want %d", len(got), want)
	}
}

func (r *replica) metrics(t *testing.T) map[string]float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(r.Fallback); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return got
}

func TestFallbackShares(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(new(usage), false)
		defer r.Close()
		r.redis.strict, r.redis.wait, r.local.wait = true, time.Second, time.Minute
		if wait, err := r.Throttle(t.Context(), "1", plan.Throttle{}); err != nil || wait != time.Second {
			t.Errorf("the throttle says %s, %v", wait, err)
		}
		w, err := perDay(2).Window(r.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Raise(t.Context(), "1", w, 1); err != nil {
			t.Error(err)
		}
		for _, granted := range []bool{true, false} {
			if c, err := r.charge(t, perDay(2)); err != nil || c.Granted != granted || c.Used != 2 {
				t.Errorf("charged %v, %v", c, err)
			} else if granted {
				defer func() {
					if err := r.Refund(t.Context(), c); err != nil {
						t.Error(err)
					}
					if got := r.redis.took(); got != "throttle raise charge charge refund" {
						t.Errorf("asked %q", got)
					}
				}()
			}
		}
		time.Sleep(time.Minute)
		if n := r.redis.pings.Load(); n > 60 {
			t.Errorf("%d pings in a minute while it is there", n)
		}
		if diff := cmp.Diff(map[string]float64{
			"helloapi_limits_away": 0, "helloapi_limits_without_redis_total local": 0, "helloapi_limits_without_redis_total denied": 0,
		}, r.metrics(t)); diff != "" {
			t.Errorf("metrics (-want +got)\n%s", diff)
		}
	})
}

// The first that gets no answer is the last that waits.
func TestFallbackLeaves(t *testing.T) {
	t.Parallel()
	calls := map[string]func(context.Context, *replica) error{
		"throttle": func(ctx context.Context, r *replica) error {
			_, err := r.Throttle(ctx, "1", plan.Throttle{Rate: 1, Burst: 1})
			return err
		},
		"charge": func(ctx context.Context, r *replica) error {
			c, err := r.Charge(ctx, "1", *perDay(1000))
			if !c.Granted || !strings.HasPrefix(c.Epoch, localEpoch) {
				return fmt.Errorf("charged %v, %w", c, err)
			}
			return err
		},
		"raise": func(ctx context.Context, r *replica) error {
			return r.Raise(ctx, "1", plan.Window{}, 5)
		},
	}
	for first, call := range calls {
		for _, frozen := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,frozen=%t", first, frozen), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					r := newReplica(new(usage), false)
					defer r.Close()
					r.redis.set(errRefused, frozen)
					var waits time.Duration
					if frozen {
						waits = limiterTimeout
					}
					for range 20 {
						for _, do := range []func(context.Context, *replica) error{call, calls["throttle"], calls["charge"], calls["raise"]} {
							begin := time.Now()
							ctx, cancel := bounded(t.Context())
							if err := do(ctx, r); err != nil {
								t.Error(err)
							}
							cancel()
							if d := time.Since(begin); d != waits {
								t.Errorf("it took %s, want %s", d, waits)
							}
							waits = 0
						}
						time.Sleep(time.Second)
					}
					if got := r.redis.took(); got != first {
						t.Errorf("asked %q, want %q", got, first)
					}
					if n := strings.Count(r.log.String(), "level=ERROR"); n != 1 {
						t.Errorf("%d errors in the log: %s", n, &r.log)
					}
					if got := r.metrics(t); got["helloapi_limits_away"] != 1 || got["helloapi_limits_without_redis_total local"] < 40 ||
						got["helloapi_limits_without_redis_total denied"] != 0 {
						t.Errorf("metrics: %v", got)
					}
				})
			})
		}
	}
}

// The throttle goes on in this process.
func TestFallbackThrottles(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := awayReplica(t, new(usage))
		defer r.Close()
		r.local.wait = time.Minute
		if wait, err := r.Throttle(t.Context(), "1", plan.Throttle{}); err != nil || wait != time.Minute {
			t.Errorf("the throttle says %s, %v", wait, err)
		}
	})
}

// An error that does not say that Redis is away does not make it so.
func TestFallbackOtherErrors(t *testing.T) {
	t.Parallel()
	for _, want := range []error{errors.New("a bug in the script"), context.Canceled} {
		t.Run(want.Error(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newReplica(new(usage), false)
				defer r.Close()
				r.redis.set(want, false)
				for range 3 {
					if _, err := r.charge(t, perDay(1)); !errors.Is(err, want) {
						t.Errorf("charge: %v", err)
					}
					if _, err := r.Throttle(t.Context(), "1", plan.Throttle{}); !errors.Is(err, want) {
						t.Errorf("throttle: %v", err)
					}
					if err := r.Raise(t.Context(), "1", plan.Window{}, 1); !errors.Is(err, want) {
						t.Errorf("raise: %v", err)
					}
				}
				if got := r.redis.took(); got != strings.TrimSpace(strings.Repeat("charge throttle raise ", 3)) {
					t.Errorf("asked %q", got)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(new(usage), false)
		defer r.Close()
		for range 2 {
			if c, err := r.charge(t, &plan.Quota{Limit: 1, Period: plan.Day, Timezone: "Nowhere/Land"}); err == nil {
				t.Errorf("in a bad zone charged %v", c)
			}
		}
		if got := r.redis.took(); got != "charge charge" {
			t.Errorf("asked %q", got)
		}
	})
}

func TestFallbackReturns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(new(usage), false)
		defer r.Close()
		r.redis.losses = 7
		for i := range uint64(3) {
			if got := r.Losses(); got != 7+i {
				t.Errorf("%d losses, want %d", got, 7+i)
			}
			r.redis.set(errRefused, false)
			before := r.redis.pings.Load()
			if c, err := r.charge(t, perDay(1000)); err != nil || !strings.HasPrefix(c.Epoch, localEpoch) {
				t.Errorf("charged %v, %v", c, err)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if n := r.redis.pings.Load() - before; n != 10 {
				t.Errorf("%d pings in a second", n)
			}
			if got := r.Losses(); got != 7+i {
				t.Errorf("%d losses before it is back", got)
			}
			r.redis.took()
			r.redis.set(nil, false)
			time.Sleep(probeEvery)
			synctest.Wait()
			if got := r.Losses(); got != 8+i {
				t.Errorf("%d losses once it is back, want %d", got, 8+i)
			}
			if c, err := r.charge(t, perDay(1000)); err != nil || strings.HasPrefix(c.Epoch, localEpoch) {
				t.Errorf("charged %v, %v", c, err)
			}
			if got := r.redis.took(); got != "charge" {
				t.Errorf("asked %q", got)
			}
			before = r.redis.pings.Load()
			time.Sleep(time.Minute)
			if n := r.redis.pings.Load() - before; n > 60 {
				t.Errorf("%d pings in the minute after it was back", n)
			}
			if n := strings.Count(r.log.String(), "level=INFO"); n != int(i)+1 {
				t.Errorf("the log: %s", &r.log)
			}
			if got := r.metrics(t)["helloapi_limits_away"]; got != 0 {
				t.Errorf("helloapi_limits_away is %g", got)
			}
		}
	})
}

// A Redis that no request asks is asked each second, and the other replicas are
// told of it.
func TestFallbackWatches(t *testing.T) {
	t.Parallel()
	for _, frozen := range []bool{false, true} {
		t.Run(fmt.Sprintf("frozen=%t", frozen), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newReplica(new(usage), false)
				defer r.Close()
				time.Sleep(5*checkEvery + 1)
				synctest.Wait()
				r.peers.mu.Lock()
				reached := len(r.peers.reached)
				r.peers.mu.Unlock()
				if n := r.redis.pings.Load(); n != 5 || reached != 5 || r.Ready(t.Context()) != nil {
					t.Errorf("in five seconds %d pings, told of %d", n, reached)
				}
				r.redis.set(errRefused, frozen)
				time.Sleep(checkEvery + checkTimeout)
				synctest.Wait()
				if got := r.metrics(t); got["helloapi_limits_away"] != 1 {
					t.Errorf("metrics: %v", got)
				}
				time.Sleep(5 * checkEvery)
				r.peers.mu.Lock()
				defer r.peers.mu.Unlock()
				if len(r.peers.reached) != reached {
					t.Error("others were told that it reaches Redis")
				}
			})
		})
	}
}

// While Redis is away a replica is not ready if others do better, or if it
// denies.
func TestFallbackReady(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := awayReplica(t, new(usage))
		defer r.Close()
		if err := r.Ready(t.Context()); err != nil {
			t.Errorf("with Redis away from all: %v", err)
		}
		r.peers.others = true
		if err := r.Ready(t.Context()); !errors.Is(err, ErrAway) {
			t.Errorf("with Redis away from this one alone: %v", err)
		}
		r.peers.err = errStore
		if err := r.Ready(t.Context()); !errors.Is(err, errStore) {
			t.Errorf("with the database away too: %v", err)
		}
		r.redis.set(nil, false)
		time.Sleep(probeEvery)
		synctest.Wait()
		if err := r.Ready(t.Context()); err != nil {
			t.Errorf("with Redis back: %v", err)
		}

		denies := newReplica(new(usage), true)
		defer denies.Close()
		denies.redis.set(errRefused, false)
		time.Sleep(checkEvery + 1)
		synctest.Wait()
		if err := denies.Ready(t.Context()); !errors.Is(err, ErrAway) {
			t.Errorf("with Redis away, and deny: %v", err)
		}
	})
}

// A request that has no time left says nothing about Redis.
func TestFallbackOutOfTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(new(usage), false)
		defer r.Close()
		r.redis.set(nil, true)
		request, cancel := context.WithTimeout(t.Context(), limiterTimeout-1)
		defer cancel()
		ctx, cancel := bounded(request)
		defer cancel()
		if _, err := r.Charge(ctx, "1", *perDay(5)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("charge: %v", err)
		}
		if r.away.Load() {
			t.Error("Redis is taken to be away")
		}
		ctx, cancel = bounded(t.Context())
		defer cancel()
		if c, err := r.Charge(ctx, "1", *perDay(5)); err != nil || !r.away.Load() {
			t.Errorf("with time left: %v, %v, away: %v", c, err, r.away.Load())
		}
	})
}

// A ping of a frozen Redis is given up.
func TestFallbackPingTimesOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := awayReplica(t, new(usage))
		defer r.Close()
		r.redis.set(nil, true)
		time.Sleep(10 * time.Second)
		if n := r.redis.pings.Load(); n < 60 {
			t.Errorf("%d pings in ten seconds", n)
		}
		r.redis.set(nil, false)
		time.Sleep(probeEvery + probeTimeout)
		synctest.Wait()
		if r.Losses() != 1 {
			t.Error("it is not back")
		}
	})
}

func TestFallbackClose(t *testing.T) {
	t.Parallel()
	for _, frozen := range []bool{false, true} {
		t.Run(fmt.Sprintf("frozen=%t", frozen), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { // fails if a goroutine is left
				r := awayReplica(t, new(usage))
				r.redis.set(errRefused, frozen)
				time.Sleep(probeEvery)
				synctest.Wait()
				begin := time.Now()
				r.Close()
				if d := time.Since(begin); d != 0 {
					t.Errorf("it took %s", d)
				}
				before := r.redis.pings.Load()
				if before != 1 {
					t.Errorf("%d pings", before)
				}
				time.Sleep(time.Minute)
				if n := r.redis.pings.Load() - before; n != 0 {
					t.Errorf("%d pings after it was closed", n)
				}
				if n := r.Losses(); n != 0 {
					t.Errorf("%d losses: what was closed is not back", n)
				}
			})
		})
	}
}

// Closed, it does not begin to ask for Redis.
func TestFallbackLeavesClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(new(usage), false)
		r.Close()
		r.redis.set(errRefused, false)
		if _, err := r.Throttle(t.Context(), "1", plan.Throttle{}); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if n := r.redis.pings.Load(); n != 0 {
			t.Errorf("%d pings", n)
		}
	})
}

func TestFallbackDenies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(new(usage), true)
		defer r.Close()
		c, err := r.charge(t, perDay(100))
		if err != nil {
			t.Fatal(err)
		}
		r.redis.took()
		r.redis.set(errRefused, false)
		for range 3 {
			if c, err := r.charge(t, perDay(100)); !errors.Is(err, ErrAway) || c.Granted {
				t.Errorf("charged %v, %v", c, err)
			}
			if _, err := r.Throttle(t.Context(), "1", plan.Throttle{}); !errors.Is(err, ErrAway) {
				t.Errorf("throttle: %v", err)
			}
			if err := r.Raise(t.Context(), "1", c.Window, 1); !errors.Is(err, ErrAway) {
				t.Errorf("raise: %v", err)
			}
			if err := r.Refund(t.Context(), c); !errors.Is(err, ErrAway) {
				t.Errorf("refund: %v", err)
			}
		}
		if got := r.redis.took(); got != "charge" {
			t.Errorf("asked %q", got)
		}
		if got := r.local.took(); got != "" || r.usage.reads != 0 {
			t.Errorf("what is denied was counted: %q, %d reads", got, r.usage.reads)
		}
		got := r.metrics(t)
		if got["helloapi_limits_away"] != 1 || got["helloapi_limits_without_redis_total denied"] < 6 || got["helloapi_limits_without_redis_total local"] != 0 {
			t.Errorf("metrics: %v", got)
		}
	})
}

// Between two reads of the ledger a tenth of what is left is admitted.
func TestLocalShare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := awayReplica(t, new(usage))
		defer r.Close()
		q := perDay(100)
		r.usage.set("somebody", Slot{"1", today}, 20)
		used := int64(20)
		for i, share := range []int{8, 7, 6, 5, 5} { // of 80, 72, 65, 59, 54
			granted := r.flood(t, q)
			wantGranted(t, granted, share)
			for _, c := range granted {
				used++
				if c.Used != used {
					t.Errorf("%d used, want %d", c.Used, used)
				}
			}
			r.settle(t, granted)
			c, err := r.charge(t, q)
			if !errors.Is(err, ErrAway) || c.Granted {
				t.Errorf("beyond its share: %v, %v", c, err)
			}
			time.Sleep(readEvery - 1)
			wantGranted(t, r.flood(t, q), 0)
			if r.usage.reads != i+1 {
				t.Errorf("%d reads in %d seconds", r.usage.reads, i+1)
			}
			time.Sleep(time.Nanosecond)
		}
		// What others charge is seen with the next read.
		r.usage.set("somebody", Slot{"1", today}, 60)
		wantGranted(t, r.flood(t, q), 1)
		time.Sleep(readEvery)
		r.usage.set("somebody", Slot{"1", today}, 200)
		if c, err := r.charge(t, q); err != nil || c.Granted || c.Used < 100 {
			t.Errorf("charged %v, %v; want a denial", c, err)
		}
	})
}

// Alone, a replica serves a quota of N exactly N times, whether what it admits
// is settled at once, late, or in between.
func TestLocalQuotaAlone(t *testing.T) {
	t.Parallel()
	for _, limit := range []int64{1, 2, 5, 25, 100} {
		for _, every := range []int{0, 1, 3} { // settled each so many seconds; 0: never
			t.Run(fmt.Sprintf("%d,every=%d", limit, every), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					r := awayReplica(t, new(usage))
					defer r.Close()
					q := perDay(limit)
					var served int
					var inFlight []Charge
					for i := range 150 {
						granted := r.flood(t, q)
						served += len(granted)
						inFlight = append(inFlight, granted...)
						if every > 0 && i%every == 0 {
							r.settle(t, inFlight)
							inFlight = nil
							if err := r.ledger.Write(t.Context()); err != nil {
								t.Error(err)
							}
						}
						time.Sleep(readEvery)
					}
					if served != int(limit) {
						t.Errorf("%d served of a quota of %d", served, limit)
					}
					if c, err := r.charge(t, q); err != nil || c.Granted || c.Used != limit {
						t.Errorf("of a spent quota charged %v, %v", c, err)
					}
				})
			})
		}
	}
}

func TestLocalConcurrently(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := awayReplica(t, new(usage))
		defer r.Close()
		q := perDay(30)
		var served atomic.Int64
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				for range 60 {
					c, err := r.Charge(t.Context(), "1", *q)
					switch {
					case err != nil && !errors.Is(err, ErrAway):
						t.Error(err)
					case c.Granted && i%2 == 0:
						if err := r.Refund(t.Context(), c); err != nil {
							t.Error(err)
						}
					case c.Granted:
						served.Add(1)
					}
					time.Sleep(readEvery)
				}
			})
		}
		wg.Wait()
		if n := served.Load(); n != 30 {
			t.Errorf("%d served of a quota of 30", n)
		}
	})
}

func TestLocalRefund(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(24*time.Hour - time.Minute)
		r := awayReplica(t, new(usage))
		defer r.Close()
		q := perDay(1)
		refund := func(c Charge) {
			t.Helper()
			if err := r.Refund(t.Context(), c); err != nil {
				t.Error(err)
			}
		}
		for range 3 { // in flight over any number of reads, then given back
			granted := r.flood(t, q)
			wantGranted(t, granted, 1)
			for range 3 {
				time.Sleep(readEvery)
				wantGranted(t, r.flood(t, q), 0)
			}
			refund(granted[0])
		}
		first := r.flood(t, q)
		wantGranted(t, first, 1)

		// Another window has its own units, and gets none of the last one's.
		time.Sleep(time.Minute)
		second := r.flood(t, q)
		wantGranted(t, second, 1)
		refund(first[0])
		wantGranted(t, r.flood(t, q), 0)
		time.Sleep(readEvery)
		wantGranted(t, r.flood(t, q), 0)
		refund(second[0])
		wantGranted(t, r.flood(t, q), 1)

		// Nor is there anything to give back to once Redis is back.
		r.redis.set(nil, false)
		time.Sleep(probeEvery)
		synctest.Wait()
		refund(second[0])
		if got := r.redis.took(); got != "" {
			t.Errorf("Redis was asked to %q for a unit it does not know", got)
		}
	})
}

// A unit that was charged in one absence is not given back to the next.
func TestLocalRefundInNextAbsence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := awayReplica(t, new(usage))
		defer r.Close()
		old := r.flood(t, perDay(1))
		wantGranted(t, old, 1)
		r.redis.set(nil, false)
		time.Sleep(probeEvery)
		synctest.Wait()
		r.redis.set(errRefused, false)
		wantGranted(t, r.flood(t, perDay(1)), 0) // it is in flight
		if err := r.Refund(t.Context(), old[0]); err != nil {
			t.Error(err)
		}
		time.Sleep(readEvery)
		wantGranted(t, r.flood(t, perDay(1)), 1)
	})
}

// A unit of Redis' can't be given back while that is away, and is no unit of
// this process.
func TestSharedUnitWhileAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(new(usage), false)
		defer r.Close()
		q := perDay(5)
		c, err := r.charge(t, q)
		if err != nil || !c.Granted {
			t.Fatalf("charged %v, %v", c, err)
		}
		r.redis.set(errRefused, false)
		wantGranted(t, r.flood(t, q), 1)
		r.redis.took()
		for range 3 {
			if err := r.Refund(t.Context(), c); !errors.Is(err, ErrAway) {
				t.Errorf("refund: %v", err)
			}
		}
		wantGranted(t, r.flood(t, q), 0)
		if got := r.redis.took(); got != "" {
			t.Errorf("asked %q", got)
		}
	})
}

// With the database frozen too, callers of a key wait for it once, not one after
// the other.
func TestLocalLedgerFrozen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := awayReplica(t, new(usage))
		defer r.Close()
		r.usage.reading = func(ctx context.Context) { <-ctx.Done() }
		r.usage.fail(errStore)
		begin := time.Now()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if c, err := r.Charge(t.Context(), "1", *perDay(5)); !errors.Is(err, errStore) {
					t.Errorf("charged %v, %v", c, err)
				}
			})
		}
		wg.Wait()
		if d := time.Since(begin); d != ledgerTimeout {
			t.Errorf("20 callers waited %v, want %v", d, ledgerTimeout)
		}
		r.usage.reading = nil
		r.usage.fail(nil)
		wantGranted(t, r.flood(t, perDay(5)), 1)
	})
}

func TestLocalLedgerFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := awayReplica(t, new(usage))
		defer r.Close()
		r.usage.fail(errStore)
		if c, err := r.charge(t, perDay(5)); !errors.Is(err, ErrAway) || !errors.Is(err, errStore) || c.Granted {
			t.Errorf("charged %v, %v", c, err)
		}
		r.usage.fail(nil)
		granted := r.flood(t, perDay(5))
		wantGranted(t, granted, 1)
		r.usage.fail(errStore)
		time.Sleep(readEvery)
		if c, err := r.charge(t, perDay(5)); !errors.Is(err, ErrAway) || c.Granted {
			t.Errorf("charged %v, %v", c, err)
		}
		if err := r.Refund(t.Context(), granted[0]); err != nil {
			t.Error(err)
		}
	})
}

// A unit that is settled while the ledger is read is in what was used.
func TestLocalSettledWhileReading(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := awayReplica(t, new(usage))
		defer r.Close()
		q := perDay(1)
		granted := r.flood(t, q)
		wantGranted(t, granted, 1)
		time.Sleep(readEvery)
		settled := false
		r.usage.reading = func(context.Context) {
			if !settled {
				settled = true
				r.settle(t, granted)
			}
		}
		if c, err := r.charge(t, q); err != nil || c.Granted || c.Used != 1 {
			t.Errorf("of a spent quota charged %v, %v", c, err)
		}
	})
}

// What was in flight when Redis went away is no room for more: alone, a replica
// does not exceed a quota.
func TestLocalSharedUnitsInFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(new(usage), false)
		defer r.Close()
		q := perDay(10)
		inFlight := r.flood(t, perDay(5)) // of Redis
		wantGranted(t, inFlight, 5)
		r.redis.set(errRefused, false)
		served := len(inFlight)
		for range 3 {
			granted := r.flood(t, q)
			served += len(granted)
			time.Sleep(readEvery)
		}
		r.settle(t, inFlight) // and what came after is still in flight
		for range 20 {
			served += len(r.flood(t, q))
			time.Sleep(readEvery)
		}
		if served > 10 {
			t.Errorf("%d served of a quota of 10", served)
		}
	})
}

// What was read for one window says nothing of the next, if the ledger can't be
// read then.
func TestLocalNextWindowUnread(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(24*time.Hour - readEvery/2)
		r := awayReplica(t, new(usage))
		defer r.Close()
		r.usage.set("somebody", Slot{"1", today}, 5)
		q := perDay(5)
		if c, err := r.charge(t, q); err != nil || c.Granted {
			t.Errorf("of a spent quota charged %v, %v", c, err)
		}
		r.usage.fail(errStore)
		time.Sleep(readEvery / 2)
		for range 3 {
			if c, err := r.charge(t, q); !errors.Is(err, ErrAway) {
				t.Errorf("what is used is not known, and charged %v, %v", c, err)
			}
			time.Sleep(time.Millisecond)
		}
	})
}
