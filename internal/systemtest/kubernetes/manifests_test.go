// Package kubernetes tests the manifests in deploy/kubernetes: here as they
// are written, and with the tag e2e on a cluster.
package kubernetes

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/cmd/kustomize"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"helloapi/internal/admin"
	"helloapi/internal/planfile"
)

const (
	root      = "../../.."
	overlays  = root + "/deploy/kubernetes/overlays"
	namespace = "helloapi"

	// closing is how long a process may take for its batches and connections
	// after the last request.
	closing = 5 * time.Second
	// connections is what a replica holds: the pool, and one to listen.
	connections = 8 + 1
	// others is the room for Jobs, commands, backups and people.
	others = 20
)

// secrets are the overlays, and the Secrets that each expects to be there.
var secrets = map[string][]string{
	"local":              {},
	"production":         {"helloapi", "helloapi-owner", "helloapi-keys", "helloapi-certificates"},
	"production-gateway": {"helloapi", "helloapi-owner", "helloapi-keys"},
}

// A manifest is what an overlay builds.
type manifest struct {
	objects []runtime.Object
	pods    []pod
}

// A pod is a template of pods, with who makes them.
type pod struct {
	kind, name string
	*corev1.PodTemplateSpec
}

func (p pod) String() string { return p.kind + " " + p.name }

// containers returns all of a pod's containers.
func (p pod) containers() []corev1.Container {
	return slices.Concat(p.Spec.InitContainers, p.Spec.Containers)
}

// all returns the objects of a type.
func all[T runtime.Object](m manifest) []T {
	var found []T
	for _, o := range m.objects {
		if o, ok := o.(T); ok {
			found = append(found, o)
		}
	}
	return found
}

// one returns the object of a type that has a name.
func one[T runtime.Object](t testing.TB, m manifest, name string) T {
	t.Helper()
	for _, o := range all[T](m) {
		if any(o).(metav1.Object).GetName() == name {
			return o
		}
	}
	var none T
	t.Fatalf("there is no %T %q", none, name)
	return none
}

// settings returns what the Deployment's containers get from the ConfigMap.
func (m manifest) settings(t testing.TB) map[string]string {
	t.Helper()
	main := one[*appsv1.Deployment](t, m, "helloapi").Spec.Template.Spec.Containers[0]
	for _, from := range main.EnvFrom {
		if from.ConfigMapRef != nil {
			return one[*corev1.ConfigMap](t, m, from.ConfigMapRef.Name).Data
		}
	}
	t.Fatal("the Deployment takes its settings from no ConfigMap")
	return nil
}

// decoder refuses fields that the API does not have, and fields given twice.
var decoder = func() runtime.Decoder {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.AddToScheme, autoscalingv2.AddToScheme, batchv1.AddToScheme, corev1.AddToScheme,
		networkingv1.AddToScheme, policyv1.AddToScheme, gatewayv1.Install,
	} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	return json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true})
}()

// build runs `kubectl kustomize`.
func build(t testing.TB, overlay string) manifest {
	t.Helper()
	var out bytes.Buffer
	cmd := kustomize.NewCmdKustomize(genericiooptions.IOStreams{Out: &out})
	cmd.SetArgs([]string{filepath.Join(overlays, overlay)})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	var m manifest
	documents := yaml.NewYAMLReader(bufio.NewReader(&out))
	for {
		text, err := documents.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		object, _, err := decoder.Decode(text, nil, nil)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		m.objects = append(m.objects, object)
		switch o := object.(type) {
		case *appsv1.Deployment:
			m.pods = append(m.pods, pod{"Deployment", o.Name, &o.Spec.Template})
		case *appsv1.StatefulSet:
			m.pods = append(m.pods, pod{"StatefulSet", o.Name, &o.Spec.Template})
		case *batchv1.Job:
			m.pods = append(m.pods, pod{"Job", o.Name, &o.Spec.Template})
		}
	}
	return m
}

// onEach runs a test on every overlay that comes with helloapi.
func onEach(t *testing.T, test func(t *testing.T, overlay string, m manifest)) {
	t.Helper()
	for overlay := range secrets {
		t.Run(overlay, func(t *testing.T) { test(t, overlay, build(t, overlay)) })
	}
}

