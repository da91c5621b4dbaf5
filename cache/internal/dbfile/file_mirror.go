package dbfile

import (
	"context"
	"database/sql"

	"github.com/rstream-dev/rstream/event"
)

// A Mirrored says what the server of a mirrored log says of it.
type Mirrored struct {
	Parent     string   // the log from which it was made; if empty, none
	ParentHead event.ID // where the two parted, or event.MaxID if that is not known
}

// A mirror is a server's file in all but one thing: the ids come from elsewhere. The table,
// which stays empty, tells the two apart: if the file were served as a log of its own, it
// would give ids that the other server gives, too. Files of other kinds do not have it.
const createMirror = `CREATE TABLE mirror1 (mirror1 INTEGER PRIMARY KEY) STRICT`

// findMirror finds the table even if a bit of its name is flipped.
const findMirror = `SELECT count(*) > 0 FROM sqlite_master WHERE name = 'mirror1' OR tbl_name = 'mirror1' OR sql LIKE '%mirror1%'`

// insertMirror makes a new file that of a mirror.
func (m *Mirrored) insertMirror(ctx context.Context, tx *sql.Tx) error {
	if _, err := tx.ExecContext(ctx, createMirror); err != nil {
		return err
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

// checkMirror reads whether the file is a mirror, and refuses the other kind of file.
func (f *File) checkMirror(ctx context.Context, cfg Options) error {
	if err := f.Read.QueryRowContext(ctx, findMirror).Scan(&f.Mirror); err != nil {
		return err
	}
	switch {
	case f.Role == Server && cfg.Mirror != nil && !f.Mirror:
		return ErrNotMirror
	case cfg.Role == Server && f.Role == Server && f.Mirror && cfg.Mirror == nil && !cfg.AsNewLog:
		return ErrMirror
	}
	return nil
}
