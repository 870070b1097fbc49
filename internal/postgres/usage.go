package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"helloapi/internal/apikey"
	"helloapi/internal/database"
	"helloapi/internal/groupcommit"
	"helloapi/internal/limits"
	"helloapi/internal/plan"
)

// RecordUsage implements limits.UsageStore.
func (db *DB) RecordUsage(ctx context.Context, writer string, rows []limits.UsageRow) error {
	charged := make([]int64, len(rows))
	var texts [7][]string
	for i, r := range rows {
		charged[i] = r.Charged
		for j, v := range []string{r.KeyID, string(r.Date), r.Writer(writer), r.KeyName, r.CustomerID, r.Plan, r.Timezone} {
			texts[j] = append(texts[j], v)
		}
	}
	// Rows that somebody else holds are left out, so that they stop no others.
	var written int64
	err := database.Retry(ctx, db.verdict, func() error {
		tag, err := db.pool.Exec(ctx, `
			WITH t AS (
				SELECT n, k, d::date AS d, w, name, customer, plan, zone
				FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[])
					AS t (n, k, d, w, name, customer, plan, zone)
			), free AS (
				SELECT k, d, w FROM usage JOIN t ON key_id = k AND day = d AND writer = w FOR NO KEY UPDATE OF usage SKIP LOCKED
			)
			INSERT INTO usage AS u (charged, key_id, day, writer, key_name, customer_id, plan, timezone)
			SELECT n, k, d, w, name, customer, plan, zone FROM t
			WHERE (k, d, w) IN (SELECT k, d, w FROM free)
				OR NOT EXISTS (SELECT FROM usage WHERE key_id = k AND day = d AND writer = w)
			ON CONFLICT (key_id, day, writer) DO UPDATE SET charged = greatest(u.charged, excluded.charged)`,
			charged, texts[0], texts[1], texts[2], texts[3], texts[4], texts[5], texts[6])
		written = tag.RowsAffected()
		return err
	})
	if err != nil {
		return fmt.Errorf("postgres: record usage: %w", err)
	}
	if left := int64(len(rows)) - written; left > 0 {
		return fmt.Errorf("postgres: record usage: %d of %d rows are locked by somebody else (pg_stat_activity says who)", left, len(rows))
	}
	return nil
}

// Used implements limits.UsageStore: concurrent calls share a query.
func (db *DB) Used(ctx context.Context, q limits.UsageQuery) (limits.Charged, error) {
	return db.used.Do(ctx, q)
}

// sumUsage is the flush of db.used.
func (db *DB) sumUsage(ctx context.Context, calls []*groupcommit.Call[limits.UsageQuery, limits.Charged]) {
	var n [5][]string
	for _, c := range calls {
		for i, v := range []string{c.In.KeyID, string(c.In.First), string(c.In.Next), c.In.Writer, string(c.In.Known)} {
			n[i] = append(n[i], v)
		}
	}
	err := db.lookUp(ctx, func(ctx context.Context) error {
		rows, err := db.pool.Query(ctx, `
			SELECT q.i, CASE WHEN u.writer || '/' LIKE '%/alone/%' THEN split_part(u.writer, '/', 1) ELSE '' END AS alone,
				coalesce(sum(u.charged), 0)::bigint
			FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) WITH ORDINALITY AS q (k, first, next, writer, known, i)
			LEFT JOIN usage u ON u.key_id = q.k AND u.day >= q.first::date AND u.day < q.next::date
				AND NOT (split_part(u.writer, '/', 1) = q.writer AND u.day >= coalesce(nullif(q.known, ''), '-infinity')::date)
			GROUP BY q.i, alone`, n[0], n[1], n[2], n[3], n[4])
		if err != nil {
			return err
		}
		var i, charged int64
		var alone string // the replica that charged alone, or ""
		_, err = pgx.ForEachRow(rows, []any{&i, &alone, &charged}, func() error {
			calls[i-1].Out.Add(alone, charged)
			return nil
		})
		return err
	})
	if err != nil {
		for _, c := range calls {
			c.Err = fmt.Errorf("postgres: read usage: %w", err)
		}
	}
}

