package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"helloapi/internal/backendtest"
)

// notRun are the blocks of the docs that TestDocsRun does not run, by why, each
// as its page and first line.
var notRun = map[string][]string{
	"run by TestREADMECurl": {
		"README.md: $ curl -H 'x-api-key: hk_…' 'http://localhost:8080/hello?name=brooks'",
		"README.md: $ curl -i -H 'x-api-key: hk_…' 'http://localhost:8080/hello?name=brooks'",
	},
	"needs Docker: make e2e runs docker-compose.yml": {
		"README.md: $ docker compose up -d",
		"docs/compose.md: docker compose run --rm helloapi keys rotate testkey1",
		"docs/compose.md: docker compose exec -e HELLOAPI_OWNER_PASSWORD=… -e HELLOAPI_SERVE_PASSWORD=… postgres \\",
		"docs/compose.md: echo LOG_FORMAT=json >> .env",
		"docs/compose.md: echo REPLICAS=5 >> .env",
		"docs/compose.md: $ deploy/compose/roll",
		"docs/compose.md: git pull && make upgrade",
		"docs/compose.md: docker compose exec -T postgres pg_dump -U postgres -Fc helloapi > helloapi.dump",
		"docs/compose.md: docker run -d --name helloapi --read-only -v helloapi:/data -p 8080:8080 helloapi",
	},
	"needs a cluster: make e2e-kubernetes runs the overlay": {
		"README.md: make deploy                       # deploy/kubernetes/overlays/local, with a PostgreSQL and a Redis of its own",
		"docs/operations.md: make image",
		"docs/operations.md: HELLOAPI_OWNER_PASSWORD=… HELLOAPI_SERVE_PASSWORD=… psql -d helloapi -f deploy/postgres/roles.sql",
		"docs/operations.md: kubectl -n helloapi rollout undo deployment/helloapi     # at once",
	},
	"needs a domain and a public CA; systemtest/acme has a CA of its own": {
		"docs/tls.md: $ curl https://api.example.com/hello -H 'x-api-key: hk_…'",
		"docs/tls.md: $ helloapi certs list",
	},
	"runs this test, or takes minutes": {
		"README.md: make test    # every test, with the race detector, on a real PostgreSQL and Redis",
		"docs/performance.md: make bench                # 8 minutes",
	},
	"builds and serves on the port that people use": {
		"README.md: make run",
	},
}

// elsewhere are the pages that other tests run as a whole.
var elsewhere = map[string]string{
	"docs/commands.md":      "TestDocsJSON",
	"docs/your-endpoint.md": "TestYourEndpoint",
}

// A docPage is what the commands of a page take for granted.
type docPage struct {
	files  map[string]string // by name; their modes are those of programs
	before string            // commands
	env    []string
	either bool // it is about either database, where it names none
}

const standInCA = "https://127.0.0.1:1/directory" // nobody answers

// docPages have what each page takes for granted; most take nothing.
var docPages = map[string]docPage{
	"README.md": {
		files: map[string]string{"serverless.yml": docServerless},
		before: `
			helloapi plans create PLAN
			helloapi plans create OTHER --limit 1000`,
	},
	"docs/from-serverless.md": {
		files: map[string]string{
			"serverless.yml": docServerless,
			"keys.csv":       "name,key,description,Enabled,usageplanIds\ntestkey1,apikey1234abcdefghij0123456789,An imported key,TRUE,c7y23b\ntestkey2,apikey5678abcdefghij0123456789,,TRUE,x1a2b3\n",
			// What the framework and the cloud's own program would print.
			"bin/serverless": "#!/bin/sh\n[ \"$*\" = 'print --stage prod' ] && cat serverless.yml\n",
			"bin/aws": `#!/bin/sh -e
case "$1 $2" in
"apigateway get-api-keys") echo '{"items": [{"id": "a1", "name": "testkey1", "value": "apikey1234abcdefghij0123456789", "enabled": true, "stageKeys": []}]}' ;;
"dynamodb export-table-to-point-in-time") echo '{"ExportDescription": {"ExportStatus": "IN_PROGRESS"}}' ;;
"s3 cp") mkdir -p "$5/01700000000000-0a1b2c3d/data"; echo '{"Item":{"name":{"S":"brooks"},"greeting_count":{"N":"5"}}}' | gzip >"$5/01700000000000-0a1b2c3d/data/a.json.gz" ;;
*) exit 1 ;;
esac
`,
		},
		before: `
			mkdir first last
			echo '{"Item":{"name":{"S":"brooks"},"greeting_count":{"N":"5"}}}' | gzip >first/a.json.gz
			echo '{"Item":{"name":{"S":"brooks"},"greeting_count":{"N":"7"}}}' | gzip >last/a.json.gz`,
		either: true,
		env:    []string{"TABLE_ARN=arn:aws:dynamodb:eu-central-1:1:table/t", "BUCKET=bucket"},
	},
	"docs/keys.md":  {either: true, files: map[string]string{"value.txt": "value-of-a-partner-0123456789\n"}},
	"docs/plans.md": {either: true, env: []string{"PARTNER_KEY=partner-value-0123456789"}},
}