func TestDecodesStrictly(t *testing.T) {
	for name, text := range map[string]string{
		"an unknown field":    "{apiVersion: v1, kind: Service, spec: {typ: LoadBalancer}}",
		"a wrong case":        "{apiVersion: v1, kind: Service, spec: {Type: LoadBalancer}}",
		"a field given twice": "apiVersion: v1\nkind: Service\nkind: Service\n",
		"an unknown kind":     "{apiVersion: v1, kind: Servise}",
	} {
		if _, _, err := decoder.Decode([]byte(text), nil, nil); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	onEach(t, func(t *testing.T, _ string, m manifest) {
		for _, o := range m.objects {
			meta := o.(metav1.Object)
			if _, ok := o.(*corev1.Namespace); !ok && meta.GetNamespace() != namespace {
				t.Errorf("%T %s is in namespace %q", o, meta.GetName(), meta.GetNamespace())
			}
		}
	})
}

func TestPodsAreRestricted(t *testing.T) {
	onEach(t, func(t *testing.T, _ string, m manifest) {
		if level := one[*corev1.Namespace](t, m, namespace).Labels["pod-security.kubernetes.io/enforce"]; level != "restricted" {
			t.Errorf("the namespace enforces %q", level)
		}
		for _, p := range m.pods {
			spec := p.Spec
			check := func(ok bool, problem string) {
				t.Helper()
				if !ok {
					t.Errorf("%s: %s", p, problem)
				}
			}
			s := spec.SecurityContext
			if s == nil {
				s = &corev1.PodSecurityContext{}
			}
			check(is(s.RunAsNonRoot, true), "may run as root")
			check(s.RunAsUser != nil && *s.RunAsUser > 0 && s.RunAsGroup != nil && *s.RunAsGroup > 0, "names no user and group")
			check(s.SeccompProfile != nil && s.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault, "has no seccomp profile")
			check(is(spec.AutomountServiceAccountToken, false), "gets a token of the Kubernetes API")
			check(!spec.HostNetwork && !spec.HostPID && !spec.HostIPC, "shares a namespace with its node")
			for _, v := range spec.Volumes {
				check(v.HostPath == nil, "mounts a path of its node")
			}
			for _, c := range p.containers() {
				check := func(ok bool, problem string) {
					t.Helper()
					check(ok, "container "+c.Name+": "+problem)
				}
				s := c.SecurityContext
				if s == nil {
					s = &corev1.SecurityContext{}
				}
				check(is(s.ReadOnlyRootFilesystem, true), "can write its root")
				check(is(s.AllowPrivilegeEscalation, false), "can gain privileges")
				check(!is(s.Privileged, true) && s.RunAsUser == nil && s.RunAsNonRoot == nil && s.SeccompProfile == nil, "goes its own way")
				check(s.Capabilities != nil && slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) && len(s.Capabilities.Add) == 0, "has capabilities")
				check(!c.Resources.Requests.Cpu().IsZero() && !c.Resources.Requests.Memory().IsZero(), "requests no CPU or memory")
				check(!c.Resources.Limits.Memory().IsZero(), "has no limit on memory")
				check(c.Resources.Limits.Memory().Cmp(*c.Resources.Requests.Memory()) >= 0, "has a limit below its request")
				tag := c.Image[strings.LastIndexByte(c.Image, '/')+1:]
				check(strings.ContainsAny(tag, ":@"), "has an image without a tag")
				for _, port := range c.Ports {
					check(port.ContainerPort >= 1024 && port.HostPort == 0, "opens a port that takes privileges")
				}
			}
		}
	})
}

func is(b *bool, want bool) bool { return b != nil && *b == want }

