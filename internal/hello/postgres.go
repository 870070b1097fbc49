package hello

import (
	"context"
	"fmt"
	"maps"
	"time"

	"helloapi/internal/database"
)

const (
	// lockWait is how long the statement that many greetings share waits for a
	// row that somebody else holds. It is more than replicas hold a row that
	// they all count on.
	lockWait = 100 * time.Millisecond
	// searchWait is how long statements wait that look for names which others
	// are about to insert, and searchTime how long that search goes on.
	searchWait = 5 * time.Millisecond
	searchTime = 200 * time.Millisecond
	// heldWait is how long a greeting waits that has a statement of its own
	// because its row was held: less than half the deadline of a flush, of which
	// it may wait as long for its turn.
	heldWait = 900 * time.Millisecond
)

// upsertPostgres locks its rows in the order of the names given. lock_timeout
// is set by the statement itself, so it holds behind any pooler; it is read when
// a row is waited for, and the first row comes after it was set.
const upsertPostgres = `
	WITH wait AS MATERIALIZED (SELECT set_config('lock_timeout', $3, true))
	INSERT INTO greetings AS g (name, count)
	SELECT t.name, t.count FROM wait, unnest($1::text[], $2::bigint[]) AS t (name, count)
	ON CONFLICT (name) DO UPDATE SET count = g.count + excluded.count
	RETURNING name, count`

// updateFree waits for no row: it leaves out those that somebody else holds,
// and those that are not there.
const updateFree = `
	WITH t AS (SELECT * FROM unnest($1::text[], $2::bigint[]) AS t (name, count)),
	free AS (SELECT name FROM greetings JOIN t USING (name) FOR NO KEY UPDATE OF greetings SKIP LOCKED)
	UPDATE greetings AS g SET count = g.count + t.count
	FROM t JOIN free USING (name) WHERE g.name = t.name
	RETURNING g.name, g.count`

// selectAbsent returns which of the names have no row, the first being 1.
const selectAbsent = `
	SELECT i FROM unnest($1::text[]) WITH ORDINALITY AS t (name, i)
	WHERE NOT EXISTS (SELECT FROM greetings g WHERE g.name = t.name)`

// writePostgres implements groupcommit.Write.
func (s *Store) writePostgres(ctx context.Context, names []string, by []int64, alone bool) (map[string]int64, error) {
	wait := lockWait
	if alone {
		wait = heldWait
	}
	counts, err := s.upsert(ctx, names, by, wait)
	switch {
	case s.db.Judge(err) != database.Held:
		return counts, err
	case alone:
		return nil, nil
	}
	return s.addFree(ctx, names, by)
}

func (s *Store) upsert(ctx context.Context, names []string, by []int64, wait time.Duration) (map[string]int64, error) {
	return s.add(ctx, upsertPostgres, names, by, fmt.Sprint(wait.Milliseconds()))
}

// addFree counts the names whose rows nobody else holds.
func (s *Store) addFree(ctx context.Context, names []string, by []int64) (map[string]int64, error) {
	// If this fails for a lock it is the table that somebody has locked.
	counts, err := s.add(ctx, updateFree, names, by)
	if err != nil {
		return nil, err
	}
	absent, err := database.List(ctx, s.db, func(i *int) []any { return []any{i} }, selectAbsent, names)
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
	return counts, s.insertFree(ctx, absentNames, absentBy, counts, time.Now().Add(searchTime))
}

// insertFree counts names that have no row, but those that a transaction is
// about to insert, which it finds by halves. It adds to counts.
func (s *Store) insertFree(ctx context.Context, names []string, by []int64, counts map[string]int64, until time.Time) error {
	if len(names) == 0 {
		return nil
	}
	added, err := s.upsert(ctx, names, by, searchWait)
	if s.db.Judge(err) != database.Held {
		maps.Copy(counts, added)
		return err
	}
	if len(names) == 1 || time.Now().After(until) {
		return nil
	}
	half := len(names) / 2
	if err := s.insertFree(ctx, names[:half], by[:half], counts, until); err != nil {
		return err
	}
	return s.insertFree(ctx, names[half:], by[half:], counts, until)
}
