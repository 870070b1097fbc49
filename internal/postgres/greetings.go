package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"helloapi/internal/groupcommit"
	"helloapi/internal/hello"
)

// upsertGreetings locks its rows in the order of the names given.
const upsertGreetings = `
	INSERT INTO greetings AS g (name, count)
	SELECT * FROM unnest($1::text[], $2::bigint[])
	ON CONFLICT (name) DO UPDATE SET count = g.count + excluded.count
	RETURNING name, count`

// Greet implements hello.Greetings: concurrent calls share a statement.
func (db *DB) Greet(ctx context.Context, name string) (int64, error) {
	return db.counts.Add(ctx, name)
}

// writeGreetings implements groupcommit.Write.
func (db *DB) writeGreetings(ctx context.Context, names []string, by []int64) (map[string]int64, error) {
	counts := make(map[string]int64, len(names))
	rows, err := db.pool.Query(ctx, upsertGreetings, names, by)
	if err == nil {
		var name string
		var count int64
		_, err = pgx.ForEachRow(rows, []any{&name, &count}, func() error {
			counts[name] = count
			return nil
		})
	}
	if err != nil {
		err = fmt.Errorf("postgres: count greetings: %w", err)
		if isRejection(err) {
			err = errors.Join(groupcommit.ErrRejected, err)
		}
		return nil, err
	}
	return counts, nil
}

// isRejection reports whether err is about the data of a row (SQLSTATE classes
// 22 and 23), and so proves that the statement had no effect.
func isRejection(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (strings.HasPrefix(e.Code, "22") || strings.HasPrefix(e.Code, "23"))
}

// TopGreetings implements hello.Counts.
func (db *DB) TopGreetings(ctx context.Context, n int) ([]hello.Count, error) {
	rows, err := db.pool.Query(ctx, `SELECT name, count FROM greetings ORDER BY count DESC, name LIMIT $1`, n)
	if err != nil {
		return nil, fmt.Errorf("postgres: list greetings: %w", err)
	}
	counts, err := pgx.CollectRows(rows, pgx.RowToStructByPos[hello.Count])
	if err != nil {
		return nil, fmt.Errorf("postgres: list greetings: %w", err)
	}
	return counts, nil
}

// DeleteGreeting implements hello.Counts.
func (db *DB) DeleteGreeting(ctx context.Context, name string) error {
	tag, err := db.pool.Exec(ctx, `DELETE FROM greetings WHERE name = $1`, name)
	switch {
	case err != nil:
		return fmt.Errorf("postgres: delete greeting: %w", err)
	case tag.RowsAffected() == 0:
		return hello.ErrNotGreeted
	}
	return nil
}
