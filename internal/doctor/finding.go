package doctor

import (
	"fmt"
	"strings"
)

// A Severity says how bad something is. Severities can be compared.
type Severity int

// The severities, from good to bad.
const (
	OK      Severity = iota // as it should be
	Note                    // worth knowing, or not known
	Warning                 // some clients or proxies will have trouble
	Error                   // the stream cannot be used, or loses events
)

var severityNames = [...]string{"ok", "note", "warning", "error"}

func (s Severity) String() string { return severityNames[s] }

// MarshalText writes the severity's name.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// A Finding is what one check says.
type Finding struct {
	Check    string // the stable name of the check
	Severity Severity
	Detail   string // what was seen
	Advice   string // what to do about it; empty if there is nothing to do
}

func found(check string, s Severity, advice, format string, args ...any) Finding {
	return Finding{check, s, printable(fmt.Sprintf(format, args...)), printable(advice)}
}

func ok(check, format string, args ...any) Finding {
	return found(check, OK, "", format, args...)
}

// printable takes line ends and what is not UTF-8 out of a text: parts of it were
// written by a stranger.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' || r == '\t' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))
}

// short cuts a text for a line of output.
func short(s string) string { return cut(s, 60) }

// cut shortens a text to so many characters.
func cut(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

// A Report is all that was found.
type Report struct {
	Findings []Finding
	Severity Severity // the worst of them
	Requests int      // how many requests were made
	// Unreachable says that no server answered, Refused that one did not let us in.
	Unreachable, Refused bool
}
