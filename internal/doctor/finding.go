package doctor

import (
	"fmt"
	"strings"
)

// A Severity is how bad a finding is. Severities are ordered.
type Severity int

// The severities, from good to bad.
const (
	OK      Severity = iota // as it should be
	Note                    // worth knowing, or could not be checked
	Warning                 // some clients or proxies will have trouble
	Error                   // the stream cannot be used, or loses events
)

var severityNames = [...]string{"ok", "note", "warning", "error"}

func (s Severity) String() string { return severityNames[s] }

// MarshalText returns the severity's name.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// A Finding is the result of one check.
type Finding struct {
	Check    string // name of the check, which never changes
	Severity Severity
	Detail   string // the observation
	Advice   string // how to fix it; empty if there is nothing to do
}

func newFinding(check string, s Severity, advice, format string, args ...any) Finding {
	return Finding{check, s, oneLine(fmt.Sprintf(format, args...)), oneLine(advice)}
}

func ok(check, format string, args ...any) Finding {
	return newFinding(check, OK, "", format, args...)
}

// oneLine replaces line ends, tabs and invalid UTF-8. Findings quote text of foreign
// servers.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' || r == '\t' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))
}

// shortenLine cuts a text to fit into a line of output.
func shortenLine(s string) string { return shortenText(s, 60) }

// shortenText shortens a text to at most that many characters.
func shortenText(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

// A Report is the result of an examination.
type Report struct {
	Findings []Finding
	Severity Severity // the worst of the findings
	Requests int      // number of requests made
	// Unreachable reports that no server answered, Refused that it denied access.
	Unreachable, Refused bool
}
