package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"helloapi/internal/apikey"
	"helloapi/internal/backendtest"
	"helloapi/internal/planfile"
)

// write writes a file of the test and returns its path.
func write(t testing.TB, name, data string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// refused runs a command that has to fail, and wants each of the texts in the
// error.
func refused(t testing.TB, env map[string]string, args []string, want ...string) {
	t.Helper()
	out, stderr, err := helloapi(t, env, args...)
	if err == nil {
		t.Errorf("helloapi %q succeeded: %s%s", args, out, stderr)
		return
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("helloapi %q: %v\nwant %q", args, err, w)
		}
	}
}

func listKeys(t testing.TB, url string) map[string]keyInfo {
	t.Helper()
	var keys []keyInfo
	if err := json.Unmarshal([]byte(must(t, url, "keys", "list", "-o", "json")), &keys); err != nil {
		t.Fatal(err)
	}
	byName := map[string]keyInfo{}
	for _, k := range keys {
		byName[k.Name] = k
	}
	return byName
}

func TestApply(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		const secret = "partner-value-0123456789"
		env := map[string]string{"DATABASE_URL": url, "PARTNER_KEY": secret}
		file := write(t, "plans.yaml", `
name: shop
plans:
  gold:
    quota: {limit: 5, period: MONTH}
    keys:
      - ann
      - it's $HOME
      - name: partner
        value: ${env:PARTNER_KEY}
        enabled: false
`)
		const lines = `+ plan gold: 5 a month; no throttle
+ key ann: on plan gold
+ key it's $HOME: on plan gold
+ key partner: on plan gold, disabled
`
		out, _, err := helloapi(t, env, "apply", "-f", file, "--dry-run")
		if err != nil || out != lines+"4 to add, 0 to change, 0 to remove.\n" {
			t.Errorf("dry run: %v\n%s", err, out)
		}
		if keys := listKeys(t, url); len(keys) != 0 {
			t.Fatalf("a dry run made keys: %v", keys)
		}

		out, stderr, err := helloapi(t, env, "apply", "-f", file)
		if err != nil || !strings.HasPrefix(out, lines+"4 added, 0 changed, 0 removed.\n\nThe values of the new keys, shown this once:\n\n") || stderr != "" {
			t.Fatalf("apply: %v\n%s%s", err, out, stderr)
		}
		values := keyValue.FindAllString(out, -1)
		if len(values) != 2 || strings.Contains(out, secret) {
			t.Fatalf("values %q in\n%s", values, out)
		}
		for _, again := range [][]string{{}, {"--prune"}, {"--dry-run"}, {"--conceal"}} {
			out, stderr, err := helloapi(t, env, append([]string{"apply", "-f", file}, again...)...)
			if err != nil || out != "Nothing to do: plans and keys are as the file says.\n" || stderr != "" {
				t.Errorf("again %v: %v\n%s%s", again, err, out, stderr)
			}
		}

		// Concealed: how to come by a value instead. It works when pasted.
		must(t, url, "keys", "delete", "--yes", "it's $HOME")
		out, _, err = helloapi(t, env, "apply", "-f", file, "--conceal")
		if err != nil || keyValue.MatchString(out) || !strings.Contains(out, `  helloapi keys rotate 'it'\''s $HOME'`+"\n") {
			t.Errorf("concealed: %v\n%s", err, out)
		}
		// In a file, which can be imported.
		must(t, url, "keys", "delete", "ann", "--yes")
		keysFile := filepath.Join(t.TempDir(), "keys.csv")
		out, _, err = helloapi(t, env, "apply", "-f", file, "--keys-file", keysFile)
		if err != nil || keyValue.MatchString(out) || !strings.Contains(out, keysFile) {
			t.Errorf("in a file: %v\n%s", err, out)
		}
		info, err := os.Stat(keysFile)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("the file of keys: %v, %v", info, err)
		}
		data, err := os.ReadFile(keysFile)
		if err != nil {
			t.Fatal(err)
		}
		rows, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
		if err != nil || len(rows) != 2 || rows[1][0] != "ann" || rows[1][1][:8] != listKeys(t, url)["ann"].ValuePrefix {
			t.Errorf("the file of keys: %v, %q", err, rows)
		}
		must(t, url, "keys", "delete", "ann", "--yes")
		refused(t, env, []string{"apply", "-f", file, "--keys-file", keysFile}, "is there already", "nothing was changed")
		if _, ok := listKeys(t, url)["ann"]; ok {
			t.Error("a key was made though its value could not be written")
		}
		if out := must(t, url, "import", "keys", keysFile, "--plan", "gold"); !strings.Contains(out, "+ key ann: on plan gold") {
			t.Errorf("import of the file of keys:\n%s", out)
		}

		var shown applied
		must(t, url, "keys", "delete", "ann", "--yes")
		out, _, err = helloapi(t, env, "apply", "-f", file, "-o", "json")
		if err := errors.Join(err, json.Unmarshal([]byte(out), &shown)); err != nil {
			t.Fatal(err)
		}
		if _, err := apikey.Parse(shown.Keys[0].Value); err != nil || shown.Keys[0].Name != "ann" ||
			!cmp.Equal(shown.Changes, []planfile.Line{{Op: "add", Kind: "key", Name: "ann", Text: "on plan gold"}}) {
			t.Errorf("as JSON: %+v, %v", shown, err)
		}
		must(t, url, "keys", "delete", "ann", "--yes")
		if out, _, err = helloapi(t, env, "apply", "-f", file, "-o", "json", "--conceal"); err != nil || keyValue.MatchString(out) {
			t.Errorf("as JSON, concealed: %v\n%s", err, out)
		}

		// What is wrong is said with its line, and nothing is changed.
		bad := write(t, "bad.yaml", "plans:\n  gold: {quota: {limit: 7, period: MONTH}}\n  free:\n    keys:\n      - {name: eve, value: short}\n")
		refused(t, env, []string{"apply", "-f", bad}, bad+":5: a key's value can't be used", "nothing was changed")
		refused(t, map[string]string{"DATABASE_URL": url}, []string{"apply", "-f", file}, file+":10: ${env:PARTNER_KEY} is not in the environment")
		taken := write(t, "taken.yaml", "plans:\n  gold: {quota: {limit: 7, period: MONTH}}\n  free:\n    keys:\n      - {name: eve, value: "+secret+"}\n")
		refused(t, env, []string{"apply", "-f", taken}, taken+`:5: the value of key "eve" opens key "partner" already`, "nothing was changed")
		refused(t, env, []string{"apply", "-f", "/nowhere/plans.yaml"}, "/nowhere/plans.yaml")
		refused(t, env, []string{"apply"}, "--file")
		refused(t, env, []string{"apply", "-f", "-", "--prune"}, "standard input:1: the file is empty")
		if out := must(t, url, "plans", "list"); !strings.Contains(out, "gold   5 a month") {
			t.Errorf("a file that was refused changed plans:\n%s", out)
		}

		// From standard input, for another stage, with an option.
		var stdout, errOut bytes.Buffer
		err = run(t.Context(), []string{"apply", "-f", "-", "--stage", "prod", "--opt", "who=joe", "--database-url", url}, func(string) string { return "" },
			strings.NewReader("service: s\nprovider:\n  apiGateway:\n    apiKeys: ['${opt:who}']\n"), &stdout, &errOut)
		if err != nil || !strings.HasPrefix(stdout.String(), "+ plan s-prod: no limits\n+ key joe: on plan s-prod\n") {
			t.Errorf("from standard input: %v\n%s%s", err, &stdout, &errOut)
		}
		err = run(t.Context(), []string{"apply", "-f", "-", "--prune", "--database-url", url}, func(string) string { return "" },
			strings.NewReader("plans: {free: {}}"), &stdout, &errOut)
		if err == nil || !strings.Contains(err.Error(), "add name: NAME") {
			t.Errorf("pruning from standard input: %v", err)
		}

		// --prune removes what the file made, wherever it is now.
		less := write(t, "moved.yaml", "name: shop\nplans: {}\n")
		out, stderr, err = helloapi(t, env, "apply", "-f", less)
		if err != nil || !strings.Contains(out, "Nothing to do") || !strings.Contains(stderr, "--prune removes them") {
			t.Errorf("less: %v\n%s%s", err, out, stderr)
		}
		out, _, err = helloapi(t, env, "apply", "-f", less, "--prune", "--yes")
		if err != nil || !strings.HasSuffix(out, "0 added, 0 changed, 4 removed.\n") {
			t.Errorf("less, pruning: %v\n%s", err, out)
		}
		if keys := listKeys(t, url); len(keys) != 1 || keys["joe"].Plan != "s-prod" {
			t.Errorf("keys left: %v", keys)
		}
		noSecrets(t, url, append(values, secret)...)
	})
}

