package plan_test

import (
	"slices"
	"testing"
	"time"
	_ "time/tzdata" // the same zones on every machine

	"helloapi/internal/plan"
)

// at parses an instant written with its offset from UTC, so that what a test
// expects does not come from the time zone data it tests with.
func at(t *testing.T, s string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func window(t *testing.T, q plan.Quota, at time.Time) plan.Window {
	t.Helper()
	w, err := q.Window(at)
	if err != nil {
		t.Fatalf("%+v.Window(%s): %v", q, at, err)
	}
	return w
}

// checkPartition fails if the windows about the instant overlap or leave a gap.
func checkPartition(t *testing.T, q plan.Quota, at time.Time) {
	t.Helper()
	w := window(t, q, at)
	if !w.Contains(at) {
		t.Fatalf("%+v: the window of %s is %s to %s", q, at.UTC(), w.Start.UTC(), w.End.UTC())
	}
	if !w.Start.Before(w.End) {
		t.Fatalf("%+v: the window of %s is empty: it starts at %s and ends at %s", q, at.UTC(), w.Start.UTC(), w.End.UTC())
	}
	for _, in := range []time.Time{w.Start, w.End.Add(-1)} {
		if same := window(t, q, in); !same.Start.Equal(w.Start) || !same.End.Equal(w.End) {
			t.Fatalf("%+v: %s and %s lie in one window, %s to %s, but that of the latter is %s to %s",
				q, at.UTC(), in.UTC(), w.Start.UTC(), w.End.UTC(), same.Start.UTC(), same.End.UTC())
		}
	}
	if next := window(t, q, w.End); !next.Start.Equal(w.End) {
		t.Fatalf("%+v: a window ends at %s, the next starts at %s", q, w.End.UTC(), next.Start.UTC())
	}
}

func TestWindow(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	tests := []struct {
		name   string
		zone   string
		period plan.Period
		offset int
		at     string
		start  string
		end    string
		length time.Duration
	}{
		// Year ends.
		{"last instant of a year", "", plan.Day, 0, "2024-12-31T23:59:59.999999999Z", "2024-12-31T00:00:00Z", "2025-01-01T00:00:00Z", day},
		{"first instant of a year", "UTC", plan.Day, 0, "2025-01-01T00:00:00Z", "2025-01-01T00:00:00Z", "2025-01-02T00:00:00Z", day},
		{"week over a year end", "", plan.Week, 0, "2025-01-01T12:00:00Z", "2024-12-29T00:00:00Z", "2025-01-05T00:00:00Z", 7 * day},
		{"week that starts a year", "", plan.Week, 3, "2025-01-01T00:00:00Z", "2025-01-01T00:00:00Z", "2025-01-08T00:00:00Z", 7 * day},
		{"week that a year ends", "", plan.Week, 3, "2024-12-31T23:59:59Z", "2024-12-25T00:00:00Z", "2025-01-01T00:00:00Z", 7 * day},
		{"December", "", plan.Month, 0, "2024-12-31T23:59:59Z", "2024-12-01T00:00:00Z", "2025-01-01T00:00:00Z", 31 * day},
		{"January", "", plan.Month, 0, "2025-01-01T00:00:00Z", "2025-01-01T00:00:00Z", "2025-02-01T00:00:00Z", 31 * day},
		{"month over a year end, from December", "", plan.Month, 14, "2024-12-15T00:00:00Z", "2024-12-15T00:00:00Z", "2025-01-15T00:00:00Z", 31 * day},
		{"month over a year end, from January", "", plan.Month, 14, "2025-01-14T23:59:59Z", "2024-12-15T00:00:00Z", "2025-01-15T00:00:00Z", 31 * day},

		// Leap days.
		{"28 February of a leap year", "", plan.Day, 0, "2024-02-28T12:00:00Z", "2024-02-28T00:00:00Z", "2024-02-29T00:00:00Z", day},
		{"29 February", "", plan.Day, 0, "2024-02-29T12:00:00Z", "2024-02-29T00:00:00Z", "2024-03-01T00:00:00Z", day},
		{"week with 29 February", "", plan.Week, 0, "2024-02-29T12:00:00Z", "2024-02-25T00:00:00Z", "2024-03-03T00:00:00Z", 7 * day},
		{"February of a leap year", "", plan.Month, 0, "2024-02-29T12:00:00Z", "2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z", 29 * day},
		{"February of another year", "", plan.Month, 0, "2023-02-28T12:00:00Z", "2023-02-01T00:00:00Z", "2023-03-01T00:00:00Z", 28 * day},
		{"from 28 February of a leap year", "", plan.Month, 27, "2024-02-28T00:00:00Z", "2024-02-28T00:00:00Z", "2024-03-28T00:00:00Z", 29 * day},
		{"up to 28 February", "", plan.Month, 27, "2024-02-27T23:59:59Z", "2024-01-28T00:00:00Z", "2024-02-28T00:00:00Z", 31 * day},
		{"2000 was a leap year", "", plan.Month, 0, "2000-02-29T12:00:00Z", "2000-02-01T00:00:00Z", "2000-03-01T00:00:00Z", 29 * day},
		{"2100 is none, day", "", plan.Day, 0, "2100-02-28T12:00:00Z", "2100-02-28T00:00:00Z", "2100-03-01T00:00:00Z", day},
		{"2100 is none, month", "", plan.Month, 0, "2100-02-28T12:00:00Z", "2100-02-01T00:00:00Z", "2100-03-01T00:00:00Z", 28 * day},
		{"30 days", "", plan.Month, 0, "2025-04-30T12:00:00Z", "2025-04-01T00:00:00Z", "2025-05-01T00:00:00Z", 30 * day},

		// Daylight saving, in the middle of the night.
		{"Berlin in winter", "Europe/Berlin", plan.Day, 0, "2025-01-14T23:00:00Z", "2025-01-15T00:00:00+01:00", "2025-01-16T00:00:00+01:00", day},
		{"Berlin, spring", "Europe/Berlin", plan.Day, 0, "2025-03-30T12:00:00Z", "2025-03-30T00:00:00+01:00", "2025-03-31T00:00:00+02:00", 23 * time.Hour},
		{"Berlin, autumn", "Europe/Berlin", plan.Day, 0, "2025-10-26T12:00:00Z", "2025-10-26T00:00:00+02:00", "2025-10-27T00:00:00+01:00", 25 * time.Hour},
		{"Berlin, autumn, 02:30 for the second time", "Europe/Berlin", plan.Day, 0, "2025-10-26T02:30:00+01:00", "2025-10-26T00:00:00+02:00", "2025-10-27T00:00:00+01:00", 25 * time.Hour},
		{"Berlin, week of spring", "Europe/Berlin", plan.Week, 1, "2025-03-26T12:00:00Z", "2025-03-24T00:00:00+01:00", "2025-03-31T00:00:00+02:00", 167 * time.Hour},
		{"Berlin, week of autumn", "Europe/Berlin", plan.Week, 0, "2025-10-26T12:00:00Z", "2025-10-26T00:00:00+02:00", "2025-11-02T00:00:00+01:00", 169 * time.Hour},
		{"Berlin, month of spring", "Europe/Berlin", plan.Month, 0, "2025-03-01T12:00:00Z", "2025-03-01T00:00:00+01:00", "2025-04-01T00:00:00+02:00", 31*day - time.Hour},
		{"Berlin, month of autumn", "Europe/Berlin", plan.Month, 0, "2025-10-01T12:00:00Z", "2025-10-01T00:00:00+02:00", "2025-11-01T00:00:00+01:00", 31*day + time.Hour},
		{"Berlin, before UTC's date", "Europe/Berlin", plan.Month, 0, "2024-12-31T23:30:00Z", "2025-01-01T00:00:00+01:00", "2025-02-01T00:00:00+01:00", 31 * day},
		{"New York, spring", "America/New_York", plan.Day, 0, "2025-03-09T12:00:00Z", "2025-03-09T00:00:00-05:00", "2025-03-10T00:00:00-04:00", 23 * time.Hour},
		{"New York, autumn", "America/New_York", plan.Day, 0, "2025-11-02T12:00:00Z", "2025-11-02T00:00:00-04:00", "2025-11-03T00:00:00-05:00", 25 * time.Hour},
		{"New York, after UTC's date", "America/New_York", plan.Month, 0, "2025-01-01T04:59:59Z", "2024-12-01T00:00:00-05:00", "2025-01-01T00:00:00-05:00", 31 * day},

		// Clocks set forward at midnight: the day begins at 01:00.
		{"São Paulo, day before spring", "America/Sao_Paulo", plan.Day, 0, "2018-11-04T02:59:59Z", "2018-11-03T00:00:00-03:00", "2018-11-04T01:00:00-02:00", day},
		{"São Paulo, spring", "America/Sao_Paulo", plan.Day, 0, "2018-11-04T03:00:00Z", "2018-11-04T01:00:00-02:00", "2018-11-05T00:00:00-02:00", 23 * time.Hour},
		{"São Paulo, week from spring", "America/Sao_Paulo", plan.Week, 0, "2018-11-07T12:00:00Z", "2018-11-04T01:00:00-02:00", "2018-11-11T00:00:00-02:00", 167 * time.Hour},
		{"São Paulo, month from spring", "America/Sao_Paulo", plan.Month, 3, "2018-11-07T12:00:00Z", "2018-11-04T01:00:00-02:00", "2018-12-04T00:00:00-02:00", 30*day - time.Hour},
		{"Beirut, spring", "Asia/Beirut", plan.Day, 0, "2022-03-27T12:00:00Z", "2022-03-27T01:00:00+03:00", "2022-03-28T00:00:00+03:00", 23 * time.Hour},
		{"Cairo, spring", "Africa/Cairo", plan.Day, 0, "2024-04-26T12:00:00Z", "2024-04-26T01:00:00+03:00", "2024-04-27T00:00:00+03:00", 23 * time.Hour},
		{"Havana, spring", "America/Havana", plan.Day, 0, "2024-03-10T12:00:00Z", "2024-03-10T01:00:00-04:00", "2024-03-11T00:00:00-04:00", 23 * time.Hour},

		// Clocks set back at midnight: the day before is 25 hours long.
		{"São Paulo, autumn", "America/Sao_Paulo", plan.Day, 0, "2019-02-16T23:30:00-03:00", "2019-02-16T00:00:00-02:00", "2019-02-17T00:00:00-03:00", 25 * time.Hour},
		{"Beirut, autumn", "Asia/Beirut", plan.Day, 0, "2022-10-29T23:30:00+02:00", "2022-10-29T00:00:00+03:00", "2022-10-30T00:00:00+02:00", 25 * time.Hour},
		{"Cairo, autumn", "Africa/Cairo", plan.Day, 0, "2024-10-31T23:30:00+02:00", "2024-10-31T00:00:00+03:00", "2024-11-01T00:00:00+02:00", 25 * time.Hour},
		// Here midnight is shown twice: the first one counts.
		{"Havana, autumn", "America/Havana", plan.Day, 0, "2024-11-03T00:30:00-05:00", "2024-11-03T00:00:00-04:00", "2024-11-04T00:00:00-05:00", 25 * time.Hour},
		{"Havana, day before autumn", "America/Havana", plan.Day, 0, "2024-11-02T23:59:59-04:00", "2024-11-02T00:00:00-04:00", "2024-11-03T00:00:00-04:00", day},

		// Clocks set at one minute past midnight. In autumn that is back to the
		// day before, for which the new day does not end.
		{"St. John's, spring", "America/St_Johns", plan.Day, 0, "2006-04-02T12:00:00Z", "2006-04-02T00:00:00-03:30", "2006-04-03T00:00:00-02:30", 23 * time.Hour},
		{"St. John's, day before autumn", "America/St_Johns", plan.Day, 0, "2006-10-28T23:59:59-02:30", "2006-10-28T00:00:00-02:30", "2006-10-29T00:00:00-02:30", day},
		{"St. John's, first minute of autumn", "America/St_Johns", plan.Day, 0, "2006-10-29T00:00:59-02:30", "2006-10-29T00:00:00-02:30", "2006-10-30T00:00:00-03:30", 25 * time.Hour},
		{"St. John's, the day before for the second time", "America/St_Johns", plan.Day, 0, "2006-10-28T23:30:00-03:30", "2006-10-29T00:00:00-02:30", "2006-10-30T00:00:00-03:30", 25 * time.Hour},
		{"St. John's, midnight for the second time", "America/St_Johns", plan.Day, 0, "2006-10-29T00:00:00-03:30", "2006-10-29T00:00:00-02:30", "2006-10-30T00:00:00-03:30", 25 * time.Hour},
		{"St. John's, week from autumn", "America/St_Johns", plan.Week, 0, "2006-10-28T23:30:00-03:30", "2006-10-29T00:00:00-02:30", "2006-11-05T00:00:00-03:30", 169 * time.Hour},

		// Samoa went over the date line and had no 30 December 2011, a Friday.
		{"Apia, last day in the east", "Pacific/Apia", plan.Day, 0, "2011-12-29T23:59:59-10:00", "2011-12-29T00:00:00-10:00", "2011-12-31T00:00:00+14:00", day},
		{"Apia, first day in the west", "Pacific/Apia", plan.Day, 0, "2011-12-31T00:00:00+14:00", "2011-12-31T00:00:00+14:00", "2012-01-01T00:00:00+14:00", day},
		{"Apia, week of six days", "Pacific/Apia", plan.Week, 0, "2011-12-29T12:00:00-10:00", "2011-12-25T00:00:00-10:00", "2012-01-01T00:00:00+14:00", 6 * day},
		{"Apia, week from the day left out", "Pacific/Apia", plan.Week, 5, "2012-01-02T12:00:00+14:00", "2011-12-31T00:00:00+14:00", "2012-01-06T00:00:00+14:00", 6 * day},
		{"Apia, week up to the day left out", "Pacific/Apia", plan.Week, 5, "2011-12-29T12:00:00-10:00", "2011-12-23T00:00:00-10:00", "2011-12-31T00:00:00+14:00", 7 * day},
		{"Apia, month of 30 days", "Pacific/Apia", plan.Month, 0, "2011-12-29T12:00:00-10:00", "2011-12-01T00:00:00-10:00", "2012-01-01T00:00:00+14:00", 30 * day},

		// Halves and quarters of an hour.
		{"Kolkata", "Asia/Kolkata", plan.Day, 0, "2025-06-30T18:30:00Z", "2025-07-01T00:00:00+05:30", "2025-07-02T00:00:00+05:30", day},
		{"Kathmandu", "Asia/Kathmandu", plan.Month, 0, "2025-06-30T18:14:59Z", "2025-06-01T00:00:00+05:45", "2025-07-01T00:00:00+05:45", 30 * day},
		{"Lord Howe, spring", "Australia/Lord_Howe", plan.Day, 0, "2024-10-06T12:00:00+11:00", "2024-10-06T00:00:00+10:30", "2024-10-07T00:00:00+11:00", 23*time.Hour + 30*time.Minute},
		{"Lord Howe, autumn", "Australia/Lord_Howe", plan.Day, 0, "2024-04-07T12:00:00+10:30", "2024-04-07T00:00:00+11:00", "2024-04-08T00:00:00+10:30", 24*time.Hour + 30*time.Minute},
		{"Chatham, spring", "Pacific/Chatham", plan.Day, 0, "2024-09-29T12:00:00+13:45", "2024-09-29T00:00:00+12:45", "2024-09-30T00:00:00+13:45", 23 * time.Hour},
		{"Chatham, autumn", "Pacific/Chatham", plan.Day, 0, "2024-04-07T12:00:00+12:45", "2024-04-07T00:00:00+13:45", "2024-04-08T00:00:00+12:45", 25 * time.Hour},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			q := plan.Quota{Limit: 1, Period: tt.period, Offset: tt.offset, Timezone: tt.zone}
			now := at(t, tt.at)
			w := window(t, q, now)
			if start, end := at(t, tt.start), at(t, tt.end); !w.Start.Equal(start) || !w.End.Equal(end) {
				t.Errorf("got %s to %s, want %s to %s", w.Start, w.End, tt.start, tt.end)
			}
			if got := w.Length(); got != tt.length {
				t.Errorf("length %s, want %s", got, tt.length)
			}
			checkPartition(t, q, now)
		})
	}
}

