package meter

import (
	_ "embed"
	"net/http"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
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
	Date plan.Date `json:"date"`
	Used int64     `json:"used"`
}

// Usage answers GET /usage with where a key stands: what it used of its quota
// in this window, and on each of the last 30 days.
func (m *Meter) Usage(w http.ResponseWriter, r *http.Request) error {
	key := apikey.From(r.Context())
	u, err := m.limits.Usage(r.Context(), key, usageDays)
	if err != nil {
		return web.Unavailable(err)
	}
	answer := usageAnswer{Plan: key.Plan.Name, Throttle: key.Plan.Throttle, Days: []dayAnswer{}}
	for _, d := range u.Days {
		answer.Days = append(answer.Days, dayAnswer(d))
	}
	if q := key.Plan.Quota; q != nil {
		answer.Quota = &quotaAnswer{
			Quota: *q, Granted: u.Limit - q.Limit,
			Used: u.Used, Remaining: max(0, u.Limit-u.Used), Since: u.Window.Start, ResetsAt: u.Window.End,
		}
	}
	return web.JSON(w, http.StatusOK, answer)
}
