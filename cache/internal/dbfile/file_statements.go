package dbfile

import (
	"context"
	"database/sql"
)

// statements are the statements that the writing connection keeps prepared across
// transactions: preparing one takes as long as several inserts.
type statements struct {
	ready  map[string]*sql.Stmt
	wanted []string             // used once and prepared before the next transaction
	used   map[string]*sql.Stmt // by the open transaction
}

// prepare prepares the statements that recent transactions used, before the next one
// takes the connection. It leaves out those that cannot be prepared: the table of one may
// have been made in a transaction that was rolled back. A transaction that needs the
// statement prepares it then, and gets the error.
func (f *File) prepare(ctx context.Context) {
	s := &f.statements
	wanted := s.wanted
	s.wanted = nil
	clear(s.used)
	for _, query := range wanted {
		if stmt, err := f.write.PrepareContext(ctx, query); err == nil {
			s.ready[query] = stmt
		}
	}
}

// Stmt returns the prepared statement of query in tx, a transaction of Begin.
func (f *File) Stmt(tx *sql.Tx, query string) (*sql.Stmt, error) {
	s := &f.statements
	if stmt := s.used[query]; stmt != nil {
		return stmt, nil
	}
	stmt := s.ready[query]
	if stmt != nil {
		stmt = tx.Stmt(stmt)
	} else {
		var err error
		if stmt, err = tx.Prepare(query); err != nil {
			return nil, err
		}
		s.wanted = append(s.wanted, query)
	}
	s.used[query] = stmt
	return stmt, nil
}

// Exec executes a statement in tx and keeps it prepared.
func (f *File) Exec(tx *sql.Tx, query string, args ...any) (sql.Result, error) {
	stmt, err := f.Stmt(tx, query)
	if err != nil {
		return nil, err
	}
	return stmt.Exec(args...)
}

// Scan runs a query in tx, keeps it prepared, and scans its only row into dest.
func (f *File) Scan(tx *sql.Tx, query string, args []any, dest ...any) error {
	stmt, err := f.Stmt(tx, query)
	if err != nil {
		return err
	}
	return stmt.QueryRow(args...).Scan(dest...)
}

// PrepareRead prepares a query on the reading connections. It needs a connection of its
// own, so the caller must not hold one.
func (f *File) PrepareRead(ctx context.Context, query string) (*sql.Stmt, error) {
	return f.Read.PrepareContext(ctx, query)
}
