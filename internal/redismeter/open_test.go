package redismeter_test

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"helloapi/internal/backendtest"
	"helloapi/internal/limits"
	"helloapi/internal/plan"
	"helloapi/internal/redismeter"
)

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]string{
		"":                            "must be like redis://",
		"secret":                      "must be like redis://",
		"host:6379":                   "must be like redis://",
		"http://:secret@h":            "redis+cluster://user:password@host1:6379,host2:6379",
		"rediss+http://:secret@h":     "redis+sentinel://user:password@host1:26379,host2:26379/mymaster/0",
		"redis+://:secret@h":          "must be like redis://",
		"redis-sentinel://h:26379/m":  "must be like redis://",
		"redis://":                    "a host is missing",
		"redis://:secret@":            "a host is missing",
		"redis://:secret@:6379":       "a host is missing",
		"redis://:secret@/0":          "a host is missing",
		"redis://:secret@h:port":      "not host:port",
		"redis://:secret@h:0":         "not host:port",
		"redis://:secret@h:65536":     "not host:port",
		"redis://:secret@::1":         "not host:port",
		"redis://:secret@h h":         "not host:port",
		"redis://:sec/secret@h":       "/ as %2F",
		"redis://u:sec?secret@h":      "/ as %2F",
		"redis://:sec@secret@h":       "@ as %40",
		"redis://:12/secret@h":        "/ as %2F",
		"redis://u:sec@secret,s@h":    "@ as %40",
		"redis://u:p@h:1/secret@i":    "@ as %40",
		"redis://h_1,secret@h":        "user but no password",
		"redis+sentinel://:p@h/s@i/0": "@ as %40",
		"redis://:secret#secret@h":    "# as %23",
		"redis://:secret%zz@h":        "% as %25",
		"redis://:secret @h":          "percent-encode",
		"redis://:secret\n@h":         "percent-encode",
		"redis://secret@h":            "user but no password",
		"redis://secret:@h":           "user but no password",
		"redis://:secret@h/secret":    "number of a database",
		"redis://:secret@h/-1":        "number of a database",
		"redis://:secret@h/0/0":       "number of a database",
		"redis://:secret@h,i":         "several hosts",
		"redis://:secret@h?secret":    "the options are",
		"redis://:secret@h?%zz":       "name=value",
		"redis://h?max_retries=3":     "the options are",
		"redis://h?ca_file=x":         "the options are ca_file, cert_file, key_file and server_name with rediss",
		"rediss://h?skip_verify=true": "the options are",
		"rediss://:secret@h:port":     "must be like rediss://",
		"rediss://:secret@h?ca_file=" + empty + "&ca_file=" + empty: "once at most",
		"rediss://:secret@h?ca_file=/no/such":                       "REDIS_URL: ca_file: open /no/such",
		"rediss://:secret@h?ca_file=" + empty:                       "no certificate",
		"rediss://:secret@h?cert_file=" + empty:                     "cert_file and key_file",
		"rediss://:secret@h?key_file=/no/such":                      "cert_file and key_file",
		"rediss://:secret@h?sentinel_password=secret":               "the options are",
		"redis+cluster://:secret@h:1,":                              "a host is missing",
		"redis+cluster://:secret@h:1,,i":                            "a host is missing",
		"redis+cluster://:secret@h:1,i:port":                        "must be like redis+cluster://",
		"redis+cluster://:secret@h:1,i:2/1":                         "only database 0",
		"redis+sentinel://:secret@h:1,i:2":                          "name is missing",
		"redis+sentinel://:secret@h:1,i:2/":                         "name is missing",
		"redis+sentinel://:secret@h:1,i:2/m/n":                      "number of a database",
		"redis+sentinel://h/m?sentinel_password=":                   "the options are",
		"redis+sentinel://h/m?sentinel_username=secret":             "no sentinel_password",
		"rediss+sentinel://:secret@h:1,i:2/m/0/0":                   "must be like rediss+sentinel://user:password@host1:26379,host2:26379/mymaster/0",
	} {
		l, err := redismeter.Open(url, "r", time.Now)
		if err == nil {
			l.Close()
			t.Errorf("%q was opened", url)
			continue
		}
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v; want an error with %q, without a secret", url, err, want)
		}
	}
}

