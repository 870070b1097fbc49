package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"helloapi/internal/backendtest"
)

// midday returns a time zone in which it is midday or nearly so, so that a test
// does not end in another day than it began.
func midday() *time.Location {
	ahead := 12 - time.Now().UTC().Hour()
	name := "Etc/GMT"
	if ahead != 0 {
		name = fmt.Sprintf("Etc/GMT%+d", -ahead) // in which the sign is the other way round
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		panic(err)
	}
	return zone
}

// A process whose clock is a day off serves no second quota, and says when the
// real one resets; also with Redis away, and when it never reached Redis.
func TestWrongClock(t *testing.T) {
	t.Parallel()
	zone := midday()
	db := backendtest.Postgres(t)
	proxy, redis := backendtest.NewProxy(t, backendtest.RedisURL(t))
	backendtest.Exec(t, db, fmt.Sprintf(`INSERT INTO plans (name, quota_limit, quota_period, quota_timezone) VALUES ('ten', 10, 'DAY', '%s')`, zone))
	key := must(t, db, "keys", "create", "k", "--plan", "ten")
	serve := func(offset string) *process {
		return start(t, t.TempDir(), "DATABASE_URL="+db, "REDIS_URL="+redis, clockOffset+"="+offset)
	}
	year, month, day := time.Now().In(zone).Date()
	midnight := time.Date(year, month, day+1, 0, 0, 0, 0, zone)
	right := func(p *process, a answer) {
		t.Helper()
		left := time.Until(midnight).Seconds()
		header := a.header.Get("RateLimit")
		_, reset, _ := strings.Cut(header, ";t=")
		if got, err := strconv.Atoi(reset); err != nil || float64(got) < left-3 || float64(got) > left+3 {
			t.Errorf("%d %s with %s, want t=%.0f", a.status, a.body, header, left)
		}
		if a.header.Get("RateLimit-Policy") != `"quota";q=10;w=86400` {
			t.Errorf("policy %s", a.header.Get("RateLimit-Policy"))
		}
	}
	usage := func(p *process) {
		t.Helper()
		var u struct {
			Quota struct{ Since, ResetsAt time.Time }
			Days  []struct{ Date string }
		}
		a := get(t, "http://"+p.addr+"/usage", key)
		if err := json.Unmarshal([]byte(a.body), &u); err != nil || !u.Quota.ResetsAt.Equal(midnight) || !u.Quota.Since.Equal(midnight.AddDate(0, 0, -1)) {
			t.Errorf("usage: %d %s, want it to reset at %v", a.status, a.body, midnight)
		}
		for _, d := range u.Days {
			if d.Date != midnight.AddDate(0, 0, -1).Format(time.DateOnly) {
				t.Errorf("charged on %s", d.Date)
			}
		}
	}

	procs := []*process{serve("24h"), serve("-24h"), serve("0")}
	for _, p := range procs {
		usage(p) // the first that each is asked
	}
	served := 0
	ask := func() {
		t.Helper()
		for range 20 {
			for _, p := range procs {
				a := get(t, "http://"+p.addr+"/hello?name=clock", key)
				if a.status == http.StatusOK {
					served++
				} else if a.status != http.StatusTooManyRequests {
					t.Errorf("answered %d %s", a.status, a.body)
				}
				right(p, a)
			}
		}
	}
	ask()
	if served != 10 {
		t.Errorf("of a quota of 10 %d were served", served)
	}
	time.Sleep(1200 * time.Millisecond) // till the ledger has all
	for _, p := range procs {
		usage(p)
	}

	proxy.Refuse()
	for _, p := range procs {
		waitFor(t, "Redis to be away", func() bool { return p.metric(t, "helloapi_limits_away") == "1" })
	}
	procs = append(procs, serve("24h"), serve("-24h")) // which never reach it
	ask()
	for _, p := range procs {
		usage(p)
	}
	if served != 10 {
		t.Errorf("with Redis away, of a quota of 10 %d were served", served)
	}
}

// At midnight ten thousand keys get a new quota at once: their reads of the
// ledger share queries, and each key is served, also with a spent quota before.
//
// It is not run beside others: it keeps the machine busy.
func TestMidnight(t *testing.T) {
	const keys, clients = 10_000, 100
	zone, err := time.LoadLocation("Asia/Kathmandu") // midnight is at 18:15 UTC
	if err != nil {
		t.Fatal(err)
	}
	db := backendtest.Postgres(t)
	redis := backendtest.NewRedisWithClock(t)
	// In a week, so that its day is not this machine's; not the first of a month.
	year, month, day := time.Now().In(zone).AddDate(0, 0, 7).Date()
	midnight := time.Date(year, month, day, 0, 0, 0, 0, zone)
	redis.SetClock(t, midnight.Add(-time.Hour))
	backendtest.Exec(t, db, `INSERT INTO plans (name, quota_limit, quota_period, quota_timezone) VALUES ('one', 1, 'DAY', 'Asia/Kathmandu')`)
	values := backendtest.AddKeys(t, db, "one", keys)
	procs := []*process{
		start(t, t.TempDir(), "DATABASE_URL="+db, "REDIS_URL="+redis.URL()),
		start(t, t.TempDir(), "DATABASE_URL="+db, "REDIS_URL="+redis.URL()),
	}
	// round sends a request with each key, or each so manieth, and returns the
	// answers by status.
	round := func(each int) map[int]int {
		var mu sync.Mutex
		n := map[int]int{}
		var wg sync.WaitGroup
		for i := range clients {
			wg.Go(func() {
				for j := i * each; j < keys; j += clients * each {
					a := get(t, "http://"+procs[j%len(procs)].addr+"/hello?name=midnight", values[j])
					mu.Lock()
					n[a.status]++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		return n
	}
	queries := func() int { return sum(t, procs, `helloapi_store_flushes_total{store="usage"}`) }
	reads := func() int { return sum(t, procs, `helloapi_store_calls_total{store="usage"}`) }

	if n := round(1); n[http.StatusOK] != keys {
		t.Fatalf("before: %v", n)
	}
	if n := round(20); n[http.StatusTooManyRequests] != keys/20 {
		t.Fatalf("before, with the quota spent: %v", n)
	}
	time.Sleep(1600 * time.Millisecond) // the keys are not due to be raised any more
	redis.SetClock(t, midnight.Add(-1500*time.Millisecond))
	time.Sleep(1500 * time.Millisecond)
	before, readsBefore := queries(), reads()
	begin := time.Now()
	n := round(1)
	took := time.Since(begin)
	t.Logf("after midnight: %v in %v; %d queries of the ledger", n, took, queries()-before)
	if n[http.StatusOK] != keys {
		t.Errorf("of %d keys with a new quota: %v", keys, n)
	}
	time.Sleep(2 * time.Second)
	// Reads gather for a twentieth of a second, so a query has a hundred or more,
	// and less where the machine is so slow that few arrive in that time.
	if n := queries() - before; n*20 > reads()-readsBefore || reads()-readsBefore < keys {
		t.Errorf("%d queries of the ledger for %d reads, want one for twenty at most", n, reads()-readsBefore)
	}
	if n := round(20); n[http.StatusTooManyRequests] != keys/20 {
		t.Errorf("with the new quota spent: %v", n)
	}
	for _, p := range procs {
		if n := strings.Count(p.stderr.String(), "limits are not shared until"); n > 0 {
			t.Logf("the machine was so busy that Redis seemed away %d times: each time all counters are raised anew", n)
		}
	}
	t.Logf("altogether %d queries, %d reads", queries()-before, reads()-readsBefore)
}
