package dbfile

import (
	"context"
	"database/sql"
)

// statements are those that the writing connection keeps prepared across its
// transactions: preparing one takes as long as several inserts.
type statements struct {
	ready  map[string]*sql.Stmt
	wanted []string             // used once and prepared before the next transaction
	used   map[string]*sql.Stmt // by the transaction that is open
}

// prepare prepares what the last transactions have used, before the next one has the
// connection.
func (f *File) prepare(ctx context.Context) error {
	s := &f.statements
	for _, query := range s.wanted {
		stmt, err := f.write.PrepareContext(ctx, query)
		if err != nil {
			return err
		}
		s.ready[query] = stmt
	}
	s.wanted = nil
	clear(s.used)
	return nil
}

// Stmt returns the statement of query in tx, which begin has begun.
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

// Exec executes a statement in tx that is kept prepared.
func (f *File) Exec(tx *sql.Tx, query string, args ...any) (sql.Result, error) {
	stmt, err := f.Stmt(tx, query)
	if err != nil {
		return nil, err
	}
	return stmt.Exec(args...)
}

// Scan executes a query in tx that is kept prepared and scans its only row.
func (f *File) Scan(tx *sql.Tx, query string, args []any, dest ...any) error {
	stmt, err := f.Stmt(tx, query)
	if err != nil {
		return err
	}
	return stmt.QueryRow(args...).Scan(dest...)
}

// PrepareRead prepares a query on the reading connections. It needs one of its own, so it
// cannot be done by who holds one.
func (f *File) PrepareRead(ctx context.Context, query string) (*sql.Stmt, error) {
	return f.Read.PrepareContext(ctx, query)
}
