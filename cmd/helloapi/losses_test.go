package main

import (
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"helloapi/internal/backendtest"
)

// Redis loses what it counted, in the middle of a crowd. What was charged in
// the last second may be forgiven, and no more.
func TestRedisLosesCounts(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args  []string                                   // of redis-server
		first func(testing.TB, *backendtest.RedisServer) // when 100 have been served
		lose  func(testing.TB, *backendtest.RedisServer)
	}{
		"Flushed": {
			lose: func(t testing.TB, r *backendtest.RedisServer) { r.Flush(t) },
		},
		"KilledAndEmpty": {
			lose: func(t testing.TB, r *backendtest.RedisServer) {
				r.Kill()
				r.Start(t)
			},
		},
		"AppendOnlyFile": {
			args: []string{"--appendonly", "yes", "--appendfsync", "everysec"},
			lose: func(t testing.TB, r *backendtest.RedisServer) {
				r.Kill()
				r.Start(t)
			},
		},
		"OldSnapshot": {
			first: func(t testing.TB, r *backendtest.RedisServer) { r.Do(t, "SAVE") },
			lose: func(t testing.TB, r *backendtest.RedisServer) {
				r.Kill()
				r.Start(t)
			},
		},
		"Frozen": {
			lose: func(_ testing.TB, r *backendtest.RedisServer) {
				r.Freeze()
				time.Sleep(2 * time.Second)
				r.Thaw()
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redis := backendtest.NewRedis(t, test.args...)
			c := newLossCase(t, redis.URL())
			if test.first != nil {
				test.first(t, redis)
			}
			c.loses(t, func() { test.lose(t, redis) })
		})
	}
	t.Run("SentinelFailover", func(t *testing.T) {
		t.Parallel()
		s := backendtest.NewRedisSentinel(t, 3)
		c := newLossCase(t, s.URL())
		s.HurryFailover(t)
		c.loses(t, s.Master.Kill)
	})
	// A replica that has lagged behind takes over: more is lost than what was
	// on its way.
	t.Run("SentinelFailoverToOld", func(t *testing.T) {
		t.Parallel()
		s := backendtest.NewRedisSentinel(t, 3)
		c := newLossCase(t, s.URL())
		s.HurryFailover(t)
		c.loses(t, func() {
			s.Replica.Freeze()
			time.Sleep(1200 * time.Millisecond)
			s.Master.Kill()
			s.Replica.Thaw()
		})
	})
	t.Run("ClusterFailover", func(t *testing.T) {
		t.Parallel()
		cluster := backendtest.NewRedisCluster(t, 3, true)
		c := newLossCase(t, cluster.URL())
		master := cluster.Master(t, "{"+c.keyID+"}")
		cluster.HurryFailover(t)
		c.loses(t, master.Kill)
	})
}

// A lossCase is a deployment of three processes with a key that may use a
// thousand, and has used a hundred.
type lossCase struct {
	procs      []*process
	key, keyID string
}

func newLossCase(t testing.TB, redis string) *lossCase {
	t.Helper()
	db := backendtest.Postgres(t)
	c := &lossCase{}
	for range 3 {
		c.procs = append(c.procs, start(t, t.TempDir(), "DATABASE_URL="+db, "REDIS_URL="+redis))
	}
	backendtest.Exec(t, db, `INSERT INTO plans (name, quota_limit, quota_period) VALUES ('thousand', 1000, 'MONTH')`)
	c.key = must(t, db, "keys", "create", "k", "--plan", "thousand")
	if err := backendtest.SQL(t, db).QueryRow(`SELECT id FROM api_keys`).Scan(&c.keyID); err != nil {
		t.Fatal(err)
	}
	first := &crowd{n: map[int]int{}}
	first.send(t, c.procs, 100, 10, c.key)
	if first.n[http.StatusOK] != 100 {
		t.Fatalf("before: %v", first.n)
	}
	return c
}

// loses sends 3,000 requests within about ten seconds, some of them bad ones,
// has Redis lose its counts when 400 were served, and checks how many are.
func (c *lossCase) loses(t testing.TB, lose func()) {
	t.Helper()
	var mu sync.Mutex
	var served []time.Time
	answers := map[string]int{}
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			for j := range 100 {
				query := "?name=crowd"
				if j%10 == 9 {
					query = "?name=%zz" // has a unit that is given back
				}
				a := get(t, "http://"+c.procs[(i+j)%3].addr+"/hello"+query, c.key)
				mu.Lock()
				answers[strconv.Itoa(a.status)]++
				if a.status == http.StatusOK {
					served = append(served, time.Now())
				}
				mu.Unlock()
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
	waitFor(t, "400 to be served", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(served) >= 400
	})
	lose()
	wg.Wait()

	total := 100 + len(served)
	inSecond := mostInSecond(served)
	t.Logf("a quota of 1000 served %d; %d at most in a second; answers: %v", total, inSecond, answers)
	if total < 1000 || total > 1000+inSecond {
		t.Errorf("a quota of 1000 served %d, want 1000 to %d", total, 1000+inSecond)
	}
	c.agrees(t, total)
	if a := get(t, "http://"+c.procs[0].addr+"/hello", c.key); a.status != http.StatusTooManyRequests {
		t.Errorf("afterwards: %d %s", a.status, a.body)
	}
}

