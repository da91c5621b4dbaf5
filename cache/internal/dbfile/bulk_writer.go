package dbfile

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"strings"

	sqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// A sqliteConn is the part of a connection that database/sql uses.
type sqliteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

// A BulkWriter is the writing connection. It stores events without the detour through
// database/sql, which costs a fifth of the time.
type BulkWriter struct {
	sqliteConn
	inTx bool
	// Inserts are prepared on first use.
	ready map[Insert]driver.StmtExecContext
	args  []driver.NamedValue // of the next insert
}

// An Insert is a statement that inserts Rows rows at once: per-statement overhead
// dominates.
type Insert struct {
	Into, Row, Or string
	Rows          int
}

func (i Insert) query() string {
	return i.Into + strings.Repeat(i.Row+",", i.Rows-1) + i.Row + i.Or
}

type writerConnector struct{ driver.Connector }

func (c writerConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &BulkWriter{sqliteConn: conn.(sqliteConn), ready: map[Insert]driver.StmtExecContext{}}, nil
}

func (c *BulkWriter) Close() error {
	for _, stmt := range c.ready {
		if stmt, ok := stmt.(driver.Stmt); ok {
			stmt.Close() // otherwise SQLite would keep the file open
		}
	}
	return c.sqliteConn.Close()
}

func (c *BulkWriter) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	tx, err := c.sqliteConn.BeginTx(ctx, opts)
	c.inTx = err == nil
	return writerTx{tx, c}, err
}

// A writerTx records when it is over, which database/sql may decide: without a
// transaction, each insert would be one of its own.
type writerTx struct {
	driver.Tx
	conn *BulkWriter
}

func (tx writerTx) Commit() error {
	tx.conn.inTx = false
	return tx.Tx.Commit()
}

func (tx writerTx) Rollback() error {
	tx.conn.inTx = false
	return tx.Tx.Rollback()
}

// Bind appends an argument of the next insert.
func (c *BulkWriter) Bind(v driver.Value) {
	c.args = append(c.args, driver.NamedValue{Ordinal: len(c.args) + 1, Value: v})
}

// Exec executes an insert with the bound arguments, in the open transaction, and returns
// the number of rows inserted.
func (c *BulkWriter) Exec(i Insert) (n int64, err error) {
	defer func() { clear(c.args); c.args = c.args[:0] }()
	if !c.inTx {
		return 0, sql.ErrTxDone
	}
	ctx := context.Background() // it runs only briefly
	stmt := c.ready[i]
	if stmt == nil {
		ready, err := c.PrepareContext(ctx, i.query())
		if err != nil {
			return 0, err
		}
		var ok bool
		if stmt, ok = ready.(driver.StmtExecContext); !ok {
			return 0, errors.Join(errors.ErrUnsupported, ready.Close())
		}
		c.ready[i] = stmt
	}
	res, err := stmt.ExecContext(ctx, c.args)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// IsConstraint reports whether a constraint refused a statement, which then had no
// effect.
func IsConstraint(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_CONSTRAINT
}

// Reconnect opens the writing connection, replacing the one that is open.
func (f *File) Reconnect() error {
	// A checkpoint blocks appends, however little it copies: run one every 16 MB.
	connector, err := sqlite.NewConnector(dataSource(f.absPath, f.params+"&_txlock=immediate&_pragma=wal_autocheckpoint(4000)"))
	if err != nil {
		return err
	}
	if f.write != nil {
		f.write.Close() // and its statements
	}
	f.write = sql.OpenDB(writerConnector{connector})
	f.write.SetMaxOpenConns(1)
	f.write.SetMaxIdleConns(1)
	f.statements = statements{ready: map[string]*sql.Stmt{}, used: map[string]*sql.Stmt{}}
	return nil
}

// Begin begins a writing transaction on a connection that End gives back. The caller must
// hold the right to write.
func (f *File) Begin(ctx context.Context) (tx *sql.Tx, err error) {
	if err := f.prepare(ctx); err != nil {
		return nil, err
	}
	if f.conn, err = f.write.Conn(ctx); err != nil {
		return nil, err
	}
	if tx, err = f.conn.BeginTx(ctx, nil); err != nil {
		f.End()
	}
	return tx, err
}

// End gives back the connection that Begin has taken, after the transaction.
func (f *File) End() { f.conn.Close() }

// Bulk runs fn with the connection of the transaction that Begin has begun.
func (f *File) Bulk(fn func(c *BulkWriter) error) error {
	return f.conn.Raw(func(conn any) error { return fn(conn.(*BulkWriter)) })
}
