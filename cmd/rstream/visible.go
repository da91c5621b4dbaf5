package main

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/rstream-dev/rstream/event"
)

// steers reports whether r may do something to a terminal, or turns text around.
func steers(r rune) bool { return r < 0x20 || 0x7f <= r && r < 0xa0 || event.TurnsText(r) }

// visible writes what could steer a terminal as JSON escapes it: names and values may
// hold the control characters U+007F to U+009F and marks that turn text around.
func visible(s string) string { return escape(s, steers) }

// visibleLines is visible for what the program itself has laid out, in lines and colours.
func visibleLines(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && steers(r) }) {
		return s
	}
	var b strings.Builder
	for s != "" {
		colour := colours.FindStringIndex(s)
		if colour == nil {
			colour = []int{len(s), len(s)}
		}
		b.WriteString(escape(s[:colour[0]], func(r rune) bool { return r != '\n' && r != '\t' && steers(r) }))
		b.WriteString(s[colour[0]:colour[1]])
		s = s[colour[1]:]
	}
	return b.String()
}

// colours are the only sequences that the program writes. In a name or value they have
// been escaped before.
var colours = regexp.MustCompile("\x1b\\[[0-9;]*m")

func escape(s string, which func(rune) bool) string {
	if !strings.ContainsFunc(s, which) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError:
			_, size := utf8.DecodeRuneInString(s[i:])
			b.WriteString(s[i : i+size])
		case which(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// safe is what line, JSON, is on the output: as it is in a pipe, and on a terminal the
// same JSON with what could steer it escaped.
func (o *output) safe(line []byte) []byte {
	if !o.terminal {
		return line
	}
	return []byte(escape(string(line), func(r rune) bool { return r != '\n' && steers(r) }))
}
