package backendtest

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
	"helloapi/internal/refusals"
)

// What several processes refused is added up, and written once however often it
// is said.
func testRefusals(t *testing.T, url string) {
	db := open(t, url).Conn()
	now := time.Date(2030, 1, 1, 23, 30, 0, 0, time.UTC)
	berlin := &apikey.Key{ID: "1", Plan: &plan.Plan{Quota: &plan.Quota{Limit: 5, Period: plan.Day, Timezone: "Europe/Berlin"}}}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var recorders []*refusals.Recorder
	for i := range 3 {
		r := refusals.New(db, fmt.Sprint("process ", i), func() time.Time { return now }, slog.New(slog.DiscardHandler))
		recorders = append(recorders, r)
		wg.Go(func() {
			if err := r.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	for _, r := range recorders {
		for range 10 {
			r.Add(nil, "unknown key")
			r.Add(berlin, "throttled")
			r.Add(&apikey.Key{ID: "2"}, "no plan")
		}
		if _, err := r.OfKey(t.Context(), "1", "2030-01-01", "2030-02-01"); err != nil { // writes
			t.Fatal(err)
		}
		r.Add(berlin, "throttled")
		r.Add(berlin, "over quota")
	}
	for i := range 250 { // more than one statement has
		recorders[0].Add(&apikey.Key{ID: fmt.Sprintf("many-%03d", i)}, "disabled")
	}
	stop()
	wg.Wait()
	got, err := refusals.List(t.Context(), db, "", "2030-01-01", "2030-01-03")
	if err != nil {
		t.Fatal(err)
	}
	want := []refusals.Total{
		{Date: "2030-01-01", Reason: "unknown key", Refused: 30},
		{KeyID: "1", Date: "2030-01-02", Reason: "over quota", Refused: 3}, // its day has begun
		{KeyID: "1", Date: "2030-01-02", Reason: "throttled", Refused: 33},
		{KeyID: "2", Date: "2030-01-01", Reason: "no plan", Refused: 30},
	}
	for i := range 250 {
		want = append(want, refusals.Total{KeyID: fmt.Sprintf("many-%03d", i), Date: "2030-01-01", Reason: "disabled", Refused: 1})
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	if got, err := refusals.List(t.Context(), db, "1", "2030-01-02", "2030-01-03"); err != nil || !slices.Equal(got, want[1:3]) {
		t.Errorf("of a key: %v, %v", got, err)
	}
	if got, err := refusals.List(t.Context(), db, "", "2030-01-03", "2030-02-01"); err != nil || len(got) != 0 {
		t.Errorf("of later days: %v, %v", got, err)
	}
}
