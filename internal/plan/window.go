package plan

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// A Window is the stretch of time [Start, End) in which a quota is counted.
type Window struct {
	Start, End time.Time
}

// Contains reports whether t lies in the window.
func (w Window) Contains(t time.Time) bool {
	return !t.Before(w.Start) && t.Before(w.End)
}

// Equal reports whether w and o are the same stretch of time.
func (w Window) Equal(o Window) bool { return w.Start.Equal(o.Start) && w.End.Equal(o.End) }

// Length is how long the window lasts: 23 or 25 hours for some days.
func (w Window) Length() time.Duration { return w.End.Sub(w.Start) }

// Window returns the window of the quota that contains t. The windows of a
// quota follow each other without a gap: the end of one is the start of the
// next. It fails only if the quota's period or time zone is unknown.
func (q Quota) Window(t time.Time) (Window, error) {
	loc, err := location(q.Timezone)
	if err != nil {
		return Window{}, fmt.Errorf("quota timezone %q: %w", q.Timezone, err)
	}

	today := today(t, loc)
	var first, next date
	switch q.Period {
	case Day:
		first, next = today, today.add(1)
	case Week:
		first = today.add(-((int(today.weekday()) - q.Offset + 7) % 7))
		next = first.add(7)
	case Month:
		first = date{today.year, today.month, 1 + q.Offset}
		if today.day < first.day {
			first.month--
		}
		next = date{first.year, first.month + 1, first.day}
	default:
		return Window{}, fmt.Errorf("quota period %q is none of DAY, WEEK, MONTH", q.Period)
	}
	return Window{first.begin(loc), next.begin(loc)}, nil
}

// today returns the day that t belongs to. A clock set back over midnight shows
// the day before once more; that hour belongs to the day that has begun already.
func today(t time.Time, loc *time.Location) date {
	d := dateOf(t.In(loc))
	for !t.Before(d.add(1).begin(loc)) {
		d = d.add(1)
	}
	return d
}

// A date is a day of the calendar. Like time.Date it may be out of range: the
// 0th month of a year is the December before it.
type date struct {
	year  int
	month time.Month
	day   int
}

func dateOf(t time.Time) date {
	y, m, d := t.Date()
	return date{y, m, d}
}

func (d date) midnightUTC() time.Time {
	return time.Date(d.year, d.month, d.day, 0, 0, 0, 0, time.UTC)
}

func (d date) add(days int) date {
	return dateOf(d.midnightUTC().AddDate(0, 0, days))
}

func (d date) weekday() time.Weekday { return d.midnightUTC().Weekday() }

// begin returns the first instant at which a clock in loc shows the date d or
// a later one. That is midnight, except where the clock is set over it: where
// summer time begins at midnight the day begins at 01:00, and where a zone
// left out a day it begins, and ends, as the next one does.
func (d date) begin(loc *time.Location) time.Time {
	midnight := d.midnightUTC() // what the clock has to show, on a clock at UTC
	// No zone is further from UTC than this, so its clock shows an earlier date
	// here. From here on, look at each stretch of constant offset.
	t := midnight.Add(-48 * time.Hour).In(loc)
	for {
		_, offset := t.Zone()
		start, end := t.ZoneBounds()
		begin := midnight.Add(-time.Duration(offset) * time.Second)
		if begin.Before(start) { // the zero start of the first stretch is before all
			begin = start
		}
		if end.IsZero() || begin.Before(end) {
			return begin.In(loc)
		}
		t = end
	}
}

// locations remembers the zones in use: loading one reads and parses a file.
var locations sync.Map // of name to *time.Location

func location(name string) (*time.Location, error) {
	if l, ok := locations.Load(name); ok {
		return l.(*time.Location), nil
	}
	switch area, _, _ := strings.Cut(name, "/"); area {
	case "Local", "localtime", "posixrules", "posix", "right":
		// Known to the machine or to Go, but not the same on every replica.
		return nil, errors.New("not a name of the IANA time zone database")
	}
	l, err := time.LoadLocation(name)
	if err != nil {
		return nil, err
	}
	locations.Store(name, l)
	return l, nil
}
