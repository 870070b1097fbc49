package sqlite

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"helloapi/internal/certs"
)

// Certs returns the store of certificates.
func (db *DB) Certs() certs.Store { return certStore{db} }

// certStore is given the time, since one machine has one clock.
type certStore struct{ *DB }

// States implements certs.Store.
func (db certStore) States(ctx context.Context) ([]certs.State, time.Time, error) {
	now := time.Now()
	rows, err := db.read.QueryContext(ctx, `
		SELECT directory, host, coalesce(version, ''), coalesce(issued_at, 0), coalesce(not_after, 0), renew, failures, last_error,
			next_attempt, iif(lease_until > ?1, holder, ''), iif(lease_until > ?1 AND holder <> '', lease_until, 0)
		FROM certificates ORDER BY directory, host`, now.UnixMilli())
	if err != nil {
		return nil, now, fmt.Errorf("sqlite: list certificates: %w", err)
	}
	defer rows.Close()
	var states []certs.State
	for rows.Next() {
		var s certs.State
		var issued, notAfter, next, until int64
		if err := rows.Scan(&s.Directory, &s.Name, &s.Version, &issued, &notAfter, &s.Renew, &s.Failures, &s.LastError, &next, &s.Holder, &until); err != nil {
			return nil, now, fmt.Errorf("sqlite: list certificates: %w", err)
		}
		s.IssuedAt, s.NotAfter, s.NextAttempt, s.LeaseUntil = fromMilli(issued), fromMilli(notAfter), fromMilli(next), fromMilli(until)
		states = append(states, s)
	}
	if err := rows.Err(); err != nil {
		return nil, now, fmt.Errorf("sqlite: list certificates: %w", err)
	}
	return states, now, nil
}

// fromMilli returns the time, or the zero one for 0.
func fromMilli(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// Certificate implements certs.Store.
func (db certStore) Certificate(ctx context.Context, id certs.ID) (data []byte, version string, err error) {
	err = db.read.QueryRowContext(ctx, `
		SELECT data, version FROM certificates WHERE directory = ? AND host = ? AND data IS NOT NULL`,
		id.Directory, id.Name).Scan(&data, &version)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, "", certs.ErrNotFound
	} else if err != nil {
		return nil, "", fmt.Errorf("sqlite: read certificate: %w", err)
	}
	return data, version, nil
}

// Acquire implements certs.Store.
func (db certStore) Acquire(ctx context.Context, id certs.ID, holder string, ttl time.Duration) (certs.Lease, error) {
	l := certs.Lease{ID: id}
	now := time.Now()
	err := db.write.QueryRowContext(ctx, `
		INSERT INTO certificates AS c (directory, host, holder, fence, lease_until) VALUES (?1, ?2, ?3, 1, ?4)
		ON CONFLICT (directory, host) DO UPDATE SET holder = excluded.holder, fence = c.fence + 1, lease_until = excluded.lease_until
		WHERE (c.lease_until <= ?5 OR c.holder = excluded.holder) AND c.next_attempt <= ?5
		RETURNING fence, failures, coalesce(version, '')`,
		id.Directory, id.Name, holder, now.Add(ttl).UnixMilli(), now.UnixMilli()).Scan(&l.Fence, &l.Failures, &l.Version)
	if errors.Is(err, sql.ErrNoRows) {
		return l, certs.ErrNotNow
	} else if err != nil {
		return l, fmt.Errorf("sqlite: lease certificate: %w", err)
	}
	return l, nil
}

// Finish implements certs.Store.
func (db certStore) Finish(ctx context.Context, l certs.Lease, o certs.Outcome) (string, error) {
	now := time.Now()
	set := `` // nothing was done
	args := []any{l.Directory, l.Name, l.Fence}
	switch {
	case o.Certificate != nil:
		set = `, data = ?4, version = ?5, not_after = ?6, issued_at = ?7, next_attempt = ?8, renew = 0, failures = 0, last_error = ''`
		args = append(args, o.Certificate, rand.Text(), o.NotAfter.UnixMilli(), now.UnixMilli(), now.Add(o.Retry).UnixMilli())
	case o.Error != "":
		set = `, next_attempt = ?4, failures = failures + 1, last_error = ?5`
		args = append(args, now.Add(o.Retry).UnixMilli(), o.Error)
	}
	var version string
	err := db.write.QueryRowContext(ctx, `
		UPDATE certificates SET holder = '', lease_until = 0`+set+`
		WHERE directory = ?1 AND host = ?2 AND fence = ?3 AND holder <> '' RETURNING coalesce(version, '')`, args...).Scan(&version)
	if errors.Is(err, sql.ErrNoRows) {
		return "", certs.ErrLeaseLost
	} else if err != nil {
		return "", fmt.Errorf("sqlite: store certificate: %w", err)
	}
	return version, nil
}

