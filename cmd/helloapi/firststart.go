package main

import (
	"fmt"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/backend"
	"helloapi/internal/changes"
	"helloapi/internal/plan"
)

// firstKeys are the keys that a new SQLite database starts with: those of
// deploy/plans.yaml.
func firstKeys() []apikey.Key {
	return []apikey.Key{
		{Name: "testkey1", Plan: &plan.Plan{Name: "free"}, Enabled: true},
		{Name: "testkey2", Plan: &plan.Plan{Name: "paid"}, Enabled: true},
	}
}

// firstStart makes the first keys of a new SQLite database, and shows their
// values with a line to paste and the page to try them on, or writes them to a
// file where nobody is there to read them. At a later start it says how to get a
// value again. url is where the API is; pages says whether it has a page.
func firstStart(p *program, log *slog.Logger, stores *backend.Backend, url string, pages bool) error {
	keys := firstKeys()
	values := []apikey.Value{apikey.Generate(), apikey.Generate()}
	first, err := stores.FirstKeys(changes.WithActor(p.ctx, "serve, first start"), keys, values)
	if err != nil {
		return err
	}
	command := or(p.getenv("HELLOAPI_COMMAND"), "helloapi")
	file := keysFile(p, stores)
	switch {
	case !first && file == "":
		browser := ""
		if pages {
			browser = "; open that in a browser to try it"
		}
		_, err = fmt.Fprintf(p.stdout, "\nThe API is at %s%s\n\n  %s keys list           # its keys\n  %[3]s keys rotate NAME    # a new value for one\n\n", url, browser, command)
	case !first:
	case file == "":
		err = showFirstKeys(p, stores, keys, values, url, pages)
	default:
		made := make([]newKey, len(keys))
		for i, k := range keys {
			made[i] = newKey{k.Name, values[i].Reveal()}
		}
		if err = writeKeys(file, made); err == nil {
			log.Info("made the first API keys; their values are in a file that only this user can read, and nowhere else; `"+command+" keys rotate NAME` prints a new one", "file", file, "url", url)
		}
	}
	if err != nil && first {
		// The API works all the same, and a restart would not make them again.
		log.Error("made the first API keys, but their values could not be written: give a key a new value with `"+command+" keys rotate NAME`", "error", err)
	}
	return nil
}

// keysFile is where a serving process writes the values of new keys: a new file
// beside the SQLite database. It is "" if a person sees standard output. Anywhere
// else that is a log, which others keep and read.
func keysFile(p *program, stores *backend.Backend) string {
	db, ok := stores.File()
	if !ok || isTerminal(p.stdout) {
		return ""
	}
	return db + ".keys-" + time.Now().UTC().Format("20060102T150405.000Z") + ".csv"
}

func showFirstKeys(p *program, plans plan.Plans, keys []apikey.Key, values []apikey.Value, url string, pages bool) error {
	byName, err := plansByName(p.ctx, plans)
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("\nTwo API keys were made. Their values are shown this once:\n\n")
	t := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	for i, k := range keys {
		pl := byName[k.Plan.Name]
		fmt.Fprintf(t, "  %s\t%s\t%s: %s\n", k.Name, values[i].Reveal(), pl.Name, pl.Quota)
	}
	t.Flush()
	fmt.Fprintf(&b, "\nTry it:\n\n  curl -H 'x-api-key: %s' \\\n    '%s/hello?name=brooks'\n\n", values[0].Reveal(), url)
	if pages {
		fmt.Fprintf(&b, "Or in a browser:\n\n  %s/\n\n", url)
	}
	_, err = fmt.Fprint(p.stdout, b.String())
	return err
}
