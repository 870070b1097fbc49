// Package database keeps the rows of endpoints. One statement serves both
// databases: SQLite and PostgreSQL agree on INSERT … ON CONFLICT … RETURNING,
// and on $1, $2 for arguments. For times use whole numbers, and for truth
// values boolean in PostgreSQL, INTEGER in SQLite.
package database

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"strings"
	"time"
)

// ErrNone reports that a statement returned no row.
var ErrNone = errors.New("no row")

// A Kind is which database it is, for statements that can't be the same.
type Kind string

// The kinds.
const (
	SQLite     Kind = "SQLite"
	PostgreSQL Kind = "PostgreSQL"
)

// A Verdict is what an error proves about the statement that it answers.
type Verdict int

const (
	// Unproven: the statement may have been carried out, so it is not repeated.
	Unproven Verdict = iota
	// Rejected: nothing was stored, because of the data of a row.
	Rejected
	// Conflict: nothing was stored, because of another transaction. Repeating it helps.
	Conflict
	// Held: nothing was stored, because somebody else holds a row or the table.
	Held
	// Moved: this server takes no writes or is stopping. Another one may be at
	// the same address.
	Moved
)

// A DB runs statements. It is safe for concurrent use. Each statement is a
// transaction of its own, which is repeated after a Conflict, unless its
// context is of one (InTx); when it returns without error it is durable. After
// an error it may have been carried out or not, unless Judge says more: do not
// repeat it.
type DB struct {
	kind        Kind
	read, write *sql.DB
	judge       func(error) Verdict
}

// New returns a DB that reads from one pool of connections and writes to
// another. Both may be the same. judge is called with each error of a statement
// that is a transaction of its own, and with nil, by several goroutines.
func New(kind Kind, read, write *sql.DB, judge func(error) Verdict) *DB {
	return &DB{kind, read, write, judge}
}

// Kind returns which database it is.
func (db *DB) Kind() Kind { return db.kind }

// Judge returns what the error of a statement proves; Unproven if it is nil.
func (db *DB) Judge(err error) Verdict { return db.judge(err) }

// Exec runs a statement that returns no rows, and returns how many it changed.
func (db *DB) Exec(ctx context.Context, query string, args ...any) (n int64, err error) {
	err = db.run(ctx, query, func(c conn) error {
		result, err := c.ExecContext(ctx, query, args...)
		if err != nil {
			return err
		}
		n, err = result.RowsAffected()
		return err
	})
	return n, err
}

// List returns the rows of a statement. columns returns where the columns of a
// row go, in their order.
func List[T any](ctx context.Context, db *DB, columns func(*T) []any, query string, args ...any) ([]T, error) {
	var list []T
	err := db.run(ctx, query, func(c conn) error {
		rows, err := c.QueryContext(ctx, query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		list = []T{} // in JSON [] and not null
		for rows.Next() {
			var row T
			if err := rows.Scan(columns(&row)...); err != nil {
				return err
			}
			list = append(list, row)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// One returns the first row of a statement, or ErrNone.
func One[T any](ctx context.Context, db *DB, columns func(*T) []any, query string, args ...any) (T, error) {
	var zero T
	list, err := List(ctx, db, columns, query, args...)
	if err != nil {
		return zero, err
	}
	if len(list) == 0 {
		return zero, ErrNone
	}
	return list[0], nil
}

// Value returns the first row of a statement with one column, or ErrNone.
func Value[T any](ctx context.Context, db *DB, query string, args ...any) (T, error) {
	return One(ctx, db, func(v *T) []any { return []any{v} }, query, args...)
}

// InTx runs f with a context whose statements are one transaction, which is
// committed if f returns nil. Where ctx is of a transaction already, f joins it.
// The statements of a transaction run one after the other.
func (db *DB) InTx(ctx context.Context, f func(ctx context.Context) error) error {
	if _, ok := ctx.Value(txKey{}).(*Tx); ok {
		return f(ctx)
	}
	ctx, tx := db.Begin(ctx)
	defer tx.Rollback()
	if err := f(ctx); err != nil {
		return err
	}
	return tx.Commit()
}

// A Tx is a transaction that its first statement begins. It belongs to one
// goroutine.
type Tx struct {
	db  *DB
	ctx context.Context
	tx  *sql.Tx // nil: no statement yet
}

type txKey struct{}

// Begin returns a context whose statements are one transaction. It has to be
// committed or rolled back.
func (db *DB) Begin(ctx context.Context) (context.Context, *Tx) {
	t := &Tx{db: db, ctx: ctx}
	return context.WithValue(ctx, txKey{}, t), t
}

// Commit makes what the statements did durable.
func (t *Tx) Commit() error {
	if t.tx == nil {
		return nil
	}
	return t.tx.Commit()
}

// Rollback undoes what the statements did. After Commit it does nothing.
func (t *Tx) Rollback() {
	if t.tx != nil {
		_ = t.tx.Rollback() // of a connection that is gone the server does it
	}
}

// conn runs statements: a pool of connections or a transaction.
type conn interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// run has f run a statement: in the transaction of ctx if it has one, else
// where its kind of statement is run.
func (db *DB) run(ctx context.Context, query string, f func(conn) error) error {
	if t, ok := ctx.Value(txKey{}).(*Tx); ok && t.db == db {
		if t.tx == nil {
			var err error
			if t.tx, err = db.write.BeginTx(t.ctx, nil); err != nil {
				return err
			}
		}
		return f(t.tx)
	}
	c := db.write
	if verb, _, _ := strings.Cut(strings.TrimSpace(query), " "); strings.EqualFold(verb, "SELECT") {
		c = db.read
	}
	return Retry(ctx, db.judge, func() error { return f(c) })
}

// Retry runs write, a transaction, and repeats it a few times after a
// Conflict, which proves that it was rolled back.
func Retry(ctx context.Context, judge func(error) Verdict, write func() error) error {
	for pause := time.Millisecond; ; pause *= 2 {
		err := write()
		if judge(err) != Conflict || pause > 100*time.Millisecond {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause + rand.N(pause)):
		}
	}
}
