package main

import (
	"os"
	"slices"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
)

// docker-compose.yml passes on every setting of serve, and no other.
func TestComposeSettings(t *testing.T) {
	t.Parallel()
	// Files that are not in the container, and what is set for it otherwise.
	not := []string{"MIGRATE", "PLANS_FILE", "PPROF", "TLS_CERT_FILE", "TLS_KEY_FILE", "ACME_CA_FILE"}

	data, err := os.ReadFile("../../docker-compose.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Services map[string]struct {
			Environment     map[string]*string
			StopGracePeriod string `yaml:"stop_grace_period"`
		}
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	api := file.Services["api"]
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
		if !slices.Contains(settings, name) {
			t.Errorf("docker-compose.yml: %s is no setting of serve", name)
		}
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
