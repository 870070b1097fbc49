package sqlite

import "testing"

// Pragma executes a pragma on the connection that writes.
func (db *DB) Pragma(t testing.TB, stmt string) {
	t.Helper()
	if _, err := db.write.ExecContext(t.Context(), stmt); err != nil {
		t.Fatal(err)
	}
}
