package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"

	"github.com/jackc/pgx/v5/stdlib"

	"helloapi/internal/database"
)

// Conn runs the statements of endpoints, on the connections of db.
func (db *DB) Conn() *database.DB { return db.conn }

// openConns returns the connections of the pool for database/sql.
func openConns(p *pool) *sql.DB {
	conns := sql.OpenDB(connector{p})
	conns.SetMaxIdleConns(0) // the pool keeps them
	return conns
}

// A connector takes connections from the pool. It keeps none: a pool that is
// renewed leaves the old ones behind.
type connector struct{ pool *pool }

// Connect implements driver.Connector.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	return stdlib.GetPoolConnector(c.pool.current.Load()).Connect(ctx)
}

// Driver implements driver.Connector.
func (c connector) Driver() driver.Driver { return stdlib.GetDefaultDriver() }
