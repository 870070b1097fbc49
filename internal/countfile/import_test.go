package countfile_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"helloapi/internal/countfile"
)

// A memory is a store that can fail, before it has done its work or after.
type memory struct {
	counts  map[string]int64
	runs    map[string]int64 // that replaced a count last
	imports []countfile.Progress
	writes  int
	fail    func() (before, after error)
}

func newMemory() *memory { return &memory{counts: map[string]int64{}, runs: map[string]int64{}} }

func (m *memory) do(f func() error) error {
	m.writes++
	var before, after error
	if m.fail != nil {
		before, after = m.fail()
	}
	if before != nil {
		return before
	}
	return errors.Join(f(), after)
}

func (m *memory) AddCounts(_ context.Context, names []string, counts []int64, prev *countfile.Progress, next countfile.Progress, seenIDs []string) error {
	next.At = time.Unix(1, 0)
	return m.do(func() error {
		if prev != nil {
			i := slices.IndexFunc(m.imports, func(p countfile.Progress) bool { return p.ID == prev.ID && p.Digest == prev.Digest })
			if i < 0 {
				return countfile.ErrConflict
			}
			next.Prefixes = append(m.imports[i].Prefixes, next.Prefixes...)
			m.imports[i] = next
			m.add(names, counts)
			return nil
		}
		for _, p := range m.imports {
			if p.First == next.First && !slices.Contains(seenIDs, p.ID) {
				return countfile.ErrConflict
			}
		}
		m.imports = append(m.imports, next)
		m.add(names, counts)
		return nil
	})
}

func (m *memory) add(names []string, counts []int64) {
	for i, name := range names {
		m.counts[name] += counts[i]
	}
}

func (m *memory) ReplaceCounts(_ context.Context, names []string, counts []int64, run int64) error {
	return m.do(func() error {
		for i, name := range names {
			if m.runs[name] != run {
				m.counts[name] = 0
			}
			m.counts[name] += counts[i]
			m.runs[name] = run
		}
		return nil
	})
}

func (m *memory) Imports(_ context.Context, first countfile.Digest) (found []countfile.Progress, _ error) {
	for _, p := range m.imports {
		if p.First == first {
			found = append(found, p)
		}
	}
	return found, nil
}

// file is a file that can be opened again and again.
func file(data string) func() (io.Reader, error) {
	return func() (io.Reader, error) { return strings.NewReader(data), nil }
}

// lines returns rows as JSON lines, with name i%names counted i+1 times.
func lines(n, names int) (data []string, sums map[string]int64) {
	sums = map[string]int64{}
	for i := range n {
		name := fmt.Sprint("name", i%names)
		data = append(data, fmt.Sprintf(`{"name":"%s","count":%d}`+"\n", name, i+1))
		sums[name] += int64(i + 1)
	}
	return data, sums
}

func TestImportAdds(t *testing.T) {
	t.Parallel()
	data, want := lines(100, 30)
	m := newMemory()
	m.counts["name3"] = 1000
	want["name3"] += 1000
	how := countfile.How{Batch: 7}
	r, err := countfile.Import(t.Context(), m, file(strings.Join(data, "")), how)
	if err != nil || r.Taken != 100 || r.Before != 0 || r.NextLine != 0 || !r.DoneAt.IsZero() {
		t.Errorf("import: %+v, %v", r, err)
	}
	if diff := cmp.Diff(want, m.counts); diff != "" {
		t.Errorf("counts (-want +got)\n%s", diff)
	}
	// Not again, whatever it is called and however it is written.
	writes := m.writes
	for _, again := range []string{strings.Join(data, ""), zipped(t, strings.Join(data, "\n")), "\xef\xbb\xbf" + strings.Join(data, "")} {
		if r, err := countfile.Import(t.Context(), m, file(again), how); err != nil || r.Taken != 0 || m.writes != writes {
			t.Errorf("again: %+v, %v", r, err)
		}
	}
	// But if that is asked for.
	how.FromLine = 100
	if r, err := countfile.Import(t.Context(), m, file(strings.Join(data, "")), how); err != nil || r.Taken != 1 || m.counts["name9"] != want["name9"]+100 {
		t.Errorf("from the last line: %+v, %v", r, err)
	}
}

