package doctor

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// places returns the events that need an id of their own: all but heartbeats, the control events of
// rstream servers, which repeat the id before them, and the events of a state.
func (t *Transcript) places() (evs []Frame) {
	for _, f := range t.dispatched() {
		_, beats := f.heartbeat()
		isLive := t.isOurs() && f.Event == wire.LiveEvent
		ofState := t.isState() && f.ID == ""
		if !beats && !isLive && !ofState {
			evs = append(evs, f)
		}
	}
	return evs
}

// positions returns the events from which clients can resume: the places with an id. Many servers
// begin each connection with a greeting, which has none.
func (t *Transcript) positions() []Frame {
	return slices.DeleteFunc(t.places(), func(f Frame) bool { return f.ID == "" })
}

// checkIDs checks that clients can tell events apart, and resume by id.
func checkIDs(t *Transcript) (all []Finding) {
	const check = "ids"
	evs := t.places()
	if p := t.Text.EmptyIDs; p.Count > 0 && !t.isState() {
		all = append(all, newFinding(check, Warning, "give each event an id: an empty one makes clients forget their position", "%d ids are empty, the first is line %d", p.Count, p.Line))
	}
	if p := t.Text.LongIDs; p.Count > 0 {
		all = append(all, newFinding(check, Error, "keep ids short: clients send them back in a header", "%d ids have more than %d bytes, the first is line %d", p.Count, maxID, p.Line))
	}
	none, repeated, back, example := countIDs(evs)
	switch {
	case len(evs) == 0 && t.isState():
		all = append(all, newFinding(check, Note, "listen longer, or examine a stream with changes", "no event came after the state, so ids could not be checked"))
	case len(evs) == 0 && len(t.dispatched()) > 0 && !t.isOurs():
		all = append(all, newFinding(check, Note, "listen longer, or examine a stream with events", "no event came except heartbeats, so ids could not be checked"))
	case len(evs) == 0:
		all = append(all, newFinding(check, Note, "listen longer, or examine a stream with events", "no event came, so ids could not be checked"))
	case none == len(evs):
		all = append(all, newFinding(check, Warning, "give each event an id from which clients can resume: otherwise the events during a reconnection are lost", "none of %d events has an id: clients cannot resume", len(evs)))
	case none > 0:
		all = append(all, newFinding(check, Warning, "give each event its own id: the others inherit the id before them, and resuming there skips or repeats them", "%d of %d events have no id of their own", none, len(evs)))
	}
	if repeated > 0 {
		all = append(all, newFinding(check, Warning, "give each event its own id", "%d of %d events have the id of an earlier one, for example %q", repeated, len(evs), shortenLine(example)))
	}
	if back > 0 {
		all = append(all, newFinding(check, Warning, "send events in the order of their ids: otherwise clients that resume from the last one lose or repeat events", "ids go back %d times", back))
	}
	if len(all) == 0 {
		all = append(all, ok(check, "each of %d events has its own id", len(evs)))
	}
	return all
}

func countIDs(evs []Frame) (none, repeated, back int, example string) {
	seen := map[string]bool{}
	last := ""
	for _, f := range evs {
		if f.ID == "" {
			none++
			continue
		}
		if seen[f.ID] {
			repeated++
			example = f.ID
		}
		if compareIDs(last, f.ID) > 0 {
			back++
		}
		seen[f.ID], last = true, f.ID
	}
	return none, repeated, back, example
}

