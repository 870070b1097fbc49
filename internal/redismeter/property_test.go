package redismeter_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"

	"helloapi/internal/backendtest"
	"helloapi/internal/limits"
	"helloapi/internal/plan"
	"helloapi/internal/redismeter"
)

// A model is what a key may do, decided one request after the other.
type model struct {
	key      string
	throttle plan.Throttle // of a rate at which no token comes in the test
	limit    int64
	tokens   map[plan.Throttle]int64 // left
	used     int64
	held     []limits.Taken
}

// take returns how many of n callers get a token, and of these a unit.
func (m *model) take(n int64) (through, granted int64) {
	if _, ok := m.tokens[m.throttle]; !ok {
		m.tokens[m.throttle] = m.throttle.Burst
	}
	through = min(n, m.tokens[m.throttle])
	m.tokens[m.throttle] -= through
	granted = min(through, max(0, m.limit-m.used))
	m.used += granted
	return through, granted
}

// Random crowds of callers, on some keys, over several clients of one Redis,
// with units returned and plans changed in between: as many are let through as
// by a model that decides one after the other.
//
// It is not run beside others: a trip that takes too long is an error.
func TestCrowdsAgreeWithModel(t *testing.T) {
	url := backendtest.RedisURL(t)
	clients := []*redismeter.Counters{open(t, url), open(t, url), open(t, url)}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := mathrand.New(mathrand.NewPCG(seed, 1))
	w, err := plan.Quota{Period: plan.Month}.Window(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	randomThrottle := func() plan.Throttle {
		return plan.Throttle{Rate: 1e-6 * float64(1+r.IntN(3)), Burst: 1 + r.Int64N(60)}
	}
	models := make([]*model, 4)
	for i := range models {
		models[i] = &model{key: rand.Text(), throttle: randomThrottle(), limit: 1 + r.Int64N(80), tokens: map[plan.Throttle]int64{}}
	}
	for round := range 60 {
		type result struct{ through, granted atomic.Int64 }
		results := make([]result, len(models))
		crowd := make([]int64, len(models))
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i, m := range models {
			crowd[i] = r.Int64N(50)
			for range crowd[i] {
				c := clients[r.IntN(len(clients))]
				request := limits.Request{KeyID: m.key, Throttle: &m.throttle, Window: w, Limit: m.limit, Cost: 1, Seed: &limits.Charged{}}
				wg.Go(func() {
					taken, err := c.Take(t.Context(), request)
					if err != nil {
						t.Error(err)
					}
					if taken.Outcome != limits.Throttled {
						results[i].through.Add(1)
					}
					if taken.Outcome == limits.Granted {
						results[i].granted.Add(1)
						mu.Lock()
						m.held = append(m.held, taken)
						mu.Unlock()
					}
				})
			}
		}
		wg.Wait()
		for i, m := range models {
			through, granted := m.take(crowd[i])
			if got := &results[i]; got.through.Load() != through || got.granted.Load() != granted {
				t.Fatalf("round %d: of %d callers %d had a token and %d a unit, want %d and %d",
					round, crowd[i], got.through.Load(), got.granted.Load(), through, granted)
			}
			// Some units are returned, all at once and anywhere.
			for range r.IntN(len(m.held) + 1) {
				taken := m.held[len(m.held)-1]
				m.held = m.held[:len(m.held)-1]
				m.used--
				c := clients[r.IntN(len(clients))]
				wg.Go(func() {
					if err := c.Return(t.Context(), taken); err != nil {
						t.Error(err)
					}
				})
			}
			if r.IntN(4) == 0 {
				m.limit = 1 + r.Int64N(80)
			}
			if r.IntN(3) == 0 {
				m.throttle = randomThrottle()
			}
		}
		wg.Wait()
	}
	for _, c := range clients {
		if s := c.Stats(); s.Calls < 2*s.Flushes {
			t.Errorf("%d calls took %d trips: they did not share any", s.Calls, s.Flushes)
		}
	}
}

// Callers who share a trip are let through as by so many calls of redis_rate's
// own Allow, decision by decision: here in turns, on two buckets of one kind,
// while Redis' clock is put forward. And both take from one bucket.
func TestAgreesWithRedisRate(t *testing.T) {
	s := backendtest.NewRedisWithClock(t)
	rdb := redis.NewClient(&redis.Options{Addr: s.Addr()})
	defer rdb.Close()
	single, c := redis_rate.NewLimiter(rdb), open(t, s.URL())
	// The same numbers as a plan's: so many in a thousand seconds.
	allow := func(bucket string, th plan.Throttle) int {
		t.Helper()
		limit := redis_rate.Limit{Rate: int(th.Rate * 1000), Burst: int(th.Burst), Period: 1000 * time.Second}
		if th.Rate < 1 {
			limit.Rate, limit.Period = 1, time.Duration(float64(time.Second)/th.Rate)
		}
		res, err := single.Allow(t.Context(), bucket, limit)
		if err != nil {
			t.Fatal(err)
		}
		return res.Allowed
	}
	// together takes n tokens at once; what is gathered behind a first one goes
	// as one command.
	together := func(key string, th plan.Throttle, n int) (through int) {
		t.Helper()
		var count atomic.Int64
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				taken, err := c.Take(t.Context(), limits.Request{KeyID: key, Throttle: &th})
				if err != nil {
					t.Error(err)
				}
				if taken.Outcome == limits.Granted {
					count.Add(1)
				}
			})
		}
		wg.Wait()
		return int(count.Load())
	}
	r := mathrand.New(mathrand.NewPCG(uint64(time.Now().UnixNano()), 2))
	now := time.Now()
	for _, th := range []plan.Throttle{{Rate: 0.01, Burst: 1}, {Rate: 0.01, Burst: 7}, {Rate: 0.003, Burst: 40}, {Rate: 0.007, Burst: 1000}} {
		key, other := rand.Text(), rand.Text()
		bucket := "{" + other + "}" // any
		shared := "{" + key + "}:" + strconv.FormatFloat(th.Rate, 'g', -1, 64) + ":" + strconv.FormatInt(th.Burst, 10)
		var all [2]int
		for i := range 40 {
			n := 1 + r.IntN(60)
			want := 0
			for range n {
				want += allow(bucket, th)
			}
			got := 0
			if i%3 == 2 { // some of them by the library itself, as the release before does
				for range n / 2 {
					got += allow(shared, th)
				}
				got += together(key, th, n-n/2)
			} else {
				got = together(key, th, n)
			}
			if got != want {
				t.Fatalf("%v: of %d %d were let through, by redis_rate %d", &th, n, got, want)
			}
			all[0], all[1] = all[0]+got, all[1]+want
			// Some tokens later: in the middle between two, so that what passes
			// in between decides nothing.
			interval := time.Duration(float64(time.Second) / th.Rate)
			now = now.Add(time.Duration(r.IntN(5))*interval + time.Second)
			s.SetClock(t, now)
		}
		t.Logf("%v: %d let through", &th, all[0])
	}
}

