package sqlite

import (
	"context"
	"fmt"

	"helloapi/internal/plan"
)

// Plans implements plan.Plans.
func (db *DB) Plans(ctx context.Context) ([]plan.Plan, error) {
	rows, err := db.read.QueryContext(ctx, `SELECT `+plan.Columns+` FROM plans p ORDER BY p.name`)
	if err != nil {
		return nil, fmt.Errorf("sqlite: list plans: %w", err)
	}
	defer rows.Close()
	var plans []plan.Plan
	for rows.Next() {
		var row plan.Row
		if err := rows.Scan(row.Dest()...); err != nil {
			return nil, fmt.Errorf("sqlite: list plans: %w", err)
		}
		plans = append(plans, *row.Plan())
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("sqlite: list plans: %w", err)
	}
	return plans, nil
}
