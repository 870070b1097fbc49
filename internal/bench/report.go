package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A spread is a median and what lies around it.
type spread struct{ Median, Min, Max float64 }

func spreadOf(xs []float64) spread {
	if len(xs) == 0 {
		return spread{}
	}
	xs = slices.Sorted(slices.Values(xs))
	return spread{xs[len(xs)/2], xs[0], xs[len(xs)-1]}
}

// of returns the spread of what get takes from each round.
func (c *cell) of(get func(result) float64) spread {
	var xs []float64
	for _, r := range c.results {
		xs = append(xs, get(r))
	}
	return spreadOf(xs)
}

func rate(r result) float64      { return r.Rate }
func p50(r result) float64       { return r.P50 }
func p99(r result) float64       { return r.P99 }
func allocs(r result) float64    { return r.Allocs }
func trips(r result) float64     { return 1000 * r.Trips }
func sqls(r result) float64      { return 1000 * r.SQL }
func tripsSQL(r result) float64  { return 1000 * (r.Trips + r.SQL) }
func serverCPU(r result) float64 { return r.CPU["server"] }

// report prints the tables, and writes all of it and a plot to the folder out.
func (b *bench) report(w io.Writer) error {
	rows := [][]string{{"", "requests/s", "p50 ms", "p99 ms", "CPU µs: server", "Redis", "PostgreSQL", "load", "trips + SQL /1,000", "allocations", "other processes"}}
	for _, c := range b.cells {
		r := c.of(rate)
		row := []string{
			c.name, fmt.Sprintf("%s (%s to %s)", count(r.Median), count(r.Min), count(r.Max)),
			digits(c.of(p50).Median), digits(c.of(p99).Median),
		}
		for _, p := range []string{"server", "redis", "postgres", "load"} {
			row = append(row, blankZero(c.of(func(r result) float64 { return r.CPU[p] }).Median))
		}
		row = append(row, "", blankZero(c.of(allocs).Median), percent(c.of(func(r result) float64 { return r.Others }).Median))
		if t, s := c.of(trips).Median, c.of(sqls).Median; t+s > 0 {
			row[8] = digits(t) + " + " + digits(s)
		}
		rows = append(rows, row)
	}
	fmt.Fprintln(w)
	if err := table(w, rows); err != nil {
		return err
	}
	if len(b.start) > 0 {
		fmt.Fprintf(w, "\nstart to first answer, embedded, existing data: %v ms of %d starts\n", startSpread(b.start), len(b.start))
		fmt.Fprintf(w, "memory: %.0f MB at rest, %.0f MB after %s requests on 1,000 connections\n", b.memory[0], b.memory[1], count(float64(b.million)))
	}
	targets := b.targets()
	if len(targets) > 0 {
		rows := [][]string{{"", "median", "spread", "target", ""}}
		for _, t := range targets {
			rows = append(rows, t.row())
		}
		fmt.Fprintln(w)
		if err := table(w, rows); err != nil {
			return err
		}
	}

	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return err
	}
	type cellJSON struct {
		Name   string
		Rounds []result
	}
	all := struct {
		Machine []string
		At      time.Time
		Cells   []cellJSON
		Targets []goal
		StartMS []float64
		Memory  [2]float64
	}{Machine: b.machine, At: time.Now().UTC(), Targets: targets, Memory: b.memory}
	for _, c := range b.cells {
		all.Cells = append(all.Cells, cellJSON{c.name, c.results})
	}
	for _, d := range b.start {
		all.StartMS = append(all.StartMS, ms(d))
	}
	data, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.out, "result.json"), data, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.out, "plot.svg"), b.plot(), 0o644); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nAll rounds are in %s, the plot in %s.\n", filepath.Join(b.out, "result.json"), filepath.Join(b.out, "plot.svg"))
	return nil
}

func startSpread(starts []time.Duration) string {
	var xs []float64
	for _, d := range starts {
		xs = append(xs, ms(d))
	}
	s := spreadOf(xs)
	return fmt.Sprintf("%s (%s to %s)", digits(s.Median), digits(s.Min), digits(s.Max))
}

// A goal is a figure with the value that it is to have.
type goal struct {
	What   string
	Is     spread
	Target float64
	Most   bool // Target is the most that it may be, not the least
}

func (g goal) row() []string {
	sign, met := "≥", g.Is.Median >= g.Target
	if g.Most {
		sign, met = "≤", g.Is.Median <= g.Target
	}
	verdict := "missed"
	if met {
		verdict = "met"
	}
	return []string{g.What, digits(g.Is.Median), digits(g.Is.Min) + " to " + digits(g.Is.Max), sign + " " + digits(g.Target), verdict}
}

