package main

import (
	"fmt"
	"math"
	"strings"
)

// The plot: two panels of lines over the number of connections.
const (
	panelWidth, panelHeight = 420.0, 300.0
	marginLeft, marginTop   = 70.0, 50.0
	panelGap                = 90.0
	mostConns               = 1024
)

// A series is what is drawn in one colour.
type series struct{ target, colour string }

var plotted = []series{{bareName, "#777777"}, {naiveName, "#c0392b"}, {oneName, "#1f6feb"}, {embeddedName, "#2e8b57"}}

// An svg is a drawing.
type svg struct{ strings.Builder }

func (s *svg) line(x1, y1, x2, y2, width float64, colour string) {
	fmt.Fprintf(s, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke-width="%g" stroke="%s"/>`+"\n", x1, y1, x2, y2, width, colour)
}

func (s *svg) text(x, y float64, anchor, text string) {
	fmt.Fprintf(s, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", x, y, anchor, text)
}

// plot draws rate and median latency over connections, on logarithmic scales,
// with a line from the least to the most of all rounds.
func (b *bench) plot() []byte {
	s := new(svg)
	width, height := marginLeft+2*panelWidth+panelGap+20, panelHeight+2*marginTop+30
	fmt.Fprintf(s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(s, `<rect width="%g" height="%g" fill="white"/>`+"\n", width, height)
	b.panel(s, marginLeft, "Requests a second, one name, by connections", rate, 100, 100_000)
	b.panel(s, marginLeft+panelWidth+panelGap, "Median latency in milliseconds, one name, by connections", p50, 0.01, 1000)
	for i, p := range plotted {
		x, y := marginLeft+180*float64(i), height-15
		s.line(x, y-4, x+24, y-4, 3, p.colour)
		s.text(x+30, y, "start", p.target)
	}
	s.WriteString("</svg>\n")
	return []byte(s.String())
}

func (b *bench) panel(s *svg, left float64, title string, get func(result) float64, least, most float64) {
	x := func(conns int) float64 { return left + panelWidth*math.Log(float64(conns))/math.Log(mostConns) }
	y := func(v float64) float64 {
		v = min(max(v, least), most)
		return marginTop + panelHeight*(1-math.Log(v/least)/math.Log(most/least))
	}
	s.text(left, marginTop-20, "start", title)
	for v := least; v <= most*1.01; v *= 10 {
		s.line(left, y(v), left+panelWidth, y(v), 1, "#dddddd")
		s.text(left-8, y(v)+4, "end", fmt.Sprintf("%g", v))
	}
	for conns := 1; conns <= mostConns; conns *= 4 {
		s.line(x(conns), marginTop, x(conns), marginTop+panelHeight, 1, "#eeeeee")
		s.text(x(conns), marginTop+panelHeight+18, "middle", fmt.Sprint(conns))
	}
	for _, p := range plotted {
		var points []string
		for conns := 1; conns <= mostConns; conns *= 4 {
			c := b.cell(cellName(p.target, "one name", conns))
			if c == nil {
				continue
			}
			v := c.of(get)
			points = append(points, fmt.Sprintf("%.1f,%.1f", x(conns), y(v.Median)))
			s.line(x(conns), y(v.Min), x(conns), y(v.Max), 5, p.colour)
		}
		fmt.Fprintf(s, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(points, " "), p.colour)
	}
}
