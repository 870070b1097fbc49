package main

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"helloapi/internal/backendtest"
)

// A crowd sends requests with one key to all processes, and counts what they
// are answered.
type crowd struct {
	mu      sync.Mutex
	n       map[int]int   // answers by status
	slowest time.Duration // of them
}

// send sends n requests, some at a time.
func (c *crowd) send(t testing.TB, procs []*process, n, atOnce int, key string) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range atOnce {
		wg.Go(func() {
			for j := i; j < n; j += atOnce {
				begin := time.Now()
				a := get(t, "http://"+procs[j%len(procs)].addr+"/hello?name=crowd", key)
				took := time.Since(begin)
				c.mu.Lock()
				c.n[a.status]++
				c.slowest = max(c.slowest, took)
				c.mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// usedToday is what GET /usage says.
func usedToday(t testing.TB, p *process, key string) int {
	t.Helper()
	var u struct{ Quota struct{ Used int } }
	a := get(t, "http://"+p.addr+"/usage", key)
	if err := json.Unmarshal([]byte(a.body), &u); err != nil {
		t.Fatalf("GET /usage: %d %s", a.status, a.body)
	}
	return u.Quota.Used
}

func TestRedisAway(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Refused", "BlackHoled", "Slow"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := backendtest.Postgres(t)
			proxy, redis := backendtest.NewProxy(t, backendtest.RedisURL(t))
			var procs []*process
			for range 3 {
				procs = append(procs, start(t, t.TempDir(), "DATABASE_URL="+db, "REDIS_URL="+redis))
			}
			backendtest.Exec(t, db, `INSERT INTO plans (name, quota_limit, quota_period) VALUES ('thousand', 1000, 'MONTH')`)
			key := must(t, db, "keys", "create", "k", "--plan", "thousand")
			all := &crowd{n: map[int]int{}}
			all.send(t, procs, 100, 10, key)
			if all.n[http.StatusOK] != 100 {
				t.Fatalf("before: %v", all.n)
			}
			time.Sleep(1200 * time.Millisecond) // till the ledger has them

			switch name {
			case "Refused":
				proxy.Refuse()
			case "BlackHoled":
				proxy.Hold()
			case "Slow":
				proxy.Delay(500 * time.Millisecond)
			}
			// The first to notice, of each process.
			noticing := &crowd{n: all.n}
			noticing.send(t, procs, 3, 3, key)
			if noticing.slowest > 450*time.Millisecond { // 250 ms for Redis, the rest for this machine
				t.Errorf("a request waited %v for a Redis that is away", noticing.slowest)
			}
			for _, p := range procs {
				if got := p.metric(t, "helloapi_limits_away"); got != "1" {
					t.Errorf("helloapi_limits_away is %s", got)
				}
				if a := get(t, "http://"+p.admin+"/readyz", ""); a.status != http.StatusOK {
					t.Errorf("ready: %d %s", a.status, a.body)
				}
			}
			// Limits go on: some are served at once, and never many too many.
			away := &crowd{n: map[int]int{}}
			for begin := time.Now(); time.Since(begin) < 6*time.Second; {
				away.send(t, procs, 300, 12, key)
			}
			left := 1000 - all.n[http.StatusOK]
			t.Logf("of %d left, with Redis away: %v; the slowest took %v", left, away.n, away.slowest)
			served := away.n[http.StatusOK]
			if most := left + 2*left/5; served < left/2 || served > most {
				t.Errorf("served %d of %d left, want up to %d", served, left, most)
			}
			for status := range away.n {
				if status != http.StatusOK && status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable {
					t.Errorf("answered %d", status)
				}
			}

			proxy.Delay(0)
			proxy.Pass(t)
			waitFor(t, "Redis to be back", func() bool {
				for _, p := range procs {
					if p.metric(t, "helloapi_limits_away") != "0" {
						return false
					}
				}
				return true
			})
			time.Sleep(2 * time.Second)
			// Exact again: what is left is served, and nothing more.
			total := all.n[http.StatusOK] + served
			after := &crowd{n: map[int]int{}}
			after.send(t, procs, 1000, 30, key)
			if want := max(0, 1000-total); after.n[http.StatusOK] != want || after.n[http.StatusTooManyRequests] != 1000-want {
				t.Errorf("afterwards, with %d left: %v", want, after.n)
			}
			// The ledger has what clients saw.
			total += after.n[http.StatusOK]
			time.Sleep(1200 * time.Millisecond)
			if used := usedToday(t, procs[0], key); used != total {
				t.Errorf("GET /usage says %d, clients saw %d", used, total)
			}
		})
	}
}

func TestRedisAwayDeny(t *testing.T) {
	t.Parallel()
	db := backendtest.Postgres(t)
	proxy, redis := backendtest.NewProxy(t, backendtest.RedisURL(t))
	p := start(t, t.TempDir(), "DATABASE_URL="+db, "REDIS_URL="+redis, "METER_ON_ERROR=deny")
	key := must(t, db, "keys", "create", "k", "--plan", "paid")
	if a := get(t, "http://"+p.addr+"/hello", key); a.status != http.StatusOK {
		t.Fatalf("before: %d %s", a.status, a.body)
	}
	proxy.Refuse()
	for range 5 {
		if a := get(t, "http://"+p.addr+"/hello", key); a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") != "1" {
			t.Errorf("with Redis away: %d, Retry-After %q", a.status, a.header.Get("Retry-After"))
		}
	}
	if a := get(t, "http://"+p.admin+"/readyz", ""); a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, "redis") {
		t.Errorf("ready: %d %s", a.status, a.body)
	}
	proxy.Pass(t)
	begin := time.Now()
	waitFor(t, "Redis to be back", func() bool { return get(t, "http://"+p.addr+"/hello", key).status == http.StatusOK })
	if d := time.Since(begin); d > 2*time.Second {
		t.Errorf("back only after %v", d)
	}
}

