// Package limits decides what a key may do now: it takes a unit for a request,
// and keeps or returns it. It records what was charged in the ledger, and
// continues with limits of this process alone while Redis is away. It knows no
// HTTP.
package limits

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"helloapi/internal/plan"
)

// Counters count what keys use, for all replicas together or for this process
// alone. They are safe for concurrent use.
type Counters interface {
	// Take takes a token of the throttle and then units of the quota; where one
	// of the two refuses, nothing of the quota is taken. It answers within a
	// quarter of a second, whatever ctx says. If it returns an error, the units
	// may have been taken: the next Take of the same counter returns those.
	Take(ctx context.Context, r Request) (Taken, error)

	// Return returns units that were taken. Call it at most once for each
	// Taken. If the counter that they came from no longer exists, it does
	// nothing.
	Return(ctx context.Context, t Taken) error

	// Now returns the time by which windows are found. It may differ from this
	// machine's.
	Now() time.Time

	// Generation rises whenever counters may have been lost or set back.
	Generation() uint64
}

// Shared are Counters of all replicas, which may be away. Errors that say so
// wrap ErrAway.
type Shared interface {
	Counters

	// Check returns nil if they count. It takes a token and a unit of its own,
	// as a request does.
	Check(ctx context.Context) error
}

// What an error of Shared says. All of them open the circuit breaker.
var (
	// ErrAway says that limits can't be counted together at the moment.
	ErrAway = errors.New("the shared limits are away")
	// ErrRefused says that Redis answers, but does not count.
	ErrRefused = fmt.Errorf("it refuses: %w", ErrAway)
	// ErrLogin says that Redis does not accept the user or the password.
	ErrLogin = fmt.Errorf("it does not accept the user or the password: %w", ErrRefused)
)

// A Request asks for a token of a key's throttle and units of its quota.
type Request struct {
	KeyID    string
	Throttle *plan.Throttle // nil: none

	Window plan.Window // of the quota; the zero Window: there is no quota
	Limit  int64       // of the quota in the window, grants included
	Cost   int64       // units to take; with 0 the counter is brought up to date

	// Seed is what the ledger says now. A counter that does not exist is made
	// with it, and one that is behind is raised to it. Without it, nothing is
	// taken from a counter that does not exist.
	Seed *Charged

	// Alone is how many units of the window this process let through without
	// the shared counters. The counter adds what it has not added before,
	// however often it is said. nil: none. It is read when the request is sent.
	Alone *atomic.Int64
}

// Charged is what a key was charged in a window.
type Charged struct {
	Shared int64            // with the shared counters, by all replicas
	Alone  map[string]int64 // without, by each replica that did; may be nil
}

// Add adds what was charged by a replica alone, or if that is "" with the shared
// counters.
func (c *Charged) Add(alone string, units int64) {
	if alone == "" {
		c.Shared += units
		return
	}
	if c.Alone == nil {
		c.Alone = map[string]int64{}
	}
	c.Alone[alone] += units
}

// An Outcome says what became of a Request.
type Outcome int

// The outcomes.
const (
	Granted Outcome = iota
	Throttled
	Exhausted   // nothing is left of the quota
	WrongWindow // nothing was taken: the window is not the current one
	Unseeded    // nothing was taken: there is no counter, and no Seed to make it with
)

// Taken is the answer to a Request.
type Taken struct {
	Outcome Outcome
	Wait    time.Duration // if Throttled: until there is a token
	Used    int64         // units used in the window, the ones taken included
	Alone   int64         // what was read of Request.Alone

	KeyID  string
	Window plan.Window
	Cost   int64
	Epoch  string // names the counter. Units are only returned to their own.
}
