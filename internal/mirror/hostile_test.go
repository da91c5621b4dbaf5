package mirror_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/mirror"
	"github.com/rstream-dev/rstream/internal/wire"
)

const hostileLog = "0123456789ABCDEF"

// A hostile upstream sends what a test tells it to: history, then a stream.
type hostile struct {
	header        map[string]string // in place of what it would send with history
	lines, stream string
	to            event.ID // of history
}

func (h *hostile) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	cursor := func(id event.ID) string { return event.CursorOf(id, hostileLog).String() }
	after, _ := event.ParseCursor(strings.Split(r.URL.Query().Get("since")+r.Header.Get(wire.HeaderLastEventID), "&")[0])
	w.Header().Set(wire.HeaderLog, hostileLog)
	w.Header().Set(wire.HeaderFrom, cursor(after.ID))
	w.Header().Set(wire.HeaderTo, cursor(max(h.to, after.ID)))
	kind, body := wire.NDJSON, h.lines
	switch {
	case r.URL.Path == "/":
		kind, body = wire.JSON, fmt.Sprintf(`{"log":%q,"head":%q,"horizon":%q}`, hostileLog, cursor(9), cursor(0))
	case r.Header.Get("Accept") == wire.SSE:
		kind, body = wire.SSE, h.stream
	default:
		if after.ID > 0 {
			body = ""
		}
		for name, value := range h.header {
			w.Header().Set(name, value)
		}
	}
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", kind)
	}
	fmt.Fprint(w, body)
}

// Nothing is stored of what an upstream must not send, nor of what follows it: a mirror has what
// came before, and says what is wrong.
func TestHostileUpstream(t *testing.T) {
	var evs []event.Event
	for id := event.ID(1); id <= 9; id++ {
		d := event.Draft{User: "alice", Path: "x", Type: event.Put, Key: id.String(), Value: []byte("1")}
		evs = append(evs, event.New(id, event.Time(1e15)+event.Time(id), d, d.Hash()))
	}
	lines := func(ids ...int) (text string) {
		for _, id := range ids {
			text += string(evs[id-1].Line()) + "\n"
		}
		return text
	}
	frames := func(ids ...int) (text string) {
		for _, id := range ids {
			text += string(wire.AppendEvent(nil, &evs[id-1], hostileLog))
		}
		return text
	}
	back := event.New(3, 1, evs[2].Draft, evs[2].Hash)
	for name, c := range map[string]struct {
		hostile
		has  event.ID
		says string
	}{
		"hole in history":       {hostile{lines: lines(1, 2, 4, 5), to: 5}, 2, "sent event 0000000000004 after 0000000000002"},
		"hole in a stream":      {hostile{lines: lines(1, 2), to: 2, stream: frames(3, 5)}, 3, "sent event 0000000000005 after 0000000000003"},
		"position beyond":       {hostile{stream: frames(1) + "id: 0000000000007.01234\n\n"}, 1, "went on to 0000000000007 without the events after 0000000000001"},
		"live beyond":           {hostile{stream: frames(1) + "id: 0000000000002.01234\nevent: live\ndata: {}\n\n"}, 1, "without the events"},
		"wrong hash":            {hostile{lines: lines(1) + strings.Replace(lines(2), `"value":1`, `"value":2`, 1), to: 2}, 1, "sent a bad event"},
		"no event":              {hostile{lines: lines(1) + "{}\n", to: 2}, 1, "sent a bad event"},
		"another mark":          {hostile{stream: frames(1) + strings.Replace(frames(2), "id: 0000000000002.01234.", "id: 0000000000002.01234.000000\nignored: ", 1)}, 1, "sent event 0000000000002 as 0000000000002.01234.000000"},
		"another id":            {hostile{stream: frames(1) + strings.Replace(frames(2), "id: 0000000000002", "id: 0000000000003", 1)}, 1, "sent event 0000000000002 as 0000000000003"},
		"cursor of another log": {hostile{stream: frames(1) + strings.ReplaceAll(frames(2), ".01234", ".ZZZZZ")}, 1, "which is not of the log"},
		"time goes back":        {hostile{lines: lines(1, 2) + string(back.Line()) + "\n", to: 3}, 0, "event 0000000000003 does not follow"},
		"other range":           {hostile{lines: lines(1), header: map[string]string{wire.HeaderFrom: "0000000000001"}}, 0, "did not send the events after"},
		"nothing":               {hostile{to: 3}, 0, "sent no event after"},
		"another type":          {hostile{lines: lines(1), to: 1, header: map[string]string{"Content-Type": "text/html"}}, 0, `sent "text/html"`},
		"compressed":            {hostile{lines: lines(1), to: 1, header: map[string]string{"Content-Encoding": "br"}}, 0, "was not asked for"},
		"no log":                {hostile{lines: lines(1), to: 1, header: map[string]string{wire.HeaderLog: ""}}, 0, "names no log"},
		"another log":           {hostile{lines: lines(1), to: 1, header: map[string]string{wire.HeaderLog: "ZZZZZZZZZZZZZZZZ"}}, 0, "serves the log ZZZZZZZZZZZZZZZZ"},
	} {
		t.Run(name, func(t *testing.T) {
			up := newNode(t)
			var h http.Handler = &c.hostile
			up.handler.Store(&h)
			client, err := mirror.NewHTTP(mirror.HTTPConfig{URL: up.url})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			near := newNode(t)
			near.startWith(t, client, hostileLog)
			until(t, name, func() bool { return strings.Contains(near.mirror.Report().Trouble, c.says) })
			if head := near.db.Head(); head != c.has {
				t.Errorf("the mirror is at %s, want %s", head, c.has)
			}
		})
	}
}
