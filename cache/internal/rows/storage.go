package rows

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/event"
)

// Tables are the shared tables of an open file.
type Tables struct {
	Pages    *pages.Tables
	Horizon  KnownHorizon
	file     *dbfile.File
	storages map[string]int64 // numbers of recent storages; guarded by the right to write
}

// New returns the tables of an open file.
func New(f *dbfile.File) *Tables {
	return &Tables{Pages: pages.New(f), file: f, storages: map[string]int64{}}
}

// ForgetWritten forgets what a transaction that may have been rolled back has left in
// memory: numbers of storages, and the last page. It also releases the memory, which clear
// would keep.
func (t *Tables) ForgetWritten() {
	t.storages = map[string]int64{}
	t.Pages.ForgetPage()
}

// maxStorages bounds the number of remembered storages.
const maxStorages = 1 << 16

// StorageID returns the number of a storage, assigning one if it has none.
func (t *Tables) StorageID(tx *sql.Tx, user, path string) (id int64, err error) {
	var buf [256]byte
	name := append(append(append(buf[:0], user...), '/'), path...)
	if id, ok := t.storages[string(name)]; ok {
		return id, nil
	}
	err = t.file.Scan(tx, `SELECT id FROM storage WHERE user = ? AND path = ?`, []any{user, path}, &id)
	if errors.Is(err, sql.ErrNoRows) {
		err = t.file.Scan(tx, `INSERT INTO storage (user, path) VALUES (?, ?) RETURNING id`, []any{user, path}, &id)
	}
	if err != nil {
		return 0, fmt.Errorf("storage %s: %w", name, err)
	}
	if len(t.storages) >= maxStorages {
		clear(t.storages)
	}
	t.storages[string(name)] = id
	return id, nil
}

// StorageIDs returns the numbers of the storages of evs.
func (t *Tables) StorageIDs(tx *sql.Tx, evs []event.Event) (storages []int64, err error) {
	storages = make([]int64, len(evs))
	for i := range evs {
		if storages[i], err = t.StorageID(tx, evs[i].User, evs[i].Path); err != nil {
			return nil, err
		}
	}
	return storages, nil
}

// FindStorageIDs returns the numbers of the storages of evs, 0 for one that has none. It
// assigns no numbers.
func FindStorageIDs(ctx context.Context, tx *sql.Tx, evs []event.Event) (storages []int64, err error) {
	stmt, err := tx.PrepareContext(ctx, `SELECT id FROM storage WHERE user = ? AND path = ?`)
	if err != nil {
		return nil, err
	}
	defer stmt.Close()
	storages, known := make([]int64, len(evs)), map[event.Storage]int64{}
	for i := range evs {
		name := evs[i].Storage()
		id, ok := known[name]
		if !ok {
			err := stmt.QueryRowContext(ctx, name.User, name.Path).Scan(&id)
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return nil, err
			}
			known[name] = id
		}
		storages[i] = id
	}
	return storages, nil
}

// FindNumbers returns the numbers of the storages of topics, each once, or none and all
// unset if there are more than most.
func FindNumbers(ctx context.Context, tx *sql.Tx, topics []event.Topic, most int) (numbers []int64, all bool, err error) {
	for _, t := range topics {
		where, args := StoragesOf(t)
		var n int
		var joined sql.NullString
		err := tx.QueryRowContext(ctx, `SELECT count(*), group_concat(id, char(10))
			FROM (SELECT s.id FROM storage s WHERE `+where+` LIMIT ? + 0)`, append(args, most+1)...).Scan(&n, &joined)
		if err != nil {
			return nil, false, err
		}
		if len(numbers)+n > most {
			return nil, false, nil
		}
		some, err := parseNumbers([]byte(joined.String))
		if err != nil {
			return nil, false, err
		}
		numbers = append(numbers, some...)
	}
	slices.Sort(numbers)
	return slices.Compact(numbers), true, nil
}

// StoragesOf returns an SQL condition on storage s, true for the storages of t, and its
// arguments.
func StoragesOf(t event.Topic) (where string, args []any) {
	var ors []string
	for from, to := range t.PathRanges() {
		var ands []string
		if user, ok := t.User(); ok {
			ands, args = append(ands, "s.user = ?"), append(args, user)
		}
		ands, args = append(ands, "s.path >= ?"), append(args, from)
		if to != "" {
			ands, args = append(ands, "s.path < ?"), append(args, to)
		}
		ors = append(ors, "("+strings.Join(ands, " AND ")+")")
	}
	return "(" + strings.Join(ors, " OR ") + ")", args
}

