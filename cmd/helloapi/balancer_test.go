package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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

// Behind each balancer the log has the client's address and the id that the
// balancer gave the request, whatever the client wrote in these headers. Who
// comes past the balancer can't choose them either.
func TestClientBehindBalancer(t *testing.T) {
	t.Parallel()
	for name, newBalancer := range map[string]func(*testing.T, []*replica) (url string, out, in func(*replica)){
		"HAProxy": haproxy, "nginx": nginx,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &replica{addr: backendtest.FreeAddr(), admin: backendtest.FreeAddr()}
			r.start(t, "TRUSTED_PROXIES=127.0.0.1")
			other := &replica{addr: backendtest.FreeAddr(), admin: backendtest.FreeAddr()} // is never there
			url, _, _ := newBalancer(t, []*replica{r, other})
			// The balancer connects from 127.0.0.1, so a client has another address.
			client := &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}).DialContext}}
			logged := func(url string, header http.Header) (from, id string) {
				t.Helper()
				req, err := http.NewRequest(http.MethodGet, url+"/hello", nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header = header
				var answered string
				waitFor(t, "the replica to answer", func() bool {
					resp, err := client.Do(req)
					if err != nil {
						return false
					}
					resp.Body.Close()
					answered = resp.Header.Get("X-Request-Id")
					return resp.StatusCode == http.StatusForbidden
				})
				// The log is written in the background.
				waitFor(t, "the request in the log", func() bool {
					m := regexp.MustCompile(`(?m)msg=request id=` + regexp.QuoteMeta(answered) + ` .* client=(\S+)`).FindStringSubmatch(r.stderr.String())
					if m != nil {
						from = m[1]
					}
					return m != nil
				})
				return from, answered
			}
			spoofed := http.Header{"X-Forwarded-For": {"192.0.2.66", "192.0.2.67, 127.0.0.1"}, "X-Request-Id": {"chosen-by-the-client"}}
			if from, id := logged(url, spoofed); from != "127.0.0.9" || id == "chosen-by-the-client" {
				t.Errorf("behind the balancer logged the client %s and the id %s", from, id)
			}
			if _, id := logged(url, http.Header{}); len(id) == 26 {
				t.Errorf("the id %s is the replica's, not the balancer's", id)
			}
			if from, id := logged("http://"+r.addr, spoofed); from != "127.0.0.9" || id == "chosen-by-the-client" {
				t.Errorf("past the balancer logged the client %s and the id %s", from, id)
			}
		})
	}
}

// While no replica is ready the balancer answers as the API does, and a page of
// another origin can read it: it passes the preflight of any request.
func TestBalancerAnswersAsAPI(t *testing.T) {
	t.Parallel()
	r := &replica{addr: backendtest.FreeAddr(), admin: backendtest.FreeAddr()}
	r.start(t)
	url, _, _ := haproxy(t, []*replica{r})
	ask := func(method, url string, header map[string]string) (int, string, http.Header) {
		t.Helper()
		req, err := http.NewRequest(method, url+"/hello", nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range header {
			req.Header.Set(name, value)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err.Error(), nil
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body), resp.Header
	}
	preflight := map[string]string{"Origin": "https://example.com", "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "content-type,idempotency-key,x-api-key"}
	status, _, want := ask(http.MethodOptions, "http://"+r.addr, preflight)
	_, _, refused := ask(http.MethodGet, "http://"+r.addr, map[string]string{"Origin": "https://example.com"})
	if err := r.stop(t); err != nil {
		t.Fatal(err)
	}

	waitFor(t, "the balancer to notice", func() bool {
		status, body, header := ask(http.MethodGet, url, map[string]string{"Origin": "https://example.com"})
		if status != http.StatusServiceUnavailable {
			return false
		}
		if body != `{"message":"Service Unavailable"}` || header.Get("Retry-After") != "1" {
			t.Errorf("503 %s, Retry-After %q", body, header.Get("Retry-After"))
		}
		for _, name := range []string{"Content-Type", "Access-Control-Allow-Origin", "Cache-Control", "X-Content-Type-Options"} {
			if header.Get(name) != refused.Get(name) || header.Get(name) == "" {
				t.Errorf("503 with %s %q, that of the API is %q", name, header.Get(name), refused.Get(name))
			}
		}
		for _, name := range []string{"Retry-After", "X-Request-Id"} {
			if !strings.Contains(header.Get("Access-Control-Expose-Headers"), name) || header.Get(name) == "" {
				t.Errorf("a page can't read %s (%q) of a 503", name, header.Get(name))
			}
		}
		return true
	})
	got, body, header := ask(http.MethodOptions, url, preflight)
	if got != status || body != "" {
		t.Errorf("a preflight is answered %d %q, by the API %d", got, body, status)
	}
	for _, name := range []string{"Access-Control-Allow-Origin", "Access-Control-Allow-Methods"} {
		if header.Get(name) != want.Get(name) || want.Get(name) == "" {
			t.Errorf("a preflight with %s %q, that of the API is %q", name, header.Get(name), want.Get(name))
		}
	}
	if allowed, want := strings.ToLower(header.Get("Access-Control-Allow-Headers")), preflight["Access-Control-Request-Headers"]; allowed != want {
		t.Errorf("a preflight allows the headers %q, want %q", allowed, want)
	}
	if age := header.Get("Access-Control-Max-Age"); age != "" {
		t.Errorf("a preflight that the API did not answer is remembered for %s s", age)
	}
}
