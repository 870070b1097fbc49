package backendtest

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"helloapi/internal/backend"
	"helloapi/internal/countfile"
)

func importCounts(t testing.TB, db countfile.Store, data string, how countfile.How) (countfile.Result, error) {
	t.Helper()
	return countfile.Import(t.Context(), db, func() (io.Reader, error) { return strings.NewReader(data), nil }, how)
}

// wantCounts fails the test if the counts are not those.
func wantCounts(t testing.TB, db backend.Database, want map[string]int64) {
	t.Helper()
	counts, err := db.Greetings.Top(t.Context(), 1_000_000)
	if err != nil {
		t.Fatal(err)
	}
	if len(counts) != len(want) {
		t.Errorf("%d names, want %d", len(counts), len(want))
	}
	for _, c := range counts {
		if want[c.Name] != c.Count {
			t.Errorf("%q was greeted %d times, want %d", c.Name, c.Count, want[c.Name])
		}
	}
}

func testImport(t *testing.T, url string) {
	db := open(t, url)
	var b strings.Builder
	want := map[string]int64{}
	for i := range 1000 {
		name := fmt.Sprint("name", (i*7)%300)
		fmt.Fprintf(&b, "{\"Item\":{\"name\":{\"S\":%q},\"greeting_count\":{\"N\":\"%d\"}}}\n", name, i)
		want[name] += int64(i)
	}
	data := b.String()
	for range 5 {
		if _, err := db.Greetings.Greet(t.Context(), "name7"); err != nil {
			t.Fatal(err)
		}
	}
	want["name7"] += 5

	// It is interrupted by a row that the database refuses, and goes on when
	// that can be written.
	refuse(t, url)
	how := countfile.How{Batch: 64}
	if r, err := importCounts(t, db, data, how); err == nil || r.Taken >= 1000 || r.NextLine == 0 {
		t.Fatalf("with a row that is refused: %+v, %v", r, err)
	}
	first, err := importCounts(t, db, data, how)
	if err == nil || first.Taken != 0 || first.Before == 0 {
		t.Fatalf("with a row that is still refused: %+v, %v", first, err)
	}
	accept(t, url)
	r, err := importCounts(t, open(t, url), data, countfile.How{Batch: 100})
	if err != nil || r.Before != first.Before || r.Taken+r.Before != 1000 {
		t.Fatalf("after that: %+v, %v", r, err)
	}
	wantCounts(t, db, want)
	if r, err := importCounts(t, db, data, how); err != nil || r.Taken != 0 || r.DoneAt.IsZero() {
		t.Errorf("again: %+v, %v", r, err)
	}
	wantCounts(t, db, want)
	// A number goes on where the import left it.
	if n, err := db.Greetings.Greet(t.Context(), "name14"); err != nil || n != want["name14"]+1 {
		t.Errorf("the next greeting is #%d, %v; want %d", n, err, want["name14"]+1)
	}
	want["name14"]++

	// A bad line in the middle.
	lines := strings.SplitAfter(strings.ReplaceAll(data, `"S":"name`, `"S":"other`), "\n")
	broken := strings.Join(lines[:500], "") + "{}\n" + strings.Join(lines[501:], "")
	var bad *countfile.LineError
	if r, err := importCounts(t, db, broken, how); !errors.As(err, &bad) || bad.Line != 501 || r.Taken != 500 {
		t.Fatalf("with a bad line: %+v, %v", r, err)
	}
	if r, err := importCounts(t, db, strings.Join(lines, ""), how); err != nil || r.Before != 500 || r.Taken != 500 {
		t.Fatalf("with that line corrected: %+v, %v", r, err)
	}
	for i := range 300 {
		want[fmt.Sprint("other", i)] = want[fmt.Sprint("name", i)]
	}
	want["other7"] -= 5
	want["other14"]--
	wantCounts(t, db, want)

	// Replacing, over and over.
	for range 2 {
		if _, err := importCounts(t, db, "name,count\nname1,5\nname2,7\nname1,6\nnew,1\n", countfile.How{Replace: true, Batch: 2}); err != nil {
			t.Fatal(err)
		}
		want["name1"], want["name2"], want["new"] = 5+6, 7, 1 // in one batch or two
		wantCounts(t, db, want)
	}
}

