package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
)

// docker-compose.yml passes on every setting of serve, those of TLS with
// deploy/compose/tls.yml, and no other. Replicas believe the balancer, and nobody
// else on its network.
func TestComposeSettings(t *testing.T) {
	t.Parallel()
	// Files that are not in the container, and what is set for it otherwise.
	not := []string{"MIGRATE", "PLANS_FILE", "PPROF", "TLS_CERT_FILE", "TLS_KEY_FILE", "ACME_CA_FILE"}

	type service struct {
		Environment     map[string]*string
		Networks        any
		StopGracePeriod string `yaml:"stop_grace_period"`
	}
	services := func(path string) map[string]service {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var file struct{ Services map[string]yaml.Node }
		if err := yaml.Unmarshal(data, &file); err != nil {
			t.Fatal(err)
		}
		found := map[string]service{}
		for _, name := range []string{"api", "balancer"} {
			var s service
			if node, ok := file.Services[name]; ok {
				if err := node.Decode(&s); err != nil {
					t.Fatalf("%s: %s: %v", path, name, err)
				}
			}
			found[name] = s
		}
		return found
	}
	base := services("../../docker-compose.yml")
	api := base["api"]
	inClear := slices.Sorted(maps.Keys(api.Environment))
	for name, value := range services("../../deploy/compose/tls.yml")["api"].Environment {
		if slices.Contains(inClear, name) {
			t.Errorf("%s is in both files", name)
		}
		api.Environment[name] = value
	}
	parser, err := newParser(&commands{})
	if err != nil {
		t.Fatal(err)
	}
	var settings []string
	for _, cmd := range parser.Model.Children {
		if cmd.Name == "serve" {
			for _, flag := range cmd.Flags {
				settings = append(settings, variable(flag))
			}
		}
	}
	for _, name := range settings {
		if _, passed := api.Environment[name]; passed == slices.Contains(not, name) {
			t.Errorf("docker-compose.yml: %s is passed to api: %v", name, passed)
		}
	}
	for name := range api.Environment {
		if !slices.Contains(settings, name) && name != "HELLOAPI_COMMAND" {
			t.Errorf("docker-compose.yml: %s is no setting of serve", name)
		}
	}

	proxies := strings.Split(*api.Environment["TRUSTED_PROXIES"], ",")
	if balancer := fmt.Sprint(base["balancer"].Networks); len(proxies) != 2 || proxies[1] != "${TRUSTED_PROXIES:-}" || balancer != "map[api:map[ipv4_address:"+proxies[0]+"]]" {
		t.Errorf("docker-compose.yml: the balancer is at %s, and replicas trust %q", balancer, proxies)
	}

	// A replica that is told to stop has the time that it takes.
	var times [3]time.Duration
	for i, s := range []*string{api.Environment["DRAIN_DELAY"], api.Environment["DRAIN_TIMEOUT"], &api.StopGracePeriod} {
		if s == nil {
			t.Fatal("docker-compose.yml: the times to stop are not set")
		}
		if times[i], err = time.ParseDuration(*s); err != nil {
			t.Fatal(err)
		}
	}
	if times[0]+times[1] >= times[2] {
		t.Errorf("docker-compose.yml: a drain takes up to %v, and is cut off after %v", times[0]+times[1], times[2])
	}
}
