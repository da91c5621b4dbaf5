package seen

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
)

// LookUp returns those of hashes that the log ever took, with the ids of their events. It
// needs only a transaction, even in a file that another process serves.
func LookUp(tx *sql.Tx, hashes []event.Hash) (map[event.Hash]event.ID, error) {
	left := slices.Clone(hashes)
	slices.SortFunc(left, event.Hash.Compare)
	left = slices.Compact(left)
	ids := make(map[event.Hash]event.ID)
	runs, err := loadRuns(tx)
	if err != nil {
		return nil, err
	}
	for _, r := range runs {
		if err := r.lookUp(tx, left, ids); err != nil {
			return nil, err
		}
	}
	if err := lookUpOld(tx, left, ids); err != nil {
		return nil, err
	}
	var hashed event.ID
	if err := dbfile.ScanLog(context.Background(), tx, `hashed`, &hashed); err != nil {
		return nil, err
	}
	return ids, rows.EachOpenEvent(context.Background(), tx, hashed, false, nil, func(ev rows.OpenEvent) {
		if _, ok := slices.BinarySearchFunc(left, ev.Hash, event.Hash.Compare); ok {
			ids[ev.Hash] = ev.ID
		}
	})
}

// A runLookup looks up hashes in a run, with one batch of it in memory.
type runLookup struct {
	run     *run
	indexes *sql.Stmt
	pages   *sql.Stmt
	batch   *run   // the batch of the last hash, nil if the hash precedes the first one
	next    []byte // first hash of the next batch, empty if there is none

	page    int64  // the last page that was read
	entries []byte // of it, nil if there is none
}

// lookUp adds to ids those of hashes, which are sorted, that the run contains.
func (r *run) lookUp(tx *sql.Tx, hashes []event.Hash, ids map[event.Hash]event.ID) error {
	guards, err := tx.Prepare(`SELECT g.id, g.first, g.fences, coalesce((SELECT min(n.first) FROM guard n WHERE n.run = g.run AND n.first > g.first), x'')
		FROM guard g WHERE g.run = ? AND g.first <= ? ORDER BY g.first DESC LIMIT 1`)
	if err != nil {
		return err
	}
	defer guards.Close()
	slabs, err := tx.Prepare(`SELECT hashes FROM slab WHERE id = ?`)
	if err != nil {
		return err
	}
	defer slabs.Close()
	l := runLookup{run: r, indexes: guards, pages: slabs}
	for i := range hashes {
		id, ok, err := l.findInRun(&hashes[i])
		if err != nil {
			return err
		}
		if ok {
			ids[hashes[i]] = id
		}
	}
	return nil
}

func (l *runLookup) findInRun(h *event.Hash) (id event.ID, ok bool, err error) {
	if l.batch == nil || len(l.next) > 0 && bytes.Compare(h[:], l.next) >= 0 {
		if err := l.loadBatch(h); err != nil {
			return 0, false, err
		}
	}
	if l.batch == nil {
		return 0, false, nil
	}
	l.batch.pages(h, func(i int) bool {
		if err = l.readPage(l.batch.pageID(i)); err == nil {
			id, ok = findEntry(l.entries, h)
		}
		return !ok && err == nil
	})
	return id, ok, err
}

// readPage reads a page, unless it was the last one: sorted hashes are often in the same.
func (l *runLookup) readPage(id int64) error {
	if l.entries != nil && l.page == id {
		return nil
	}
	l.page, l.entries = id, nil
	var entries []byte
	err := l.pages.QueryRow(id).Scan(&entries)
	switch {
	case err == nil:
		err = checkPage(id, entries)
	case errors.Is(err, sql.ErrNoRows) && l.run.target != 0:
		return nil // it was merged
	}
	if err == nil {
		l.entries = entries
	}
	return err
}

// loadBatch reads the batch that would contain h.
func (l *runLookup) loadBatch(h *event.Hash) error {
	var id int64
	var first, fences []byte
	l.batch = nil
	err := l.indexes.QueryRow(l.run.id, h[:]).Scan(&id, &first, &fences, &l.next)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	l.batch = &run{}
	return l.batch.addPageIndex(id, first, fences)
}

// lookUpOld looks up hashes in the table of earlier versions.
func lookUpOld(tx *sql.Tx, hashes []event.Hash, ids map[event.Hash]event.ID) error {
	if some, err := hasOld(tx); err != nil || !some {
		return err
	}
	stmt, err := tx.Prepare(`SELECT id FROM taken WHERE hash = ?`)
	if err != nil {
		return err
	}
	defer stmt.Close()
	for i := range hashes {
		var id event.ID
		switch err := stmt.QueryRow(hashes[i][:]).Scan(&id); {
		case err == nil:
			ids[hashes[i]] = id
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
	}
	return nil
}

func hasOld(tx *sql.Tx) (some bool, err error) {
	err = tx.QueryRow(`SELECT EXISTS (SELECT * FROM taken)`).Scan(&some)
	return some, err
}
