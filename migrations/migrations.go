// Package migrations holds the database schemas. A file here is never edited
// after it landed: a change of the schema is a new file, written so that the
// code of the release before it still runs on the new schema and the new code
// still runs on the old one, for the length of a rollout.
package migrations

import "embed"

// Postgres holds the migrations for PostgreSQL, SQLite those for SQLite. The
// two have the same numbers and names.
var (
	//go:embed postgres/*.sql
	Postgres embed.FS

	//go:embed sqlite/*.sql
	SQLite embed.FS
)
