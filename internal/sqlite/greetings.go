package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	sqlite3 "modernc.org/sqlite/lib"

	"helloapi/internal/groupcommit"
	"helloapi/internal/hello"
)

const upsertGreeting = `
	INSERT INTO greetings (name, count) VALUES (?, ?)
	ON CONFLICT (name) DO UPDATE SET count = count + excluded.count
	RETURNING count`

// Greet implements hello.Greetings: concurrent calls share a transaction.
func (db *DB) Greet(ctx context.Context, name string) (int64, error) {
	return db.counts.Add(ctx, name)
}

// writeGreetings implements groupcommit.Write.
func (db *DB) writeGreetings(ctx context.Context, names []string, by []int64, _ bool) (map[string]int64, error) {
	counts := make(map[string]int64, len(names))
	err := db.inTx(ctx, func(tx *sql.Tx) error {
		upsert := tx.StmtContext(ctx, db.upsert)
		for i, name := range names {
			var count int64
			if err := upsert.QueryRowContext(ctx, name, by[i]).Scan(&count); err != nil {
				return err
			}
			counts[name] = count
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("sqlite: count greetings: %w", err)
		if isCode(err, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG) {
			err = errors.Join(groupcommit.ErrRejected, err)
		}
		return nil, err
	}
	return counts, nil
}

// TopGreetings implements hello.Counts.
func (db *DB) TopGreetings(ctx context.Context, n int) ([]hello.Count, error) {
	rows, err := db.read.QueryContext(ctx, `SELECT name, count FROM greetings WHERE count <> 0 ORDER BY count DESC, name LIMIT ?`, n)
	if err != nil {
		return nil, fmt.Errorf("sqlite: list greetings: %w", err)
	}
	defer rows.Close()
	var counts []hello.Count
	for rows.Next() {
		var c hello.Count
		if err := rows.Scan(&c.Name, &c.Count); err != nil {
			return nil, fmt.Errorf("sqlite: list greetings: %w", err)
		}
		counts = append(counts, c)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("sqlite: list greetings: %w", err)
	}
	return counts, nil
}

// DeleteGreeting implements hello.Counts.
func (db *DB) DeleteGreeting(ctx context.Context, name string) error {
	n, err := changed(db.write.ExecContext(ctx, `DELETE FROM greetings WHERE name = ?`, name))
	switch {
	case err != nil:
		return fmt.Errorf("sqlite: delete greeting: %w", err)
	case n == 0:
		return hello.ErrNotGreeted
	}
	return nil
}
