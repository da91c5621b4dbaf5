package bench

import (
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
)

// A Result is one line of the output. Its limit has the unit of the value.
type Result struct {
	Type  string   `json:"type"`
	Name  string   `json:"name"`
	Value float64  `json:"value"`
	Unit  string   `json:"unit"`
	Limit *float64 `json:"limit,omitempty"`
	Ratio *float64 `json:"ratio,omitempty"` // of value to limit
	Goal  *float64 `json:"goal,omitempty"`  // for the ratio, or without a limit for the value: at least for a rate, at most for anything else
	Pass  bool     `json:"pass"`
}

// say adds a figure without a goal.
func (r *runner) say(name string, value float64, unit string) {
	r.add(Result{Name: name, Value: value, Unit: unit, Pass: true})
}

// atLeast adds a figure whose ratio to its limit has a goal.
func (r *runner) atLeast(name string, value, limit float64, unit string, goal float64) {
	ratio := value / limit
	r.add(Result{Name: name, Value: value, Unit: unit, Limit: &limit, Ratio: &ratio, Goal: &goal, Pass: ratio >= goal})
}

// compare adds a figure with its limit, where less is better. Their ratio has a goal
// unless goal is 0.
func (r *runner) compare(name string, value, limit float64, unit string, goal float64) {
	ratio := value / limit
	b := Result{Name: name, Value: value, Unit: unit, Limit: &limit, Ratio: &ratio, Pass: true}
	if goal > 0 {
		b.Goal, b.Pass = &goal, ratio <= goal
	}
	r.add(b)
}

// atMost adds a figure with an absolute goal.
func (r *runner) atMost(name string, value float64, unit string, goal float64) {
	r.add(Result{Name: name, Value: value, Unit: unit, Goal: &goal, Pass: value <= goal})
}

func (r *runner) add(b Result) {
	b.Type, b.Value = "bench", rounded(b.Value)
	for _, v := range []*float64{b.Limit, b.Ratio} {
		if v != nil {
			*v = rounded(*v)
		}
	}
	r.results = append(r.results, b)
}

func rounded(v float64) float64 { return math.Round(v*1000) / 1000 }

// WriteTable writes results as a table for people.
func WriteTable(out io.Writer, results []Result) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "what\tvalue\tlimit\tratio\tgoal\t")
	for _, b := range results {
		fmt.Fprintf(w, "%s\t%s %s\t%s\t%s\t%s\t%s\n", b.Name, figure(b.Value), b.Unit,
			ifGiven(b.Limit, figure), ifGiven(b.Ratio, ratio), b.goal(), b.verdict())
	}
	return w.Flush()
}

func (b *Result) goal() string {
	switch {
	case b.Goal == nil:
		return ""
	case strings.HasSuffix(b.Unit, "/s"):
		return "≥ " + ratio(*b.Goal)
	case b.Limit != nil:
		return "≤ " + ratio(*b.Goal)
	}
	return "≤ " + figure(*b.Goal)
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
