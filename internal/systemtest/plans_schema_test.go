package systemtest

import (
	"bytes"
	"os"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"helloapi/internal/planfile"
)

// What the schema says of a plans file in an editor is what helloapi says when
// it is applied.
func TestPlansSchema(t *testing.T) {
	data, err := os.ReadFile("../../deploy/plans.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("plans.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("plans.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	defaults, err := os.ReadFile("../../deploy/plans.yaml")
	if err != nil {
		t.Fatal(err)
	}
	plan := func(s string) string { return "plans: {p: {" + s + "}}" }
	for name, tt := range map[string]struct {
		file string
		good bool
	}{
		"the defaults":        {string(defaults), true},
		"no plans":            {"plans: {}", true},
		"no limits":           {plan(""), true},
		"all of a quota":      {plan("quota: {limit: 5, period: WEEK, offset: 6, timezone: Europe/Berlin}"), true},
		"all of a throttle":   {plan("throttle: {rateLimit: 0.5, burstLimit: 3}"), true},
		"no burst":            {plan("throttle: {rateLimit: 100}"), true},
		"every form of a key": {"name: shop\nplans: {p: {keys: [a, 7, true, {name: b}, {name: c, value: a-value-0123456789-x, description: d, customerId: 7, enabled: false, expires: '2030-12-31'}, {value: b-value-0123456789-x}]}}", true},
		"variables":           {"plans: {p: {quota: {limit: \"${env:N, '5'}\", period: DAY}, keys: [{name: a, enabled: \"${env:ON, 'true'}\"}]}}", true},
		"anchors":             {"x-a: &a {limit: 5, period: DAY}\nplans: {p: {quota: *a}}", true},

		"nothing":             {"name: shop", false},
		"another setting":     {"plans: {}\nkeys: [a]", false},
		"plans are a list":    {"plans: [a]", false},
		"a plan is a number":  {"plans: {p: 5}", false},
		"a plan is empty":     {"plans: {p: }", false},
		"a plan's setting":    {plan("limit: 5"), false},
		"a plan's name":       {"plans: {' p': {}}", false},
		"no period":           {plan("quota: {limit: 5}"), false},
		"no limit":            {plan("quota: {period: DAY}"), false},
		"limit 0":             {plan("quota: {limit: 0, period: DAY}"), false},
		"limit is a fraction": {plan("quota: {limit: 1.5, period: DAY}"), false},
		"another period":      {plan("quota: {limit: 5, period: YEAR}"), false},
		"offset":              {plan("quota: {limit: 5, period: MONTH, offset: 28}"), false},
		"a quota's setting":   {plan("quota: {limit: 5, period: DAY, limits: 5}"), false},
		"burst alone":         {plan("throttle: {burstLimit: 5}"), false},
		"rate 0":              {plan("throttle: {rateLimit: 0}"), false},
		"burst 0":             {plan("throttle: {rateLimit: 1, burstLimit: 0}"), false},
		"keys are a text":     {plan("keys: a"), false},
		"a key is a list":     {plan("keys: [[a]]"), false},
		"a key is empty":      {plan("keys: [{}]"), false},
		"an empty name":       {plan("keys: ['']"), false},
		"a key's setting":     {plan("keys: [{name: a, color: red}]"), false},
		"neither":             {plan("keys: [{description: d}]"), false},
		"enabled":             {plan("keys: [{name: a, enabled: perhaps}]"), false},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := planfile.Read("f", []byte(tt.file), planfile.Options{Env: func(string) string { return "" }})
			if (err == nil) != tt.good {
				t.Errorf("helloapi says %v", err)
			}
			var v any
			if err := yaml.Unmarshal([]byte(tt.file), &v); err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(v); (err == nil) != tt.good {
				t.Errorf("the schema says %v", err)
			}
		})
	}
}
