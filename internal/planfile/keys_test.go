package planfile_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"helloapi/internal/planfile"
)

func TestReadKeys(t *testing.T) {
	t.Parallel()
	const secret = "secret-value-0123456789"
	opts := planfile.KeyOptions{Plan: "free", Plans: map[string]string{"c7y23b": "paid", "x1": "paid"}}
	const header = "name,key,description,Enabled,usageplanIds\n"
	tests := []struct{ name, data, want string }{
		{
			"the gateway's", header +
				"MyFirstApiKey,apikey1234abcdefghij0123456789,An imported key,TRUE,c7y23b\n" +
				"\"My, second\",apikey1234abcdefghij0123456780,\"two\nlines\",false,\"c7y23b,x1\"\n" +
				",apikey1234abcdefghij0123456781,,,\n" +
				"0123,apikey1234abcdefghij0123456782,${env:X},,gold\n",
			`source 
key "MyFirstApiKey" on "paid", if new on "free", value "apikey1234abcdefghij0123456789", description "An imported key", enabled true
key "My, second" on "paid", if new on "free", value "apikey1234abcdefghij0123456780", description "two\nlines", enabled false
key "" on "", if new on "free", value "apikey1234abcdefghij0123456781"
key "0123" on "gold", if new on "free", value "apikey1234abcdefghij0123456782", description "${env:X}"
`,
		},
		{"two columns", "Key,Name\n" + secret + ",bob\n", "source \nkey \"bob\" on \"\", if new on \"free\", value \"" + secret + "\"\n"},
		{
			"what the gateway's command line lists", `{
    "items": [
        {"id": "abc", "value": "` + secret + `", "name": "bob", "customerId": "c1", "enabled": false, "createdDate": 1.5e9, "stageKeys": ["x/dev"], "description": null},
        {"value": "another-value-0123456789", "name": "${eve}"}
    ]
}`, "source \nkey \"bob\" on \"\", if new on \"free\", value \"" + secret + "\", customer \"c1\", enabled false\nkey \"${eve}\" on \"\", if new on \"free\", value \"another-value-0123456789\"\n",
		},

		{"empty", "", "f:1: the file is empty\n"},
		{"without a header", "bob," + secret + "\n", "f:1: the first line must name the columns, each once and separated by commas: name,key,description,Enabled,usageplanIds; only name and key are needed. A listing of the gateway's keys must be JSON or YAML (--output json)\n"},
		{"semicolons", "name;key\nbob;" + secret + "\n", "f:1: the columns are separated by semicolons or tabs: save the file with commas; a listing of the gateway's keys must be JSON or YAML (--output json)\n"},
		{"the gateway's text", "ITEMS\t2023-01-05\ttrue\tabc\tbob\t" + secret + "\n", "f:1: the columns are separated by semicolons or tabs: save the file with commas; a listing of the gateway's keys must be JSON or YAML (--output json)\n"},
		{"a column twice", "name,key,key\n", "f:1: the first line must name the columns, each once and separated by commas: name,key,description,Enabled,usageplanIds; only name and key are needed. A listing of the gateway's keys must be JSON or YAML (--output json)\n"},
		{"more columns", "id,Name,KEY,createdDate\nx,bob," + secret + ",2023-01-05\n", "source \nkey \"bob\" on \"\", if new on \"free\", value \"" + secret + "\"\n"},
		{"single quotes", header + "a," + secret + ",d,TRUE,'c7y23b'\nb,another-value-0123456789,,,'c7y23b,x1'\n", `source 
key "a" on "paid", if new on "free", value "` + secret + `", description "d", enabled true
key "b" on "paid", if new on "free", value "another-value-0123456789"
`},
		{"a number of fields", header + "f,too,many,of,these,fields\n", "f:2: the line has 6 fields, and the first line names 5: quote those that have a comma\n"},
		{
			"bad lines", header + "a,short,,,\nc,,,,\nd,another-value-0123456789,,maybe,\ne,third-value-0123456789,,,\"one,two\"\n",
			`source 
key "a" on "", if new on "free", wrong: the key's value can't be used: a value must have 20 to 128 characters; this has 5
key "c" on "", if new on "free", wrong: the key has no value: list the keys with --include-values
key "d" on "", if new on "free", wrong: Enabled must be TRUE or FALSE, value "another-value-0123456789", enabled false
key "e" on "two", if new on "free", wrong: the key has several usage plans, and here a key has one: leave one of them, value "third-value-0123456789"
`,
		},
		{"a quote", header + "a," + secret + ",\"b\nc,d", "f:3: this is not CSV: extraneous or missing \" in quoted-field\n"},
		{"not UTF-8", header + "caf\xe9," + secret + ",,,\n", "f:2: this is not text in UTF-8: save the file as UTF-8\n"},
		{"JSON without items", `{"keys": []}`, "f:1: there are no keys: this must be what the gateway's get-api-keys --include-values prints, a list \"items\" of keys\n"},
		{"JSON without values", "{\"items\": [\n{\"name\": \"bob\"}]}", "f:1: no key has a value: list the keys with --include-values\n"},
		{"a list", `[{"name": "bob", "value": "` + secret + `"}]`, "source \nkey \"bob\" on \"\", if new on \"free\", value \"" + secret + "\"\n"},
		{"one key", `{"id": "x", "name": "bob", "value": "` + secret + `"}`, "source \nkey \"bob\" on \"\", if new on \"free\", value \"" + secret + "\"\n"},
		{"the REST form", `{"_links": {}, "item": [{"name": "bob", "value": "` + secret + `"}]}`, "source \nkey \"bob\" on \"\", if new on \"free\", value \"" + secret + "\"\n"},
		{"the REST form of one", `{"_embedded": {"item": {"name": "bob", "value": "` + secret + `"}}}`, "source \nkey \"bob\" on \"\", if new on \"free\", value \"" + secret + "\"\n"},
		{"YAML", "items:\n- createdDate: '2023'\n  name: bob\n  value: " + secret + "\n", "source \nkey \"bob\" on \"\", if new on \"free\", value \"" + secret + "\"\n"},
		{"YAML, a list", "- name: bob\n  value: " + secret + "\n", "source \nkey \"bob\" on \"\", if new on \"free\", value \"" + secret + "\"\n"},
		{"YAML, one key", "createdDate: '2023'\r\nname: bob\r\nvalue: " + secret + "\r\n", "source \nkey \"bob\" on \"\", if new on \"free\", value \"" + secret + "\"\n"},
		{"an escaped pair", `{"items": [{"name": "bob", "value": "` + secret + `", "description": "\ud83d\ude80"}]}`, "source \nkey \"bob\" on \"\", if new on \"free\", value \"" + secret + "\", description \"🚀\"\n"},
		{"not complete", `{"items": [{"name": "bob", "value": "` + secret + `"}], "NextToken": "x"}`, "source \nkey \"bob\" on \"\", if new on \"free\", value \"" + secret + "\"\nnote: f: the listing is not complete (NextToken): keys after those are missing; list them without --max-items and --no-paginate\n"},
		{"half a pair", `{"items": [{"name": "bob\ud83d", "value": "` + secret + `"}]}`, "f:1: this is not JSON or YAML: found invalid Unicode character escape code (while scanning a quoted scalar); check the indentation and quotes here and above\n"},
		{"broken JSON", "{\"items\": [\n{\"name\": \"bob\"", "f:3: this is not JSON or YAML: did not find expected ',' or '}' (while parsing a flow mapping); check the indentation and quotes here and above\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for how, data := range map[string]string{"": tt.data, "BOM": "\xef\xbb\xbf" + tt.data} {
				f, err := planfile.ReadKeys("f", []byte(data), opts)
				got := describe(f, err)
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("%s (-want +got)\n%s", how, diff)
				}
				if err != nil && strings.Contains(err.Error(), "secret-value") {
					t.Error("the message holds a key's value")
				}
			}
		})
	}
}

func FuzzReadKeys(f *testing.F) {
	f.Add([]byte("name,key,description,Enabled,usageplanIds\na,apikey1234abcdefghij0123456789,b,TRUE,c\n"))
	f.Add([]byte(`{"items": [{"name": "a", "value": "apikey1234abcdefghij0123456789"}]}`))
	f.Add([]byte(`{"items": [{&a <<: *a}, *b]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := planfile.ReadKeys("f", data, planfile.KeyOptions{})
		var ms *planfile.Mistakes
		if err != nil && (!errors.As(err, &ms) || len(ms.List) == 0 || ms.List[0].Line < 1) {
			t.Fatalf("not mistakes: %v", err)
		}
		if err == nil {
			for _, k := range file.Keys {
				if k.Value == nil && k.Wrong == "" {
					t.Errorf("key %q without a value", k.Name)
				}
			}
		}
	})
}
