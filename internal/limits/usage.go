package limits

import (
	"context"
	"fmt"

	"helloapi/internal/apikey"
	"helloapi/internal/database"
	"helloapi/internal/plan"
)

// Usage is where a key stands.
type Usage struct {
	Window plan.Window // the quota's; the zero Window without one
	Limit  int64       // with grants
	Used   int64       // in the window
	Since  plan.Date   // the first of the last days
	Today  plan.Date   // and the last
	Days   []DayUsed   // the last ones, without those on which nothing was used
}

// A DayUsed is what a key used on a day.
type DayUsed struct {
	Date plan.Date
	Used int64
}

// Usage returns where a key stands, and what it used on so many days. What other
// replicas charged in the last second may be missing.
func (l *Limits) Usage(ctx context.Context, key *apikey.Key, days int) (u Usage, err error) {
	now, q := l.Now(), plan.Quota{Period: plan.Day}
	if key.Plan.Quota != nil {
		q = *key.Plan.Quota
	}
	w, err := q.Window(now)
	if err != nil {
		return u, err
	}
	today, err := q.Date(now)
	if err != nil {
		return u, err
	}
	first, next, err := q.Dates(w)
	if err != nil {
		return u, err
	}
	if key.Plan.Quota != nil {
		granted, err := q.Granted(w, key.Grants)
		if err != nil {
			return u, err
		}
		u.Window, u.Limit = w, q.Limit+granted
	}
	// All that this replica charged is then in what is read.
	if err := l.ledger.write(ctx); err != nil {
		return u, err
	}
	u.Since, u.Today = today.AddDays(1-days), today
	charged, err := l.ledger.store.DailyUsage(ctx, key.ID, min(first, u.Since), next)
	if err != nil {
		return u, err
	}
	for _, d := range charged {
		if d.Date >= first {
			u.Used += d.Charged
		}
		if d.Date < u.Since {
			continue
		}
		if n := len(u.Days); n > 0 && u.Days[n-1].Date == d.Date { // on another account
			u.Days[n-1].Used += d.Charged
			continue
		}
		u.Days = append(u.Days, DayUsed{d.Date, d.Charged})
	}
	return u, nil
}

// LastCharged returns the day on which a key was charged last, or each of all
// (""), by ID. Those that were not are left out.
func LastCharged(ctx context.Context, db *database.DB, keyID string) (map[string]plan.Date, error) {
	type row struct {
		keyID string
		day   *plan.Date
	}
	rows, err := database.List(ctx, db, func(r *row) []any { return []any{&r.keyID, &r.day} }, `
		SELECT k.id, CAST((SELECT max(u.day) FROM usage u WHERE u.key_id = k.id AND u.charged > 0) AS text)
		FROM api_keys k WHERE $1 = '' OR k.id = $1`, keyID)
	if err != nil {
		return nil, fmt.Errorf("find when keys were charged last: %w", err)
	}
	last := map[string]plan.Date{}
	for _, r := range rows {
		if r.day != nil {
			last[r.keyID] = *r.day
		}
	}
	return last, nil
}
