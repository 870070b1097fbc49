//go:build e2e

package kubernetes

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"helloapi/internal/systemtest/load"
)

// The pod that sends requests is in a namespace of its own, as clients are.
const clients = "helloapi-e2e"

// TestCluster puts overlays/local on the cluster that kubectl points to, and
// does to it what happens to a cluster. The parts build on each other.
//
// The cluster must reach the images of overlays/local. With UPGRADE_TAG it is
// upgraded to the image of that tag, without to other settings.
func TestCluster(t *testing.T) {
	for _, ns := range []string{namespace, clients} {
		if out, err := kubectl(t, "get", "namespace", ns, "--ignore-not-found", "-o", "name"); err != nil {
			t.Fatal(err)
		} else if out != "" {
			t.Fatalf("the cluster has a namespace %s already: this test is for a cluster without, and removes it at the end", ns)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			show(t)
		}
		if os.Getenv("KEEP") == "" {
			must(t, "delete", "namespace", namespace, clients, "--ignore-not-found", "--wait=false")
		}
	})
	release := os.Getenv("UPGRADE_TAG")
	if release == "" {
		release = "settings"
	}
	c := &cluster{quota: rand.Text() + "quota", load: rand.Text() + "load"}

	local := filepath.Join(overlays, "local")
	c.step(t, "from nothing", func(t *testing.T) { deploy(t, local) })
	c.step(t, "applied again", func(t *testing.T) {
		// The generation of an object counts the changes of what it asks for.
		state := func() string {
			return must(t, "-n", namespace, "get", "all,hpa,pdb,networkpolicy,pvc", "-o",
				`jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.uid} {.metadata.generation}{"\n"}{end}`)
		}
		c.ready(t, 3) // the autoscaler has done its part
		before := state()
		must(t, "apply", "-k", local)
		if diff := cmp.Diff(before, state()); diff != "" {
			t.Errorf("the same again changed something: %s", diff)
		}
	})
	c.step(t, "Jobs are done", func(t *testing.T) {
		for _, job := range []string{"helloapi-migrate", "helloapi-plans"} {
			t.Log(job, must(t, "-n", namespace, "logs", "--all-containers", "job/"+job))
		}
		if log := must(t, "-n", namespace, "logs", "job/helloapi-plans"); strings.Contains(log, "testkey1-local-for-everyone") {
			t.Error("the log has a key's value")
		}
	})
	c.step(t, "three replicas are ready", func(t *testing.T) { c.ready(t, 3) })
	c.step(t, "a crowd is let in", c.admit)
	c.step(t, "the plans of the Secret", func(t *testing.T) {
		r := c.run(t, "testkey1-local-for-everyone", "-name", "brooks", "-requests", "6", "-workers", "1", "-pause", "300ms")
		answered(t, r, 5, map[string]int{exceeded: 1})
	})
	c.step(t, "other plans", func(t *testing.T) { deploy(t, c.overlay(t, "")) })
	c.step(t, "the quota is exact through the Service", func(t *testing.T) {
		r := c.run(t, c.quota, "-name", "quota", "-requests", "600", "-workers", "50")
		answered(t, r, quotaLimit, map[string]int{exceeded: 600 - quotaLimit})
	})
	c.step(t, "a rolling update under load fails no request", func(t *testing.T) {
		c.underLoad(t, "upgrade", func(t *testing.T) { deploy(t, c.overlay(t, release)) })
	})
	c.step(t, "a rollback under load fails no request", func(t *testing.T) {
		c.underLoad(t, "rollback", func(t *testing.T) {
			must(t, "-n", namespace, "rollout", "undo", "deployment/helloapi")
			must(t, "-n", namespace, "rollout", "status", "deployment/helloapi", "--timeout=5m")
		})
	})
	c.step(t, "a drain takes one replica at a time, and fails no request", c.drain)
	c.step(t, "a replica is killed", func(t *testing.T) {
		r := c.withLoad(t, "killed", func(t *testing.T) {
			pod := strings.Fields(must(t, "-n", namespace, "get", "pods", "-l", api, "-o", "name"))[0]
			must(t, "-n", namespace, "delete", pod, "--grace-period=0", "--force")
			c.ready(t, 3)
		})
		if len(r.Twice()) != 0 {
			t.Errorf("numbers were given twice: %v", r.Twice())
		}
		if r := c.after(t, "killed", last(r)); len(r.Failures) > 0 {
			t.Errorf("with three replicas again: %v", r.Failures)
		}
	})
	c.step(t, "PostgreSQL is killed and comes back", func(t *testing.T) {
		r := c.withLoad(t, "database", func(t *testing.T) {
			must(t, "-n", namespace, "delete", "pod", "postgres-0", "--grace-period=1")
			must(t, "-n", namespace, "wait", "pod/postgres-0", "--for=condition=Ready", "--timeout=3m")
			c.ready(t, 3)
		})
		if len(r.Twice()) != 0 {
			t.Errorf("numbers were given twice: %v", r.Twice())
		}
		for _, f := range r.Failures {
			if f.Status != 0 && f.Status != 503 { // no answer: no replica was ready
				t.Errorf("a database that is away: %v", f)
			}
		}
		c.after(t, "database", last(r))
		answered(t, c.run(t, c.quota, "-name", "quota", "-requests", "20"), 0, map[string]int{exceeded: 20})
	})
	c.step(t, "Redis is killed and comes back", func(t *testing.T) {
		must(t, "-n", namespace, "delete", "pod", "redis-0", "--grace-period=1")
		must(t, "-n", namespace, "wait", "pod/redis-0", "--for=condition=Ready", "--timeout=3m")
		answered(t, c.run(t, c.quota, "-name", "quota", "-requests", "20"), 0, map[string]int{exceeded: 20})
	})
	c.step(t, "all is removed and applied again: counts and keys are there", func(t *testing.T) {
		must(t, "-n", namespace, "delete", "deployment,statefulset,job", "--all")
		must(t, "-n", namespace, "wait", "pod", "--all", "--for=delete", "--timeout=2m")
		deploy(t, c.overlay(t, ""))
		c.after(t, "database", 0)
		answered(t, c.run(t, c.quota, "-name", "quota", "-requests", "20"), 0, map[string]int{exceeded: 20})
	})
}

