package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"helloapi/internal/apikey"
	"helloapi/internal/groupcommit"
	"helloapi/internal/plan"
)

// keyColumns is what scanKey reads, of k, v and p.
const keyColumns = `
	k.id, coalesce(k.name, ''), v.prefix, k.enabled, k.description, k.customer_id, k.created_at, coalesce(k.made_by, ''),
	CASE WHEN v.expires_at IS NULL OR k.expires_at < v.expires_at THEN k.expires_at ELSE v.expires_at END,
	(SELECT group_concat(g.day || ' ' || g.units) FROM grants g WHERE g.key_id = k.id AND g.day > date('now', '-40 days')),
	` + plan.Columns

func scanKey(scan func(...any) error, more ...any) (*apikey.Key, error) {
	var (
		k       apikey.Key
		created int64
		expires sql.NullInt64
		grants  sql.NullString
		p       plan.Row
	)
	dest := append(more, &k.ID, &k.Name, &k.Display, &k.Enabled, &k.Description, &k.CustomerID, &created, &k.MadeBy, &expires, &grants)
	if err := scan(append(dest, p.Dest()...)...); err != nil {
		return nil, err
	}
	k.CreatedAt = time.UnixMilli(created)
	if expires.Valid {
		k.ExpiresAt = time.UnixMilli(expires.Int64)
	}
	k.Plan = p.Plan()
	var err error
	k.Grants, err = plan.ParseGrants(grants.String)
	return &k, err
}

// Find implements apikey.Finder: concurrent calls share a query.
func (db *DB) Find(ctx context.Context, h apikey.Hash) (*apikey.Key, error) {
	return db.finds.Do(ctx, h)
}

// findKeys is the flush of db.finds.
func (db *DB) findKeys(ctx context.Context, calls []*groupcommit.Call[apikey.Hash, *apikey.Key]) {
	found, err := db.keysByHash(ctx, calls)
	for _, c := range calls {
		key, ok := found[c.In]
		switch {
		case err != nil:
			c.Err = fmt.Errorf("sqlite: find key: %w", err)
		case !ok:
			c.Err = apikey.ErrUnknown
		default:
			c.Out = key
		}
	}
}

func (db *DB) keysByHash(ctx context.Context, calls []*groupcommit.Call[apikey.Hash, *apikey.Key]) (_ map[apikey.Hash]*apikey.Key, err error) {
	args := make([]any, len(calls))
	for i, c := range calls {
		args[i] = c.In[:]
	}
	rows, err := db.read.QueryContext(ctx, `
		SELECT v.hash, `+keyColumns+`
		FROM api_key_values v JOIN api_keys k ON k.id = v.key_id LEFT JOIN plans p ON p.name = k.plan
		WHERE v.hash IN (?`+strings.Repeat(",?", len(args)-1)+`)`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	found := make(map[apikey.Hash]*apikey.Key, len(calls))
	for rows.Next() {
		var hash []byte
		key, err := scanKey(rows.Scan, &hash)
		if err != nil {
			return nil, err
		}
		found[apikey.Hash(hash)] = key
	}
	return found, rows.Err()
}

// CreateKey implements apikey.Keys.
func (db *DB) CreateKey(ctx context.Context, k apikey.Key, v apikey.Value) (apikey.Key, error) {
	err := db.inTx(ctx, func(tx *sql.Tx) (err error) {
		k, err = createKey(ctx, tx, k, v)
		return err
	})
	return k, err
}

func createKey(ctx context.Context, tx *sql.Tx, k apikey.Key, v apikey.Value) (apikey.Key, error) {
	var created int64
	err := tx.QueryRowContext(ctx, `
		INSERT INTO api_keys (name, plan, enabled, description, customer_id, expires_at)
		VALUES (nullif(?, ''), ?, ?, ?, ?, ?) RETURNING id, created_at`,
		k.Name, k.Plan.Name, k.Enabled, k.Description, k.CustomerID, nullMillis(k.ExpiresAt)).Scan(&k.ID, &created)
	switch {
	case isCode(err, sqlite3.SQLITE_CONSTRAINT_UNIQUE):
		return k, apikey.ErrNameTaken
	case isCode(err, sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY):
		return k, apikey.ErrUnknownPlan
	case err != nil:
		return k, fmt.Errorf("sqlite: create key: %w", err)
	}
	k.CreatedAt, k.Display = time.UnixMilli(created), v.Display()
	hash := v.Hash()
	_, err = tx.ExecContext(ctx, `INSERT INTO api_key_values (hash, key_id, prefix) VALUES (?, ?, ?)`, hash[:], k.ID, k.Display)
	switch {
	case isCode(err, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY):
		return k, apikey.ErrValueTaken
	case err != nil:
		return k, fmt.Errorf("sqlite: create key: %w", err)
	}
	return k, nil
}

func nullMillis(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: t.UnixMilli(), Valid: !t.IsZero()}
}

// Keys implements apikey.Keys.
func (db *DB) Keys(ctx context.Context) (_ []apikey.Key, err error) {
	// Of the values of a key the newest. Several may be of one millisecond.
	rows, err := db.read.QueryContext(ctx, `
		SELECT v.created_at, `+keyColumns+`
		FROM api_keys k JOIN api_key_values v ON v.rowid = (
			SELECT rowid FROM api_key_values WHERE key_id = k.id ORDER BY created_at DESC, rowid DESC LIMIT 1
		) LEFT JOIN plans p ON p.name = k.plan
		ORDER BY k.name, k.created_at`)
	if err != nil {
		return nil, fmt.Errorf("sqlite: list keys: %w", err)
	}
	defer rows.Close()
	var keys []apikey.Key
	for rows.Next() {
		var newest int64
		k, err := scanKey(rows.Scan, &newest)
		if err != nil {
			return nil, fmt.Errorf("sqlite: list keys: %w", err)
		}
		keys = append(keys, *k)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("sqlite: list keys: %w", err)
	}
	return keys, nil
}

