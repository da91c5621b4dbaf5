package dbfile

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/rstream-dev/rstream/event"
)

// A Mirrored says what the server of a mirrored log says of it.
type Mirrored struct {
	Parent     string   // the log from which it was made; if empty, none
	ParentHead event.ID // where the two parted, or event.MaxID if that is not known
	// Topics are those whose events the file has, and keeps for ever: others would have holes
	// in their history. If empty, all.
	Topics []event.Topic
}

// A mirror is a server's file in all but one thing: the ids come from elsewhere. The table
// tells the two apart: if the file were served as a log of its own, it would give ids that the
// other server gives, too. Files of other kinds do not have it.
//
// If the mirror has some topics only, the table followed has them, and mirror1 has marks of
// positions that the other server has sent, since those events are not here. Otherwise both are
// empty.
const (
	createMirror     = `CREATE TABLE IF NOT EXISTS mirror1 (mirror1 INTEGER PRIMARY KEY) STRICT`
	createPartMirror = `CREATE TABLE mirror1 (mirror1 INTEGER PRIMARY KEY, mark TEXT NOT NULL, sum INTEGER NOT NULL) STRICT`
)

// MirrorTable is the table of marks in the file of a mirror that has some topics only.
var MirrorTable = SummedTable{"mirror1", []string{"mirror1", "mark"}}

// findMirror finds the table even if a bit of its name is flipped.
const findMirror = `SELECT count(*) > 0 FROM sqlite_master WHERE name = 'mirror1' OR tbl_name = 'mirror1' OR sql LIKE '%mirror1%'`

// insertMirror makes a new file that of a mirror.
func (m *Mirrored) insertMirror(ctx context.Context, tx *sql.Tx) error {
	create := createMirror
	if len(m.Topics) > 0 {
		create = createPartMirror
	}
	if _, err := tx.ExecContext(ctx, create); err != nil {
		return err
	}
	for _, t := range m.Topics {
		if _, err := tx.ExecContext(ctx, `INSERT INTO followed (topic) VALUES (?) ON CONFLICT DO NOTHING`, t.String()); err != nil {
			return err
		}
	}
	if m.Parent == "" {
		return nil
	}
	parted := sql.NullInt64{Int64: int64(m.ParentHead), Valid: m.ParentHead != event.MaxID}
	_, err := tx.ExecContext(ctx, `UPDATE log SET parent = ?, parent_head = ?`, m.Parent, parted)
	return err
}

// endMirror makes the file of a mirror one of a log of its own.
func endMirror(tx *sql.Tx) error {
	_, err := tx.Exec(`DROP TABLE IF EXISTS mirror1`)
	return err
}

// checkMirror reads whether the file is a mirror, and of which topics, and refuses the other
// kind of file.
func (f *File) checkMirror(ctx context.Context, cfg Options) (err error) {
	if err := f.Read.QueryRowContext(ctx, findMirror).Scan(&f.Mirror); err != nil {
		return err
	}
	if f.Topics = nil; f.Mirror {
		if f.Topics, err = f.mirroredTopics(ctx); err != nil {
			return err
		}
	}
	switch {
	case f.Role == Server && cfg.Mirror != nil && !f.Mirror:
		return ErrNotMirror
	case cfg.Role == Server && f.Role == Server && f.Mirror && cfg.Mirror == nil && !cfg.AsNewLog:
		return ErrMirror
	case f.Role == Server && cfg.Mirror != nil && !sameTopics(f.Topics, cfg.Mirror.Topics):
		return fmt.Errorf("%w: %s, not %s", ErrOtherTopics, listTopics(f.Topics), listTopics(cfg.Mirror.Topics))
	case cfg.AsNewLog && len(f.Topics) > 0:
		return fmt.Errorf("make it a new log: %w: %s", ErrPartMirror, listTopics(f.Topics))
	}
	return nil
}

// mirroredTopics returns the topics of a mirror, none if it has all.
func (f *File) mirroredTopics(ctx context.Context) (topics []event.Topic, err error) {
	rows, err := f.Read.QueryContext(ctx, `SELECT topic FROM followed ORDER BY topic`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		t, err := event.ParseTopic(text)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		topics = append(topics, t)
	}
	return topics, rows.Err()
}

// IsPart reports whether the file is a mirror of some topics: ids may be missing.
func (f *File) IsPart() bool { return len(f.Topics) > 0 }

// Has reports whether the file may have all events of a topic: it is no mirror of others.
func (f *File) Has(topic event.Topic) bool {
	return !f.IsPart() || slices.ContainsFunc(f.Topics, func(t event.Topic) bool { return t.Contains(topic) })
}

// IsDense reports whether every id of a log is in the file, above its horizon.
func (f *File) IsDense() bool { return f.Role != Client && !f.IsPart() }

// sameTopics reports whether two lists have the same topics.
func sameTopics(a, b []event.Topic) bool {
	within := func(a, b []event.Topic) bool {
		return !slices.ContainsFunc(a, func(t event.Topic) bool { return !slices.Contains(b, t) })
	}
	return within(a, b) && within(b, a)
}

// listTopics returns topics for an error.
func listTopics(topics []event.Topic) string {
	if len(topics) == 0 {
		return event.All.String()
	}
	names := make([]string, len(topics))
	for i, t := range topics {
		names[i] = t.String()
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
