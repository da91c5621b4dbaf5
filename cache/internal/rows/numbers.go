package rows

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
)

// Passing a row from SQLite to Go costs more than finding it. So short texts come joined:
// one row contains many of them, separated by line feeds.

var (
	newline = []byte("\n")
	// ErrJoined means that joined texts are not what they were asked for.
	ErrJoined = fmt.Errorf("%w: unexpected joined texts", dbfile.ErrCorrupt)
)

// parseNumbers parses joined numbers.
func parseNumbers(joined []byte) (ns []int64, err error) {
	if len(joined) == 0 {
		return nil, nil
	}
	ns = make([]int64, 0, bytes.Count(joined, newline)+1)
	for text := range bytes.SplitSeq(joined, newline) {
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
