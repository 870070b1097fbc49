// Package certs keeps the API's TLS certificates: obtained by ACME on any
// number of replicas and shared among them, or a pair of files that someone
// else renews.
package certs

import (
	"context"
	"errors"
	"time"
)

// An ID names what a Store holds: a host's certificate or a secret, by the URL
// of the ACME directory that it belongs to, so that those of a staging
// directory are never taken for real ones.
type ID struct{ Directory, Name string }

// A State is what a Store knows about a host's certificate. Times are of the
// Store's clock, and zero where there was no such thing.
type State struct {
	ID
	Version     string    // of the certificate; "" if there is none
	IssuedAt    time.Time // when it was stored
	NotAfter    time.Time
	Renew       bool      // a person asked for another one
	Failures    int       // attempts in a row that failed
	LastError   string    // of the last one
	NextAttempt time.Time // none is made before
	Holder      string    // of the lease; "" if nobody has it now
	LeaseUntil  time.Time
}

// A Lease is the right to order a certificate, which no other replica has.
type Lease struct {
	ID
	Fence    int64  // of this lease: one that was taken over has a higher one
	Failures int    // attempts in a row that failed before
	Version  string // of the certificate that is stored
}

// An Outcome is how an attempt ended: with a certificate or an error, or
// without an order (neither).
type Outcome struct {
	Certificate []byte // sealed
	NotAfter    time.Time
	Error       string
	Retry       time.Duration // no other attempt is made so soon
}

var (
	// ErrNotFound says that a Store does not hold what is asked for.
	ErrNotFound = errors.New("not found")
	// ErrNotNow says that no certificate may be ordered: another replica has
	// the lease, or it is too soon after the last attempt.
	ErrNotNow = errors.New("an order is under way elsewhere, or it is too soon for one")
	// ErrLeaseLost says that another replica has taken over.
	ErrLeaseLost = errors.New("the lease was taken over by another replica")
)

// A Store is what all replicas share. It sees sealed data only. Its methods may
// be called concurrently and by any number of processes; callers set deadlines.
type Store interface {
	// States returns the state of every certificate, and the time that it is.
	States(ctx context.Context) ([]State, time.Time, error)
	// Certificate returns a certificate with its version, or ErrNotFound.
	Certificate(ctx context.Context, id ID) (data []byte, version string, err error)
	// Acquire takes the lease for ttl, or returns ErrNotNow. Of several callers
	// one gets it. A holder that asks again gets it again: it was killed, and
	// has come back.
	Acquire(ctx context.Context, id ID, holder string, ttl time.Duration) (Lease, error)
	// Finish ends a lease with its outcome, and stores the certificate if there
	// is one: both or none. It returns the certificate's version. A lease that
	// ran out can be finished all the same. One that was taken over can't, nor
	// one that was finished before: ErrLeaseLost.
	Finish(ctx context.Context, l Lease, o Outcome) (version string, err error)
	// Renew has the host's certificates ordered anew, however soon after the
	// last attempt. It returns ErrNotFound if none was ever ordered.
	Renew(ctx context.Context, host string) error

	// Secret returns a secret, or ErrNotFound.
	Secret(ctx context.Context, id ID) ([]byte, error)
	// AddSecret stores a secret unless there is one already.
	AddSecret(ctx context.Context, id ID, data []byte) error
	// PutAnswer stores a secret that is an answer to a challenge, over any
	// other. It drops those that are over a day old: they were left behind.
	PutAnswer(ctx context.Context, id ID, data []byte) error
	// DeleteAnswer drops one. There need be none.
	DeleteAnswer(ctx context.Context, id ID) error

	// Reseal has everything but answers pass through f, which returns what is to
	// be stored in its place, or nil to leave it.
	Reseal(ctx context.Context, f func(kind Kind, id ID, data []byte) []byte) error
	// Forget drops everything, and returns how many certificates there were.
	Forget(ctx context.Context) (int, error)
}

// A Kind is the kind of thing that was sealed.
type Kind string

// The kinds of what a Store holds.
const (
	KindCertificate Kind = "certificate"
	KindSecret      Kind = "secret"
)

// AnswerPrefix begins the names of secrets that are answers to challenges.
const AnswerPrefix = "challenge/"

// The secrets that are no answers. The canary belongs to no directory: it
// shows whether a replica has the key that everything else is sealed with.
const accountName = "account"

var canaryID = ID{"", "canary"}
