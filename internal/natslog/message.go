package natslog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"

	"github.com/nats-io/nats.go"

	"github.com/rstream-dev/rstream/event"
)

// format is the version of messages, and of what nodes send each other. Nodes of different
// versions of the program serve one log. A program that knows a newer format must therefore write
// the one in the metadata of the stream, which changes only once all nodes know the newer one.
const format = "1"

// Headers of the messages of a stream.
const (
	headerFormat = "Rstream-Format"
	headerLog    = "Rstream-Log"   // the whole id of the log
	headerAfter  = "Rstream-After" // the position that the message follows, with its mark
	headerSum    = "Rstream-Sum"   // CRC-32C of the subject, the two before and the payload, in hex

	headerEncoding = "Rstream-Encoding" // "zstd" if the payload is compressed
	encodingZstd   = "zstd"
)

// Parts of the subjects of messages that are stored, which say the kind of each.
const (
	allStored  = "log.*"
	partEvents = "log.events"
	partClaim  = "log.claim"
	partBound  = "log.horizon"
)

// A message is one message of the stream.
type message struct {
	subject string
	log     string
	after   event.Point // the position before it
	payload []byte      // events: lines, compressed if packed is set; others: JSON
	packed  bool

	events []event.Event // of events, once they are parsed
	size   int           // of the lines of events
}

// A claim is the payload of a message with which a node makes itself the committer.
type claim struct {
	Node string `json:"node"`
	Boot string `json:"boot"`
}

