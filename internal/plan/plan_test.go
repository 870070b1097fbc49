package plan_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"helloapi/internal/plan"
)

func day(limit int64) *plan.Quota { return &plan.Quota{Limit: limit, Period: plan.Day} }

func TestValidateGood(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		p    plan.Plan
	}{
		{"no limits", plan.Plan{Name: "free"}},
		{"quota", plan.Plan{Name: "free", Quota: day(5)}},
		{"throttle", plan.Plan{Name: "free", Throttle: &plan.Throttle{Rate: 5, Burst: 5}}},
		{"both", plan.Plan{Name: "service-stage", Quota: day(5), Throttle: &plan.Throttle{Rate: 5, Burst: 5}}},
		{"space within the name", plan.Plan{Name: "very free"}},
		{"smallest", plan.Plan{Name: "p", Quota: day(1), Throttle: &plan.Throttle{Rate: plan.MinRate, Burst: 1}}},
		{"largest", plan.Plan{Name: "p", Quota: day(plan.MaxLimit), Throttle: &plan.Throttle{Rate: plan.MaxRate, Burst: plan.MaxBurst}}},
		{"rate below one", plan.Plan{Name: "p", Throttle: &plan.Throttle{Rate: 0.5, Burst: 1}}},
		{"Sunday", plan.Plan{Name: "p", Quota: &plan.Quota{Limit: 1, Period: plan.Week}}},
		{"Saturday", plan.Plan{Name: "p", Quota: &plan.Quota{Limit: 1, Period: plan.Week, Offset: 6}}},
		{"the 28th", plan.Plan{Name: "p", Quota: &plan.Quota{Limit: 1, Period: plan.Month, Offset: 27}}},
		{"UTC", plan.Plan{Name: "p", Quota: &plan.Quota{Limit: 1, Period: plan.Day, Timezone: "UTC"}}},
		{"zone", plan.Plan{Name: "p", Quota: &plan.Quota{Limit: 1, Period: plan.Day, Timezone: "America/Argentina/Ushuaia"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if err := tt.p.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestValidateBad(t *testing.T) {
	t.Parallel()
	quota := func(q plan.Quota) plan.Plan { return plan.Plan{Name: "free", Quota: &q} }
	throttle := func(rate float64, burst int64) plan.Plan {
		return plan.Plan{Name: "free", Throttle: &plan.Throttle{Rate: rate, Burst: burst}}
	}
	tests := []struct {
		name string
		p    plan.Plan
		want string // the setting, and the value where there is one
	}{
		{"no name", plan.Plan{}, `name`},
		{"name of spaces", plan.Plan{Name: " "}, `name`},
		{"space before the name", plan.Plan{Name: " free"}, `name`},
		{"newline after the name", plan.Plan{Name: "free\n"}, `name`},

		{"limit 0", quota(plan.Quota{Limit: 0, Period: plan.Day}), `quota limit 0: `},
		{"limit below 0", quota(plan.Quota{Limit: -1, Period: plan.Day}), `quota limit -1: `},
		{"limit too large", quota(plan.Quota{Limit: plan.MaxLimit + 1, Period: plan.Day}), `quota limit 1000000000000000: must be 1 to 999999999999999`},
		{"no period", quota(plan.Quota{Limit: 1}), `quota period "": `},
		{"unknown period", quota(plan.Quota{Limit: 1, Period: "YEAR"}), `quota period "YEAR": must be DAY, WEEK or MONTH`},
		{"period in small letters", quota(plan.Quota{Limit: 1, Period: "day"}), `quota period "day": `},
		{"offset of a day", quota(plan.Quota{Limit: 1, Period: plan.Day, Offset: 1}), `quota offset 1: `},
		{"offset of a week", quota(plan.Quota{Limit: 1, Period: plan.Week, Offset: 7}), `quota offset 7: must be 0 to 6 for period WEEK`},
		{"offset of a month", quota(plan.Quota{Limit: 1, Period: plan.Month, Offset: 28}), `quota offset 28: must be 0 to 27 for period MONTH`},
		{"offset below 0", quota(plan.Quota{Limit: 1, Period: plan.Week, Offset: -1}), `quota offset -1: `},
		{"unknown zone", quota(plan.Quota{Limit: 1, Period: plan.Day, Timezone: "Europe/Atlantis"}), `quota timezone "Europe/Atlantis": `},
		{"a path", quota(plan.Quota{Limit: 1, Period: plan.Day, Timezone: "../UTC"}), `quota timezone "../UTC": `},
		// These would be other zones on another replica. Debian and others have
		// files of the latter names among those of the zones.
		{"the machine's zone", quota(plan.Quota{Limit: 1, Period: plan.Day, Timezone: "Local"}), `quota timezone "Local": `},
		{"the machine's zone by its file", quota(plan.Quota{Limit: 1, Period: plan.Day, Timezone: "localtime"}), `quota timezone "localtime": `},
		{"the machine's rules", quota(plan.Quota{Limit: 1, Period: plan.Day, Timezone: "posixrules"}), `quota timezone "posixrules": `},
		{"a zone with leap seconds", quota(plan.Quota{Limit: 1, Period: plan.Day, Timezone: "right/UTC"}), `quota timezone "right/UTC": `},

		{"rate 0", throttle(0, 1), `throttle rateLimit 0: `},
		{"rate below 0", throttle(-1, 1), `throttle rateLimit -1: `},
		{"rate too small", throttle(plan.MinRate/2, 1), `throttle rateLimit 5e-07: `},
		{"rate too large", throttle(plan.MaxRate*2, 1), `throttle rateLimit 2e+06: must be a number of requests a second from 1e-06 to 1e+06`},
		{"rate NaN", throttle(math.NaN(), 1), `throttle rateLimit NaN: `},
		{"rate Inf", throttle(math.Inf(1), 1), `throttle rateLimit +Inf: `},
		{"rate -Inf", throttle(math.Inf(-1), 1), `throttle rateLimit -Inf: `},
		{"burst 0", throttle(1, 0), `throttle burstLimit 0: must be 1 to 1000000`},
		{"burst below 0", throttle(1, -5), `throttle burstLimit -5: `},
		{"burst too large", throttle(1, plan.MaxBurst+1), `throttle burstLimit 1000001: `},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := tt.p.Validate()
			if err == nil {
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q does not say %q", err, tt.want)
			}
			if n := len(strings.Split(err.Error(), "\n")); n != 1 {
				t.Errorf("one mistake has %d messages:\n%v", n, err)
			}
		})
	}
}

func TestValidateAllAtOnce(t *testing.T) {
	t.Parallel()
	p := plan.Plan{
		Name:     "free ",
		Quota:    &plan.Quota{Limit: -1, Period: plan.Week, Offset: 9, Timezone: "Nowhere"},
		Throttle: &plan.Throttle{Rate: math.NaN()},
	}
	err := p.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`plan "free "`, "its name must not have spaces around it", "quota limit", "quota offset", "quota timezone", "throttle rateLimit", "throttle burstLimit",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing from:\n%v", want, err)
		}
	}
	p.Quota.Period = "YEAR"
	if err := p.Validate(); !strings.Contains(err.Error(), "quota period") {
		t.Errorf("%q is missing from:\n%v", "quota period", err)
	}
}

