// Package clock is this machine's clock. What is shared by replicas goes by the
// clock of Redis or of the database, as soon as that is known: machines
// disagree.
package clock

import "time"

// Offset is how far this machine's clock is off. It is for tests of what that
// does, which set it before anything else runs.
var Offset time.Duration

// Now returns the time by this machine's clock.
func Now() time.Time { return time.Now().Add(Offset) }