// Redis loses what it counted, in the middle of a crowd. What was charged in
// the last second may be forgiven, and no more.
func TestRedisLosesCounts(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(testing.TB, *backendtest.RedisServer){
		"Flushed": func(t testing.TB, r *backendtest.RedisServer) { r.Flush(t) },
		"KilledAndEmpty": func(t testing.TB, r *backendtest.RedisServer) {
			r.Kill()
			r.Start(t)
		},
		"OldSnapshot": func(t testing.TB, r *backendtest.RedisServer) {
			r.Kill() // after the snapshot of the beginning
			r.Start(t)
		},
		"Frozen": func(_ testing.TB, r *backendtest.RedisServer) {
			r.Freeze()
			time.Sleep(2 * time.Second)
			r.Thaw()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := backendtest.Postgres(t)
			redis := backendtest.NewRedis(t)
			var procs []*process
			for range 3 {
				procs = append(procs, start(t, t.TempDir(), "DATABASE_URL="+db, "REDIS_URL="+redis.URL()))
			}
			backendtest.Exec(t, db, `INSERT INTO plans (name, quota_limit, quota_period) VALUES ('thousand', 1000, 'MONTH')`)
			key := must(t, db, "keys", "create", "k", "--plan", "thousand")
			first := &crowd{n: map[int]int{}}
			first.send(t, procs, 100, 10, key)
			if name == "OldSnapshot" {
				redis.Do(t, "SAVE")
			}

			// 3,000 requests within about ten seconds, and when each was served.
			var mu sync.Mutex
			var served []time.Time
			statuses := map[int]int{}
			var wg sync.WaitGroup
			for i := range 30 {
				wg.Go(func() {
					for j := range 100 {
						a := get(t, "http://"+procs[(i+j)%3].addr+"/hello?name=crowd", key)
						mu.Lock()
						statuses[a.status]++
						if a.status == http.StatusOK {
							served = append(served, time.Now())
						}
						mu.Unlock()
						time.Sleep(100 * time.Millisecond)
					}
				})
			}
			waitFor(t, "500 to be served", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(served) >= 500
			})
			lose(t, redis)
			wg.Wait()

			slices.SortFunc(served, time.Time.Compare)
			inSecond := 0 // the most that were served in any second
			for i, j := 0, 0; i < len(served); i++ {
				for served[i].Sub(served[j]) > time.Second {
					j++
				}
				inSecond = max(inSecond, i-j+1)
			}
			total := 100 + len(served)
			t.Logf("a quota of 1000 served %d; %d at most in a second; answers: %v", total, inSecond, statuses)
			if total < 1000 || total > 1000+inSecond {
				t.Errorf("a quota of 1000 served %d, want 1000 to %d", total, 1000+inSecond)
			}
			time.Sleep(1200 * time.Millisecond) // till the ledger has all
			for _, p := range procs {
				if used := usedToday(t, p, key); used != total {
					t.Errorf("GET /usage says %d, clients saw %d", used, total)
				}
			}
			if a := get(t, "http://"+procs[0].addr+"/hello", key); a.status != http.StatusTooManyRequests {
				t.Errorf("afterwards: %d %s", a.status, a.body)
			}
		})
	}
}
