package snapshot

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"strings"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// The forms of a kept snapshot: names and ids of events that are stored anyway, or the
// events' lines.
const (
	formIDs   = "ids"
	formLines = "lines"
)

// A keptSnapshot is a kept snapshot. The zero value stands for the beginning, where every
// state is empty.
type keptSnapshot struct {
	id    int64
	at    event.ID
	form  string
	count int64
	sound bool // set only where damaged ones are read, too
}

// findBase returns the latest kept snapshot from which the state of topic at position at
// can be folded, because all events since are held. If all of history is held, fetched
// snapshots are not used.
func (s *Store) findBase(ctx context.Context, tx *sql.Tx, topic event.Topic, at event.ID) (base keptSnapshot, err error) {
	windows, err := rows.LoadWindows(tx)
	if err != nil {
		return base, err
	}
	if !s.file.Has(topic) {
		return base, gapAt(nil, at)
	}
	if s.file.Role != dbfile.Client && len(windows) > 0 {
		return s.findLogBase(ctx, tx, topic, at, windows[0].Held())
	}
	held := rows.WindowSet(windows).Held(topic)
	from := at // a snapshot at exactly this position needs no events
	for _, span := range held {
		if span.From <= at && at <= span.To {
			from = span.From
		}
	}
	base, ok, err := findSnapshot(ctx, tx, topic, window.Span{From: from, To: at}, from > event.Beginning)
	if err != nil || ok || from == event.Beginning {
		return base, err
	}
	return base, gapAt(held, from)
}

// gapAt describes the gap around position at, or next to it if held events begin or end
// there.
func gapAt(held window.Spans, at event.ID) *window.NotHeldError {
	gap := &window.NotHeldError{}
	for _, span := range held {
		if span.To <= at {
			gap.After = span.To
		} else if !gap.Some {
			gap.Oldest, gap.Some = span.From, true
		}
	}
	return gap
}

// findLogBase is findBase in the log's own file, which holds all of its window, and the
// state at the horizon. A snapshot from below the horizon will do: for each storage
// changed since, the log has the later event, and no older one.
func (s *Store) findLogBase(ctx context.Context, tx *sql.Tx, topic event.Topic, at event.ID, log window.Span) (base keptSnapshot, err error) {
	switch {
	case at < log.From:
		return base, &window.NotHeldError{After: at, Oldest: log.From, Some: true}
	case at > log.To:
		return base, &window.NotHeldError{After: log.To}
	}
	base, _, err = findSnapshot(ctx, tx, topic, window.Span{To: at}, false)
	return base, err
}

// A state whose row is damaged is as if it were not there.
var snapshotSound = dbfile.SnapshotTable.Sound()

