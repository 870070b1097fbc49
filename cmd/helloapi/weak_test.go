package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"helloapi/internal/backendtest"
)

// A value that can be guessed is no new key's; one that customers have already
// is taken with a warning. Neither text has it.
func TestWeakValues(t *testing.T) {
	t.Parallel()
	weak := strings.Repeat("a", 25)
	dir := t.TempDir()
	for name, content := range map[string]string{
		"value":          weak,
		"plans.yaml":     "plans:\n  free:\n    keys: [{name: ann, value: " + weak + "}]\n",
		"serverless.yml": "service: shop\nprovider:\n  name: aws\n  apiGateway:\n    apiKeys: [{name: bob, value: " + weak + "}]\n",
		"keys.csv":       "name,key\ncid," + weak + "a\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	url := backendtest.SQLite(t)
	must(t, url, "migrate")
	env := map[string]string{"DATABASE_URL": url}
	for _, args := range [][]string{
		{"keys", "create", "ann", "--plan", "free", "--value-file", dir + "/value"},
		{"apply", "-f", dir + "/plans.yaml"},
	} {
		if _, _, err := helloapi(t, env, args...); err == nil || !strings.Contains(err.Error(), "must not repeat itself") || strings.Contains(err.Error(), "aaaa") {
			t.Errorf("%q: %v", args, err)
		}
	}
	for _, args := range [][]string{
		{"apply", "-f", dir + "/serverless.yml"},
		{"import", "keys", dir + "/keys.csv", "--plan", "free"},
	} {
		out, stderr, err := helloapi(t, env, args...)
		if err != nil || !strings.Contains(stderr, "rotate it soon") || strings.Contains(out+stderr, "aaaa") {
			t.Errorf("%q: %v\n%s%s", args, err, out, stderr)
		}
	}
	for name, k := range listKeys(t, url) {
		if strings.HasPrefix(k.ValuePrefix, "aaaa") {
			t.Errorf("of %s %q is shown", name, k.ValuePrefix)
		}
	}
}
