package postgres_test

import (
	"strings"
	"testing"

	"helloapi/internal/backendtest"
	"helloapi/internal/postgres"
)

// A migration that makes a table does not forget the role that serves.
func TestRightsOnEveryTable(t *testing.T) {
	t.Parallel()
	rows, err := backendtest.SQL(t, backendtest.Postgres(t)).Query(`
		SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		var table string
		if err := rows.Scan(&table); err != nil {
			t.Fatal(err)
		}
		if _, said := postgres.Rights[table]; said {
			n++
		} else {
			t.Errorf("table %s: say in rights.go what `helloapi serve` does with it", table)
		}
	}
	if err := rows.Err(); err != nil || n != len(postgres.Rights) {
		t.Errorf("%d of the %d tables in rights.go are there (%v)", n, len(postgres.Rights), err)
	}
}

// A process that could not serve an endpoint's table does not start.
func TestMissingRights(t *testing.T) {
	t.Parallel()
	err := postgres.MissingRights(map[string]bool{"greetings": true, "notes": true})
	if err == nil || !strings.Contains(err.Error(), "the table notes, but internal/postgres/rights.go does not have it") {
		t.Errorf("a table without rights: %v", err)
	}
}
