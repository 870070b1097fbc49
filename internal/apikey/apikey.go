// Package apikey is about who may call: the keys, the values that open them,
// and the middleware that asks for one.
package apikey

import (
	"context"
	"errors"
	"time"

	"helloapi/internal/plan"
)

// A Key is a caller. It is known by its name, or if it has none by its value.
type Key struct {
	ID          string     // what limits and usage are counted under; never used again
	Name        string     // unique; "" for a key known by its value
	Display     string     // the first characters of its newest value
	Plan        *plan.Plan // nil: without a plan, and refused
	Enabled     bool
	Description string
	CustomerID  string
	CreatedAt   time.Time
	ExpiresAt   time.Time // the zero time: never
	MadeBy      string    // the file that did, "" for none
	Grants      []plan.Grant

	Values []StoredValue // the newest first; only as Keys.Key returns it
}

// A StoredValue is what is known of a value that opens a key.
type StoredValue struct {
	Display   string
	CreatedAt time.Time
	ExpiresAt time.Time // the zero time: not before its key
}

// Refusal says why the key is refused at the time now: "disabled", "expired"
// or "no plan". It is "" for a key that may call.
func (k *Key) Refusal(now time.Time) string {
	switch {
	case !k.Enabled:
		return "disabled"
	case !k.ExpiresAt.IsZero() && !now.Before(k.ExpiresAt):
		return "expired"
	case k.Plan == nil:
		return "no plan"
	}
	return ""
}

// A KeyUpdate is what is to change of a key. What is nil stays as it is.
type KeyUpdate struct {
	Plan        *string
	Description *string
	CustomerID  *string
	ExpiresAt   *time.Time // the zero time: never
}

// A StoredGrant is units that a key was granted beyond its quota.
type StoredGrant struct {
	ID    int64
	KeyID string
	plan.Grant
	CreatedAt time.Time
}

// What the stores below answer if not with an error of their own.
var (
	ErrUnknown     = errors.New("no such API key")
	ErrNameTaken   = errors.New("an API key of that name exists")
	ErrValueTaken  = errors.New("another API key has that value")
	ErrUnknownPlan = errors.New("no such plan")
	ErrNoGrant     = errors.New("no such grant")
)

// A Finder finds the key that a value opens. It is safe for concurrent use.
type Finder interface {
	// Find returns the key that the value with the hash h opens, or ErrUnknown.
	// Any other error says that the store could not be asked. The caller does
	// not change the key. Concurrent calls may share a query.
	Find(ctx context.Context, h Hash) (*Key, error)
}

// Keys is the list of keys, as its administrator sees it. A key is referred to
// by its name, or else by its ID; the methods fail with ErrUnknown if there is
// none. A change is durable when a method returns, and told to those who Watch.
type Keys interface {
	// CreateKey adds a key that the value v opens, on the plan k.Plan.Name,
	// and returns it with its ID and CreatedAt. It fails with ErrNameTaken,
	// ErrValueTaken or ErrUnknownPlan.
	CreateKey(ctx context.Context, k Key, v Value) (Key, error)

	// Keys returns every key, sorted by name. Keys that have expired are among
	// them: nothing but DeleteKey removes a key.
	Keys(ctx context.Context) ([]Key, error)

	// Key returns one key, with its values.
	Key(ctx context.Context, ref string) (Key, error)

	// UpdateKey changes what is known of a key. It fails with ErrUnknownPlan.
	UpdateKey(ctx context.Context, ref string, u KeyUpdate) error

	// EnableKey sets whether a key may call.
	EnableKey(ctx context.Context, ref string, enabled bool) error

	// RotateKey has the value v open the key. Those that did go on doing so for
	// grace. It fails with ErrValueTaken.
	RotateKey(ctx context.Context, ref string, v Value, grace time.Duration) error

	// GrantUnits gives the key of an ID units beyond its quota, and returns the
	// grant's own ID.
	GrantUnits(ctx context.Context, id string, g plan.Grant) (int64, error)

	// Grants returns the grants to the key of an ID, or to all (""), the newest
	// first.
	Grants(ctx context.Context, id string) ([]StoredGrant, error)

	// RevokeGrant removes a grant, or fails with ErrNoGrant.
	RevokeGrant(ctx context.Context, id int64) error

	// DeleteKey removes a key and what its values open. A key that is created
	// with its name later is another one.
	DeleteKey(ctx context.Context, ref string) error
}
