package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"

	"helloapi/internal/groupcommit"
	"helloapi/internal/hello"
)

// upsertGreetings locks its rows in the order of the names given. lock_timeout
// is set by the statement itself, so it holds behind any pooler; it is read when
// a row is waited for, and the first row comes after it was set.
const upsertGreetings = `
	WITH wait AS MATERIALIZED (SELECT set_config('lock_timeout', $3, true))
	INSERT INTO greetings AS g (name, count)
	SELECT t.name, t.count FROM wait, unnest($1::text[], $2::bigint[]) AS t (name, count)
	ON CONFLICT (name) DO UPDATE SET count = g.count + excluded.count
	RETURNING name, count`

// updateFreeGreetings waits for no row: it leaves out those that somebody else
// holds, and those that are not there.
const updateFreeGreetings = `
	WITH t AS (SELECT * FROM unnest($1::text[], $2::bigint[]) AS t (name, count)),
	free AS (SELECT name FROM greetings JOIN t USING (name) FOR NO KEY UPDATE OF greetings SKIP LOCKED)
	UPDATE greetings AS g SET count = g.count + t.count
	FROM t JOIN free USING (name) WHERE g.name = t.name
	RETURNING g.name, g.count`

// Greet implements hello.Greetings: concurrent calls share a statement.
func (db *DB) Greet(ctx context.Context, name string) (int64, error) {
	return db.counts.Add(ctx, name)
}

// writeGreetings implements groupcommit.Write.
func (db *DB) writeGreetings(ctx context.Context, names []string, by []int64, alone bool) (map[string]int64, error) {
	wait := lockWait
	if alone {
		wait = heldWait
	}
	counts, err := db.addGreetings(ctx, upsertGreetings, names, by, fmt.Sprint(wait.Milliseconds()))
	if judge(err) == locked {
		if alone {
			return nil, nil
		}
		counts, err = db.addFreeGreetings(ctx, names, by)
	}
	if err != nil {
		err = fmt.Errorf("postgres: count greetings: %w", db.noticed(err))
		if judge(err) == rejected {
			err = errors.Join(groupcommit.ErrRejected, err)
		}
		return counts, err
	}
	return counts, nil
}

// addFreeGreetings counts the names whose rows nobody else holds.
func (db *DB) addFreeGreetings(ctx context.Context, names []string, by []int64) (map[string]int64, error) {
	// If this fails for a lock it is the table that somebody has locked.
	counts, err := db.addGreetings(ctx, updateFreeGreetings, names, by)
	if err != nil {
		return nil, err
	}
	rows, err := db.pool.Query(ctx, `SELECT i FROM unnest($1::text[]) WITH ORDINALITY AS t (name, i) WHERE NOT EXISTS (SELECT FROM greetings g WHERE g.name = t.name)`, names)
	if err != nil {
		return counts, err
	}
	absent, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return counts, err
	}
	var absentNames []string
	var absentBy []int64
	for _, i := range absent {
		if _, ok := counts[names[i-1]]; !ok {
			absentNames, absentBy = append(absentNames, names[i-1]), append(absentBy, by[i-1])
		}
	}
	return counts, db.insertFree(ctx, absentNames, absentBy, counts, time.Now().Add(searchTime))
}

// insertFree counts names that have no row, but those that a transaction is
// about to insert, which it finds by halves. It adds to counts.
func (db *DB) insertFree(ctx context.Context, names []string, by []int64, counts map[string]int64, until time.Time) error {
	if len(names) == 0 {
		return nil
	}
	added, err := db.addGreetings(ctx, upsertGreetings, names, by, fmt.Sprint(searchWait.Milliseconds()))
	if judge(err) != locked {
		maps.Copy(counts, added)
		return err
	}
	if len(names) == 1 || time.Now().After(until) {
		return nil
	}
	half := len(names) / 2
	if err := db.insertFree(ctx, names[:half], by[:half], counts, until); err != nil {
		return err
	}
	return db.insertFree(ctx, names[half:], by[half:], counts, until)
}

func (db *DB) addGreetings(ctx context.Context, stmt string, args ...any) (counts map[string]int64, err error) {
	err = retry(ctx, func() error {
		counts = make(map[string]int64)
		rows, err := db.pool.Query(ctx, stmt, args...)
		if err != nil {
			return err
		}
		var name string
		var count int64
		_, err = pgx.ForEachRow(rows, []any{&name, &count}, func() error {
			counts[name] = count
			return nil
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return counts, nil
}

// TopGreetings implements hello.Counts.
func (db *DB) TopGreetings(ctx context.Context, n int) ([]hello.Count, error) {
	rows, err := db.pool.Query(ctx, `SELECT name, count FROM greetings WHERE count <> 0 ORDER BY count DESC, name LIMIT $1`, n)
	if err != nil {
		return nil, fmt.Errorf("postgres: list greetings: %w", err)
	}
	counts, err := pgx.CollectRows(rows, pgx.RowToStructByPos[hello.Count])
	if err != nil {
		return nil, fmt.Errorf("postgres: list greetings: %w", err)
	}
	return counts, nil
}

// DeleteGreeting implements hello.Counts.
func (db *DB) DeleteGreeting(ctx context.Context, name string) error {
	tag, err := db.pool.Exec(ctx, `DELETE FROM greetings WHERE name = $1`, name)
	switch {
	case err != nil:
		return fmt.Errorf("postgres: delete greeting: %w", err)
	case tag.RowsAffected() == 0:
		return hello.ErrNotGreeted
	}
	return nil
}
