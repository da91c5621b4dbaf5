package main

import (
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// A sync that prints nothing is not ended by retention that has overtaken it: all events were
// stored, and count.
func TestSilentSourceOvertaken(t *testing.T) {
	p := &sourcePrinter{silent: true, asked: []event.Topic{event.All}, at: 5}
	if err := p.passDropped(t.Context(), nil, 12); err != nil || p.at != 12 || p.events != 7 || p.gaps != 0 {
		t.Errorf("it is at %s with %d events and %d gaps, %v", p.at, p.events, p.gaps, err)
	}
}
