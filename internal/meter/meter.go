package meter

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
	"helloapi/internal/web"
)

const (
	// limiterTimeout is how long a request waits for an answer of the limiter:
	// for a throttle and a charge together no more than a quarter of a second.
	limiterTimeout = 125 * time.Millisecond
	// refundTimeout bounds a refund. The request may have used up its own time.
	refundTimeout = time.Second
)

// A Meter enforces the plan of the key that a request was let in with.
type Meter struct {
	limiter Limiter
	ledger  *Ledger
	spent   spent
	floors  floors
}

// New returns a Meter that counts with l and writes down in ledger what was
// charged.
func New(l Limiter, ledger *Ledger) *Meter {
	return &Meter{
		limiter: l, ledger: ledger,
		spent:  spent{keys: map[string]memory{}},
		floors: floors{keys: map[string]floor{}},
	}
}

// Enforce lets a request through if its key's throttle and then its quota
// permit, and answers 429 if not, 503 if that can't be found out. What is let
// through is charged, and given back if it is answered with 400 or above. It
// stands behind apikey.Require.
func (m *Meter) Enforce(next http.Handler) http.Handler { return m.metered(next, true) }

// Charge is Enforce without the throttle, for a request that has passed Throttle.
func (m *Meter) Charge(next http.Handler) http.Handler { return m.metered(next, false) }

func (m *Meter) metered(next http.Handler, throttled bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, err := m.admit(w, r, throttled)
		if err != nil {
			web.Fail(w, r, err)
			return
		}
		returned := false
		defer func() {
			if !returned { // by a panic
				u.giveBack()
			}
		}()
		web.RecordOf(r.Context()).OnStatus(func(status int) {
			if status >= 400 {
				u.giveBack()
			} else {
				u.settle()
			}
		})
		next.ServeHTTP(w, r)
		returned = true
		u.settle() // where it wrote nothing, which is a 200
	})
}

