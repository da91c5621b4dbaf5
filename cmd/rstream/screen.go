package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"

	"github.com/mattn/go-runewidth"
	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/event"
)

// A colouring is when output has colours.
type colouring string

const (
	colourAuto   colouring = "auto" // on a terminal that has colours
	colourAlways colouring = "always"
	colourNever  colouring = "never"
)

// String, Set and Type implement pflag.Value.
func (c *colouring) String() string { return string(*c) }

// Set rejects unknown words.
func (c *colouring) Set(s string) error {
	switch colouring(s) {
	case colourAuto, colourAlways, colourNever:
		*c = colouring(s)
		return nil
	}
	return errors.New("want auto, always or never")
}

// Type names the flag's value.
func (c *colouring) Type() string { return "when" }

// hasColour reports whether text output has colours. With auto, NO_COLOR and a terminal
// that has none (TERM=dumb) turn them off.
func (o *output) hasColour() bool { return o.colouring.isOn(o.terminal) }

// isOn reports whether text has colours that is written to a terminal or elsewhere.
func (c colouring) isOn(terminal bool) bool {
	switch c {
	case colourAlways:
		return true
	case colourNever:
		return false
	}
	return terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// SGR codes of the parts of an event.
const (
	styleDim    = "2"
	styleUser   = "36"
	stylePut    = "32"
	styleDelete = "31"
)

// paint returns s in a style, if the output has colours.
func (o *output) paint(style, s string) string {
	if s == "" || style == "" || !o.hasColour() {
		return s
	}
	return "\x1b[" + style + "m" + s + "\x1b[0m"
}

// A column is a part of a line on a screen, and its style.
type column struct {
	text, style string
	joined      bool // follows the column before it without a space
}

// lineWidth returns the width of a line; ok is false if lines are not cut.
func (o *output) lineWidth() (width int, ok bool) {
	if !o.terminal || o.full {
		return 0, false
	}
	return o.columns(), true
}

// screenLine returns columns as one line, no wider than the terminal unless o.full is
// set. Styles take no room.
func (o *output) screenLine(columns ...column) string {
	room, limited := o.lineWidth()
	var b strings.Builder
	for i, c := range columns {
		if i > 0 && c.text != "" && !c.joined {
			c.text = "  " + c.text
		}
		if limited {
			wide := runewidth.StringWidth(c.text)
			if wide > room {
				b.WriteString(o.paint(c.style, strings.TrimRight(runewidth.Truncate(c.text, room, "…"), " ")))
				break
			}
			room -= wide
		}
		b.WriteString(o.paint(c.style, c.text))
	}
	return b.String()
}

// narrow is the width below which a screen has no room for the year and the seconds.
const narrow = 60

// eventLine returns an event as text: on a terminal, a line that fits it.
func (o *output) eventLine(ev *event.Event) string {
	clock, typ := "2006-01-02 15:04:05.000", stylePut
	switch width, limited := o.lineWidth(); {
	case limited && width < narrow:
		clock = "01-02 15:04"
	case limited:
		clock = "2006-01-02 15:04:05"
	}
	value := column{text: visible(string(ev.Value))}
	if ev.Type == event.Del {
		typ = styleDelete
	}
	if ev.IsExpiry() {
		value = column{text: "expired", style: styleDim}
	}
	return o.screenLine(
		column{text: ev.Time.Time().Local().Format(clock), style: styleDim},
		column{text: visible(ev.User), style: styleUser},
		column{text: "/" + visible(ev.Path), joined: true},
		column{text: string(ev.Type), style: typ},
		value)
}

// pretty returns a value indented for a person, with characters escaped that could
// control a terminal. Its numbers and strings stay as they are.
func pretty(value []byte) string {
	var b bytes.Buffer
	if err := json.Indent(&b, value, "", "  "); err != nil {
		return visible(string(value))
	}
	return visibleLines(b.String())
}

// addFull adds the flag that shows whole lines.
func addFull(a *app, cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.out.full, "full", false, "on a terminal, print whole lines instead of cutting them to its width")
}
