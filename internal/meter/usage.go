package meter

import (
	"net/http"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
	"helloapi/internal/web"
)

// usageDays is how many days GET /usage goes back.
const usageDays = 30

// usageAnswer is the body of GET /usage.
type usageAnswer struct {
	Plan     string         `json:"plan"`
	Quota    *quotaAnswer   `json:"quota,omitempty"`
	Throttle *plan.Throttle `json:"throttle,omitempty"`
	Days     []dayAnswer    `json:"days"`
}

type quotaAnswer struct {
	plan.Quota
	Granted   int64     `json:"granted"` // units beyond the limit, in this window
	Used      int64     `json:"used"`
	Remaining int64     `json:"remaining"`
	Since     time.Time `json:"since"`    // when this window began
	ResetsAt  time.Time `json:"resetsAt"` // when the next one begins
}

type dayAnswer struct {
	Date plan.Date `json:"date"`
	Used int64     `json:"used"`
}

// Usage answers GET /usage with where a key stands: what it used of its quota
// in this window, and on each of the last 30 days. What other replicas charged
// in the last second may be missing. It stands behind Throttle.
func (m *Meter) Usage(w http.ResponseWriter, r *http.Request) error {
	key := apikey.From(r.Context())
	now := m.limiter.Now()
	answer := usageAnswer{Plan: key.Plan.Name, Throttle: key.Plan.Throttle, Days: []dayAnswer{}}

	today := plan.DateOf(now.UTC())
	first, next := today, today.Next()
	quota, window, err := m.quota(key)
	if err != nil {
		return err
	}
	if quota != nil {
		if today, err = quota.Date(now); err != nil {
			return err
		}
		if first, next, err = quota.Dates(window); err != nil {
			return err
		}
	}
	// All that this replica charged is then in what is read.
	if err := m.ledger.Write(r.Context()); err != nil {
		return web.Unavailable(err)
	}
	since := today.AddDays(1 - usageDays)
	days, err := m.ledger.usage.DailyUsage(r.Context(), key.ID, min(first, since), next)
	if err != nil {
		return web.Unavailable(err)
	}
	var used int64
	for _, d := range days {
		if d.Date >= first {
			used += d.Charged
		}
		if d.Date < since {
			continue
		}
		if n := len(answer.Days); n > 0 && answer.Days[n-1].Date == d.Date { // on another account
			answer.Days[n-1].Used += d.Charged
			continue
		}
		answer.Days = append(answer.Days, dayAnswer{d.Date, d.Charged})
	}
	if quota != nil {
		answer.Quota = &quotaAnswer{
			Quota: *key.Plan.Quota, Granted: quota.Limit - key.Plan.Quota.Limit,
			Used: used, Remaining: max(0, quota.Limit-used), Since: window.Start, ResetsAt: window.End,
		}
	}
	return web.JSON(w, http.StatusOK, answer)
}
