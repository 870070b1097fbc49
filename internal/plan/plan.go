// Package plan says what a key may do: how many requests in a calendar window
// (the quota) and how fast (the throttle). Limits hold for each key of a plan,
// not for the plan as a whole.
package plan

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
)

// Plans lists the usage plans.
type Plans interface {
	// Plans returns every plan, sorted by name.
	Plans(ctx context.Context) ([]Stored, error)
}

// A Stored plan is one in a database.
type Stored struct {
	Plan
	MadeBy string `json:"madeBy,omitempty"` // the file that did, "" for none
}

// A Plan is a named pair of limits, either of which may be absent.
type Plan struct {
	Name     string    `json:"name"`
	Quota    *Quota    `json:"quota,omitempty"`    // nil: no quota
	Throttle *Throttle `json:"throttle,omitempty"` // nil: no throttle
}

// A Quota is a number of requests in each calendar window.
type Quota struct {
	Limit    int64  `json:"limit"` // requests in a window, 1 to MaxLimit
	Period   Period `json:"period"`
	Offset   int    `json:"offset,omitempty"`   // the day a window starts on; see Period
	Timezone string `json:"timezone,omitempty"` // an IANA zone; "" is UTC
}

// A Period is the length of a quota's windows. A window starts at the
// beginning of a day in the quota's time zone: of every day (DAY, offset 0),
// of one day of the week (WEEK, offset 0 Sunday to 6 Saturday), or of one day
// of the month (MONTH, offset 0 the 1st to 27 the 28th).
type Period string

// The periods.
const (
	Day   Period = "DAY"
	Week  Period = "WEEK"
	Month Period = "MONTH"
)

// A Throttle is a token bucket: it holds Burst tokens, is refilled at Rate
// tokens a second, and each request takes one.
type Throttle struct {
	Rate  float64 `json:"rateLimit"`  // requests a second, MinRate to MaxRate
	Burst int64   `json:"burstLimit"` // the bucket's size, 1 to MaxBurst
}

// Bounds of the limits. MaxLimit is the largest integer that a structured field
// may have (RFC 9651); a token in 11 days is MinRate.
const (
	MaxLimit = 999_999_999_999_999
	MinRate  = 1e-6
	MaxRate  = 1e6
	MaxBurst = 1e6
)

// DefaultBurst is the burst of a throttle that names only its rate.
func DefaultBurst(rate float64) int64 {
	return max(1, int64(math.Ceil(rate)))
}

// A Mistake is a setting that can't work.
type Mistake struct {
	Setting string // "quota limit"
	Text    string // what is wrong with it, and the values that can be
}

// Validate reports every mistake in p.
func (p Plan) Validate() error {
	var errs []error
	for _, m := range p.Mistakes() {
		errs = append(errs, errors.New(m.Text))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("plan %q: %w", p.Name, err)
	}
	return nil
}

// Mistakes returns every setting of p that can't work.
func (p Plan) Mistakes() []Mistake {
	var ms []Mistake
	if err := CheckName(p.Name); err != nil {
		ms = append(ms, Mistake{"name", "its name " + err.Error()})
	}
	if p.Quota != nil {
		ms = append(ms, p.Quota.mistakes()...)
	}
	if p.Throttle != nil {
		ms = append(ms, p.Throttle.mistakes()...)
	}
	return ms
}

func (q Quota) mistakes() []Mistake {
	var ms []Mistake
	add := func(setting, format string, args ...any) {
		ms = append(ms, Mistake{setting, setting + " " + fmt.Sprintf(format, args...)})
	}
	if q.Limit < 1 || q.Limit > MaxLimit {
		add("quota limit", "%d: must be 1 to %d", q.Limit, int64(MaxLimit))
	}
	last := map[Period]int{Day: 0, Week: 6, Month: 27}
	if most, ok := last[q.Period]; !ok {
		add("quota period", "%q: must be DAY, WEEK or MONTH", q.Period)
	} else if q.Offset < 0 || q.Offset > most {
		add("quota offset", "%d: must be 0 to %d for period %s", q.Offset, most, q.Period)
	}
	if _, err := location(q.Timezone); err != nil {
		add("quota timezone", "%q: must be the name of an IANA time zone such as Europe/Berlin", q.Timezone)
	}
	return ms
}

func (t Throttle) mistakes() []Mistake {
	var ms []Mistake
	add := func(setting, format string, args ...any) {
		ms = append(ms, Mistake{setting, setting + " " + fmt.Sprintf(format, args...)})
	}
	if !(t.Rate >= MinRate && t.Rate <= MaxRate) { // not NaN either
		add("throttle rateLimit", "%g: must be a number of requests a second from %g to %g", t.Rate, MinRate, MaxRate)
	}
	if t.Burst < 1 || t.Burst > MaxBurst {
		add("throttle burstLimit", "%d: must be 1 to %d", t.Burst, int64(MaxBurst))
	}
	return ms
}

// String says the quota as people do: "5 a day".
func (q *Quota) String() string {
	if q == nil {
		return "-"
	}
	s := fmt.Sprintf("%d a %s", q.Limit, strings.ToLower(string(q.Period)))
	if q.Offset != 0 {
		s += fmt.Sprintf(", offset %d", q.Offset)
	}
	if q.Timezone != "" && q.Timezone != "UTC" {
		s += ", " + q.Timezone
	}
	return s
}

// String says the throttle as people do: "5/s, burst 10".
func (t *Throttle) String() string {
	if t == nil {
		return "-"
	}
	return fmt.Sprintf("%g/s, burst %d", t.Rate, t.Burst)
}