// compareIDs compares two ids of a kind with a known order: rstream cursors, or numbers
// separated by dots or dashes. It returns -1, 0 or 1, and 0 for ids of another kind.
func compareIDs(a, b string) int {
	x, errX := event.ParseCursor(a)
	y, errY := event.ParseCursor(b)
	if errX == nil && errY == nil {
		return cmp.Compare(x.ID, y.ID)
	}
	split := func(r rune) bool { return r == '.' || r == '-' }
	as, bs := strings.FieldsFunc(a, split), strings.FieldsFunc(b, split)
	if len(as) != len(bs) || !areNumbers(as) || !areNumbers(bs) {
		return 0
	}
	for i := range as {
		m, n := strings.TrimLeft(as[i], "0"), strings.TrimLeft(bs[i], "0")
		if c := cmp.Compare(len(m), len(n)); c != 0 {
			return c
		}
		if c := strings.Compare(m, n); c != 0 {
			return c
		}
	}
	return 0
}

func areNumbers(parts []string) bool {
	for _, p := range parts {
		if strings.Trim(p, "0123456789") != "" {
			return false
		}
	}
	return len(parts) > 0
}

// checkRetry checks that the delay in retry is reasonable.
func checkRetry(t *Transcript) []Finding {
	const check = "retry"
	if p := t.Text.BadRetry; p.Count > 0 {
		return []Finding{newFinding(check, Warning, "write retry as digits only: a number of milliseconds", "line %d is ignored: %q", p.Line, shortenLine(p.Text))}
	}
	if len(t.Text.Retries) == 0 {
		return []Finding{ok(check, "none: clients use their own delay, mostly 1 to 5 seconds")}
	}
	switch d := t.Text.Retries[len(t.Text.Retries)-1]; {
	case d < 100*time.Millisecond:
		return []Finding{newFinding(check, Warning, "send a second or more: when the server restarts, all clients reconnect at once", "retry makes clients reconnect after %s", brief(d))}
	case d > time.Minute:
		return []Finding{newFinding(check, Warning, "send a few seconds, in milliseconds: clients stay disconnected that long after each drop", "retry makes clients wait %s before they reconnect", brief(d))}
	default:
		return []Finding{ok(check, "clients reconnect after %s", brief(d))}
	}
}

// A returning is a position to resume from: the id of an event, and the event that must
// come next.
type returning struct {
	id   string
	evs  []Frame // of the first connection, those with an id
	next int     // index in evs of the next event; len(evs) if it is not known
}

// chooseReturn chooses the event to resume from: of events with ids, the first one from the middle
// on whose id is unique and fits a header.
func chooseReturn(evs []Frame) (returning, bool) {
	count := map[string]int{}
	for _, f := range evs {
		count[f.ID]++
	}
	for i := max(0, (len(evs)-1)/2); i < len(evs); i++ {
		if id := evs[i].ID; count[id] == 1 && sendable(id) {
			return returning{id, evs, i + 1}, true
		}
	}
	return returning{}, false
}

// sendable reports whether an id is valid in a header.
func sendable(id string) bool {
	return !strings.ContainsFunc(id, func(r rune) bool { return r < 0x20 || r == 0x7f }) && strings.TrimSpace(id) == id
}

