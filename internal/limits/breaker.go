package limits

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// checkEvery is how often the shared counters are checked, and the peers are
	// informed, while they count.
	checkEvery = time.Second
	// probeEvery is how often they are checked while they do not.
	probeEvery = 100 * time.Millisecond
	// checkTimeout is how soon they have to answer. No request waits for it.
	checkTimeout = checkEvery / 2
	// peersTimeout bounds a message to the peers.
	peersTimeout = time.Second
	// catchUpTakes is how many counters are brought up to date at a time when
	// the shared ones are back. No request waits for it.
	catchUpTakes = 1 << 10
)

// errOnlyHere says that it is only this replica that does without Redis.
var errOnlyHere = fmt.Errorf("others reach Redis, and this replica does not: %w", ErrAway)

// Peers are the replicas that share counters. They keep in touch in a place that
// is not the counters. It is safe for concurrent use.
type Peers interface {
	// Reached notes that the replica reaches the counters now.
	Reached(ctx context.Context, replica string) error

	// OthersReach reports whether other replicas have reached the counters just
	// now, and that some time after this one last did.
	OthersReach(ctx context.Context, replica string) (bool, error)
}

// A breaker is a circuit breaker before the shared counters. It opens with the
// first call that fails, so that no request waits after that. probe closes it.
type breaker struct {
	trouble    atomic.Pointer[string] // what opened it; nil while it is closed
	opened     chan struct{}          // wakes probe
	recoveries atomic.Uint64
	caughtUp   uint64        // the generation of counters that catchUp was last for; probe's
	denied     atomic.Uint64 // requests refused while it was open
	counted    atomic.Uint64 // requests decided alone
}

func (b *breaker) isOpen() bool { return b.trouble.Load() != nil }

// Trouble says what is wrong with the shared counters, or "".
func (l *Limits) Trouble() string {
	if s := l.breaker.trouble.Load(); s != nil {
		return *s
	}
	return ""
}

// open opens the breaker, until probe closes it.
func (l *Limits) open(err error) {
	trouble := "Redis does not answer"
	switch {
	case errors.Is(err, ErrLogin):
		trouble = "Redis does not accept the user or the password of REDIS_URL"
	case errors.Is(err, ErrRefused):
		trouble = "Redis answers but refuses to count"
	}
	if l.breaker.trouble.CompareAndSwap(nil, &trouble) {
		l.Log.Error(trouble+": limits are not shared until it counts", "error", err, "deny", l.Deny)
		select {
		case l.breaker.opened <- struct{}{}:
		default:
		}
	}
}

// probe checks the shared counters, also for a replica that no requests come to.
func (l *Limits) probe(ctx context.Context) {
	for {
		wait := checkEvery
		if l.breaker.isOpen() {
			wait = probeEvery
		}
		select {
		case <-ctx.Done():
			return
		case <-l.breaker.opened:
			continue // and soon see whether it can be closed
		case <-time.After(wait):
		}
		if l.breaker.isOpen() {
			l.tryToClose(ctx)
		} else {
			l.check(ctx)
		}
	}
}

// check opens the breaker if the shared counters do not count, and else informs
// the peers that they do.
func (l *Limits) check(ctx context.Context) {
	if err := l.checkNow(ctx); err != nil {
		if ctx.Err() == nil {
			l.open(err)
		}
		return
	}
	_ = l.catchUp(ctx) // what fails is tried again
	ctx, cancel := context.WithTimeout(ctx, peersTimeout)
	defer cancel()
	if err := l.Peers.Reached(ctx, l.Replica); err != nil {
		l.Log.Debug("peers can't be informed that Redis counts", "error", err)
	}
}

func (l *Limits) checkNow(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	return l.Shared.Check(ctx)
}

// tryToClose closes the breaker if the shared counters count and have heard of
// what this replica let through without them.
func (l *Limits) tryToClose(ctx context.Context) {
	if l.checkNow(ctx) != nil || l.catchUp(ctx) != nil {
		return
	}
	l.breaker.recoveries.Add(1) // before: whoever asks next seeds its counter
	l.breaker.trouble.Store(nil)
	l.Log.Info("Redis counts again: limits are shared")
}

// catchUp has the shared counters add what was let through without them, and was
// not added to those of this generation.
func (l *Limits) catchUp(ctx context.Context) error {
	generation := l.generation()
	var behind []*keyWindow
	l.mu.RLock()
	for _, kw := range l.owing {
		if kw.alone.Load() != kw.synced.Load() || l.breaker.caughtUp != generation {
			behind = append(behind, kw)
		}
	}
	l.mu.RUnlock()
	err := l.syncAll(ctx, behind, false, catchUpTakes)
	if err == nil {
		l.breaker.caughtUp = generation
	}
	return err
}

// Ready returns nil if requests should be sent here. While the shared counters
// are away from this replica alone, requests are better off elsewhere; if they
// are away from all, each continues, unless they deny.
func (l *Limits) Ready(ctx context.Context) error {
	trouble := l.Trouble()
	if trouble == "" {
		return nil
	}
	if l.Deny {
		return fmt.Errorf("%s, and without Redis nothing is served: %w", trouble, ErrAway)
	}
	others, err := l.Peers.OthersReach(ctx, l.Replica)
	if err == nil && others {
		err = fmt.Errorf("%s: %w", trouble, errOnlyHere)
	}
	return err
}

var (
	awayDesc = prometheus.NewDesc("helloapi_limits_away",
		"1 while Redis does not count and limits are not shared.", nil, nil)
	withoutDesc = prometheus.NewDesc("helloapi_limits_without_redis_total",
		"Decisions about limits taken without Redis: counted in this process (local), or refused (denied).", []string{"result"}, nil)
)

// Describe implements prometheus.Collector. There are metrics if there are
// shared counters.
func (l *Limits) Describe(ch chan<- *prometheus.Desc) {
	ch <- awayDesc
	ch <- withoutDesc
}

// Collect implements prometheus.Collector.
func (l *Limits) Collect(ch chan<- prometheus.Metric) {
	if l.Shared == nil {
		return
	}
	away := 0.0
	if l.breaker.isOpen() {
		away = 1
	}
	ch <- prometheus.MustNewConstMetric(awayDesc, prometheus.GaugeValue, away)
	ch <- prometheus.MustNewConstMetric(withoutDesc, prometheus.CounterValue, float64(l.breaker.counted.Load()), "local")
	ch <- prometheus.MustNewConstMetric(withoutDesc, prometheus.CounterValue, float64(l.breaker.denied.Load()), "denied")
}
