package pages

import (
	"bytes"
	"database/sql"

	"github.com/rstream-dev/rstream/event"
)

// StoreOld stores events that a file of an earlier version has kept in another way, none of
// which is in a page. Their ids ascend from the last one that was stored. Those up to posted
// get postings.
//
// The lines need not be sound: one that is not the event's is stored as it is, in a page of
// its own, so that the lines around it can be read by themselves.
func (t *Tables) StoreOld(tx *sql.Tx, lines []Line, posted event.ID) error {
	b := t.newBatch(tx)
	if b.open == nil {
		b.open = b.newestPage()
	}
	for len(lines) > 0 {
		n := 0
		for n < len(lines) && lines[n].isSound() {
			n++
		}
		alone := n == 0
		if alone {
			n, b.open = 1, nil
		}
		if err := b.storeOld(lines[:n], posted); err != nil {
			return err
		}
		if alone {
			b.open = nil
		}
		lines = lines[n:]
	}
	return b.writePostings()
}

// isSound reports whether a line looks like that of its event, which a storage has. Whether
// its hash is right shows when it is read.
func (l *Line) isSound() bool {
	s, err := event.Skim(l.Text)
	return err == nil && s.ID == l.ID && l.Storage > 0 && !bytes.Contains(l.Text, newline)
}

func (b *batch) storeOld(lines []Line, posted event.ID) error {
	evs := make([]incoming, len(lines))
	for i := range lines {
		evs[i] = incoming{lines[i].ID, lines[i].Storage, lines[i].Text}
	}
	places, err := b.fillPages(evs)
	if err != nil {
		return err
	}
	for i := range evs {
		if evs[i].id > posted || evs[i].storage <= 0 {
			continue
		}
		p, err := b.posting(evs[i].key())
		if err != nil {
			return err
		}
		p.added = append(p.added, placedEvent{evs[i].storage, places[i]})
	}
	return nil
}