func TestOpenAccepts(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"redis://localhost", "REDIS://localhost:1/", "redis://:@[::1]/0", "redis://u:p%40s:s,w@[::1]:1/15", "redis://project_redis_1",
		"redis+cluster://localhost", "redis+cluster://u:secret@[::1]:1,localhost,127.0.0.1:2/0", "rediss+cluster://localhost/?server_name=redis.example",
		"redis+sentinel://localhost/m", "rediss+sentinel://:secret@localhost,[::1]:1/m/2?sentinel_username=u&sentinel_password=secret",
	} {
		open(t, url) // which does not wait for a Redis
	}
}

// The user, the password and the database of a URL are what it says.
func TestLogin(t *testing.T) {
	t.Parallel()
	s := backendtest.NewRedis(t, "--requirepass", "another")
	password := "/?#%@:,&=+ secret"
	s.Do(t, "ACL", "SETUSER", "alice", "on", ">"+password, "~*", "+@all")
	at := "@" + s.Addr() + "/3"
	escaped := strings.ReplaceAll(url.QueryEscape(password), "+", "%20")
	l := open(t, "redis://alice:"+escaped+at)
	newTally().charge(t, l)
	if keys := s.Do(t, "INFO", "keyspace").(string); !strings.Contains(keys, "db3:") || strings.Contains(keys, "db0:") {
		t.Errorf("the counter is not in database 3: %s", keys)
	}
	for name, url := range map[string]string{
		"another password": "redis://alice:sesame" + at,
		"another user":     "redis://bob:" + escaped + at,
		"no password":      "redis://" + at[1:],
		"no such database": "redis://:another@" + s.Addr() + "/99",
	} {
		refused(t, name, url)
	}
}

