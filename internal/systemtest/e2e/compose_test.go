//go:build e2e

// Package e2e tries docker-compose.yml as a whole, on a Docker engine, under
// load. `make e2e` makes the images that it needs and runs it.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"helloapi/internal/systemtest/load"
)

// A project is a docker-compose.yml that runs under a name of its own.
type project struct {
	t       *testing.T
	name    string
	command []string // docker compose, or docker-compose
	env     []string
	files   string // for COMPOSE_FILE, without TLS
	root    string // of the repository
	url     string // of the balancer

	tls, challenge string // addresses of balancer-tls
}

// freeAddr is an address on this machine that nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// newProject chooses a name and a port, and removes all that the project made
// at the end of the test.
func newProject(t *testing.T) *project {
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	addr, tls, challenge := freeAddr(t), freeAddr(t), freeAddr(t)
	p := &project{
		t: t, name: fmt.Sprintf("helloapi-e2e-%d", os.Getpid()), command: []string{"docker-compose"},
		url: "http://" + addr, tls: tls, challenge: challenge,
		root: root, files: root + "/docker-compose.yml:" + root + "/deploy/e2e/docker-compose.yml",
	}
	if exec.Command("docker", "compose", "version").Run() == nil {
		p.command = []string{"docker", "compose"}
	}
	p.env = append(os.Environ(), "COMPOSE_PROJECT_NAME="+p.name, "COMPOSE_ANSI=never", "COMPOSE="+strings.Join(p.command, " "),
		"COMPOSE_FILE="+p.files, fmt.Sprintf("API_NETWORK=10.%d.%d", 200+os.Getpid()>>8%50, os.Getpid()%256),
		"HELLOAPI_IMAGE="+image, "HTTP_PORT="+addr, "TLS_PORT="+tls, "CHALLENGE_PORT="+challenge, "PROMETHEUS_PORT=0")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logs:\n%s", p.logs())
		}
		// Its images are kept for the next run, but not those that it made.
		if out, err := p.try("--profile", "observability", "down", "--volumes", "--remove-orphans", "--timeout", "1"); err != nil {
			t.Errorf("clean up: %v\n%s", err, out)
		}
		for _, kind := range []string{"container", "network", "volume"} {
			args := []string{kind, "ls", "-q", "--filter", "label=com.docker.compose.project=" + p.name}
			if kind == "container" {
				args = append(args, "-a")
			}
			if left := docker(t, args...); left != "" {
				t.Errorf("%ss left behind: %s", kind, left)
			}
		}
	})
	return p
}

// image is what `make e2e` built of this tree, next the release after it.
const image, next = "helloapi-e2e/helloapi:this", "helloapi-e2e/helloapi:next"

// set changes the environment of later commands.
func (p *project) set(name, value string) {
	p.env = append(p.env, name+"="+value)
}

func (p *project) run(cmd *exec.Cmd) (string, error) {
	var out, errOut bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = p.env, &out, &errOut
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s%s", strings.Join(cmd.Args, " "), err, &out, &errOut)
	}
	return strings.TrimSpace(out.String()), err
}

// try runs a compose command and returns its standard output.
func (p *project) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	args = slices.Concat(p.command, args)
	return p.run(exec.CommandContext(ctx, args[0], args[1:]...))
}

