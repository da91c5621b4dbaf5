package main

import (
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rstream-dev/rstream/event"
)

// A tick is a time on the axis of a timeline.
type tick struct {
	cell int // counted from 0
	time event.Time
}

// addTimes adds an axis of times. timeAt returns the time of a position, or nil.
func (t *timeline) addTimes(timeAt func(event.ID) (*event.Time, error)) error {
	if t.end == event.Beginning {
		return nil
	}
	ticks, err := t.ticks(timeAt)
	if err == nil && len(ticks) > 0 {
		t.times = t.axis(ticks)
	}
	return err
}

// axis returns the line of times under a timeline.
func (t *timeline) axis(ticks []tick) string {
	first, last := ticks[0].time.Time().Local(), ticks[len(ticks)-1].time.Time().Local()
	whole := "2006-01-02 15:04"
	if t.width < 2*axisStep {
		whole = "01-02 15:04"
	}
	var b axisLine
	b.width = t.width
	end := len(ticks) - 1
	if ticks[end].cell == t.width-1 {
		b.putLeft(ticks[end].cell, last.Format(whole)+"┘")
		ticks = ticks[:end]
	}
	for i, k := range ticks {
		form := shortTime(last.Sub(first))
		if i == 0 {
			form = whole
		}
		b.putRight(k.cell, "└"+k.time.Time().Local().Format(form))
	}
	return strings.TrimRight(b.String(), " ")
}

// shortTime returns the form of times between the ends of an axis.
func shortTime(span time.Duration) string {
	switch {
	case span < 24*time.Hour:
		return "15:04"
	case span < 300*24*time.Hour:
		return "01-02 15:04"
	}
	return "2006-01-02"
}

// axisStep is how many cells a tick has at least.
const axisStep = 22

// ticks returns the known times at the ends of evenly spaced cells.
func (t *timeline) ticks(timeAt func(event.ID) (*event.Time, error)) (ticks []tick, err error) {
	n := max(t.width/axisStep, 1)
	for i := range n + 1 {
		cell := min(i*t.width/n, t.width-1)
		known, err := timeAt(t.cellSpan(cell).To)
		if err != nil {
			return nil, err
		}
		if known != nil {
			ticks = append(ticks, tick{cell, *known})
		}
	}
	return ticks, nil
}

// An axisLine is a line of labels, none of which covers another.
type axisLine struct {
	width int
	cells []rune
}

// putRight writes a label that begins at a cell.
func (a *axisLine) putRight(cell int, label string) {
	a.put(cell, []rune(label))
}

// putLeft writes a label that ends at a cell.
func (a *axisLine) putLeft(cell int, label string) {
	a.put(cell+1-utf8.RuneCountInString(label), []rune(label))
}

// put writes a label if there is room for it, and for a space on both sides.
func (a *axisLine) put(from int, label []rune) {
	if a.cells == nil {
		a.cells = []rune(strings.Repeat(" ", a.width))
	}
	to := from + len(label)
	if from < 0 || to > a.width || strings.Trim(string(a.cells[max(from-1, 0):min(to+1, a.width)]), " ") != "" {
		return
	}
	copy(a.cells[from:], label)
}

func (a *axisLine) String() string { return string(a.cells) }
