package snapshot

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
)

// Scrub reads all kept states and returns how many are damaged. If drop is set, it drops
// them: each is made again from held events, or fetched again, when it is needed.
func (store *Store) Scrub(ctx context.Context, drop bool) (damaged int, err error) {
	kept, err := store.keptSnapshots(ctx)
	if err != nil {
		return 0, dbfile.Wrap(err, "check the kept states")
	}
	for i, s := range kept {
		store.file.Report(dbfile.Progress{Step: dbfile.StepStates, Done: int64(i), Total: int64(len(kept))})
		err := store.checkSnapshot(ctx, s)
		if errors.Is(err, dbfile.ErrCorrupt) {
			damaged, err = damaged+1, nil
			if drop {
				err = store.file.Update(ctx, func(tx *sql.Tx) error { return dropFolded(tx, s.id) })
			}
		}
		if err != nil {
			return damaged, dbfile.Wrap(err, "check the state kept at %s", s.at)
		}
	}
	return damaged, nil
}

func (store *Store) keptSnapshots(ctx context.Context) (kept []keptSnapshot, err error) {
	err = store.file.View(ctx, func(tx *sql.Tx) error {
		kept = nil
		found, err := tx.QueryContext(ctx, `SELECT id, at, form, count, `+snapshotSound+` FROM snapshot WHERE whole ORDER BY id`)
		if err != nil {
			return err
		}
		defer found.Close()
		for found.Next() {
			var s keptSnapshot
			if err := found.Scan(&s.id, &s.at, &s.form, &s.count, &s.sound); err != nil {
				return err
			}
			kept = append(kept, s)
		}
		return found.Err()
	})
	return kept, err
}

// dropFolded drops a snapshot that folds may have started with: each starts again with
// another.
func dropFolded(tx *sql.Tx, id int64) error {
	return errors.Join(dropSnapshot(tx, id), rows.NoteRemoval(tx))
}

// checkSnapshot reads a kept state, each part in its own transaction. A state dropped in
// the meantime, or being dropped part by part, is not damaged.
func (store *Store) checkSnapshot(ctx context.Context, s keptSnapshot) error {
	if !s.sound {
		return fmt.Errorf("%w: snapshot %d has another checksum", dbfile.ErrCorrupt, s.id)
	}
	load := s.loader(event.All)
	members, from := int64(0), event.Storage{}
	for end := false; !end; {
		err := store.file.View(ctx, func(tx *sql.Tx) error {
			refs, next, last, err := load(ctx, tx, from)
			if err != nil {
				return err
			}
			for _, r := range refs {
				if r.Compare(from) < 0 {
					return fmt.Errorf("%w: members of snapshot %d are out of order", dbfile.ErrCorrupt, s.id)
				}
				from = r.Next()
			}
			members, from, end = members+int64(len(refs)), next, last
			if !end || members == s.count {
				return nil
			}
			var there bool
			err = tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM snapshot WHERE id = ? AND whole)`, s.id).Scan(&there)
			if err == nil && there {
				err = fmt.Errorf("%w: snapshot %d has %d members, not %d", dbfile.ErrCorrupt, s.id, members, s.count)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
