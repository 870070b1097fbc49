package sqlite

import "helloapi/internal/database"

// Conn runs the statements of endpoints, on the connections of db.
func (db *DB) Conn() *database.DB { return database.New(db.read, db.write) }
