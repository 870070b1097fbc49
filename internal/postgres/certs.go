package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"helloapi/internal/certs"
)

// Certs returns the store of certificates.
func (db *DB) Certs() certs.Store { return certStore{db} }

type certStore struct{ *DB }

// States implements certs.Store.
func (db certStore) States(ctx context.Context) ([]certs.State, time.Time, error) {
	var now time.Time
	if err := db.pool.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now); err != nil {
		return nil, now, fmt.Errorf("postgres: list certificates: %w", err)
	}
	rows, err := db.pool.Query(ctx, `
		SELECT directory, host, coalesce(version, ''), issued_at, not_after, renew, failures, last_error,
			nullif(next_attempt, 'epoch'),
			CASE WHEN lease_until > $1 THEN holder ELSE '' END, CASE WHEN lease_until > $1 AND holder <> '' THEN lease_until END
		FROM certificates ORDER BY directory, host`, now)
	if err != nil {
		return nil, now, fmt.Errorf("postgres: list certificates: %w", err)
	}
	states, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (certs.State, error) {
		var s certs.State
		var issued, notAfter, next, until *time.Time
		err := row.Scan(&s.Directory, &s.Name, &s.Version, &issued, &notAfter, &s.Renew, &s.Failures, &s.LastError, &next, &s.Holder, &until)
		for _, t := range []struct{ to, from *time.Time }{{&s.IssuedAt, issued}, {&s.NotAfter, notAfter}, {&s.NextAttempt, next}, {&s.LeaseUntil, until}} {
			if t.from != nil {
				*t.to = *t.from
			}
		}
		return s, err
	})
	if err != nil {
		return nil, now, fmt.Errorf("postgres: list certificates: %w", err)
	}
	return states, now, nil
}

// Certificate implements certs.Store.
func (db certStore) Certificate(ctx context.Context, id certs.ID) (data []byte, version string, err error) {
	err = db.pool.QueryRow(ctx, `
		SELECT data, version FROM certificates WHERE directory = $1 AND host = $2 AND data IS NOT NULL`,
		id.Directory, id.Name).Scan(&data, &version)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, "", certs.ErrNotFound
	} else if err != nil {
		return nil, "", fmt.Errorf("postgres: read certificate: %w", err)
	}
	return data, version, nil
}

// Acquire implements certs.Store. A lease is a row, and no advisory lock: that
// would vanish with its connection, unnoticed, while an order is under way.
func (db certStore) Acquire(ctx context.Context, id certs.ID, holder string, ttl time.Duration) (certs.Lease, error) {
	l := certs.Lease{ID: id}
	err := db.pool.QueryRow(ctx, `
		INSERT INTO certificates AS c (directory, host, holder, fence, lease_until)
		VALUES ($1, $2, $3, 1, clock_timestamp() + $4::interval)
		ON CONFLICT (directory, host) DO UPDATE SET holder = excluded.holder, fence = c.fence + 1, lease_until = excluded.lease_until
		WHERE (c.lease_until <= clock_timestamp() OR c.holder = excluded.holder) AND c.next_attempt <= clock_timestamp()
		RETURNING fence, failures, coalesce(version, '')`,
		id.Directory, id.Name, holder, ttl).Scan(&l.Fence, &l.Failures, &l.Version)
	if errors.Is(err, pgx.ErrNoRows) {
		return l, certs.ErrNotNow
	} else if err != nil {
		return l, fmt.Errorf("postgres: lease certificate: %w", err)
	}
	return l, nil
}

// Finish implements certs.Store.
func (db certStore) Finish(ctx context.Context, l certs.Lease, o certs.Outcome) (string, error) {
	set := `` // nothing was done
	args := []any{l.Directory, l.Name, l.Fence}
	switch {
	case o.Certificate != nil:
		set = `, data = $4, version = $5, not_after = $6, issued_at = clock_timestamp(), next_attempt = clock_timestamp() + $7::interval,
			renew = false, failures = 0, last_error = ''`
		args = append(args, o.Certificate, rand.Text(), o.NotAfter, o.Retry)
	case o.Error != "":
		set = `, next_attempt = clock_timestamp() + $4::interval, failures = failures + 1, last_error = $5`
		args = append(args, o.Retry, o.Error)
	}
	var version string
	err := db.pool.QueryRow(ctx, `
		UPDATE certificates SET holder = '', lease_until = 'epoch'`+set+`
		WHERE directory = $1 AND host = $2 AND fence = $3 AND holder <> '' RETURNING coalesce(version, '')`, args...).Scan(&version)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", certs.ErrLeaseLost
	} else if err != nil {
		return "", fmt.Errorf("postgres: store certificate: %w", err)
	}
	return version, nil
}

