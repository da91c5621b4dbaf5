package cache

import (
	"database/sql"
	"encoding/binary"
	"fmt"

	"github.com/rstream-dev/rstream/event"
)

// postings gathers, for each storage and block, the offsets of the events that
// one transaction adds.
type postings map[postingKey][]byte

type postingKey struct {
	storage int64
	block   uint64
}

func (p postings) add(storage int64, id event.ID) {
	key := postingKey{storage, id.Block()}
	p[key] = binary.BigEndian.AppendUint16(p[key], uint16(uint64(id-1)%event.BlockSize))
}

// positions turns the offsets of a block back into ids.
func positions(block int64, offsets []byte, visit func(event.ID)) {
	base := event.ID(block) * event.BlockSize
	for ; len(offsets) >= 2; offsets = offsets[2:] {
		visit(base + event.ID(binary.BigEndian.Uint16(offsets)) + 1)
	}
}

func (p postings) write(tx *sql.Tx) error {
	if len(p) == 0 {
		return nil
	}
	stmt, err := tx.Prepare(`INSERT INTO posting (storage, block, offsets) VALUES (?, ?, ?)
		ON CONFLICT (storage, block) DO UPDATE SET offsets = CAST(offsets || excluded.offsets AS BLOB)`)
	if err != nil {
		return err
	}
	defer stmt.Close()
	for key, offsets := range p {
		if _, err := stmt.Exec(key.storage, int64(key.block), offsets); err != nil {
			return fmt.Errorf("index block %d: %w", key.block, err)
		}
	}
	return nil
}
