package rows

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"strconv"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
)

// Passing a row from SQLite to Go costs more than finding it. So short texts come joined:
// one row contains many of them, separated by line feeds.

// MaxJoined is the length of the longest line that comes joined with others. It bounds
// memory use, however long other lines are. It is a variable for the tests.
var MaxJoined = 1 << 10

// LinesOf calls fn with the lines of the events with the given ids, in their order. The
// line of an event that is not stored is nil; if long is set, it is stored but too long
// to come joined.
func LinesOf(ctx context.Context, tx *sql.Tx, ids []event.ID, fn func(i int, line []byte, long bool)) error {
	var n int
	var joined []byte
	err := tx.QueryRowContext(ctx, `SELECT count(*), CAST(group_concat(
			CASE WHEN e.id IS NULL THEN '-' WHEN octet_length(e.line) <= ? THEN e.line ELSE '+' END, char(10)) AS BLOB)
		FROM json_each(?) j LEFT JOIN event e ON e.id = j.value`, MaxJoined, jsonIDs(ids)).Scan(&n, &joined)
	if err != nil {
		return err
	}
	if n != len(ids) || len(joined) > 0 && bytes.Count(joined, Newline)+1 != n {
		return ErrJoined
	}
	for i := range ids {
		var line []byte
		line, joined, _ = bytes.Cut(joined, Newline)
		switch string(line) {
		case "-":
			fn(i, nil, false)
		case "+":
			fn(i, nil, true)
		default:
			fn(i, line[:len(line):len(line)], false)
		}
	}
	return nil
}

var (
	Newline   = []byte("\n")
	ErrJoined = fmt.Errorf("%w: unexpected joined texts", dbfile.ErrCorrupt)
)

// parseNumbers parses joined numbers.
func parseNumbers(joined []byte) (ns []int64, err error) {
	if len(joined) == 0 {
		return nil, nil
	}
	ns = make([]int64, 0, bytes.Count(joined, Newline)+1)
	for text := range bytes.SplitSeq(joined, Newline) {
		n, err := strconv.ParseInt(string(text), 10, 64)
		if err != nil {
			return nil, ErrJoined
		}
		ns = append(ns, n)
	}
	return ns, nil
}

// jsonIDs formats ids, or the numbers of storages, for SQLite's json_each.
func jsonIDs[T ~int64 | ~uint64](ids []T) string {
	b := []byte{'['}
	for i, id := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(id), 10)
	}
	return string(append(b, ']'))
}