// Every sample is applied whole, or refused with its lines and without a trace.
func TestApplySamples(t *testing.T) {
	t.Parallel()
	samples, err := filepath.Glob("../../internal/planfile/testdata/*.yml")
	if err != nil || len(samples) < 10 {
		t.Fatal(len(samples), err)
	}
	onBoth(t, func(t *testing.T, url string) {
		env := map[string]string{"DATABASE_URL": url, "PARTNER_KEY": "partner-key-0123456789"}
		for _, sample := range samples {
			golden, err := os.ReadFile(strings.TrimSuffix(sample, ".yml") + ".golden")
			if err != nil {
				t.Fatal(err)
			}
			before := must(t, url, "plans", "list") + must(t, url, "keys", "list")
			_, _, err = helloapi(t, env, "apply", "-f", sample, "--take-over") // several have testkey1
			if strings.HasPrefix(string(golden), "source ") {
				if err != nil {
					t.Errorf("%s: %v", sample, err)
				}
				if out, _, err := helloapi(t, env, "apply", "-f", sample, "--prune"); err != nil || !strings.HasPrefix(out, "Nothing to do") {
					t.Errorf("%s again: %v\n%s", sample, err, out)
				}
				continue
			}
			dir := filepath.Dir(sample) + "/"
			if err == nil || !strings.HasPrefix(strings.ReplaceAll(err.Error(), dir, ""), string(golden)) {
				t.Errorf("%s: %v\nwant\n%s", sample, err, golden)
			}
			if after := must(t, url, "plans", "list") + must(t, url, "keys", "list"); before != after {
				t.Errorf("%s was refused, but changed\n%s", sample, after)
			}
		}
		// What the replaced gateway made of them.
		keys := listKeys(t, url)
		for name, plan := range map[string]string{
			"testkey1": "free", "testkey2": "paid", "myFirstKey": "my-service-dev", "dev-myFirstKey": "my-service-dev", "fallback": "my-service-dev",
			"myThirdKey": "my-service-dev", "": "my-service-dev", "offKey": "my-service-dev", "1234567890": "keysonly-dev", "plain": "keysonly-dev",
			"0123456789": "small", "010": "small", "2020-01-01": "small", "big": "large",
		} {
			if k, ok := keys[name]; !ok || k.Plan != plan {
				t.Errorf("key %q: %+v, want plan %q", name, k, plan)
			}
		}
		if keys["offKey"].Status != "disabled" || keys[""].CustomerID != "cust-42" {
			t.Errorf("keys: %+v", keys)
		}
	})
}

