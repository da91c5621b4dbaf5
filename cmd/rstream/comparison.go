package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/reconcile"
)

// strategyNames are the values of --strategy.
const strategyNames = "auto, gaps, list, bloom, inverse, iblt, exact"

// parseStrategy parses a strategy by its name on the command line, where a sketch is
// called iblt, as the literature does.
func parseStrategy(name string) (reconcile.Strategy, error) {
	if name == "iblt" {
		return reconcile.Sketch, nil
	}
	s, err := reconcile.ParseStrategy(name)
	if err != nil || s == reconcile.Sketch {
		return s, usagef("--strategy %.40q: want one of %s", name, strategyNames)
	}
	return s, nil
}

func strategyName(name string) string {
	if name == reconcile.Sketch.String() {
		return "iblt"
	}
	return name
}

// An explanation says how sync found the missing events of one topic.
type explanation struct {
	Type     string         `json:"type"`
	Topic    event.Topic    `json:"topic"`
	Strategy string         `json:"strategy"` // the last one used
	Why      string         `json:"why"`
	Up       int            `json:"up"`    // bytes of all rounds' requests
	Down     int            `json:"down"`  // and of the responses
	Asked    int            `json:"asked"` // events requested by hash
	Saved    int            `json:"saved"` // events held here and not fetched
	Rounds   []explainRound `json:"rounds"`
}

// An explainRound is one request of a negotiation.
type explainRound struct {
	Strategy string `json:"strategy"`
	Why      string `json:"why"`
	Up       int    `json:"up"`
	Down     int    `json:"down"`
}

// printComparison reports how the missing events were found: as a table on standard
// error, or as a JSON line if the output is JSON without events.
func (a *app) printComparison(t event.Topic, c *client.Comparison, events bool) error {
	e := explanation{Type: "explain", Topic: t, Strategy: strategyName(c.Outcome), Why: c.Why, Asked: c.Asked, Saved: c.Saved, Rounds: []explainRound{}}
	for _, r := range c.Rounds {
		e.Up, e.Down = e.Up+r.Up, e.Down+r.Down
		e.Rounds = append(e.Rounds, explainRound{strategyName(r.Strategy.String()), r.Why, r.Up, r.Down})
	}
	if !a.out.isForPerson() && !events {
		return a.out.writeJSON(e)
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	if len(e.Rounds) > 0 {
		fmt.Fprintln(w, "round\tstrategy\tbytes up\tbytes down\twhy")
	}
	for i, r := range e.Rounds {
		fmt.Fprintf(w, "%d\t%s\t%d\t%d\t%s\n", i+1, r.Strategy, r.Up, r.Down, visible(r.Why))
	}
	_ = w.Flush() // memory: it does not fail
	fmt.Fprintf(&b, "%s: %s: %s; %s asked for, %d saved\n", t, e.Strategy, visible(e.Why), count(e.Asked, "event"), e.Saved)
	return a.writeAside(visibleLines(b.String()))
}
