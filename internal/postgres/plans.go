package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"helloapi/internal/plan"
)

// Plans implements plan.Plans.
func (db *DB) Plans(ctx context.Context) ([]plan.Stored, error) {
	rows, err := db.pool.Query(ctx, `SELECT coalesce(p.made_by, ''), `+plan.Columns+` FROM plans p ORDER BY p.name`)
	if err != nil {
		return nil, fmt.Errorf("postgres: list plans: %w", err)
	}
	plans, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (plan.Stored, error) {
		var p plan.Row
		var madeBy string
		if err := row.Scan(append([]any{&madeBy}, p.Dest()...)...); err != nil {
			return plan.Stored{}, err
		}
		return plan.Stored{Plan: *p.Plan(), MadeBy: madeBy}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("postgres: list plans: %w", err)
	}
	return plans, nil
}