// agrees checks that GET /usage of every process says what clients saw.
func (c *lossCase) agrees(t testing.TB, served int) {
	t.Helper()
	time.Sleep(1200 * time.Millisecond) // till the ledger has all
	for _, p := range c.procs {
		if used := usedToday(t, p, c.key); used != served {
			t.Errorf("GET /usage says %d, clients saw %d", used, served)
		}
	}
}

// greet sends a request to a process that may be killed meanwhile.
func greet(t testing.TB, p *process, key string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.addr+"/hello?name=crowd", nil)
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("x-api-key", key)
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// mostInSecond returns the most of the instants that are within a second.
func mostInSecond(at []time.Time) (most int) {
	slices.SortFunc(at, time.Time.Compare)
	for i, j := 0, 0; i < len(at); i++ {
		for at[i].Sub(at[j]) > time.Second {
			j++
		}
		most = max(most, i-j+1)
	}
	return most
}

// The one process of a SQLite file that is killed may forget its last second,
// and gives no number twice.
func TestSQLiteKilled(t *testing.T) {
	t.Parallel()
	db := backendtest.SQLite(t)
	serve := func() *process { return start(t, t.TempDir(), "DATABASE_URL="+db) }
	p := serve()
	backendtest.Exec(t, db, `INSERT INTO plans (name, quota_limit, quota_period) VALUES ('thousand', 1000, 'MONTH')`)
	key := must(t, db, "keys", "create", "k", "--plan", "thousand")

	var mu sync.Mutex
	var served []time.Time
	numbers := map[string]bool{}
	send := func(n, atOnce int) {
		var wg sync.WaitGroup
		for range atOnce {
			wg.Go(func() {
				for range n / atOnce {
					status, body, err := greet(t, p, key)
					if err != nil {
						return // it was killed
					}
					mu.Lock()
					if status == http.StatusOK {
						served = append(served, time.Now())
						if numbers[body] {
							t.Errorf("answered twice: %s", body)
						}
						numbers[body] = true
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
	}
	for range 3 {
		done := make(chan struct{})
		begin := len(served)
		go func() {
			defer close(done)
			send(300, 5)
		}()
		waitFor(t, "100 to be served", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(served) >= begin+100
		})
		_ = p.cmd.Process.Kill()
		<-done
		_ = p.wait(t)
		p = serve()
	}
	send(1500, 10)
	inSecond := mostInSecond(served)
	t.Logf("through three kills a quota of 1000 served %d, %d at most in a second", len(served), inSecond)
	// Each kill forgets a second, and may keep what it did not answer.
	if most, least := 1000+3*inSecond, 1000-3*5; len(served) < least || len(served) > most {
		t.Errorf("a quota of 1000 served %d, want %d to %d", len(served), least, most)
	}
}

// A process that is killed takes along what it charged since its last write, as
// far as the ledger goes. Redis has it all.
func TestReplicaKilled(t *testing.T) {
	t.Parallel()
	redis := backendtest.NewRedis(t)
	c := newLossCase(t, redis.URL())
	const inFlight = 10 // of each process
	// What was charged before is written within about a second.
	before := &crowd{n: map[int]int{}}
	before.send(t, c.procs, 150, 10, c.key)
	total := 100 + before.n[http.StatusOK]
	charged := time.Now()
	waitFor(t, "the ledger to be written", func() bool { return usedToday(t, c.procs[1], c.key) == total })
	t.Logf("%d were in the ledger after %v", total, time.Since(charged))

	var mu sync.Mutex
	served := map[int]int{} // by process
	var wg sync.WaitGroup
	kill := make(chan struct{})
	killNow := sync.OnceFunc(func() { close(kill) })
	for i, p := range c.procs {
		for range inFlight {
			wg.Go(func() {
				for range 15 {
					// Of the process that is killed some get no answer.
					status, _, err := greet(t, p, c.key)
					if err != nil {
						return
					}
					mu.Lock()
					if status == http.StatusOK {
						served[i]++
					}
					n := served[0]
					mu.Unlock()
					if n >= 100 {
						killNow()
					}
					time.Sleep(20 * time.Millisecond)
				}
			})
		}
	}
	<-kill
	_ = c.procs[0].cmd.Process.Kill()
	wg.Wait()
	c.procs = c.procs[1:]
	last := served[0]
	total += served[0] + served[1] + served[2]
	counters, _ := redis.Do(t, "KEYS", "quota:{"+c.keyID+"}:*").([]any)
	if len(counters) != 1 {
		t.Fatalf("counters: %v", counters)
	}
	used, err := strconv.Atoi(redis.Do(t, "HGET", counters[0], "used").(string))
	if err != nil || used < total || used > total+inFlight {
		t.Errorf("Redis says %d, %v; clients saw %d, and of up to %d requests they don't know", used, err, total, inFlight)
	}
	time.Sleep(1200 * time.Millisecond)
	ledger := usedToday(t, c.procs[0], c.key)
	t.Logf("clients saw %d, Redis says %d, the ledger %d; the killed one served %d since", total, used, ledger, last)
	if ledger > used || ledger < total-last {
		t.Errorf("the ledger says %d, want %d to %d", ledger, total-last, used)
	}
	// The quota is held by what Redis says.
	rest := &crowd{n: map[int]int{}}
	rest.send(t, c.procs, 1000, 20, c.key)
	if rest.n[http.StatusOK] != 1000-used {
		t.Errorf("of %d left: %v", 1000-used, rest.n)
	}
}
