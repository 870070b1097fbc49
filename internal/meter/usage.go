package meter

import (
	"cmp"
	_ "embed"
	"maps"
	"net/http"
	"slices"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/limits"
	"helloapi/internal/plan"
	"helloapi/internal/refusals"
	"helloapi/internal/web"
)

// OpenAPI is the part of GET /usage in the contract.
//
//go:embed openapi.json
var OpenAPI []byte

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
	Date    plan.Date        `json:"date"`
	Used    int64            `json:"used"`
	Refused map[string]int64 `json:"refused,omitempty"` // requests, by reason
}

// Usage answers GET /usage with where a key stands: what it used of its quota
// in this window, and what was charged and refused on each of the last 30 days.
func (m *Meter) Usage(w http.ResponseWriter, r *http.Request) error {
	key := apikey.From(r.Context())
	u, err := m.limits.Usage(r.Context(), key, usageDays)
	if err != nil {
		return web.Unavailable(err)
	}
	refused, err := m.refusals.OfKey(r.Context(), key.ID, u.Since, u.Today.Next())
	if err != nil {
		return web.Unavailable(err)
	}
	answer := usageAnswer{Plan: key.Plan.Name, Throttle: key.Plan.Throttle, Days: daysOf(u.Days, refused)}
	if q := key.Plan.Quota; q != nil {
		answer.Quota = &quotaAnswer{
			Quota: *q, Granted: u.Limit - q.Limit,
			Used: u.Used, Remaining: max(0, u.Limit-u.Used), Since: u.Window.Start, ResetsAt: u.Window.End,
		}
	}
	return web.JSON(w, http.StatusOK, answer)
}

// daysOf returns the days on which a key was charged or refused, in order.
func daysOf(used []limits.DayUsed, refused []refusals.Total) []dayAnswer {
	days := map[plan.Date]dayAnswer{}
	for _, d := range used {
		days[d.Date] = dayAnswer{Date: d.Date, Used: d.Used}
	}
	for _, t := range refused {
		d := days[t.Date]
		if d.Date = t.Date; d.Refused == nil {
			d.Refused = map[string]int64{}
		}
		d.Refused[t.Reason] = t.Refused
		days[t.Date] = d
	}
	list := slices.AppendSeq([]dayAnswer{}, maps.Values(days)) // in JSON [] and not null
	slices.SortFunc(list, func(a, b dayAnswer) int { return cmp.Compare(a.Date, b.Date) })
	return list
}
