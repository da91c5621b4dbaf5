package doctor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// maxStretch is the most bytes of NDJSON that are compared.
const maxStretch = 8 << 20

// examineOurs checks the promises of an rstream server.
func (e *exam) examineOurs(ctx context.Context, first *Transcript) {
	log := wire.LogOf(first.Header)
	if e.root == nil {
		e.root = e.requestPlain(ctx, e.urlOf(""), wire.JSON)
	}
	steps := []func() Finding{
		func() Finding { return checkServer(e.root, log) },
		func() Finding {
			return checkHealth(e.requestPlain(ctx, e.urlOf("healthz"), "*/*"), e.requestPlain(ctx, e.urlOf("readyz"), "*/*"))
		},
	}
	if first.isLog() {
		steps = append(steps,
			func() Finding { return checkOtherLog(e.reconnect(ctx, strangeCursor(log), glanceTime), log) },
			func() Finding { return e.checkExact(ctx) })
	}
	for _, step := range steps {
		f := step()
		if ctx.Err() != nil {
			return
		}
		e.addFindings(f)
	}
}

func (e *exam) requestPlain(ctx context.Context, u *url.URL, accept string) *Transcript {
	return e.probe.recordAnswer(ctx, ask{url: u, accept: accept, listen: answerTime})
}

// A serverInfo is the server information at the root of an rstream server.
type serverInfo struct {
	Name, Version, Log string
	Head, Horizon      event.Cursor
}

// serverInfo returns the server information in the response, if it is that.
func (t *Transcript) serverInfo() (self serverInfo, is bool) {
	err := json.Unmarshal(t.Body, &self)
	return self, err == nil && self.Name == "rstream"
}

// checkServer checks the server information at /.
func checkServer(root *Transcript, log string) Finding {
	const check = "server"
	self, isInfo := root.serverInfo()
	switch {
	case root.Err != nil || root.Status != http.StatusOK:
		return newFinding(check, Note, "route / to the same server as /events", "no server information: / answers %s", root.outcome())
	case !isInfo:
		return newFinding(check, Note, "route / to the same server as /events", "no server information: / is not from an rstream server")
	case self.Log != log || wire.LogOf(root.Header) != log:
		return newFinding(check, Error, "route all paths to the same server", "/ is from the log %s, the stream from %s", shortenLine(self.Log), log)
	case self.Horizon.ID > self.Head.ID:
		return newFinding(check, Error, "check the server's file with rstream verify", "the horizon %s is above the head %s", self.Horizon.ID, self.Head.ID)
	}
	return ok(check, "rstream %s, log %s from %s to %s", shortenLine(self.Version), log, self.Horizon.ID, self.Head.ID)
}

// checkHealth checks the paths that monitoring uses.
func checkHealth(healthz, readyz *Transcript) Finding {
	const check = "health"
	for _, t := range []*Transcript{healthz, readyz} {
		if t.Err != nil || t.Status != http.StatusOK {
			return newFinding(check, Warning, "make the proxy pass this path on, at least for monitoring", "%s: %s", t.URL.Path, t.outcome())
		}
	}
	return ok(check, "/healthz and /readyz answer 200")
}

// strangeCursor returns a cursor of a log other than the given one.
func strangeCursor(log string) string {
	other := strings.Repeat("Z", event.LogIDLen)
	if strings.HasPrefix(log, "ZZ") {
		other = strings.Repeat("0", event.LogIDLen)
	}
	return event.CursorOf(1, other).String()
}

// checkOtherLog checks that a cursor of another log is refused.
func checkOtherLog(t *Transcript, log string) Finding {
	if t.Err == nil && t.Status == http.StatusConflict && wire.LogOf(t.Header) == log {
		return ok("strange-id", "a cursor of another log is refused with 409")
	}
	return newFinding("strange-id", Error, "make the proxy pass on Last-Event-ID and the status 409", "a cursor of another log must be refused with 409, but the response is %s", t.outcome())
}