const (
	api        = "app.kubernetes.io/name=helloapi,app.kubernetes.io/component=api"
	quotaLimit = 250
	exceeded   = `429: {"message":"Limit Exceeded"}`
)

type cluster struct {
	quota, load string // values of the keys of the plans of the same names
}

// step runs a part, and no other once one has failed.
func (c *cluster) step(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	begin := time.Now()
	if !t.Run(name, f) {
		t.FailNow()
	}
	t.Logf("%s: %.0f s", name, time.Since(begin).Seconds())
}

// deploy does what `make deploy` does.
func deploy(t *testing.T, overlay string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), root+"/deploy/kubernetes/deploy", overlay).CombinedOutput()
	t.Logf("deploy:\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

// overlay makes one on top of overlays/local: with plans for the test, and of
// another release where that is named.
func (c *cluster) overlay(t *testing.T, release string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	local, err := filepath.Abs(filepath.Join(overlays, "local"))
	if err != nil {
		t.Fatal(err)
	}
	base, err := filepath.Rel(dir, local)
	if err != nil {
		t.Fatal(err)
	}
	kustomization := fmt.Sprintf(`apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: helloapi
resources: [%s]
configMapGenerator:
  - {name: helloapi-plans, behavior: replace, files: [plans.yaml]}
  - {name: helloapi, behavior: merge, literals: [LOG_LEVEL=%s]}
secretGenerator:
  - {name: helloapi-keys, behavior: replace, envs: [keys.env]}
`, base, map[bool]string{false: "warn", true: "error"}[release == "settings"])
	if release != "" && release != "settings" {
		kustomization += fmt.Sprintf("images:\n  - {name: helloapi, newTag: %q}\n", release)
	}
	write("kustomization.yaml", kustomization)
	write("keys.env", "QUOTA="+c.quota+"\nLOAD="+c.load+"\n")
	write("plans.yaml", fmt.Sprintf(`name: helloapi
plans:
  quota:
    quota: {limit: %d, period: MONTH}
    keys: [{name: quota, value: "${env:QUOTA}"}]
  load:
    quota: {limit: 100000000, period: DAY}
    keys: [{name: load, value: "${env:LOAD}"}]
`, quotaLimit))
	return dir
}

// ready waits for n ready replicas, and no other.
func (c *cluster) ready(t *testing.T, n int) {
	t.Helper()
	deadline := time.Now().Add(3 * time.Minute)
	for {
		status := must(t, "-n", namespace, "get", "deployment", "helloapi", "-o", "jsonpath={.status.readyReplicas}/{.status.replicas}/{.status.updatedReplicas}")
		if status == fmt.Sprintf("%d/%d/%d", n, n, n) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("ready/all/updated replicas: %s, want %d", status, n)
		}
		time.Sleep(time.Second) // the cluster's pace, not ours
	}
}