// A file that was imported, and comes again in another shape: what is new of it
// is added, once, or it is refused.
func TestImportAgain(t *testing.T) {
	t.Parallel()
	data, _ := lines(200, 30)
	same := strings.Repeat(`{"name":"a","count":1}`+"\n", 100) // a line for each greeting
	edited := slices.Clone(data)
	edited[70] = `{"name":"name10","count":1}` + "\n"
	join := func(lines []string) string { return strings.Join(lines, "") }
	tests := []struct {
		name        string
		first       []string // imported before
		then        string
		taken       int64 // -1: refused
		before      int64
		total       int64 // of all counts
		refusedFrom int64
		refusedTo   int64
	}{
		{name: "grown", first: []string{join(data[:100])}, then: join(data), taken: 100, before: 100, total: 201 * 100},
		{name: "grown and compressed", first: []string{join(data[:100])}, then: zipped(t, join(data)), taken: 100, before: 100, total: 201 * 100},
		{name: "grown twice", first: []string{join(data[:1]), join(data[:33])}, then: join(data), taken: 167, before: 33, total: 201 * 100},
		{name: "grown by equal lines", first: []string{same}, then: same + same, taken: 100, before: 100, total: 200},
		{name: "an earlier state of it", first: []string{join(data[:100]), join(data)}, then: join(data[:100]), taken: 0, total: 201 * 100},
		{name: "an earlier state, and other lines", first: []string{join(data)}, then: join(edited), taken: -1, total: 201 * 100, refusedFrom: 1, refusedTo: 70},
		{name: "cut off", first: []string{join(data)}, then: join(data[:50]), taken: -1, total: 201 * 100, refusedFrom: 1, refusedTo: 49},
		{name: "begins alike", first: []string{join(data)}, then: data[0] + data[7], taken: -1, total: 201 * 100, refusedFrom: 1, refusedTo: 1},
		{name: "two files as one", first: []string{join(data[:50]), join(data[50:100])}, then: join(data[:100]), taken: -1, total: 101 * 50, refusedFrom: 51, refusedTo: 100},
		{name: "two files as one, and more", first: []string{join(data[:50]), join(data[50:100])}, then: join(data), taken: -1, total: 101 * 50, refusedFrom: 51, refusedTo: 100},
		{name: "another file", first: []string{join(data[:100])}, then: join(data[100:]), taken: 100, total: 201 * 100},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newMemory()
			for _, f := range tt.first {
				if _, err := countfile.Import(t.Context(), m, file(f), countfile.How{Batch: 7}); err != nil {
					t.Fatal(err)
				}
			}
			r, err := countfile.Import(t.Context(), m, file(tt.then), countfile.How{Batch: 7})
			var overlap *countfile.OverlapError
			switch {
			case tt.taken < 0:
				if !errors.As(err, &overlap) || r.Taken != 0 || overlap.From != tt.refusedFrom || overlap.To != tt.refusedTo {
					t.Errorf("%+v, %v", r, err)
				}
			case err != nil || r.Taken != tt.taken || r.Before != tt.before || r.DoneAt.IsZero() != (tt.taken > 0):
				t.Errorf("%+v, %v", r, err)
			}
			total := int64(0)
			for _, n := range m.counts {
				total += n
			}
			if total != tt.total {
				t.Errorf("%d greetings, want %d", total, tt.total)
			}
		})
	}
}

