package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"helloapi/internal/countfile"
)

// AddCounts implements countfile.Store.
func (db *DB) AddCounts(ctx context.Context, names []string, counts []int64, prev *countfile.Progress, next countfile.Progress, seenIDs []string) error {
	return db.importBatch(ctx, names, counts, 0, `count = count + excluded.count`, func(tx *sql.Tx) error {
		if err := putProgress(ctx, tx, prev, next, seenIDs); err != nil {
			return err
		}
		return putPrefixes(ctx, tx, next)
	})
}

// ReplaceCounts implements countfile.Store.
func (db *DB) ReplaceCounts(ctx context.Context, names []string, counts []int64, run int64) error {
	return db.importBatch(ctx, names, counts, run, `
		count = CASE WHEN replaced_by = excluded.replaced_by THEN count ELSE 0 END + excluded.count, replaced_by = excluded.replaced_by`,
		func(*sql.Tx) error { return nil })
}

func (db *DB) importBatch(ctx context.Context, names []string, counts []int64, run int64, set string, first func(*sql.Tx) error) error {
	err := db.inTx(ctx, func(tx *sql.Tx) error {
		if err := first(tx); err != nil {
			return err
		}
		upsert, err := tx.PrepareContext(ctx, `
			INSERT INTO greetings (name, count, replaced_by) VALUES (?, ?, nullif(?, 0)) ON CONFLICT (name) DO UPDATE SET `+set)
		if err != nil {
			return err
		}
		defer upsert.Close()
		for i, name := range names {
			if _, err := upsert.ExecContext(ctx, name, counts[i], run); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("sqlite: import: %w", err)
	}
	return nil
}

// putProgress puts down next, if prev is what is there.
func putProgress(ctx context.Context, tx *sql.Tx, prev *countfile.Progress, next countfile.Progress, seenIDs []string) error {
	if prev != nil {
		n, err := changed(tx.ExecContext(ctx, `
			UPDATE greeting_imports SET digest = ?3, taken = ?4, done = ?5, updated_at = ?6
			WHERE id = ?1 AND digest = ?2`,
			prev.ID, prev.Digest[:], next.Digest[:], next.Taken, next.Done, time.Now().UnixMilli()))
		if err == nil && n == 0 {
			err = countfile.ErrConflict
		}
		return err
	}
	list, err := json.Marshal(append([]string{}, seenIDs...)) // [], not null
	if err != nil {
		return err
	}
	var others int
	if err := tx.QueryRowContext(ctx, `
		SELECT count(*) FROM greeting_imports WHERE first = ? AND id NOT IN (SELECT value FROM json_each(?))`,
		next.First[:], string(list)).Scan(&others); err != nil {
		return err
	}
	if others > 0 {
		return countfile.ErrConflict
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO greeting_imports (id, first, digest, taken, done) VALUES (?, ?, ?, ?, ?)`,
		next.ID, next.First[:], next.Digest[:], next.Taken, next.Done)
	return err
}

func putPrefixes(ctx context.Context, tx *sql.Tx, p countfile.Progress) error {
	for _, x := range p.Prefixes {
		if _, err := tx.ExecContext(ctx, `
			INSERT INTO greeting_import_prefixes (import_id, taken, digest) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, p.ID, x.Rows, x.Digest[:]); err != nil {
			return err
		}
	}
	return nil
}

// Imports implements countfile.Store.
func (db *DB) Imports(ctx context.Context, first countfile.Digest) ([]countfile.Progress, error) {
	rows, err := db.read.QueryContext(ctx, `
		SELECT i.id, i.first, i.digest, i.taken, i.done, i.updated_at, p.taken, p.digest
		FROM greeting_imports i LEFT JOIN greeting_import_prefixes p ON p.import_id = i.id
		WHERE i.first = ? ORDER BY i.updated_at, i.id, p.taken`, first[:])
	if err != nil {
		return nil, fmt.Errorf("sqlite: list imports: %w", err)
	}
	defer rows.Close()
	var all []countfile.Progress
	for rows.Next() {
		var p countfile.Progress
		var first, digest, prefix []byte
		var at int64
		var taken sql.NullInt64
		if err := rows.Scan(&p.ID, &first, &digest, &p.Taken, &p.Done, &at, &taken, &prefix); err != nil {
			return nil, fmt.Errorf("sqlite: list imports: %w", err)
		}
		if n := len(all); n == 0 || all[n-1].ID != p.ID {
			p.First, p.Digest, p.At = countfile.Digest(first), countfile.Digest(digest), time.UnixMilli(at)
			all = append(all, p)
		}
		if last := &all[len(all)-1]; taken.Valid {
			last.Prefixes = append(last.Prefixes, countfile.Prefix{Rows: taken.Int64, Digest: countfile.Digest(prefix)})
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("sqlite: list imports: %w", err)
	}
	return all, nil
}
