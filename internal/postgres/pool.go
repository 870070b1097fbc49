package postgres

import (
	"context"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A pool is connections that can all be left behind at once. Those of pgxpool
// go on to count for the quarter of a minute that it takes to give up one that
// nothing comes back on: a few of them, and there is no room for one that works.
type pool struct {
	current atomic.Pointer[pgxpool.Pool]
}

func newPool(ctx context.Context, cfg *pgxpool.Config) (*pool, error) {
	current, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	p := new(pool)
	p.current.Store(current)
	return p, nil
}

// renew makes connections as cfg says from now on. What is under way ends on
// the old ones.
func (p *pool) renew(ctx context.Context, cfg *pgxpool.Config) error {
	next, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return err
	}
	go p.current.Swap(next).Close()
	return nil
}

func (p *pool) Begin(ctx context.Context) (pgx.Tx, error) { return p.current.Load().Begin(ctx) }

func (p *pool) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return p.current.Load().Exec(ctx, sql, args...)
}

func (p *pool) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return p.current.Load().Query(ctx, sql, args...)
}

func (p *pool) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return p.current.Load().QueryRow(ctx, sql, args...)
}

func (p *pool) Close() { p.current.Load().Close() }