// What a pod refers to is there, or one of the Secrets that the overlay expects.
func TestReferences(t *testing.T) {
	onEach(t, func(t *testing.T, overlay string, m manifest) {
		has := map[string]bool{}
		for _, o := range m.objects {
			switch o := o.(type) {
			case *corev1.ConfigMap:
				for key := range o.Data {
					has["ConfigMap "+o.Name], has["ConfigMap "+o.Name+" "+key] = true, true
				}
			case *corev1.Secret:
				if overlay != "local" {
					t.Errorf("Secret %s is among the manifests", o.Name)
				}
				for key := range o.Data {
					has["Secret "+o.Name], has["Secret "+o.Name+" "+key] = true, true
				}
			}
		}
		given := map[string]bool{}
		refer := func(p pod, kind, name, key string) {
			t.Helper()
			if kind == "Secret" && slices.Contains(secrets[overlay], name) {
				given[name] = true
				return
			}
			if ref := strings.TrimSpace(kind + " " + name + " " + key); !has[ref] {
				t.Errorf("%s refers to %s, which is not there", p, ref)
			}
		}
		for _, p := range m.pods {
			mounts := map[string]bool{}
			for _, v := range p.Spec.Volumes {
				mounts[v.Name] = true
				if v.ConfigMap != nil {
					refer(p, "ConfigMap", v.ConfigMap.Name, "")
				}
				if v.Secret != nil {
					refer(p, "Secret", v.Secret.SecretName, "")
					for _, item := range v.Secret.Items {
						refer(p, "Secret", v.Secret.SecretName, item.Key)
					}
				}
			}
			if p.kind == "StatefulSet" {
				for _, claim := range one[*appsv1.StatefulSet](t, m, p.name).Spec.VolumeClaimTemplates {
					mounts[claim.Name] = true
				}
			}
			for _, c := range p.containers() {
				for _, from := range c.EnvFrom {
					if from.ConfigMapRef != nil {
						refer(p, "ConfigMap", from.ConfigMapRef.Name, "")
					}
					if from.SecretRef != nil {
						refer(p, "Secret", from.SecretRef.Name, "")
					}
				}
				for _, env := range c.Env {
					if from := env.ValueFrom; from != nil && from.SecretKeyRef != nil {
						refer(p, "Secret", from.SecretKeyRef.Name, from.SecretKeyRef.Key)
					}
				}
				for _, mount := range c.VolumeMounts {
					if !mounts[mount.Name] {
						t.Errorf("%s mounts %s, which is no volume of it", p, mount.Name)
					}
				}
			}
			if name := p.Spec.ServiceAccountName; name != "" {
				one[*corev1.ServiceAccount](t, m, name)
			}
		}
		for _, name := range secrets[overlay] {
			if !given[name] {
				t.Errorf("no pod takes Secret %s", name)
			}
		}
	})
}

// Only Jobs get the role that owns the schema.
func TestOwnerIsForJobs(t *testing.T) {
	onEach(t, func(t *testing.T, _ string, m manifest) {
		owners := 0
		for _, p := range m.pods {
			text := p.PodTemplateSpec.String()
			if !strings.Contains(text, "helloapi-owner") {
				continue
			}
			if owners++; p.kind != "Job" {
				t.Errorf("%s gets the owner's DATABASE_URL", p)
			}
		}
		if owners != 2 {
			t.Errorf("%d Jobs get the owner's DATABASE_URL", owners)
		}
	})
}

// Settings are some that serve has, and fit the ports and probes.
func TestSettings(t *testing.T) {
	known := readmeSettings(t)
	onEach(t, func(t *testing.T, overlay string, m manifest) {
		settings := m.settings(t)
		d := one[*appsv1.Deployment](t, m, "helloapi")
		main := d.Spec.Template.Spec.Containers[0]
		names := []string{}
		for name := range settings {
			names = append(names, name)
		}
		for _, env := range main.Env {
			names = append(names, env.Name)
		}
		for _, s := range all[*corev1.Secret](m) {
			if strings.HasPrefix(s.Name, "helloapi-owner") || len(main.EnvFrom) > 1 && main.EnvFrom[1].SecretRef.Name == s.Name {
				for name := range s.Data {
					names = append(names, name)
				}
			}
		}
		for _, name := range names {
			if !known[name] && name != "GOMEMLIMIT" {
				t.Errorf("%s is no setting", name)
			}
		}
		if settings["PPROF"] != "" {
			t.Error("profiles are served")
		}

		// The addresses and the ports are the same.
		addr := map[string]string{"http": ":8080", "admin": settings["ADMIN_ADDR"]}
		if settings["TLS_DOMAINS"] != "" {
			addr["http"], addr["https"] = settings["HTTP_ADDR"], settings["TLS_ADDR"]
		}
		if len(main.Ports) != len(addr) {
			t.Errorf("there are %d ports and %d addresses", len(main.Ports), len(addr))
		}
		for _, port := range main.Ports {
			if want := ":" + strconv.Itoa(int(port.ContainerPort)); addr[port.Name] != want {
				t.Errorf("port %s is %s and its address %q", port.Name, want, addr[port.Name])
			}
		}
		if tls := overlay == "production"; (settings["TLS_DOMAINS"] != "") != tls {
			t.Errorf("TLS_DOMAINS is %q", settings["TLS_DOMAINS"])
		}
		// Only a Gateway speaks HTTP for its clients.
		if gateway := overlay == "production-gateway"; (settings["TRUSTED_PROXIES"] != "") != gateway {
			t.Errorf("TRUSTED_PROXIES is %q", settings["TRUSTED_PROXIES"])
		}

		// The collector's limit leaves some of the memory to what it does not see.
		limit := float64(main.Resources.Limits.Memory().Value())
		var mib int
		for _, env := range main.Env {
			if env.Name == "GOMEMLIMIT" {
				if _, err := fmt.Sscanf(env.Value, "%dMiB", &mib); err != nil {
					t.Error(err)
				}
			}
		}
		if share := float64(mib) * (1 << 20) / limit; share < 0.8 || share > 0.95 {
			t.Errorf("GOMEMLIMIT is %.0f %% of the memory limit", share*100)
		}
	})
}

