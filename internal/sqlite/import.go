package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"helloapi/internal/countfile"
	"helloapi/internal/hello"
)

// AddCounts implements countfile.Store.
func (db *DB) AddCounts(ctx context.Context, counts []hello.Count, prev *countfile.Progress, next countfile.Progress, known []string) error {
	return db.importBatch(ctx, counts, `count + excluded.count`, func(tx *sql.Tx) error {
		return putProgress(ctx, tx, prev, next, known)
	})
}

// ReplaceCounts implements countfile.Store.
func (db *DB) ReplaceCounts(ctx context.Context, counts []hello.Count) error {
	return db.importBatch(ctx, counts, `excluded.count`, func(*sql.Tx) error { return nil })
}

func (db *DB) importBatch(ctx context.Context, counts []hello.Count, set string, first func(*sql.Tx) error) error {
	err := db.inTx(ctx, func(tx *sql.Tx) error {
		if err := first(tx); err != nil {
			return err
		}
		upsert, err := tx.PrepareContext(ctx, `
			INSERT INTO greetings (name, count) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET count = `+set)
		if err != nil {
			return err
		}
		defer upsert.Close()
		for _, c := range counts {
			if _, err := upsert.ExecContext(ctx, c.Name, c.Count); err != nil {
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
func putProgress(ctx context.Context, tx *sql.Tx, prev *countfile.Progress, next countfile.Progress, known []string) error {
	if prev != nil {
		n, err := changed(tx.ExecContext(ctx, `
			UPDATE greeting_imports SET digest = ?3, taken = ?4, done = ?5, updated_at = ?6
			WHERE id = ?1 AND digest = ?2 AND NOT done`,
			prev.ID, prev.Digest[:], next.Digest[:], next.Taken, next.Done, time.Now().UnixMilli()))
		if err == nil && n == 0 {
			err = countfile.ErrConflict
		}
		return err
	}
	list, err := json.Marshal(append([]string{}, known...)) // [], not null
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

// Imports implements countfile.Store.
func (db *DB) Imports(ctx context.Context, first countfile.Digest) ([]countfile.Progress, error) {
	rows, err := db.read.QueryContext(ctx, `
		SELECT id, first, digest, taken, done, updated_at FROM greeting_imports WHERE first = ? ORDER BY updated_at`, first[:])
	if err != nil {
		return nil, fmt.Errorf("sqlite: list imports: %w", err)
	}
	defer rows.Close()
	var all []countfile.Progress
	for rows.Next() {
		var p countfile.Progress
		var first, digest []byte
		var at int64
		if err := rows.Scan(&p.ID, &first, &digest, &p.Taken, &p.Done, &at); err != nil {
			return nil, fmt.Errorf("sqlite: list imports: %w", err)
		}
		p.First, p.Digest, p.At = countfile.Digest(first), countfile.Digest(digest), time.UnixMilli(at)
		all = append(all, p)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("sqlite: list imports: %w", err)
	}
	return all, nil
}
