package doctor

import (
	"strings"
	"time"
)

// checkFormat checks that the bytes of a stream follow the format, and keep within the
// limits of common clients.
func checkFormat(t *Transcript) []Finding {
	var all []Finding
	for _, check := range []func(*Transcript) []Finding{
		checkUTF8, checkBOM, checkLineEnds, checkFields, checkBlankLines, checkLines,
	} {
		all = append(all, check(t)...)
	}
	if len(all) == 0 {
		all = append(all, ok("format", "%d lines and %d blocks, all well-formed", t.Text.Lines, t.Text.Frames))
	}
	return all
}

func checkUTF8(t *Transcript) []Finding {
	p := t.Text.BadUTF8
	if p.Count == 0 {
		return nil
	}
	return []Finding{newFinding("utf-8", Warning, "send only UTF-8: browsers replace these bytes by U+FFFD", "%d lines are not UTF-8, the first is line %d: %q", p.Count, p.Line, shortenLine(p.Text))}
}

func checkBOM(t *Transcript) (all []Finding) {
	if t.Text.BOM {
		all = append(all, newFinding("bom", Note, "send no byte order mark: some clients lose the first event because of it", "the stream begins with a byte order mark"))
	}
	if p := t.Text.LateBOM; p.Count > 0 {
		all = append(all, newFinding("bom", Error, "send no byte order mark: here it becomes part of the field name, and the field is lost", "a byte order mark begins line %d; %d lines in all", p.Line, p.Count))
	}
	return all
}

func checkLineEnds(t *Transcript) []Finding {
	text := &t.Text
	switch {
	case text.CR > 0 && text.LF+text.CRLF == 0:
		return []Finding{newFinding("line-ends", Warning, "end lines with LF: many clients support only LF and CRLF", "all %d lines end in CR alone", text.CR)}
	case text.CR > 0:
		return []Finding{newFinding("line-ends", Warning, "end all lines with LF; a CR in the data ends its line", "%d lines end in CR alone, %d in LF, %d in CRLF", text.CR, text.LF, text.CRLF)}
	case text.CRLF > 0 && text.LF > 0:
		return []Finding{newFinding("line-ends", Note, "end all lines with LF: a proxy or a second writer uses another line end", "%d lines end in LF, %d in CRLF", text.LF, text.CRLF)}
	}
	return nil
}

// checkFields checks the field names.
func checkFields(t *Transcript) (all []Finding) {
	const check = "fields"
	text := &t.Text
	if p := text.Lookalike; p.Count > 0 {
		all = append(all, newFinding(check, Error, "write field names exactly: data, event, id and retry in lower case, without a space before the colon", "%d lines have a misspelled field name and are lost, the first is line %d: %q", p.Count, p.Line, shortenLine(p.Text)))
	}
	if p := text.Unknown; p.Count > 0 {
		severity, advice := Warning, "begin each line of data with data: because clients ignore unknown fields"
		if len(t.dispatched()) == 0 {
			severity = Error
		}
		if strings.HasPrefix(p.Text, "{") {
			advice = "these are JSON lines, not an event stream: write data: before each, and a blank line after it"
		}
		all = append(all, newFinding(check, severity, advice, "%d lines have an unknown field, the first is line %d: %q", p.Count, p.Line, shortenLine(p.Text)))
	}
	if p := text.Nameless; p.Count > 0 {
		all = append(all, newFinding(check, Warning, "add an empty data line: clients ignore an event without data", "%d blocks have an event name but no data, the first ends at line %d: %q", p.Count, p.Line, shortenLine(p.Text)))
	}
	if p := text.NULs; p.Count > 0 {
		all = append(all, newFinding("ids", Error, "send no NUL in ids: clients ignore the id, and resume from the one before it", "%d ids contain NUL, the first is line %d", p.Count, p.Line))
	}
	return all
}

// unfinishedAfter is how long a frame may wait for its blank line.
const unfinishedAfter = 2 * time.Second

// checkBlankLines checks that a blank line ends the last frame.
func checkBlankLines(t *Transcript) []Finding {
	f := t.Text.Unfinished
	switch {
	case f == nil:
		return nil
	case t.End == clean && len(t.dispatched()) == 0:
		return []Finding{newFinding("blank-lines", Error, "end each event with a blank line: without one, clients dispatch nothing", "the stream ended after %d lines of data without a blank line", f.Lines)}
	case t.End == clean || t.End == dropped:
		return []Finding{newFinding("cut-event", Warning, "end streams between events, even when the server stops: some clients take a partial event for a complete one", "the stream ended in the middle of an event")}
	case t.Ended-f.Start > unfinishedAfter && f.Lines > 1 && len(t.dispatched()) == 0:
		return []Finding{newFinding("blank-lines", Error, "end each event with a blank line: without one, clients dispatch nothing", "%d lines of data in %s without a blank line", f.Lines, brief(t.Ended-f.Start))}
	case t.Ended-t.Last > unfinishedAfter:
		return []Finding{newFinding("blank-lines", Error, "end each event with a blank line and flush after it; a proxy that forwards only full buffers looks the same", "an event has been incomplete for %s", brief(t.Ended-t.Last))}
	}
	return nil
}

// manyClients is the buffer size of many clients in bytes. A longer line is too long for
// them.
const manyClients = 64 << 10

func checkLines(t *Transcript) []Finding {
	const check = "line-length"
	switch text := &t.Text; {
	case text.TooLong:
		return []Finding{newFinding(check, Error, "send references to large values, and end each line", "a line has more than %d bytes", maxLine)}
	case text.LongLine > manyClients:
		return []Finding{newFinding(check, Note, "many clients limit lines to 64 KiB: raise their limit, or send shorter lines", "the longest line has %d bytes", text.LongLine)}
	}
	return nil
}
