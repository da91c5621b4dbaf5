package doctor

import (
	"strings"
	"time"
)

// checkFormat says where the bytes of a stream are not what the format wants, or what
// many clients take.
func checkFormat(t *Transcript) []Finding {
	var all []Finding
	for _, check := range []func(*Transcript) []Finding{
		checkUTF8, checkBOM, checkLineEnds, checkFields, checkBlankLines, checkLines,
	} {
		all = append(all, check(t)...)
	}
	if len(all) == 0 {
		all = append(all, ok("format", "%d lines, %d blocks, as the standard wants them", t.Text.Lines, t.Text.Frames))
	}
	return all
}

func checkUTF8(t *Transcript) []Finding {
	p := t.Text.BadUTF8
	if p.Count == 0 {
		return nil
	}
	return []Finding{found("utf-8", Warning, "an event stream is UTF-8: browsers change these bytes to U+FFFD", "%d lines are not UTF-8, the first is line %d: %q", p.Count, p.Line, short(p.Text))}
}

func checkBOM(t *Transcript) (all []Finding) {
	if t.Text.BOM {
		all = append(all, found("bom", Note, "send none: some clients lose the first event by it", "the stream begins with a byte order mark"))
	}
	if p := t.Text.LateBOM; p.Count > 0 {
		all = append(all, found("bom", Error, "write it nowhere: it is part of a field's name there, so the field is lost", "a byte order mark begins line %d, and %d lines in all", p.Line, p.Count))
	}
	return all
}

func checkLineEnds(t *Transcript) []Finding {
	text := &t.Text
	switch {
	case text.CR > 0 && text.LF+text.CRLF == 0:
		return []Finding{found("line-ends", Warning, "end lines with LF: many clients know no other end than LF and CRLF", "all %d lines end in CR alone", text.CR)}
	case text.CR > 0:
		return []Finding{found("line-ends", Warning, "end all lines with LF; a CR in data ends the line there", "%d lines end in CR alone, %d in LF, %d in CRLF", text.CR, text.LF, text.CRLF)}
	case text.CRLF > 0 && text.LF > 0:
		return []Finding{found("line-ends", Note, "end all lines with LF: something on the way, or two writers, mix them", "%d lines end in LF, %d in CRLF", text.LF, text.CRLF)}
	}
	return nil
}

// checkFields looks at what stands in front of the colons.
func checkFields(t *Transcript) (all []Finding) {
	const check = "fields"
	text := &t.Text
	if p := text.Lookalike; p.Count > 0 {
		all = append(all, found(check, Error, "names of fields are exact: data, event, id, retry in lower case, no space before the colon", "%d lines have nearly the name of a field and are lost, the first is line %d: %q", p.Count, p.Line, short(p.Text)))
	}
	if p := text.Unknown; p.Count > 0 {
		severity, advice := Warning, "clients leave such lines out: begin each line of data with data:"
		if len(t.events()) == 0 {
			severity = Error
		}
		if strings.HasPrefix(p.Text, "{") {
			advice = "these are JSON lines, not an event stream: write data: before each and a blank line behind it"
		}
		all = append(all, found(check, severity, advice, "%d lines have a field that is not known, the first is line %d: %q", p.Count, p.Line, short(p.Text)))
	}
	if p := text.Nameless; p.Count > 0 {
		all = append(all, found(check, Warning, "an event without data is none for clients: add an empty data line", "%d blocks have an event's name and no data, the first ends at line %d: %q", p.Count, p.Line, short(p.Text)))
	}
	if p := text.NULs; p.Count > 0 {
		all = append(all, found("ids", Error, "clients ignore an id with NUL, and come back to the one before it", "%d ids have NUL in them, the first is line %d", p.Count, p.Line))
	}
	return all
}

// unfinishedAfter is how long a frame may take to be ended.
const unfinishedAfter = 2 * time.Second

// checkBlankLines looks at what no blank line has ended.
func checkBlankLines(t *Transcript) []Finding {
	f := t.Text.Unfinished
	switch {
	case f == nil:
		return nil
	case t.End == clean && len(t.events()) == 0:
		return []Finding{found("blank-lines", Error, "end each event with a blank line: without it, clients dispatch nothing", "%d lines of data and no blank line, then the end", f.Lines)}
	case t.End == clean || t.End == dropped:
		return []Finding{found("cut-event", Warning, "end streams at the end of an event, also when the server stops; clients that are not exact take the half for a whole", "the stream ended in the middle of an event")}
	case t.Ended-f.Start > unfinishedAfter && f.Lines > 1 && len(t.events()) == 0:
		return []Finding{found("blank-lines", Error, "end each event with a blank line: without it, clients dispatch nothing", "%d lines of data in %s and no blank line", f.Lines, brief(t.Ended-f.Start))}
	case t.Ended-t.Last > unfinishedAfter:
		return []Finding{found("blank-lines", Error, "end each event with a blank line and flush behind it; a buffer that is emptied when it is full looks the same", "an event has been standing there unfinished for %s", brief(t.Ended-t.Last))}
	}
	return nil
}

// Lines longer than manyClients are too long for clients with the usual buffer.
const manyClients = 64 << 10

func checkLines(t *Transcript) []Finding {
	const check = "line-length"
	switch text := &t.Text; {
	case text.TooLong:
		return []Finding{found(check, Error, "send large values by reference; end lines", "a line has more than %d bytes", maxLine)}
	case text.LongLine > manyClients:
		return []Finding{found(check, Note, "many clients have a limit of 64 KiB a line: raise it there, or send less", "the longest line has %d bytes", text.LongLine)}
	}
	return nil
}