// In UTC every day has 24 hours, so a window can be found by counting days.
func TestWindowEveryOffset(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	tests := []struct {
		period plan.Period
		last   int                       // the last legal offset
		starts func(time.Time, int) bool // whether a window starts on the day
	}{
		{plan.Week, 6, func(d time.Time, offset int) bool { return int(d.Weekday()) == offset }},
		{plan.Month, 27, func(d time.Time, offset int) bool { return d.Day() == 1+offset }},
	}
	for _, tt := range tests {
		t.Run(string(tt.period), func(t *testing.T) {
			t.Parallel()
			// Two year ends, and February with and without a leap day.
			first := time.Date(2023, 1, 1, 0, 0, 0, 0, time.UTC)
			for offset := 0; offset <= tt.last; offset++ {
				q := plan.Quota{Limit: 1, Period: tt.period, Offset: offset}
				if err := (plan.Plan{Name: "p", Quota: &q}).Validate(); err != nil {
					t.Fatalf("offset %d: %v", offset, err)
				}
				for d := first; d.Before(first.AddDate(2, 2, 0)); d = d.Add(day) {
					start := d
					for !tt.starts(start, offset) {
						start = start.Add(-day)
					}
					end := d.Add(day)
					for !tt.starts(end, offset) {
						end = end.Add(day)
					}
					for _, now := range []time.Time{d, d.Add(13 * time.Hour), d.Add(day - 1)} {
						if w := window(t, q, now); !w.Start.Equal(start) || !w.End.Equal(end) {
							t.Fatalf("offset %d: the window of %s is %s to %s, want %s to %s", offset, now, w.Start, w.End, start, end)
						}
					}
				}
			}
		})
	}
}

