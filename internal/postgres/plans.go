package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"helloapi/internal/plan"
)

// Plans implements plan.Plans.
func (db *DB) Plans(ctx context.Context) ([]plan.Plan, error) {
	rows, err := db.pool.Query(ctx, `SELECT `+plan.Columns+` FROM plans p ORDER BY p.name`)
	if err != nil {
		return nil, fmt.Errorf("postgres: list plans: %w", err)
	}
	plans, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (plan.Plan, error) {
		var p plan.Row
		if err := row.Scan(p.Dest()...); err != nil {
			return plan.Plan{}, err
		}
		return *p.Plan(), nil
	})
	if err != nil {
		return nil, fmt.Errorf("postgres: list plans: %w", err)
	}
	return plans, nil
}