// readmeSettings returns the names in the README's table, which is tested
// against the flags.
func readmeSettings(t testing.TB) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\|").FindAllStringSubmatch(read(t, "README.md"), -1) {
		names[row[1]] = true
	}
	if !names["DATABASE_URL"] {
		t.Fatal("the README's table of settings was not found")
	}
	return names
}

// Probes ask the internal listener for paths that it serves.
func TestProbes(t *testing.T) {
	srv := httptest.NewServer(admin.New(admin.Config{
		Ready: func(context.Context) error { return nil }, Draining: func() bool { return false },
	}))
	defer srv.Close()
	onEach(t, func(t *testing.T, _ string, m manifest) {
		main := one[*appsv1.Deployment](t, m, "helloapi").Spec.Template.Spec.Containers[0]
		for name, probe := range map[string]*corev1.Probe{"startup": main.StartupProbe, "readiness": main.ReadinessProbe, "liveness": main.LivenessProbe} {
			if probe == nil || probe.HTTPGet == nil {
				t.Errorf("there is no %s probe", name)
				continue
			}
			resp, err := http.Get(srv.URL + probe.HTTPGet.Path)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK || probe.HTTPGet.Port != intstr.FromString("admin") {
				t.Errorf("the %s probe asks for %s of port %s: %s", name, probe.HTTPGet.Path, probe.HTTPGet.Port.String(), resp.Status)
			}
		}
		if main.LivenessProbe.HTTPGet.Path == main.ReadinessProbe.HTTPGet.Path {
			t.Error("a store that is away would have replicas restarted")
		}
		for _, p := range m.pods {
			for _, c := range p.Spec.Containers {
				if p.kind == "StatefulSet" && c.ReadinessProbe == nil {
					t.Errorf("%s has no readiness probe", p)
				}
			}
		}
	})
}

