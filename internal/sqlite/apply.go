package sqlite

import (
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
	"helloapi/internal/planfile"
)

// applyWait is how long ApplyPlans waits for others that write.
const applyWait = time.Minute

// ApplyPlans implements planfile.Store.
func (db *DB) ApplyPlans(ctx context.Context, scope planfile.Scope, decide func(planfile.State) (planfile.Changes, error)) (err error) {
	var tx *sql.Tx
	for begin := time.Now(); ; { // an attempt waits for 5 seconds, as all that write do
		tx, err = db.write.BeginTx(ctx, nil)
		if !isCode(err, sqlite3.SQLITE_BUSY) || time.Since(begin) > applyWait {
			break
		}
	}
	if err != nil {
		return db.explain(err)
	}
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing
	state, err := planState(ctx, tx, scope)
	if err != nil {
		return err
	}
	todo, err := decide(state)
	if err != nil {
		return err
	}
	if err := asActor(ctx, tx, func(tx *sql.Tx) error { return change(ctx, tx, todo) }); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("sqlite: apply: commit: %w", err)
	}
	return nil
}

// PlanState implements planfile.Store.
func (db *DB) PlanState(ctx context.Context, scope planfile.Scope) (planfile.State, error) {
	tx, err := db.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true}) // else it takes the lock of writers
	if err != nil {
		return planfile.State{}, db.explain(err)
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	return planState(ctx, tx, scope)
}

func planState(ctx context.Context, tx *sql.Tx, scope planfile.Scope) (s planfile.State, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("sqlite: read plans and keys: %w", err)
		}
	}()
	rows, err := tx.QueryContext(ctx, `
		SELECT coalesce(p.made_by, ''), coalesce(p.owner, ''), coalesce(k.n, 0), `+plan.Columns+`
		FROM plans p LEFT JOIN (SELECT plan, count(*) AS n FROM api_keys GROUP BY plan) k ON k.plan = p.name
		ORDER BY p.name`)
	if err != nil {
		return s, err
	}
	defer rows.Close()
	for rows.Next() {
		var stored planfile.StoredPlan
		var p plan.Row
		if err := rows.Scan(append([]any{&stored.MadeBy, &stored.Owner, &stored.Keys}, p.Dest()...)...); err != nil {
			return s, err
		}
		stored.Plan = *p.Plan()
		s.Plans = append(s.Plans, stored)
	}
	if err := rows.Err(); err != nil {
		return s, err
	}

	// As JSON, since a statement has a limited number of parameters.
	hashes := make([]string, len(scope.Hashes))
	for i, h := range scope.Hashes {
		hashes[i] = hex.EncodeToString(h[:])
	}
	hashList, err := json.Marshal(hashes)
	if err != nil {
		return s, err
	}
	nameList, err := json.Marshal(append([]string{}, scope.Names...)) // [], not null
	if err != nil {
		return s, err
	}
	rows, err = tx.QueryContext(ctx, `
		WITH scope (id) AS (
			SELECT id FROM api_keys WHERE name IN (SELECT value FROM json_each(?1))
			UNION SELECT key_id FROM api_key_values WHERE hash IN (SELECT unhex(value) FROM json_each(?2))
			UNION SELECT id FROM api_keys WHERE made_by = nullif(?3, ''))
		SELECT k.id, coalesce(k.name, ''), coalesce(k.plan, ''), k.enabled, k.description, k.customer_id, k.expires_at, coalesce(k.made_by, ''),
			v.hash, v.prefix, v.expires_at
		FROM scope JOIN api_keys k USING (id) JOIN api_key_values v ON v.key_id = k.id
		ORDER BY k.id, v.created_at DESC, v.rowid DESC`, string(nameList), string(hashList), scope.Source)
	if err != nil {
		return s, err
	}
	defer rows.Close()
	for rows.Next() {
		var k planfile.StoredKey
		var v planfile.StoredValue
		var hash []byte
		var expires, valueExpires sql.NullInt64
		if err := rows.Scan(&k.ID, &k.Name, &k.Plan, &k.Enabled, &k.Description, &k.CustomerID, &expires, &k.MadeBy,
			&hash, &v.Display, &valueExpires); err != nil {
			return s, err
		}
		v.Hash = apikey.Hash(hash)
		if expires.Valid {
			k.ExpiresAt = time.UnixMilli(expires.Int64)
		}
		if valueExpires.Valid {
			v.ExpiresAt = time.UnixMilli(valueExpires.Int64)
		}
		s.Add(k, v)
	}
	return s, rows.Err()
}