func TestImportReplaces(t *testing.T) {
	t.Parallel()
	data, _ := lines(100, 30)
	m := newMemory()
	m.counts["name3"], m.counts["other"] = 1000, 7
	want := map[string]int64{"other": 7}
	for i := range 100 {
		want[fmt.Sprint("name", i%30)] += int64(i + 1)
	}
	for _, batch := range []int{1, 7, 1000} { // over and over
		how := countfile.How{Batch: batch, Replace: true}
		if r, err := countfile.Import(t.Context(), m, file(strings.Join(data, "")), how); err != nil || r.Taken != 100 {
			t.Errorf("import: %+v, %v", r, err)
		}
		if diff := cmp.Diff(want, m.counts); diff != "" || len(m.imports) != 0 {
			t.Errorf("batches of %d: %d imports, counts (-want +got)\n%s", batch, len(m.imports), diff)
		}
	}
	// Over several files, and in either form of Unicode.
	how := countfile.How{Replace: true, Run: countfile.NewRun()}
	for _, f := range []string{"name,count\nZo\u00eb,5\n", "name,count\nZoe\u0308,7\nname3,1\n"} {
		if _, err := countfile.Import(t.Context(), m, file(f), how); err != nil {
			t.Error(err)
		}
	}
	if m.counts["Zo\u00eb"] != 12 || m.counts["name3"] != 1 {
		t.Errorf("in several files: %v", m.counts)
	}
}

// A dry run finds what an import would take, and what can't be used, and writes
// nothing.
func TestImportDryRun(t *testing.T) {
	t.Parallel()
	data, _ := lines(100, 30)
	for _, replace := range []bool{false, true} {
		m := newMemory()
		how := countfile.How{Batch: 7, Replace: replace}
		if _, err := countfile.Import(t.Context(), m, file(strings.Join(data[:40], "")), how); err != nil {
			t.Fatal(err)
		}
		how.DryRun = true
		want := countfile.Result{Taken: 60, Before: 40}
		if replace {
			want = countfile.Result{Taken: 100}
		}
		writes := m.writes
		for range 2 {
			if r, err := countfile.Import(t.Context(), m, file(strings.Join(data, "")), how); err != nil || r != want {
				t.Errorf("replacing %v: %+v, %v; want %+v", replace, r, err, want)
			}
		}
		var line *countfile.LineError
		r, err := countfile.Import(t.Context(), m, file(strings.Join(data[:90], "")+"{\n"), how)
		if !errors.As(err, &line) || r.NextLine != 91 {
			t.Errorf("replacing %v, a line that can't be used: %+v, %v", replace, r, err)
		}
		if m.writes != writes {
			t.Errorf("replacing %v: %d writes", replace, m.writes-writes)
		}
	}
}

func TestImportBadLine(t *testing.T) {
	t.Parallel()
	data, want := lines(100, 30)
	for bad := range 100 {
		broken := slices.Clone(data)
		broken[bad] = "{\"name\":\n"
		m := newMemory()
		r, err := countfile.Import(t.Context(), m, file(strings.Join(broken, "")), countfile.How{Batch: 7})
		var line *countfile.LineError
		if !errors.As(err, &line) || line.Line != int64(bad+1) || r.NextLine != line.Line || r.Taken != int64(bad) {
			t.Fatalf("line %d: %+v, %v", bad+1, r, err)
		}
		// Unchanged, it stops there again, and counts nothing twice.
		if r, err := countfile.Import(t.Context(), m, file(strings.Join(broken, "")), countfile.How{Batch: 7}); !errors.As(err, &line) || r.Taken != 0 || r.Before != int64(bad) {
			t.Fatalf("line %d again: %+v, %v", bad+1, r, err)
		}
		// Corrected, it goes on from there.
		if r, err = countfile.Import(t.Context(), m, file(strings.Join(data, "")), countfile.How{Batch: 7}); err != nil || r.Before != int64(bad) || r.Taken != int64(100-bad) {
			t.Fatalf("line %d corrected: %+v, %v", bad+1, r, err)
		}
		if diff := cmp.Diff(want, m.counts); diff != "" {
			t.Fatalf("line %d: counts (-want +got)\n%s", bad+1, diff)
		}
	}
	// What was taken already can't be corrected so.
	broken := slices.Clone(data)
	broken[50] = "x\n"
	m := newMemory()
	if _, err := countfile.Import(t.Context(), m, file(strings.Join(broken, "")), countfile.How{Batch: 7}); err == nil {
		t.Fatal("no error")
	}
	edited := slices.Clone(data)
	edited[20] = `{"name":"name20","count":0}` + "\n"
	var e *countfile.OverlapError
	if _, err := countfile.Import(t.Context(), m, file(strings.Join(edited, "")), countfile.How{}); !errors.As(err, &e) || e.To != 16 || e.Other.Taken != 50 {
		t.Errorf("changed in what was taken: %v", err)
	}
	if r, err := countfile.Import(t.Context(), m, file(strings.Join(edited, "")), countfile.How{FromLine: 51}); err != nil || r.Taken != 50 {
		t.Errorf("from line 51: %+v, %v", r, err)
	}
	if diff := cmp.Diff(want, m.counts); diff != "" {
		t.Errorf("counts (-want +got)\n%s", diff)
	}
}

