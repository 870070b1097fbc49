package planfile_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"helloapi/internal/planfile"
)

var update = flag.Bool("update", false, "write what is read to the golden files, to be looked over")

// environment is what ${env:…} stands for in the tests.
func environment(name string) string {
	return map[string]string{"PARTNER_KEY": "partner-key-0123456789", "LIMIT": "7", "BAD": "a\x00b"}[name]
}

// read reads data as a file called name.
func read(name, data string) (*planfile.File, error) {
	return planfile.Read(name, []byte(data), planfile.Options{Env: environment})
}

// describe lists what a file says, a line for each plan, key and notice.
func describe(f *planfile.File, err error) string {
	var b strings.Builder
	if err != nil {
		return err.Error() + "\n"
	}
	fmt.Fprintf(&b, "source %s\n", f.Source)
	for _, p := range f.Plans {
		fmt.Fprintf(&b, "plan %q: quota %v, throttle %v", p.Name, p.Quota, p.Throttle)
		fmt.Fprintln(&b)
	}
	for _, k := range f.Keys {
		fmt.Fprintf(&b, "key %q on %q", k.Name, k.Plan)
		if k.NewPlan != "" {
			fmt.Fprintf(&b, ", if new on %q", k.NewPlan)
		}
		if k.Wrong != "" {
			fmt.Fprintf(&b, ", wrong: %s", k.Wrong)
		}
		if k.Value != nil {
			fmt.Fprintf(&b, ", value %q", k.Value.Reveal())
		}
		if k.Description != nil {
			fmt.Fprintf(&b, ", description %q", *k.Description)
		}
		if k.CustomerID != nil {
			fmt.Fprintf(&b, ", customer %q", *k.CustomerID)
		}
		if k.Enabled != nil {
			fmt.Fprintf(&b, ", enabled %v", *k.Enabled)
		}
		if k.Expires != nil {
			fmt.Fprintf(&b, ", expires %s", k.Expires.Format(time.RFC3339))
		}
		fmt.Fprintln(&b)
	}
	for _, n := range f.Notices {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	return b.String()
}

// Each sample in testdata has what it says, or why it is refused, beside it.
func TestReadSamples(t *testing.T) {
	t.Parallel()
	samples, err := filepath.Glob("testdata/*.y*ml")
	if err != nil || len(samples) == 0 {
		t.Fatal("no samples", err)
	}
	for _, sample := range samples {
		name := filepath.Base(sample)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(sample)
			if err != nil {
				t.Fatal(err)
			}
			got := describe(read(name, string(data)))
			golden := strings.TrimSuffix(sample, filepath.Ext(sample)) + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			// What an editor on another machine does to a file changes nothing.
			for how, other := range map[string]string{
				"CRLF":         strings.ReplaceAll(string(data), "\n", "\r\n"),
				"BOM":          "\xef\xbb\xbf" + string(data),
				"BOM and CRLF": "\xef\xbb\xbf" + strings.ReplaceAll(string(data), "\n", "\r\n"),
			} {
				if diff := cmp.Diff(got, describe(read(name, other))); diff != "" {
					t.Errorf("with %s (-want +got)\n%s", how, diff)
				}
			}
		})
	}
}

