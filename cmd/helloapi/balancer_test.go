package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"helloapi/internal/backendtest"
)

// A replica under test keeps its addresses when it is restarted.
type replica struct {
	*process
	addr, admin string
}

func (r *replica) start(t *testing.T, env ...string) {
	t.Helper()
	r.process = start(t, t.TempDir(), append(env, "ADDR="+r.addr, "ADMIN_ADDR="+r.admin)...)
}

// A rolling restart behind each balancer fails no request and repeats none,
// the way docs/operations.md says.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	for name, newBalancer := range map[string]func(*testing.T, []*replica) (url string, out func(*replica), in func(*replica)){
		"HAProxy": haproxy, "nginx": nginx,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := backendtest.Postgres(t)
			backendtest.Exec(t, db, `INSERT INTO plans (name) VALUES ('none')`)
			key := must(t, db, "keys", "create", "bob", "--plan", "none")
			env := []string{"DATABASE_URL=" + db, "REDIS_URL=" + backendtest.RedisURL(t), "DRAIN_DELAY=2s"}
			var replicas []*replica
			for range 2 {
				r := &replica{addr: backendtest.FreeAddr(), admin: backendtest.FreeAddr()}
				r.start(t, env...)
				replicas = append(replicas, r)
			}
			url, out, in := newBalancer(t, replicas)
			waitFor(t, "the balancer to serve", func() bool {
				resp, err := http.Get(url + "/hello?name=%zz")
				if err != nil {
					return false
				}
				resp.Body.Close()
				return resp.StatusCode == http.StatusForbidden
			})

			var served, failed atomic.Int64
			stop := make(chan struct{})
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						if a := get(t, url+"/hello?name=brooks", key); a.status == http.StatusOK {
							served.Add(1)
						} else if failed.Add(1) < 5 {
							t.Errorf("answered %d %s", a.status, a.body)
						}
						time.Sleep(2 * time.Millisecond)
					}
				})
			}
			for _, r := range replicas {
				out(r)
				if err := r.stop(t); err != nil {
					t.Errorf("stop: %v", err)
				}
				r.start(t, env...)
				in(r)
			}
			close(stop)
			wg.Wait()
			if failed.Load() > 0 || served.Load() < 100 {
				t.Errorf("%d served, %d failed", served.Load(), failed.Load())
			}
			var count int64
			if err := backendtest.SQL(t, db).QueryRow(`SELECT count FROM greetings WHERE name = 'brooks'`).Scan(&count); err != nil || count != served.Load() {
				t.Errorf("%d greetings are counted (%v), %d were served", count, err, served.Load())
			}
			t.Logf("%d served", served.Load())
		})
	}
}

// haproxy runs the configuration of docker-compose.yml. It finds out by itself
// who is ready.
func haproxy(t *testing.T, replicas []*replica) (url string, out, in func(*replica)) {
	t.Helper()
	b, err := os.ReadFile("../../deploy/compose/haproxy.cfg")
	if err != nil {
		t.Fatal(err)
	}
	addr := backendtest.FreeAddr()
	var servers []string
	for i, r := range replicas {
		servers = append(servers, fmt.Sprintf("server api-%d %s check addr 127.0.0.1 port %s", i, r.addr, r.admin[strings.LastIndexByte(r.admin, ':')+1:]))
	}
	config := string(b)
	for old, new := range map[string]string{
		"bind :8080":            "bind " + addr,
		"bind :8405":            "bind " + backendtest.FreeAddr(),
		"check port 8081 inter": "inter",
		" resolvers docker resolve-prefer ipv4 init-addr none": "",
		"server-template api- 32 api:8080":                     strings.Join(servers, "\n    "),
	} {
		if !strings.Contains(config, old) {
			t.Fatalf("haproxy.cfg has no %q", old)
		}
		config = strings.Replace(config, old, new, 1)
	}
	backendtest.RunServer(t, "haproxy", "-db", "-f", backendtest.ServerFile(t, "haproxy.cfg", config))
	settle := func(*replica) {}
	return "http://" + addr, settle, func(r *replica) { time.Sleep(time.Second) } // two checks
}

// nginx runs the configuration of docs/operations.md, which checks nobody: who
// restarts a replica takes it out before.
func nginx(t *testing.T, replicas []*replica) (url string, out, in func(*replica)) {
	t.Helper()
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, config, _ := strings.Cut(string(page), "```nginx\n")
	config, _, _ = strings.Cut(config, "```")
	addr := backendtest.FreeAddr()
	for old, new := range map[string]string{"10.0.0.1:8080": replicas[0].addr, "10.0.0.2:8080": replicas[1].addr, "listen 80": "listen " + addr} {
		if !strings.Contains(config, old) {
			t.Fatalf("the nginx of operations.md has no %q", old)
		}
		config = strings.ReplaceAll(config, old, new)
	}
	file := backendtest.ServerFile(t, "nginx.conf", "")
	write := func(config string) {
		t.Helper()
		dir := filepath.Dir(file)
		all := fmt.Sprintf("daemon off;\npid %s/pid;\nerror_log stderr;\nevents {}\nhttp {\naccess_log off;\n", dir)
		for _, temp := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
			all += fmt.Sprintf("%s_temp_path %s/%[1]s;\n", temp, dir)
		}
		if err := os.WriteFile(file, []byte(all+config+"}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(config)
	cmd := backendtest.RunServer(t, "nginx", "-c", file)
	reload := func(config string) {
		t.Helper()
		write(config)
		if out, err := exec.Command("kill", "-HUP", fmt.Sprint(cmd.Process.Pid)).CombinedOutput(); err != nil {
			t.Fatalf("reload: %v\n%s", err, out)
		}
		time.Sleep(time.Second)
	}
	return "http://" + addr, func(r *replica) {
			reload(strings.Replace(config, "server "+r.addr+";", "server "+r.addr+" down;", 1))
		}, func(*replica) {
			reload(config)
		}
}

// A TCP proxy before Redis cuts connections that are idle. No request and no
// count is lost to that.
func TestRedisBehindProxy(t *testing.T) {
	t.Parallel()
	db := backendtest.Postgres(t)
	key := must(t, db, "keys", "create", "bob", "--plan", "free")
	redis := parseURL(t, backendtest.RedisURL(t))
	addr := backendtest.FreeAddr()
	backendtest.RunServer(t, "haproxy", "-db", "-f", backendtest.ServerFile(t, "haproxy.cfg", `
defaults
    mode tcp
    timeout connect 1s
    timeout client 300ms
    timeout server 300ms
listen redis
    bind `+addr+`
    server redis `+redis.Host+`
`))
	redis.Host = addr
	p := start(t, t.TempDir(), "DATABASE_URL="+db, "REDIS_URL="+redis.String())
	for i := range 6 {
		want := http.StatusOK
		if i == 5 { // the plan has 5 a day
			want = http.StatusTooManyRequests
		}
		if a := get(t, "http://"+p.addr+"/hello", key); a.status != want {
			t.Errorf("request %d: %d %s", i, a.status, a.body)
		}
		time.Sleep(500 * time.Millisecond) // its connections are cut
	}
	if n := p.metric(t, `helloapi_limits_without_redis_total{result="local"}`); n != "0" {
		t.Errorf("%s decisions were taken without Redis", n)
	}
}