const docServerless = `
service: hello
provider:
  name: aws
  apiGateway:
    apiKeys:
      - free: [testkey1]
      - paid: [testkey2]
    usagePlan:
      - free: {quota: {limit: 5, period: DAY}, throttle: {rateLimit: 5, burstLimit: 5}}
      - paid: {quota: {limit: 5000, period: DAY}, throttle: {rateLimit: 100, burstLimit: 200}}
`

// standInServe is helloapi in the docs' commands. One that serves does so in
// the background, as in another terminal of a person's.
const standInServe = `#!/bin/bash -e
if [ "$1" != serve ]; then exec "$PROGRAM" "$@"; fi
if [ -e serving ]; then
	kill "$(cat serving)"
	while kill -0 "$(cat serving)" 2>/dev/null; do sleep 0.05; done
fi
if [ -n "$TLS_DOMAINS" ]; then export ACME_DIRECTORY_URL=${ACME_DIRECTORY_URL:-` + standInCA + `}; fi
log=$(mktemp serve-XXXXXX.log)
"$PROGRAM" "$@" >"$log" 2>&1 </dev/null &
echo $! >serving
until grep -q msg=serving "$log"; do
	kill -0 $! 2>/dev/null || { cat "$log"; rm serving; exit 1; }
	sleep 0.05
done
`

var docBlock = regexp.MustCompile("(?ms)^ *```(sh|console)\n(.*?)^ *```$")

