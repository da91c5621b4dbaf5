package cache

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"

	sqlite "modernc.org/sqlite"

	"github.com/rstream-dev/rstream/event"
)

// A sqliteConn is what database/sql uses of a connection.
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

// A writerConn is the connection that writes. It stores events without the detour
// through database/sql, which costs a fifth of the time.
type writerConn struct {
	sqliteConn
	inTx   bool
	insert driver.Stmt // prepared when it is first needed
}

type writerConnector struct{ driver.Connector }

func (c writerConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &writerConn{sqliteConn: conn.(sqliteConn)}, nil
}

func (c *writerConn) Close() error {
	if c.insert != nil {
		c.insert.Close() // or SQLite would keep the file open
	}
	return c.sqliteConn.Close()
}

func (c *writerConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	tx, err := c.sqliteConn.BeginTx(ctx, opts)
	c.inTx = err == nil
	return writerTx{tx, c}, err
}

// A writerTx knows when it is over, which database/sql may decide: without a
// transaction each insert would be one.
type writerTx struct {
	driver.Tx
	conn *writerConn
}

func (tx writerTx) Commit() error {
	tx.conn.inTx = false
	return tx.Tx.Commit()
}

func (tx writerTx) Rollback() error {
	tx.conn.inTx = false
	return tx.Tx.Rollback()
}

// insertEvents stores events with the numbers of their storages, but for those that
// are held already, which it returns as indexes.
func (c *writerConn) insertEvents(evs []event.Event, storages []int64) (held []int, err error) {
	if !c.inTx {
		return nil, sql.ErrTxDone
	}
	ctx := context.Background() // of a short while
	if c.insert == nil {
		// A BLOB is bound, since a string would be copied once more.
		c.insert, err = c.PrepareContext(ctx, `INSERT INTO event (id, storage, line) VALUES (?, ?, CAST(? AS TEXT)) ON CONFLICT DO NOTHING`)
		if err != nil {
			return nil, err
		}
	}
	insert, ok := c.insert.(driver.StmtExecContext)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	args := []driver.NamedValue{{Ordinal: 1}, {Ordinal: 2}, {Ordinal: 3}}
	for i := range evs {
		args[0].Value, args[1].Value, args[2].Value = int64(evs[i].ID), storages[i], evs[i].Line()
		res, err := insert.ExecContext(ctx, args)
		if err != nil {
			return nil, err
		}
		if n, err := res.RowsAffected(); err != nil {
			return nil, err
		} else if n == 0 {
			held = append(held, i)
		}
	}
	return held, nil
}

// connectWriter opens the writing connection, anew if there is one.
func (db *DB) connectWriter() error {
	// A checkpoint keeps appends waiting, however little there is to copy: every 16 MB.
	connector, err := sqlite.NewConnector(dataSource(db.file, "_txlock=immediate&_pragma=wal_autocheckpoint(4000)"))
	if err != nil {
		return err
	}
	if db.write != nil {
		db.write.Close() // and its statements
	}
	db.write = sql.OpenDB(writerConnector{connector})
	db.write.SetMaxOpenConns(1)
	db.write.SetMaxIdleConns(1)
	db.statements = statements{ready: map[string]*sql.Stmt{}, used: map[string]*sql.Stmt{}}
	return nil
}

// begin begins a writing transaction on a connection that end gives back. The caller
// has the right to write.
func (db *DB) begin(ctx context.Context) (tx *sql.Tx, err error) {
	if err := db.prepare(ctx); err != nil {
		return nil, err
	}
	if db.conn, err = db.write.Conn(ctx); err != nil {
		return nil, err
	}
	if tx, err = db.conn.BeginTx(ctx, nil); err != nil {
		db.end()
	}
	return tx, err
}

func (db *DB) end() { db.conn.Close() }

// storeEvents stores events in the transaction that begin has begun.
func (db *DB) storeEvents(evs []event.Event, storages []int64) (held []int, err error) {
	err = db.conn.Raw(func(conn any) (err error) {
		held, err = conn.(*writerConn).insertEvents(evs, storages)
		return err
	})
	return held, err
}
