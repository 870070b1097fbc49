package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"helloapi/internal/apikey"
	"helloapi/internal/changes"
	"helloapi/internal/groupcommit"
	"helloapi/internal/plan"
)

// keyColumns is what scanKey reads, of k, v and p.
const keyColumns = `
	k.id, coalesce(k.name, ''), v.prefix, k.enabled, k.description, k.customer_id, k.created_at, coalesce(k.made_by, ''),
	least(k.expires_at, v.expires_at),
	(SELECT string_agg(g.day || ' ' || g.units, ',') FROM grants g WHERE g.key_id = k.id AND g.day > current_date - 40),
	` + plan.Columns

func scanKey(row pgx.Row, more ...any) (*apikey.Key, error) {
	var (
		k       apikey.Key
		expires *time.Time
		grants  *string
		p       plan.Row
	)
	dest := append(more, &k.ID, &k.Name, &k.Display, &k.Enabled, &k.Description, &k.CustomerID, &k.CreatedAt, &k.MadeBy, &expires, &grants)
	if err := row.Scan(append(dest, p.Dest()...)...); err != nil {
		return nil, err
	}
	if expires != nil {
		k.ExpiresAt = *expires
	}
	k.Plan = p.Plan()
	if grants == nil {
		return &k, nil
	}
	var err error
	k.Grants, err = plan.ParseGrants(*grants)
	return &k, err
}

// Find implements apikey.Finder: concurrent calls share a query.
func (db *DB) Find(ctx context.Context, h apikey.Hash) (*apikey.Key, error) {
	return db.finds.Do(ctx, h)
}

// findKeys is the flush of db.finds.
func (db *DB) findKeys(ctx context.Context, calls []*groupcommit.Call[apikey.Hash, *apikey.Key]) {
	hashes := make([][]byte, len(calls))
	for i, c := range calls {
		hashes[i] = c.In[:]
	}
	var found map[apikey.Hash]*apikey.Key
	err := db.lookUp(ctx, func(ctx context.Context) (err error) {
		found, err = db.keysByHash(ctx, hashes)
		return err
	})
	for _, c := range calls {
		key, ok := found[c.In]
		switch {
		case err != nil:
			c.Err = fmt.Errorf("postgres: find key: %w", err)
		case !ok:
			c.Err = apikey.ErrUnknown
		default:
			c.Out = key
		}
	}
}

func (db *DB) keysByHash(ctx context.Context, hashes [][]byte) (map[apikey.Hash]*apikey.Key, error) {
	rows, err := db.pool.Query(ctx, `
		SELECT v.hash, `+keyColumns+`
		FROM api_key_values v JOIN api_keys k ON k.id = v.key_id LEFT JOIN plans p ON p.name = k.plan
		WHERE v.hash = ANY($1)`, hashes)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	found := make(map[apikey.Hash]*apikey.Key, len(hashes))
	for rows.Next() {
		var hash []byte
		key, err := scanKey(rows, &hash)
		if err != nil {
			return nil, err
		}
		found[apikey.Hash(hash)] = key
	}
	return found, rows.Err()
}

// CreateKey implements apikey.Keys.
func (db *DB) CreateKey(ctx context.Context, k apikey.Key, v apikey.Value) (apikey.Key, error) {
	err := db.change(ctx, func(tx pgx.Tx) error {
		var expires *time.Time
		if !k.ExpiresAt.IsZero() {
			expires = &k.ExpiresAt
		}
		err := tx.QueryRow(ctx, `
			INSERT INTO api_keys (name, plan, enabled, description, customer_id, expires_at)
			VALUES (nullif($1, ''), $2, $3, $4, $5, $6) RETURNING id, created_at`,
			k.Name, k.Plan.Name, k.Enabled, k.Description, k.CustomerID, expires).Scan(&k.ID, &k.CreatedAt)
		switch {
		case isCode(err, uniqueViolation):
			return apikey.ErrNameTaken
		case isCode(err, foreignKeyViolation):
			return apikey.ErrUnknownPlan
		case err != nil:
			return fmt.Errorf("postgres: create key: %w", err)
		}
		k.Display = v.Display()
		hash := v.Hash()
		_, err = tx.Exec(ctx, `INSERT INTO api_key_values (hash, key_id, prefix) VALUES ($1, $2, $3)`, hash[:], k.ID, k.Display)
		switch {
		case isCode(err, uniqueViolation):
			return apikey.ErrValueTaken
		case err != nil:
			return fmt.Errorf("postgres: create key: %w", err)
		}
		return nil
	})
	return k, err
}

// Keys implements apikey.Keys.
func (db *DB) Keys(ctx context.Context) ([]apikey.Key, error) {
	rows, err := db.pool.Query(ctx, `
		SELECT `+keyColumns+`
		FROM api_keys k
		JOIN LATERAL (SELECT * FROM api_key_values WHERE key_id = k.id ORDER BY created_at DESC LIMIT 1) v ON true
		LEFT JOIN plans p ON p.name = k.plan
		ORDER BY k.name NULLS FIRST, k.created_at`)
	if err != nil {
		return nil, fmt.Errorf("postgres: list keys: %w", err)
	}
	keys, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (apikey.Key, error) {
		k, err := scanKey(row)
		if err != nil {
			return apikey.Key{}, err
		}
		return *k, nil
	})
	if err != nil {
		return nil, fmt.Errorf("postgres: list keys: %w", err)
	}
	return keys, nil
}

