package source

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Knobs say how a kind of stream carries its cursor. The zero Knobs are those of plain
// server-sent events: the cursor is the id line, and goes into Last-Event-ID.
type Knobs struct {
	// Cursor is where a frame has the cursor, and ID where it has its foreign id. If ID is
	// zero, that is the cursor.
	Cursor, ID Place
	// Resume is how the cursor is sent.
	Resume Resume
	// First is sent as the cursor while there is none, to ask for the whole history. If
	// empty, the server chooses where the stream begins.
	First string
	// Begin is a query that is sent while there is no cursor, to ask for the history from a
	// time on. If empty, First says what is sent.
	Begin string
	// Overlap is by how much less is asked for than the cursor says: it is subtracted from
	// a cursor that is a number, and from each timestamp in one that is JSON.
	Overlap int64
	// Batch is a query that makes the server send what it has and end the stream. Each
	// connection that waits for more comes after one with it. If empty, there is none.
	Batch string
	// End marks that all the history was sent: a frame of a type, or a member that is
	// true. If zero, there is no such mark. EndClose means that the stream ends there.
	End      Place
	EndClose bool
	// Skip are the types of frames that are no events, such as heartbeats.
	Skip []string
	// Confirm are the response headers with the cursor from which the server sends on; the
	// first one that is there counts. If it is not the one that was asked for, events may be
	// missing. If empty, there is none.
	Confirm []string
	// Rstream means that the servers are rstream's, whose streams carry the cursor in their
	// own way: the other knobs are zero.
	Rstream bool
}

// A Place is where a frame has something.
type Place struct {
	In   PlaceIn
	Type string // of the frame, for InEvent
	Name string // of the JSON member, with dots, or of the data line
}

// A PlaceIn is a part of a frame.
type PlaceIn int

// The parts of a frame. InID is its id line, InMember a member of its data, which is JSON,
// InLine a data line "name: text", and InEvent a member of a frame of a type of its own,
// which is no event.
const (
	InID PlaceIn = iota
	InMember
	InLine
	InEvent
	Nowhere
)

// ParsePlace parses id, json:NAME, line:NAME, event:TYPE:NAME and none.
func ParsePlace(s string) (Place, error) {
	in, rest, _ := strings.Cut(s, ":")
	kind, name, control := strings.Cut(rest, ":")
	switch {
	case s == "id":
		return Place{}, nil
	case s == "none":
		return Place{In: Nowhere}, nil
	case in == "json" && rest != "":
		return Place{In: InMember, Name: rest}, nil
	case in == "line" && rest != "":
		return Place{In: InLine, Name: rest}, nil
	case in == "event" && control && kind != "" && name != "":
		return Place{In: InEvent, Type: kind, Name: name}, nil
	}
	return Place{}, fmt.Errorf("want id, json:NAME, line:NAME, event:TYPE:NAME or none, not %.80q", s)
}

// String returns the form that ParsePlace parses.
func (p Place) String() string {
	switch p.In {
	case InMember:
		return "json:" + p.Name
	case InLine:
		return "line:" + p.Name
	case InEvent:
		return "event:" + p.Type + ":" + p.Name
	case Nowhere:
		return "none"
	}
	return "id"
}

// ParseEnd parses close, event:TYPE, event:TYPE:NAME and json:NAME.
func ParseEnd(s string) (end Place, atClose bool, err error) {
	kind, isEvent := strings.CutPrefix(s, "event:")
	name, isMember := strings.CutPrefix(s, "json:")
	switch {
	case s == "close":
		return Place{}, true, nil
	case isEvent && kind != "":
		kind, name, _ = strings.Cut(kind, ":")
		return Place{In: InEvent, Type: kind, Name: name}, false, nil
	case isMember && name != "":
		return Place{In: InMember, Name: name}, false, nil
	}
	return Place{}, false, fmt.Errorf("want close, event:TYPE, event:TYPE:NAME or json:NAME, not %.80q", s)
}

// A Resume is how a cursor is sent: in Last-Event-ID if Query is empty, otherwise in that
// parameter of the URL.
type Resume struct {
	Query string
	// PerUser means that the cursor is one for each user: the parameter is there once for
	// each, as USER or USER:CURSOR.
	PerUser bool
}

// ParseResume parses header, query:NAME and users:NAME.
func ParseResume(s string) (Resume, error) {
	in, name, _ := strings.Cut(s, ":")
	switch {
	case s == "header":
		return Resume{}, nil
	case in == "query" && name != "":
		return Resume{Query: name}, nil
	case in == "users" && name != "":
		return Resume{Query: name, PerUser: true}, nil
	}
	return Resume{}, fmt.Errorf("want header, query:NAME or users:NAME, not %.80q", s)
}

// String returns the form that ParseResume parses.
func (r Resume) String() string {
	switch {
	case r.PerUser:
		return "users:" + r.Query
	case r.Query != "":
		return "query:" + r.Query
	}
	return "header"
}

