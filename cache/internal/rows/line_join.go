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

// To carry a row from SQLite to Go costs more than to find it. So what is short comes
// joined: one row has the texts of many, with line feeds between them.

// MaxJoined is the longest line that comes joined with others; so many of them are in
// memory at once, however long the rest is. It is a variable for the tests.
var MaxJoined = 1 << 10

// LinesOf calls fn with the lines of the events that have the ids, in their order. An
// event that is not stored has none, and long says that it is, but with a line that is
// too long to come joined.
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
	ErrJoined = fmt.Errorf("%w: there are other texts than asked for", dbfile.ErrCorrupt)
)

// numbers reads joined numbers.
func numbers(joined []byte) (ns []int64, err error) {
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

// jsonIDs writes ids, or the numbers of storages, as SQLite's json_each reads them.
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