// What an editor, or the next version of the framework, does to a file changes
// nothing.
func TestApplyRewritten(t *testing.T) {
	t.Parallel()
	older, err := os.ReadFile("../../internal/planfile/testdata/s1.yml")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"CRLF and a BOM": "\xef\xbb\xbf" + strings.ReplaceAll(string(older), "\n", "\r\n"),
		"the newer place, another order and indent": `
provider:
    apiGateway:
        usagePlan:
        - paid:
            throttle: &t {rateLimit: 100, burstLimit: 200}
            quota: {period: DAY, limit: 5000}
        - free:
            quota: {period: day, limit: '5', offset: 0}
            throttle: {<<: *t, rateLimit: 5.0, burstLimit: 5}
        apiKeys:
        - paid: ["testkey2"]
        - free: [{name: testkey1}]
service: {name: lambda-webhook-callback}
resources: !Ref Nothing
`,
	}
	onBoth(t, func(t *testing.T, url string) {
		must(t, url, "apply", "-f", "../../internal/planfile/testdata/s1.yml")
		before := must(t, url, "keys", "list", "-o", "json")
		for how, data := range files {
			if out := must(t, url, "apply", "-f", write(t, "serverless.yml", data), "--prune"); !strings.HasPrefix(out, "Nothing to do") {
				t.Errorf("%s:\n%s", how, out)
			}
		}
		if diff := cmp.Diff(before, must(t, url, "keys", "list", "-o", "json")); diff != "" {
			t.Errorf("keys changed\n%s", diff)
		}
	})
}