// testImportAgain imports files that have rows in common: what is new is added
// once, or the file is refused, also after the database was closed.
func testImportAgain(t *testing.T, url string) {
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, "name%d,1\n", i)
	}
	lines := strings.SplitAfter(b.String(), "\n")
	file := func(from, to int) string { return "name,count\n" + strings.Join(lines[from:to], "") }
	add := func(data string, batch int) (countfile.Result, error) {
		return importCounts(t, open(t, url), data, countfile.How{Batch: batch})
	}
	for i, size := range []int{1, 70, 500, 1000} {
		before := []int64{0, 1, 70, 500}[i]
		if r, err := add(file(0, size), 64); err != nil || r.Before != before || r.Taken != int64(size)-before {
			t.Errorf("%d rows: %+v, %v", size, r, err)
		}
	}
	for _, size := range []int{1, 64, 70, 500, 1000} { // as they were once
		if r, err := add(file(0, size), 100); err != nil || r.Taken != 0 || r.DoneAt.IsZero() {
			t.Errorf("%d rows again: %+v, %v", size, r, err)
		}
	}
	var overlap *countfile.OverlapError
	for name, data := range map[string]string{
		"cut off":        file(0, 600),
		"changed inside": strings.ReplaceAll(file(0, 1000), "name700,1", "name700,2"),
		"begins alike":   file(0, 1) + "other,1\n",
	} {
		if r, err := add(data, 100); !errors.As(err, &overlap) || r.Taken != 0 || overlap.Other.At.IsZero() {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	want := map[string]int64{}
	for i := range 1000 {
		want[fmt.Sprint("name", i)] = 1
	}
	wantCounts(t, open(t, url), want)
}

// refuse has the database refuse the count of one name.
func refuse(t testing.TB, url string) {
	if isSQLite(url) {
		Exec(t, url, `CREATE TRIGGER refuse BEFORE INSERT ON greetings WHEN NEW.name = 'name299' BEGIN SELECT RAISE(ABORT, 'refused'); END`)
		return
	}
	Exec(t, url, `ALTER TABLE greetings ADD CONSTRAINT refuse CHECK (name <> 'name299')`)
}

func accept(t testing.TB, url string) {
	if isSQLite(url) {
		Exec(t, url, `DROP TRIGGER refuse`)
		return
	}
	Exec(t, url, `ALTER TABLE greetings DROP CONSTRAINT refuse`)
}

// testImportTogether imports several files at a time, one of them twice, while
// the same names are greeted.
func testImportTogether(t *testing.T, url string) {
	const names, rounds = 50, 20
	file := func(i int) string {
		var b strings.Builder
		fmt.Fprintf(&b, "name,count\nfile%d,1\n", i)
		for k := range names * rounds {
			fmt.Fprintf(&b, "name%d,1\n", (k*(7+i))%names)
		}
		return b.String()
	}
	var wg sync.WaitGroup
	var conflicts int
	var mu sync.Mutex
	dbs := []backend.Database{open(t, url), open(t, url), open(t, url)}
	for i, db := range dbs {
		for range 2 {
			wg.Go(func() {
				_, err := importCounts(t, db, file(i/2*2), countfile.How{Batch: 33}) // 0, 0 and 2, each twice
				if errors.Is(err, countfile.ErrConflict) {
					mu.Lock()
					conflicts++
					mu.Unlock()
				} else if err != nil {
					t.Errorf("import: %v", err)
				}
			})
		}
		for k := range names {
			wg.Go(func() {
				if _, err := db.Greetings.Greet(t.Context(), fmt.Sprint("name", k)); err != nil {
					t.Errorf("greet: %v", err)
				}
			})
		}
	}
	wg.Wait()
	// Whoever lost may go on, if nobody else does it.
	for _, i := range []int{0, 2} {
		if _, err := importCounts(t, dbs[0], file(i), countfile.How{}); err != nil {
			t.Errorf("go on: %v", err)
		}
	}
	want := map[string]int64{"file0": 1, "file2": 1}
	for k := range names {
		want[fmt.Sprint("name", k)] = 2*rounds + 3
	}
	wantCounts(t, dbs[0], want)
	t.Logf("%d imports met another of the same file", conflicts)
}