// refused checks that a limiter that is refused says so in all it does.
func refused(t *testing.T, name, url string) {
	t.Helper()
	l, err := redismeter.Open(url, "r", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	q := plan.Quota{Limit: 1, Period: plan.Day}
	w, err := q.Window(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	unit := limits.Taken{KeyID: "k", Window: w, Epoch: "e", Cost: 1}
	_, unitErr := l.Take(t.Context(), limits.Request{KeyID: "k", Window: w, Limit: 1, Cost: 1, Seed: &limits.Charged{}})
	_, tokenErr := l.Take(t.Context(), limits.Request{KeyID: "k", Throttle: &plan.Throttle{Rate: 1, Burst: 1}})
	for what, err := range map[string]error{
		"Check":  l.Check(t.Context()),
		"unit":   unitErr,
		"token":  tokenErr,
		"Return": l.Return(t.Context(), unit),
	} {
		if err == nil || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "sesame") || strings.Contains(err.Error(), "unexpected") {
			t.Errorf("%s: %s: %v; want the server's refusal, without a secret", name, what, err)
		}
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	args, options := backendtest.RedisTLS(t)
	s := backendtest.NewRedis(t, args...)
	conforms(t, s.URL()+options)

	byName := strings.Replace(s.URL(), "127.0.0.1", "localhost", 1) + options
	newTally().charge(t, open(t, byName+"&server_name=127.0.0.1"))
	refused(t, "another name than the certificate's", byName)
	refused(t, "an unknown CA", s.URL())
	refused(t, "no certificate to show", s.URL()+options[:strings.IndexByte(options, '&')])
}

func TestSentinel(t *testing.T) {
	t.Parallel()
	r := backendtest.NewRedisSentinel(t, 3, "--requirepass", "secret")
	// The first Sentinel is away.
	hosts := strings.Replace(r.URL(), "redis+sentinel://", ":secret@127.0.0.1:1,", 1)
	url := "redis+sentinel://" + hosts + "?sentinel_password=secret"
	conforms(t, url)
	refused(t, "another master", strings.Replace(url, "/mymaster/", "/another/", 1))
	refused(t, "another password for the Sentinels", strings.Replace(url, "=secret", "=sesame", 1))
	failsOver(t, url, func(string) *backendtest.RedisServer { return r.Master }, r.HurryFailover)
}

func TestCluster(t *testing.T) {
	t.Parallel()
	c := backendtest.NewRedisCluster(t, 3, true)
	conforms(t, c.URL())
	t.Run("Redirects", func(t *testing.T) { testRedirects(t, c) })
	failsOver(t, c.URL(), func(key string) *backendtest.RedisServer { return c.Master(t, "{"+key+"}") }, c.HurryFailover)
}

// All that is called is called by TLS.
func TestTopologiesByTLS(t *testing.T) {
	t.Parallel()
	args, options := backendtest.RedisTLS(t)
	for name, url := range map[string]string{
		"cluster":   backendtest.NewRedisCluster(t, 1, false, args...).URL(),
		"Sentinels": backendtest.NewRedisSentinel(t, 1, args...).URL(),
	} {
		if !strings.HasPrefix(url, "rediss+") {
			t.Errorf("%s: %s", name, url)
		}
		l := open(t, url+options)
		newTally().charge(t, l)
		pings(t, l)
	}
}

func conforms(t *testing.T, url string) {
	t.Helper()
	var replicas []limits.Counters
	for range 3 {
		l := open(t, url)
		pings(t, l)
		newTally().charge(t, l)
		replicas = append(replicas, l)
	}
	t.Run("Counters", func(t *testing.T) {
		backendtest.TestCounters(t, func(testing.TB) []limits.Counters { return replicas })
	})
}

// failsOver kills the master that has a key, and checks that the limiter soon
// counts on with what takes its place.
func failsOver(t *testing.T, url string, masterOf func(key string) *backendtest.RedisServer, hurry func(testing.TB)) {
	t.Run("Failover", func(t *testing.T) {
		l, idle, y := open(t, url), open(t, url), newTally()
		for range 5 {
			y.charge(t, l)
		}
		pings(t, idle)
		losses := idle.Generation()
		master := masterOf(y.key)
		// The replica has what was charged when it has what was set after that.
		master.Do(t, "SET", "{"+y.key+"}", "x")
		if n := master.Do(t, "WAIT", 1, 10_000); n != int64(1) {
			t.Fatalf("%v replicas", n)
		}
		hurry(t)
		master.Kill()

		killed := time.Now()
		y.charge(t, l)
		t.Logf("counts again after %v", time.Since(killed))
		if _, err := l.Take(t.Context(), limits.Request{KeyID: y.key, Throttle: &plan.Throttle{Rate: 1, Burst: 1}}); err != nil {
			t.Error(err)
		}
		pings(t, l)
		// One that charges nothing sees that counters may have been lost, too.
		eventually(t, "an idle limiter to notice", func() error {
			if err := idle.Check(t.Context()); err != nil {
				return err
			}
			if idle.Generation() == losses {
				return errors.New("no loss")
			}
			return nil
		})
	})
}

// Time is Redis' as soon as it was heard of, and that of the clock before.
func TestNow(t *testing.T) {
	t.Parallel()
	long := time.Now().AddDate(-10, 0, 0)
	for _, url := range []string{backendtest.RedisURL(t), "redis://127.0.0.1:1"} {
		l, err := redismeter.Open(url, "r", func() time.Time { return long })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.Close)
		if err := l.Check(t.Context()); err != nil {
			if now := l.Now(); !now.Equal(long) {
				t.Errorf("without Redis it is %v", now)
			}
		} else if off := time.Since(l.Now()).Abs(); off > time.Second {
			t.Errorf("with Redis Now is %v off", off)
		}
	}
}

// testRedirects moves a key from one master to another: commands that are
// refused meanwhile are sent where they belong.
func testRedirects(t *testing.T, c *backendtest.RedisCluster) {
	l, idle, y := open(t, c.URL()), open(t, c.URL()), newTally()
	y.charge(t, l)
	y.charge(t, idle)

	tag := "{" + y.key + "}"
	from, to := c.Master(t, tag), c.Nodes[0]
	if to == from {
		to = c.Nodes[1]
	}
	slot := from.Do(t, "CLUSTER", "KEYSLOT", tag)
	to.Do(t, "CLUSTER", "SETSLOT", slot, "IMPORTING", from.Do(t, "CLUSTER", "MYID"))
	from.Do(t, "CLUSTER", "SETSLOT", slot, "MIGRATING", to.Do(t, "CLUSTER", "MYID"))
	y.charge(t, l)
	host, port, _ := net.SplitHostPort(to.Addr())
	for _, k := range from.Do(t, "CLUSTER", "GETKEYSINSLOT", slot, 100).([]any) {
		from.Do(t, "MIGRATE", host, port, k, 0, 10_000)
	}
	y.charge(t, l) // after an ASK
	for _, s := range []*backendtest.RedisServer{to, from} {
		s.Do(t, "CLUSTER", "SETSLOT", slot, "NODE", to.Do(t, "CLUSTER", "MYID"))
	}
	y.charge(t, l)
	y.charge(t, idle) // after a MOVED, for it knows the cluster as it was
}

// A frozen server costs no more than the deadline, or the client's own.
func TestDeadline(t *testing.T) {
	t.Parallel()
	s := backendtest.NewRedis(t)
	c := backendtest.NewRedisCluster(t, 1, false)
	for name, test := range map[string]struct {
		url    string
		server *backendtest.RedisServer
	}{
		"single":  {s.URL(), s},
		"cluster": {c.URL(), c.Nodes[0]},
	} {
		l, y := open(t, test.url), newTally()
		y.charge(t, l)
		test.server.Freeze()
		for what, f := range map[string]func(context.Context) error{
			"Check": l.Check,
			"Take":  func(ctx context.Context) error { _, err := y.take(ctx, l); return err },
		} {
			for _, limit := range []time.Duration{50 * time.Millisecond, time.Minute} {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				begin := time.Now()
				if err := f(ctx); err == nil || time.Since(begin) > 2*time.Second {
					t.Errorf("%s: %s with a deadline of %v: %v after %v", name, what, limit, err, time.Since(begin))
				}
				cancel()
			}
		}
		test.server.Thaw()
		y.charge(t, l)
	}
}

// A command of which it is not known what became is not sent again. Here it was
// carried out, and only the answer was lost: the next one undoes it.
func TestSentOnce(t *testing.T) {
	t.Parallel()
	s := backendtest.NewRedis(t)
	c := backendtest.NewRedisCluster(t, 1, false)
	for name, test := range map[string]struct {
		url    string
		server *backendtest.RedisServer
	}{
		"single":  {s.URL(), s},
		"cluster": {c.URL(), c.Nodes[0]},
	} {
		for how, reset := range map[string]bool{"closed": false, "reset": true} {
			t.Run(name+" "+how, func(t *testing.T) {
				p, proxied := backendtest.NewProxy(t, test.url)
				if name == "cluster" { // the client calls nodes as they announce themselves
					u, err := url.Parse(proxied)
					if err != nil {
						t.Fatal(err)
					}
					test.server.Do(t, "CONFIG", "SET", "cluster-announce-port", u.Port())
				}
				l, y := open(t, proxied), newTally()
				y.charge(t, l)
				for range 3 {
					cut := p.CutAnswer("eval", reset)
					before := y.used
					var failed atomic.Int64
					var wg sync.WaitGroup
					for range 10 {
						wg.Go(func() {
							if _, err := y.take(t.Context(), l); err != nil {
								failed.Add(1)
							}
						})
					}
					wg.Wait()
					y.charge(t, l)
					if n := failed.Load(); !cut() || n == 0 || y.used-before != 11-n {
						t.Errorf("%d of 10 calls failed, and %d of 11 are counted, armed still: %v; want those that succeeded", n, y.used-before, !cut())
					}
				}
			})
		}
	}
}

// A tally is what is known of a counter.
type tally struct {
	key   string
	quota plan.Quota
	used  int64 // units that were taken
}

func newTally() *tally {
	return &tally{key: rand.Text(), quota: plan.Quota{Limit: 1 << 30, Period: plan.Month}}
}

func (y *tally) take(ctx context.Context, c limits.Counters) (limits.Taken, error) {
	w, err := y.quota.Window(c.Now())
	if err != nil {
		return limits.Taken{}, err
	}
	r := limits.Request{KeyID: y.key, Window: w, Limit: y.quota.Limit, Cost: 1}
	t, err := c.Take(ctx, r)
	if err == nil && t.Outcome == limits.Unseeded && y.used == 0 {
		r.Seed = &limits.Charged{}
		t, err = c.Take(ctx, r)
	}
	return t, err
}

// charge takes a unit. It goes on until a call succeeds, and checks that none
// was counted twice, and none forgotten that succeeded.
func (y *tally) charge(t *testing.T, c limits.Counters) {
	t.Helper()
	var taken limits.Taken
	eventually(t, "the counters to count", func() (err error) {
		taken, err = y.take(t.Context(), c)
		return err
	})
	if taken.Outcome != limits.Granted || taken.Used <= y.used {
		t.Errorf("after %d units: %+v", y.used, taken)
	}
	y.used = taken.Used
}

func pings(t *testing.T, l *redismeter.Counters) {
	t.Helper()
	eventually(t, "a Ping to be answered", func() error { return l.Check(t.Context()) })
}

// eventually has f called until it succeeds. A busy machine may keep the
// limiter from doing in time what it would else.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s: %v", what, err)
		}
	}
}
