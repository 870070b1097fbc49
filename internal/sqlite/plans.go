package sqlite

import (
	"context"
	"fmt"

	"helloapi/internal/plan"
)

// Plans implements plan.Plans.
func (db *DB) Plans(ctx context.Context) ([]plan.Stored, error) {
	rows, err := db.read.QueryContext(ctx, `SELECT coalesce(p.made_by, ''), `+plan.Columns+` FROM plans p ORDER BY p.name`)
	if err != nil {
		return nil, fmt.Errorf("sqlite: list plans: %w", err)
	}
	defer rows.Close()
	var plans []plan.Stored
	for rows.Next() {
		var row plan.Row
		var madeBy string
		if err := rows.Scan(append([]any{&madeBy}, row.Dest()...)...); err != nil {
			return nil, fmt.Errorf("sqlite: list plans: %w", err)
		}
		plans = append(plans, plan.Stored{Plan: *row.Plan(), MadeBy: madeBy})
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("sqlite: list plans: %w", err)
	}
	return plans, nil
}
