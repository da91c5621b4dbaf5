package main

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/rstream-dev/rstream/event"
)

// steersTerminal reports whether r may control a terminal or change the direction of text.
func steersTerminal(r rune) bool { return r < 0x20 || 0x7f <= r && r < 0xa0 || event.TurnsText(r) }

// visible escapes, as JSON does, characters that could control a terminal: names and
// values may contain U+007F to U+009F and marks that change the direction of text.
func visible(s string) string { return escapeRunes(s, steersTerminal) }

// steersLines is steersTerminal for text of several lines.
func steersLines(r rune) bool { return r != '\n' && r != '\t' && steersTerminal(r) }

// plainLines is visible for errors, which have line feeds but no colours: those in them come from
// elsewhere.
func plainLines(s string) string { return escapeRunes(s, steersLines) }

// visibleLine is visible for a note, which is one line: text in it that comes from elsewhere must not
// begin another.
func visibleLine(s string) string { return visible(strings.ReplaceAll(s, "\n", "; ")) }

// visibleLines is visible for text laid out by the program, with its line feeds and
// colours.
func visibleLines(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && steersTerminal(r) }) {
		return s
	}
	var b strings.Builder
	for s != "" {
		colour := colours().FindStringIndex(s)
		if colour == nil {
			colour = []int{len(s), len(s)}
		}
		b.WriteString(escapeRunes(s[:colour[0]], steersLines))
		b.WriteString(s[colour[0]:colour[1]])
		s = s[colour[1]:]
	}
	return b.String()
}

// colours matches the only control sequences that the program writes. Those in names
// and values were escaped before.
var colours = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile("\x1b\\[[0-9;]*m") })

func escapeRunes(s string, which func(rune) bool) string {
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

// terminalSafe returns a line of JSON as it is written: unchanged in a pipe and, on a
// terminal, with characters that could control it escaped.
func (o *output) terminalSafe(line []byte) []byte {
	if !o.terminal {
		return line
	}
	return []byte(escapeRunes(string(line), func(r rune) bool { return r != '\n' && steersTerminal(r) }))
}
