package postgres

import (
	"context"
	"fmt"
)

// Reached implements limits.Peers. It forgets those that have stopped.
func (db *DB) Reached(ctx context.Context, replica string) error {
	_, err := db.conn.Exec(ctx, `
		WITH stopped AS (DELETE FROM replicas WHERE redis_at < clock_timestamp() - interval '1 hour' AND id <> $1)
		INSERT INTO replicas (id, redis_at) VALUES ($1, clock_timestamp())
		ON CONFLICT (id) DO UPDATE SET redis_at = excluded.redis_at`, replica)
	if err != nil {
		return fmt.Errorf("postgres: note that Redis answers: %w", err)
	}
	return nil
}

// OthersReach implements limits.Peers. Each replica says so once a second. When
// Redis goes away from all, they notice within about a second of each other.
func (db *DB) OthersReach(ctx context.Context, replica string) (others bool, err error) {
	err = db.pool.QueryRow(ctx, `
		SELECT exists (
			SELECT FROM replicas
			WHERE id <> $1 AND redis_at > clock_timestamp() - interval '3 seconds' AND redis_at > coalesce(
				(SELECT redis_at FROM replicas WHERE id = $1) + interval '2.5 seconds', '-infinity'))`, replica).Scan(&others)
	if err != nil {
		return false, fmt.Errorf("postgres: look for replicas that Redis answers: %w", err)
	}
	return others, nil
}