// admit starts the pod that requests come from. Any image with a shell and cat
// will do; the one of PostgreSQL is there already.
func (c *cluster) admit(t *testing.T) {
	dir := t.TempDir()
	arch := must(t, "get", "nodes", "-o", "jsonpath={.items[0].status.nodeInfo.architecture}")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", dir+"/crowd", "./crowd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	manifest := `
apiVersion: v1
kind: Namespace
metadata: {name: ` + clients + `, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: v1
kind: Pod
metadata: {name: load, namespace: ` + clients + `}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  securityContext: {runAsNonRoot: true, runAsUser: 999, runAsGroup: 999, fsGroup: 999, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: load
      image: ` + postgresImage(t) + `
      command: [sleep, infinity]
      securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
      volumeMounts: [{name: load, mountPath: /load}]
  volumes: [{name: load, emptyDir: {}}]
`
	apply := exec.CommandContext(t.Context(), "kubectl", "apply", "-f", "-")
	apply.Stdin = strings.NewReader(manifest)
	if out, err := apply.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	must(t, "-n", clients, "wait", "pod/load", "--for=condition=Ready", "--timeout=3m")
	binary, err := os.Open(dir + "/crowd")
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	copying := exec.CommandContext(t.Context(), "kubectl", "-n", clients, "exec", "-i", "load", "--", "sh", "-c", "cat >/load/crowd && chmod +x /load/crowd")
	copying.Stdin = binary
	if out, err := copying.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// postgresImage returns the image of PostgreSQL in overlays/local.
func postgresImage(t *testing.T) string {
	for _, p := range build(t, "local").pods {
		if p.name == "postgres" {
			return p.Spec.Containers[0].Image
		}
	}
	t.Fatal("overlays/local has no PostgreSQL")
	return ""
}

// served is for requests of which each must be served, and counted once.
func served(t *testing.T, r load.Report) {
	t.Helper()
	if len(r.Failures) > 0 || len(r.Twice()) > 0 || last(r) != int64(r.Sent()) {
		t.Errorf("%v; the last number is %d; numbers given twice: %v; failures: %v", r, last(r), r.Twice(), r.Failures)
	}
}

// answered checks how many requests were served, and how often the others got
// an answer (429: {"message":"Limit Exceeded"}).
func answered(t *testing.T, r load.Report, numbers int, others map[string]int) {
	t.Helper()
	got := map[string]int{}
	for _, f := range r.Failures {
		got[fmt.Sprintf("%d: %s", f.Status, f.Body)]++
	}
	if diff := cmp.Diff(others, got, cmpopts.EquateEmpty()); diff != "" || len(r.Numbers) != numbers || len(r.Twice()) > 0 {
		t.Errorf("%d were served, want %d; numbers given twice: %v; others: %s", len(r.Numbers), numbers, r.Twice(), diff)
	}
}

// last returns the greatest number that was given, or 0.
func last(r load.Report) int64 {
	if len(r.Numbers) == 0 {
		return 0
	}
	return r.Numbers[len(r.Numbers)-1]
}

// start has the pod send requests until stop is called, or as many as it is
// told. No connection to the pod has to last for that.
func (c *cluster) start(t *testing.T, key string, args ...string) (stop func() load.Report) {
	t.Helper()
	c.exec(t, key, "rm -f /load/report; cat >/load/key; "+
		`(/load/crowd -url http://helloapi.`+namespace+` "$@" </load/key >/load/writing 2>/load/log & echo $! >/load/pid; wait $!; mv /load/writing /load/report) >/dev/null 2>&1 &`, args...)
	return func() load.Report {
		t.Helper()
		if !slices.Contains(args, "-requests") {
			c.exec(t, "", `kill "$(cat /load/pid)"`)
		}
		out := c.exec(t, "", `until [ -e /load/report ]; do sleep 0.1; done; cat /load/log /load/report`)
		var r load.Report
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatalf("load: %v\n%s", err, out)
		}
		t.Logf("%v, the last number %d", r, last(r))
		return r
	}
}