// idOf finds the key that a person refers to, by its name or else its ID.
const idOf = `(SELECT id FROM api_keys WHERE name = ?1 OR id = ?1 ORDER BY name IS ?1 DESC LIMIT 1)`

// Key implements apikey.Keys.
func (db *DB) Key(ctx context.Context, ref string) (apikey.Key, error) {
	k, err := db.key(ctx, ref)
	if err != nil && !errors.Is(err, apikey.ErrUnknown) {
		err = fmt.Errorf("sqlite: find key: %w", err)
	}
	return k, err
}

func (db *DB) key(ctx context.Context, ref string) (apikey.Key, error) {
	rows, err := db.read.QueryContext(ctx, `
		SELECT v.created_at, v.expires_at, `+keyColumns+`
		FROM api_keys k JOIN api_key_values v ON v.key_id = k.id LEFT JOIN plans p ON p.name = k.plan
		WHERE k.id = `+idOf+` ORDER BY v.created_at DESC, v.rowid DESC`, ref)
	if err != nil {
		return apikey.Key{}, err
	}
	defer rows.Close()
	var key *apikey.Key
	var values []apikey.StoredValue
	for rows.Next() {
		var created int64
		var expires sql.NullInt64
		k, err := scanKey(rows.Scan, &created, &expires)
		if err != nil {
			return apikey.Key{}, err
		}
		v := apikey.StoredValue{Display: k.Display, CreatedAt: time.UnixMilli(created)}
		if expires.Valid {
			v.ExpiresAt = time.UnixMilli(expires.Int64)
		}
		values = append(values, v)
		if key == nil { // the newest
			key = k
		}
	}
	if err := rows.Err(); err != nil {
		return apikey.Key{}, err
	}
	if key == nil {
		return apikey.Key{}, apikey.ErrUnknown
	}
	key.Values = values
	return *key, nil
}

// UpdateKey implements apikey.Keys.
func (db *DB) UpdateKey(ctx context.Context, ref string, u apikey.KeyUpdate) error {
	var expires sql.NullInt64
	if u.ExpiresAt != nil {
		expires = nullMillis(*u.ExpiresAt)
	}
	n, err := db.change(ctx, `
		UPDATE api_keys SET plan = coalesce(?2, plan), description = coalesce(?3, description),
			customer_id = coalesce(?4, customer_id), expires_at = CASE WHEN ?5 THEN ?6 ELSE expires_at END
		WHERE id = `+idOf, ref, u.Plan, u.Description, u.CustomerID, u.ExpiresAt != nil, expires)
	if isCode(err, sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY) {
		return apikey.ErrUnknownPlan
	}
	return known(n, err)
}

// EnableKey implements apikey.Keys.
func (db *DB) EnableKey(ctx context.Context, ref string, enabled bool) error {
	return known(db.change(ctx, `UPDATE api_keys SET enabled = ?2 WHERE id = `+idOf, ref, enabled))
}

// DeleteKey implements apikey.Keys.
func (db *DB) DeleteKey(ctx context.Context, ref string) error {
	return known(db.change(ctx, `DELETE FROM api_keys WHERE id = `+idOf, ref))
}

// RotateKey implements apikey.Keys.
func (db *DB) RotateKey(ctx context.Context, ref string, v apikey.Value, grace time.Duration) error {
	return db.inTx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `
			UPDATE api_key_values SET expires_at = min(coalesce(expires_at, ?2), ?2) WHERE key_id = `+idOf,
			ref, time.Now().Add(grace).UnixMilli())
		if err != nil {
			return fmt.Errorf("sqlite: rotate key: %w", err)
		}
		hash := v.Hash()
		n, err := changed(tx.ExecContext(ctx, `
			INSERT INTO api_key_values (hash, key_id, prefix) SELECT ?2, id, ?3 FROM api_keys WHERE id = `+idOf,
			ref, hash[:], v.Display()))
		if isCode(err, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY) {
			return apikey.ErrValueTaken
		}
		return known(n, err)
	})
}

// change runs a statement as inTx does, and returns how many rows it changed.
func (db *DB) change(ctx context.Context, query string, args ...any) (n int64, err error) {
	err = db.inTx(ctx, func(tx *sql.Tx) (err error) {
		n, err = changed(tx.ExecContext(ctx, query, args...))
		return err
	})
	return n, err
}

// changed returns how many rows a statement changed.
func changed(res sql.Result, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// known makes of what changed a key's row the error of a method of apikey.Keys.
func known(n int64, err error) error {
	switch {
	case err != nil:
		return fmt.Errorf("sqlite: change key: %w", err)
	case n == 0:
		return apikey.ErrUnknown
	}
	return nil
}

// FirstKeys creates the keys, each opened by the value of its index, if serve
// never asked for that on this file before; else it reports false. All keys
// are created or none.
func (db *DB) FirstKeys(ctx context.Context, keys []apikey.Key, values []apikey.Value) (first bool, err error) {
	err = db.inTx(ctx, func(tx *sql.Tx) error {
		// user_version is a number that SQLite keeps for its user. It is not
		// worth a table.
		var done, others int
		if err := tx.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&done); err != nil {
			return err
		}
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM api_keys`).Scan(&others); err != nil {
			return err
		}
		if done != 0 {
			return nil
		}
		if first = others == 0; first {
			for i := range keys {
				if _, err := createKey(ctx, tx, keys[i], values[i]); err != nil {
					return err
				}
			}
		}
		_, err := tx.ExecContext(ctx, `PRAGMA user_version = 1`)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("sqlite: create first keys: %w", err)
	}
	return first, nil
}