// deploy/plans.yaml has what a new installation has.
func TestDefaultPlans(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		out := must(t, url, "apply", "-f", "../../deploy/plans.yaml", "--conceal")
		if want := "+ key testkey1: on plan free\n+ key testkey2: on plan paid\n2 added, 0 changed, 0 removed."; !strings.HasPrefix(out, want) {
			t.Errorf("apply:\n%s\nwant\n%s", out, want)
		}
		keys := listKeys(t, url)
		if len(keys) != len(firstKeys()) {
			t.Errorf("%d keys", len(keys))
		}
		for _, k := range firstKeys() {
			if keys[k.Name].Plan != k.Plan.Name || keys[k.Name].Status != "ok" {
				t.Errorf("key %s: %+v", k.Name, keys[k.Name])
			}
		}
		if out := must(t, url, "plans", "list"); strings.Count(out, "\n") != 2 {
			t.Errorf("plans:\n%s", out)
		}
	})
}

func TestPlansFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "plans.yaml")
	if err := os.WriteFile(file, []byte("name: mine\nplans: {mine: {keys: [ann]}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, dir, "PLANS_FILE="+file)
	values := p.keys(t)
	if len(values) != 1 || !strings.Contains(p.stdout.String(), "are in "+filepath.Join("data", "helloapi.db.keys-")) {
		t.Fatalf("%d values; printed\n%s", len(values), p.stdout)
	}
	if got := p.status(t, values[0]); got != http.StatusBadRequest {
		t.Errorf("its key is answered %d", got)
	}
	if err := p.stop(t); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(file, []byte("name: mine\nplans: {mine: {throttle: {rateLimit: 7}, keys: [ann]}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p = start(t, dir, "PLANS_FILE="+file)
	if len(p.keys(t)) != 1 || p.status(t, values[0]) != http.StatusBadRequest {
		t.Errorf("with another plan:\n%s", p.stdout)
	}
	if got := get(t, "http://"+p.addr+"/hello?name=%zz", values[0]).header.Get("RateLimit-Policy"); got != `"throttle";q=7;w=1` {
		t.Errorf("the plan is %s", got)
	}
	if err := p.stop(t); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(file, []byte("plans:\n  mine: 5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p = launch(t, dir, "PLANS_FILE="+file)
	if err := p.wait(t); err == nil || !strings.Contains(p.stderr.String(), file+":2: plan \"mine\" must have") {
		t.Errorf("with a bad file: %v\n%s", err, p.stderr)
	}
	refused(t, map[string]string{"PLANS_FILE": file, "DATABASE_URL": "postgres://nowhere/x"}, []string{"serve"}, "PLANS_FILE: is for SQLite")
}

func TestImportKeys(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		env := map[string]string{"DATABASE_URL": url}
		const theirs, others = "apikey1234abcdefghij0123456789", "apikey1234abcdefghij0123456780"
		// The usual way: first what the stack says, then the values that customers have.
		must(t, url, "apply", "-f", "../../internal/planfile/testdata/s1.yml")
		file := write(t, "keys.csv", "name,key,description,Enabled,usageplanIds\r\n"+
			"testkey1,"+theirs+",An imported key,TRUE,c7y23b\r\nother,"+others+",,FALSE,x1\r\n")
		args := []string{"import", "keys", file, "--usage-plan", "c7y23b=free", "--usage-plan", "x1=paid"}
		const want = "~ key testkey1: description; another value; the current one is refused from now on\n+ key other: on plan paid, disabled\n"
		if out := must(t, url, append(args, "--dry-run")...); out != want+"1 to add, 1 to change, 0 to remove." {
			t.Errorf("dry run:\n%s", out)
		}
		if out := must(t, url, args...); out != want+"1 added, 1 changed, 0 removed." {
			t.Errorf("import:\n%s", out)
		}
		if out := must(t, url, args...); out != "Nothing to do: plans and keys are as the file says." {
			t.Errorf("again:\n%s", out)
		}
		keys := listKeys(t, url)
		if k := keys["testkey1"]; k.ValuePrefix != "sha256:fd09" || k.Plan != "free" || k.Description != "An imported key" || k.Status != "ok" {
			t.Errorf("testkey1: %+v", k)
		}
		if k := keys["other"]; k.Plan != "paid" || k.Status != "disabled" {
			t.Errorf("other: %+v", k)
		}
		// The stack's file, applied again, leaves the values alone, and does not remove what was imported.
		if out := must(t, url, "apply", "-f", "../../internal/planfile/testdata/s1.yml", "--prune"); out != "Nothing to do: plans and keys are as the file says." {
			t.Errorf("apply again:\n%s", out)
		}

		bad := write(t, "bad.csv", "name,key\na,"+others+"x\nb,short\nc,"+others+"y\n")
		refused(t, env, []string{"import", "keys", bad, "--plan", "free"}, bad+":3: the key's value can't be used", "nothing was changed")
		// Keys of others are left out, and named.
		if out, stderr, err := helloapi(t, env, "import", "keys", write(t, "new.csv", "name,key,usageplanids\na,"+others+"x,\nb,"+others+"y,c7y23b\n")); err != nil ||
			out != "Nothing to do: plans and keys are as the file says.\n" || !strings.Contains(stderr, "left out, since no key here has their name or value: a, b.") {
			t.Errorf("keys of others: %v\n%s%s", err, out, stderr)
		}
		if len(listKeys(t, url)) != len(keys) {
			t.Error("a file that was refused made keys")
		}
		noSecrets(t, url, theirs, others)
	})
}

func TestImportGreetings(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		env := map[string]string{"DATABASE_URL": url}
		must(t, url, "import", "greetings", write(t, "a.csv", "name,count\nbrooks,41\n"), write(t, "b.jsonl", `{"Item":{"name":{"S":"ann"},"greeting_count":{"N":"7"}}}`), "--add")
		bad := write(t, "bad.jsonl", "{\"name\":\"a\",\"count\":1}\n{\"name\":\"b\"}\n{\"name\":\"c\",\"count\":3}\n")
		refused(t, env, []string{"import", "greetings", bad, "--add"}, bad+`: line 2: it has no attribute "greeting_count"`, "the lines before line 2 are imported: import the file again, it continues there")
		refused(t, env, []string{"import", "greetings", bad, "--replace", "--yes"}, "line 2:", "import all the files again")
		out, stderr, err := helloapi(t, env, "import", "greetings", bad, "--add", "-o", "json")
		var shown []importedInfo
		if err == nil || json.Unmarshal([]byte(out), &shown) != nil || shown[0].Before != 1 || shown[0].NextLine != 2 {
			t.Errorf("again: %v\n%s%s", err, out, stderr)
		}
		if err := os.WriteFile(bad, []byte("{\"name\":\"a\",\"count\":1}\n{\"name\":\"b\",\"count\":2}\n{\"name\":\"c\",\"count\":3}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"took 2 rows, after the 1 that were taken before", "all of it was added on"} {
			if _, stderr, err := helloapi(t, env, "import", "greetings", bad, "--add"); err != nil || !strings.Contains(stderr, want) {
				t.Errorf("corrected: %v, %s, want %q", err, stderr, want)
			}
		}
		if got, want := must(t, url, "greetings", "top"), "COUNT   NAME\n41      brooks\n7       ann\n3       c\n2       b\n1       a"; got != want {
			t.Errorf("greetings:\n%s", got)
		}
		must(t, url, "import", "greetings", write(t, "c.csv", "who,n\nbrooks,5\n"), "--replace", "--yes", "--name-attribute", "who", "--count-attribute", "n")
		if got := must(t, url, "greetings", "top", "-n", "1"); !strings.HasSuffix(got, "7       ann") {
			t.Errorf("greetings after replacing:\n%s", got)
		}
		refused(t, env, []string{"import", "greetings", bad}, "--add or --replace")
		refused(t, env, []string{"import", "greetings", bad, "--add", "--replace", "--yes"}, "can't be used together")
		refused(t, env, []string{"import", "greetings", bad, "--replace", "--yes", "--from-line", "2"}, "--from-line is for --add")
		refused(t, env, []string{"import", "greetings", write(t, "empty.csv", "who;n\nbrooks;5\n"), "--add"}, "separated by semicolons")
		// One name on several lines, of several files: its sum. A file that grew: what is new.
		parts := []string{write(t, "1.csv", "name,count\nZo\u00eb,5\nsum,1\n"), write(t, "2.jsonl", `{"name":"Zoe\u0308","count":7.0}`)}
		for range 2 {
			must(t, url, "import", "greetings", parts[0], parts[1], "--replace", "--yes")
			if got := must(t, url, "greetings", "top", "-n", "1"); !strings.HasSuffix(got, "12      Zo\u00eb") {
				t.Errorf("a name on two lines:\n%s", got)
			}
		}
		grown := write(t, "grown.csv", "name,count\nzed,20\n")
		for _, more := range []string{"", "zed,30\n", "zed,40\n"} {
			data, err := os.ReadFile(grown)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(grown, append(data, more...), 0o600); err != nil {
				t.Fatal(err)
			}
			must(t, url, "import", "greetings", grown, "--add")
		}
		if got := must(t, url, "greetings", "top", "-n", "1"); !strings.HasSuffix(got, "90      zed") {
			t.Errorf("a file that grew:\n%s", got)
		}
		refused(t, env, []string{"import", "greetings", write(t, "other.csv", "name,count\nzed,20\nzed,1\n"), "--add"}, "row 1 of this file is also what an import of 3 rows", "--from-line 1")
		refused(t, env, []string{"import", "greetings", write(t, "half.jsonl", `{"name":"a\ud83d","count":7}`), "--add"}, "lone surrogate")
		refused(t, env, []string{"import", "greetings", bad, bad, "--add", "--from-line", "2"}, "give one file")
		refused(t, env, []string{"import", "greetings", "/nowhere", "--add"}, "/nowhere")
	})
}

func TestInvoke(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := start(t, dir)
	key := p.keys(t)[0]
	env := map[string]string{"HELLOAPI_KEY": key, "HELLOAPI_URL": "http://" + p.addr}
	out, stderr, err := helloapi(t, env, "invoke", "--name", "a b&c")
	if err != nil || out != `{"message":"Hello a b&c #1!"}`+"\n" || stderr != "" {
		t.Errorf("invoke: %v\n%s%s", err, out, stderr)
	}
	var shown invokedInfo
	if out, _, err = helloapi(t, env, "invoke", "-o", "json"); err != nil || json.Unmarshal([]byte(out), &shown) != nil ||
		shown.Status != 200 || !strings.Contains(string(shown.Body), "Hello anonymous #1!") || shown.Headers["RateLimit"] == "" {
		t.Errorf("invoke as JSON: %v\n%s", err, out)
	}
	// From standard input, to a URL with its path.
	var stdout, errOut bytes.Buffer
	if err := run(t.Context(), []string{"invoke", "--url", env["HELLOAPI_URL"] + "/hello/"}, func(string) string { return "" },
		strings.NewReader(key+"\r\n"), &stdout, &errOut); err != nil || !strings.Contains(stdout.String(), "Hello anonymous #2!") {
		t.Errorf("with the key from standard input: %v, %s", err, &stdout)
	}
	for _, test := range []struct {
		key, url, want string
	}{
		{"nobodys-secret-0123456789", env["HELLOAPI_URL"], `answered 403 Forbidden: {"message":"Forbidden"}`},
		{"secret with spaces", env["HELLOAPI_URL"], "one line of printable ASCII"},
		{"secret\nsecret", env["HELLOAPI_URL"], "one line of printable ASCII"},
		{"", env["HELLOAPI_URL"], "the key is empty: set HELLOAPI_KEY"},
		{key, "ftp://here", "--url must be like"},
		{key, "http://127.0.0.1:1", "no answer"},
		{key, "http://" + p.admin, "answered 404"},
	} {
		_, _, err := helloapi(t, map[string]string{"HELLOAPI_KEY": test.key, "HELLOAPI_URL": test.url}, "invoke")
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), key) {
			t.Errorf("invoke %s: %v, want %q", test.url, err, test.want)
		}
	}
	for range 2 { // which make five
		if _, _, err := helloapi(t, env, "invoke"); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := helloapi(t, env, "invoke"); err == nil || !strings.Contains(err.Error(), "answered 429 Too Many Requests: {\"message\":\"Limit Exceeded\"}\ntry again in ") {
		t.Errorf("over the quota: %v", err)
	}
	// A secret of one command is no flag of another.
	if _, _, err := helloapi(t, map[string]string{"HELLOAPI_KEY": key, "DATABASE_URL": "sqlite:" + filepath.Join(dir, "data/helloapi.db")}, "usage", "show", "-o", "csv"); err != nil {
		t.Errorf("usage show with a key in the environment: %v", err)
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	bash, _, err := helloapi(t, nil, "completion", "bash")
	if err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"helloapi ap":                     "apply",
		"helloapi keys ro":                "rotate",
		"helloapi keys rotate bob --gr":   "--grace",
		"helloapi usage show --output ":   "table json csv",
		"helloapi usage show -o c":        "csv",
		"helloapi serve --meter-on-error": "--meter-on-error",
		"helloapi completion ":            "bash zsh fish",
		"helloapi apply -f ":              "", // files, which bash completes
		"helloapi nothing --x":            "",
	} {
		words := strings.Split(line, " ")
		script := bash + "\nCOMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _helloapi || true; echo \"${COMPREPLY[*]}\""
		out, err := exec.Command("bash", append([]string{"-euc", script, "bash"}, words...)...).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("%q completes to %q (%v), want %q", line, out, err, want)
		}
	}
	// Every command and flag is in every script.
	parser, err := newParser(&commands{})
	if err != nil {
		t.Fatal(err)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		out, _, err := helloapi(t, nil, "completion", shell)
		if err != nil {
			t.Fatal(err)
		}
		for _, leaf := range parser.Model.Leaves(true) {
			if !strings.Contains(out, strings.TrimPrefix(leaf.FullPath(), "helloapi")) {
				t.Errorf("%s lacks %q", shell, leaf.FullPath())
			}
			for _, f := range leaf.Flags {
				if !strings.Contains(out, f.Name) {
					t.Errorf("%s lacks --%s", shell, f.Name)
				}
			}
		}
	}
	refused(t, nil, []string{"completion", "csh"}, "must be one of")
}