// findSnapshot returns the latest kept snapshot with the storages of topic at a position
// of span, including its bounds: one sealed here or, if fetched is set, a fetched one.
func findSnapshot(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span, fetched bool) (s keptSnapshot, ok bool, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT id, topic, at, form, count FROM snapshot
		WHERE whole AND at BETWEEN ? AND ? AND (form = 'ids' OR ?) AND `+snapshotSound+` ORDER BY at DESC`, span.From, span.To, fetched)
	if err != nil {
		return s, false, err
	}
	defer rows.Close()
	for rows.Next() {
		var of string
		if err := rows.Scan(&s.id, &of, &s.at, &s.form, &s.count); err != nil {
			return s, false, err
		}
		t, err := event.ParseTopic(of)
		if err != nil {
			return s, false, fmt.Errorf("%w: snapshot %d: %w", dbfile.ErrCorrupt, s.id, err)
		}
		if t.Contains(topic) {
			return s, true, nil
		}
	}
	return keptSnapshot{}, false, rows.Err()
}

// loader returns a loader of the snapshot's members that belong to topic.
func (s keptSnapshot) loader(topic event.Topic) func(context.Context, *sql.Tx, event.Storage) ([]Ref, event.Storage, bool, error) {
	return func(ctx context.Context, tx *sql.Tx, from event.Storage) (refs []Ref, at event.Storage, end bool, err error) {
		var last event.Storage
		var members []byte
		err = tx.QueryRowContext(ctx, `SELECT user, path, members FROM part
			WHERE snapshot = ? AND (user, path) >= (?, ?) ORDER BY user, path LIMIT 1`,
			s.id, from.User, from.Path).Scan(&last.User, &last.Path, &members)
		if errors.Is(err, sql.ErrNoRows) {
			return nil, from, true, nil
		}
		if err != nil {
			return nil, from, false, err
		}
		if last.Compare(from) < 0 {
			return nil, from, false, dbfile.OutOfOrder("part")
		}
		all, err := s.decodeMembers(members)
		if err != nil {
			return nil, from, false, err
		}
		for _, r := range all {
			if r.Compare(from) >= 0 && topic.Matches(r.User, r.Path) {
				refs = append(refs, r)
			}
		}
		return refs, last.Next(), beyond(topic, last), nil
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sumLen is the length of the checksum that follows a part's members.
const sumLen = 4

func (s keptSnapshot) decodeMembers(members []byte) (refs []Ref, err error) {
	n := len(members) - sumLen
	if n < 0 || crc32.Checksum(members[:n], castagnoli) != binary.BigEndian.Uint32(members[n:]) {
		return nil, fmt.Errorf("%w: a part of snapshot %d", dbfile.ErrCorrupt, s.id)
	}
	if members = members[:n]; s.form == formLines {
		refs, err = decodeLines(members)
	} else {
		refs, err = decodeIDs(members)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: a part of snapshot %d: %w", dbfile.ErrCorrupt, s.id, err)
	}
	return refs, nil
}

func decodeLines(members []byte) (refs []Ref, err error) {
	for line := range bytes.Lines(members) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		ev, err := event.Stored(line)
		if err != nil {
			return nil, err
		}
		refs = append(refs, Ref{Storage: ev.Storage(), ID: ev.ID, Put: true, line: line})
	}
	return refs, nil
}

// appendRef appends a member as a name, an id and a place: the number of bytes that the name
// shares with the previous one, the rest of the name, the id, and where its line was when it
// was written, which may have changed since.
func appendRef(b []byte, before, n string, id event.ID, at *pages.Locator) []byte {
	same := 0
	for same < len(before) && same < len(n) && before[same] == n[same] {
		same++
	}
	b = binary.AppendUvarint(b, uint64(same))
	b = binary.AppendUvarint(b, uint64(len(n)-same))
	b = append(b, n[same:]...)
	b = binary.AppendUvarint(b, uint64(id))
	b = binary.AppendUvarint(b, uint64(at.Page))
	if at.Page == 0 {
		return b // the place is not known
	}
	b = binary.AppendUvarint(b, uint64(at.Offset))
	b = binary.AppendUvarint(b, uint64(at.Length))
	return binary.BigEndian.AppendUint32(b, at.Sum)
}

var errBadMember = errors.New("malformed member")

func decodeIDs(b []byte) (refs []Ref, err error) {
	refs = make([]Ref, 0, partMembers)
	for d := (memberDecoder{b: b}); len(d.b) > 0; {
		r := d.member()
		if d.bad {
			return nil, errBadMember
		}
		refs = append(refs, r)
	}
	return refs, nil
}

// A memberDecoder reads members that appendRef has written.
type memberDecoder struct {
	b    []byte
	name []byte // of the previous member
	bad  bool
}

func (d *memberDecoder) member() Ref {
	same := d.uvarint(uint64(len(d.name)))
	rest := d.uvarint(uint64(len(d.b)))
	if d.bad || rest > uint64(len(d.b)) {
		d.bad = true
		return Ref{}
	}
	d.name, d.b = append(d.name[:same], d.b[:rest]...), d.b[rest:]
	user, path, _ := strings.Cut(string(d.name), "\x00")
	return Ref{Storage: event.Storage{User: user, Path: path}, ID: event.ID(d.uvarint(math.MaxUint64)), Put: true, at: d.decodePlace()}
}

func (d *memberDecoder) decodePlace() (at pages.Locator) {
	if at.Page = int64(d.uvarint(pages.MaxKey)); at.Page == 0 {
		return at
	}
	at.Offset, at.Length = uint16(d.uvarint(math.MaxUint16)), uint16(d.uvarint(math.MaxUint16))
	if len(d.b) < 4 {
		d.bad = true
		return at
	}
	at.Sum, d.b = binary.BigEndian.Uint32(d.b), d.b[4:]
	return at
}

// uvarint reads a number that is at most limit.
func (d *memberDecoder) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || v > limit {
		d.b, d.bad = nil, true
		return 0
	}
	d.b = d.b[n:]
	return v
}

// Drop deletes the snapshots sealed here that may contain events of topic in span.
func Drop(tx *sql.Tx, topic event.Topic, span window.Span) error {
	return dropSnapshotsWhere(tx, topic.Overlaps, `form = 'ids' AND at > ?`, span.From)
}

// DropFetched deletes the fetched snapshots of topic and its parts up to position before.
func DropFetched(tx *sql.Tx, topic event.Topic, before event.ID) error {
	return dropSnapshotsWhere(tx, topic.Contains, `form = 'lines' AND at <= ?`, before)
}

func dropSnapshotsWhere(tx *sql.Tx, match func(event.Topic) bool, where string, arg any) error {
	rows, err := tx.Query(`SELECT id, topic FROM snapshot WHERE `+where, arg)
	if err != nil {
		return err
	}
	var drop []int64
	for rows.Next() {
		var id int64
		var of string
		if err := rows.Scan(&id, &of); err != nil {
			return errors.Join(err, rows.Close())
		}
		if t, err := event.ParseTopic(of); err != nil || match(t) {
			drop = append(drop, id)
		}
	}
	err = errors.Join(rows.Err(), rows.Close())
	for _, id := range drop {
		err = errors.Join(err, dropSnapshot(tx, id))
	}
	return err
}

func dropSnapshot(tx *sql.Tx, id int64) error {
	if _, err := tx.Exec(`DELETE FROM part WHERE snapshot = ?`, id); err != nil {
		return err
	}
	_, err := tx.Exec(`DELETE FROM snapshot WHERE id = ?`, id)
	return err
}
