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
key "MyFirstApiKey" on "paid", value "apikey1234abcdefghij0123456789", description "An imported key", enabled true
key "My, second" on "paid", value "apikey1234abcdefghij0123456780", description "two\nlines", enabled false
key "" on "free", value "apikey1234abcdefghij0123456781"
key "0123" on "gold", value "apikey1234abcdefghij0123456782", description "${env:X}"
`,
		},
		{"two columns", "Key,Name\n" + secret + ",bob\n", "source \nkey \"bob\" on \"free\", value \"" + secret + "\"\n"},
		{
			"what the gateway's command line lists", `{
    "items": [
        {"id": "abc", "value": "` + secret + `", "name": "bob", "customerId": "c1", "enabled": false, "createdDate": 1.5e9, "stageKeys": ["x/dev"], "description": null},
        {"value": "another-value-0123456789", "name": "${eve}"}
    ]
}`, "source \nkey \"bob\" on \"free\", value \"" + secret + "\", customer \"c1\", enabled false\nkey \"${eve}\" on \"free\", value \"another-value-0123456789\"\n",
		},

		{"empty", "", "f:1: the file is empty\n"},
		{"without a header", "bob," + secret + "\n", "f:1: the first line must name the columns, separated by commas: name,key,description,Enabled,usageplanIds; only name and key are needed\n"},
		{"semicolons", "name;key\nbob;" + secret + "\n", "f:1: the first line must name the columns, separated by commas: name,key,description,Enabled,usageplanIds; only name and key are needed\n"},
		{"another column", "name,key,color\n", "f:1: the first line must name the columns, separated by commas: name,key,description,Enabled,usageplanIds; only name and key are needed\n"},
		{"a column twice", "name,key,key\n", "f:1: the first line must name the columns, separated by commas: name,key,description,Enabled,usageplanIds; only name and key are needed\n"},
		{
			"bad lines", header + "a,short,,,\nb," + secret + ",,,\nc,,,,\nd,another-value-0123456789,,maybe,\ne,third-value-0123456789,,,\"one,two\"\nf,too,many,of,these,fields\nb,fourth-value-0123456789,,,\ng," + secret + ",,,\n",
			`f:2: the key's value can't be used: a value must have 20 to 128 characters; this has 5
f:4: the key has no value: this file is for the values that customers have
f:5: Enabled must be TRUE or FALSE
f:6: the key has several usage plans, and here a key has one: leave one of them
f:7: the line has 6 fields, and the first line names 5: quote those that have a comma
f:8: the key "b" is on line 3 already: a key is known by its name and has one plan
f:9: this key has the same value as the one on line 3: a value opens one key only
`,
		},
		{"a quote", header + "a," + secret + ",\"b\nc,d", "f:3: this is not CSV: extraneous or missing \" in quoted-field\n"},
		{"not UTF-8", header + "caf\xe9," + secret + ",,,\n", "f:2: this is not text in UTF-8: save the file as UTF-8\n"},
		{"JSON without items", `{"keys": []}`, "f:1: there is no list \"items\": this must be what the gateway's get-api-keys --include-values prints\n"},
		{"JSON without values", "{\"items\": [\n{\"name\": \"bob\"}]}", "f:2: the key has no value: list the keys with --include-values\n"},
		{"broken JSON", "{\"items\": [\n{\"name\": \"bob\"", "f:3: this is not JSON: did not find expected ',' or '}' (while parsing a flow mapping); check the indentation and quotes here and above\n"},
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
				if k.Value == nil {
					t.Errorf("key %q without a value", k.Name)
				}
			}
		}
	})
}
