package hello

import (
	"context"
	"errors"
	"fmt"
	"time"

	"helloapi/internal/database"
	"helloapi/internal/groupcommit"
)

// ErrNotGreeted says that nobody of the name was greeted.
var ErrNotGreeted = errors.New("nobody of that name was greeted")

// A Count is how often a name was greeted.
type Count struct {
	Name  string `json:"name"`
	Count int64  `json:"count"`
}

func (c *Count) columns() []any { return []any{&c.Name, &c.Count} }

// A Store keeps greetings in a database: Greetings, and what an operator does
// with them. It is safe for concurrent use.
type Store struct {
	db *database.DB
	*groupcommit.Counter
}

// NewStore returns a Store in db. Close it before db.
func NewStore(db *database.DB) *Store {
	s := &Store{db: db}
	// Within a SQLite file a flush waits for other processes that write.
	write, heldRows, timeout := s.writeSQLite, 1, 5*time.Second
	if db.Kind() == database.PostgreSQL {
		// Who comes while a flush is under way waits for two. Where the database
		// is there and does not answer, that is less than 5 seconds.
		write, heldRows, timeout = s.writePostgres, 2, 2*time.Second
	}
	batch := groupcommit.Config{MaxBatch: 1024, MaxWaiting: 1 << 15, Timeout: timeout}
	s.Counter = groupcommit.NewCounter(batch, heldRows, func(ctx context.Context, names []string, by []int64, alone bool) (map[string]int64, error) {
		counts, err := write(ctx, names, by, alone)
		if err != nil {
			err = fmt.Errorf("count greetings: %w", err)
			if db.Judge(err) == database.Rejected {
				err = errors.Join(groupcommit.ErrRejected, err)
			}
		}
		return counts, err
	})
	return s
}

// Greet implements Greetings: concurrent calls share a statement.
func (s *Store) Greet(ctx context.Context, name string) (int64, error) { return s.Add(ctx, name) }

// add runs a statement that counts, and returns the new counts by name.
func (s *Store) add(ctx context.Context, stmt string, args ...any) (map[string]int64, error) {
	list, err := database.List(ctx, s.db, (*Count).columns, stmt, args...)
	if err != nil {
		return nil, err
	}
	counts := make(map[string]int64, len(list))
	for _, c := range list {
		counts[c.Name] = c.Count
	}
	return counts, nil
}

// Top returns the n names that were greeted most, the first first.
func (s *Store) Top(ctx context.Context, n int) ([]Count, error) {
	counts, err := database.List(ctx, s.db, (*Count).columns, `
		SELECT name, count FROM greetings WHERE count <> 0 ORDER BY count DESC, name LIMIT $1`, n)
	if err != nil {
		return nil, fmt.Errorf("list greetings: %w", err)
	}
	return counts, nil
}

// Delete removes a name and its count for good, or returns ErrNotGreeted. Who
// is greeted by it next is the first again.
func (s *Store) Delete(ctx context.Context, name string) error {
	n, err := s.db.Exec(ctx, `DELETE FROM greetings WHERE name = $1`, name)
	switch {
	case err != nil:
		return fmt.Errorf("delete greeting: %w", err)
	case n == 0:
		return ErrNotGreeted
	}
	return nil
}