// The numbers of lines in messages, and what they say.
func TestReadRefuses(t *testing.T) {
	t.Parallel()
	const secret = "secret-value-0123456789"
	gateway := func(s string) string { return "service: s\nprovider:\n  apiGateway:\n" + s }
	tests := []struct {
		name, data string
		want       string // FILE:LINE: and a part of the text, each on a line
	}{
		{"empty", "", "f:1: the file is empty"},
		{"a comment", "# nothing\n", "f:1: the file is empty"},
		{"a list", "- a\n", "f:1: this is neither a plans file"},
		{"a text", "free\n", "f:1: this is neither a plans file"},
		{"something else", "kind: Deployment\n", "f:1: this is neither a plans file"},
		{"not YAML", "plans:\n  free: {}\n paid: {}\n", "f:3: this is not YAML"},
		{"a tab", "plans:\n\tfree: {}\n", "f:2: this is not YAML"},
		{"a value that looks like an alias", "plans:\n  p:\n    keys:\n      - name: a\n        value: *" + secret + "\n", "f:5: this is not YAML: an alias"},
		{"Latin-1", "plans:\n  caf\xe9: {}\n", "f:2: this is not text in UTF-8"},
		{"a control character", "plans:\n  a: {}\n  b\x01: {}\n", "f:3: this is not text"},
		{"two documents", "plans: {}\n---\nplans: {}\n", "f:2: a second YAML document"},
		{"a broken second document", "plans: {}\n---\n{", "f:4: this is not YAML"},

		{"no plans", "plans:\n", "f:1: plans must be a mapping"},
		{"unknown at the top", "plans: {}\nkeys: [a]\n", `f:2: a plans file has no setting "keys"`},
		{"unknown in a plan", "plans:\n  free:\n    limit: 5\n", `f:3: plan "free" has no setting "limit", only quota, throttle and keys`},
		{"empty plan", "plans:\n  free:\n", `f:2: plan "free" has nothing under it`},
		{"plan is a number", "plans:\n  free: 5\n", `f:2: plan "free" must have quota and throttle`},
		{"spaces around a plan's name", "plans:\n  ' free': {}\n", `f:2: plan " free": its name must not have spaces around it`},
		{"a control character in a plan's name", "plans:\n  \"a\\0b\": {}\n", `f:2: plan "a\x00b": its name must not have control characters`},
		{"a variable as a plan's name", "plans:\n  ${env:X}: {}\n", "f:2: a plan's name can't have variables"},
		{"empty quota", "plans:\n  p:\n    quota:\n    throttle: {}\n", `f:4: throttle of plan "p" has no rateLimit`},
		{"quota is a number", "plans:\n  p:\n    quota: 5\n", `f:3: quota of plan "p" must be a mapping`},
		{"unknown in quota", "plans:\n  p:\n    quota:\n      limits: 5\n", `f:4: quota of plan "p" has no setting "limits", only limit, period, offset and timezone`},
		{"no period", "plans:\n  p:\n    quota: {limit: 5}\n", `f:3: quota of plan "p" has no period`},
		{"no limit", "plans:\n  p:\n    quota: {period: DAY}\n", `f:3: quota of plan "p" has no limit`},
		{"bad zone", "plans:\n  p:\n    quota:\n      limit: 5\n      period: DAY\n      timezone: Mars/Base\n", `f:6: plan "p": quota timezone "Mars/Base"`},
		{"limit is a text", "plans:\n  p:\n    quota:\n      period: DAY\n      limit: many\n", "f:5: quota limit must be a whole number"},
		{"limit is a fraction", "plans:\n  p:\n    quota: {period: DAY, limit: 5.5}\n", "f:3: quota limit must be a whole number"},
		{"limit is octal to some", "plans:\n  p:\n    quota: {period: DAY, limit: 010}\n", "f:3: quota limit must be a whole number"},
		{"limit is huge", "plans:\n  p:\n    quota: {period: DAY, limit: 99999999999999999999}\n", "f:3: quota limit is too large"},
		{"limit is too large", "plans:\n  p:\n    quota: {period: DAY, limit: 9999999999999999}\n", `f:3: plan "p": quota limit 9999999999999999: must be 1 to`},
		{"offset is huge", "plans:\n  p:\n    quota: {period: WEEK, limit: 1, offset: 4294967296}\n", `f:3: plan "p": quota offset 2147483647: must be 0 to 6`},
		{"limit is a list", "plans:\n  p:\n    quota: {period: DAY, limit: [5]}\n", "f:3: quota limit must be a text"},
		{"limit is empty", "plans:\n  p:\n    quota:\n      period: DAY\n      limit:\n", `f:4: quota of plan "p" has no limit`},
		{"rate is a text", "plans:\n  p:\n    throttle: {rateLimit: fast}\n", "f:3: throttle rateLimit must be a number"},
		{"rate is not a number", "plans:\n  p:\n    throttle: {rateLimit: .nan}\n", "f:3: throttle rateLimit must be a number"},
		{"rate is infinite", "plans:\n  p:\n    throttle: {rateLimit: inf}\n", "f:3: throttle rateLimit must be a number"},
		{"rate is huge", "plans:\n  p:\n    throttle: {rateLimit: 1e7}\n", `f:3: plan "p": throttle rateLimit 1e+07`},
		{"burst without a rate", "plans:\n  p:\n    throttle: {burstLimit: 5}\n", `f:3: throttle of plan "p" has no rateLimit`},
		{"burst is a fraction", "plans:\n  p:\n    throttle: {rateLimit: 1, burstLimit: 0.5}\n", "f:3: throttle burstLimit must be a whole number"},
		{"given twice", "plans:\n  p:\n    quota: {limit: 5, period: DAY}\n    quota: {limit: 6, period: DAY}\n", `f:4: "quota" is given twice: line 3 has it already`},

		{"keys are a mapping", "plans:\n  p:\n    keys:\n      a: b\n", `f:4: keys of plan "p" must be a list`},
		{"a list in a list", "plans:\n  p:\n    keys:\n      - [a]\n", "f:4: a key must be a name, or a mapping"},
		{"an empty key", "plans:\n  p:\n    keys:\n      -\n", "f:4: a key is empty"},
		{"an empty name", "plans:\n  p:\n    keys:\n      - ''\n      - name: ''\n", "f:4: a key has an empty name\nf:5: a key has an empty name"},
		{"neither name nor value", "plans:\n  p:\n    keys:\n      - description: who\n", "f:4: a key needs a name, or else a value"},
		{"name and value the short way", "plans:\n  p:\n    keys:\n      - bob: " + secret + "\n", `f:4: a key has no setting "bob", only name, value, description, customerId, enabled and expires`},
		{"a value mistyped", "plans:\n  p:\n    keys:\n      - name: bob\n        valeu: " + secret + "\n", `f:5: a key has no setting "valeu"`},
		{"a value as a setting", "plans:\n  p:\n    keys:\n      - " + secret + ": bob\n", `f:4: a key has no setting "secr…", only name`},
		{"a value as a setting twice", "plans:\n  p:\n    keys:\n      - {" + secret + ": 1, " + secret + ": 2}\n", "f:4: \"secr…\" is given twice: line 4 has it already\nf:4: a key has no setting"},
		{"a short value", "plans:\n  p:\n    keys:\n      - name: bob\n        value: secret-value\n", "f:5: a key's value can't be used: a value must have 20 to 128 characters; this has 12"},
		{"a value with a space", "plans:\n  p:\n    keys:\n      - name: bob\n        value: secret-value 0123456789\n", "f:5: a key's value can't be used: a value must be of printable ASCII"},
		{"a generated value cut off", "plans:\n  p:\n    keys:\n      - name: bob\n        value: hk_secret-value0123456789\n", "f:5: a key's value can't be used: a value that starts with hk_"},
		{"a value used twice", "plans:\n  p:\n    keys:\n      - value: " + secret + "\n  q:\n    keys:\n      - name: bob\n        value: '" + secret + "'\n", "f:7: this key has the same value as the one on line 4"},
		{"a name used twice", "plans:\n  p:\n    keys:\n      - bob\n  q:\n    keys:\n      - name: bob\n", `f:7: the key "bob" is on line 4 already`},
		{"a value in place of a name", "plans:\n  p:\n    keys:\n      - hk_mHdvnsb0Ko5UXmTxJehk1Dbp8Lp2M0WN2Kmaa1\n", "f:4: a key's value stands where its name belongs"},
		{"spaces around a name", "plans:\n  p:\n    keys:\n      - 'bob '\n", `f:4: a key's name must not have spaces around it: "bob "`},
		{"a newline in a name", "plans:\n  p:\n    keys:\n      - \"a\\nb\"\n", `f:4: a key's name must not have control characters`},
		{"a long name", "plans:\n  p:\n    keys:\n      - " + strings.Repeat("x", 257) + "\n", "f:4: a key's name must not have more than 256"},
		{"enabled is a text", "plans:\n  p:\n    keys:\n      - name: bob\n        enabled: yes\n", "f:5: a key's enabled must be true or false"},
		{"a bad time", "plans:\n  p:\n    keys:\n      - name: bob\n        expires: soon\n", "f:5: a key's expires must be a date"},
		{"a description with NUL", "plans:\n  p:\n    keys:\n      - name: bob\n        description: \"\\0\"\n", "f:5: a key's description must be text in UTF-8"},
		{"a description from the environment with NUL", "plans:\n  p:\n    keys:\n      - name: bob\n        description: ${env:BAD}\n", "f:5: a key's description must be text in UTF-8"},
		{"a list as a value", "plans:\n  p:\n    keys:\n      - name: bob\n        value: [" + secret + "]\n", "f:5: a key's value must be a text"},

		{"serverless without keys", "service: s\nprovider:\n  name: aws\n", "f:1: there is no apiKeys and no usagePlan"},
		{"serverless without a provider", "service: s\n", "f:1: there is no apiKeys and no usagePlan"},
		{"provider is a text", "service: s\nprovider: aws\n", "f:1: there is no apiKeys and no usagePlan"},
		{"keys are a mapping", gateway("    apiKeys:\n      free: [bob]\n"), "f:5: apiKeys must be a list"},
		{"one plan for all without a service", "provider:\n  apiKeys: [a]\n", "f:1: the only usage plan is called SERVICE-STAGE"},
		{"usagePlan is a text", gateway("    usagePlan: free\n"), "f:4: usagePlan must have quota and throttle"},
		{"plans are a mapping", gateway("    usagePlan:\n      free: {quota: {limit: 5, period: DAY}}\n"), "f:5: plan \"s-dev\" has no setting \"free\", only quota and throttle; several plans are a list: - NAME: …"},
		{"limit beside quota", gateway("    usagePlan:\n      quota:\n      limit: 5\n      period: DAY\n"), "f:6: limit must be indented under quota:\nf:7: period must be indented under quota:"},
		{"rate beside throttle", gateway("    usagePlan:\n      throttle:\n      rateLimit: 5\n"), "f:6: rateLimit must be indented under throttle:"},
		{"a zone in serverless.yml", gateway("    usagePlan:\n      quota: {limit: 5, period: DAY, timezone: UTC}\n"), `f:5: quota of plan "s-dev" has no setting "timezone"`},
		{"a listed plan that is empty", gateway("    usagePlan:\n      - free:\n"), `f:5: plan "free" has nothing under it`},
		{"a listed plan without a name", gateway("    usagePlan:\n      - quota: {limit: 5, period: DAY}\n"), "f:5: an item of the list usagePlan must name its plan"},
		{"a listed plan that is a name", gateway("    usagePlan:\n      - free\n"), "f:5: usagePlan: an item of the list must be a plan"},
		{"two plans in an item", gateway("    usagePlan:\n      - free: {}\n        paid: {}\n"), `f:6: plan "paid" must be an item of its own`},
		{"a quota twice", gateway("    usagePlan:\n      - free:\n          quota: {limit: 5, period: DAY}\n      - free:\n          quota: {limit: 6, period: DAY}\n"), `f:8: plan "free" has its quota on line 5 already`},
		{"two groups in an item", gateway("    apiKeys:\n      - free: [a]\n        paid: [b]\n    usagePlan:\n      - free: {}\n      - paid: {}\n"), `f:6: group "paid" must be an item of its own`},
		{"a setting beside a group", gateway("    apiKeys:\n      - free:\n        name: a\n    usagePlan:\n      - free: {}\n"), "f:6: name must be indented under free:"},
		{"loose keys beside listed plans", gateway("    apiKeys:\n      - a\n      - name: b\n      - free: [c]\n    usagePlan:\n      - free: {}\n"), "f:5: this key is in no group\nf:6: this key is in no group"},
		{"a group without its plan", gateway("    apiKeys:\n      - fre: [a]\n    usagePlan:\n      - free: {}\n"), `f:5: API key "fre" has no usage plan defined`},
		{"a list in the list of keys", gateway("    apiKeys:\n      - [a]\n    usagePlan:\n      - free: {}\n"), "f:5: apiKeys: an item of the list must be a group"},

		{"a function as a name", gateway("    apiKeys:\n      - !Sub '${AWS::StackName}-key'\n"), "f:5: a CloudFormation function (!Sub)"},
		{"a function as a name, the long way", gateway("    apiKeys:\n      - name: {Ref: Name}\n"), "f:5: a CloudFormation function (Ref) can't be known"},
		{"a function as a key", gateway("    apiKeys:\n      - Fn::Sub: '${AWS::StackName}-key'\n"), "f:5: a CloudFormation function (Fn::Sub) can't be known"},
		{"a function as a value", gateway("    apiKeys:\n      - name: a\n        value: !Ref " + secret + "\n"), "f:6: a CloudFormation function (!Ref)"},
		{"a function as a limit", gateway("    usagePlan:\n      quota: {limit: !Ref Limit, period: DAY}\n"), "f:5: a CloudFormation function (!Ref)"},
		{"a function as all keys", gateway("    apiKeys: !Split [',', a]\n"), "f:4: a CloudFormation function (!Split)"},
		{"merging a text", "plans:\n  p:\n    <<: 5\n", "f:3: what is merged with << must be a mapping"},
		{"merging a list of texts", "plans:\n  p:\n    <<: [5]\n", "f:3: what is merged with << must be a mapping"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f, err := read("f", tt.data)
			var ms *planfile.Mistakes
			if !errors.As(err, &ms) {
				t.Fatalf("read\n%s, want %q", describe(f, err), tt.want)
			}
			got, want := strings.Split(err.Error(), "\n"), strings.Split(tt.want, "\n")
			if len(got) != len(want) {
				t.Fatalf("got\n%v\nwant\n%s", err, tt.want)
			}
			for i := range got {
				if !strings.HasPrefix(got[i], want[i]) {
					t.Errorf("got\n%v\nwant\n%s", err, tt.want)
				}
			}
			if strings.Contains(err.Error(), "secret-value") {
				t.Errorf("the message holds a key's value: %v", err)
			}
		})
	}
}

