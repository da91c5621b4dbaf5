package cache

import "context"

// A Count is how much a file holds.
type Count struct {
	Events   int64
	Storages int64
	Bytes    int64 // of the file, excluding its write-ahead log
}

// Count returns how much the file holds.
func (db *DB) Count(ctx context.Context) (n Count, err error) {
	err = db.file.ViewRow(ctx, `SELECT (SELECT count(*) FROM event), (SELECT count(*) FROM storage),
		(SELECT page_count * page_size FROM pragma_page_count, pragma_page_size)`, nil, &n.Events, &n.Storages, &n.Bytes)
	return n, err
}