// The names of keys and plans complete where a command takes one.
func TestCompletionOfNames(t *testing.T) {
	t.Parallel()
	url := backendtest.SQLite(t)
	backendtest.Migrate(t, url)
	for _, name := range []string{"brooks", "bob", "Zoë's app"} {
		must(t, url, "keys", "create", name, "--plan", "free")
	}
	script := must(t, url, "completion", "bash") + "\nCOMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _helloapi || true; printf '%s\n' \"${COMPREPLY[@]}\""
	complete := func(url, line string) string {
		cmd := exec.Command("bash", append([]string{"-euc", script, "bash", executable(t)}, strings.Split(line, " ")...)...)
		cmd.Env = []string{asProgram + "=1", "DATABASE_URL=" + url, "LC_ALL=C.UTF-8"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%q: %v", line, err)
		}
		got := strings.Split(strings.TrimSpace(string(out)), "\n")
		slices.Sort(got)
		return strings.Join(got, " ")
	}
	for line, want := range map[string]string{
		"keys show b":                 "bob brooks",
		"keys show br":                "brooks",
		"keys delete --yes Z":         `Zoë\'s\ app`,
		"usage show bo":               "bob",
		"usage grants list bo":        "bob",
		"usage grant bo":              "bob",
		"keys create new --plan ":     "free paid",
		"keys update brooks --plan p": "paid",
		"keys list --plan f":          "free",
		"plans delete f":              "free",
		"keys create b":               "", // a new name
		"keys show x":                 "",
	} {
		if got := complete(url, line); got != want {
			t.Errorf("%q completes to %q, want %q", line, got, want)
		}
	}
	// Where there is no database there are no names, and nothing is said.
	if got := complete("postgres://127.0.0.1:1/none", "keys show b"); got != "" {
		t.Errorf("without a database: %s", got)
	}
}

