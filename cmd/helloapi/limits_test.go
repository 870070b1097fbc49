package main

import (
	"encoding/json"
	"net/http"
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
	for _, name := range []string{"Refused", "BlackHoled", "Frozen", "Slow"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := backendtest.Postgres(t)
			server := backendtest.NewRedis(t)
			proxy, redis := backendtest.NewProxy(t, server.URL())
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
			case "Frozen":
				server.Freeze()
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
			for _, p := range procs { // it is away from all of them
				if a := get(t, "http://"+p.admin+"/readyz", ""); a.status != http.StatusOK {
					t.Errorf("ready: %d %s", a.status, a.body)
				}
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

			server.Thaw()
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

// A replica that Redis is away from, while it answers others, is not ready till
// it is back. It need not be asked anything to find out.
func TestRedisAwayFromOne(t *testing.T) {
	t.Parallel()
	db := backendtest.Postgres(t)
	proxy, cut := backendtest.NewProxy(t, backendtest.RedisURL(t))
	one := start(t, t.TempDir(), "DATABASE_URL="+db, "REDIS_URL="+cut)
	other := start(t, t.TempDir(), "DATABASE_URL="+db, "REDIS_URL="+backendtest.RedisURL(t))
	ready := func(p *process) answer { return get(t, "http://"+p.admin+"/readyz", "") }
	time.Sleep(1500 * time.Millisecond) // till both have said that they reach it
	for _, away := range []func(){proxy.Refuse, proxy.Hold} {
		away()
		var a answer
		begin := time.Now()
		waitFor(t, "the replica not to be ready", func() bool { a = ready(one); return a.status != http.StatusOK })
		t.Logf("not ready after %v", time.Since(begin))
		if a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, "others") {
			t.Errorf("not ready: %d %s", a.status, a.body)
		}
		if a := ready(other); a.status != http.StatusOK {
			t.Errorf("the other: %d %s", a.status, a.body)
		}
		proxy.Pass(t)
		waitFor(t, "the replica to be ready", func() bool { return ready(one).status == http.StatusOK })
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
	if a := get(t, "http://"+p.admin+"/readyz", ""); a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, "without Redis") {
		t.Errorf("ready: %d %s", a.status, a.body)
	}
	proxy.Pass(t)
	begin := time.Now()
	waitFor(t, "Redis to be back", func() bool { return get(t, "http://"+p.addr+"/hello", key).status == http.StatusOK })
	if d := time.Since(begin); d > 2*time.Second {
		t.Errorf("back only after %v", d)
	}
}
