// Package meter holds a key to its plan: it throttles, counts against the
// quota, gives back units that were not used, and tells the client where it
// stands. The counting itself is a Limiter's.
package meter

import (
	"context"
	"time"

	"helloapi/internal/plan"
)

// A Limiter counts requests against limits, for all replicas together or for
// this process alone. It is safe for concurrent use.
type Limiter interface {
	// Throttle takes a token from the key's bucket and returns 0, or returns
	// how long it will be until there is one and takes nothing.
	Throttle(ctx context.Context, keyID string, t plan.Throttle) (wait time.Duration, err error)

	// Charge takes one unit of the key's quota in the window that contains the
	// limiter's present time, unless none is left, or there is no counter (yet,
	// or any more). When it returns an error the unit may have been taken.
	Charge(ctx context.Context, keyID string, q plan.Quota) (Charge, error)

	// Raise makes the key's counter of a window, or raises it, to have at least
	// used units used: what is known from the ledger. For a window that is not
	// the present one nothing happens.
	Raise(ctx context.Context, keyID string, w plan.Window, used int64) error

	// Losses rises whenever counters may have been lost or set back.
	Losses() uint64

	// Refund gives back the unit of a charge that was granted. It must be
	// called once at most for a charge. Where the charge's counter is no more,
	// nothing happens.
	Refund(ctx context.Context, c Charge) error

	// Now returns the time by which windows are found. It may differ from this
	// machine's.
	Now() time.Time
}

// A Charge is what came of asking for one unit of a quota.
type Charge struct {
	KeyID   string
	Granted bool
	Missing bool  // there is no counter: it has to be raised first
	Used    int64 // units used in the window, this one included
	Window  plan.Window

	// Epoch names the counter that the unit came from. A unit is not given
	// back to a counter that took the place of its own.
	Epoch string
}