// exec runs a script in the pod that requests come from.
func (c *cluster) exec(t *testing.T, stdin, script string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "kubectl", append([]string{"-n", clients, "exec", "-i", "load", "--", "sh", "-c", script, "sh"}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("in the pod: %v\n%s", err, out)
	}
	return string(out)
}

// run has the pod send a number of requests.
func (c *cluster) run(t *testing.T, key string, args ...string) load.Report {
	t.Helper()
	return c.start(t, key, args...)()
}

// withLoad does f under constant load, and some more of that before and after.
func (c *cluster) withLoad(t *testing.T, name string, f func(t *testing.T)) load.Report {
	t.Helper()
	stop := c.start(t, c.load, "-name", name, "-workers", "8", "-pause", "20ms")
	time.Sleep(2 * time.Second)
	f(t)
	time.Sleep(2 * time.Second)
	return stop()
}

// underLoad is withLoad where no request may fail.
func (c *cluster) underLoad(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	before := pods(t)
	r := c.withLoad(t, name, func(t *testing.T) {
		f(t)
		// The rollout is done when the new ones are there; the old ones still stop.
		must(t, append([]string{"-n", namespace, "wait", "--for=delete", "--timeout=2m"}, before...)...)
		c.ready(t, 3)
	})
	served(t, r)
}

// after checks that a name's numbers go on after one that was given. Where
// a store was away the first seconds may bring 503s yet.
func (c *cluster) after(t *testing.T, name string, given int64) load.Report {
	t.Helper()
	r := c.run(t, c.load, "-name", name, "-requests", "10", "-workers", "1", "-pause", "300ms")
	if last(r) <= max(given, 1) {
		t.Errorf("after number %d: %d %v", given, last(r), r.Failures)
	}
	return r
}

// drain empties the node of a replica, of replicas alone. Where there is no
// other node they have nowhere to go, so all but the first must stay.
func (c *cluster) drain(t *testing.T) {
	c.ready(t, 3)
	node := must(t, "-n", namespace, "get", "pods", "-l", api, "-o", "jsonpath={.items[0].spec.nodeName}")
	nodes := len(strings.Fields(must(t, "get", "nodes", "-o", "name")))
	stop := c.start(t, c.load, "-name", "drain", "-workers", "8", "-pause", "20ms")
	drained := make(chan error, 1)
	var out string
	go func() {
		var err error
		out, err = kubectl(t, "drain", node, "--pod-selector="+api, "--ignore-daemonsets", "--timeout=45s")
		drained <- err
	}()
	least := 3
	var err error
	for done := false; !done; {
		select {
		case err = <-drained:
			done = true
		case <-time.After(500 * time.Millisecond):
		}
		n := strings.Count(must(t, "-n", namespace, "get", "pods", "-l", api, "-o", `jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}`), "True")
		least = min(least, n)
	}
	must(t, "uncordon", node)
	r := stop()
	served(t, r)
	t.Logf("drain: at least %d replicas were ready; kubectl said:\n%s", least, out)
	if least < 2 {
		t.Errorf("%d replicas were ready", least)
	}
	if refused := err != nil && strings.Contains(out, "disruption budget"); nodes == 1 && !refused {
		t.Error("the disruption budget refused nothing")
	}
	c.ready(t, 3)
}

// pods returns the names of the replicas.
func pods(t *testing.T) []string {
	t.Helper()
	return strings.Fields(must(t, "-n", namespace, "get", "pods", "-l", api, "-o", "name", "--field-selector=status.phase=Running"))
}

func kubectl(t *testing.T, args ...string) (string, error) {
	// Also while the test is cleaned up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 6*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "kubectl", args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

func must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := kubectl(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// show prints what a person would look at first.
func show(t *testing.T) {
	for _, args := range [][]string{
		{"-n", namespace, "get", "all,pvc", "-o", "wide"},
		{"-n", namespace, "get", "events", "--sort-by=.lastTimestamp"},
		{"-n", namespace, "logs", "-l", api, "--all-containers", "--prefix", "--tail=20"},
		{"-n", namespace, "logs", "postgres-0", "--tail=20"},
		{"-n", namespace, "logs", "redis-0", "--tail=20"},
	} {
		out, err := kubectl(t, args...)
		t.Logf("$ kubectl %s\n%s%v", strings.Join(args, " "), out, err)
	}
}
