// Package changes is the record of who changed which key, plan or grant. The
// databases write it by triggers, in the transaction of the change; here it is
// said who makes one, and the record is read.
package changes

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"helloapi/internal/database"
)

type actorKey struct{}

// WithActor returns a context whose changes are recorded as made by actor. In
// other contexts it is the role of the database session, or "sql".
func WithActor(ctx context.Context, actor string) context.Context {
	return context.WithValue(ctx, actorKey{}, actor)
}

// Actor returns who makes the changes of ctx, or "".
func Actor(ctx context.Context) string {
	actor, _ := ctx.Value(actorKey{}).(string)
	return actor
}

// A Change is one of a row. Before and After are JSON objects of its columns, of
// which neither has a value of a key: null before it was created and after it
// was deleted.
type Change struct {
	ID            int64
	At            time.Time
	Actor         string
	Action        string // "update key": create, update, delete or truncate a key, key value, plan or grant
	Subject       string // the name of the key or plan, before the change
	KeyID         string // "" if it is of no key
	Before, After json.RawMessage
}

// A Query asks for the newest changes.
type Query struct {
	Key   string // of this key only, by its name or id; it may be deleted
	Plan  string // of this plan only
	Since time.Time
	Most  int // how many, at most
}

// List returns changes, the newest first.
func List(ctx context.Context, db *database.DB, q Query) ([]Change, error) {
	type row struct {
		Change
		at            int64
		before, after []byte
	}
	rows, err := database.List(ctx, db, func(r *row) []any {
		return []any{&r.ID, &r.at, &r.Actor, &r.Action, &r.Subject, &r.KeyID, &r.before, &r.after}
	}, `
		SELECT id, at, actor, action, subject, key_id, CAST(before AS text), CAST(after AS text) FROM changes
		WHERE at >= $1
			AND ($2 = '' OR key_id <> '' AND (subject = $2 OR key_id = $2 OR key_id IN (SELECT id FROM api_keys WHERE name = $2)))
			AND ($3 = '' OR key_id = '' AND subject = $3)
		ORDER BY id DESC LIMIT $4`, q.Since.UnixMilli(), q.Key, q.Plan, q.Most)
	if err != nil {
		return nil, fmt.Errorf("list changes: %w", err)
	}
	list := make([]Change, len(rows))
	for i, r := range rows {
		list[i] = r.Change
		list[i].At = time.UnixMilli(r.at)
		list[i].Before, list[i].After = r.before, r.after
	}
	return list, nil
}