// idOf finds the key that a person refers to, by its name or else its ID.
const idOf = `(SELECT id FROM api_keys WHERE name = $1 OR id = $1 ORDER BY name IS NOT DISTINCT FROM $1 DESC LIMIT 1)`

// Key implements apikey.Keys.
func (db *DB) Key(ctx context.Context, ref string) (apikey.Key, error) {
	rows, err := db.pool.Query(ctx, `
		SELECT v.created_at, v.expires_at, `+keyColumns+`
		FROM api_keys k JOIN api_key_values v ON v.key_id = k.id LEFT JOIN plans p ON p.name = k.plan
		WHERE k.id = `+idOf+` ORDER BY v.created_at DESC`, ref)
	if err != nil {
		return apikey.Key{}, fmt.Errorf("postgres: find key: %w", err)
	}
	keys, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*apikey.Key, error) {
		var v apikey.StoredValue
		var expires *time.Time
		k, err := scanKey(row, &v.CreatedAt, &expires)
		if err != nil {
			return nil, err
		}
		v.Display = k.Display
		if expires != nil {
			v.ExpiresAt = *expires
		}
		k.Values = []apikey.StoredValue{v}
		return k, nil
	})
	if err != nil {
		return apikey.Key{}, fmt.Errorf("postgres: find key: %w", err)
	}
	if len(keys) == 0 {
		return apikey.Key{}, apikey.ErrUnknown
	}
	newest := keys[0]
	for _, k := range keys[1:] {
		newest.Values = append(newest.Values, k.Values...)
	}
	return *newest, nil
}

// UpdateKey implements apikey.Keys.
func (db *DB) UpdateKey(ctx context.Context, ref string, u apikey.KeyUpdate) error {
	var expires *time.Time
	if u.ExpiresAt != nil {
		expires = nullTime(*u.ExpiresAt)
	}
	tag, err := db.changeRows(ctx, `
		UPDATE api_keys SET plan = coalesce($2, plan), description = coalesce($3, description),
			customer_id = coalesce($4, customer_id), expires_at = CASE WHEN $5 THEN $6 ELSE expires_at END
		WHERE id = `+idOf, ref, u.Plan, u.Description, u.CustomerID, u.ExpiresAt != nil, expires)
	if isCode(err, foreignKeyViolation) {
		return apikey.ErrUnknownPlan
	}
	return known(tag, err)
}

// EnableKey implements apikey.Keys.
func (db *DB) EnableKey(ctx context.Context, ref string, enabled bool) error {
	return known(db.changeRows(ctx, `UPDATE api_keys SET enabled = $2 WHERE id = `+idOf, ref, enabled))
}

// DeleteKey implements apikey.Keys.
func (db *DB) DeleteKey(ctx context.Context, ref string) error {
	return known(db.changeRows(ctx, `DELETE FROM api_keys WHERE id = `+idOf, ref))
}

// RotateKey implements apikey.Keys.
func (db *DB) RotateKey(ctx context.Context, ref string, v apikey.Value, grace time.Duration) error {
	return db.change(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			UPDATE api_key_values SET expires_at = least(expires_at, clock_timestamp() + $2::interval) WHERE key_id = `+idOf,
			ref, grace)
		if err != nil {
			return fmt.Errorf("postgres: rotate key: %w", err)
		}
		hash := v.Hash()
		tag, err := tx.Exec(ctx, `
			INSERT INTO api_key_values (hash, key_id, prefix, created_at)
			SELECT $2, id, $3, clock_timestamp() FROM api_keys WHERE id = `+idOf,
			ref, hash[:], v.Display())
		if isCode(err, uniqueViolation) {
			return apikey.ErrValueTaken
		}
		return known(tag, err)
	})
}

// change runs f in a transaction whose changes are recorded as made by the
// actor of ctx, if it names one.
func (db *DB) change(ctx context.Context, f func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		if err := setActor(ctx, tx); err != nil {
			return err
		}
		return f(tx)
	})
}

func setActor(ctx context.Context, tx pgx.Tx) error {
	actor := changes.Actor(ctx)
	if actor == "" {
		return nil
	}
	if _, err := tx.Exec(ctx, `SELECT set_config('helloapi.actor', $1, true)`, actor); err != nil {
		return fmt.Errorf("postgres: say who makes the change: %w", err)
	}
	return nil
}

// changeRows is change with one statement.
func (db *DB) changeRows(ctx context.Context, query string, args ...any) (tag pgconn.CommandTag, err error) {
	err = db.change(ctx, func(tx pgx.Tx) (err error) {
		tag, err = tx.Exec(ctx, query, args...)
		return err
	})
	return tag, err
}

// known makes of what changed a key's row the error of a method of apikey.Keys.
func known(tag pgconn.CommandTag, err error) error {
	switch {
	case err != nil:
		return fmt.Errorf("postgres: change key: %w", err)
	case tag.RowsAffected() == 0:
		return apikey.ErrUnknown
	}
	return nil
}
