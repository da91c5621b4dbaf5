package source

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/sse"
)

// A Frame is one block of a source's stream, read as the knobs of its kind say.
type Frame struct {
	Event   bool   // otherwise the frame says something about the stream
	End     bool   // the history up to here was sent
	Cursor  string // the cursor that it bears, if any
	ID      string // the foreign id of the event, if any
	Ordinal int    // how many events before it in a row have the same id
	Type    string // as the server calls it
	Data    []byte

	upstream *event.Event // of an rstream server
}

// size returns about how many bytes of memory the parts of f take that a server determines.
func (f *Frame) size() int { return len(f.Cursor) + len(f.ID) + len(f.Type) + len(f.Data) }

// A frameReader reads the frames of one connection.
type frameReader struct {
	knobs   *Knobs
	users   userCursors // the cursor, if there is one for each user
	asked   []string    // the users that were asked for: others get no cursor
	last    string      // the id of the last event
	ordinal int
}

// newFrameReader returns the reader of a connection that begins after a cursor. asked are the users
// that the URL asks for, if each has a cursor.
func newFrameReader(k *Knobs, cursor string, asked []string) *frameReader {
	r := &frameReader{knobs: k, asked: asked}
	if k.Resume.PerUser {
		r.users = parseUserCursors(cursor)
	}
	return r
}

// read reads one frame.
func (r *frameReader) read(f sse.Frame) Frame {
	k := r.knobs
	in := Frame{Type: f.Type, Data: f.Data}
	control := k.Cursor.In == InEvent && f.Type == k.Cursor.Type
	in.Event = f.Data != nil && !control && !slices.Contains(k.Skip, f.Type)
	if k.End.In == InEvent && f.Type == k.End.Type {
		in.End = k.End.Name == "" || jsonMember(f.Data, k.End.Name) == "true"
		in.Event = false
	}
	if k.End.In == InMember && jsonMember(f.Data, k.End.Name) == "true" {
		in.End = true
	}
	if in.Event || k.Cursor.In == InID || control {
		in.Cursor = find(k.Cursor, f)
	}
	if in.Event {
		in.ID = in.Cursor
		if k.ID != (Place{}) {
			in.ID = find(k.ID, f)
		}
	}
	if k.Resume.PerUser && in.Cursor != "" {
		user := userOf(f.Data)
		if in.ID == in.Cursor {
			in.ID = user + ":" + in.Cursor
		}
		if slices.Contains(r.asked, user) { // or a server that invents users would make the cursor long
			r.users.advance(user, in.Cursor)
		}
		in.Cursor = r.users.String()
	}
	if in.Event && in.ID != "" {
		r.ordinal++
		if in.ID != r.last {
			r.ordinal = 0
		}
		r.last, in.Ordinal = in.ID, r.ordinal
	}
	return in
}

// maxCursor is the longest cursor or foreign id. Most servers refuse a longer header.
const maxCursor = 8 << 10

// find returns what f has in a place, "" if nothing. Text that could not be sent back as a
// cursor is none: it is too long, not UTF-8 or has control characters.
func find(p Place, f sse.Frame) (text string) {
	switch {
	case p.In == InID && f.OwnID:
		text = f.Cursor
	case p.In == InMember, p.In == InEvent && f.Type == p.Type:
		text = jsonMember(f.Data, p.Name)
	case p.In == InLine:
		text = dataLine(f.Data, p.Name)
	}
	isControl := func(r rune) bool { return r < ' ' || r == '\x7f' }
	if len(text) > maxCursor || !utf8.ValidString(text) || strings.ContainsFunc(text, isControl) {
		return ""
	}
	return text
}

// jsonMember returns a string, number or boolean in JSON, "" if it is not there. name has
// a dot before each member of a member.
func jsonMember(data []byte, name string) string {
	for more := true; more; {
		var first string
		first, name, more = strings.Cut(name, ".")
		var members map[string]json.RawMessage
		if json.Unmarshal(data, &members) != nil {
			return ""
		}
		data = members[first]
	}
	if len(data) == 0 {
		return ""
	}
	switch data[0] {
	case '"':
		var text string
		_ = json.Unmarshal(data, &text) // it is a valid one
		return text
	case '{', '[', 'n':
		return ""
	}
	return string(data)
}

// dataLine returns the text of a data line "name: text".
func dataLine(data []byte, name string) string {
	for line := range strings.Lines(string(data)) {
		if text, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(text)
		}
	}
	return ""
}

// userOf returns the user in the first data line, which is a URL that begins with one. A user becomes
// part of an id, so one that is too long for that is none.
func userOf(data []byte) string {
	line, _, _ := strings.Cut(string(data), "\n")
	if u, err := url.Parse(line); err == nil && len(u.Host) <= maxCursor {
		return u.Host
	}
	return ""
}

// userCursors are the cursors of all users, in a cursor that is one for each.
type userCursors map[string]string

func parseUserCursors(cursor string) userCursors {
	users := userCursors{}
	for pair := range strings.FieldsSeq(cursor) {
		if user, at, ok := strings.Cut(pair, ":"); ok {
			users[user] = at
		}
	}
	return users
}

// advance moves a user's cursor. A number does not go back.
func (u userCursors) advance(user, at string) {
	before, isNumber := isOrdered(u[user])
	if now, ok := isOrdered(at); user != "" && !strings.ContainsAny(user+at, " :") && (!ok || !isNumber || now >= before) {
		u[user] = at
	}
}

// String returns the form that parseUserCursors parses.
func (u userCursors) String() string {
	var pairs []string
	for user, at := range u {
		pairs = append(pairs, user+":"+at)
	}
	slices.Sort(pairs)
	return strings.Join(pairs, " ")
}

// asked returns the cursor to ask for: overlap less than a cursor says. A cursor that does
// not say when it was is asked for as it is.
func asked(cursor string, overlap int64) string {
	if overlap == 0 {
		return cursor
	}
	if n, err := strconv.ParseInt(cursor, 10, 64); err == nil {
		return strconv.FormatInt(max(0, n-overlap), 10)
	}
	var places []map[string]json.RawMessage
	if json.Unmarshal([]byte(cursor), &places) != nil {
		return cursor
	}
	for _, p := range places {
		if t, err := strconv.ParseInt(string(p["timestamp"]), 10, 64); err == nil && t > overlap {
			p["timestamp"] = fmt.Append(nil, t-overlap)
		}
	}
	b, err := json.Marshal(places)
	if err != nil {
		return cursor
	}
	return string(b)
}

// hasNoPlace reports whether a part of a cursor says no place: the server then sends on
// from its newest event, and loses those of the meantime.
func hasNoPlace(cursor string) bool {
	var places []map[string]json.RawMessage
	if json.Unmarshal([]byte(cursor), &places) != nil {
		return false
	}
	return slices.ContainsFunc(places, func(p map[string]json.RawMessage) bool {
		return string(p["offset"]) == "-1" && p["timestamp"] == nil
	})
}
