package hello_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"helloapi/internal/backend"
	"helloapi/internal/backendtest"
	"helloapi/internal/hello"
)

// onEach runs a test on a fresh database of each kind.
func onEach(t *testing.T, test func(t *testing.T, url string)) {
	t.Parallel()
	for _, on := range backendtest.Databases(t) {
		t.Run(on.Name, func(t *testing.T) { test(t, on.URL) })
	}
}

func open(t testing.TB, url string) backend.Database {
	t.Helper()
	db, err := backend.OpenDatabase(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return db
}

func TestGreet(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		db := open(t, url)
		names := []string{"brooks", "Brooks", "é", "", " ", "a\tb", "'; DROP TABLE greetings; --", "ß", "ss", strings.Repeat("𝄞", 256)}
		for round := int64(1); round <= 3; round++ {
			for _, name := range names {
				if n, err := db.Greetings.Greet(t.Context(), name); err != nil || n != round {
					t.Errorf("Greet(%q) = %d, %v; want %d", name, n, err, round)
				}
			}
		}
		// A count outlives those who counted it.
		if n, err := open(t, url).Greetings.Greet(t.Context(), "brooks"); err != nil || n != 4 {
			t.Errorf("Greet after opening again = %d, %v; want 4", n, err)
		}
	})
}

func TestGreetConcurrently(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		// Three that share nothing but the database, each with 20 names in another order.
		const names, rounds = 20, 30
		var mu sync.Mutex
		got := map[string][]int64{}
		var wg sync.WaitGroup
		for r := range 3 {
			db := open(t, url)
			for i := range names * rounds {
				name := fmt.Sprint("name", (i*7+r*3)%names)
				wg.Go(func() {
					n, err := db.Greetings.Greet(t.Context(), name)
					if err != nil {
						t.Errorf("Greet: %v", err)
					}
					mu.Lock()
					defer mu.Unlock()
					got[name] = append(got[name], n)
				})
			}
		}
		wg.Wait()
		for name, numbers := range got {
			slices.Sort(numbers)
			if len(numbers) != 3*rounds || slices.ContainsFunc(numbers, func(n int64) bool { return n < 1 || n > 3*rounds }) || len(slices.Compact(numbers)) != 3*rounds {
				t.Errorf("%s got the numbers %v, want each of 1 to %d", name, numbers, 3*rounds)
			}
		}
	})
}

func TestGreetBadRow(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		db := open(t, url)
		// One more would not fit: the database refuses the row, and only that.
		backendtest.Exec(t, url, `INSERT INTO greetings (name, count) VALUES ('full', $1)`, int64(math.MaxInt64))
		unlock := backendtest.LockGreetings(t, url)
		var wg sync.WaitGroup
		for i := range 20 {
			name := fmt.Sprint("name", i)
			if i == 10 {
				name = "full"
			}
			wg.Go(func() {
				n, err := db.Greetings.Greet(t.Context(), name)
				if name == "full" && err == nil {
					t.Errorf("Greet(full) = %d, want an error", n)
				}
				if name != "full" && (n != 1 || err != nil) {
					t.Errorf("Greet(%s) = %d, %v; want 1", name, n, err)
				}
			})
		}
		for db.Greetings.Stats().Waiting < 20 {
			time.Sleep(time.Millisecond)
		}
		unlock()
		wg.Wait()
	})
}

func TestTopAndDelete(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		db := open(t, url)
		if got, err := db.Greetings.Top(t.Context(), 10); err != nil || len(got) != 0 {
			t.Errorf("Top of none = %v, %v", got, err)
		}
		for name, n := range map[string]int{"a": 2, "b": 3, "c": 2, "d": 1} {
			for range n {
				if _, err := db.Greetings.Greet(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
		}
		got, err := db.Greetings.Top(t.Context(), 3)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]hello.Count{{Name: "b", Count: 3}, {Name: "a", Count: 2}, {Name: "c", Count: 2}}, got); diff != "" {
			t.Errorf("Top (-want +got):\n%s", diff)
		}
		if err := db.Greetings.Delete(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		if err := db.Greetings.Delete(t.Context(), "b"); !errors.Is(err, hello.ErrNotGreeted) {
			t.Errorf("Delete again: %v, want ErrNotGreeted", err)
		}
		if n, err := db.Greetings.Greet(t.Context(), "b"); err != nil || n != 1 {
			t.Errorf("Greet after it was deleted = %d, %v; want 1", n, err)
		}
	})
}

