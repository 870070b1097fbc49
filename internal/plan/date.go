package plan

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A Date is a day of the calendar, as 2006-01-02: dates compare as strings do.
type Date string

func (d date) date() Date {
	return Date(d.midnightUTC().Format(time.DateOnly))
}

// Date returns the day that t belongs to in the quota's time zone.
func (q Quota) Date(t time.Time) (Date, error) {
	loc, err := location(q.Timezone)
	if err != nil {
		return "", fmt.Errorf("quota timezone %q: %w", q.Timezone, err)
	}
	return today(t, loc).date(), nil
}

// Dates returns the days that a window of the quota is made of: first, and all
// that follow it before next.
func (q Quota) Dates(w Window) (first, next Date, err error) {
	loc, err := location(q.Timezone)
	if err != nil {
		return "", "", fmt.Errorf("quota timezone %q: %w", q.Timezone, err)
	}
	return dateOf(w.Start.In(loc)).date(), dateOf(w.End.In(loc)).date(), nil
}

// A Grant is units that a key may use beyond its quota, in the window that has
// the day.
type Grant struct {
	Date  Date
	Units int64
	Note  string // why, for people; not where limits are decided
}

// Granted adds up the grants for a window of the quota.
func (q Quota) Granted(w Window, grants []Grant) (int64, error) {
	if len(grants) == 0 {
		return 0, nil
	}
	first, next, err := q.Dates(w)
	if err != nil {
		return 0, err
	}
	var units int64
	for _, g := range grants {
		if first <= g.Date && g.Date < next {
			units += g.Units
		}
	}
	return units, nil
}

// DateOf returns the day that t shows.
func DateOf(t time.Time) Date { return dateOf(t).date() }

// AddDays returns the date n days later. It must be a valid date.
func (d Date) AddDays(n int) Date {
	t, err := time.Parse(time.DateOnly, string(d))
	if err != nil {
		return d
	}
	return dateOf(t.AddDate(0, 0, n)).date()
}

// Month returns the month of d, as 2006-01.
func (d Date) Month() string { return string(d[:len("2006-01")]) }

// FirstOfMonth returns the first day of d's month.
func (d Date) FirstOfMonth() Date { return Date(d.Month() + "-01") }

// Next returns the day after d.
func (d Date) Next() Date { return d.AddDays(1) }

// ParseGrants reads grants as the databases list them: "2006-01-02 5,2006-01-03 7".
func ParseGrants(s string) ([]Grant, error) {
	if s == "" {
		return nil, nil
	}
	var grants []Grant
	for g := range strings.SplitSeq(s, ",") {
		day, units, _ := strings.Cut(g, " ")
		n, err := strconv.ParseInt(units, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("grant %q: %w", g, err)
		}
		grants = append(grants, Grant{Date: Date(day), Units: n})
	}
	return grants, nil
}