// DailyUsage implements limits.UsageStore.
func (db *DB) DailyUsage(ctx context.Context, keyID string, first, next plan.Date) ([]limits.DayUsage, error) {
	rows, err := db.pool.Query(ctx, `
		SELECT u.key_id, u.day::text, coalesce(u.key_name, k.name, ''), coalesce(u.customer_id, k.customer_id, ''),
			coalesce(u.plan, k.plan, ''), coalesce(u.timezone, p.quota_timezone, 'UTC'), sum(u.charged)::bigint
		FROM usage u LEFT JOIN api_keys k ON k.id = u.key_id LEFT JOIN plans p ON p.name = k.plan
		WHERE ($1 = '' OR u.key_id = $1) AND u.day >= $2::text::date AND u.day < $3::text::date
		GROUP BY 1, 2, 3, 4, 5, 6 HAVING sum(u.charged) > 0 ORDER BY 1, 2, 3, 4, 5, 6`, keyID, string(first), string(next))
	if err != nil {
		return nil, fmt.Errorf("postgres: list usage: %w", err)
	}
	days, err := pgx.CollectRows(rows, pgx.RowToStructByPos[limits.DayUsage])
	if err != nil {
		return nil, fmt.Errorf("postgres: list usage: %w", err)
	}
	return days, nil
}

// TrimUsage implements limits.UsageStore. Several replicas may do it at a time: each
// row is taken by one.
func (db *DB) TrimUsage(ctx context.Context, fold, drop plan.Date) error {
	return pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM usage WHERE day < $1::text::date`, string(drop)); err != nil {
			return fmt.Errorf("postgres: drop old usage: %w", err)
		}
		if _, err := tx.Exec(ctx, `DELETE FROM changes WHERE at < extract(epoch FROM $1::text::timestamptz) * 1000`, string(drop)); err != nil {
			return fmt.Errorf("postgres: drop old changes: %w", err)
		}
		_, err := tx.Exec(ctx, `
			WITH gone AS (DELETE FROM usage WHERE day < $1::text::date AND writer <> '' AND writer NOT LIKE '/%' RETURNING *)
			INSERT INTO usage AS u (key_id, day, writer, charged, key_name, customer_id, plan, timezone)
			SELECT key_id, day, '/' || min(writer), sum(charged), key_name, customer_id, plan, timezone
			FROM gone GROUP BY key_id, day, key_name, customer_id, plan, timezone ORDER BY key_id, day, min(writer)
			ON CONFLICT (key_id, day, writer) DO UPDATE SET charged = u.charged + excluded.charged`, string(fold))
		if err != nil {
			return fmt.Errorf("postgres: fold old usage: %w", err)
		}
		return nil
	})
}

// GrantUnits implements apikey.Keys.
func (db *DB) GrantUnits(ctx context.Context, keyID string, g plan.Grant) (id int64, err error) {
	err = db.change(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `
			INSERT INTO grants (key_id, day, units, note) SELECT id, $2::text::date, $3, $4 FROM api_keys WHERE id = $1 RETURNING id`,
			keyID, string(g.Date), g.Units, g.Note).Scan(&id)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, apikey.ErrUnknown
	} else if err != nil {
		return 0, fmt.Errorf("postgres: grant units: %w", err)
	}
	return id, nil
}

// Grants implements apikey.Keys.
func (db *DB) Grants(ctx context.Context, keyID string) ([]apikey.StoredGrant, error) {
	rows, err := db.pool.Query(ctx, `
		SELECT id, key_id, day::text, units, note, created_at FROM grants WHERE $1 = '' OR key_id = $1 ORDER BY id DESC`, keyID)
	if err != nil {
		return nil, fmt.Errorf("postgres: list grants: %w", err)
	}
	grants, err := pgx.CollectRows(rows, pgx.RowToStructByPos[apikey.StoredGrant])
	if err != nil {
		return nil, fmt.Errorf("postgres: list grants: %w", err)
	}
	return grants, nil
}

// RevokeGrant implements apikey.Keys.
func (db *DB) RevokeGrant(ctx context.Context, id int64) error {
	tag, err := db.changeRows(ctx, `DELETE FROM grants WHERE id = $1`, id)
	if err != nil {
		return fmt.Errorf("postgres: revoke grant: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return apikey.ErrNoGrant
	}
	return nil
}
