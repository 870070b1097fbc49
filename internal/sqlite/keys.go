package sqlite

import (
	"context"
	"database/sql"
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
	k.id, coalesce(k.name, ''), v.prefix, k.enabled, k.description, k.customer_id, k.created_at,
	CASE WHEN v.expires_at IS NULL OR k.expires_at < v.expires_at THEN k.expires_at ELSE v.expires_at END,
	` + plan.Columns

func scanKey(scan func(...any) error, more ...any) (*apikey.Key, error) {
	var (
		k       apikey.Key
		created int64
		expires sql.NullInt64
		p       plan.Row
	)
	dest := append(more, &k.ID, &k.Name, &k.Display, &k.Enabled, &k.Description, &k.CustomerID, &created, &expires)
	if err := scan(append(dest, p.Dest()...)...); err != nil {
		return nil, err
	}
	k.CreatedAt = time.UnixMilli(created)
	if expires.Valid {
		k.ExpiresAt = time.UnixMilli(expires.Int64)
	}
	k.Plan = p.Plan()
	return &k, nil
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
	// Of the values of a key the newest: SQLite takes the other columns of v
	// from the row that has the maximum.
	rows, err := db.read.QueryContext(ctx, `
		SELECT max(v.created_at), `+keyColumns+`
		FROM api_keys k JOIN api_key_values v ON v.key_id = k.id LEFT JOIN plans p ON p.name = k.plan
		GROUP BY k.id ORDER BY k.name, k.created_at`)
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
