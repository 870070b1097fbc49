package sqlite

import (
	sqlite3 "modernc.org/sqlite/lib"

	"helloapi/internal/database"
)

// Conn runs the statements of endpoints, on the connections of db.
func (db *DB) Conn() *database.DB { return db.conn }

// judge returns what an error proves. Who waits for the file has waited long
// enough when that fails.
func judge(err error) database.Verdict {
	if isCode(err, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG) {
		return database.Rejected
	}
	return database.Unproven
}