// checkExact fetches a range as NDJSON, then as a stream that is cut in the middle and
// resumed, and compares the two.
func (e *exam) checkExact(ctx context.Context) Finding {
	const check = "exact"
	lines := e.requestPlain(ctx, e.urlWith("last", newest, "until", "now"), wire.NDJSON)
	if lines.Err != nil || lines.Status != http.StatusOK {
		return newFinding(check, Error, "make the proxy pass on Accept", "cannot fetch the events as NDJSON: %s", lines.outcome())
	}
	from, okFrom := wire.PositionIn(lines.Header, wire.HeaderFrom)
	to, okTo := wire.PositionIn(lines.Header, wire.HeaderTo)
	switch {
	case !okFrom || !okTo:
		return newFinding(check, Error, "make the proxy pass on all headers", "the response lacks its range: %s and %s are missing", wire.HeaderFrom, wire.HeaderTo)
	case lines.Cause != nil:
		return newFinding(check, Error, "see the logs of the server and its proxies", "the NDJSON response broke: %v", shortCause(lines.Cause))
	case len(lines.Body) == maxStretch:
		return newFinding(check, Note, "use a narrower topic", "the newest %s events are too large to compare", newest)
	case len(lines.Body) == 0:
		return newFinding(check, Note, "append an event first, or use another topic", "the topic has no events to compare")
	}
	part := e.urlWith("since", from.String(), "until", to.String())
	cut := e.probe.recordAnswer(ctx, ask{url: part, accept: wire.SSE, listen: answerTime, limit: int64(len(lines.Body)) / 2})
	rest := e.probe.recordAnswer(ctx, ask{url: part, accept: wire.SSE, listen: answerTime, cursor: lastFrameID(cut.Frames)})
	return compareParts(lines.Body, cut, rest)
}

// urlWith returns the URL of the stream with another range.
func (e *exam) urlWith(pairs ...string) *url.URL {
	u, q := *e.target, e.target.Query()
	for _, name := range []string{"since", "last", "until", "limit", "values"} {
		q.Del(name)
	}
	for i := 0; i < len(pairs); i += 2 {
		q.Set(pairs[i], pairs[i+1])
	}
	u.RawQuery = q.Encode()
	return &u
}

// lastFrameID returns the last id among the frames, from which a client resumes, or "".
func lastFrameID(frames []Frame) (id string) {
	for _, f := range frames {
		if f.HasID {
			id = f.ID
		}
	}
	return id
}

// compareParts checks that the two parts of a stream carry the same events as the lines.
func compareParts(body []byte, cut, rest *Transcript) Finding {
	const check = "exact"
	for _, t := range []*Transcript{cut, rest} {
		if t.Err != nil || !t.IsStream {
			return newFinding(check, Error, "see the logs of the server and its proxies", "the server sends a range as NDJSON, but not as a stream: %s", t.outcome())
		}
	}
	lines := bytes.Split(bytes.TrimSuffix(body, []byte("\n")), []byte("\n"))
	for _, line := range lines {
		if _, err := event.ParseLine(line); err != nil {
			return newFinding(check, Error, "a proxy changes events, or the log is damaged; check its file with rstream verify", "an event does not match its hash: %v", err)
		}
	}
	evs := append(cut.places(), rest.places()...)
	for i, line := range lines {
		switch {
		case i >= len(evs):
			return newFinding(check, Error, "a proxy loses events", "in the resumed stream, %d of %d events are missing at the end", len(lines)-i, len(lines))
		case evs[i].Sum != sha256.Sum256(line):
			return newFinding(check, Error, "a proxy changes or loses events", "in the resumed stream, event %d of %d is a different one", i+1, len(lines))
		}
	}
	if len(evs) > len(lines) {
		return newFinding(check, Error, "a proxy repeats events", "in the resumed stream, %d events come more than once", len(evs)-len(lines))
	}
	return ok(check, "%d events as NDJSON, and as a stream resumed after %d of them, are the same", len(lines), len(cut.places()))
}
