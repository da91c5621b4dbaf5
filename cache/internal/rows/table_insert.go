package rows

import (
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
)

// BLOBs are bound in place of texts, since binding a string copies it once more.
var (
	intoEvent   = dbfile.Insert{Into: `INSERT INTO event (id, storage, line) VALUES `, Row: `(?, ?, CAST(? AS TEXT))`}
	intoPosting = dbfile.Insert{Into: `INSERT INTO posting (storage, block, offsets) VALUES `, Row: `(?, ?, ?)`,
		Or: ` ON CONFLICT (storage, block) DO UPDATE SET offsets = CAST(offsets || excluded.offsets AS BLOB)`}
)

// maxRows is how many rows one statement inserts, fewRows how many of the remaining ones
// do; the last few are inserted one by one.
const (
	maxRows = 64
	fewRows = 8
)

// rowsPerStatement returns how many of n rows the next statement inserts.
func rowsPerStatement(n int) int {
	switch {
	case n >= maxRows:
		return maxRows
	case n >= fewRows:
		return fewRows
	}
	return 1
}

// insertEvents inserts events with the numbers of their storages. It returns the indexes
// of the events that are already stored, which it skips.
func insertEvents(c *dbfile.BulkWriter, evs []event.Event, storages []int64) (held []int, err error) {
	for at, n := 0, 0; at < len(evs); at += n {
		n = rowsPerStatement(len(evs) - at)
		_, err := insertChunk(c, evs[at:at+n], storages[at:], "")
		if !dbfile.IsConstraint(err) {
			if err != nil {
				return nil, err
			}
			continue
		}
		for i := at; i < at+n; i++ { // one is already stored: find it
			done, err := insertChunk(c, evs[i:i+1], storages[i:], ` ON CONFLICT DO NOTHING`)
			if err != nil {
				return nil, err
			}
			if done == 0 {
				held = append(held, i)
			}
		}
	}
	return held, nil
}

func insertChunk(c *dbfile.BulkWriter, evs []event.Event, storages []int64, or string) (int64, error) {
	for i := range evs {
		c.Bind(int64(evs[i].ID))
		c.Bind(storages[i])
		c.Bind(evs[i].Line())
	}
	into := intoEvent
	into.Rows, into.Or = len(evs), or
	return c.Exec(into)
}

// insertPostings appends to the stored postings.
func insertPostings(c *dbfile.BulkWriter, p Postings) error {
	keys, offsets := p.sorted()
	for len(keys) > 0 {
		into := intoPosting
		into.Rows = rowsPerStatement(len(keys))
		for i := range into.Rows {
			c.Bind(keys[i].Storage)
			c.Bind(int64(keys[i].Block))
			c.Bind(offsets[i])
		}
		if _, err := c.Exec(into); err != nil {
			return fmt.Errorf("index block %d: %w", keys[0].Block, err)
		}
		keys, offsets = keys[into.Rows:], offsets[into.Rows:]
	}
	return nil
}

// StoreEvents inserts events, with the numbers of their storages, in the transaction of
// File.Begin. It returns the indexes of the events that are already stored.
func (t *Tables) StoreEvents(evs []event.Event, storages []int64) (held []int, err error) {
	err = t.file.Bulk(func(c *dbfile.BulkWriter) (err error) {
		held, err = insertEvents(c, evs, storages)
		return err
	})
	return held, err
}

// StorePostings inserts postings in the transaction of File.Begin.
func (t *Tables) StorePostings(p Postings) error {
	if len(p) == 0 {
		return nil
	}
	return t.file.Bulk(func(c *dbfile.BulkWriter) error { return insertPostings(c, p) })
}
