package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// The internal listener answers by the names of its machine, and what it shows
// of the process holds no secret.
func TestAdminListener(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(executable(t), "serve", "--cert-encryption-key="+aKey, "--database-url", "sqlite:secret.db")
	p := launchCommand(t, t.TempDir(), cmd, "PPROF=true", "ADMIN_HOSTS=metrics.internal")
	p.awaitServing(t)
	machine, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]int{machine + ":8081": 200, "metrics.internal:8081": 200, p.admin: 200, "evil.example:8081": 421} {
		req, _ := http.NewRequest(http.MethodGet, "http://"+p.admin+"/metrics", nil)
		req.Host = host
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("asked as %s it answers %d, want %d", host, resp.StatusCode, want)
		}
	}
	shown := map[string]string{"pprof": get(t, "http://"+p.admin+"/debug/pprof/cmdline", "").body}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", cmd.Process.Pid)); err == nil { // Linux
		shown["/proc"] = string(b)
	}
	for what, line := range shown {
		if !strings.Contains(line, "serve\x00--cert-encryption-key=*") || strings.Contains(line, aKey[:8]) || strings.Contains(line, "secret.db") {
			t.Errorf("%s shows %q", what, line)
		}
	}
}

func TestHideSecrets(t *testing.T) {
	args := []string{}
	for _, arg := range []string{"helloapi", "serve", "--redis-url=redis://u:p@h", "--database-url", "x", "--addr=:1", "--cert-encryption-key", "", "--redis-url="} {
		args = append(args, strings.Clone(arg))
	}
	copied := hideSecrets(append(args, strings.Clone("--database-url")))
	if !slices.Equal(copied, []string{"helloapi", "serve", "--redis-url=redis://u:p@h", "--database-url", "x", "--addr=:1", "--cert-encryption-key", "", "--redis-url=", "--database-url"}) {
		t.Errorf("the program gets %q", copied)
	}
	if !slices.Equal(args, []string{"helloapi", "serve", "--redis-url=*************", "--database-url", "*", "--addr=:1", "--cert-encryption-key", "", "--redis-url="}) {
		t.Errorf("others see %q", args)
	}
	// Every flag that may hold a secret is there, and no other.
	parser, err := newParser(new(commands))
	if err != nil {
		t.Fatal(err)
	}
	var secret []string
	for _, command := range parser.Model.Leaves(true) {
		for _, flag := range command.Flags {
			if help := flag.Help; strings.Contains(help, "Secret:") || strings.Contains(help, "password") {
				secret = append(secret, "--"+flag.Name)
			}
		}
	}
	slices.Sort(secret)
	secret = slices.Compact(secret)
	if want := slices.Sorted(slices.Values(secretFlags)); !slices.Equal(secret, want) {
		t.Errorf("flags with secrets are %q, hidden are %q", secret, want)
	}
}

// A health check asks the process itself: no proxy, and nothing else that
// answers.
func TestHealthcheckBelieves(t *testing.T) {
	t.Parallel()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"message":"OK"}`)
	}))
	defer proxy.Close()
	cmd := exec.Command(executable(t), "healthcheck", "--admin-addr", "192.0.2.1:8081", "--timeout", "1s") // where nobody is (RFC 5737)
	cmd.Env = []string{asProgram + "=1", "HTTP_PROXY=" + proxy.URL, "http_proxy=" + proxy.URL}
	begin := time.Now()
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "not serving") {
		t.Errorf("with a proxy that answers: %v, %s", err, out)
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("it took %v", d)
	}
	for what, h := range map[string]http.HandlerFunc{
		"another program": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>Welcome") },
		"a redirect":      func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, proxy.URL, http.StatusFound) },
	} {
		srv := httptest.NewServer(h)
		if out, _, err := helloapi(t, map[string]string{"ADMIN_ADDR": srv.Listener.Addr().String()}, "healthcheck"); err == nil {
			t.Errorf("%s is believed: %s", what, out)
		}
		srv.Close()
	}
}