// TestDocsRun runs what README.md and the pages of docs have in blocks of
// commands, page by page and in their order, on a terminal, where a person says
// yes to what is asked. Only addresses are others than those that are printed.
func TestDocsRun(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[string]string{}
	for reason, all := range notRun {
		for _, b := range all {
			reasons[b] = reason
		}
	}
	stale := maps.Clone(reasons)
	toRun := map[string][]string{} // by page
	n := 0
	for _, path := range append(pages, "../../README.md") {
		page := strings.TrimPrefix(path, "../../")
		if _, ok := elsewhere[page]; ok {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range docBlock.FindAllStringSubmatch(string(text), -1) {
			first, _, _ := strings.Cut(strings.TrimSpace(m[2]), "\n")
			if key := page + ": " + first; reasons[key] != "" {
				delete(stale, key)
				continue
			}
			if m[1] == "console" {
				t.Errorf("%s: a block with output that no test compares:\n%s", page, m[2])
			}
			n++
			toRun[page] = append(toRun[page], m[2])
		}
	}
	if len(stale) > 0 {
		t.Errorf("no such blocks: %v", stale)
	}
	t.Logf("%d blocks are run, %d are not", n, len(reasons))
	if n < 15 || len(reasons) > 20 {
		t.Errorf("%d blocks are run, and %d are not", n, len(reasons))
	}
	for page := range docPages {
		if len(toRun[page]) == 0 {
			t.Errorf("%s has no block to run", page)
		}
	}
	for page, commands := range toRun {
		t.Run(filepath.Base(page)+"/SQLite", func(t *testing.T) {
			t.Parallel()
			runPage(t, page, commands, true)
		})
		if docPages[page].either {
			t.Run(filepath.Base(page)+"/Postgres", func(t *testing.T) {
				t.Parallel()
				runPage(t, page, commands, false)
			})
		}
	}
}

// runPage runs blocks of commands in a folder and with databases of their own.
func runPage(t *testing.T, page string, commands []string, onSQLite bool) {
	dir := t.TempDir()
	deploy, err := filepath.Abs("../../deploy")
	if err != nil {
		t.Fatal(err)
	}
	take := docPages[page]
	files := maps.Clone(take.files)
	if files == nil {
		files = map[string]string{}
	}
	files["bin/helloapi"] = standInServe
	files["plans.yaml"] = blocks(t, "../../docs/plans.md", "yaml")[0]
	if err := os.Symlink(deploy, filepath.Join(dir, "deploy")); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if pid, err := os.ReadFile(filepath.Join(dir, "serving")); err == nil {
			_ = exec.Command("kill", "-9", strings.TrimSpace(string(pid))).Run()
		}
	})
	// The addresses of the docs, and what stands in for them.
	postgres, sqlite := backendtest.Postgres(t), backendtest.SQLite(t)
	backendtest.Migrate(t, sqlite)
	url := postgres
	if onSQLite {
		url = sqlite
	}
	addresses := strings.NewReplacer(
		"postgres://helloapi:password@db:5432/helloapi", shellWord(postgres),
		"postgres://helloapi_owner:owner-local@localhost:5432/helloapi", shellWord(postgres),
		"DATABASE_URL=postgres://…", "DATABASE_URL="+shellWord(postgres),
		"redis://redis:6379/0", shellWord(backendtest.RedisURL(t)),
		"https://acme-staging-v02.api.letsencrypt.org/directory", standInCA,
		"helloapi backup", "DATABASE_URL="+shellWord(sqlite)+" helloapi backup",
	)
	env := append([]string{
		"PATH=" + filepath.Join(dir, "bin") + ":" + os.Getenv("PATH"), "PROGRAM=" + executable(t), asProgram + "=1",
		"DATABASE_URL=" + url, "OWNER_DATABASE_URL=" + postgres, "HOME=" + dir,
		"ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0", "TLS_ADDR=127.0.0.1:0", "HTTP_ADDR=127.0.0.1:0",
	}, take.env...)
	for _, block := range append([]string{take.before}, commands...) {
		cmd := exec.Command("bash", "-ec", "set -o pipefail; trap 'echo FAILED: \"$BASH_COMMAND\"' ERR\n"+addresses.Replace(block))
		cmd.Dir, cmd.Env = dir, env
		if seen, err := withPerson(t, cmd); err != nil {
			t.Errorf("%s: %v in\n%s\n%s", page, err, block, seen)
		}
	}
}

// withPerson runs a command on a terminal, for a person who says yes to what it
// asks, and types the last key's value that they saw or that there is. It
// returns what they see.
func withPerson(t *testing.T, cmd *exec.Cmd) (string, error) {
	t.Helper()
	person, program := terminal(t)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = program, program, program
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		fmt.Fprint(program, "\x00") // all that was written before is read before
		ended <- err
	}()
	var seen strings.Builder
	answered := 0 // how much of it
	b := make([]byte, 4096)
	if err := person.SetReadDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	for !strings.HasSuffix(seen.String(), "\x00") {
		n, err := person.Read(b)
		if err != nil {
			_ = cmd.Process.Kill()
			return seen.String(), errors.Join(err, <-ended)
		}
		seen.Write(b[:n])
		answer := ""
		switch asked := seen.String()[answered:]; {
		case strings.HasSuffix(asked, "[y/N] "):
			answer = "y\n"
		case strings.HasSuffix(asked, valuePrompt):
			values := keyValue.FindAllString(seen.String(), -1)
			answer = values[len(values)-1] + "\n"
		default:
			continue
		}
		answered = seen.Len()
		if _, err := person.WriteString(answer); err != nil {
			t.Fatal(err)
		}
	}
	return strings.TrimSuffix(seen.String(), "\x00"), <-ended
}
