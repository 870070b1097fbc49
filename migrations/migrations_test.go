package migrations

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func files(texts map[string]string) fstest.MapFS {
	fs := fstest.MapFS{"postgres/00001_a.sql": {}, "sqlite/00001_a.sql": {}}
	for name, text := range texts {
		fs[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fs
}

func TestCheck(t *testing.T) {
	t.Parallel()
	if err := Check(); err != nil {
		t.Error(err)
	}
	all := files(map[string]string{"sqlite/00002_notes.sql": ""})
	if err := check(all, all); err == nil || !strings.Contains(err.Error(), "only migrations/sqlite has 00002_notes.sql") {
		t.Errorf("a migration for SQLite only: %v", err)
	}
}

func TestTables(t *testing.T) {
	t.Parallel()
	got, err := tables(files(map[string]string{
		"postgres/00002_b.sql": "CREATE TABLE a (id int);\nCREATE UNLOGGED TABLE b ();\ncreate table if not exists c ();\n-- DROP TABLE c;\nCREATE INDEX d ON a (id);",
		"postgres/00003_c.sql": "DROP TABLE b;\nALTER TABLE a ADD COLUMN e int;",
	}))
	if err != nil {
		t.Fatal(err)
	}
	if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, []string{"a", "c"}) {
		t.Errorf("tables %v, want a and c", names)
	}
}