// cell returns the cell of a name, nil if it was not measured.
func (b *bench) cell(name string) *cell {
	for _, c := range b.cells {
		if c.name == name {
			return c
		}
	}
	return nil
}

// targets returns the goals that were measured. Ratios are of one round.
func (b *bench) targets() (goals []goal) {
	ratio := func(what, x, y string, get func(result) float64, target float64, most bool) {
		cx, cy := b.cell(x), b.cell(y)
		if cx == nil || cy == nil {
			return
		}
		var xs []float64
		for i := range cx.results {
			xs = append(xs, get(cx.results[i])/get(cy.results[i]))
		}
		goals = append(goals, goal{what, spreadOf(xs), target, most})
	}
	value := func(what, x string, get func(result) float64, target float64) {
		if c := b.cell(x); c != nil {
			goals = append(goals, goal{what, c.of(get), target, true})
		}
	}
	one := func(target string) string { return cellName(target, "one name", 256) }
	many := func(target string) string { return cellName(target, b.many(), 256) }

	ratio("one name, ours / naive", one(oneName), one(naiveName), rate, 15, false)
	ratio(b.many()+", ours / naive", many(oneName), many(naiveName), rate, 4, false)
	ratio(b.many()+", ours / bare", many(oneName), many(bareName), rate, 0.45, false)
	ratio("one name, ours / pgbench on one row", one(oneName), cellName("pgbench", "one row", 256), rate, 12, false)
	ratio("embedded, one name, ours / bare", one(embeddedName), one(bareName), rate, 0.5, false)
	ratio("one connection, p50, ours / naive", cellName(oneName, "one name", 1), cellName(naiveName, "one name", 1), p50, 1, true)
	ratio("CPU of the server for a greeting, ours / bare", one(oneName), one(bareName), serverCPU, 1.9, true)
	if ours, bare := b.cell(one(oneName)), b.cell(one(bareName)); ours != nil && bare != nil {
		var xs []float64
		for i := range ours.results {
			xs = append(xs, ours.results[i].Allocs-bare.results[i].Allocs)
		}
		goals = append(goals, goal{"allocations of the server for a greeting, over bare", spreadOf(xs), 25, true})
	}
	value("trips + SQL for 1,000 requests, one name", one(oneName), tripsSQL, 30)
	value("trips for 1,000 requests, spent key", cellName(oneName, "spent key", 256), trips, 1)
	value("trips for 1,000 requests, throttled key", cellName(oneName, "throttled key", 256), trips, 1)
	ratio("p99 of a good key, in a flood of unknown keys / alone", cellName(oneName, "good key in a flood", 16), cellName(oneName, "good key alone", 16), p99, 2, true)
	ratio(count(float64(b.keys))+" keys / 1 key", cellName(oneName, count(float64(b.keys))+" keys", 256), one(oneName), rate, 0.8, false)
	ratio("3 replicas / 1, one name", one(threeName), one(oneName), rate, 0.95, false)
	ratio("3 replicas / 1, "+b.many(), many(threeName), many(oneName), rate, 0.95, false)
	if len(b.start) > 0 {
		var xs []float64
		for _, d := range b.start {
			xs = append(xs, ms(d))
		}
		goals = append(goals,
			goal{"start to first answer, embedded, ms", spreadOf(xs), 50, true},
			goal{fmt.Sprintf("memory after %s requests, MB", count(float64(b.million))), spread{b.memory[1], b.memory[1], b.memory[1]}, 80, true})
	}
	return goals
}

// table prints rows as Markdown, the first as a header.
func table(w io.Writer, rows [][]string) error {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, s := range row {
			widths[i] = max(widths[i], len([]rune(s)))
		}
	}
	var out strings.Builder
	line := func(row []string) {
		for i, s := range row {
			out.WriteString("| " + s + strings.Repeat(" ", widths[i]-len([]rune(s))+1))
		}
		out.WriteString("|\n")
	}
	line(rows[0])
	for _, n := range widths {
		out.WriteString("|" + strings.Repeat("-", n+2))
	}
	out.WriteString("|\n")
	for _, row := range rows[1:] {
		line(row)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// digits prints x with about three digits.
func digits(x float64) string {
	switch {
	case x == 0:
		return "0"
	case x < 0.1:
		return strconv.FormatFloat(x, 'f', 3, 64)
	case x < 10:
		return strconv.FormatFloat(x, 'f', 2, 64)
	case x < 100:
		return strconv.FormatFloat(x, 'f', 1, 64)
	}
	return count(x)
}

func blankZero(x float64) string {
	if x == 0 {
		return ""
	}
	return digits(x)
}

func percent(x float64) string { return fmt.Sprintf("%.0f %%", 100*x) }

// count prints a whole number with commas.
func count(x float64) string {
	s := strconv.FormatFloat(x, 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