// StoragesBehind returns an SQL condition on storage s, true for the storages of topic
// from a name on. With it SQLite finds the first one by its index and continues from
// there: a plus sign hides the other terms from its choice of an index.
func StoragesBehind(topic event.Topic, from event.Storage) (where string, args []any) {
	if user, ok := topic.User(); ok {
		first, end := topic.StorageRange()
		where, args = "s.user = ? AND s.path >= ?", []any{user, max(from.Path, first.Path)}
		if from.User > user {
			where = "false AND " + where
		}
		if end.User == user {
			where, args = where+" AND s.path < ?", append(args, end.Path)
		}
	} else {
		where, args = "(s.user, s.path) >= (?, ?)", []any{from.User, from.Path}
	}
	var ors []string
	for from, to := range topic.PathRanges() {
		ors, args = append(ors, "+s.path >= ? AND (? = '' OR +s.path < ?)"), append(args, from, to, to)
	}
	return where + " AND (" + strings.Join(ors, " OR ") + ")", args
}

// StorageChunk is how many storages to look at together. It is a variable for the tests.
var StorageChunk = 500

// A StorageRow is a storage and its number.
type StorageRow struct {
	event.Storage
	ID int64
}

// StoragesFrom returns some storages of topic, from a name on.
func StoragesFrom(ctx context.Context, tx *sql.Tx, topic event.Topic, from event.Storage) (storages []StorageRow, err error) {
	where, args := StoragesBehind(topic, from)
	rows, err := tx.QueryContext(ctx, `SELECT s.id, s.user, s.path FROM storage s
		WHERE `+where+` ORDER BY s.user, s.path LIMIT ? + 0`, append(args, StorageChunk)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s StorageRow
		if err := rows.Scan(&s.ID, &s.User, &s.Path); err != nil {
			return nil, err
		}
		if s.Compare(from) < 0 {
			return nil, dbfile.OutOfOrder("storage")
		}
		from = s.Next()
		storages = append(storages, s)
	}
	return storages, rows.Err()
}

// Names finds the names of storages by their numbers, and remembers some.
type Names struct {
	ctx   context.Context
	tx    *sql.Tx
	known map[int64]event.Storage
}

// NewNames returns the names in a transaction.
func NewNames(ctx context.Context, tx *sql.Tx) *Names {
	return &Names{ctx, tx, map[int64]event.Storage{}}
}

// Of returns the name of the storage that has a number; ok is false if there is none.
func (n *Names) Of(storage int64) (name event.Storage, ok bool, err error) {
	if name, ok = n.known[storage]; ok {
		return name, true, nil
	}
	err = n.tx.QueryRowContext(n.ctx, `SELECT user, path FROM storage WHERE id = ?`, storage).Scan(&name.User, &name.Path)
	if errors.Is(err, sql.ErrNoRows) {
		return name, false, nil
	}
	if err != nil {
		return name, false, err
	}
	if len(n.known) >= maxStorages {
		clear(n.known)
	}
	n.known[storage] = name
	return name, true, nil
}

// NamesOf calls fn with the names of the storages that have the given numbers.
func NamesOf(ctx context.Context, tx *sql.Tx, storages []int64, fn func(storage int64, n event.Storage)) error {
	if len(storages) == 0 {
		return nil
	}
	var n int
	var joined sql.NullString
	err := tx.QueryRowContext(ctx, `SELECT count(*), group_concat(s.id || '/' || s.user || '/' || s.path, char(10))
		FROM json_each(?) j CROSS JOIN storage s ON s.id = j.value`, jsonIDs(storages)).Scan(&n, &joined)
	if err != nil {
		return err
	}
	if n != len(storages) {
		return ErrJoined
	}
	for text := range strings.SplitSeq(joined.String, "\n") {
		number, text, _ := strings.Cut(text, "/")
		user, path, ok := strings.Cut(text, "/")
		storage, err := strconv.ParseInt(number, 10, 64)
		if err != nil || !ok {
			return ErrJoined
		}
		fn(storage, event.Storage{User: user, Path: path})
	}
	return nil
}
