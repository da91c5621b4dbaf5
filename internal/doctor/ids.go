package doctor

import (
	"cmp"
	"strings"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// places returns the events that have a place in the stream: all but the control events
// of our own servers, which repeat the id before them.
func (t *Transcript) places() (evs []Frame) {
	for _, f := range t.events() {
		if !t.isOurs() || f.Event != wire.LiveEvent {
			evs = append(evs, f)
		}
	}
	return evs
}

// checkIDs says whether clients can tell events apart and come back.
func checkIDs(t *Transcript) (all []Finding) {
	const check = "ids"
	evs := t.places()
	if p := t.Text.EmptyIDs; p.Count > 0 {
		all = append(all, found(check, Warning, "give each event an id: an empty one makes clients forget their place", "%d ids are empty, the first is line %d", p.Count, p.Line))
	}
	if p := t.Text.LongIDs; p.Count > 0 {
		all = append(all, found(check, Error, "clients send the id back as a header: keep it short", "%d ids have more than %d bytes, the first is line %d", p.Count, maxID, p.Line))
	}
	none, repeated, back, example := countIDs(evs)
	switch {
	case len(evs) == 0:
		all = append(all, found(check, Note, "listen longer, or name a stream with events", "no event came, so nothing can be said about ids"))
	case none == len(evs):
		all = append(all, found(check, Warning, "give each event an id that leads back to it: without, what happens during a reconnection is lost", "none of %d events has an id: clients cannot resume", len(evs)))
	case none > 0:
		all = append(all, found(check, Warning, "give every event an id of its own: the others go by the one before them, and resuming there skips or repeats them", "%d of %d events have no id of their own", none, len(evs)))
	}
	if repeated > 0 {
		all = append(all, found(check, Warning, "give each event an id of its own", "%d of %d events have the id of an earlier one, such as %q", repeated, len(evs), short(example)))
	}
	if back > 0 {
		all = append(all, found(check, Warning, "send events in the order of their ids: clients that come back with the last one lose or repeat events otherwise", "ids go back %d times", back))
	}
	if len(all) == 0 {
		all = append(all, ok(check, "each of %d events has an id of its own", len(evs)))
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
		if order(last, f.ID) > 0 {
			back++
		}
		seen[f.ID], last = true, f.ID
	}
	return none, repeated, back, example
}

// order compares two ids, -1, 0 or 1, if they are of a kind whose order is known: cursors
// of rstream, or numbers separated by dots or dashes. Otherwise it returns 0.
func order(a, b string) int {
	x, errX := event.ParseCursor(a)
	y, errY := event.ParseCursor(b)
	if errX == nil && errY == nil {
		return cmp.Compare(x.ID, y.ID)
	}
	split := func(r rune) bool { return r == '.' || r == '-' }
	as, bs := strings.FieldsFunc(a, split), strings.FieldsFunc(b, split)
	if len(as) != len(bs) || !numbers(as) || !numbers(bs) {
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

func numbers(parts []string) bool {
	for _, p := range parts {
		if strings.Trim(p, "0123456789") != "" {
			return false
		}
	}
	return len(parts) > 0
}

// checkRetry says whether the delay that clients are told makes sense.
func checkRetry(t *Transcript) []Finding {
	const check = "retry"
	if p := t.Text.BadRetry; p.Count > 0 {
		return []Finding{found(check, Warning, "retry takes digits alone, milliseconds", "line %d is ignored: %q", p.Line, short(p.Text))}
	}
	if len(t.Text.Retries) == 0 {
		return []Finding{ok(check, "none: clients take their own, mostly 1 to 5 seconds")}
	}
	switch d := t.Text.Retries[len(t.Text.Retries)-1]; {
	case d < 100*time.Millisecond:
		return []Finding{found(check, Warning, "tell a second or more: all clients come back at once when the server restarts", "clients are told to come back after %s", brief(d))}
	case d > time.Minute:
		return []Finding{found(check, Warning, "it is milliseconds: tell a few seconds, or clients are away that long after each drop", "clients are told to come back only after %s", brief(d))}
	default:
		return []Finding{ok(check, "clients are told to come back after %s", brief(d))}
	}
}

// A returning is where a client of a stream would come back: with the id of one event,
// and which is due then.
type returning struct {
	id   string
	evs  []Frame // of the first time
	next int     // in evs; len(evs) if none is known
}

// comeBack chooses the event to come back with: in the middle of those that came, if
// its id is the only one of its kind.
func comeBack(evs []Frame) (returning, bool) {
	count := map[string]int{}
	for _, f := range evs {
		count[f.ID]++
	}
	for i := max(0, (len(evs)-1)/2); i < len(evs); i++ {
		if id := evs[i].ID; id != "" && count[id] == 1 && sendable(id) {
			return returning{id, evs, i + 1}, true
		}
	}
	return returning{}, false
}

// sendable reports whether an id can stand in a header.
func sendable(id string) bool {
	return !strings.ContainsFunc(id, func(r rune) bool { return r < 0x20 || r == 0x7f }) && strings.TrimSpace(id) == id
}

// checkResume says where a stream goes on for a client that comes back.
func checkResume(r returning, t *Transcript) Finding {
	const check = "resume"
	const lossAdvice = "send everything after Last-Event-ID, or refuse the id: clients lose what lies in between and never know"
	const repeatAdvice = "begin just after Last-Event-ID; clients must drop repeated events by id until then"
	due := r.next < len(r.evs)
	if t.Err != nil || !t.IsStream {
		return found(check, Error, "an id that was sent must be good to come back with", "Last-Event-ID: %s of an event that had just come: %s", short(r.id), t.outcome())
	}
	evs := t.places()
	if len(evs) == 0 {
		if due {
			return found(check, Error, lossAdvice, "back with the id %q, nothing came in %s, though %d later events had come before: it goes on from now", short(r.id), brief(t.Ended), len(r.evs)-r.next)
		}
		return found(check, Note, "name a stream with more events to know more", "back with the id %q of the last event, that event does not come again", short(r.id))
	}
	first := evs[0]
	at := indexOf(r.evs, first.ID)
	switch {
	case due && first.ID != "" && at == r.next:
		return ok(check, "back with the id %q, it goes on with the event just after", short(r.id))
	case first.ID == r.id:
		return found(check, Warning, repeatAdvice, "back with the id %q, that event itself comes again", short(r.id))
	case at == 0:
		return found(check, Warning, repeatAdvice, "back with the id %q, the stream begins again at its beginning: the id is ignored", short(r.id))
	case at >= 0 && at < r.next:
		return found(check, Warning, repeatAdvice, "back with the id %q, %d events from before it come again", short(r.id), r.next-at)
	case at > r.next:
		return found(check, Error, lossAdvice, "back with the id %q, %d events are skipped", short(r.id), at-r.next)
	case !due:
		return found(check, Note, "", "back with the id %q of the last event, it went on with one that had not come before", short(r.id))
	case order(first.ID, r.id) < 0:
		return found(check, Warning, repeatAdvice, "back with the id %q, it goes on with %q, which is older", short(r.id), short(first.ID))
	case order(first.ID, r.evs[len(r.evs)-1].ID) > 0:
		return found(check, Error, lossAdvice, "back with the id %q, it goes on with %q: the %d events in between are skipped", short(r.id), short(first.ID), len(r.evs)-r.next)
	}
	return found(check, Note, "compare by hand: the order of these ids is not known", "back with the id %q, it goes on with %q and not with %q", short(r.id), short(first.ID), short(r.evs[r.next].ID))
}

func indexOf(evs []Frame, id string) int {
	for i, f := range evs {
		if id != "" && f.ID == id {
			return i
		}
	}
	return -1
}

// noSuchID is the id of no event anywhere.
const noSuchID = "rstream-doctor-no-such-id"

// checkStrangeID says what becomes of a client that comes back with an id that cannot
// be. first is how the stream began without.
func checkStrangeID(t, first *Transcript) Finding {
	const check = "strange-id"
	evs, before := t.places(), first.places()
	switch {
	case t.Err != nil:
		return found(check, Note, "", "back with an id that cannot be: %s", t.outcome())
	case t.Status >= 500:
		return found(check, Warning, "refuse it with a status below 500: clients try again for ever", "back with an id that cannot be: %s", t.outcome())
	case !t.IsStream:
		return ok(check, "an id that cannot be is refused: %s", t.outcome())
	case len(evs) > 0 && len(before) > 0 && evs[0].ID == before[0].ID && evs[0].Sum == before[0].Sum:
		return found(check, Note, "a client that lost its place gets all again and is not told", "an id that cannot be is taken silently: the stream begins as without one")
	case len(evs) > 0:
		return found(check, Note, "a client that lost its place is not told", "an id that cannot be is taken silently: the stream begins with %q", short(evs[0].ID))
	case t.End == clean || t.End == dropped:
		return found(check, Warning, "refuse it with a status below 500: clients try again for ever", "back with an id that cannot be, the stream ends without an event")
	}
	return found(check, Note, "a client that lost its place is not told, and what it missed does not come", "an id that cannot be is taken silently: nothing came in %s", brief(t.Ended))
}