func TestDefaultBurst(t *testing.T) {
	t.Parallel()
	tests := []struct {
		rate float64
		want int64
	}{
		{plan.MinRate, 1},
		{0.5, 1},
		{1, 1},
		{1.000001, 2},
		{2.5, 3},
		{100, 100},
		{plan.MaxRate, plan.MaxBurst},
	}
	for _, tt := range tests {
		if got := plan.DefaultBurst(tt.rate); got != tt.want {
			t.Errorf("DefaultBurst(%g) = %d, want %d", tt.rate, got, tt.want)
		}
	}
}

func TestString(t *testing.T) {
	t.Parallel()
	tests := []struct {
		v    interface{ String() string }
		want string
	}{
		{(*plan.Quota)(nil), "-"},
		{day(5), "5 a day"},
		{&plan.Quota{Limit: 10, Period: plan.Week}, "10 a week"},
		{&plan.Quota{Limit: 10, Period: plan.Week, Offset: 1, Timezone: "UTC"}, "10 a week, offset 1"},
		{&plan.Quota{Limit: 10, Period: plan.Month, Offset: 14, Timezone: "Europe/Berlin"}, "10 a month, offset 14, Europe/Berlin"},
		{&plan.Quota{Limit: plan.MaxLimit, Period: plan.Day, Timezone: "Asia/Tokyo"}, "999999999999999 a day, Asia/Tokyo"},
		{(*plan.Throttle)(nil), "-"},
		{&plan.Throttle{Rate: 5, Burst: 10}, "5/s, burst 10"},
		{&plan.Throttle{Rate: 0.5, Burst: 1}, "0.5/s, burst 1"},
	}
	for _, tt := range tests {
		if got := tt.v.String(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

// What "plans list -o json" prints is read by programs.
func TestJSON(t *testing.T) {
	t.Parallel()
	tests := []struct {
		p    plan.Plan
		want string
	}{
		{plan.Plan{Name: "p"}, `{"name":"p"}`},
		{
			plan.Plan{Name: "p", Quota: day(5), Throttle: &plan.Throttle{Rate: 0.5, Burst: 1}},
			`{"name":"p","quota":{"limit":5,"period":"DAY"},"throttle":{"rateLimit":0.5,"burstLimit":1}}`,
		},
		{
			plan.Plan{Name: "p", Quota: &plan.Quota{Limit: 5, Period: plan.Week, Offset: 1, Timezone: "Europe/Berlin"}},
			`{"name":"p","quota":{"limit":5,"period":"WEEK","offset":1,"timezone":"Europe/Berlin"}}`,
		},
	}
	for _, tt := range tests {
		got, err := json.Marshal(tt.p)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, string(got)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
}

// scan fills the row as a database driver does: nil for NULL.
func scan(t *testing.T, values ...any) *plan.Row {
	t.Helper()
	var r plan.Row
	dest := r.Dest()
	if n := len(strings.Split(plan.Columns, ",")); len(dest) != n || len(values) != n {
		t.Fatalf("%d columns, %d destinations, %d values", n, len(dest), len(values))
	}
	for i, v := range values {
		switch d := dest[i].(type) {
		case **string:
			if v != nil {
				*d = new(v.(string))
			}
		case **int64:
			if v != nil {
				*d = new(int64(v.(int)))
			}
		case **int:
			if v != nil {
				*d = new(v.(int))
			}
		case **float64:
			if v != nil {
				*d = new(v.(float64))
			}
		default:
			t.Fatalf("column %d is scanned to a %T", i, d)
		}
	}
	return &r
}

func TestRow(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		row  *plan.Row
		want *plan.Plan
	}{
		{"none", scan(t, nil, nil, nil, nil, nil, nil, nil), nil},
		{"no limits", scan(t, "p", nil, nil, nil, nil, nil, nil), &plan.Plan{Name: "p"}},
		{
			"quota", scan(t, "p", 5, "WEEK", 1, "Europe/Berlin", nil, nil),
			&plan.Plan{Name: "p", Quota: &plan.Quota{Limit: 5, Period: plan.Week, Offset: 1, Timezone: "Europe/Berlin"}},
		},
		{"throttle", scan(t, "p", nil, nil, nil, nil, 0.5, 3), &plan.Plan{Name: "p", Throttle: &plan.Throttle{Rate: 0.5, Burst: 3}}},
		{
			"both", scan(t, "p", 5, "DAY", 0, "", 5.0, 6),
			&plan.Plan{Name: "p", Quota: day(5), Throttle: &plan.Throttle{Rate: 5, Burst: 6}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, tt.row.Plan()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