// zones are those whose clocks do something odd, now or in history.
var zones = []string{
	"UTC", "Europe/Berlin", "America/New_York",
	"America/Sao_Paulo", "Asia/Beirut", "Africa/Cairo", "America/Havana", "America/St_Johns",
	"Pacific/Apia", "Pacific/Kwajalein", "Pacific/Kiritimati", // left out a day
	"Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Chatham",
	"Africa/Casablanca", "Europe/Dublin", "Antarctica/Troll", // summer time twice a year, negative, of two hours
	"Africa/Monrovia", "Europe/Amsterdam", "Asia/Pyongyang", "America/Caracas", "Atlantic/Azores",
}

// Looks closely at each day on which one of the zones changed its clock in ten
// years, or left out a day.
func TestWindowsFollowEachOther(t *testing.T) {
	t.Parallel()
	const step = 20 * time.Minute // less than the smallest change
	for _, zone := range zones {
		t.Run(zone, func(t *testing.T) {
			t.Parallel()
			loc, err := time.LoadLocation(zone)
			if err != nil {
				t.Fatal(err)
			}
			for _, years := range [][2]int{{1993, 1996}, {2005, 2007}, {2011, 2012}, {2018, 2025}} {
				until := time.Date(years[1], 1, 1, 0, 0, 0, 0, time.UTC)
				_, change := time.Date(years[0], 1, 1, 0, 0, 0, 0, loc).ZoneBounds()
				for ; !change.IsZero() && change.Before(until); _, change = change.ZoneBounds() {
					for _, q := range []plan.Quota{
						{Limit: 1, Period: plan.Day, Timezone: zone},
						{Limit: 1, Period: plan.Week, Offset: int(change.Weekday()), Timezone: zone},
						{Limit: 1, Period: plan.Month, Offset: min(27, change.Day()-1), Timezone: zone},
					} {
						for now := change.Add(-26 * time.Hour); now.Before(change.Add(26 * time.Hour)); now = now.Add(step) {
							checkPartition(t, q, now)
						}
						checkPartition(t, q, change.Add(-1))
					}
				}
			}
		})
	}
}