// A Kind is a name for Knobs, and for the mapping that fits what the servers send.
type Kind struct {
	Name    string
	Knobs   Knobs
	Mapping Mapping

	fits  func(*url.URL) bool    // reports whether a URL is known to be of this kind
	begin func(time.Time) string // returns Knobs.Begin; nil if the servers take no time
}

// BeginAt returns k for a stream that begins at a time.
func (k Kind) BeginAt(t time.Time) (Kind, error) {
	if k.begin == nil {
		return k, fmt.Errorf("a server of kind %s cannot be asked for events since a time, but a URL may ask", k.Name)
	}
	k.Knobs.Begin = k.begin(t)
	return k, nil
}

// IsGuess reports whether KindOf has returned k because the URL does not tell the kind.
func (k Kind) IsGuess() bool { return k.Name == kinds[0].Name }

// kinds are the presets. The first one is used if no other fits.
var kinds = []Kind{
	{Name: "sse", fits: func(*url.URL) bool { return false }},
	{
		// The id is a JSON array with a place in each topic. A reconnect continues at
		// each timestamp plus a millisecond, and several events have the same one: so a
		// millisecond less is asked for, and repeats are known by meta.id. Canary events
		// test the pipeline.
		Name:    "wikimedia",
		Knobs:   Knobs{ID: Place{In: InMember, Name: "meta.id"}, Overlap: 1, Skip: []string{"error"}},
		Mapping: Mapping{User: ".meta.domain", Path: ".meta.stream", Where: `.meta.domain != "canary"`},
		fits:    func(u *url.URL) bool { return u.Hostname() == "stream.wikimedia.org" },
		begin:   func(t time.Time) string { return "since=" + strconv.FormatInt(t.UnixMilli(), 10) },
	},
	{
		// A hub tells in a header from where it sends on; another one means that it no
		// longer has the asked one. Before version 1 the header has the other name.
		Name:  "mercure",
		Knobs: Knobs{First: "earliest", Confirm: []string{"Mercure-Last-Event-Id", "Last-Event-Id"}},
		fits:  func(u *url.URL) bool { return strings.HasSuffix(u.Path, "/.well-known/mercure") },
	},
	{
		// Ids are random and in the data. Messages that are published while old ones are
		// sent may overtake them: so old ones are taken with a request of their own, which
		// ends. For an id that it no longer has, a server sends all that it has.
		Name: "ntfy",
		Knobs: Knobs{Cursor: Place{In: InMember, Name: "id"}, Resume: Resume{Query: "since"}, First: "all", Batch: "poll=1",
			EndClose: true, Skip: []string{"open", "keepalive", "poll_request"}},
		Mapping: Mapping{Path: ".topic"},
		fits:    func(u *url.URL) bool { return u.Hostname() == "ntfy.sh" },
		begin:   func(t time.Time) string { return "since=" + strconv.FormatInt(t.Unix(), 10) },
	},
	{
		// Every user has a cursor of its own. Without live=true a stream ends at its end.
		Name:  "pubky",
		Knobs: Knobs{Cursor: Place{In: InLine, Name: "cursor"}, Resume: Resume{Query: "user", PerUser: true}, EndClose: true},
		Mapping: Mapping{User: `split("\n")[0] | ltrimstr("pubky://") | split("/")[0]`,
			Path: `split("\n")[0] | ltrimstr("pubky://") | split("/")[1:] | join("/")`},
		fits: func(u *url.URL) bool { return strings.HasSuffix(u.Path, "/events-stream") },
	},
	{
		// A server of rstream's. Its events keep their authors' hashes, by which a log
		// knows them again. The URL is that of the server, or of its /events with topics.
		// It is no source unless it is named one: a copy of the server has its ids.
		Name:  "rstream",
		Knobs: Knobs{Rstream: true},
		fits:  func(*url.URL) bool { return false },
	},
}

// KindNames returns the names of all kinds.
func KindNames() (names []string) {
	for _, k := range kinds {
		names = append(names, k.Name)
	}
	return names
}

// KindNamed returns a kind by its name.
func KindNamed(name string) (Kind, error) {
	if i := slices.IndexFunc(kinds, func(k Kind) bool { return k.Name == name }); i >= 0 {
		return kinds[i], nil
	}
	return Kind{}, fmt.Errorf("want one of %s, not %.40q", strings.Join(KindNames(), ", "), name)
}

// KindOf returns the kind of the stream at u, sse if it is not known.
func KindOf(u *url.URL) Kind {
	for _, k := range kinds {
		if k.fits(u) {
			return k
		}
	}
	return kinds[0]
}

// ParseURL parses the URL of a source.
func ParseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	// The error of url.Parse may quote a part of a password.
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("want the URL of a stream, such as https://example.com/events")
	}
	if strings.Contains(u.Path, "@") { // or half of a password would be looked up as a host
		return nil, errors.New("write an @ or / of a password as %40 or %2F")
	}
	u.Fragment, u.RawFragment = "", ""
	return u, nil
}

// isOrdered returns the number that a foreign id is, if it is one: such ids only grow.
func isOrdered(id string) (n uint64, ok bool) {
	n, err := strconv.ParseUint(id, 10, 64)
	return n, err == nil && strconv.FormatUint(n, 10) == id
}