func TestReadVariables(t *testing.T) {
	t.Parallel()
	opts := planfile.Options{Stage: "prod", Opts: map[string]string{"region": "eu"}, Env: environment}
	file := func(v string) string {
		return "service: s\nprovider:\n  stage: test\n  apiKeys:\n    - " + v + "\n" + `
custom:
  a: {b: [x, "y z"], n: 7, z: 007, none: , deep: "${self:custom.a.b.0}-${sls:stage}", stages: {prod: P}}
  loop: "${self:custom.loop}"
  twice: {one: "${self:custom.twice.two}", two: "${self:custom.twice.one}"}
`
	}
	good := []struct{ text, want string }{
		{`${opt:stage}`, "prod"},
		{`${sls:stage}`, "prod"},
		{`${self:provider.stage}`, "prod"},
		{`a-${opt:region}-b-${sls:stage}`, "a-eu-b-prod"},
		{`${opt:none, 'x y'}`, "x y"},
		{`${opt:none,"x, y}"}`, "x, y}"},
		{`${opt:none, opt:region}`, "eu"},
		{`${opt:none, ${opt:region}}`, "eu"},
		{`${opt:none, ${opt:none, 'deep'}}`, "deep"},
		{`${opt:none, env:LIMIT}`, "7"},
		{`${opt:none, 5}`, "5"},
		{`${opt:none, true}`, "true"},
		{`${self:custom.a.b.1}`, "y z"},
		{`${self:custom.a.z}`, "007"},
		{`${self:custom.a.deep}`, "x-prod"},
		{`${self:custom.a.stages.${sls:stage}}`, "P"},
		{`${self:service}`, "s"},
		{`${self:custom.nothing.at.all, 'd'}`, "d"},
		{`${self:custom.a.none, 'd'}`, "d"},
		{`\${opt:region}`, "${opt:region}"},
		{`${env:PARTNER_KEY}-`, "partner-key-0123456789-"},
		{`${opt:region, ${ssm:/never/asked}}`, "eu"},
	}
	for _, tt := range good {
		f, err := planfile.Read("f", []byte(file("'"+strings.ReplaceAll(tt.text, "'", "''")+"'")), opts)
		if err != nil || len(f.Keys) != 1 || f.Keys[0].Name != tt.want {
			t.Errorf("%s: %v, want %q\n%s", tt.text, err, tt.want, describe(f, err))
		}
	}
	bad := []struct{ text, want string }{
		{`${env:MISSING}`, "f:5: ${env:MISSING} is not in the environment"},
		{`${opt:none}`, "f:5: ${opt:none} is not given: add --stage STAGE, or --opt NAME=VALUE"},
		{`${self:custom.x}`, "f:5: ${self:custom.x} is not in this file"},
		{`${self:custom.a.b.2}`, "f:5: ${self:custom.a.b.2} is not in this file"},
		{`${self:custom.a.none}`, "f:5: ${self:custom.a.none} is empty"},
		{`${self:}`, "f:5: ${self:} can't be resolved here"},
		{`${ssm:/path/to/key}`, "f:5: ${ssm:/path/to/key} can't be resolved here"},
		{`${ssm:/x, 'secret-value-0123456789'}`, "f:5: ${ssm:/x} can't be resolved here"},
		{`${file(./keys.yml):keys}`, "f:5: ${file(./keys.yml):keys} can't be read: standard input is in no folder"},
		{`${cf:stack.output}`, "f:5: ${cf:stack.output} can't be resolved here"},
		{`${param:x}`, "f:5: ${param:x} is in neither params nor stages"},
		{`${sls:instanceId}`, "f:5: ${sls:instanceId} can't be resolved here"},
		{`${AWS::Region}`, "f:5: ${AWS::Region} can't be resolved here"},
		{`${stage}`, "f:5: ${stage} is no variable that can be resolved here"},
		{`${}`, "f:5: a variable (${…}) is empty"},
		{`${opt:region`, "f:5: a variable (${…}) is not closed"},
		{`a-${self:custom.a}`, "f:5: a variable within a text must stand for a text"},
		{`${self:custom.${self:custom.a}}`, "f:5: a variable within a text must stand for a text"},
		{`${self:${self:custom.a}}`, "f:5: a variable within a text must stand for a text"},
		{`${self:custom.loop}`, "f:1: too many aliases, merge keys or variables"},
		{`${self:custom.twice.one}`, "f:1: too many aliases, merge keys or variables"},
	}
	for _, tt := range bad {
		f, err := planfile.Read("f", []byte(file("'"+strings.ReplaceAll(tt.text, "'", "''")+"'")), opts)
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "secret-value") {
			t.Errorf("%s: %s, want %s", tt.text, describe(f, err), tt.want)
		}
	}
}