// checkResume checks where a stream resumes after a reconnection.
func checkResume(r returning, t *Transcript) Finding {
	const check = "resume"
	const lossAdvice = "send everything after Last-Event-ID, or refuse the id: otherwise clients lose events without noticing"
	const repeatAdvice = "start just after Last-Event-ID; until then, clients must drop repeated events by id"
	due := r.next < len(r.evs)
	if t.Err == nil && t.Status == http.StatusNoContent && t.isOurs() { // browsers stop
		if due {
			return newFinding(check, Error, lossAdvice, "after the id %q, the server answers 204, though %d later events came before", shortenLine(r.id), len(r.evs)-r.next)
		}
		return ok(check, "after the id %q of the last event, the server answers 204: the range has ended", shortenLine(r.id))
	}
	if t.Err != nil || !t.IsStream {
		return newFinding(check, Error, "accept every id that was sent as Last-Event-ID", "Last-Event-ID: %s of an event that had just come: %s", shortenLine(r.id), t.outcome())
	}
	if t.beginsState() {
		return ok(check, "after the id %q, the stream begins with a state again: nothing is lost", shortenLine(r.id))
	}
	evs := t.positions()
	if len(evs) == 0 {
		if due {
			return newFinding(check, Error, lossAdvice, "after the id %q, no event with an id came in %s, though %d later events came before: the stream resumes at its end", shortenLine(r.id), brief(t.Ended), len(r.evs)-r.next)
		}
		return newFinding(check, Note, "examine a stream with more events to learn more", "after the id %q of the last event, that event is not repeated", shortenLine(r.id))
	}
	first := evs[0]
	at := frameIndex(r.evs, first.ID)
	switch {
	case due && at == r.next:
		return ok(check, "after the id %q, the stream resumes with the next event", shortenLine(r.id))
	case first.ID == r.id:
		return newFinding(check, Warning, repeatAdvice, "after the id %q, that event itself is repeated", shortenLine(r.id))
	case at == 0:
		return newFinding(check, Warning, repeatAdvice, "after the id %q, the stream starts at its beginning again: the id is ignored", shortenLine(r.id))
	case at >= 0 && at < r.next:
		return newFinding(check, Warning, repeatAdvice, "after the id %q, %d earlier events are repeated", shortenLine(r.id), r.next-at)
	case at > r.next:
		return newFinding(check, Error, lossAdvice, "after the id %q, %d events are skipped", shortenLine(r.id), at-r.next)
	case !due:
		return newFinding(check, Note, "", "after the id %q of the last event, the stream resumes with one that had not come before", shortenLine(r.id))
	case compareIDs(first.ID, r.id) < 0:
		return newFinding(check, Warning, repeatAdvice, "after the id %q, the stream resumes with %q, which is older", shortenLine(r.id), shortenLine(first.ID))
	case compareIDs(first.ID, r.evs[len(r.evs)-1].ID) > 0:
		return newFinding(check, Error, lossAdvice, "after the id %q, the stream resumes with %q: the %d events in between are skipped", shortenLine(r.id), shortenLine(first.ID), len(r.evs)-r.next)
	}
	return newFinding(check, Note, "compare by hand: the order of these ids is unknown", "after the id %q, the stream resumes with %q and not with %q", shortenLine(r.id), shortenLine(first.ID), shortenLine(r.evs[r.next].ID))
}

func frameIndex(evs []Frame, id string) int {
	for i, f := range evs {
		if f.ID == id {
			return i
		}
	}
	return -1
}

// noSuchID is an id that no server has sent.
const noSuchID = "rstream-doctor-no-such-id"

// checkStrangeID checks how the server handles an invalid Last-Event-ID. first is the
// stream without one.
func checkStrangeID(t, first *Transcript) Finding {
	const check = "strange-id"
	evs, before := t.positions(), first.positions()
	switch {
	case t.Err != nil:
		return newFinding(check, Note, "", "with an invalid id: %s", t.outcome())
	case t.Status >= 500:
		return newFinding(check, Warning, "refuse it with a status below 500: otherwise clients retry for ever", "with an invalid id: %s", t.outcome())
	case !t.IsStream:
		return ok(check, "an invalid id is refused: %s", t.outcome())
	case len(evs) > 0 && len(before) > 0 && evs[0].ID == before[0].ID && evs[0].Sum == before[0].Sum:
		return newFinding(check, Note, "a client with a lost position gets all events again, without an error", "an invalid id is accepted silently: the stream starts as without an id")
	case len(evs) > 0:
		return newFinding(check, Note, "a client with a lost position gets no error", "an invalid id is accepted silently: the stream starts with %q", shortenLine(evs[0].ID))
	case t.End == clean || t.End == dropped:
		return newFinding(check, Warning, "refuse it with a status below 500: otherwise clients retry for ever", "with an invalid id, the stream ends without an event")
	}
	return newFinding(check, Note, "a client with a lost position gets no error, and not the events it missed", "an invalid id is accepted silently: no event with an id came in %s", brief(t.Ended))
}