// A row that somebody holds stops nobody who greets another name, whether it
// is there or comes with the other's transaction.
func TestHeldRow(t *testing.T) {
	t.Parallel()
	for name, stmt := range map[string]string{
		"update": `UPDATE greetings SET count = count + 0 WHERE name LIKE 'held%'`,
		"insert": `INSERT INTO greetings SELECT 'held' || i, 100 FROM generate_series(50, 99) i`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := backendtest.Postgres(t)
			backendtest.Exec(t, url, `INSERT INTO greetings SELECT name || i, 0 FROM unnest(ARRAY['held', 'free']) name, generate_series(0, 49) i`)
			db, other := open(t, url), open(t, url) // another replica never gets the name
			tx, err := backendtest.SQL(t, url).Begin()
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback()
			if _, err := tx.Exec(stmt); err != nil {
				t.Fatal(err)
			}
			first := map[string]int{"update": 0, "insert": 50}[name]
			ctx, stop := context.WithTimeout(t.Context(), 3*time.Second)
			defer stop()
			var wg sync.WaitGroup
			var held, free sync.Map
			for i := range 10 { // who greet held names, again and again
				wg.Go(func() {
					for ctx.Err() == nil {
						began := time.Now()
						_, err := db.Greetings.Greet(t.Context(), fmt.Sprint("held", first+i%5))
						held.Store(fmt.Sprint(err), true)
						if d := time.Since(began); err == nil || d > 5*time.Second {
							t.Errorf("a held name: %v after %v", err, d)
						}
					}
				})
			}
			for i := range 40 {
				db := db
				if i%4 == 0 {
					db = other
				}
				wg.Go(func() {
					for n := 0; ctx.Err() == nil; n++ {
						began := time.Now()
						name := fmt.Sprint("free", i)
						if n%2 == 1 {
							name = fmt.Sprint("new", i, "-", n) // has no row
						}
						if _, err := db.Greetings.Greet(t.Context(), name); err != nil {
							t.Errorf("another name: %v", err)
						}
						d := time.Since(began)
						if d > time.Second {
							t.Errorf("another name waited %v", d)
						}
						free.Store(fmt.Sprint(i, n), d)
					}
				})
			}
			wg.Wait()
			var longest time.Duration
			n := 0
			for _, d := range free.Range {
				longest, n = max(longest, d.(time.Duration)), n+1
			}
			t.Logf("%d greetings of other names, the slowest took %v", n, longest)
			held.Range(func(err, _ any) bool {
				t.Log("a held name:", err)
				return true
			})
			// It is nobody's fault but the holder's.
			if err := db.Ready(t.Context()); err != nil {
				t.Errorf("not ready: %v", err)
			}
			if err := tx.Rollback(); err != nil {
				t.Fatal(err)
			}
			if n, err := db.Greetings.Greet(t.Context(), fmt.Sprint("held", first)); n != 1 || err != nil {
				t.Errorf("when it is free: %d, %v; want 1", n, err)
			}
		})
	}
}

// A file that takes no writes is not ready, as long as requests get 503.
func TestReady(t *testing.T) {
	t.Parallel()
	url := backendtest.SQLite(t)
	backendtest.Migrate(t, url)
	db := open(t, url)
	pragma := func(stmt string) {
		t.Helper()
		if _, err := db.Conn().Exec(t.Context(), stmt); err != nil {
			t.Fatal(err)
		}
	}
	long := strings.Repeat("a", 200)
	for _, test := range []struct{ name, begin, end, want string }{
		{"read-only", `PRAGMA query_only = 1`, `PRAGMA query_only = 0`, "readonly"},
		{"full", `PRAGMA max_page_count = 1`, `PRAGMA max_page_count = 1000000`, "full"}, // no page more than there are
	} {
		if err := db.Ready(t.Context()); err != nil {
			t.Fatalf("before %s: %v", test.name, err)
		}
		pragma(test.begin)
		for i := 0; ; i++ { // until no page has room
			if _, err := db.Greetings.Greet(t.Context(), long+strings.Repeat("b", i)); err != nil {
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
		pragma(test.end)
		if err := db.Ready(t.Context()); err != nil {
			t.Errorf("after %s: %v", test.name, err)
		}
	}
}