// Files are included from the folder of the file, whatever leads out of it.
func TestReadIncludes(t *testing.T) {
	t.Parallel()
	outside, dir := t.TempDir(), t.TempDir()
	for path, data := range map[string]string{
		filepath.Join(outside, "keys.yml"): "[out]", filepath.Join(dir, "keys.yml"): "[in]", filepath.Join(dir, "bad.yml"): "- [\n", filepath.Join(dir, "latin.yml"): "caf\xe9",
	} {
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"link.yml": filepath.Join(outside, "keys.yml"), "folder": outside, "mine.yml": "keys.yml"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "sub.yml"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ path, want, anywhere string }{
		{"keys.yml", "in", "in"},
		{"./sub.yml/../keys.yml", "in", "in"},
		{filepath.Join(dir, "keys.yml"), "in", "in"},
		{"mine.yml", "in", "in"},
		{"link.yml", "outside the folder", "out"},
		{"folder/keys.yml", "outside the folder", "out"},
		{filepath.Join(outside, "keys.yml"), "outside the folder", "out"},
		{"../keys.yml", "outside the folder", "no such file"},
		{"~/keys.yml", "outside the folder", "outside the folder"},
		{"sub.yml", "not a regular file", "not a regular file"},
		{"bad.yml", "bad.yml:2: this is not YAML", "bad.yml:2: this is not YAML"},
		{"latin.yml", "latin.yml:1: this is not text in UTF-8", "latin.yml:1: this is not text in UTF-8"},
		{"keys.toml", "needs code to be run", "needs code to be run"},
	} {
		for outsideFiles, want := range map[bool]string{false: tt.want, true: tt.anywhere} {
			data := "service: s\nprovider:\n  apiKeys: ${file(" + tt.path + ")}\n"
			f, err := planfile.Read("f", []byte(data), planfile.Options{Path: filepath.Join(dir, "f"), OutsideFiles: outsideFiles})
			if got := describe(f, err); !strings.Contains(got, want) || err != nil && strings.Count(got, "\n") != 1 || err == nil && !strings.Contains(got, "key \""+want+"\"") {
				t.Errorf("%s, outside files %v: %s, want %s", tt.path, outsideFiles, got, want)
			}
		}
	}
}

