package pages

import (
	"cmp"
	"database/sql"
	"slices"

	"github.com/rstream-dev/rstream/window"
)

// unposted are the newest events that Append has stored and that have no postings yet, so
// that PostBlock need not read them back. Their ids are dense: those of a mirror of some topics
// have gaps, and are not kept. After anything that may have moved them, or may not have stored
// them, they are forgotten: PostBlock then reads the pages.
type unposted struct{ events []placedEvent }

// A placedEvent is an event of a storage and where it is.
type placedEvent struct {
	storage int64
	Posted
}

// add adds the events that follow, whose ids ascend. If these have gaps, all events are
// forgotten, and if there is one before them, those before it are.
func (u *unposted) add(storages []int64, places []Posted) {
	if len(places) == 0 {
		return
	}
	first, last := places[0].ID, places[len(places)-1].ID
	if int(last-first) != len(places)-1 {
		u.forget()
		return
	}
	if n := len(u.events); n > 0 && first != u.events[n-1].ID+1 {
		u.events = u.events[:0]
	}
	for i := range places {
		u.events = append(u.events, placedEvent{storages[i], places[i]})
	}
}

// forget forgets all events.
func (u *unposted) forget() { u.events = nil }

// forgetPage forgets all events if some may be in the page that has a key.
func (u *unposted) forgetPage(key int64) {
	if len(u.events) > 0 && key >= u.events[0].Page { // the pages of later events have greater keys
		u.forget()
	}
}

// take removes the events up to the end of span. It returns those in span, sorted by octet,
// or nil if it does not have all.
func (u *unposted) take(span window.Span) []placedEvent {
	if len(u.events) == 0 {
		return nil
	}
	first := u.events[0].ID
	end := min(max(int(span.To-first)+1, 0), len(u.events))
	var evs []placedEvent
	if from := int(span.From + 1 - first); first <= span.From+1 && end-from == int(span.To-span.From) {
		evs = slices.Clone(u.events[from:end])
		slices.SortFunc(evs, func(a, b placedEvent) int {
			return cmp.Or(cmp.Compare(octetOf(a.storage), octetOf(b.storage)), cmp.Compare(a.ID, b.ID))
		})
	}
	u.events = slices.Delete(u.events, 0, end)
	return evs
}

// postPlaces writes the postings of a block of which all events are known, sorted by octet.
func (t *Tables) postPlaces(tx *sql.Tx, block uint64, evs []placedEvent) error {
	var chunks []byte
	for len(evs) > 0 {
		key, n := octetKey{octetOf(evs[0].storage), block}, 1
		for n < len(evs) && octetOf(evs[n].storage) == key.octet {
			n++
		}
		chunks, _ = appendChunk(chunks[:0], block, evs[:n], key.sum())
		if err := t.insertPosting(tx, key, membersOf(evs[:n]), n, chunks); err != nil {
			return err
		}
		evs = evs[n:]
	}
	return nil
}