// Selectors select, and named ports are there.
func TestSelectors(t *testing.T) {
	onEach(t, func(t *testing.T, _ string, m manifest) {
		selected := func(s *metav1.LabelSelector) []pod {
			selector, err := metav1.LabelSelectorAsSelector(s)
			if err != nil {
				t.Fatal(err)
			}
			return slices.DeleteFunc(slices.Clone(m.pods), func(p pod) bool { return !selector.Matches(labels.Set(p.Labels)) })
		}
		hasPort := func(pods []pod, port intstr.IntOrString) bool {
			return slices.ContainsFunc(pods, func(p pod) bool {
				return slices.ContainsFunc(p.Spec.Containers, func(c corev1.Container) bool {
					return slices.ContainsFunc(c.Ports, func(cp corev1.ContainerPort) bool {
						return port.StrVal != "" && cp.Name == port.StrVal || port.StrVal == "" && cp.ContainerPort == port.IntVal
					})
				})
			})
		}
		api := func(what string, pods []pod) {
			t.Helper()
			if len(pods) != 1 || pods[0].kind != "Deployment" || pods[0].name != "helloapi" {
				t.Errorf("%s is for %v", what, pods)
			}
		}
		for _, s := range all[*corev1.Service](m) {
			pods := selected(&metav1.LabelSelector{MatchLabels: s.Spec.Selector})
			if len(pods) != 1 || pods[0].name != s.Name {
				t.Errorf("Service %s selects %v", s.Name, pods)
			}
			for _, port := range s.Spec.Ports {
				target := port.TargetPort
				if target == (intstr.IntOrString{}) {
					target = intstr.FromInt32(port.Port)
				}
				if !hasPort(pods, target) {
					t.Errorf("Service %s: there is no port %s", s.Name, target.String())
				}
				if target.StrVal == "admin" {
					t.Errorf("Service %s leads to the internal listener", s.Name)
				}
			}
		}
		d := one[*appsv1.Deployment](t, m, "helloapi")
		api("the Deployment", selected(d.Spec.Selector))
		api("the disruption budget", selected(one[*policyv1.PodDisruptionBudget](t, m, "helloapi").Spec.Selector))
		for _, c := range d.Spec.Template.Spec.TopologySpreadConstraints {
			api("the spread", selected(c.LabelSelector))
		}
		for _, s := range all[*appsv1.StatefulSet](m) {
			if pods := selected(s.Spec.Selector); len(pods) != 1 || pods[0].name != s.Name {
				t.Errorf("StatefulSet %s selects %v", s.Name, pods)
			}
			if s.Spec.ServiceName != one[*corev1.Service](t, m, s.Name).Name {
				t.Errorf("StatefulSet %s has Service %q", s.Name, s.Spec.ServiceName)
			}
			keep := appsv1.RetainPersistentVolumeClaimRetentionPolicyType
			if r := s.Spec.PersistentVolumeClaimRetentionPolicy; r == nil || r.WhenDeleted != keep || r.WhenScaled != keep {
				t.Errorf("StatefulSet %s does not keep its volumes", s.Name)
			}
		}

		// Nothing is open that no policy opens, and each policy is for a pod.
		deny := one[*networkingv1.NetworkPolicy](t, m, "deny").Spec
		if len(deny.PodSelector.MatchLabels)+len(deny.PodSelector.MatchExpressions)+len(deny.Ingress)+len(deny.Egress) != 0 || len(deny.PolicyTypes) != 2 {
			t.Errorf("the policy that denies is %+v", deny)
		}
		for _, policy := range all[*networkingv1.NetworkPolicy](m) {
			pods := selected(&policy.Spec.PodSelector)
			if len(pods) == 0 {
				t.Errorf("NetworkPolicy %s is for no pod", policy.Name)
			}
			for _, in := range policy.Spec.Ingress {
				for _, port := range in.Ports {
					if !hasPort(pods, *port.Port) {
						t.Errorf("NetworkPolicy %s: there is no port %s", policy.Name, port.Port.String())
					}
					if port.Port.StrVal == "admin" && len(in.From) == 0 {
						t.Errorf("NetworkPolicy %s opens the internal listener to all", policy.Name)
					}
				}
			}
			for _, out := range policy.Spec.Egress {
				for _, to := range out.To {
					if to.PodSelector == nil {
						continue
					}
					for _, port := range out.Ports {
						if !hasPort(selected(to.PodSelector), *port.Port) {
							t.Errorf("NetworkPolicy %s leads to port %s, which is not there", policy.Name, port.Port.String())
						}
					}
				}
			}
		}
		for _, route := range all[*gatewayv1.HTTPRoute](m) {
			gateway := one[*gatewayv1.Gateway](t, m, string(route.Spec.ParentRefs[0].Name))
			if !slices.ContainsFunc(gateway.Spec.Listeners, func(l gatewayv1.Listener) bool { return l.Name == *route.Spec.ParentRefs[0].SectionName }) {
				t.Errorf("HTTPRoute %s is for no listener", route.Name)
			}
			for _, rule := range route.Spec.Rules {
				for _, backend := range rule.BackendRefs {
					service := one[*corev1.Service](t, m, string(backend.Name))
					if !slices.ContainsFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == *backend.Port }) {
						t.Errorf("HTTPRoute %s leads to port %d", route.Name, *backend.Port)
					}
				}
			}
		}
	})
}