// Throttle lets a request through if its key's throttle permits, and charges
// nothing. It stands behind apikey.Require.
func (m *Meter) Throttle(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := apikey.From(r.Context())
		quota, _, err := m.quota(key)
		if err == nil {
			err = m.throttle(r.Context(), w.Header(), key, quota)
		}
		if err != nil {
			web.Fail(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (m *Meter) admit(w http.ResponseWriter, r *http.Request, throttled bool) (*unit, error) {
	ctx, h := r.Context(), w.Header()
	key := apikey.From(ctx)
	throttle := key.Plan.Throttle
	asked := time.Now()
	quota, window, err := m.quota(key)
	if err != nil {
		return nil, err
	}

	// A key whose quota is known to be spent costs no trip. It also comes
	// before the throttle: of the two the quota is the answer that helps.
	if quota != nil {
		if window, ok := m.spent.recall(key.ID, *quota, asked); ok {
			setPolicy(h, quota, window, throttle)
			return nil, m.limitExceeded(h, window)
		}
	}
	if throttled {
		if err := m.throttle(ctx, h, key, quota); err != nil {
			return nil, err
		}
	}
	if quota == nil {
		setPolicy(h, nil, plan.Window{}, throttle)
		return &unit{m: m, ctx: ctx, h: h, slot: Slot{key.ID, plan.DateOf(m.limiter.Now().UTC())}, account: accountOf(key)}, nil
	}

	charge, limit, err := m.charge(ctx, key, *quota, window)
	if err != nil {
		return nil, err
	}
	effective := *quota
	effective.Limit = limit
	setPolicy(h, &effective, charge.Window, throttle)
	remaining := max(0, limit-charge.Used)
	if remaining == 0 {
		m.spent.remember(key.ID, effective, charge.Window, asked, m.reset(charge.Window))
	}
	if !charge.Granted {
		return nil, m.limitExceeded(h, charge.Window)
	}
	setRemaining(h, "quota", remaining, m.reset(charge.Window))
	date, err := m.date(effective, charge.Window)
	return &unit{m: m, ctx: ctx, h: h, slot: Slot{key.ID, date}, account: accountOf(key), charge: &charge, remaining: remaining}, err
}

// quota returns the key's quota with what it was granted beyond it, and the
// present window. It returns nil if the key has none.
func (m *Meter) quota(key *apikey.Key) (*plan.Quota, plan.Window, error) {
	if key.Plan.Quota == nil {
		return nil, plan.Window{}, nil
	}
	q := *key.Plan.Quota
	w, err := q.Window(m.limiter.Now())
	if err != nil {
		return nil, w, err
	}
	granted, err := q.Granted(w, key.Grants)
	q.Limit += granted
	return &q, w, err
}

func (m *Meter) throttle(ctx context.Context, h http.Header, key *apikey.Key, quota *plan.Quota) error {
	if key.Plan.Throttle == nil {
		return nil
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	wait, err := m.limiter.Throttle(ctx, key.ID, *key.Plan.Throttle)
	if err != nil {
		return web.Unavailable(fmt.Errorf("throttle: %w", err))
	}
	if wait > 0 {
		return m.tooManyRequests(h, quota, key.Plan.Throttle, wait)
	}
	return nil
}

// charge takes a unit of the quota, which is the key's with its grants for the
// window w, and returns the limit that held.
func (m *Meter) charge(ctx context.Context, key *apikey.Key, q plan.Quota, w plan.Window) (Charge, int64, error) {
	losses, clock := m.limiter.Losses(), m.limiter.Now()
	due, begins := m.floors.due(key.ID, w, losses, time.Now(), clock)
	if begins {
		time.AfterFunc(raiseAgain-clock.Sub(w.Start), func() { m.roll(w.Start, losses) })
	}
	present := counter{key.ID, q, w, losses}
	switch due {
	case raiseNow:
		if err := m.raise(ctx, present, raiseAgain); err != nil {
			return Charge{}, 0, web.Unavailable(err)
		}
	case raiseSoon:
		_ = m.raise(ctx, present, raiseEvery) // or in a while: floors knows that it was due
	case raiseNone:
		raising, cancel := bounded(ctx)
		err := m.raiseTo(raising, present, 0, time.Now().Add(raiseAgain))
		cancel()
		if err != nil {
			return Charge{}, 0, web.Unavailable(err)
		}
	case notDue:
	}
	for range 3 {
		charging, cancel := bounded(ctx)
		c, err := m.limiter.Charge(charging, key.ID, q)
		cancel()
		if err != nil {
			return c, 0, web.Unavailable(fmt.Errorf("charge: %w", err))
		}
		if c.Missing {
			if err := m.raise(ctx, counter{key.ID, q, c.Window, losses}, raiseAgain); err != nil {
				return c, 0, web.Unavailable(err)
			}
			continue
		}
		if c.Window.Equal(w) {
			return c, q.Limit, nil
		}
		// By the limiter's clock it is another window, with other grants.
		granted, err := key.Plan.Quota.Granted(c.Window, key.Grants)
		if err != nil {
			return c, 0, err
		}
		limit := key.Plan.Quota.Limit + granted
		if c.Granted && c.Used > limit {
			c.Granted = false
			if err := m.limiter.Refund(ctx, c); err != nil {
				return c, 0, web.Unavailable(fmt.Errorf("refund: %w", err))
			}
		}
		return c, limit, nil
	}
	return Charge{}, 0, web.Unavailable(errors.New("charge: the counter is lost as soon as it is made"))
}

// A counter is a key's, of a window.
type counter struct {
	keyID  string
	quota  plan.Quota
	window plan.Window
	losses uint64 // of the limiter, until now
}

// raise has a counter have at least what the ledger says was used, and once
// more so much later.
func (m *Meter) raise(ctx context.Context, c counter, later time.Duration) error {
	again := time.Now().Add(later)
	used, err := m.ledger.Used(ctx, c.keyID, c.quota, c.window)
	if err != nil {
		return fmt.Errorf("read ledger: %w", err)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	return m.raiseTo(ctx, c, used, again)
}

// raiseTo has a counter have at least what is known to have been used.
func (m *Meter) raiseTo(ctx context.Context, c counter, used int64, again time.Time) error {
	if err := m.limiter.Raise(ctx, c.keyID, c.window, used); err != nil {
		return fmt.Errorf("raise counter: %w", err)
	}
	m.floors.raised(c, again)
	return nil
}

// roll raises the counters in use of the windows that began then, all at once:
// at midnight each key gets a new one, and they need not each ask the ledger.
// It is done when what was charged before they were first used is there. One
// that it fails for is raised with a request.
func (m *Meter) roll(start time.Time, losses uint64) {
	defer m.floors.rolledOver(start)
	ctx, cancel := context.WithTimeout(context.Background(), rollTimeout)
	defer cancel()
	var raises sync.WaitGroup
	reading, raising := make(chan struct{}, rollReads), make(chan struct{}, rollRaises)
	for id, q := range m.floors.inUse(start) {
		w, err := q.Window(start)
		if err != nil {
			continue // its requests tell
		}
		reading <- struct{}{}
		raises.Go(func() {
			again := time.Now().Add(raiseEvery)
			used, err := m.ledger.Used(ctx, id, q, w)
			<-reading
			if err != nil {
				return
			}
			raising <- struct{}{}
			defer func() { <-raising }()
			_ = m.raiseTo(ctx, counter{id, q, w, losses}, used, again)
		})
	}
	raises.Wait()
}

// bounded limits how long a request waits for the limiter. The cause of a context
// that ends by it is ErrAway: it is the limiter that took too long, and not
// what the request did before.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, limiterTimeout, ErrAway)
}

// date returns the day that a charge in the window is for: the present one,
// unless the window has ended meanwhile.
func (m *Meter) date(q plan.Quota, w plan.Window) (plan.Date, error) {
	now := m.limiter.Now()
	if !w.Contains(now) {
		now = w.End.Add(-1)
	}
	return q.Date(now)
}

// A unit is what a request in flight holds. It belongs to the goroutine that
// serves the request.
type unit struct {
	m         *Meter
	ctx       context.Context
	h         http.Header // of the answer
	slot      Slot
	account   Account
	charge    *Charge // nil: there is no quota
	remaining int64
	done      bool
}

// settle charges the unit for good.
func (u *unit) settle() {
	if u.done {
		return
	}
	u.done = true
	u.m.ledger.Add(u.slot, u.account)
	if u.charge != nil {
		u.m.ledger.release(*u.charge)
	}
}

// giveBack returns the unit, and says so in the answer's header.
func (u *unit) giveBack() {
	if u.done {
		return
	}
	u.done = true
	if u.charge == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(u.ctx), refundTimeout)
	defer cancel()
	// Only then: until then it is true that nothing is left.
	defer u.m.spent.forget(u.charge.KeyID)
	if err := u.m.limiter.Refund(ctx, *u.charge); err != nil {
		// What the client asked for failed anyway, and the unit is lost to it.
		web.RecordOf(u.ctx).Note(fmt.Errorf("refund: %w", err))
		return
	}
	setRemaining(u.h, "quota", u.remaining+1, u.m.reset(u.charge.Window))
}

func (m *Meter) limitExceeded(h http.Header, window plan.Window) error {
	reset := m.reset(window)
	setRemaining(h, "quota", 0, reset)
	return &web.Error{
		Status:     http.StatusTooManyRequests,
		Message:    "Limit Exceeded",
		Type:       "LimitExceededException",
		RetryAfter: max(reset, 1), // there is one, also at the very end
	}
}

func (m *Meter) tooManyRequests(h http.Header, quota *plan.Quota, throttle *plan.Throttle, wait time.Duration) error {
	var window plan.Window
	if quota != nil {
		var err error
		if window, err = quota.Window(m.limiter.Now()); err != nil {
			return err
		}
	}
	setPolicy(h, quota, window, throttle)
	setRemaining(h, "throttle", 0, wait)
	return &web.Error{
		Status:     http.StatusTooManyRequests,
		Type:       "TooManyRequestsException",
		RetryAfter: wait,
	}
}

// reset is how long the window goes on.
func (m *Meter) reset(w plan.Window) time.Duration { return w.End.Sub(m.limiter.Now()) }
