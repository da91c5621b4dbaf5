package event

import "encoding/hex"

// A Type is the effect of an event on its storage.
type Type string

// The types of events.
const (
	Put Type = "PUT" // sets the storage's value
	Del Type = "DEL" // removes it
)

// An Event is one immutable entry of a log. An Event returned by New or ParseLine keeps its
// line and must not be changed.
type Event struct {
	ID   ID
	Time Time
	Draft
	Hash  Hash
	Extra []byte // further members of the line, before the value, as written: `"a":1,"b":2`
	line  []byte
	mark  Mark // set by KeepMark
}

// New returns the event of d at id and t, with its line encoded once. d must have passed
// Check, id must not be Beginning, t must be Valid, and h must be d's hash.
func New(id ID, t Time, d Draft, h Hash) Event {
	ev := Event{ID: id, Time: t, Draft: d, Hash: h, Extra: d.expiryExtra()}
	ev.line = ev.AppendLine(make([]byte, 0, len(d.Value)+len(d.User)+len(d.Path)+len(d.Key)+224))
	return ev
}

// Line returns the event's line, without a line feed. The caller must not change it.
func (ev *Event) Line() []byte {
	if ev.line == nil {
		return ev.AppendLine(nil)
	}
	return ev.line
}

// Mark returns the mark of the event's position.
func (ev *Event) Mark() Mark {
	if ev.mark != 0 {
		return ev.mark
	}
	return MarkOf(ev.ID, ev.Time, ev.Hash)
}

// KeepMark computes and stores the result of Mark. It must not be called while another
// goroutine uses ev.
func (ev *Event) KeepMark() { ev.mark = ev.Mark() }

// AppendLine appends the event's line, without a line feed, to b.
func (ev *Event) AppendLine(b []byte) []byte {
	if ev.line != nil {
		return append(b, ev.line...)
	}
	b = append(b, `{"id":"`...)
	b = ev.ID.AppendTo(b)
	b = append(b, `","time":"`...)
	b = ev.Time.AppendTo(b)
	b = append(b, `","user":`...)
	b = appendString(b, ev.User)
	b = append(b, `,"path":`...)
	b = appendString(b, ev.Path)
	b = append(b, `,"type":"`...)
	b = append(b, ev.Type...)
	b = append(b, `","key":`...)
	b = appendString(b, ev.Key)
	b = append(b, `,"hash":"`...)
	for _, c := range ev.Hash {
		b = append(b, "0123456789abcdef"[c>>4], "0123456789abcdef"[c&15])
	}
	b = append(b, '"')
	if len(ev.Extra) > 0 {
		b = append(append(b, ','), ev.Extra...)
	}
	if len(ev.Value) > 0 {
		b = append(append(b, `,"value":`...), ev.Value...)
	}
	return append(b, '}')
}

// AppendNotice appends the notice of ev to b: its id, type, storage and hash, without time,
// key and value. No notice is a valid line of an event, and no line a valid notice.
func (ev *Event) AppendNotice(b []byte) []byte {
	b = append(b, `{"id":"`...)
	b = ev.ID.AppendTo(b)
	b = append(append(b, `","type":"`...), ev.Type...)
	b = appendString(append(b, `","user":`...), ev.User)
	b = appendString(append(b, `,"path":`...), ev.Path)
	b = hex.AppendEncode(append(b, `,"hash":"`...), ev.Hash[:])
	return append(b, `"}`...)
}

// A Receipt is the log's answer to a draft: its event, and whether the log had it before.
type Receipt struct {
	Event
	Duplicate bool // the log already knew the hash; Event is the first event with it
	// Dropped reports that the log has dropped the event since. Apart from the
	// draft, only its ID is known.
	Dropped bool
}
