package meter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"helloapi/internal/plan"
)

const (
	// probeTimeout is how soon the shared limiter has to answer to be back.
	probeTimeout = limiterTimeout
	// probeEvery is how often it is tried whether the shared limiter is back.
	probeEvery = 100 * time.Millisecond
	// checkEvery is how often it is tried whether it is still there, and the
	// other replicas are told that it is.
	checkEvery = time.Second
	// checkTimeout is how soon it has to answer then. No request waits for it.
	checkTimeout = checkEvery / 2
	// ledgerTimeout bounds a read of the ledger.
	ledgerTimeout = time.Second
	// readEvery is how often what others charged is read from the ledger while
	// the shared limiter is away.
	readEvery = time.Second
	// shareOf is which part of what is left of a quota a replica admits between
	// two reads of the ledger: a tenth.
	shareOf = 10
	// localEpoch begins the epoch of a unit that was charged without the shared
	// limiter.
	localEpoch = "local "
)

// ErrAway says that limits can't be counted together at the moment.
var ErrAway = errors.New("the shared limits are away")

// errAlone says that it is only this replica that can't.
var errAlone = fmt.Errorf("others reach Redis, and this replica does not: %w", ErrAway)

// Shared is a Limiter that may go away. Its errors that say so wrap ErrAway.
type Shared interface {
	Limiter
	// Ping returns nil if it counts.
	Ping(ctx context.Context) error
}

// Peers are the replicas that share a limiter. They tell each other in a place
// that is not the limiter. It is safe for concurrent use.
type Peers interface {
	// Reached notes that the replica reaches the limiter now.
	Reached(ctx context.Context, replica string) error

	// OthersReach reports whether other replicas have reached the limiter just
	// now, and that some time after this one last did.
	OthersReach(ctx context.Context, replica string) (bool, error)
}

// A Fallback is a Limiter that counts with a shared one while that answers. When
// it does not, a request waits for it for a quarter of a second at most, and
// from then on none does until it is back: limits go on in this process, on
// what the ledger says, read each second. In between it admits a tenth of what
// is left, at least one, so that replicas which can't see each other's charges
// at once exceed a quota by little.
type Fallback struct {
	shared   Shared
	throttle Limiter // for the throttles of this process alone
	ledger   *Ledger
	peers    Peers
	deny     bool
	log      *slog.Logger

	away    atomic.Bool
	returns atomic.Uint64 // how often shared came back
	denied  atomic.Uint64
	counted atomic.Uint64 // decisions taken without shared
	ctx     context.Context
	stop    context.CancelFunc
	probes  sync.WaitGroup // goroutines that call shared

	mu     sync.Mutex
	quotas map[string]*localQuota // by key ID; emptied when shared is back
}

// localQuota is what is known of a key's quota without the shared limiter.
type localQuota struct {
	mu       sync.Mutex
	window   plan.Window
	epoch    string
	read     time.Time // when the ledger was read
	used     int64     // by all, as it said, and in flight here then
	left     int64     // of used, what was left of the quota
	admitted int64     // here, since it was read
	reading  *reading  // the read under way, or nil
}

// A reading is a read of the ledger that callers wait for.
type reading struct {
	done chan struct{}
	err  error // set before done is closed
}

var _ Limiter = (*Fallback)(nil)

// NewFallback returns a Fallback, which must be closed. throttle counts the
// throttles while shared is away. With deny set nothing is counted then, and
// every call fails with ErrAway.
func NewFallback(shared Shared, throttle Limiter, ledger *Ledger, peers Peers, deny bool, log *slog.Logger) *Fallback {
	ctx, stop := context.WithCancel(context.Background())
	f := &Fallback{
		shared: shared, throttle: throttle, ledger: ledger, peers: peers, deny: deny, log: log,
		ctx: ctx, stop: stop, quotas: map[string]*localQuota{},
	}
	f.probes.Go(f.watch)
	return f
}

// Close stops looking for the shared limiter. It does not close it.
func (f *Fallback) Close() {
	f.stop()
	f.probes.Wait()
}

// Now implements Limiter.
func (f *Fallback) Now() time.Time { return f.shared.Now() }

// Losses implements Limiter: counters are behind after each absence.
func (f *Fallback) Losses() uint64 { return f.shared.Losses() + f.returns.Load() }

