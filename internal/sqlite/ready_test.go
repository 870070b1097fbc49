package sqlite_test

import (
	"path/filepath"
	"strings"
	"testing"

	"helloapi/internal/sqlite"
)

// A file that takes no writes is not ready, as long as requests get 503.
func TestReady(t *testing.T) {
	t.Parallel()
	db, err := sqlite.Serve(t.Context(), filepath.Join(t.TempDir(), "helloapi.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	long := strings.Repeat("a", 200)
	for _, test := range []struct{ name, begin, end, want string }{
		{"read-only", `PRAGMA query_only = 1`, `PRAGMA query_only = 0`, "readonly"},
		{"full", `PRAGMA max_page_count = 1`, `PRAGMA max_page_count = 1000000`, "full"}, // no page more than there are
	} {
		if err := db.Ready(t.Context()); err != nil {
			t.Fatalf("before %s: %v", test.name, err)
		}
		db.Pragma(t, test.begin)
		for i := 0; ; i++ { // until no page has room
			if _, err := db.Greet(t.Context(), long+strings.Repeat("b", i)); err != nil {
				break
			}
			if i == 1000 {
				t.Fatalf("%s: greetings succeed", test.name)
			}
		}
		for range 3 {
			if err := db.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: ready: %v", test.name, err)
			}
		}
		db.Pragma(t, test.end)
		if err := db.Ready(t.Context()); err != nil {
			t.Errorf("after %s: %v", test.name, err)
		}
	}
}