// compose is try with what must succeed.
func (p *project) compose(args ...string) string {
	p.t.Helper()
	out, err := p.try(args...)
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

// roll runs deploy/compose/roll.
func (p *project) roll() {
	p.t.Helper()
	if out, err := p.tryRoll(); err != nil {
		p.t.Fatalf("%v\n%s", err, out)
	}
}

// tryRoll returns what it prints. An error has that too.
func (p *project) tryRoll(args ...string) (string, error) {
	return p.run(exec.Command(p.root+"/deploy/compose/roll", args...))
}

// refusesToRoll checks that roll fails, with each of want in what it prints, and
// that afterwards the replicas are those from before.
func (p *project) refusesToRoll(want ...string) {
	p.t.Helper()
	before := p.allReplicas()
	begin := time.Now()
	_, err := p.tryRoll()
	p.t.Logf("roll gave up after %v: %v", time.Since(begin).Round(100*time.Millisecond), err)
	if err == nil {
		p.t.Fatal("roll did not fail")
	}
	for _, text := range want {
		if !strings.Contains(err.Error(), text) {
			p.t.Errorf("roll does not say %q", text)
		}
	}
	if after := p.allReplicas(); after != before {
		p.t.Errorf("the replicas were\n%s\nand are\n%s", before, after)
	}
}

// allReplicas are the containers of api, also those that do not run, with their
// states.
func (p *project) allReplicas() string {
	p.t.Helper()
	return docker(p.t, "ps", "-a", "--filter", "label=com.docker.compose.project="+p.name, "--filter", "label=com.docker.compose.service=api", "--format", "{{.ID}} {{.Names}} {{.State}}")
}

func (p *project) logs() string {
	out, err := p.try("logs", "--no-color", "--tail=60")
	return out + fmt.Sprint(err)
}

// helloapi runs a command as the owner.
func (p *project) helloapi(args ...string) string {
	p.t.Helper()
	return p.compose(append([]string{"run", "--rm", "-T", "helloapi"}, args...)...)
}

// replicas are the IDs of the containers of api, sorted by name.
func (p *project) replicas() []string {
	p.t.Helper()
	out := docker(p.t, "ps", "-q", "--no-trunc", "--filter", "label=com.docker.compose.project="+p.name, "--filter", "label=com.docker.compose.service=api")
	return strings.Fields(out)
}

// ready reports what /readyz of a replica answers.
func (p *project) ready(replica string) (int, string) {
	resp, err := http.Get("http://" + net.JoinHostPort(p.address(replica), "8081") + "/readyz")
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	var said struct{ Message string }
	_ = json.NewDecoder(resp.Body).Decode(&said)
	return resp.StatusCode, said.Message
}

// address is a container's in the network that the balancer is in too.
func (p *project) address(container string) string {
	p.t.Helper()
	return docker(p.t, "inspect", "-f", fmt.Sprintf(`{{(index .NetworkSettings.Networks "%s_api").IPAddress}}`, p.name), container)
}

// sql runs a statement as the administrator of the database.
func (p *project) sql(stmt string) string {
	p.t.Helper()
	return p.compose("exec", "-T", "postgres", "psql", "-U", "postgres", "-d", "helloapi", "-v", "ON_ERROR_STOP=1", "-qtAc", stmt)
}

// count is how many greetings of a name are counted.
func (p *project) count(name string) int64 {
	p.t.Helper()
	n, err := strconv.ParseInt(p.sql("SELECT coalesce(sum(count), 0) FROM greetings WHERE name = '"+name+"'"), 10, 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

// A server is what the balancer knows of a replica.
type server struct {
	up          bool
	served, bad int // answers: 2xx, and 5xx
}

var serverMetric = regexp.MustCompile(`^(haproxy_server_status|haproxy_server_http_responses_total)\{proxy="api",server="([^"]+)",(?:state|code)="([^"]+)"\} (\S+)`)

// servers asks the balancer for the replicas that it knows of.
func (p *project) servers() map[string]server {
	p.t.Helper()
	resp, err := http.Get("http://" + net.JoinHostPort(p.address(p.compose("ps", "-q", "balancer")), "8405") + "/metrics")
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	servers := make(map[string]server)
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		m := serverMetric.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		n, err := strconv.ParseFloat(m[4], 64)
		if err != nil {
			p.t.Fatal(err)
		}
		s := servers[m[2]]
		switch m[3] {
		case "UP":
			s.up = n == 1
		case "2xx":
			s.served = int(n)
		case "5xx":
			s.bad = int(n)
		}
		servers[m[2]] = s
	}
	return servers
}

// up returns the names of the servers that the balancer sends requests to.
func (p *project) up() []string {
	p.t.Helper()
	var up []string
	for name, s := range p.servers() {
		if s.up {
			up = append(up, name)
		}
	}
	slices.Sort(up)
	return up
}

func (p *project) waitForUp(n int) {
	p.t.Helper()
	waitFor(p.t, 30*time.Second, fmt.Sprintf("the balancer to have %d replicas", n), func() bool { return len(p.up()) == n })
}

// load puts the load on the API that goes on while something is done to it.
func (p *project) load(key, name string) *load.Load {
	l := load.Start(load.Config{URL: p.url, Key: key, Name: name, Workers: 16, Pause: 20 * time.Millisecond})
	waitFor(p.t, 10*time.Second, "the first greetings", func() bool { return len(l.Report().Numbers) > 100 })
	return l
}

func (p *project) greet(key, name string) (int64, error) {
	return load.Greet(context.Background(), http.DefaultClient, p.url, key, name)
}

func waitFor(t *testing.T, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !cond(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", limit, what)
		}
	}
}

// docker runs a docker command that must succeed, and returns what it prints.
func docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("docker", args...).Output()
	if err != nil {
		if e, ok := err.(*exec.ExitError); ok {
			err = fmt.Errorf("%w\n%s", err, e.Stderr)
		}
		t.Fatalf("docker %s: %v", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out))
}
