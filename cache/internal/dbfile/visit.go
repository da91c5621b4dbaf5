package dbfile

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"sync"
	"sync/atomic"

	sqlite "modernc.org/sqlite"
)

// The driver copies each blob of each row that a query returns into memory of its own. A read of
// many rows spends more time with that than SQLite needs to find them. Such a read uses the
// function visit_row instead, in the condition of a query that returns nothing: its arguments
// are in SQLite's memory.

func init() {
	sqlite.MustRegisterFunction("visit_row", &sqlite.FunctionImpl{NArgs: -1, VolatileArgs: true, Scalar: visitRow})
}

// visitors are the functions of the queries that run, by their numbers.
var (
	visitors    sync.Map
	lastVisitor atomic.Int64
)

// visitRow calls the function with the number args[0]. Its result ends the query.
func visitRow(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
	fn, ok := visitors.Load(args[0])
	if !ok {
		return nil, errors.New("no such visitor")
	}
	more := fn.(func([]driver.Value) bool)(args[1:])
	return !more, nil
}

// VisitRows runs a query with the condition visit_row(?1, …), whose other parameters begin at
// ?2. It calls fn for each row that the other conditions select, with the arguments after the
// first one, until fn returns false. They are valid during the call. fn must not use tx.
func VisitRows(ctx context.Context, tx *sql.Tx, query string, args []any, fn func(columns []driver.Value) (more bool)) error {
	number := lastVisitor.Add(1)
	visitors.Store(number, fn)
	defer visitors.Delete(number)
	rows, err := tx.QueryContext(ctx, query, append([]any{number}, args...)...)
	if err != nil {
		return err
	}
	defer rows.Close()
	rows.Next() // the one row is that at which fn has ended the query
	return rows.Err()
}