func TestWindowContains(t *testing.T) {
	t.Parallel()
	w := plan.Window{Start: at(t, "2025-01-01T00:00:00Z"), End: at(t, "2025-01-02T00:00:00Z")}
	tests := []struct {
		at   time.Time
		want bool
	}{
		{w.Start.Add(-1), false},
		{w.Start, true},
		{w.End.Add(-1), true},
		{w.End, false},
		{w.Start.In(time.FixedZone("", -3600)), true}, // an instant, not a reading of the clock
	}
	for _, tt := range tests {
		if got := w.Contains(tt.at); got != tt.want {
			t.Errorf("Contains(%s) = %t", tt.at, got)
		}
	}
}

func TestWindowUnknown(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		q    plan.Quota
	}{
		{"no period", plan.Quota{Limit: 1}},
		{"period", plan.Quota{Limit: 1, Period: "YEAR"}},
		{"period in small letters", plan.Quota{Limit: 1, Period: "day"}},
		{"zone", plan.Quota{Limit: 1, Period: plan.Day, Timezone: "Europe/Atlantis"}},
		{"the machine's own zone", plan.Quota{Limit: 1, Period: plan.Day, Timezone: "Local"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if w, err := tt.q.Window(at(t, "2025-01-01T00:00:00Z")); err == nil {
				t.Errorf("got the window %s to %s, want an error", w.Start, w.End)
			}
		})
	}
}