// A pod that is told to stop has the time for it, and requests end first.
func TestDrainFits(t *testing.T) {
	onEach(t, func(t *testing.T, _ string, m manifest) {
		settings := m.settings(t)
		setting := func(name string) time.Duration {
			d, err := time.ParseDuration(settings[name])
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return d
		}
		d := one[*appsv1.Deployment](t, m, "helloapi").Spec
		spec := d.Template.Spec
		main := spec.Containers[0]
		preStop := time.Duration(main.Lifecycle.PreStop.Sleep.Seconds) * time.Second
		grace := time.Duration(*spec.TerminationGracePeriodSeconds) * time.Second
		if stop := preStop + setting("DRAIN_DELAY") + setting("DRAIN_TIMEOUT") + closing; stop > grace {
			t.Errorf("stopping takes up to %v and is cut off after %v", stop, grace)
		}
		if setting("REQUEST_TIMEOUT") >= setting("DRAIN_TIMEOUT") {
			t.Error("a request may take as long as DRAIN_TIMEOUT")
		}
		probe := main.ReadinessProbe
		if unready := time.Duration(probe.PeriodSeconds*probe.FailureThreshold) * time.Second; setting("DRAIN_DELAY") < unready {
			t.Errorf("a balancer that asks as readiness probes do notices after %v, and DRAIN_DELAY is less", unready)
		}
		for _, route := range all[*gatewayv1.HTTPRoute](m) {
			for _, rule := range route.Spec.Rules {
				if rule.Timeouts == nil || rule.Timeouts.Request == nil {
					if len(rule.BackendRefs) > 0 {
						t.Errorf("HTTPRoute %s has no timeout", route.Name)
					}
					continue
				}
				if limit, err := time.ParseDuration(string(*rule.Timeouts.Request)); err != nil || limit <= setting("REQUEST_TIMEOUT") {
					t.Errorf("HTTPRoute %s gives up after %v (%v)", route.Name, limit, err)
				}
				if rule.Retry != nil {
					t.Errorf("HTTPRoute %s sends requests twice", route.Name)
				}
			}
		}
		if r := d.Strategy.RollingUpdate; r == nil || r.MaxUnavailable.IntValue() != 0 {
			t.Error("a rollout takes a replica away before there is another")
		}
	})
}

// The autoscaler says how many, and the database has connections for all.
func TestConnectionBudget(t *testing.T) {
	scaling := read(t, "docs/scaling.md")
	if !strings.Contains(read(t, "internal/postgres/postgres.go"), fmt.Sprintf("maxConns = %d\n", connections-1)) {
		t.Errorf("the pool of a replica is not of %d connections", connections-1)
	}
	onEach(t, func(t *testing.T, overlay string, m manifest) {
		d := one[*appsv1.Deployment](t, m, "helloapi")
		if d.Spec.Replicas != nil {
			t.Error("an apply would set the number of replicas back")
		}
		hpa := one[*autoscalingv2.HorizontalPodAutoscaler](t, m, "helloapi").Spec
		if ref := hpa.ScaleTargetRef; ref.Kind != "Deployment" || ref.Name != d.Name || ref.APIVersion != "apps/v1" {
			t.Errorf("the autoscaler is for %+v", ref)
		}
		if budget := one[*policyv1.PodDisruptionBudget](t, m, "helloapi").Spec.MaxUnavailable; budget.IntVal >= *hpa.MinReplicas {
			t.Errorf("%s of %d replicas may be away", budget, *hpa.MinReplicas)
		}
		// During a rollout there may be as many that stop as there are that serve.
		need := 2*int(hpa.MaxReplicas)*connections + others
		if overlay != "local" {
			if want := fmt.Sprintf("`max_connections` of %d", need); !strings.Contains(scaling, want) {
				t.Errorf("docs/scaling.md does not ask for a %s", want)
			}
			return
		}
		args := strings.Join(one[*appsv1.StatefulSet](t, m, "postgres").Spec.Template.Spec.Containers[0].Args, " ")
		var have int
		if _, err := fmt.Sscanf(args, "-c max_connections=%d", &have); err != nil {
			t.Fatal(err)
		}
		if need > have {
			t.Errorf("PostgreSQL has %d connections, and %d may be needed", have, need)
		}
	})
}

