package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"helloapi/internal/backendtest"
)

// Redis does not answer, or refuses to count, for a while, under a steady load
// on three replicas, with quotas that end during it, right after it, and five
// seconds after it. During it no more is served than is said, and from two
// seconds after its return not one more than the limit.
//
// It is not run beside others: it keeps the machine busy. An outage of 10 seconds
// is part of make test-long.
func TestRedisOutage(t *testing.T) {
	const rate = 900 // requests a second, a third of them with each key
	for how, set := range map[string]struct {
		begin, end func(testing.TB, *backendtest.RedisServer)
	}{
		"Stopped": {
			func(_ testing.TB, s *backendtest.RedisServer) { s.Freeze() },
			func(_ testing.TB, s *backendtest.RedisServer) { s.Thaw() },
		},
		"RefusingWrites": {
			func(t testing.TB, s *backendtest.RedisServer) { s.Do(t, "CONFIG", "SET", "maxmemory", "1") },
			func(t testing.TB, s *backendtest.RedisServer) { s.Do(t, "CONFIG", "SET", "maxmemory", "0") },
		},
	} {
		for _, length := range outages {
			t.Run(fmt.Sprint(how, length), func(t *testing.T) {
				db := backendtest.Postgres(t)
				server := backendtest.NewRedis(t)
				var procs []*process
				for range 3 {
					procs = append(procs, start(t, t.TempDir(), "DATABASE_URL="+db, "REDIS_URL="+server.URL()))
				}
				const before = 2 * time.Second
				perSecond := rate / 3.0
				limits := []int{
					int(perSecond * (before + length/2).Seconds()),
					int(perSecond*(before+length).Seconds()) + 30,
					int(perSecond * (before + length + 5*time.Second).Seconds()),
				}
				keys := make([]string, len(limits))
				for i, limit := range limits {
					backendtest.Exec(t, db, fmt.Sprintf(`INSERT INTO plans (name, quota_limit, quota_period) VALUES ('p%d', %d, 'MONTH')`, i, limit))
					keys[i] = must(t, db, "keys", "create", fmt.Sprint("k", i), "--plan", fmt.Sprint("p", i))
				}
				var mu sync.Mutex
				served := make([]int, len(keys))
				count := func() []int {
					mu.Lock()
					defer mu.Unlock()
					return append([]int{}, served...)
				}
				ctx, stop := context.WithCancel(t.Context())
				var load sync.WaitGroup
				load.Go(func() {
					ticks := time.NewTicker(10 * time.Millisecond)
					defer ticks.Stop()
					for n := 0; ctx.Err() == nil; <-ticks.C {
						for range rate / 100 {
							key, p := n%3, procs[(n/3)%3]
							n++
							load.Go(func() {
								if status, _, err := greet(t, p, keys[key]); err == nil && status == http.StatusOK {
									mu.Lock()
									served[key]++
									mu.Unlock()
								}
							})
						}
					}
				})
				time.Sleep(before)
				atBegin := count()
				set.begin(t, server)
				time.Sleep(length)
				set.end(t, server)
				atEnd := count()
				time.Sleep(2 * time.Second)
				exact := count()
				for i, p := range procs { // one line when it begins, and one when it ends
					log := p.stderr.String()
					if began, ended := strings.Count(log, "limits are not shared until"), strings.Count(log, "limits are shared"); began != 1 || ended != 1 {
						t.Errorf("process %d: it began %d times and ended %d times", i, began, ended)
					}
				}
				for begin := time.Now(); time.Since(begin) < 25*time.Second; time.Sleep(100 * time.Millisecond) {
					if now := count(); now[0] >= limits[0] && now[1] >= limits[1] && now[2] >= limits[2] {
						break
					}
				}
				time.Sleep(time.Second)
				stop()
				load.Wait()
				final := count()
				t.Logf("limits %v; served when it began %v, when it ended %v, 2 s later %v, at last %v", limits, atBegin, atEnd, exact, final)
				for i, limit := range limits {
					// Each of two others may let a fifth of what is left through unseen.
					left := max(0, limit-atBegin[i])
					if most := limit + max(4, 2*left/5); final[i] > most {
						t.Errorf("a quota of %d served %d, want up to %d", limit, final[i], most)
					}
					if most := max(limit, exact[i]); final[i] != most {
						t.Errorf("a quota of %d had served %d two seconds after the return, and served %d, want %d", limit, exact[i], final[i], most)
					}
				}
			})
		}
	}
}
