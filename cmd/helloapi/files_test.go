package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"helloapi/internal/backend"
	"helloapi/internal/backendtest"
)

// stored lists the plans, keys and greetings of a database, a line for each.
// Of a key's value it has what is given, not what is made.
func stored(t testing.TB, db backend.Database) string {
	t.Helper()
	plans, err := db.Plans(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	keys, err := db.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	counts, err := db.Greetings.Top(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, p := range plans {
		lines = append(lines, fmt.Sprintf("plan %s: %v; %v\n", p.Name, p.Quota, p.Throttle))
	}
	for _, k := range keys {
		line := fmt.Sprintf("key %s on %s", k.Name, k.Plan.Name)
		if !strings.HasPrefix(k.Display, "hk_") {
			line += ", value " + k.Display
		}
		if !k.Enabled {
			line += ", disabled"
		}
		if k.Description != "" {
			line += ", " + k.Description
		}
		lines = append(lines, line+"\n")
	}
	for _, c := range counts {
		lines = append(lines, fmt.Sprintf("%s %d\n", c.Name, c.Count))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// utf16LE is s as Windows saves it.
func utf16LE(s string) string {
	b := []byte("\xff\xfe")
	for _, u := range utf16.Encode([]rune(s)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return string(b)
}

// A fileCase is what is made of files that people have: what is stored after
// the commands, or why the last of them is refused.
type fileCase struct {
	name  string
	files map[string]string // none: those of testdata/movingin
	run   []string          // commands, with their files by name
	env   map[string]string
	want  string // what is stored
	notes string // part of what the last prints to stderr
	fails string // the error of the last, from its file's name on
}

// gateway is a serverless.yml with what is in provider.apiGateway, and more.
func gateway(more, settings string) map[string]string {
	return map[string]string{"serverless.yml": "service: shop\n" + more + "provider:\n  name: aws\n  apiGateway:\n" + settings}
}

func with(files map[string]string, pairs ...string) map[string]string {
	for i := 0; i < len(pairs); i += 2 {
		files[pairs[i]] = pairs[i+1]
	}
	return files
}

const (
	apply1 = "apply -f serverless.yml"
	noPlan = "plan shop-dev: -; -\n"
	value1 = "abcdefghijklmnopqrstuvwx01"
)

var fileCases = []fileCase{
	// The inputs of others: see testdata/movingin.
	{name: "D01", run: []string{"apply -f D01-file-yml/serverless.yml"}, want: noPlan + "key dev-one on shop-dev, value sha256:70a8\n"},
	{name: "D01 prod", run: []string{"apply -f D01-file-yml/serverless.yml --stage prod"}, want: "plan shop-prod: -; -\nkey prod-one on shop-prod, value sha256:70a8\n"},
	{name: "D03", run: []string{"apply -f D03-custom-file/serverless.yml"}, want: noPlan + "key abc-one on shop-dev\n"},
	{name: "D04", run: []string{"apply -f D04-params.yml"}, want: noPlan + "key dflt on shop-dev\n"},
	{name: "D04 prod", run: []string{"apply -f D04-params.yml --stage prod"}, want: "plan shop-prod: -; -\nkey prd on shop-prod\n"},
	{name: "D06", run: []string{"apply -f D06-service-name.yml"}, want: noPlan + "key shop-one on shop-dev\n"},
	{name: "D08", run: []string{"apply -f D08-usageplan-null.yml"}, want: noPlan + "key one on shop-dev\n"},
	{name: "D10", run: []string{"apply -f D10-nulls.yml"}, want: "plan shop-dev: 5 a day; -\nkey one on shop-dev\n"},
	{name: "D11", run: []string{"apply -f D11-scalar.yml"}, want: noPlan + "key one on shop-dev\n"},
	{
		name: "D13", run: []string{"apply -f D13-foreign/serverless.yml", "import keys D13-foreign/keys.json"},
		want: noPlan + "key one on shop-dev, value sha256:68af\n", notes: "left out, since no key here has their name or value: key-of-another-api.",
	},
	{
		name: "D16", run: []string{"import keys D16-emoji-escape.json --plan free"},
		want: "key one on free, value sha256:ca32, 🚀\n",
	},
	{name: "D18", run: []string{"import keys D18-single-quotes.csv --usage-plan c7y23b=free"}, want: "key one on free, value sha256:22ab\n"},
	{name: "D19", run: []string{"import greetings D19-whole-float.jsonl --add"}, want: "ada 5\n"},
	{name: "D20", run: []string{"import greetings D20-incremental.jsonl --add"}, fails: "D20-incremental.jsonl: line 1: this is an incremental export of DynamoDB"},
	{name: "D21", run: []string{"apply -f D21-yaml12.yml"}, want: noPlan + "key one on shop-dev\n"},
	{name: "D23", run: []string{"apply -f D23-numbers.yml"}, want: "plan shop-dev: 1000 a day; 5/s, burst 5\nkey one on shop-dev\n"},
	{name: "D24", run: []string{"apply -f D24-strtobool.yml"}, want: noPlan + "key one on shop-dev, disabled\n"},
	{
		name: "D26", run: []string{"apply -f D26-two-services/one.yml --drop-limits", "apply -f D26-two-services/two.yml"},
		want:  "plan free: 5 a day; -\nkey a1 on free\n",
		fails: `D26-two-services/two.yml:8: plan "free" belongs to the serverless.yml of one-dev, and this file would change it for 1 key (5 a day; no throttle → 9999 a day; no throttle)`,
	},
	{
		name: "D26 as asked", run: []string{"apply -f D26-two-services/one.yml --drop-limits", "apply -f D26-two-services/two.yml --take-over"},
		want: "plan free: 9999 a day; -\nkey a1 on free\nkey b1 on free\n",
	},
	{
		name: "D27", run: []string{"apply -f D27-file-in-group.yml"},
		fails: "D27-file-in-group.yml:6: ${file(./customers.js):list} needs code to be run, and only .yml, .yaml and .json are read here: let the framework resolve it: serverless print --stage STAGE | helloapi apply -f -\nnothing was changed",
	},
	{name: "D28", run: []string{"apply -f D28-service-from-file.yml"}, want: "plan x-api-dev: -; -\nkey one on x-api-dev\n"},
	{name: "D29", run: []string{"apply -f D29-missing-file-default.yml"}, want: noPlan + "key dflt on shop-dev\n"},
	{name: "D30", run: []string{"import greetings D30-ion.ion --add"}, fails: "D30-ion.ion: this is not text: it is Amazon Ion"},

	// Variables, files, parameters, .env.
	{
		name: "a name from a file", run: []string{apply1}, files: with(gateway("", "    apiKeys: [one]\n"),
			"serverless.yml", "service: ${self:custom.e.n, 'x'}-api\ncustom:\n  e: ${file(./e.yml)}\nprovider:\n  apiGateway: {apiKeys: [one]}\n", "e.yml", "n: my\n"),
		want: "plan my-api-dev: -; -\nkey one on my-api-dev\n",
	},
	{
		name: "JSON, and a path in it", run: []string{apply1},
		files: with(gateway("", "    apiKeys: ['${file(conf/keys.json):list.1.name}', \"${file( ./conf/keys.json ):none, 'b'}\"]\n"), "conf/keys.json", `{"list": [{}, {"name": "a"}]}`),
		want:  noPlan + "key a on shop-dev\nkey b on shop-dev\n",
	},
	{
		name: "files in files", run: []string{"apply -f serverless.yml --stage prod"},
		files: with(gateway("custom: {who: ann}\n", "    apiKeys: ${file(a/keys.${opt:stage}.yaml)}\n    usagePlan: ${file(./plan.yml):${sls:stage}}\n"),
			"a/keys.prod.yaml", "- ${self:custom.who}\n- name: ${file(b.yml):name}\n  enabled: false\n", "b.yml", "name: bob\n", "plan.yml", "prod: {quota: {limit: 7, period: WEEK}}\n"),
		want: "plan shop-prod: 7 a week; -\nkey ann on shop-prod\nkey bob on shop-prod, disabled\n",
	},
	{
		name: "all of the section", run: []string{apply1},
		files: map[string]string{"serverless.yml": "service: shop\nprovider: ${file(provider.yml)}\n", "provider.yml": "apiGateway: ${file(gw.yml)}\n", "gw.yml": "apiKeys: &k [a]\nusagePlan:\n"},
		want:  noPlan + "key a on shop-dev\n",
	},
	{
		name: "a mistake in another file", run: []string{apply1},
		files: with(gateway("", "    apiKeys: ${file(keys.yml)}\n"), "keys.yml", "- one\n- name: two\n  valeu: x\n"),
		fails: `keys.yml:3: a key has no setting "valeu", only name, value, description, customerId and enabled` + "\nnothing was changed",
	},
	{name: "another file that is missing", run: []string{apply1}, files: gateway("", "    apiKeys: ${file(keys.yml)}\n"), fails: "serverless.yml:5: ${file(keys.yml)}: there is no such file"},
	{name: "a file that includes itself", run: []string{apply1}, files: with(gateway("", "    apiKeys: ${file(keys.yml)}\n"), "keys.yml", "- ${file(keys.yml)}\n"), fails: "serverless.yml:1: too many aliases"},
	{name: "outside", run: []string{"apply -f in/serverless.yml"}, files: map[string]string{"in/serverless.yml": gateway("", "    apiKeys: ${file(../keys.yml)}\n")["serverless.yml"], "keys.yml": "[a]"}, fails: "in/serverless.yml:5: ${file(../keys.yml)} can't be read: it is outside the folder of this file: --outside-files allows that"},
	{name: "outside, as asked", run: []string{"apply -f in/serverless.yml --outside-files"}, files: map[string]string{"in/serverless.yml": gateway("", "    apiKeys: ${file(../keys.yml)}\n")["serverless.yml"], "keys.yml": "[a]"}, want: noPlan + "key a on shop-dev\n"},
	{
		name: "parameters of version 4", run: []string{"apply -f serverless.yml --stage prod"},
		files: gateway("stages:\n  default: {params: {a: da, b: db}}\n  prod: {params: {a: pa}}\nparams: {default: {c: dc}}\n", "    apiKeys: ['${param:a}', '${param:b}', '${param:c}', \"${param:d, 'e'}\"]\n"),
		want:  "plan shop-prod: -; -\nkey db on shop-prod\nkey dc on shop-prod\nkey e on shop-prod\nkey pa on shop-prod\n",
	},
	{name: "no parameter", run: []string{apply1}, files: gateway("", "    apiKeys: ['${param:a}']\n"), fails: "serverless.yml:5: ${param:a} is in neither params nor stages"},
	{
		name: ".env", run: []string{apply1}, env: map[string]string{"B": "from-outside"},
		files: with(gateway("useDotenv: true\n", "    apiKeys: ['${env:A}', '${env:B}', '${env:C}', '${env:D}']\n"), ".env", "# a comment\nA=a-1 # and here\nexport B=b\nC='c # 3'\nD: \"d\"\n"),
		want:  noPlan + "key a-1 on shop-dev\nkey c # 3 on shop-dev\nkey d on shop-dev\nkey from-outside on shop-dev\n",
	},
	{
		name: ".env of a stage", run: []string{"apply -f serverless.yml --stage prod"},
		files: with(gateway("frameworkVersion: ^4.2.0\n", "    apiKeys: ['${env:A}', '${env:B}']\n"), ".env", "A=a\nB=b\n", ".env.prod", "A=prod\n"),
		want:  "plan shop-prod: -; -\nkey b on shop-prod\nkey prod on shop-prod\n",
	},
	{
		name: ".env of version 3", run: []string{apply1},
		files: with(gateway("frameworkVersion: '3'\n", "    apiKeys: [\"${env:A, 'unset'}\"]\n"), ".env", "A=a\n"), want: noPlan + "key unset on shop-dev\n",
	},
	{
		name: "true and false", run: []string{apply1}, files: gateway("", `    apiKeys:
      - {name: a, enabled: "${strToBool(0)}"}
      - {name: b, enabled: "${strToBool(${env:ON})}"}
`), env: map[string]string{"ON": "TRUE"}, want: noPlan + "key a on shop-dev, disabled\nkey b on shop-dev\n",
	},
	{name: "neither true nor false", run: []string{apply1}, files: gateway("", "    apiKeys: [{name: a, enabled: '${strToBool(perhaps)}'}]\n"), fails: "serverless.yml:5: ${strToBool(perhaps)} must be of true, false, 1 or 0"},
	{name: "the region", run: []string{apply1}, files: gateway("", "    apiKeys: ['k-${aws:region}']\n"), want: noPlan + "key k-us-east-1 on shop-dev\n"},
	{name: "a region", run: []string{apply1}, files: gateway("", "    apiKeys: ['k-${aws:region}']\n  region: ${opt:region, 'eu-west-1'}\n"), want: noPlan + "key k-eu-west-1 on shop-dev\n"},
	{name: "the service", run: []string{apply1}, files: gateway("", "    apiKeys: ['a-${self:service}', 'b-${self:service.name}']\n"), want: noPlan + "key a-shop on shop-dev\nkey b-shop on shop-dev\n"},
	{name: "the service of version 1", run: []string{apply1}, files: map[string]string{"serverless.yml": "service: {name: shop}\nprovider:\n  apiKeys: ['a-${self:service}', 'b-${self:service.name}']\n"}, want: noPlan + "key a-shop on shop-dev\nkey b-shop on shop-dev\n"},
	{name: "from a network", run: []string{apply1}, files: gateway("", "    apiKeys:\n      - name: a\n        value: ${ssm:/key}\n"), fails: "serverless.yml:7: ${ssm:/key} can't be resolved here: let the framework resolve it: serverless print --stage STAGE | helloapi apply -f -"},
	{name: "no value is given", run: []string{apply1}, files: gateway("", "    apiKeys:\n      - name: a\n        value: ${env:X, ''}\n        description: ${opt:d, null}\n"), want: noPlan + "key a on shop-dev\n"},

	// Forms that the framework takes.
	{name: "a text for a group", run: []string{apply1}, files: gateway("", "    apiKeys:\n      - vip: one\n    usagePlan:\n      - vip: {throttle: {rateLimit: 2.5}}\n"), want: "plan vip: -; 2.5/s, burst 3\nkey one on vip\n"},
	{name: "all commented out", run: []string{apply1}, files: gateway("", "    apiKeys:\n      - vip:\n      # - one\n    usagePlan:\n      - vip:\n          quota:\n          # limit: 5\n          throttle: {rateLimit: 1e1, burstLimit: 2.0e1}\n"), want: "plan vip: -; 10/s, burst 20\n"},
	{name: "no keys", run: []string{apply1}, files: gateway("", "    apiKeys:\n    # - one\n    usagePlan: {quota: {limit: '1.5e3', period: month}}\n"), want: "plan shop-dev: 1500 a month; -\n"},
	{name: "half a request", run: []string{apply1}, files: gateway("", "    usagePlan: {quota: {limit: 1.5, period: DAY}}\n"), fails: "serverless.yml:5: quota limit must be a whole number, such as 5000\nnothing was changed"},
	{name: "a JSON file", run: []string{"apply -f serverless.json"}, files: map[string]string{"serverless.json": `{"service": "shop", "provider": {"apiGateway": {"apiKeys": [{"name": "a", "description": "\ud83d\ude80 \u00e9"}]}}}`}, want: noPlan + "key a on shop-dev, 🚀 é\n"},
	{name: "half a character", run: []string{"apply -f serverless.json"}, files: map[string]string{"serverless.json": `{"service": "shop", "provider": {"apiKeys": ["a\ud83d"]}}`}, fails: "serverless.json:1: this is not YAML: found invalid Unicode"},
	{name: "UTF-16", run: []string{apply1}, files: map[string]string{"serverless.yml": utf16LE(gateway("", "    apiKeys: [Zoë]\r\n")["serverless.yml"])}, want: noPlan + "key Zoë on shop-dev\n"},
	{name: "our own, version 1.2", run: []string{"apply -f plans.yaml"}, files: map[string]string{"plans.yaml": "%YAML 1.2\n---\nplans: {vip: {quota: , keys: [a]}}\n"}, want: "plan vip: -; -\nkey a on vip\n"},
	{name: "a parquet file", run: []string{apply1}, files: map[string]string{"serverless.yml": "PAR1\x15\x04"}, fails: "serverless.yml:1: this is not text: it is Parquet"},

	// Several files.
	{
		name: "two services, one plan", run: []string{"apply -f one.yml", "apply -f two.yml", "apply -f one.yml --prune"}, files: map[string]string{
			"one.yml": "service: one\nprovider: {apiGateway: {apiKeys: [{vip: [a]}], usagePlan: [{vip: {}}]}}\n",
			"two.yml": "service: two\nprovider: {apiGateway: {apiKeys: [{vip: [b]}], usagePlan: [{vip: {}}]}}\n",
		}, want: "plan vip: -; -\nkey a on vip\nkey b on vip\n",
	},
	{
		name: "two services, one key", run: []string{"apply -f one.yml", "apply -f two.yml"}, files: map[string]string{
			"one.yml": "service: one\nprovider: {apiGateway: {apiKeys: [a]}}\n", "two.yml": "service: two\nprovider: {apiGateway: {apiKeys: [a]}}\n",
		}, want: "plan one-dev: -; -\nkey a on one-dev\n", fails: `two.yml:2: key "a" belongs to the serverless.yml of one-dev, and this file would change it (plan one-dev → two-dev)`,
	},
	{
		name: "a limit dropped", run: []string{"apply -f a.yaml", "apply -f b.yaml"}, files: map[string]string{
			"a.yaml": "name: x\nplans: {vip: {quota: {limit: 5, period: DAY}, keys: [a]}}\n", "b.yaml": "name: x\nplans: {vip: {keys: [a]}}\n",
		}, want: "plan vip: 5 a day; -\nkey a on vip\n", fails: `b.yaml:2: plan "vip" would lose its quota, and 1 key would be without: write the limit, or drop it with --drop-limits`,
	},
	{
		name: "a key without a name", run: []string{apply1, "import keys keys.json", apply1 + " --prune", "import keys keys.json"},
		files: with(gateway("", "    apiKeys: [{value: "+value1+"}]\n"), "keys.json", `{"items": [{"id": "x", "name": "shop-ApiGa-1", "value": "`+value1+`"}]}`),
		want:  noPlan + "key shop-ApiGa-1 on shop-dev, value sha256:70a8\n",
	},
	{
		name: "a key without a name, imported first", run: []string{"import keys keys.json --plan free", apply1, "import keys keys.json --plan free"},
		files: with(gateway("", "    apiKeys: [{value: "+value1+"}]\n"), "keys.json", `{"items": [{"id": "x", "name": "shop-ApiGa-1", "value": "`+value1+`"}]}`),
		want:  noPlan + "key shop-ApiGa-1 on shop-dev, value sha256:70a8\n",
	},

	// Listings of keys.
	{name: "keys as YAML", run: []string{"import keys keys.yaml --plan free"}, files: map[string]string{"keys.yaml": "items:\n- createdDate: '2023-01-05'\n  enabled: false\n  name: one\n  value: " + value1 + "\n"}, want: "key one on free, value sha256:70a8, disabled\n"},
	{name: "keys as a list", run: []string{"import keys keys.json --plan free"}, files: map[string]string{"keys.json": `[{"name": "one", "value": "` + value1 + `"}]`}, want: "key one on free, value sha256:70a8\n"},
	{name: "one key", run: []string{"import keys key.json --plan free"}, files: map[string]string{"key.json": `{"id": "x", "name": "one", "value": "` + value1 + `"}`}, want: "key one on free, value sha256:70a8\n"},
	{name: "the REST form", run: []string{"import keys keys.json --plan free"}, files: map[string]string{"keys.json": `{"item": [{"name": "one", "value": "` + value1 + `"}]}`}, want: "key one on free, value sha256:70a8\n"},
	{name: "not all keys", run: []string{"import keys keys.json --plan free"}, files: map[string]string{"keys.json": `{"items": [{"name": "one", "value": "` + value1 + `"}], "NextToken": "x"}`}, want: "key one on free, value sha256:70a8\n", notes: "the listing is not complete (NextToken)"},
	{name: "keys without values", run: []string{"import keys keys.json --plan free"}, files: map[string]string{"keys.json": `{"items": [{"name": "one"}, {"name": "two"}]}`}, fails: "keys.json:1: no key has a value: list the keys with --include-values\nnothing was changed"},
	{name: "keys as text", run: []string{"import keys keys.txt"}, files: map[string]string{"keys.txt": "ITEMS\t2023\ttrue\tx\tone\t" + value1 + "\n"}, fails: "keys.txt:1: the columns are separated by semicolons or tabs: save the file with commas; a listing of the gateway's keys must be JSON or YAML"},
	{name: "keys with semicolons", run: []string{"import keys keys.csv"}, files: map[string]string{"keys.csv": "name;key\none;" + value1 + "\n"}, fails: "keys.csv:1: the columns are separated by semicolons or tabs"},
	{name: "keys of Windows", run: []string{"import keys keys.csv --usage-plan x=free --usage-plan y=free"}, files: map[string]string{"keys.csv": utf16LE("id,Name,key,usagePlanIds\r\n1,Zoë," + value1 + ",'x,y'\r\n")}, want: "key Zoë on free, value sha256:70a8\n"},
	{name: "keys in a zip", run: []string{"import keys keys.csv"}, files: map[string]string{"keys.csv": "PK\x03\x04\x14"}, fails: "keys.csv:1: this is not text: it is a zip archive"},

	// Counts.
	{name: "two forms of a name", run: []string{"import greetings a.csv b.csv --replace"}, files: map[string]string{"a.csv": "name,count\nZo\u00eb,5\n", "b.csv": "name,count\nZoe\u0308,7\n"}, want: "Zoë 12\n"},
	{name: "a file that grew", run: []string{"import greetings a.csv --add", "import greetings b.csv --add"}, files: map[string]string{"a.csv": "name,count\nada,5\n", "b.csv": "name,count\nada,5\nada,1e1\n"}, want: "ada 15\n"},
	{name: "a file that shrank", run: []string{"import greetings a.csv --add", "import greetings b.csv --add"}, files: map[string]string{"a.csv": "name,count\nada,1\nada,2\nada,3\nada,4\n", "b.csv": "name,count\nada,1\nada,2\nada,3\n"}, want: "ada 10\n", fails: "b.csv: rows 1 to 2 of this file are also what an import of 4 rows"},
	{name: "half a name", run: []string{"import greetings a.jsonl --add"}, files: map[string]string{"a.jsonl": `{"name":"a\udc00","count":1}`}, fails: `a.jsonl: line 1: attribute "name" has half of a character`},
	{name: "counts of Windows", run: []string{"import greetings a.jsonl --add"}, files: map[string]string{"a.jsonl": utf16LE("{\"name\":\"Zoë\",\"count\":2}\r\n")}, want: "Zoë 2\n"},
	{name: "counts in a parquet file", run: []string{"import greetings a.parquet --add"}, files: map[string]string{"a.parquet": "PAR1\x15\x04"}, fails: "a.parquet: this is not text: it is Parquet"},
	{name: "counts with semicolons", run: []string{"import greetings a.csv --add"}, files: map[string]string{"a.csv": "name;count\nada;1\n"}, fails: "a.csv: line 1: the columns are separated by semicolons or tabs: save the file with commas"},
}

// What people bring along is taken for what it is where it comes from, or is
// refused with a way out. What was done last changes nothing when repeated.
func TestFiles(t *testing.T) {
	t.Parallel()
	dirs := map[string]string{}
	for _, c := range fileCases {
		dir := "testdata/movingin"
		if c.files != nil {
			dir = t.TempDir()
			for name, data := range c.files {
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		if dirs[c.name] != "" {
			t.Errorf("two cases are %q", c.name)
		}
		dirs[c.name] = dir
	}
	onBoth(t, func(t *testing.T, url string) {
		db, err := backend.OpenDatabase(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		direct := backendtest.SQL(t, url)
		defer direct.Close()
		empty := stored(t, db)
		for _, c := range fileCases {
			t.Run(c.name, func(t *testing.T) {
				env := map[string]string{"DATABASE_URL": url}
				for name, value := range c.env {
					env[name] = value
				}
				command := func(line string) (string, string, error) {
					args := strings.Fields(line)
					for i, a := range args {
						if slices.Contains([]string{"apply -f", "import keys", "import greetings"}, strings.Join(args[max(0, i-2):i], " ")) ||
							strings.HasSuffix(a, ".csv") {
							args[i] = filepath.Join(dirs[c.name], a)
						}
					}
					return helloapi(t, env, args...)
				}
				defer func() {
					for _, stmt := range []string{
						"DELETE FROM api_key_values", "DELETE FROM api_keys", "DELETE FROM greetings", "DELETE FROM greeting_import_prefixes", "DELETE FROM greeting_imports",
						"DELETE FROM plans WHERE name NOT IN ('free', 'paid')",
						"UPDATE plans SET quota_limit = 5, throttle_rate = 5, throttle_burst = 5, made_by = NULL, owner = NULL WHERE name = 'free'",
					} {
						if _, err := direct.Exec(stmt); err != nil {
							t.Error(err)
						}
					}
				}()
				last := len(c.run) - 1
				for i, line := range c.run {
					out, stderr, err := command(line)
					switch {
					case i < last && err != nil, i == last && (err != nil) != (c.fails != ""):
						t.Fatalf("%s: %v\n%s%s", line, err, out, stderr)
					case i == last && err != nil:
						if text := strings.ReplaceAll(err.Error(), dirs[c.name]+"/", ""); !strings.HasPrefix(text, c.fails) {
							t.Errorf("%s: %s\nwant %s", line, text, c.fails)
						}
					case i == last && !strings.Contains(stderr, c.notes):
						t.Errorf("%s: noted %s\nwant %s", line, stderr, c.notes)
					case i > 1 && !strings.HasPrefix(out, "Nothing to do"):
						t.Errorf("%s: %s%s", line, out, stderr)
					}
				}
				want := c.want
				for line := range strings.Lines(empty) {
					if name, _, _ := strings.Cut(line, ":"); !strings.Contains(want, name+":") {
						want += line
					}
				}
				sorted := func(s string) string {
					return strings.Join(slices.Sorted(strings.Lines(s)), "")
				}
				if got := stored(t, db); got != sorted(want) {
					t.Errorf("stored\n%s\nwant\n%s", got, sorted(want))
				}
				if c.fails == "" && !strings.HasPrefix(c.run[last], "import greetings") {
					if out, _, err := command(c.run[last]); err != nil || !strings.HasPrefix(out, "Nothing to do") {
						t.Errorf("%s again: %v\n%s", c.run[last], err, out)
					}
				}
			})
		}
	})
}
