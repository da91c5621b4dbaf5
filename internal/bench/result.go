package bench

import (
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
	"time"
)

// A Result is one line of the output. Its limit has the unit of the value.
//
// A goal applies to the ratio or, without a limit, to the value. It is a minimum for a rate,
// whose unit ends with /s, and a maximum for anything else.
type Result struct {
	Type  string   `json:"type"`
	Name  string   `json:"name"`
	Value float64  `json:"value"`
	Unit  string   `json:"unit"`
	Limit *float64 `json:"limit,omitempty"`
	Ratio *float64 `json:"ratio,omitempty"` // of value to limit
	Goal  *float64 `json:"goal,omitempty"`
	Pass  bool     `json:"pass"`

	Against string   `json:"against,omitempty"` // what the limit is
	Stretch *float64 `json:"stretch,omitempty"` // a further goal, which Pass ignores
}

// A baseline is the limit of a figure.
type baseline struct {
	name  string
	value float64
}

// A goal is the goal of a ratio. If zero, there is none.
type goal struct{ at, stretch float64 }

// addFigure adds a figure without a goal.
func (r *runner) addFigure(name string, value float64, unit string) {
	r.addResult(Result{Name: name, Value: value, Unit: unit, Pass: true})
}

// addCompared adds a figure with its limit.
func (r *runner) addCompared(name string, value float64, unit string, l baseline, g goal) {
	ratio := value / l.value
	b := Result{Name: name, Value: value, Unit: unit, Limit: &l.value, Ratio: &ratio, Against: l.name, Pass: true}
	if g.at > 0 {
		b.Goal, b.Pass = &g.at, ratio <= g.at
		if b.isRate() {
			b.Pass = ratio >= g.at
		}
	}
	if g.stretch > 0 {
		b.Stretch = &g.stretch
	}
	r.addResult(b)
}

// compareWait adds a quantile of the waits of ours, in milliseconds, with that of its limit.
func (r *runner) compareWait(name string, part float64, ours *Rate, against string, limit *Rate, g goal) {
	r.addCompared(name, milliseconds(ours.Wait(part)), "ms", baseline{against, milliseconds(limit.Wait(part))}, g)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// atMost adds a figure with an absolute goal.
func (r *runner) atMost(name string, value float64, unit string, goal float64) {
	r.addResult(Result{Name: name, Value: value, Unit: unit, Goal: &goal, Pass: value <= goal})
}

// atLeast adds a rate with an absolute goal.
func (r *runner) atLeast(name string, value float64, unit string, goal float64) {
	r.addResult(Result{Name: name, Value: value, Unit: unit, Goal: &goal, Pass: value >= goal})
}

func (r *runner) addResult(b Result) {
	b.Type, b.Value = "bench", rounded(b.Value)
	for _, v := range []*float64{b.Limit, b.Ratio} {
		if v != nil {
			*v = rounded(*v)
		}
	}
	r.results = append(r.results, b)
}

func (b *Result) isRate() bool { return strings.HasSuffix(b.Unit, "/s") }

func rounded(v float64) float64 { return math.Round(v*1000) / 1000 }

// WriteTable writes results as a table for people.
func WriteTable(out io.Writer, results []Result) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "what\tvalue\tlimit\tratio\tgoal\t")
	for _, b := range results {
		fmt.Fprintf(w, "%s\t%s %s\t%s\t%s\t%s\t%s\n", b.Name, figure(b.Value), b.Unit,
			b.limit(), ifGiven(b.Ratio, ratio), b.goal(), b.verdict())
	}
	return w.Flush()
}

func (b *Result) limit() string {
	if b.Against == "" {
		return ifGiven(b.Limit, figure)
	}
	return ifGiven(b.Limit, figure) + " (" + b.Against + ")"
}

// goal returns the goal, and the further one in parentheses.
func (b *Result) goal() string {
	form := ratio
	if b.Limit == nil {
		form = figure
	}
	bound := "≤ "
	if b.isRate() {
		bound = "≥ "
	}
	switch {
	case b.Goal != nil && b.Stretch != nil:
		return bound + form(*b.Goal) + " (" + form(*b.Stretch) + ")"
	case b.Goal != nil:
		return bound + form(*b.Goal)
	case b.Stretch != nil:
		return "(" + bound + form(*b.Stretch) + ")"
	}
	return ""
}

func (b *Result) verdict() string {
	switch {
	case b.Goal == nil:
		return ""
	case b.Pass:
		return "ok"
	}
	return "missed"
}

func ifGiven(v *float64, form func(float64) string) string {
	if v == nil {
		return ""
	}
	return form(*v)
}

func ratio(v float64) string { return fmt.Sprintf("%.2f", v) }

// figure formats a number with three significant digits.
func figure(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