// change makes the changes.
func change(ctx context.Context, tx *sql.Tx, c planfile.Changes) (err error) {
	prepared := map[string]*sql.Stmt{}
	exec := func(stmt string, args ...any) {
		if err != nil {
			return
		}
		s := prepared[stmt]
		if s == nil {
			if s, err = tx.PrepareContext(ctx, stmt); err != nil { // closed with the transaction
				return
			}
			prepared[stmt] = s
		}
		_, err = s.ExecContext(ctx, args...)
	}
	for _, id := range c.DropKeys {
		exec(`DELETE FROM api_keys WHERE id = ?`, id)
	}
	for _, p := range c.PutPlans {
		exec(`
			INSERT INTO plans (name, quota_limit, quota_period, quota_offset, quota_timezone, throttle_rate, throttle_burst, made_by, owner)
			VALUES (?, ?, ?, ?, ?, ?, ?, nullif(?, ''), nullif(?, ''))
			ON CONFLICT (name) DO UPDATE SET quota_limit = excluded.quota_limit, quota_period = excluded.quota_period,
				quota_offset = excluded.quota_offset, quota_timezone = excluded.quota_timezone,
				throttle_rate = excluded.throttle_rate, throttle_burst = excluded.throttle_burst, made_by = excluded.made_by, owner = excluded.owner`,
			append(p.Row(), p.MadeBy, p.Owner)...)
	}
	for _, k := range c.PutKeys {
		exec(`
			UPDATE api_keys SET plan = nullif(?2, ''), enabled = ?3, description = ?4, customer_id = ?5, expires_at = ?6, made_by = nullif(?7, ''), name = nullif(?8, '')
			WHERE id = ?1`, k.ID, k.Plan, k.Enabled, k.Description, k.CustomerID, nullMillis(k.ExpiresAt), k.MadeBy, k.Name)
	}
	for _, v := range c.AddKeys {
		hash := v.Value.Hash()
		exec(`
			INSERT INTO api_keys (name, plan, enabled, description, customer_id, expires_at, made_by)
			VALUES (nullif(?, ''), nullif(?, ''), ?, ?, ?, ?, nullif(?, ''))`,
			v.Key.Name, v.Key.Plan, v.Key.Enabled, v.Key.Description, v.Key.CustomerID, nullMillis(v.Key.ExpiresAt), v.Key.MadeBy)
		exec(`INSERT INTO api_key_values (hash, key_id, prefix) SELECT ?, id, ? FROM api_keys WHERE rowid = last_insert_rowid()`,
			hash[:], v.Value.Display())
	}
	for _, v := range c.SetValues {
		hash, now := v.Value.Hash(), time.Now().UnixMilli()
		exec(`UPDATE api_key_values SET expires_at = min(coalesce(expires_at, ?2), ?2) WHERE key_id = ?1`, v.Key.ID, now)
		exec(`INSERT INTO api_key_values (hash, key_id, prefix) VALUES (?, ?, ?)`, hash[:], v.Key.ID, v.Value.Display())
	}
	if err != nil {
		return fmt.Errorf("sqlite: apply: %w", err)
	}
	for _, name := range c.DropPlans {
		inUse := &planfile.PlanInUseError{Plan: name}
		err := tx.QueryRowContext(ctx, `SELECT coalesce(name, id) FROM api_keys WHERE plan = ? LIMIT 1`, name).Scan(&inUse.Key)
		if err == nil {
			return inUse
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("sqlite: apply: %w", err)
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM plans WHERE name = ?`, name); err != nil {
			return fmt.Errorf("sqlite: apply: remove plan: %w", err)
		}
	}
	return nil
}
