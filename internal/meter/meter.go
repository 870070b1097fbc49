// Package meter holds requests to the limits of their key, over HTTP: what is
// refused, what is charged, the headers that say where a key stands, and
// GET /usage. It stands behind apikey.Require.
package meter

import (
	"cmp"
	"context"
	"fmt"
	"net/http"

	"helloapi/internal/apikey"
	"helloapi/internal/limits"
	"helloapi/internal/plan"
	"helloapi/internal/refusals"
	"helloapi/internal/web"
)

// A Meter holds requests to the limits.
type Meter struct {
	limits   *limits.Limits
	refusals *refusals.Recorder
}

// New returns a Meter. What it refuses is recorded in r, if that is not nil.
func New(l *limits.Limits, r *refusals.Recorder) *Meter { return &Meter{l, r} }

// Enforce lets a request through if its key's throttle and then its quota
// permit, and answers 429 if not, 503 if that can't be found out. What is let
// through is charged cost units, which are given back if it is answered with 400
// or above.
func (m *Meter) Enforce(cost int64) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler { return m.metered(next, m.limits.Take, cost) }
}

// Charge is Enforce without the throttle, for a request that has passed Throttle.
func (m *Meter) Charge(cost int64) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler { return m.metered(next, m.limits.TakeUnit, cost) }
}

type taker func(ctx context.Context, key *apikey.Key, cost int64) (*limits.Unit, limits.Decision, error)

func (m *Meter) metered(next http.Handler, take taker, cost int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, d, err := take(r.Context(), apikey.From(r.Context()), cost)
		if err != nil {
			web.Fail(w, r, failure(err))
			return
		}
		setPolicy(w.Header(), d)
		if d.Refused != "" {
			m.refuse(w, r, d)
			return
		}
		if d.HasQuota {
			setRemaining(w.Header(), limits.Quota, d.Left, d.Reset)
		}
		settled := false
		settle := func(status int) {
			if settled {
				return
			}
			settled = true
			if status < 400 {
				u.Keep()
			} else {
				m.giveBack(r.Context(), w.Header(), u, d)
			}
		}
		defer settle(http.StatusInternalServerError) // in a panic
		web.RecordOf(r.Context()).OnStatus(settle)
		next.ServeHTTP(w, r)
		settle(http.StatusOK) // where it wrote nothing, which is a 200
	})
}

func failure(err error) error { return web.Unavailable(fmt.Errorf("limits: %w", err)) }

// giveBack returns a unit, and says so in the answer's header.
func (m *Meter) giveBack(ctx context.Context, h http.Header, u *limits.Unit, d limits.Decision) {
	left, err := u.Return(ctx)
	if err != nil {
		// What the client asked for failed anyway, and the unit is lost to it.
		web.RecordOf(ctx).Note(fmt.Errorf("return unit: %w", err))
		return
	}
	if d.HasQuota {
		setRemaining(h, limits.Quota, left, d.Window.End.Sub(m.limits.Now()))
	}
}

// Throttle lets a request through if its key's throttle permits, and charges
// nothing.
func (m *Meter) Throttle(next http.Handler) http.Handler { return m.throttled(next, nil) }

// freeThrottle is the throttle of free endpoints for plans that have none: each
// request may cost the database a query.
var freeThrottle = plan.Throttle{Rate: 5, Burst: 10}

// Free is Throttle for an endpoint that is never charged. A plan without a
// throttle gets one for it.
func (m *Meter) Free(next http.Handler) http.Handler { return m.throttled(next, &freeThrottle) }

func (m *Meter) throttled(next http.Handler, otherwise *plan.Throttle) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := apikey.From(r.Context())
		d, err := m.limits.TakeToken(r.Context(), key, cmp.Or(key.Plan.Throttle, otherwise))
		switch {
		case err != nil:
			web.Fail(w, r, failure(err))
		case d.Refused != "":
			setPolicy(w.Header(), d)
			m.refuse(w, r, d)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// reasons are what refusals by a limit are recorded as.
var reasons = map[limits.Limit]string{limits.Throttle: "throttled", limits.Quota: "over quota"}

func (m *Meter) refuse(w http.ResponseWriter, r *http.Request, d limits.Decision) {
	reason := reasons[d.Refused]
	web.RecordOf(r.Context()).Refused = reason
	m.refusals.Add(apikey.From(r.Context()), reason)
	web.Fail(w, r, refusal(w.Header(), d))
}

// refusal is the answer to a request over a limit.
func refusal(h http.Header, d limits.Decision) error {
	left := int64(0)
	if d.Refused == limits.Quota {
		left = d.Left // fewer than the request costs
	}
	setRemaining(h, d.Refused, left, d.Reset)
	e := &web.Error{
		Status:     http.StatusTooManyRequests,
		Type:       "TooManyRequestsException",
		RetryAfter: max(d.Reset, 1), // there is one, also at the very end of a window
	}
	if d.Refused == limits.Quota {
		e.Message, e.Type = "Limit Exceeded", "LimitExceededException"
	}
	return e
}
