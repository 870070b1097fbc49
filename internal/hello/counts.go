package hello

import (
	"context"
	"errors"
)

// ErrNotGreeted says that nobody of the name was greeted.
var ErrNotGreeted = errors.New("nobody of that name was greeted")

// A Count is how often a name was greeted.
type Count struct {
	Name  string `json:"name"`
	Count int64  `json:"count"`
}

// Counts is the list of all greetings, as its operator sees it.
type Counts interface {
	// TopGreetings returns the n names that were greeted most, the first first.
	TopGreetings(ctx context.Context, n int) ([]Count, error)

	// DeleteGreeting removes a name and its count for good, or returns
	// ErrNotGreeted. Who is greeted by it next is the first again.
	DeleteGreeting(ctx context.Context, name string) error
}
