package main

import (
	"strings"

	"github.com/alecthomas/kong"
)

// examples are shown in the help of each command, by its path. A test parses
// them, so that they can't be wrong.
var examples = map[string]string{
	"serve": `
helloapi serve
DATABASE_URL=postgres://db/helloapi REDIS_URL=redis://redis helloapi serve
helloapi serve --plans-file plans.yaml --log-format json`,
	"migrate up":     `helloapi migrate`,
	"migrate status": `helloapi migrate status`,
	"apply": `
helloapi apply -f plans.yaml --dry-run
helloapi apply -f serverless.yml --stage prod
helloapi apply -f plans.yaml --prune --keys-file new-keys.csv
helloapi apply -f plans.yaml --prune --yes`,
	"import keys": `
helloapi import keys keys.csv --usage-plan c7y23b=free --usage-plan x1a2b3=paid
aws apigateway get-api-keys --include-values | helloapi import keys - --plan free`,
	"import greetings": `
helloapi import greetings export/data/*.json.gz --add --dry-run
helloapi import greetings export/data/*.json.gz --add
helloapi import greetings counts.csv --replace --name-attribute who --count-attribute hellos`,
	"keys create": `
helloapi keys create brooks --plan free
helloapi keys create brooks --plan paid --expires 30d --customer-id 4711
helloapi keys create brooks --plan paid --value-file - < value.txt`,
	"keys list": `
helloapi keys list --plan free --status ok
helloapi keys list --expiring 7d
helloapi keys list --search brooks`,
	"keys show":  `helloapi keys show brooks`,
	"keys which": `helloapi keys which < value.txt`,
	"keys update": `
helloapi keys update brooks --plan paid
helloapi keys update brooks --expires never --customer-id 4711`,
	"keys rotate": `
helloapi keys rotate brooks --grace 24h
helloapi keys rotate brooks --yes`,
	"keys enable":  `helloapi keys enable brooks`,
	"keys disable": `helloapi keys disable brooks`,
	"keys delete": `
helloapi keys delete brooks --dry-run
helloapi keys delete brooks --yes`,
	"plans list": `helloapi plans list -o json`,
	"plans show": `helloapi plans show free`,
	"plans create": `
helloapi plans create gold --limit 100000 --period MONTH --timezone Europe/Berlin --rate 50
helloapi plans create internal`,
	"plans update": `
helloapi plans update gold --limit 200000
helloapi plans update gold --no-throttle --yes`,
	"plans delete": `helloapi plans delete gold --yes`,
	"usage show": `
helloapi usage show
helloapi usage show --near 80
helloapi usage show brooks --since 2030-01-01 --until 2030-01-31
helloapi usage show --by month -o csv`,
	"usage grant":         `helloapi usage grant brooks 100 --note outage`,
	"usage grants list":   `helloapi usage grants list brooks`,
	"usage grants revoke": `helloapi usage grants revoke 7 --yes`,
	"greetings top":       `helloapi greetings top -n 20`,
	"greetings delete":    `helloapi greetings delete brooks --yes`,
	"backup":              `helloapi backup helloapi-backup.db`,
	"certs list":          `helloapi certs list`,
	"certs renew":         `helloapi certs renew api.example.com`,
	"certs forget":        `helloapi certs forget --yes`,
	"changes": `
helloapi changes
helloapi changes --key brooks --since 7d`,
	"invoke": `
HELLOAPI_KEY=$(cat key.txt) helloapi invoke --name brooks
helloapi invoke --name brooks --url https://api.example.com < key.txt`,
	"man": `helloapi man > ~/.local/share/man/man1/helloapi.1`,
	"completion": `
source <(helloapi completion bash)
helloapi completion fish > ~/.config/fish/completions/helloapi.fish`,
	"healthcheck": `helloapi healthcheck`,
	"version":     `helloapi version`,
}

// exampleHeading comes before the examples of a command.
const exampleHeading = "Examples:\n\n  "

// withExamples adds them to the help.
func withExamples(app *kong.Kong) error {
	return kong.Visit(app.Model, func(node kong.Visitable, next kong.Next) error {
		if n, ok := node.(*kong.Node); ok {
			if text := strings.TrimSpace(examples[strings.TrimSpace(strings.TrimPrefix(n.FullPath(), app.Model.Name))]); text != "" {
				n.Detail = strings.TrimSpace(n.Detail + "\n\n" + exampleHeading + strings.ReplaceAll(text, "\n", "\n  "))
			}
		}
		return next(nil)
	})
}
