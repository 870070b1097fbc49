package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
	"helloapi/internal/planfile"
)

// applyWait is how long ApplyPlans waits for others that change plans or keys.
const applyWait = time.Minute

// ApplyPlans implements planfile.Store. It keeps others from changing plans and
// keys, but nobody from reading them.
func (db *DB) ApplyPlans(ctx context.Context, scope planfile.Scope, decide func(planfile.State) (planfile.Changes, error)) error {
	tx, err := db.pool.Begin(ctx)
	if err != nil {
		return fmt.Errorf("postgres: apply: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // after Commit it does nothing
	_, err = tx.Exec(ctx, `SELECT set_config('statement_timeout', '0', true), set_config('lock_timeout', $1, true)`,
		fmt.Sprint(applyWait.Milliseconds()))
	if err != nil {
		return fmt.Errorf("postgres: apply: %w", err)
	}
	if err := setActor(ctx, tx); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `LOCK TABLE plans, api_keys, api_key_values IN SHARE ROW EXCLUSIVE MODE`); err != nil {
		if isCode(err, lockNotAvailable) {
			return fmt.Errorf("another change to plans or keys has been under way for %v: see what it is (pg_stat_activity), then try again", applyWait)
		}
		return fmt.Errorf("postgres: apply: %w", err)
	}
	state, err := planState(ctx, tx, scope)
	if err != nil {
		return err
	}
	changes, err := decide(state)
	if err != nil {
		return err
	}
	if err := change(ctx, tx, changes); err != nil {
		return err
	}
	// An interruption does not leave it unknown whether it is done.
	if err := tx.Commit(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("postgres: apply: commit: %w", err)
	}
	return nil
}

// PlanState implements planfile.Store.
func (db *DB) PlanState(ctx context.Context, scope planfile.Scope) (s planfile.State, err error) {
	err = pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY`)
		if err != nil {
			return err
		}
		s, err = planState(ctx, tx, scope)
		return err
	})
	return s, err
}

func planState(ctx context.Context, tx pgx.Tx, scope planfile.Scope) (s planfile.State, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("postgres: read plans and keys: %w", err)
		}
	}()
	rows, err := tx.Query(ctx, `
		SELECT coalesce(p.made_by, ''), coalesce(p.owner, ''), coalesce(k.n, 0), `+plan.Columns+`
		FROM plans p LEFT JOIN (SELECT plan, count(*) AS n FROM api_keys GROUP BY plan) k ON k.plan = p.name
		ORDER BY p.name`)
	if err != nil {
		return s, err
	}
	s.Plans, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (planfile.StoredPlan, error) {
		var s planfile.StoredPlan
		var p plan.Row
		if err := row.Scan(append([]any{&s.MadeBy, &s.Owner, &s.Keys}, p.Dest()...)...); err != nil {
			return s, err
		}
		s.Plan = *p.Plan()
		return s, nil
	})
	if err != nil {
		return s, err
	}

	hashes := make([][]byte, len(scope.Hashes))
	for i := range scope.Hashes {
		hashes[i] = scope.Hashes[i][:]
	}
	rows, err = tx.Query(ctx, `
		WITH scope AS (
			SELECT id FROM api_keys WHERE name = ANY($1)
			UNION SELECT key_id FROM api_key_values WHERE hash = ANY($2)
			UNION SELECT id FROM api_keys WHERE made_by = nullif($3, ''))
		SELECT k.id, coalesce(k.name, ''), coalesce(k.plan, ''), k.enabled, k.description, k.customer_id, k.expires_at, coalesce(k.made_by, ''),
			v.hash, v.prefix, v.expires_at
		FROM scope JOIN api_keys k USING (id) JOIN api_key_values v ON v.key_id = k.id
		ORDER BY k.id, v.created_at DESC`, scope.Names, hashes, scope.Source)
	if err != nil {
		return s, err
	}
	var k planfile.StoredKey
	var v planfile.StoredValue
	var hash []byte
	var expires, valueExpires *time.Time
	_, err = pgx.ForEachRow(rows, []any{
		&k.ID, &k.Name, &k.Plan, &k.Enabled, &k.Description, &k.CustomerID, &expires, &k.MadeBy, &hash, &v.Display, &valueExpires,
	}, func() error {
		v.Hash, v.ExpiresAt, k.ExpiresAt = apikey.Hash(hash), time.Time{}, time.Time{}
		if expires != nil {
			k.ExpiresAt = *expires
		}
		if valueExpires != nil {
			v.ExpiresAt = *valueExpires
		}
		s.Add(k, v)
		return nil
	})
	return s, err
}

// change makes the changes, in a round trip or two however many they are.
func change(ctx context.Context, tx pgx.Tx, c planfile.Changes) error {
	var b pgx.Batch
	if len(c.DropKeys) > 0 {
		b.Queue(`DELETE FROM api_keys WHERE id = ANY($1)`, c.DropKeys)
	}
	for _, p := range c.PutPlans {
		v := p.Row()
		b.Queue(`
			INSERT INTO plans (name, quota_limit, quota_period, quota_offset, quota_timezone, throttle_rate, throttle_burst, made_by, owner)
			VALUES ($1, $2, $3, $4, $5, $6, $7, nullif($8, ''), nullif($9, ''))
			ON CONFLICT (name) DO UPDATE SET quota_limit = excluded.quota_limit, quota_period = excluded.quota_period,
				quota_offset = excluded.quota_offset, quota_timezone = excluded.quota_timezone,
				throttle_rate = excluded.throttle_rate, throttle_burst = excluded.throttle_burst, made_by = excluded.made_by, owner = excluded.owner`,
			append(v, p.MadeBy, p.Owner)...)
	}
	for _, k := range c.PutKeys {
		b.Queue(`
			UPDATE api_keys SET plan = nullif($2, ''), enabled = $3, description = $4, customer_id = $5, expires_at = $6, made_by = nullif($7, ''), name = nullif($8, '')
			WHERE id = $1`, k.ID, k.Plan, k.Enabled, k.Description, k.CustomerID, nullTime(k.ExpiresAt), k.MadeBy, k.Name)
	}
	for _, v := range c.AddKeys {
		hash := v.Value.Hash()
		b.Queue(`
			WITH k AS (
				INSERT INTO api_keys (name, plan, enabled, description, customer_id, expires_at, made_by)
				VALUES (nullif($1, ''), nullif($2, ''), $3, $4, $5, $6, nullif($7, '')) RETURNING id)
			INSERT INTO api_key_values (hash, key_id, prefix) SELECT $8, id, $9 FROM k`,
			v.Key.Name, v.Key.Plan, v.Key.Enabled, v.Key.Description, v.Key.CustomerID, nullTime(v.Key.ExpiresAt), v.Key.MadeBy,
			hash[:], v.Value.Display())
	}
	for _, v := range c.SetValues {
		hash := v.Value.Hash()
		b.Queue(`UPDATE api_key_values SET expires_at = least(expires_at, clock_timestamp()) WHERE key_id = $1`, v.Key.ID)
		b.Queue(`INSERT INTO api_key_values (hash, key_id, prefix, created_at) VALUES ($1, $2, $3, clock_timestamp())`,
			hash[:], v.Key.ID, v.Value.Display())
	}
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return fmt.Errorf("postgres: apply: %w", err)
	}
	for _, name := range c.DropPlans {
		inUse := &planfile.PlanInUseError{Plan: name}
		err := tx.QueryRow(ctx, `SELECT coalesce(name, id) FROM api_keys WHERE plan = $1 LIMIT 1`, name).Scan(&inUse.Key)
		if err == nil {
			return inUse
		}
		if err != pgx.ErrNoRows {
			return fmt.Errorf("postgres: apply: %w", err)
		}
		if _, err := tx.Exec(ctx, `DELETE FROM plans WHERE name = $1`, name); err != nil {
			return fmt.Errorf("postgres: apply: remove plan: %w", err)
		}
	}
	return nil
}

func nullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
