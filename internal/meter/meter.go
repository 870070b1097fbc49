package meter

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
	"helloapi/internal/web"
)

// refundTimeout bounds a refund. The request may have used up its own time.
const refundTimeout = time.Second

// A Meter enforces the plan of the key that a request was let in with.
type Meter struct {
	limiter Limiter
	spent   spent
}

// New returns a Meter that counts with l.
func New(l Limiter) *Meter {
	return &Meter{limiter: l, spent: spent{keys: map[string]memory{}}}
}

// Enforce lets a request through if its key's throttle and then its quota
// permit, and answers 429 if not, 503 if that can't be found out. What is let
// through is charged, and given back if it is answered with 400 or above. It
// stands behind apikey.Require.
func (m *Meter) Enforce(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := m.admit(w, r); err != nil {
			web.Fail(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (m *Meter) admit(w http.ResponseWriter, r *http.Request) error {
	ctx, h := r.Context(), w.Header()
	key := apikey.From(ctx)
	quota, throttle := key.Plan.Quota, key.Plan.Throttle
	asked := time.Now()

	// A key whose quota is known to be spent costs no trip. It also comes
	// before the throttle: of the two the quota is the answer that helps.
	if quota != nil {
		if window, ok := m.spent.recall(key.ID, *quota, asked); ok {
			setPolicy(h, quota, window, throttle)
			return m.limitExceeded(h, window)
		}
	}
	if throttle != nil {
		wait, err := m.limiter.Throttle(ctx, key.ID, *throttle)
		if err != nil {
			return web.Unavailable(fmt.Errorf("throttle: %w", err))
		}
		if wait > 0 {
			return m.tooManyRequests(h, quota, throttle, wait)
		}
	}
	if quota == nil {
		setPolicy(h, nil, plan.Window{}, throttle)
		return nil
	}

	charge, err := m.limiter.Charge(ctx, key.ID, *quota)
	if err != nil {
		return web.Unavailable(fmt.Errorf("charge: %w", err))
	}
	setPolicy(h, quota, charge.Window, throttle)
	remaining := max(0, quota.Limit-charge.Used)
	if remaining == 0 {
		m.spent.remember(key.ID, *quota, charge.Window, asked, charge.Window.End.Sub(m.limiter.Now()))
	}
	if !charge.Granted {
		return m.limitExceeded(h, charge.Window)
	}
	setRemaining(h, "quota", remaining, m.reset(charge.Window))
	web.RecordOf(ctx).OnStatus(func(status int) {
		if status < 400 {
			return
		}
		if err := m.refund(ctx, charge); err != nil {
			// What the client asked for failed anyway, and the unit is lost to it.
			web.RecordOf(ctx).Note(fmt.Errorf("refund: %w", err))
			return
		}
		setRemaining(h, "quota", remaining+1, m.reset(charge.Window))
	})
	return nil
}

func (m *Meter) refund(ctx context.Context, c Charge) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refundTimeout)
	defer cancel()
	// Only then: until then it is true that nothing is left.
	defer m.spent.forget(c.KeyID)
	return m.limiter.Refund(ctx, c)
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