// Renew implements certs.Store.
func (db certStore) Renew(ctx context.Context, host string) error {
	tag, err := db.pool.Exec(ctx, `UPDATE certificates SET renew = true, next_attempt = 'epoch', failures = 0 WHERE host = $1`, host)
	if err != nil {
		return fmt.Errorf("postgres: renew certificate: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return certs.ErrNotFound
	}
	return nil
}

// Secret implements certs.Store.
func (db certStore) Secret(ctx context.Context, id certs.ID) (data []byte, err error) {
	err = db.pool.QueryRow(ctx, `SELECT data FROM certificate_secrets WHERE directory = $1 AND name = $2`, id.Directory, id.Name).Scan(&data)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, certs.ErrNotFound
	} else if err != nil {
		return nil, fmt.Errorf("postgres: read certificate secret: %w", err)
	}
	return data, nil
}

// AddSecret implements certs.Store.
func (db certStore) AddSecret(ctx context.Context, id certs.ID, data []byte) error {
	_, err := db.pool.Exec(ctx, `
		INSERT INTO certificate_secrets (directory, name, data) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, id.Directory, id.Name, data)
	if err != nil {
		return fmt.Errorf("postgres: store certificate secret: %w", err)
	}
	return nil
}

// PutAnswer implements certs.Store.
func (db certStore) PutAnswer(ctx context.Context, id certs.ID, data []byte) error {
	_, err := db.pool.Exec(ctx, `
		WITH dropped AS (DELETE FROM certificate_secrets WHERE name LIKE $4 AND written_at < now() - interval '1 day' AND (directory, name) <> ($1, $2))
		INSERT INTO certificate_secrets (directory, name, data) VALUES ($1, $2, $3)
		ON CONFLICT (directory, name) DO UPDATE SET data = excluded.data, written_at = now()`,
		id.Directory, id.Name, data, certs.AnswerPrefix+"%")
	if err != nil {
		return fmt.Errorf("postgres: store answer to a challenge: %w", err)
	}
	return nil
}

// DeleteAnswer implements certs.Store.
func (db certStore) DeleteAnswer(ctx context.Context, id certs.ID) error {
	_, err := db.pool.Exec(ctx, `DELETE FROM certificate_secrets WHERE directory = $1 AND name = $2`, id.Directory, id.Name)
	if err != nil {
		return fmt.Errorf("postgres: delete answer to a challenge: %w", err)
	}
	return nil
}

// Reseal implements certs.Store.
func (db certStore) Reseal(ctx context.Context, f func(certs.Kind, certs.ID, []byte) []byte) error {
	type sealed struct {
		Kind            certs.Kind
		Directory, Name string
		Data            []byte
	}
	rows, err := db.pool.Query(ctx, `
		SELECT $1, directory, host, data FROM certificates WHERE data IS NOT NULL
		UNION ALL SELECT $2, directory, name, data FROM certificate_secrets WHERE name NOT LIKE $3`,
		certs.KindCertificate, certs.KindSecret, certs.AnswerPrefix+"%")
	if err != nil {
		return fmt.Errorf("postgres: read what is sealed: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[sealed])
	if err != nil {
		return fmt.Errorf("postgres: read what is sealed: %w", err)
	}
	for _, s := range all {
		data := f(s.Kind, certs.ID{Directory: s.Directory, Name: s.Name}, s.Data)
		if data == nil {
			continue
		}
		// Unless it was changed meanwhile: what is new is sealed anew as well.
		stmt := `UPDATE certificates SET data = $4 WHERE directory = $1 AND host = $2 AND data = $3`
		if s.Kind == certs.KindSecret {
			stmt = `UPDATE certificate_secrets SET data = $4 WHERE directory = $1 AND name = $2 AND data = $3`
		}
		if _, err := db.pool.Exec(ctx, stmt, s.Directory, s.Name, s.Data, data); err != nil {
			return fmt.Errorf("postgres: seal anew: %w", err)
		}
	}
	return nil
}

// Forget implements certs.Store.
func (db certStore) Forget(ctx context.Context) (n int, err error) {
	err = pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM certificates WHERE data IS NOT NULL`).Scan(&n); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DELETE FROM certificate_secrets`)
		if err == nil {
			_, err = tx.Exec(ctx, `DELETE FROM certificates`)
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("postgres: forget certificates: %w", err)
	}
	return n, nil
}