// Renew implements certs.Store.
func (db certStore) Renew(ctx context.Context, host string) error {
	r, err := db.write.ExecContext(ctx, `UPDATE certificates SET renew = 1, next_attempt = 0, failures = 0 WHERE host = ?`, host)
	if err != nil {
		return fmt.Errorf("sqlite: renew certificate: %w", err)
	}
	n, err := r.RowsAffected()
	if err == nil && n == 0 {
		err = certs.ErrNotFound
	}
	return err
}

// Secret implements certs.Store.
func (db certStore) Secret(ctx context.Context, id certs.ID) (data []byte, err error) {
	err = db.read.QueryRowContext(ctx, `SELECT data FROM certificate_secrets WHERE directory = ? AND name = ?`, id.Directory, id.Name).Scan(&data)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, certs.ErrNotFound
	} else if err != nil {
		return nil, fmt.Errorf("sqlite: read certificate secret: %w", err)
	}
	return data, nil
}

// AddSecret implements certs.Store.
func (db certStore) AddSecret(ctx context.Context, id certs.ID, data []byte) error {
	_, err := db.write.ExecContext(ctx, `
		INSERT INTO certificate_secrets (directory, name, data) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, id.Directory, id.Name, data)
	if err != nil {
		return fmt.Errorf("sqlite: store certificate secret: %w", err)
	}
	return nil
}

// PutAnswer implements certs.Store.
func (db certStore) PutAnswer(ctx context.Context, id certs.ID, data []byte) error {
	now := time.Now()
	err := db.inTx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM certificate_secrets WHERE name LIKE ? AND written_at < ?`,
			certs.AnswerPrefix+"%", now.Add(-24*time.Hour).UnixMilli()); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `
			INSERT INTO certificate_secrets (directory, name, data, written_at) VALUES (?, ?, ?, ?)
			ON CONFLICT (directory, name) DO UPDATE SET data = excluded.data, written_at = excluded.written_at`,
			id.Directory, id.Name, data, now.UnixMilli())
		return err
	})
	if err != nil {
		return fmt.Errorf("sqlite: store answer to a challenge: %w", err)
	}
	return nil
}

// DeleteAnswer implements certs.Store.
func (db certStore) DeleteAnswer(ctx context.Context, id certs.ID) error {
	_, err := db.write.ExecContext(ctx, `DELETE FROM certificate_secrets WHERE directory = ? AND name = ?`, id.Directory, id.Name)
	if err != nil {
		return fmt.Errorf("sqlite: delete answer to a challenge: %w", err)
	}
	return nil
}

// Reseal implements certs.Store.
func (db certStore) Reseal(ctx context.Context, f func(certs.Kind, certs.ID, []byte) []byte) error {
	err := db.inTx(ctx, func(tx *sql.Tx) error {
		all, err := readSealed(ctx, tx)
		if err != nil {
			return err
		}
		for _, s := range all {
			data := f(s.kind, s.id, s.data)
			if data == nil {
				continue
			}
			stmt := `UPDATE certificates SET data = ?3 WHERE directory = ?1 AND host = ?2`
			if s.kind == certs.KindSecret {
				stmt = `UPDATE certificate_secrets SET data = ?3 WHERE directory = ?1 AND name = ?2`
			}
			if _, err := tx.ExecContext(ctx, stmt, s.id.Directory, s.id.Name, data); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("sqlite: seal anew: %w", err)
	}
	return nil
}

type sealed struct {
	kind certs.Kind
	id   certs.ID
	data []byte
}

// readSealed returns all that is sealed but answers to challenges.
func readSealed(ctx context.Context, tx *sql.Tx) (all []sealed, err error) {
	rows, err := tx.QueryContext(ctx, `
		SELECT ?1, directory, host, data FROM certificates WHERE data IS NOT NULL
		UNION ALL SELECT ?2, directory, name, data FROM certificate_secrets WHERE name NOT LIKE ?3`,
		string(certs.KindCertificate), string(certs.KindSecret), certs.AnswerPrefix+"%")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s sealed
		if err := rows.Scan(&s.kind, &s.id.Directory, &s.id.Name, &s.data); err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, rows.Err()
}

// Forget implements certs.Store.
func (db certStore) Forget(ctx context.Context) (n int, err error) {
	err = db.inTx(ctx, func(tx *sql.Tx) error {
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM certificates WHERE data IS NOT NULL`).Scan(&n); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM certificate_secrets`)
		if err == nil {
			_, err = tx.ExecContext(ctx, `DELETE FROM certificates`)
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("sqlite: forget certificates: %w", err)
	}
	return n, nil
}