// Every command has an example, and every example is right.
func TestExamples(t *testing.T) {
	t.Parallel()
	leaves := map[string]bool{}
	parser, err := newParser(&commands{})
	if err != nil {
		t.Fatal(err)
	}
	for _, leaf := range parser.Model.Leaves(true) {
		path := strings.TrimPrefix(leaf.FullPath(), "helloapi ")
		leaves[path] = true
		if examples[path] == "" {
			t.Errorf("%s has no example", path)
		}
		if !strings.Contains(leaf.Detail, "helloapi "+strings.Fields(path)[0]) {
			t.Errorf("the help of %s lacks its example", path)
		}
	}
	for path, text := range examples {
		if !leaves[path] {
			t.Errorf("an example of no command: %s", path)
		}
		for line := range strings.Lines(strings.TrimSpace(text)) {
			_, args, ok := strings.Cut(" "+strings.Split(line, " > ")[0], " helloapi ")
			if !ok {
				args = strings.TrimSuffix(strings.TrimPrefix(line, "source <(helloapi "), ")")
			}
			args, _, _ = strings.Cut(args, " < ")
			parser, err := newParser(&commands{}, kong.Exit(func(int) { t.Errorf("%s: exits", line) }))
			if err != nil {
				t.Fatal(err)
			}
			ctx, err := parser.Parse(strings.Fields(strings.Trim(args, ")\n")))
			if err != nil {
				t.Errorf("%s: %v", line, err)
			} else if got := strings.TrimPrefix(ctx.Selected().FullPath(), "helloapi "); got != path {
				t.Errorf("%s is of %s", line, got)
			}
		}
	}
}