// A time is kept to the millisecond, so that it is equal to what comes back.
func TestReadTime(t *testing.T) {
	t.Parallel()
	f, err := read("f", "plans: {p: {keys: [{name: a, expires: 2030-12-31T12:00:00.123456789+02:00}]}}")
	if err != nil || !f.Keys[0].Expires.Equal(time.Date(2030, 12, 31, 10, 0, 0, 123e6, time.UTC)) {
		t.Error(describe(f, err))
	}
}

// A stage that names itself can't be known.
func TestReadStage(t *testing.T) {
	t.Parallel()
	const file = "service: s\nprovider:\n  stage: ${self:provider.stage}\n  apiKeys: [a]\n"
	if _, err := read("f", file); err == nil || !strings.Contains(err.Error(), "--stage STAGE") {
		t.Errorf("without --stage: %v", err)
	}
	f, err := planfile.Read("f", []byte(file), planfile.Options{Stage: "prod", Env: environment})
	if err != nil || f.Plans[0].Name != "s-prod" || f.Source != "service:s-prod" {
		t.Errorf("with --stage: %s", describe(f, err))
	}
}

// The same settings in another order, at another indent, or in the other place
// are the same file.
func TestReadPlaces(t *testing.T) {
	t.Parallel()
	older, err := os.ReadFile("testdata/s1.yml")
	if err != nil {
		t.Fatal(err)
	}
	want, err := read("f", string(older))
	if err != nil {
		t.Fatal(err)
	}
	var newer strings.Builder
	in := false
	for line := range strings.Lines(string(older)) {
		if strings.HasPrefix(line, "  apiKeys:") {
			newer.WriteString("  apiGateway:\n")
			in = true
		}
		if in && strings.HasPrefix(line, "  ") {
			line = "    " + line
		}
		newer.WriteString(line)
	}
	got, err := read("f", newer.String())
	if err != nil {
		t.Fatalf("%v in\n%s", err, &newer)
	}
	if len(want.Notices) == 0 || len(got.Notices) != 0 {
		t.Errorf("notices: %q of the older place, %q of the newer", want.Notices, got.Notices)
	}
	want.Notices, got.Notices = nil, nil
	if diff := cmp.Diff(describe(want, nil), describe(got, nil)); diff != "" {
		t.Errorf("the newer place (-older +newer)\n%s", diff)
	}

	// Both: the newer goes, and that is said.
	both := "service: s\nprovider:\n  apiKeys: [old]\n  apiGateway:\n    apiKeys: [new]\n"
	f, err := read("f", both)
	if err != nil || f.Keys[0].Name != "new" || len(f.Notices) != 1 || !strings.Contains(f.Notices[0], "provider.apiKeys is ignored") {
		t.Errorf("in both places: %s", describe(f, err))
	}
}

