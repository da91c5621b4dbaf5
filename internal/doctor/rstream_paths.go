package doctor

import (
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/rstream-dev/rstream/internal/wire"
)

// An rstream server has two kinds of streams. A log is a range of events, each with an id. A state
// is replaced as a whole, so its events have no ids; changes with ids follow. It takes no range, and
// to a reader with an unknown cursor the server sends a state again.

// isLog reports whether the response is a log of an rstream server.
func (t *Transcript) isLog() bool { return t.isOurs() && isLogURL(t.URL) }

// isState reports whether the response is a state of an rstream server.
func (t *Transcript) isState() bool { return t.isOurs() && !isLogURL(t.URL) }

// beginsState reports whether a state has begun in the stream.
func (t *Transcript) beginsState() bool {
	return t.isState() && slices.ContainsFunc(t.Frames, func(f Frame) bool { return f.Event == wire.StateEvent })
}

// isLogURL reports whether the URL of a stream of an rstream server is that of a log. The last part
// of the path does not tell: the board has /api/events, and rooms are below /api/room/. Only logs
// require a topic or storages.
func isLogURL(u *url.URL) bool {
	q := u.Query()
	switch path.Base(u.Path) {
	case "events":
		return q.Has("topic")
	case "get":
		return q.Has("id") || q.Has("items")
	}
	return false
}

// rootOf returns the path of the root of the rstream server that has a stream at u.
func rootOf(u *url.URL) string {
	if !isLogURL(u) {
		if root, topic, _ := strings.Cut(u.Path, wire.PathRoom); topic != "" {
			return root + "/"
		}
		for _, board := range []string{wire.PathConnections, wire.PathChanges} {
			if root, is := strings.CutSuffix(u.Path, board); is {
				return root + "/"
			}
		}
	}
	return u.Path[:strings.LastIndex(u.Path, "/")+1]
}
