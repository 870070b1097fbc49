package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"helloapi/internal/groupcommit"
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
