package snapshot

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// LinesBytes bounds the lines that scanLast keeps: what it reads further replaces them. It
// is a variable for the tests.
var LinesBytes = 4 << 20

// maxText is the length of the longest line that scanLast reads.
const maxText = 16 << 10

// scanLast reads the events of span, which is short, and returns the last one of each
// storage of topic, sorted by name: the newest with their lines, if lines is set.
func scanLast(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span, lines bool) (refs []Ref, err error) {
	l := lastEvents{topic: topic, lines: lines, newest: map[int64]pages.Line{}, older: map[int64]Ref{}}
	if err := pages.Scan(ctx, tx, pages.Query{Span: span, MaxText: maxText}, l.addLastEvent); err != nil {
		return nil, err
	}
	return l.refs(ctx, tx)
}

// lastEvents are the last events of storages.
type lastEvents struct {
	topic  event.Topic
	lines  bool
	newest map[int64]pages.Line // by the number of the storage
	bytes  int                  // of all lines read since newest was empty
	older  map[int64]Ref        // those before newest
}

func (l *lastEvents) addLastEvent(line pages.Line) error {
	l.newest[line.Storage] = line
	if l.bytes += len(line.Text); l.bytes <= LinesBytes {
		return nil
	}
	lines := l.lines
	l.lines = false // the newest lines count
	err := l.keep()
	l.lines = lines
	return err
}

// keep moves the newest events to the older ones.
func (l *lastEvents) keep() error {
	for storage, line := range l.newest {
		r, err := l.ref(&line)
		if err != nil {
			return err
		}
		l.older[storage] = r
	}
	clear(l.newest)
	l.bytes = 0
	return nil
}

// ref returns what a line says. Long lines are not read.
func (l *lastEvents) ref(line *pages.Line) (Ref, error) {
	r := Ref{ID: line.ID}
	if !l.lines || line.Text == nil {
		r.at = line.Posted().Locator
	}
	if line.Text == nil {
		return r, nil
	}
	s, err := event.Skim(line.Text)
	if err == nil && s.ID != line.ID {
		err = fmt.Errorf("event %s is stored as %s", s.ID, line.ID)
	}
	if err != nil {
		return r, fmt.Errorf("%w: %w", dbfile.ErrCorrupt, err)
	}
	r.Storage = event.Storage{User: string(s.User), Path: string(s.Path)}
	r.Put, r.Del = s.Type == event.Put, s.Type != event.Put
	if l.lines {
		r.line = line.Text
	}
	return r, nil
}

// refs returns those of topic, sorted by name.
func (l *lastEvents) refs(ctx context.Context, tx *sql.Tx) (refs []Ref, err error) {
	nameless := map[int64]Ref{}
	refs = make([]Ref, 0, len(l.newest)+len(l.older))
	add := func(storage int64, r *Ref) {
		if r.Storage == (event.Storage{}) {
			nameless[storage] = *r
		} else if l.topic.Matches(r.User, r.Path) {
			refs = append(refs, *r)
		}
	}
	for storage, line := range l.newest {
		r, err := l.ref(&line)
		if err != nil {
			return nil, err
		}
		add(storage, &r)
	}
	for storage, r := range l.older {
		if _, ok := l.newest[storage]; !ok {
			add(storage, &r)
		}
	}
	err = rows.NamesOf(ctx, tx, slices.Sorted(maps.Keys(nameless)), func(storage int64, n event.Storage) {
		r := nameless[storage]
		if r.Storage = n; l.topic.Matches(n.User, n.Path) {
			refs = append(refs, r)
		}
	})
	slices.SortFunc(refs, func(a, b Ref) int { return a.Compare(b.Storage) })
	return refs, err
}
