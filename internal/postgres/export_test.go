package postgres

import "testing"

// Rights is for the test that no table is forgotten.
var Rights = rights

// MissingRights reports a table that rights does not have.
var MissingRights = missingRights

// Setting returns a setting of the sessions that requests use.
func (db *DB) Setting(t testing.TB, name string) (value string) {
	t.Helper()
	if err := db.pool.QueryRow(t.Context(), `SELECT current_setting($1)`, name).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}
