package dbfile

import (
	"context"
	"database/sql"
	"strconv"

	sqlite "modernc.org/sqlite"
)

// checkpointBytes is how long the write-ahead log becomes before it is copied into the file. A
// checkpoint blocks appends, however little it copies.
const checkpointBytes = 16_000_000

// Reconnect opens the writing connection, replacing the one that is open.
func (f *File) Reconnect() error {
	checkpoint := strconv.Itoa(checkpointBytes / f.pageSize)
	connector, err := sqlite.NewConnector(dataSource(f.absPath, f.params+"&_txlock=immediate&_pragma=wal_autocheckpoint("+checkpoint+")"))
	if err != nil {
		return err
	}
	if f.write != nil {
		f.write.Close() // and its statements
	}
	f.write = sql.OpenDB(keepingConnector{connector})
	f.write.SetMaxOpenConns(1)
	f.write.SetMaxIdleConns(1)
	f.statements = statements{ready: map[string]*sql.Stmt{}, used: map[string]*sql.Stmt{}}
	return nil
}

// Begin begins a writing transaction on a connection that End gives back. The caller must
// hold the right to write.
func (f *File) Begin(ctx context.Context) (tx *sql.Tx, err error) {
	f.prepare(ctx)
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
