package cache

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/cache/internal/snapshot"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// CandidateSpan returns the stretch from the first to the last candidate of topic in
// span; it is empty if there is none.
func (im Imports) CandidateSpan(ctx context.Context, topic event.Topic, span window.Span) (s window.Span, err error) {
	where, args := importedOf(topic)
	args = append([]any{span.From, span.To}, args...)
	one := `SELECT id FROM candidate WHERE id > ? AND id <= ? AND ` + where + ` ORDER BY id`
	var first, last sql.NullInt64
	err = im.db.file.ViewRow(ctx, `SELECT (`+one+` LIMIT 1), (`+one+` DESC LIMIT 1)`, append(args, args...), &first, &last)
	if err == nil && first.Valid && last.Valid {
		s = window.Span{From: event.ID(first.Int64) - 1, To: event.ID(last.Int64)}
	}
	return s, dbfile.Wrap(err, "read the candidates of %s", topic)
}

// ImportedLeaves returns the leaves that topic would have in span if its candidates
// there were events.
func (im Imports) ImportedLeaves(ctx context.Context, topic event.Topic, span window.Span) ([]window.Leaf, error) {
	return im.db.leaves(ctx, topic, span, true)
}

// candidateBlocks returns the blocks in which topic has candidates in span.
func candidateBlocks(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span) (map[uint64]bool, error) {
	where, args := importedOf(topic)
	rows, err := tx.QueryContext(ctx, `SELECT DISTINCT (id - 1) / ? FROM candidate WHERE id > ? AND id <= ? AND `+where,
		append([]any{event.BlockSize, span.From, span.To}, args...)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	blocks := map[uint64]bool{}
	for rows.Next() {
		var b uint64
		if err := rows.Scan(&b); err != nil {
			return nil, err
		}
		blocks[b] = true
	}
	return blocks, rows.Err()
}

// mixedLeaf makes the leaf that a stretch of one block would have if its candidates
// were events.
func mixedLeaf(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span) (window.Leaf, error) {
	type entry struct {
		id   event.ID
		time event.Time
		hash event.Hash
	}
	var waiting []entry // without their values: a block of them fits
	for at := span.From; at < span.To; {
		evs, next, err := readCandidates(ctx, tx, topic, window.Span{From: at, To: span.To})
		if err != nil {
			return window.Leaf{}, err
		}
		for i := range evs {
			waiting = append(waiting, entry{evs[i].ID, evs[i].Time, evs[i].Hash})
		}
		at = next
	}
	var l window.Leafer
	addUntil := func(id event.ID) {
		for ; len(waiting) > 0 && waiting[0].id < id; waiting = waiting[1:] {
			l.Add(waiting[0].id, waiting[0].time, waiting[0].hash)
		}
	}
	err := eachStored(ctx, tx, topic, span, func(ev *event.Event) {
		addUntil(ev.ID)
		l.Add(ev.ID, ev.Time, ev.Hash)
	})
	addUntil(event.MaxID)
	return oneLeaf(&l, span), err
}

// AdoptCandidates makes events of the candidates of topic in span. leaves are what
// ImportedLeaves gave of span, and they have agreed with the log: so each block with
// candidates is held and proven as far as span goes, in the transaction that makes
// them events. What came of each is then shown to fresh. AdoptCandidates returns
// ErrLost if anything has changed since the leaves were taken.
func (im Imports) AdoptCandidates(ctx context.Context, topic event.Topic, span window.Span, leaves []window.Leaf, fresh func([]event.Event) error) error {
	agreed := map[uint64]window.Leaf{}
	for _, l := range leaves {
		agreed[l.Block] = l
	}
	for {
		left, err := im.CandidateSpan(ctx, topic, span)
		if err != nil || left.Empty() {
			return err
		}
		block := (left.From + 1).Block()
		part := window.BlockSpan(block).Intersect(span)
		var added []event.ID
		err = im.db.file.Update(ctx, func(tx *sql.Tx) error {
			leaf, err := mixedLeaf(ctx, tx, topic, part)
			if err != nil {
				return err
			}
			if leaf != agreed[block] {
				return ErrLost
			}
			added, err = im.db.adoptBlock(ctx, tx, topic, part)
			return err
		})
		if err != nil {
			return dbfile.Wrap(err, "adopt what was imported of %s %s", topic, part)
		}
		if err := im.db.showAdded(ctx, topic, part, added, fresh); err != nil {
			return dbfile.Wrap(err, "read what was adopted of %s %s", topic, part)
		}
		span.From = part.To
	}
}

// showAdded shows the events with the ids to fresh, reading them again: all of a block
// could be too much for the memory. What somebody has forgotten by then is not shown.
func (db *DB) showAdded(ctx context.Context, topic event.Topic, span window.Span, ids []event.ID, fresh func([]event.Event) error) error {
	for at := span.From; at < span.To && len(ids) > 0; {
		evs, next, err := db.Read(ctx, []event.Topic{topic}, at, span.To, maxReadEvents)
		if errors.As(err, new(*window.NotHeldError)) || err == nil && next <= at {
			return nil
		}
		if err != nil {
			return err
		}
		evs = slices.DeleteFunc(evs, func(ev event.Event) bool {
			_, ok := slices.BinarySearch(ids, ev.ID)
			return !ok
		})
		if err := fresh(evs); err != nil {
			return err
		}
		at = next
	}
	return nil
}

// adoptBlock makes events of the candidates of a stretch that is proven with them, and
// returns the ids of those that were not stored.
func (db *DB) adoptBlock(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span) (added []event.ID, err error) {
	windows, err := rows.LoadWindows(tx)
	if err != nil {
		return nil, err
	}
	held := false
	for at := span.From; at < span.To; {
		evs, next, err := readCandidates(ctx, tx, topic, window.Span{From: at, To: span.To})
		if err != nil {
			return nil, err
		}
		some, err := db.insertEvents(tx, evs)
		if err != nil {
			return nil, err
		}
		for i := range some {
			added = append(added, some[i].ID)
		}
		held, at = held || wereHeld(windows, some), next
	}
	if held {
		// A window was without them, wrongly, and so is what was made of it.
		err := errors.Join(dropLeaves(tx, topic, span), snapshot.Drop(tx, topic, span), rows.NoteRemoval(tx))
		if err != nil {
			return nil, err
		}
	}
	return added, db.noteProof(tx, topic, span)
}

// wereHeld reports whether windows said that any of evs was held.
func wereHeld(windows []rows.Window, evs []event.Event) bool {
	for i := range windows {
		w := &windows[i]
		for j := range evs {
			if w.Topic.Matches(evs[j].User, evs[j].Path) && w.Held().Contains(spanOf(evs[j].ID)) {
				return true
			}
		}
	}
	return false
}
