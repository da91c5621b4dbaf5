package snapshot

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// scanLast reads the events of span, which is short, and returns the last one of each
// storage of topic: with lines, if they are wanted, for the newest.
func scanLast(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span, lines bool) (refs []Ref, err error) {
	newest := lastLines{seen: map[int64]struct{}{}, long: map[int64]event.ID{}}
	if lines {
		if span.To, err = newest.read(ctx, tx, span); err != nil {
			return nil, err
		}
	}
	last, err := rows.LastEvents(ctx, tx, span)
	if err != nil {
		return nil, err
	}
	for storage := range newest.seen {
		delete(last, storage)
	}
	maps.Copy(last, newest.long)
	refs = slices.Grow(newest.refs, len(last))
	err = rows.NamesOf(ctx, tx, slices.Sorted(maps.Keys(last)), func(storage int64, n event.Storage) {
		refs = append(refs, Ref{Storage: n, ID: last[storage]})
	})
	refs = slices.DeleteFunc(refs, func(r Ref) bool { return !topic.Matches(r.User, r.Path) })
	slices.SortFunc(refs, func(a, b Ref) int { return a.Compare(b.Storage) })
	return refs, err
}

// lastLines are the last events of storages with their lines.
type lastLines struct {
	refs []Ref
	seen map[int64]struct{} // the storages of the events found
	long map[int64]event.ID // the last event of those whose line does not come joined
}

// These are variables for the tests.
var (
	LinesChunk = 2000    // events per read
	LinesBytes = 4 << 20 // approximate bytes of lines kept
)

// read goes backwards through span while most of the lines are needed and they fit into
// LinesBytes. It returns the position that it has reached.
func (l *lastLines) read(ctx context.Context, tx *sql.Tx, span window.Span) (event.ID, error) {
	for size := 0; span.To > span.From && size < LinesBytes; {
		var n int
		var first sql.NullInt64
		var ids, storages, lines []byte
		err := tx.QueryRowContext(ctx, `SELECT count(*), min(id), CAST(group_concat(id, char(10)) AS BLOB), CAST(group_concat(storage, char(10)) AS BLOB),
				CAST(group_concat(CASE WHEN octet_length(line) <= ? THEN line ELSE '' END, char(10)) AS BLOB)
			FROM (SELECT id, storage, line FROM event WHERE id > ? AND id <= ? ORDER BY id DESC LIMIT ?)`,
			rows.MaxJoined, span.From, span.To, LinesChunk).Scan(&n, &first, &ids, &storages, &lines)
		if err != nil {
			return 0, err
		}
		found := len(l.seen)
		if err := l.addLast(ids, storages, lines); err != nil {
			return 0, err
		}
		if n < LinesChunk {
			return span.From, nil
		}
		size, span.To = size+len(lines), event.ID(first.Int64)-1
		if len(l.seen)-found < n/4 {
			break
		}
	}
	return span.To, nil
}

// addLast adds those of the given events, newest first, that are the last of their
// storage.
func (l *lastLines) addLast(ids, storages, lines []byte) error {
	at, of, err := rows.SplitPairs(ids, storages)
	if err != nil {
		return err
	}
	if len(at) > 0 && bytes.Count(lines, rows.Newline)+1 != len(at) {
		return rows.ErrJoined
	}
	l.refs = slices.Grow(l.refs, len(at))
	for i, storage := range of {
		var line []byte
		line, lines, _ = bytes.Cut(lines, rows.Newline)
		if _, ok := l.seen[storage]; ok {
			continue
		}
		l.seen[storage] = struct{}{}
		if len(line) == 0 {
			l.long[storage] = event.ID(at[i])
			continue
		}
		s, err := event.Skim(line)
		if err != nil {
			return fmt.Errorf("%w: %w", dbfile.ErrCorrupt, err)
		}
		l.refs = append(l.refs, Ref{Storage: event.Storage{User: string(s.User), Path: string(s.Path)}, ID: event.ID(at[i]), line: line[:len(line):len(line)]})
	}
	return nil
}
