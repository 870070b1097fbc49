package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"helloapi/internal/countfile"
	"helloapi/internal/hello"
)

// importTimeout is the deadline of a batch's statement, in milliseconds.
const importTimeout = 60_000

// AddCounts implements countfile.Store.
func (db *DB) AddCounts(ctx context.Context, counts []hello.Count, prev *countfile.Progress, next countfile.Progress, known []string) error {
	return db.importBatch(ctx, func(tx pgx.Tx) error {
		if err := putProgress(ctx, tx, prev, next, known); err != nil {
			return err
		}
		return writeCounts(ctx, tx, counts, `g.count + excluded.count`)
	})
}

// ReplaceCounts implements countfile.Store.
func (db *DB) ReplaceCounts(ctx context.Context, counts []hello.Count) error {
	return db.importBatch(ctx, func(tx pgx.Tx) error {
		return writeCounts(ctx, tx, counts, `excluded.count`)
	})
}

func (db *DB) importBatch(ctx context.Context, f func(pgx.Tx) error) error {
	err := pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT set_config('statement_timeout', $1, true)`, fmt.Sprint(importTimeout)); err != nil {
			return err
		}
		return f(tx)
	})
	if err != nil {
		return fmt.Errorf("postgres: import: %w", err)
	}
	return nil
}

// putProgress puts down next, if prev is what is there.
func putProgress(ctx context.Context, tx pgx.Tx, prev *countfile.Progress, next countfile.Progress, known []string) error {
	if prev != nil {
		tag, err := tx.Exec(ctx, `
			UPDATE greeting_imports SET digest = $3, taken = $4, done = $5, updated_at = now()
			WHERE id = $1 AND digest = $2 AND NOT done`, prev.ID, prev.Digest[:], next.Digest[:], next.Taken, next.Done)
		if err == nil && tag.RowsAffected() == 0 {
			err = countfile.ErrConflict
		}
		return err
	}
	// Nobody else begins meanwhile.
	if _, err := tx.Exec(ctx, `LOCK TABLE greeting_imports IN SHARE ROW EXCLUSIVE MODE`); err != nil {
		return err
	}
	var other bool
	err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM greeting_imports WHERE first = $1 AND id <> ALL ($2))`,
		next.First[:], append([]string{}, known...)).Scan(&other)
	if err != nil {
		return err
	}
	if other {
		return countfile.ErrConflict
	}
	_, err = tx.Exec(ctx, `INSERT INTO greeting_imports (id, first, digest, taken, done) VALUES ($1, $2, $3, $4, $5)`,
		next.ID, next.First[:], next.Digest[:], next.Taken, next.Done)
	return err
}

// writeCounts locks the rows in the order of the names, as those who greet do.
func writeCounts(ctx context.Context, tx pgx.Tx, counts []hello.Count, set string) error {
	names, n := make([]string, len(counts)), make([]int64, len(counts))
	for i, c := range counts {
		names[i], n[i] = c.Name, c.Count
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO greetings AS g (name, count) SELECT * FROM unnest($1::text[], $2::bigint[])
		ON CONFLICT (name) DO UPDATE SET count = `+set, names, n)
	return err
}

// Imports implements countfile.Store.
func (db *DB) Imports(ctx context.Context, first countfile.Digest) ([]countfile.Progress, error) {
	rows, err := db.pool.Query(ctx, `
		SELECT id, first, digest, taken, done, updated_at FROM greeting_imports WHERE first = $1 ORDER BY updated_at`, first[:])
	if err != nil {
		return nil, fmt.Errorf("postgres: list imports: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p countfile.Progress, err error) {
		var first, digest []byte
		if err := row.Scan(&p.ID, &first, &digest, &p.Taken, &p.Done, &p.At); err != nil {
			return p, err
		}
		p.First, p.Digest = countfile.Digest(first), countfile.Digest(digest)
		return p, nil
	})
	if err != nil {
		return nil, fmt.Errorf("postgres: list imports: %w", err)
	}
	return all, nil
}
