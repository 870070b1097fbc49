package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"helloapi/internal/countfile"
)

// importTimeout is the deadline of a batch's statement, in milliseconds.
const importTimeout = 60_000

// AddCounts implements countfile.Store.
func (db *DB) AddCounts(ctx context.Context, names []string, counts []int64, prev *countfile.Progress, next countfile.Progress, seenIDs []string) error {
	return db.importBatch(ctx, func(tx pgx.Tx) error {
		if err := putProgress(ctx, tx, prev, next, seenIDs); err != nil {
			return err
		}
		if err := putPrefixes(ctx, tx, next); err != nil {
			return err
		}
		return writeCounts(ctx, tx, names, counts, 0, `count = g.count + excluded.count`)
	})
}

// ReplaceCounts implements countfile.Store.
func (db *DB) ReplaceCounts(ctx context.Context, names []string, counts []int64, run int64) error {
	return db.importBatch(ctx, func(tx pgx.Tx) error {
		return writeCounts(ctx, tx, names, counts, run, `
			count = CASE WHEN g.replaced_by = excluded.replaced_by THEN g.count ELSE 0 END + excluded.count, replaced_by = excluded.replaced_by`)
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
func putProgress(ctx context.Context, tx pgx.Tx, prev *countfile.Progress, next countfile.Progress, seenIDs []string) error {
	if prev != nil {
		tag, err := tx.Exec(ctx, `
			UPDATE greeting_imports SET digest = $3, taken = $4, done = $5, updated_at = now()
			WHERE id = $1 AND digest = $2`, prev.ID, prev.Digest[:], next.Digest[:], next.Taken, next.Done)
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
		next.First[:], append([]string{}, seenIDs...)).Scan(&other)
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

func putPrefixes(ctx context.Context, tx pgx.Tx, p countfile.Progress) error {
	taken, digests := make([]int64, len(p.Prefixes)), make([][]byte, len(p.Prefixes))
	for i := range p.Prefixes {
		taken[i], digests[i] = p.Prefixes[i].Rows, p.Prefixes[i].Digest[:]
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO greeting_import_prefixes (import_id, taken, digest) SELECT $1, * FROM unnest($2::bigint[], $3::bytea[])
		ON CONFLICT DO NOTHING`, p.ID, taken, digests)
	return err
}

// writeCounts locks the rows in the order of the names, as those who greet do.
func writeCounts(ctx context.Context, tx pgx.Tx, names []string, counts []int64, run int64, set string) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO greetings AS g (name, count, replaced_by) SELECT name, count, nullif($3::bigint, 0) FROM unnest($1::text[], $2::bigint[]) AS c (name, count)
		ON CONFLICT (name) DO UPDATE SET `+set, names, counts, run)
	return err
}

// Imports implements countfile.Store.
func (db *DB) Imports(ctx context.Context, first countfile.Digest) ([]countfile.Progress, error) {
	rows, err := db.pool.Query(ctx, `
		SELECT i.id, i.first, i.digest, i.taken, i.done, i.updated_at, p.taken, p.digest
		FROM greeting_imports i LEFT JOIN greeting_import_prefixes p ON p.import_id = i.id
		WHERE i.first = $1 ORDER BY i.updated_at, i.id, p.taken`, first[:])
	if err != nil {
		return nil, fmt.Errorf("postgres: list imports: %w", err)
	}
	var all []countfile.Progress
	var p countfile.Progress
	var firstRow, digest, prefix []byte
	var taken *int64
	_, err = pgx.ForEachRow(rows, []any{&p.ID, &firstRow, &digest, &p.Taken, &p.Done, &p.At, &taken, &prefix}, func() error {
		if n := len(all); n == 0 || all[n-1].ID != p.ID {
			one := p
			one.First, one.Digest = countfile.Digest(firstRow), countfile.Digest(digest)
			all = append(all, one)
		}
		if last := &all[len(all)-1]; taken != nil {
			last.Prefixes = append(last.Prefixes, countfile.Prefix{Rows: *taken, Digest: countfile.Digest(prefix)})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("postgres: list imports: %w", err)
	}
	return all, nil
}