// A bound is the payload of a message that moves the horizon.
type bound struct {
	Horizon event.Cursor `json:"horizon"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum returns the text of the checksum of m.
func (m *message) checksum() string {
	sum := crc32.Checksum([]byte(m.subject+"\n"+m.log+"\n"+m.after.Cursor(m.log).String()+"\n"), castagnoli)
	return fmt.Sprintf("%08x", crc32.Update(sum, castagnoli, m.payload))
}

// encode returns m as it is published, with a compressed payload if that is shorter.
func (m *message) encode() *nats.Msg {
	msg := nats.NewMsg(m.subject)
	if !m.packed {
		m.payload, m.packed = pack(m.payload)
	}
	if m.packed {
		msg.Header.Set(headerEncoding, encodingZstd)
	}
	msg.Header.Set(headerFormat, format)
	msg.Header.Set(headerLog, m.log)
	msg.Header.Set(headerAfter, m.after.Cursor(m.log).String())
	msg.Header.Set(headerSum, m.checksum())
	msg.Data = m.payload
	return msg
}

// A foreignError means that a message was not written by a node of the log, or was damaged.
type foreignError struct {
	seq  uint64
	text string
}

func (e *foreignError) Error() string {
	return "message " + strconv.FormatUint(e.seq, 10) + " of the stream " + e.text
}

// A newerError means that a newer version of the program has written a message, or has created
// the stream.
type newerError struct{ text string }

func (e *newerError) Error() string { return e.text + ": this node needs a newer version of rstream" }

// newerFormat returns a *newerError if v is a format after this one.
func newerFormat(what, v string) error {
	known, _ := strconv.Atoi(format) // it is a number
	if n, err := strconv.Atoi(v); err != nil || n <= known {
		return nil
	}
	return &newerError{fmt.Sprintf("%s is of format %s, and this node knows format %s", what, v, format)}
}

// decode returns the message in msg, whose events it does not parse.
func decode(subject string, h nats.Header, data []byte, seq uint64) (m message, err error) {
	m = message{subject: subject, log: h.Get(headerLog), payload: data}
	if v := h.Get(headerFormat); v != format {
		if err := newerFormat(fmt.Sprintf("message %d of the stream", seq), v); err != nil {
			return m, err
		}
		return m, &foreignError{seq, fmt.Sprintf("has format %.20q", v)}
	}
	at, err := event.ParseCursor(h.Get(headerAfter))
	if err != nil || !event.ValidLogID(m.log) || !at.Of(m.log) {
		return m, &foreignError{seq, "names no position of its log"}
	}
	m.after = at.Point()
	switch v := h.Get(headerEncoding); v {
	case "":
	case encodingZstd:
		m.packed = true
	default:
		return m, &newerError{fmt.Sprintf("message %d of the stream has the encoding %.20q, which this node does not know", seq, v)}
	}
	if h.Get(headerSum) != m.checksum() {
		return m, &foreignError{seq, "is damaged: its checksum is wrong"}
	}
	return m, nil
}

// parseEvents parses the events of m.
func (m *message) parseEvents(seq uint64) error {
	lines, last := m.payload, m.after.ID
	if m.packed {
		var err error
		if lines, err = unpack(m.payload); err != nil {
			return &foreignError{seq, "cannot be decompressed: " + err.Error()}
		}
	}
	m.size = len(lines)
	m.events = make([]event.Event, 0, bytes.Count(lines, []byte{'\n'})+1)
	for rest := lines; len(rest) > 0; {
		line, after, _ := bytes.Cut(rest, []byte{'\n'})
		rest = after
		ev, err := event.ParseLine(line)
		if err == nil && ev.ID != last+1 {
			err = fmt.Errorf("event %s follows %s", ev.ID, last)
		}
		if err != nil {
			return &foreignError{seq, "has a bad event: " + err.Error()}
		}
		m.events = append(m.events, ev)
		last = ev.ID
	}
	if len(m.events) == 0 {
		return &foreignError{seq, "has no events"}
	}
	return nil
}

// end returns the position after m. Its events must have been parsed.
func (m *message) end() event.Point {
	if n := len(m.events); n > 0 {
		return event.Point{ID: m.events[n-1].ID, Mark: m.events[n-1].Mark()}
	}
	return m.after
}

// parseClaim and parseBound parse the payload of the other kinds.
func (m *message) parseClaim(seq uint64) (c claim, err error) {
	if json.Unmarshal(m.payload, &c) != nil || c.Boot == "" {
		return c, &foreignError{seq, "has a bad claim"}
	}
	return c, nil
}

func (m *message) parseBound(seq uint64) (at event.Point, err error) {
	var b bound
	if json.Unmarshal(m.payload, &b) != nil || !b.Horizon.Of(m.log) || b.Horizon.ID > m.after.ID || b.Horizon.ID%event.BlockSize != 0 {
		return at, &foreignError{seq, "has a bad horizon"}
	}
	return b.Horizon.Point(), nil
}

// pageBytes is the usual size of a page. A longer line has a page of its own.
const pageBytes = 256 << 10

// maxPages bounds the messages of one batch, which the server bounds, too.
const maxPages = 1000

var errTooManyPages = errors.New("the append has too many pages")

// paginate returns messages with events, which follow a position, of usual bytes at most each.
// Pages are larger, and have most bytes at most, if there would be more than a batch can have.
func paginate(subject, log string, after event.Point, evs []event.Event, usual, most int) ([]message, error) {
	bytes := 0
	for i := range evs {
		bytes += len(evs[i].Line()) + 1
	}
	usual = min(max(usual, bytes/(maxPages/2)), most)
	var messages []message
	for len(evs) > 0 {
		n, size := 0, 0
		for n < len(evs) && (n == 0 || size+len(evs[n].Line())+1 <= usual) {
			size += len(evs[n].Line()) + 1
			n++
		}
		payload := make([]byte, 0, size)
		for i := range evs[:n] {
			payload = append(append(payload, evs[i].Line()...), '\n')
		}
		m := message{subject: subject, log: log, after: after, payload: payload[:size-1], events: evs[:n], size: size - 1}
		messages = append(messages, m)
		after, evs = m.end(), evs[n:]
	}
	if len(messages) > maxPages {
		return nil, errTooManyPages
	}
	return messages, nil
}
