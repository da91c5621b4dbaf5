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

// CandidateSpan returns the span from the first to the last candidate of topic in span;
// it is empty if there is none.
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

// ImportedLeaves returns the leaves that topic would have in span if the candidates there
// were events.
func (im Imports) ImportedLeaves(ctx context.Context, topic event.Topic, span window.Span) ([]window.Leaf, error) {
	return im.db.leaves(ctx, topic, span, true)
}

// candidateBlocks returns the blocks of span in which topic has candidates.
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

// mixedLeaf returns the leaf that a span of one block would have if its candidates were
// events.
func mixedLeaf(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span) (window.Leaf, error) {
	type entry struct {
		id   event.ID
		time event.Time
		hash event.Hash
	}
	var waiting []entry // without their values, so that a block of them fits in memory
	for at := span.From; at < span.To; {
		evs, next, err := readCandidates(ctx, tx, topic, window.Span{From: at, To: span.To}, nil)
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
	err := eachStored(ctx, tx, []event.Topic{topic}, span, func(ev *event.Event) {
		addUntil(ev.ID)
		l.Add(ev.ID, ev.Time, ev.Hash)
	})
	addUntil(event.MaxID)
	return oneLeaf(&l, span), err
}

// PromoteCandidates turns the candidates of topic in span into events. leaves are the
// result of ImportedLeaves for span, and have agreed with the log: so the transaction
// that promotes the candidates of a block also makes the block, as far as span goes, held
// and proven. PromoteCandidates then calls fresh with the new events. It returns ErrLost if
// anything has changed since ImportedLeaves.
func (im Imports) PromoteCandidates(ctx context.Context, topic event.Topic, span window.Span, leaves []window.Leaf, fresh func([]event.Event) error) error {
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
			added, err = im.db.promoteBlock(ctx, tx, topic, part)
			return err
		})
		if err != nil {
			return dbfile.Wrap(err, "promote imported events of %s %s", topic, part)
		}
		if err := im.db.showAdded(ctx, topic, part, added, fresh); err != nil {
			return dbfile.Wrap(err, "read promoted events of %s %s", topic, part)
		}
		span.From = part.To
	}
}

// showAdded calls fresh with the events with the given ids. It reads them again, since
// those of a whole block could take too much memory. Events forgotten in the meantime are
// left out.
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

// promoteBlock turns the candidates of a span, which is proven with them, into events. It
// returns the ids of those that were not stored.
func (db *DB) promoteBlock(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span) (added []event.ID, err error) {
	windows, err := rows.LoadWindows(tx)
	if err != nil {
		return nil, err
	}
	held := false
	for at := span.From; at < span.To; {
		evs, next, err := readCandidates(ctx, tx, topic, window.Span{From: at, To: span.To}, nil)
		if err != nil {
			return nil, err
		}
		storages, err := db.tables.StorageIDs(tx, evs)
		if err != nil {
			return nil, err
		}
		if err := db.displaceOthers(ctx, tx, nil, evs, storages, true); err != nil {
			return nil, err
		}
		_, some, err := db.insertStored(tx, evs, storages)
		if err != nil {
			return nil, err
		}
		for i := range some {
			added = append(added, some[i].ID)
		}
		held, at = held || wereHeld(windows, some), next
	}
	if held {
		// A window wrongly lacked them, and so do the leaves and snapshots derived from
		// it.
		err := errors.Join(dropLeaves(tx, topic, span), snapshot.Drop(tx, topic, span), rows.NoteRemoval(tx))
		if err != nil {
			return nil, err
		}
	}
	return added, db.noteProof(tx, topic, span)
}

// wereHeld reports whether any of evs lies in a held window.
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
