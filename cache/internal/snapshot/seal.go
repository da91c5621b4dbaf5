package snapshot

import (
	"context"
	"database/sql"
	"errors"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// SealSpan is the minimum number of stored events between two snapshots sealed here:
// folding that many takes some milliseconds. It is a variable for the tests.
var SealSpan event.ID = 3 * event.BlockSize

// Build seals the missing states of topic at sealed blocks, up to the end of the events
// held, so that the state at any moment can be folded from few events. Each snapshot
// comes after at least as many stored events as it has members, so that snapshots take
// little room, however large the state becomes or however quiet the topic is. A topic of
// a few storages needs none.
func (s *Store) Build(ctx context.Context, topic event.Topic) error {
	for {
		at, removals, err := s.nextSeal(ctx, topic)
		if err != nil || at == event.Beginning {
			return dbfile.Wrap(err, "keep the states of %s", topic)
		}
		err = s.sealState(ctx, topic, at, removals)
		var passed *window.NotHeldError // the horizon has passed
		if err != nil && !errors.Is(err, dbfile.ErrLost) && (s.file.Role == dbfile.Client || !errors.As(err, &passed)) {
			return err
		}
	}
}

// Run seals the states of a log as it grows, alongside the appends and in small steps,
// until ctx ends. Work that another writer, a full disk or a damaged page prevents is done
// when the next block is sealed: by then, nothing of the page may be needed any more.
func (s *Store) Run(ctx context.Context) error {
	for {
		err := s.Build(ctx, event.All)
		var damage *pages.DamageError
		if err != nil && !errors.Is(err, dbfile.ErrBusy) && !errors.Is(err, dbfile.ErrFull) && !errors.As(err, &damage) {
			return err
		}
		select {
		case <-s.sealed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// nextSeal returns the position of the next snapshot to seal, or Beginning if there is
// none, and the file's count of removals.
func (s *Store) nextSeal(ctx context.Context, topic event.Topic) (at event.ID, removed int64, err error) {
	err = s.file.View(ctx, func(tx *sql.Tx) (err error) {
		at = event.Beginning
		if removed, err = rows.LoadRemovals(tx); err != nil {
			return err
		}
		if few, err := hasFew(ctx, tx, topic); err != nil || few {
			return err
		}
		if doubted, err := s.doubted(tx, []event.Topic{topic}); err != nil || len(doubted) > 0 {
			return err // a sealed state would outlive the doubt
		}
		windows, err := rows.LoadWindows(tx)
		if err != nil {
			return err
		}
		for _, span := range rows.WindowSet(windows).Held(topic) {
			if at, err = s.nextSealIn(ctx, tx, topic, span, removed); err != nil || at != event.Beginning {
				return err
			}
		}
		return nil
	})
	return at, removed, err
}

func (s *Store) nextSealIn(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span, removed int64) (at event.ID, err error) {
	if span.From != event.Beginning && s.file.Role == dbfile.Client {
		return 0, nil // a state there has members not stored as events
	}
	known := span
	if s.file.Role != dbfile.Client {
		known.From = event.Beginning // a snapshot below the horizon will do
	}
	last, _, err := findSnapshot(ctx, tx, topic, known, false)
	if err != nil {
		return 0, err
	}
	from, step := max(last.at, span.From), max(SealSpan, event.ID(last.count))
	if span.To-from < step {
		return 0, nil
	}
	// A topic may be quiet for millions of ids, which need no snapshot.
	if at = from + step; !s.recent.isDense(window.Span{From: from, To: at}, removed) {
		var ok bool
		if at, ok, err = pages.Advance(ctx, tx, window.Span{From: from, To: span.To}, int(step)); err != nil || !ok {
			return 0, err
		}
	}
	if at = (at + event.BlockSize - 1) / event.BlockSize * event.BlockSize; at > span.To {
		return 0, nil
	}
	return at, nil
}

// NewSealed returns a writer of a snapshot with the names and ids of stored events.
// removals is the file's count of removals when the events were read.
func (s *Store) NewSealed(topic event.Topic, at event.ID, removals int64) *Writer {
	return s.newWriter(topic, keptSnapshot{at: at, form: formIDs}, removals)
}

// sealState keeps the state of topic at position at, unless the file has had a removal since
// its count was removals.
func (store *Store) sealState(ctx context.Context, topic event.Topic, at event.ID, removals int64) error {
	w := store.NewSealed(topic, at, removals)
	s := stateReader{db: store, topic: topic, at: at, names: true}
	s.from, _ = topic.StorageRange()
	err := s.eachRef(ctx, func(r *Ref) error { return w.addRef(ctx, r) })
	if err == nil {
		err = w.Finish(ctx)
	}
	if err != nil {
		return errors.Join(err, w.Abort(context.WithoutCancel(ctx)))
	}
	return nil
}
