package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/groupcommit"
	"helloapi/internal/limits"
	"helloapi/internal/plan"
)

// RecordUsage implements limits.UsageStore.
func (db *DB) RecordUsage(ctx context.Context, writer string, rows []limits.UsageRow) error {
	err := db.inTx(ctx, func(tx *sql.Tx) error {
		upsert, err := tx.PrepareContext(ctx, `
			INSERT INTO usage (key_id, day, writer, charged, key_name, customer_id, plan, timezone) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (key_id, day, writer) DO UPDATE SET charged = max(charged, excluded.charged)`)
		if err != nil {
			return err
		}
		defer upsert.Close()
		for _, r := range rows {
			if _, err := upsert.ExecContext(ctx, r.KeyID, string(r.Date), r.Writer(writer), r.Charged, r.KeyName, r.CustomerID, r.Plan, r.Timezone); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("sqlite: record usage: %w", err)
	}
	return nil
}

// Used implements limits.UsageStore: concurrent calls share a connection.
func (db *DB) Used(ctx context.Context, q limits.UsageQuery) (limits.Charged, error) {
	return db.used.Do(ctx, q)
}

// sumUsage is the flush of db.used.
func (db *DB) sumUsage(ctx context.Context, calls []*groupcommit.Call[limits.UsageQuery, limits.Charged]) {
	for _, c := range calls {
		if c.Out, c.Err = db.usedOf(ctx, c.In); c.Err != nil {
			c.Err = fmt.Errorf("sqlite: read usage: %w", c.Err)
		}
	}
}

func (db *DB) usedOf(ctx context.Context, q limits.UsageQuery) (c limits.Charged, err error) {
	rows, err := db.read.QueryContext(ctx, `
		SELECT CASE WHEN writer || '/' LIKE '%/alone/%' THEN substr(writer, 1, instr(writer, '/') - 1) ELSE '' END AS alone,
			sum(charged) FROM usage
		WHERE key_id = ?1 AND day >= ?2 AND day < ?3
			AND NOT (writer || '/' LIKE ?4 || '/%' AND day >= ?5)
		GROUP BY alone`,
		q.KeyID, string(q.First), string(q.Next), q.Writer, string(q.Known))
	if err != nil {
		return c, err
	}
	defer rows.Close()
	for rows.Next() {
		var alone string // the replica that charged alone, or ""
		var charged int64
		if err := rows.Scan(&alone, &charged); err != nil {
			return c, err
		}
		c.Add(alone, charged)
	}
	return c, rows.Err()
}

// DailyUsage implements limits.UsageStore.
func (db *DB) DailyUsage(ctx context.Context, keyID string, first, next plan.Date) ([]limits.DayUsage, error) {
	rows, err := db.read.QueryContext(ctx, `
		SELECT u.key_id, u.day, coalesce(u.key_name, k.name, ''), coalesce(u.customer_id, k.customer_id, ''),
			coalesce(u.plan, k.plan, ''), coalesce(u.timezone, p.quota_timezone, 'UTC'), sum(u.charged)
		FROM usage u LEFT JOIN api_keys k ON k.id = u.key_id LEFT JOIN plans p ON p.name = k.plan
		WHERE (?1 = '' OR u.key_id = ?1) AND u.day >= ?2 AND u.day < ?3
		GROUP BY 1, 2, 3, 4, 5, 6 HAVING sum(u.charged) > 0 ORDER BY 1, 2, 3, 4, 5, 6`, keyID, string(first), string(next))
	if err != nil {
		return nil, fmt.Errorf("sqlite: list usage: %w", err)
	}
	defer rows.Close()
	var days []limits.DayUsage
	for rows.Next() {
		var d limits.DayUsage
		if err := rows.Scan(&d.KeyID, &d.Date, &d.KeyName, &d.CustomerID, &d.Plan, &d.Timezone, &d.Charged); err != nil {
			return nil, fmt.Errorf("sqlite: list usage: %w", err)
		}
		days = append(days, d)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("sqlite: list usage: %w", err)
	}
	return days, nil
}

// TrimUsage implements limits.UsageStore.
func (db *DB) TrimUsage(ctx context.Context, fold, drop plan.Date) error {
	err := db.inTx(ctx, func(tx *sql.Tx) error {
		for _, stmt := range []struct {
			sql string
			day plan.Date
		}{
			{`DELETE FROM usage WHERE day < ?`, drop},
			{`DELETE FROM changes WHERE at < unixepoch(?) * 1000`, drop},
			{`INSERT INTO usage (key_id, day, writer, charged, key_name, customer_id, plan, timezone)
				SELECT key_id, day, '/' || min(writer), sum(charged), key_name, customer_id, plan, timezone
				FROM usage WHERE day < ? AND writer <> '' AND writer NOT LIKE '/%'
				GROUP BY key_id, day, key_name, customer_id, plan, timezone
				ON CONFLICT (key_id, day, writer) DO UPDATE SET charged = charged + excluded.charged`, fold},
			{`DELETE FROM usage WHERE day < ? AND writer <> '' AND writer NOT LIKE '/%'`, fold},
		} {
			if _, err := tx.ExecContext(ctx, stmt.sql, string(stmt.day)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("sqlite: trim usage: %w", err)
	}
	return nil
}

// GrantUnits implements apikey.Keys.
func (db *DB) GrantUnits(ctx context.Context, keyID string, g plan.Grant) (id int64, err error) {
	err = db.inTx(ctx, func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `
			INSERT INTO grants (key_id, day, units, note) SELECT id, ?2, ?3, ?4 FROM api_keys WHERE id = ?1 RETURNING id`,
			keyID, string(g.Date), g.Units, g.Note).Scan(&id)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return 0, apikey.ErrUnknown
	} else if err != nil {
		return 0, fmt.Errorf("sqlite: grant units: %w", err)
	}
	return id, nil
}

// Grants implements apikey.Keys.
func (db *DB) Grants(ctx context.Context, keyID string) ([]apikey.StoredGrant, error) {
	rows, err := db.read.QueryContext(ctx, `
		SELECT id, key_id, day, units, note, created_at FROM grants WHERE ?1 = '' OR key_id = ?1 ORDER BY id DESC`, keyID)
	if err != nil {
		return nil, fmt.Errorf("sqlite: list grants: %w", err)
	}
	defer rows.Close()
	var grants []apikey.StoredGrant
	for rows.Next() {
		var g apikey.StoredGrant
		var created int64
		if err := rows.Scan(&g.ID, &g.KeyID, &g.Date, &g.Units, &g.Note, &created); err != nil {
			return nil, fmt.Errorf("sqlite: list grants: %w", err)
		}
		g.CreatedAt = time.UnixMilli(created)
		grants = append(grants, g)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("sqlite: list grants: %w", err)
	}
	return grants, nil
}

// RevokeGrant implements apikey.Keys.
func (db *DB) RevokeGrant(ctx context.Context, id int64) error {
	n, err := db.change(ctx, `DELETE FROM grants WHERE id = ?`, id)
	if err != nil {
		return fmt.Errorf("sqlite: revoke grant: %w", err)
	}
	if n == 0 {
		return apikey.ErrNoGrant
	}
	return nil
}