// An import is interrupted at random, before a batch is written or after, and
// done again until it is through.
func TestImportInterrupted(t *testing.T) {
	t.Parallel()
	data, want := lines(200, 30)
	rnd := rand.New(rand.NewPCG(3, 4))
	interrupted := 0
	for range 40 {
		m := newMemory()
		m.fail = func() (before, after error) {
			switch rnd.IntN(12) {
			case 0:
				return errors.New("before"), nil
			case 1:
				return nil, errors.New("after")
			}
			return nil, nil
		}
		for try := 0; ; try++ {
			_, err := countfile.Import(t.Context(), m, file(strings.Join(data, "")), countfile.How{Batch: 1 + rnd.IntN(20)})
			if err == nil {
				break
			}
			if errors.Is(err, countfile.ErrConflict) || try > 1000 {
				t.Fatal(err)
			}
			interrupted++
		}
		if diff := cmp.Diff(want, m.counts); diff != "" {
			t.Fatalf("counts (-want +got)\n%s", diff)
		}
	}
	if interrupted < 50 {
		t.Errorf("interrupted %d times: the test shows nothing", interrupted)
	}
}

func TestImportTwiceAtATime(t *testing.T) {
	t.Parallel()
	data, want := lines(100, 30)
	// Before the first writes a batch, a second import does all of it.
	for _, batch := range []int{1, 2, 14} {
		m := newMemory()
		begun := false
		m.fail = func() (_, _ error) {
			if m.writes == batch && !begun {
				begun = true
				if _, err := countfile.Import(t.Context(), m, file(strings.Join(data, "")), countfile.How{Batch: 7}); err != nil {
					t.Errorf("the second: %v", err)
				}
			}
			return nil, nil
		}
		_, err := countfile.Import(t.Context(), m, file(strings.Join(data, "")), countfile.How{Batch: 7})
		if !errors.Is(err, countfile.ErrConflict) {
			t.Errorf("batch %d: %v", batch, err)
		}
		if diff := cmp.Diff(want, m.counts); diff != "" {
			t.Errorf("batch %d: counts (-want +got)\n%s", batch, diff)
		}
	}
}

func TestImportOnce(t *testing.T) {
	t.Parallel()
	data, want := lines(20, 30)
	once := func() func() (io.Reader, error) {
		opened := false
		return func() (io.Reader, error) {
			if opened {
				return nil, countfile.ErrOnce
			}
			opened = true
			return strings.NewReader(strings.Join(data, "")), nil
		}
	}
	m := newMemory()
	if r, err := countfile.Import(t.Context(), m, once(), countfile.How{Batch: 7}); err != nil || r.Taken != 20 {
		t.Errorf("import: %+v, %v", r, err)
	}
	if _, err := countfile.Import(t.Context(), m, once(), countfile.How{Batch: 7}); !errors.Is(err, countfile.ErrOnce) {
		t.Errorf("again: %v", err)
	}
	if diff := cmp.Diff(want, m.counts); diff != "" {
		t.Errorf("counts (-want +got)\n%s", diff)
	}
}

func TestImportTooMuch(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("name,count\n")
	for range 9300 {
		fmt.Fprintf(&b, "a,%d\n", int64(countfile.MaxCount))
	}
	m := newMemory()
	if _, err := countfile.Import(t.Context(), m, file(b.String()), countfile.How{}); err == nil || !strings.Contains(err.Error(), "add up to more") || len(m.counts) != 0 {
		t.Errorf("counts that add up to too much: %v, %v", err, m.counts)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m.imports = []countfile.Progress{{}}
	if _, err := countfile.Import(ctx, m, file(""), countfile.How{}); err != nil {
		t.Errorf("an empty file: %v", err)
	}
}
