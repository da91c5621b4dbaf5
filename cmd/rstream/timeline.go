package main

import (
	"fmt"
	"strings"

	"github.com/mattn/go-runewidth"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A mark is what one cell of the timeline shows, in ascending order: missing ranges
// must not be hidden by held ones.
type mark int

const (
	missing mark = iota
	partly
	pulling
	failed
	pending
	live
	held
	compared
	proven
)

// A markForm is what a mark looks like.
type markForm struct {
	char   rune
	name   string
	colour string // SGR code
}

// paint returns s in the mark's colour.
func (m markForm) paint(s string) string { return "\x1b[" + m.colour + "m" + s + "\x1b[0m" }

var marks = [...]markForm{
	missing:  {'·', "missing", "2"},
	partly:   {'▒', "held in part", "33"},
	pulling:  {'»', "pulling", "33"},
	failed:   {'!', "failed", "31"},
	pending:  {'?', "pending", "33"},
	live:     {'~', "live", "36"},
	held:     {'▓', "held", "32"},
	compared: {'█', "compared", "32"},
	proven:   {'█', "proven", "32"},
}

// A timeline draws, for each topic, which ranges of the log are held and whether they
// are proven, from the beginning to the newest position known to any window.
type timeline struct {
	topics   []event.Topic // one row each
	windows  []window.Window
	compared window.Spans // what a comparison that runs has compared
	end      event.ID
	label    int // width of the topics' names, in cells
	width    int // cells
	colour   bool
	times    string // the axis of times, "" for none
}

// maxColumns limits the width of a timeline.
const maxColumns = 200

// maxLabel limits the width of a topic's name in a row.
const maxLabel = 24

// newTimeline returns the timeline of all topics of windows.
func newTimeline(windows []window.Window, columns int, colour bool) timeline {
	var topics []event.Topic
	seen := map[event.Topic]bool{}
	for i := range windows {
		if topic := windows[i].Topic; !seen[topic] {
			seen[topic] = true
			topics = append(topics, topic)
		}
	}
	return newTimelineOf(topics, windows, columns, colour)
}

// newTimelineOf returns the timeline of some topics.
func newTimelineOf(topics []event.Topic, windows []window.Window, columns int, colour bool) timeline {
	t := timeline{topics: topics, windows: windows, label: 5, colour: colour}
	for i := range windows {
		w := &windows[i]
		t.end = max(t.end, w.Reached)
		if w.To != event.MaxID {
			t.end = max(t.end, w.To)
		}
		if c, ok := w.At.Cursor(); ok {
			t.end = max(t.end, c.ID)
		}
	}
	for _, topic := range topics {
		t.label = max(t.label, runewidth.StringWidth(visible(topic.String())))
	}
	t.label = min(t.label, maxLabel, max(columns/3, 5))
	t.width = max(columns-t.label-2, 16)
	return t
}

func (t *timeline) printTimeline(out *output) error {
	for _, line := range t.lines() {
		if err := out.printf("%s\n", line); err != nil {
			return err
		}
	}
	return nil
}

// lines returns the rows of the topics, the axis and the legend.
func (t *timeline) lines() (lines []string) {
	if t.end == event.Beginning {
		return nil
	}
	label := t.label
	used := map[mark]bool{}
	for _, topic := range t.topics {
		lines = append(lines, runewidth.FillRight(shortenName(visible(topic.String()), label), label)+"  "+t.row(topic, used))
	}
	from, to := event.Beginning.String(), t.end.String()
	gap := max(t.width-len(from)-len(to), 1)
	under := []string{from + strings.Repeat(" ", gap) + to}
	if t.times != "" {
		under = append(under, t.times)
	}
	for _, line := range append(under, t.legend(used)...) {
		lines = append(lines, fmt.Sprintf("%*s  %s", label, "", line))
	}
	return lines
}

// shortenName shortens a name to n cells.
func shortenName(s string, n int) string { return runewidth.Truncate(s, n, "…") }

func (t *timeline) row(topic event.Topic, used map[mark]bool) string {
	var b strings.Builder
	last := ""
	for i := range t.width {
		m := t.cellMark(topic, t.cellSpan(i))
		used[m] = true
		if t.colour && marks[m].colour != last {
			last = marks[m].colour
			fmt.Fprintf(&b, "\x1b[0;%sm", last)
		}
		b.WriteRune(marks[m].char)
	}
	if t.colour {
		b.WriteString("\x1b[0m")
	}
	return b.String()
}

// cellSpan returns the range that cell i stands for. It is never empty.
func (t *timeline) cellSpan(i int) window.Span {
	at := func(i int) event.ID { return event.ID(float64(t.end) * float64(i) / float64(t.width)) }
	s := window.Span{From: at(i), To: at(i + 1)}
	if i == t.width-1 {
		s.To = t.end
	}
	if s.Empty() {
		s.From, s.To = min(s.From, t.end-1), min(s.From, t.end-1)+1
	}
	return s
}

// cellMark returns the mark for a range of topic.
func (t *timeline) cellMark(topic event.Topic, span window.Span) mark {
	var all, sure, tail []window.Span
	other := missing
	for i := range t.windows {
		w := &t.windows[i]
		if !w.Topic.Contains(topic) {
			continue
		}
		all = append(all, w.Held())
		switch {
		case w.Proven:
			sure = append(sure, w.Held())
		case w.State == window.Live:
			tail = append(tail, w.Held())
		case w.State == window.Pending:
			if c, ok := w.At.Cursor(); ok && span.From < c.ID && c.ID <= span.To {
				other = pending
			}
		case w.Missing().Intersect(span).Empty():
		case w.State == window.Pulling:
			other = pulling
		case w.State == window.Failed:
			other = failed
		}
	}
	sum := window.Union(all...)
	switch {
	case t.compared.Contains(span):
		return compared
	case window.Union(sure...).Contains(span):
		return proven
	case sum.Contains(span) && len(window.Union(tail...).Intersect(window.Spans{span})) > 0:
		return live
	case sum.Contains(span):
		return held
	case other != missing:
		return other
	case len(sum.Intersect(window.Spans{span})) > 0:
		return partly
	}
	return missing
}

// legend returns the meanings of the used marks, in lines that fit the timeline.
func (t *timeline) legend(used map[mark]bool) (lines []string) {
	for m := proven; m >= missing; m-- {
		if !used[m] {
			continue
		}
		part := string(marks[m].char) + " " + marks[m].name
		last := len(lines) - 1
		if last >= 0 && len([]rune(lines[last]+legendGap+part)) <= t.width {
			lines[last] += legendGap + part
		} else {
			lines = append(lines, part)
		}
	}
	return lines
}

const legendGap = "   "
