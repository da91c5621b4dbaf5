package dbfile

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// ErrLogRow means that the row of the log is damaged, or missing.
var ErrLogRow = fmt.Errorf("%w: the row of its log has another checksum", ErrCorrupt)

// A RowReader is a transaction or a pool.
type RowReader interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// ScanLog scans columns of the row of the log into dest. It returns ErrLogRow if the row is
// damaged.
func ScanLog(ctx context.Context, tx RowReader, columns string, dest ...any) error {
	return logRowError(tx.QueryRowContext(ctx, logQuery(columns)).Scan(dest...))
}

func logQuery(columns string) string { return `SELECT ` + columns + ` FROM log WHERE ` + logSound }

var logSound = LogTable.Sound()

// logRowError returns the error of a query of the sound row of the log.
func logRowError(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ErrLogRow
	}
	return err
}

// ViewLog is ScanLog outside of a transaction.
func (f *File) ViewLog(ctx context.Context, columns string, dest ...any) error {
	return f.Named(orDone(ctx, ScanLog(ctx, f.Read, columns, dest...)))
}

// ScanLog is ScanLog in a transaction of Begin, by a prepared statement.
func (f *File) ScanLog(tx *sql.Tx, columns string, dest ...any) error {
	return logRowError(f.Scan(tx, logQuery(columns), nil, dest...))
}

// UpdateLog runs a statement that LogTable.Update has made, and returns ErrLogRow if the row
// of the log is damaged.
func UpdateLog(tx *sql.Tx, statement string, args ...any) error {
	res, err := tx.Exec(statement, args...)
	return updatedLog(res, err)
}

// UpdateLog is UpdateLog in a transaction of Begin, with a statement that stays prepared.
func (f *File) UpdateLog(tx *sql.Tx, statement string, args ...any) error {
	res, err := f.Exec(tx, statement, args...)
	return updatedLog(res, err)
}

func updatedLog(res sql.Result, err error) error {
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(err, ErrLogRow)
	}
	return nil
}

// CopyLog makes the copy of the row of the log what the row is now. It belongs in each
// transaction that seals a block, moves the horizon or changes which log it is, since a row
// that is restored from the copy has to be right in all but what follows from the events.
func CopyLog(tx *sql.Tx) error {
	_, err := tx.Exec(copyLog)
	return err
}

var (
	logColumns = strings.Join(LogTable.columns, ", ")
	copyLog    = `INSERT OR REPLACE INTO log_copy (one, ` + logColumns + `, sum) SELECT one, ` + logColumns + `, sum FROM log WHERE ` + logSound
)

// SumLog sets the checksum of the log's row, and copies the row. It is for rows that were
// just made, and for tests that change them.
func SumLog(tx *sql.Tx) error {
	_, err := tx.Exec(`UPDATE log SET sum = ` + LogTable.sum(nil))
	return errors.Join(err, CopyLog(tx))
}

// copySound is the condition that the checksum of the copy of the log's row agrees.
var copySound = (&SummedTable{"log_copy", LogTable.columns}).Sound()

// RestoreLog makes the row of the log what its copy says, with other values of some
// columns, in pairs, and returns an error if the copy is damaged, too.
func RestoreLog(tx *sql.Tx, set ...string) error {
	// Snapshots that were being sealed must not count as whole.
	values := map[string]string{"removals": fmt.Sprint("removals + ", 1<<20)}
	columns := make([]string, len(LogTable.columns))
	for i := 0; i < len(set); i += 2 {
		values[set[i]] = set[i+1]
	}
	for i, c := range LogTable.columns {
		if columns[i] = c; values[c] != "" {
			columns[i] = values[c]
		}
	}
	if _, err := tx.Exec(`DELETE FROM log`); err != nil {
		return err
	}
	res, err := tx.Exec(`INSERT INTO log (one, ` + logColumns + `, sum) SELECT 1, ` + strings.Join(columns, ", ") + `, ` + LogTable.sum(values) +
		` FROM log_copy WHERE ` + copySound)
	if err := updatedLog(res, err); err != nil {
		return err
	}
	return CopyLog(tx)
}