// A large file is read in bearable time, and one that stands for an endless one
// is refused in such.
func TestReadLarge(t *testing.T) {
	t.Parallel()
	var keys strings.Builder
	keys.WriteString("service: s\nprovider:\n  apiGateway:\n    usagePlan:\n      - p: {}\n    apiKeys:\n      - p:\n")
	n := 0
	for ; keys.Len() < 5<<20; n++ {
		fmt.Fprintf(&keys, "          - name: key%d\n            value: value-of-key-%020d\n            description: %s\n", n, n, strings.Repeat("x", 300))
	}
	if f, err := read("f", keys.String()); err != nil || len(f.Keys) != n || n < 10_000 {
		t.Errorf("5 MB: %v, %d keys", err, n)
	}

	if _, err := read("f", "plans: {p: {keys: ["+strings.Repeat("x", planfile.MaxSize)+"]}}"); err == nil || !strings.Contains(err.Error(), "larger than 16 MB") {
		t.Errorf("more than 16 MB: %v", err)
	}

	bombs := map[string]string{}
	var merges, vars, list strings.Builder
	merges.WriteString("x-0: &m0 {quota: {limit: 1, period: DAY}}\n")
	vars.WriteString("x-v:\n  v0: xxxxxxxxxx\n")
	list.WriteString("x-0: &l0 [a, b]\n")
	for i := 1; i < 25; i++ {
		fmt.Fprintf(&merges, "x-%d: &m%d {<<: [%s*m%d]}\n", i, i, strings.Repeat(fmt.Sprintf("*m%d, ", i-1), 9), i-1)
		fmt.Fprintf(&vars, "  v%d: \"%s\"\n", i, strings.Repeat(fmt.Sprintf("${self:x-v.v%d}", i-1), 10))
		fmt.Fprintf(&list, "x-%d: &l%d [*l%d, *l%d]\n", i, i, i-1, i-1)
	}
	bombs["merge keys"] = merges.String() + "plans:\n  p: {<<: *m24}\n"
	var wide strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&wide, "k%d: 1, ", i)
	}
	bombs["a wide merge key"] = "plans:\n  p: {<<: {" + wide.String() + "}}\n"
	bombs["variables"] = vars.String() + "plans:\n  p: {keys: ['${self:x-v.v24}']}\n"
	bombs["aliases"] = list.String() + "plans:\n  p: {keys: *l24}\n"
	bombs["a merge key of itself"] = "plans:\n  p: &p {<<: *p}\n"
	bombs["a list of itself"] = "plans:\n  p: {keys: &k [*k]}\n"
	for name, data := range bombs {
		begin := time.Now()
		if f, err := read("f", data); err == nil {
			t.Errorf("%s: read %d plans and %d keys", name, len(f.Plans), len(f.Keys))
		}
		if d := time.Since(begin); d > 20*time.Second {
			t.Errorf("%s: took %v", name, d)
		}
	}
}