// Scripts of the release before, on the same counter: a rollout.
func TestBesideReleaseBefore(t *testing.T) {
	t.Parallel()
	url := backendtest.RedisURL(t)
	opts, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	rdb := redis.NewClient(opts)
	defer rdb.Close()
	script := func(name string) *redis.Script {
		b, err := os.ReadFile(filepath.Join("testdata", "before", name+".lua"))
		if err != nil {
			t.Fatal(err)
		}
		return redis.NewScript(string(b))
	}
	charge, raise, refund := script("charge"), script("raise"), script("refund")
	w, err := plan.Quota{Period: plan.Month}.Window(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	now := []*redismeter.Counters{open(t, url), open(t, url)}
	for _, first := range []string{"before", "now"} {
		key := rand.Text()
		counter := []string{fmt.Sprintf("quota:{%s}:%d-%d", key, w.Start.Unix(), w.End.Unix())}
		start, end := w.Start.UnixMilli(), w.End.UnixMilli()
		request := limits.Request{KeyID: key, Window: w, Limit: 1000, Cost: 1, Seed: &limits.Charged{}}
		if first == "before" {
			if err := raise.Run(t.Context(), rdb, counter, start, end, 0, rand.Text()).Err(); err != nil {
				t.Fatal(err)
			}
			request.Seed = nil
		}
		if _, err := now[0].Take(t.Context(), limits.Request{KeyID: key, Window: w, Limit: 1000, Seed: &limits.Charged{}}); err != nil {
			t.Fatal(err)
		}
		var kept atomic.Int64
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				for j := range 100 {
					returns := j%5 == 0
					if i%3 == 0 {
						reply, err := charge.Run(t.Context(), rdb, counter, start, end, 1000).Slice()
						if err != nil {
							t.Error(err)
							return
						}
						if reply[0] != int64(1) {
							continue
						}
						if returns {
							err = refund.Run(t.Context(), rdb, counter, reply[2]).Err()
						} else {
							kept.Add(1)
						}
						if err != nil {
							t.Error(err)
						}
						continue
					}
					taken, err := now[i%2].Take(t.Context(), request)
					if err != nil {
						t.Error(err)
						return
					}
					if taken.Outcome != limits.Granted {
						continue
					}
					if returns {
						err = now[(i+1)%2].Return(t.Context(), taken)
					} else {
						kept.Add(1)
					}
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if n := kept.Load(); n != 1000 {
			t.Errorf("made by the release %s: of a quota of 1000 %d were used", first, n)
		}
		if used, err := rdb.HGet(t.Context(), counter[0], "used").Int(); err != nil || used != 1000 {
			t.Errorf("the counter says %d, %v", used, err)
		}
	}
}

// What replicas took alone is added once, however often and by whomever it is
// said, and a counter that is lost gets it again.
func TestAlone(t *testing.T) {
	t.Parallel()
	s := backendtest.NewRedis(t)
	a, b := openAs(t, s.URL(), "a"), openAs(t, s.URL(), "b")
	w, err := plan.Quota{Period: plan.Month}.Window(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key := rand.Text()
	say := func(c *redismeter.Counters, alone int64, seed *limits.Charged, want int64) {
		t.Helper()
		n := new(atomic.Int64)
		n.Store(alone)
		taken, err := c.Take(t.Context(), limits.Request{KeyID: key, Window: w, Limit: 1000, Seed: seed, Alone: n})
		if err != nil || taken.Used != want || taken.Alone != alone {
			t.Errorf("%+v, %v; want %d used", taken, err, want)
		}
	}
	for range 2 {
		say(a, 0, &limits.Charged{Shared: 100}, 100)
		say(a, 10, nil, 110)
		for range 3 {
			say(b, 5, nil, 115)
			say(a, 10, nil, 115)
		}
		// The ledger is behind, and has one that has died.
		for range 2 {
			say(a, 10, &limits.Charged{Shared: 90, Alone: map[string]int64{"b": 3, "dead": 7}}, 122)
			say(b, 5, &limits.Charged{Shared: 100, Alone: map[string]int64{"a": 10, "dead": 7}}, 122)
		}
		say(a, 8, nil, 120) // two were returned
		say(b, 5, &limits.Charged{Shared: 101, Alone: map[string]int64{"a": 8}}, 121)
		s.Flush(t)
	}
	if taken, err := a.Take(t.Context(), limits.Request{KeyID: key, Window: w, Limit: 1000}); err != nil || taken.Outcome != limits.Unseeded {
		t.Errorf("%+v, %v", taken, err)
	}
}

// A Redis that answers but does not count is told from one that does not answer,
// and from a wrong password.
func TestCheckRefused(t *testing.T) {
	t.Parallel()
	s := backendtest.NewRedis(t, "--enable-protected-configs", "yes")
	c := open(t, s.URL())
	check := func(what string, want error) {
		t.Helper()
		err := c.Check(t.Context())
		if (want == nil) != (err == nil) || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	check("as it is", nil)
	for what, set := range map[string][2][]any{
		"OOM":        {{"CONFIG", "SET", "maxmemory", "1"}, {"CONFIG", "SET", "maxmemory", "0"}},
		"NOREPLICAS": {{"CONFIG", "SET", "min-replicas-to-write", "1"}, {"CONFIG", "SET", "min-replicas-to-write", "0"}},
		"READONLY":   {{"REPLICAOF", "127.0.0.1", "1"}, {"REPLICAOF", "NO", "ONE"}},
		"NOPERM":     {{"ACL", "SETUSER", "default", "-evalsha"}, {"ACL", "SETUSER", "default", "+@all"}},
		"no time":    {{"ACL", "SETUSER", "default", "-hset"}, {"ACL", "SETUSER", "default", "+@all"}},
	} {
		s.Do(t, set[0]...)
		check(what, limits.ErrRefused)
		s.Do(t, set[1]...)
		check("after "+what, nil)
	}
	s.Do(t, "CLIENT", "PAUSE", "1000", "WRITE")
	check("paused", limits.ErrAway)
	time.Sleep(1100 * time.Millisecond)
	check("after the pause", nil)
	// One without INFO is used all the same.
	s.Do(t, "ACL", "SETUSER", "default", "-info")
	check("without INFO", nil)
	s.Do(t, "ACL", "SETUSER", "default", "+@all")
	// One that can't save its snapshot refuses to write (MISCONF).
	dir := t.TempDir()
	s.Do(t, "CONFIG", "SET", "dir", dir)
	s.Do(t, "CONFIG", "SET", "save", "3600 1")
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	s.Do(t, "BGSAVE")
	for failed := false; !failed; time.Sleep(10 * time.Millisecond) {
		failed = strings.Contains(fmt.Sprint(s.Do(t, "INFO", "persistence")), "rdb_last_bgsave_status:err")
	}
	check("MISCONF", limits.ErrRefused)
	s.Do(t, "CONFIG", "SET", "save", "")
	check("after MISCONF", nil)
	renamed := backendtest.NewRedis(t, "--rename-command", "EVALSHA", "")
	c = open(t, renamed.URL())
	check("EVALSHA is renamed", limits.ErrRefused)
	locked := backendtest.NewRedis(t, "--requirepass", "another")
	c = open(t, locked.URL())
	check("a password is missing", limits.ErrLogin)
}
