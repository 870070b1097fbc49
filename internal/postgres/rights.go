package postgres

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"helloapi/migrations"
)

// rights are what a serving process does with each table, and all that the
// role it runs as may do with it. A table that is made by a migration comes in
// here too. A right that is not needed any more stays for one release: during
// a rollout the replicas of the release before still use it.
var rights = map[string]string{
	"goose_db_version":         "SELECT", // is the schema there?
	"plans":                    "SELECT",
	"api_keys":                 "SELECT",
	"api_key_values":           "SELECT",
	"grants":                   "SELECT",
	"changes":                  "SELECT, DELETE", // old rows go
	"greeting_imports":         "",               // nothing
	"greeting_import_prefixes": "",
	"refusals":                 "SELECT, INSERT, UPDATE, DELETE", // old rows go
	"replicas":                 "SELECT, INSERT, UPDATE, DELETE",
	"usage":                    "SELECT, INSERT, UPDATE, DELETE", // old rows are folded
	"certificates":             "SELECT, INSERT, UPDATE",
	"certificate_secrets":      "SELECT, INSERT, UPDATE, DELETE", // answers to challenges go
	"idempotency":              "SELECT, INSERT, UPDATE, DELETE", // what has expired goes

	// Those of endpoints.
	"greetings": "SELECT, INSERT, UPDATE",
}

// checkRights reports a table of the schema that rights does not have.
func checkRights() error {
	tables, err := migrations.Tables()
	if err != nil {
		return err
	}
	return missingRights(tables)
}

func missingRights(tables map[string]bool) error {
	for table := range tables {
		if _, ok := rights[table]; !ok {
			return fmt.Errorf("a migration makes the table %s, but internal/postgres/rights.go does not have it: say there what `helloapi serve` does with it", table)
		}
	}
	return nil
}

// Grant gives a role the rights that a serving process needs on the tables of
// the database at url, which must have the present schema. Only the owner of
// the tables can. It takes no right away.
func Grant(ctx context.Context, url, role string) error {
	server, conn, err := connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// PostgreSQL refuses to change the rights on a table twice at a time.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext('helloapi: rights'))`); err != nil {
			return err
		}
		for _, table := range slices.Sorted(maps.Keys(rights)) {
			if rights[table] == "" {
				continue
			}
			stmt := fmt.Sprintf("GRANT %s ON %s TO %s", rights[table], pgx.Identifier{table}.Sanitize(), pgx.Identifier{role}.Sanitize())
			if _, err := tx.Exec(ctx, stmt); err != nil {
				return err
			}
		}
		return nil
	})
	if isCode(err, undefinedObject) {
		return fmt.Errorf("there is no role %q in PostgreSQL: deploy/postgres/roles.sql makes it", role)
	} else if err != nil {
		return fmt.Errorf("grant the role %q what serving needs: %w", role, server.explain(err))
	}
	return nil
}