// FuzzRead wants a file or mistakes with lines, whatever the text is.
func FuzzRead(f *testing.F) {
	samples, err := filepath.Glob("testdata/*.y*ml")
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range samples {
		data, err := os.ReadFile(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("plans:\n  p: {<<: *x}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := planfile.Read("f", data, planfile.Options{Env: environment})
		if err == nil {
			names := map[string]bool{}
			plans := map[string]bool{}
			for _, p := range file.Plans {
				if err := p.Validate(); err != nil || plans[p.Name] {
					t.Errorf("plan %q: %v", p.Name, err)
				}
				plans[p.Name] = true
			}
			for _, k := range file.Keys {
				if k.Name == "" && k.Value == nil || !plans[k.Plan] || k.Name != "" && names[k.Name] {
					t.Errorf("key %q on plan %q", k.Name, k.Plan)
				}
				names[k.Name] = true
			}
			return
		}
		var ms *planfile.Mistakes
		if !errors.As(err, &ms) || len(ms.List) == 0 {
			t.Fatalf("not mistakes: %v", err)
		}
		for _, m := range ms.List {
			if m.Line < 1 || m.Line > strings.Count(string(data), "\n")+strings.Count(string(data), "\r")+2 {
				t.Errorf("no such line: %d: %s", m.Line, m.Text)
			}
		}
	})
}