// Ready returns nil if requests should be sent here. While the shared limiter is
// away from this replica alone the others do better; if it is away from all,
// each goes on, unless they deny.
func (f *Fallback) Ready(ctx context.Context) error {
	if !f.away.Load() {
		return nil
	}
	if f.deny {
		return fmt.Errorf("without Redis nothing is served: %w", ErrAway)
	}
	alone, err := f.peers.OthersReach(ctx, f.ledger.writer)
	if err == nil && alone {
		err = errAlone
	}
	return err
}

// watch notices when the shared limiter goes away from a replica that no
// requests come to, and tells the others while it is there.
func (f *Fallback) watch() {
	ticks := time.NewTicker(checkEvery)
	defer ticks.Stop()
	for {
		select {
		case <-f.ctx.Done():
			return
		case <-ticks.C:
		}
		if f.away.Load() {
			continue
		}
		if err := f.ping(checkTimeout); err != nil {
			f.leave(err)
		} else if err := f.reached(); err != nil {
			f.log.Debug("other replicas can't be told that Redis answers", "error", err)
		}
	}
}

func (f *Fallback) ping(timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(f.ctx, timeout)
	defer cancel()
	return f.shared.Ping(ctx)
}

func (f *Fallback) reached() error {
	ctx, cancel := context.WithTimeout(f.ctx, ledgerTimeout)
	defer cancel()
	return f.peers.Reached(ctx, f.ledger.writer)
}

// Away reports whether the shared limiter is away.
func (f *Fallback) Away() bool { return f.away.Load() }

// ask does f with the shared limiter if it is there, and reports whether to go
// on without.
func (f *Fallback) ask(ctx context.Context, do func(context.Context) error) (without bool, err error) {
	if !f.away.Load() {
		err := do(ctx)
		if !errors.Is(err, ErrAway) && !errors.Is(err, context.DeadlineExceeded) {
			return false, err
		}
		if ctx.Err() != nil && !errors.Is(context.Cause(ctx), ErrAway) {
			return false, err // it had no time left, or its client has gone
		}
		f.leave(err)
	}
	if f.deny {
		return false, ErrAway
	}
	return true, nil
}

// leave goes on without the shared limiter until it is back.
func (f *Fallback) leave(err error) {
	if f.away.Swap(true) || f.ctx.Err() != nil {
		return
	}
	f.log.Error("Redis does not answer: limits are not shared until it does", "error", err, "deny", f.deny)
	f.probes.Go(func() {
		ticks := time.NewTicker(probeEvery)
		defer ticks.Stop()
		for {
			select {
			case <-f.ctx.Done():
				return
			case <-ticks.C:
			}
			if f.ping(probeTimeout) == nil {
				break
			}
		}
		f.mu.Lock()
		clear(f.quotas)
		f.mu.Unlock()
		f.returns.Add(1) // before: whoever asks it next raises its counters
		f.away.Store(false)
		f.log.Info("Redis answers again: limits are shared")
	})
}

// Throttle implements Limiter.
func (f *Fallback) Throttle(ctx context.Context, keyID string, t plan.Throttle) (wait time.Duration, err error) {
	without, err := f.ask(ctx, func(ctx context.Context) (err error) {
		wait, err = f.shared.Throttle(ctx, keyID, t)
		return err
	})
	f.count(without, err)
	if without {
		return f.throttle.Throttle(ctx, keyID, t)
	}
	return wait, err
}

// count counts a decision that was taken without the shared limiter.
func (f *Fallback) count(without bool, err error) {
	if without {
		f.counted.Add(1)
	} else if f.deny && errors.Is(err, ErrAway) {
		f.denied.Add(1)
	}
}

// Charge implements Limiter.
func (f *Fallback) Charge(ctx context.Context, keyID string, q plan.Quota) (c Charge, err error) {
	without, err := f.ask(ctx, func(ctx context.Context) (err error) {
		c, err = f.shared.Charge(ctx, keyID, q)
		return err
	})
	f.count(without, err)
	if without {
		return f.chargeHere(keyID, q)
	}
	if c.Granted {
		f.ledger.hold(c)
	}
	return c, err
}

// Raise implements Limiter. Here there is nothing to raise: the ledger is read
// with each charge.
func (f *Fallback) Raise(ctx context.Context, keyID string, w plan.Window, used int64) error {
	_, err := f.ask(ctx, func(ctx context.Context) error { return f.shared.Raise(ctx, keyID, w, used) })
	return err
}