func FuzzWindow(f *testing.F) {
	seed := func(s string, period plan.Period, offset uint8, zone string) {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(v.Unix(), uint32(v.Nanosecond()), uint8(slices.Index(periods, period)), offset, uint8(slices.Index(zones, zone)))
	}
	seed("2024-02-29T12:00:00Z", plan.Month, 27, "UTC")
	seed("2025-03-30T01:30:00Z", plan.Day, 0, "Europe/Berlin")
	seed("2018-11-04T03:00:00Z", plan.Day, 0, "America/Sao_Paulo")
	seed("2006-10-29T02:45:00Z", plan.Day, 0, "America/St_Johns")
	seed("2011-12-30T10:00:00Z", plan.Week, 5, "Pacific/Apia")
	seed("1900-01-01T00:00:00Z", plan.Week, 1, "Africa/Monrovia")
	seed("2199-12-31T23:59:59Z", plan.Month, 0, "Pacific/Chatham")

	first := time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	length := time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC).Unix() - first
	f.Fuzz(func(t *testing.T, sec int64, nsec uint32, period, offset, zone uint8) {
		if sec < first || sec >= first+length {
			sec = first + int64(uint64(sec)%uint64(length))
		}
		q := plan.Quota{Limit: 1, Period: periods[int(period)%len(periods)], Timezone: zones[int(zone)%len(zones)]}
		switch q.Period {
		case plan.Week:
			q.Offset = int(offset) % 7
		case plan.Month:
			q.Offset = int(offset) % 28
		}
		checkPartition(t, q, time.Unix(sec, int64(nsec%1e9)))
	})
}

var periods = []plan.Period{plan.Day, plan.Week, plan.Month}
