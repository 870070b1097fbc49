// Package migrations holds the database schemas. A file here is never edited
// after it landed: a change of the schema is a new file, written so that the
// code of the release before it still runs on the new schema and the new code
// still runs on the old one, for the length of a rollout.
package migrations

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
)

// Postgres holds the migrations for PostgreSQL, SQLite those for SQLite. The
// two have the same numbers and names.
var (
	//go:embed postgres/*.sql
	Postgres embed.FS

	//go:embed sqlite/*.sql
	SQLite embed.FS
)

// Check reports migrations that only one of the databases has.
func Check() error { return check(Postgres, SQLite) }

func check(postgres, sqlite fs.FS) error {
	in := map[string][]string{} // the folders that have a file of the name
	for folder, files := range map[string]fs.FS{"postgres": postgres, "sqlite": sqlite} {
		entries, err := fs.ReadDir(files, folder)
		if err != nil {
			return err
		}
		for _, e := range entries {
			in[e.Name()] = append(in[e.Name()], folder)
		}
	}
	var errs []error
	for name, folders := range in {
		if len(folders) == 1 {
			errs = append(errs, fmt.Errorf("only migrations/%s has %s: write it for the other database too, under the same name", folders[0], name))
		}
	}
	return errors.Join(errs...)
}

var tableStatement = regexp.MustCompile(`(?mi)^\s*(CREATE|DROP)\s+(?:UNLOGGED\s+)?TABLE\s+(?:IF\s+(?:NOT\s+)?EXISTS\s+)?(\w+)`)

// Tables returns the tables of the PostgreSQL schema, as its migrations make
// and drop them.
func Tables() (map[string]bool, error) { return tables(Postgres) }

func tables(migrations fs.FS) (map[string]bool, error) {
	files, err := fs.Glob(migrations, "postgres/*.sql")
	if err != nil {
		return nil, err
	}
	tables := map[string]bool{}
	for _, name := range files { // in the order of their numbers
		text, err := fs.ReadFile(migrations, name)
		if err != nil {
			return nil, err
		}
		for _, m := range tableStatement.FindAllSubmatch(text, -1) {
			if m[1][0]|0x20 == 'c' {
				tables[string(m[2])] = true
			} else {
				delete(tables, string(m[2]))
			}
		}
	}
	return tables, nil
}
