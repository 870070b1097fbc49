package meter

import (
	"net/http"
	"testing"
	"time"

	"helloapi/internal/limits"
	"helloapi/internal/plan"
)

func TestSetPolicy(t *testing.T) {
	t.Parallel()
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	quota := func(limit int64, period plan.Period, zone string) *plan.Quota {
		return &plan.Quota{Limit: limit, Period: period, Timezone: zone}
	}
	throttle := func(rate float64, burst int64) *plan.Throttle { return &plan.Throttle{Rate: rate, Burst: burst} }
	tests := []struct {
		name     string
		quota    *plan.Quota
		at       string
		throttle *plan.Throttle
		want     string
	}{
		{"none", nil, "2025-01-15T12:00:00Z", nil, ""},
		{"both", quota(5, plan.Day, ""), "2025-01-15T12:00:00Z", throttle(5, 5), `"quota";q=5;w=86400, "throttle";q=5;w=1`},
		{"paid", quota(5000, plan.Day, ""), "2025-01-15T12:00:00Z", throttle(100, 200), `"quota";q=5000;w=86400, "throttle";q=200;w=2`},

		{"week", quota(5, plan.Week, ""), "2025-01-15T12:00:00Z", nil, `"quota";q=5;w=604800`},
		{"28 days", quota(5, plan.Month, ""), "2025-02-15T12:00:00Z", nil, `"quota";q=5;w=2419200`},
		{"29 days", quota(5, plan.Month, ""), "2024-02-15T12:00:00Z", nil, `"quota";q=5;w=2505600`},
		{"30 days", quota(5, plan.Month, ""), "2025-04-15T12:00:00Z", nil, `"quota";q=5;w=2592000`},
		{"31 days", quota(5, plan.Month, ""), "2025-01-15T12:00:00Z", nil, `"quota";q=5;w=2678400`},
		{"23 hours", quota(5, plan.Day, "Europe/Berlin"), "2025-03-30T12:00:00Z", nil, `"quota";q=5;w=82800`},
		{"25 hours", quota(5, plan.Day, "Europe/Berlin"), "2025-10-26T12:00:00Z", nil, `"quota";q=5;w=90000`},
		{"largest", quota(plan.MaxLimit, plan.Day, ""), "2025-01-15T12:00:00Z", nil, `"quota";q=999999999999999;w=86400`},
		{"with grants", quota(plan.MaxLimit+1, plan.Day, ""), "2025-01-15T12:00:00Z", nil, `"quota";q=999999999999999;w=86400`},

		{"less than a second", nil, "", throttle(100, 1), `"throttle";q=1;w=1`},
		{"rounded up", nil, "", throttle(3, 10), `"throttle";q=10;w=4`},
		{"rate 0.5", nil, "", throttle(0.5, 1), `"throttle";q=1;w=2`},
		{"slowest", nil, "", throttle(plan.MinRate, 1), `"throttle";q=1;w=1000000`},
		{"largest and slowest", nil, "", throttle(plan.MinRate, plan.MaxBurst), `"throttle";q=1000000;w=1000000000000`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var w plan.Window
			if tt.quota != nil {
				var err error
				if w, err = tt.quota.Window(at(tt.at)); err != nil {
					t.Fatal(err)
				}
			}
			h := http.Header{}
			d := limits.Decision{Throttle: tt.throttle}
			if tt.quota != nil {
				d.HasQuota, d.Limit, d.Window = true, tt.quota.Limit, w
			}
			setPolicy(h, d)
			if got := h.Get("RateLimit-Policy"); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if _, ok := h["Ratelimit-Policy"]; ok && tt.want == "" {
				t.Error("the header is there, and empty")
			}
		})
	}
}

func TestSetRemaining(t *testing.T) {
	t.Parallel()
	tests := []struct {
		limit     limits.Limit
		remaining int64
		reset     time.Duration
		want      string
	}{
		{"quota", 4, time.Hour, `"quota";r=4;t=3600`},
		{"quota", 0, 1500 * time.Millisecond, `"quota";r=0;t=2`},
		{"throttle", 0, time.Second, `"throttle";r=0;t=1`},
		{"throttle", 0, time.Second + 1, `"throttle";r=0;t=2`},
		{"throttle", 0, 1, `"throttle";r=0;t=1`},
		{"quota", 4, 0, `"quota";r=4;t=1`},
		{"quota", 4, -time.Minute, `"quota";r=4;t=1`}, // the limiter's clock went over the end
		{"quota", plan.MaxLimit, 31 * 24 * time.Hour, `"quota";r=999999999999999;t=2678400`},
		{"quota", 2 * plan.MaxLimit, time.Hour, `"quota";r=999999999999999;t=3600`}, // with grants
	}
	for _, tt := range tests {
		h := http.Header{}
		setRemaining(h, tt.limit, 1<<40, time.Minute)
		setRemaining(h, tt.limit, tt.remaining, tt.reset) // takes the place of the other
		if got := h.Values("RateLimit"); len(got) != 1 || got[0] != tt.want {
			t.Errorf("got %q, want %s", got, tt.want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	tests := []struct {
		wait time.Duration
		want string
	}{
		{1, "1"},
		{500 * time.Millisecond, "1"},
		{time.Second - 1, "1"},
		{time.Second, "1"},
		{time.Second + 1, "2"},
		{1500 * time.Millisecond, "2"},
		{1e6 * time.Second, "1000000"},
	}
	for _, tt := range tests {
		e := newEndpoint(nil, &plan.Throttle{Rate: 1, Burst: 1})
		e.counters.wait = tt.wait
		if got := e.get(t, "/").Header().Get("Retry-After"); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.wait, got, tt.want)
		}
	}
}
