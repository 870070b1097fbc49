package idempotency

import "context"

// Sweep deletes what has expired.
func (a *Answers) Sweep(ctx context.Context) { a.sweep(ctx) }