// A Job that has done its work goes, so that it can be made anew.
func TestJobs(t *testing.T) {
	onEach(t, func(t *testing.T, _ string, m manifest) {
		api := one[*appsv1.Deployment](t, m, "helloapi").Spec.Template.Spec
		for name, args := range map[string]string{"helloapi-migrate": "migrate", "helloapi-plans": "apply"} {
			job := one[*batchv1.Job](t, m, name).Spec
			if job.TTLSecondsAfterFinished == nil {
				t.Errorf("Job %s stays", name)
			}
			main := job.Template.Spec.Containers[0]
			if main.Image != api.Containers[0].Image || main.Args[0] != args {
				t.Errorf("Job %s runs %s of %s", name, main.Args, main.Image)
			}
		}
		if init := api.InitContainers[0]; !slices.Equal(init.Args[:2], []string{"migrate", "status"}) || init.Image != api.Containers[0].Image {
			t.Errorf("new code does not wait for the schema: %s", init.Args)
		}
	})
}

// The plans file of the ConfigMap is one that apply takes, with the variables
// that the Secret has.
func TestPlans(t *testing.T) {
	onEach(t, func(t *testing.T, overlay string, m manifest) {
		pod := one[*batchv1.Job](t, m, "helloapi-plans").Spec.Template.Spec
		main := pod.Containers[0]
		values := map[string]string{"TESTKEY1": "a-value-of-at-least-20", "TESTKEY2": "another-value-of-the-like"}
		if overlay == "local" {
			values = map[string]string{}
			for name, value := range one[*corev1.Secret](t, m, main.EnvFrom[0].SecretRef.Name).Data {
				values[name] = string(value)
			}
		}
		asked := map[string]bool{}
		env := func(name string) string { asked[name] = true; return values[name] }
		plans := one[*corev1.ConfigMap](t, m, pod.Volumes[0].ConfigMap.Name).Data
		if want := main.VolumeMounts[0].MountPath + "/plans.yaml"; len(plans) != 1 || !slices.Equal(main.Args, []string{"apply", "-f", want, "--conceal", "--yes"}) {
			t.Errorf("the Job runs %s", main.Args)
		}
		f, err := planfile.Read("plans.yaml", []byte(plans["plans.yaml"]), planfile.Options{Env: env})
		if err != nil {
			t.Fatal(err)
		}
		if len(f.Plans) == 0 || f.Source == "" || len(asked) != len(values) {
			t.Errorf("%d plans, a file known as %q, variables %v", len(f.Plans), f.Source, asked)
		}
		for _, k := range f.Keys {
			if k.Value == nil {
				t.Errorf("key %s has no value", k.Name)
			}
		}
	})
	// What the local overlay's Secrets say is what the docs tell to paste.
	operations := read(t, "docs/operations.md")
	if value := "testkey1-local-for-everyone"; !strings.Contains(operations, value) || !strings.Contains(read(t, "deploy/kubernetes/overlays/local/kustomization.yaml"), value) {
		t.Errorf("docs/operations.md does not show the key %s", value)
	}
}

// Alerts are about metrics that there are, and are explained.
func TestAlerts(t *testing.T) {
	alerts, operations := read(t, "deploy/prometheus/alerts.yaml"), read(t, "docs/operations.md")
	source := map[string]bool{}
	for _, top := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			code, err := os.ReadFile(path)
			for _, name := range regexp.MustCompile(`"(helloapi_[a-z_]+)"`).FindAllSubmatch(code, -1) {
				source[string(name[1])] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	metric := regexp.MustCompile(`\bhelloapi_[a-z_]+`)
	for _, text := range []string{alerts, operations} {
		for _, name := range metric.FindAllString(text, -1) {
			if name = strings.TrimSuffix(name, "_bucket"); !source[name] && !roles[name] {
				t.Errorf("%s is no metric", name)
			}
		}
	}
	names := regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(alerts, -1)
	if len(names) == 0 {
		t.Error("there are no alerts")
	}
	for _, name := range names {
		if !strings.Contains(operations, "### "+name[1]+"\n") {
			t.Errorf("docs/operations.md does not explain %s", name[1])
		}
	}
	if explained := strings.Count(operations, "### Helloapi"); explained != len(names) {
		t.Errorf("there are %d alerts, and %d are explained", len(names), explained)
	}
}

// roles are names in the docs that look like a metric's.
var roles = map[string]bool{"helloapi_owner": true, "helloapi_serve": true, "helloapi_serve_b": true}

func read(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