// Refund implements Limiter.
func (f *Fallback) Refund(ctx context.Context, c Charge) error {
	defer f.ledger.release(c)
	if !strings.HasPrefix(c.Epoch, localEpoch) {
		if f.away.Load() {
			return ErrAway
		}
		return f.shared.Refund(ctx, c)
	}
	f.mu.Lock()
	l := f.quotas[c.KeyID]
	f.mu.Unlock()
	if l == nil {
		return nil // the shared limiter is back, and never knew of it
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.epoch == c.Epoch {
		l.admitted--
	}
	return nil
}

// chargeHere decides on what the ledger says.
func (f *Fallback) chargeHere(keyID string, q plan.Quota) (Charge, error) {
	w, err := q.Window(f.Now())
	if err != nil {
		return Charge{}, err
	}
	f.mu.Lock()
	l := f.quotas[keyID]
	if l == nil {
		l = new(localQuota)
		f.quotas[keyID] = l
	}
	f.mu.Unlock()

	// Callers of one key wait for one read, and all for no longer than that.
	l.mu.Lock()
	defer l.mu.Unlock()
	for time.Since(l.read) >= readEvery || !l.window.Equal(w) {
		r := l.reading
		if r == nil {
			r = &reading{done: make(chan struct{})}
			l.reading = r
			l.mu.Unlock()
			r.err = f.read(l, keyID, q, w)
			l.mu.Lock()
			l.reading = nil
			close(r.done)
		} else {
			l.mu.Unlock()
			<-r.done
			l.mu.Lock()
		}
		if r.err != nil {
			return Charge{}, r.err
		}
		if l.window.Equal(w) {
			break // as fresh as it gets, however long it took
		}
	}
	c := Charge{KeyID: keyID, Window: w, Epoch: l.epoch, Used: l.used + l.admitted}
	switch {
	case c.Used >= q.Limit:
		return c, nil
	case l.admitted >= max(1, l.left/shareOf):
		return c, fmt.Errorf("%w, and this replica's share for now is used", ErrAway)
	}
	l.admitted++
	f.ledger.hold(c)
	c.Used++
	c.Granted = true
	return c, nil
}

// read brings l up to date, for the window w.
func (f *Fallback) read(l *localQuota, keyID string, q plan.Quota, w plan.Window) error {
	first, next, err := q.Dates(w)
	if err != nil {
		return err
	}
	now := time.Now()
	// What is in flight comes first: a unit that is settled meanwhile may count
	// twice until the next read, but never not at all. A unit that is granted
	// meanwhile is none of an old window.
	l.mu.Lock()
	inFlight := f.ledger.inFlight(keyID, w)
	own, known := f.ledger.own(keyID, first, next)
	if !l.window.Equal(w) {
		l.window = w
		l.read = time.Time{} // nothing is known of this window, also if the following fails
		l.epoch = localEpoch + strconv.FormatInt(now.UnixNano(), 36)
	}
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(f.ctx, ledgerTimeout)
	defer cancel()
	others, err := f.ledger.others(ctx, keyID, first, next, known)
	if err != nil {
		return fmt.Errorf("%w, and the ledger too: %w", ErrAway, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.read, l.used, l.admitted = now, own+others+inFlight, 0
	l.left = max(0, q.Limit-l.used)
	return nil
}

var (
	awayDesc = prometheus.NewDesc("helloapi_limits_away",
		"1 while Redis does not answer and limits are not shared.", nil, nil)
	withoutDesc = prometheus.NewDesc("helloapi_limits_without_redis_total",
		"Decisions about limits taken without Redis: counted in this process (local), or refused (denied).", []string{"result"}, nil)
)

// Describe implements prometheus.Collector.
func (f *Fallback) Describe(ch chan<- *prometheus.Desc) {
	ch <- awayDesc
	ch <- withoutDesc
}

// Collect implements prometheus.Collector.
func (f *Fallback) Collect(ch chan<- prometheus.Metric) {
	away := 0.0
	if f.away.Load() {
		away = 1
	}
	ch <- prometheus.MustNewConstMetric(awayDesc, prometheus.GaugeValue, away)
	ch <- prometheus.MustNewConstMetric(withoutDesc, prometheus.CounterValue, float64(f.counted.Load()), "local")
	ch <- prometheus.MustNewConstMetric(withoutDesc, prometheus.CounterValue, float64(f.denied.Load()), "denied")
}
