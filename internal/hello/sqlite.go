package hello

import (
	"context"
	"encoding/json"
)

// upsertSQLite has WHERE so that ON begins no join.
const upsertSQLite = `
	INSERT INTO greetings (name, count)
	SELECT value->>'name', value->>'count' FROM json_each($1) WHERE true
	ON CONFLICT (name) DO UPDATE SET count = count + excluded.count
	RETURNING name, count`

// writeSQLite implements groupcommit.Write. SQLite locks its file and no rows:
// none is ever held.
func (s *Store) writeSQLite(ctx context.Context, names []string, by []int64, _ bool) (map[string]int64, error) {
	counts := make([]Count, len(names))
	for i, name := range names {
		counts[i] = Count{name, by[i]}
	}
	list, err := json.Marshal(counts)
	if err != nil {
		return nil, err
	}
	return s.add(ctx, upsertSQLite, string(list))
}
