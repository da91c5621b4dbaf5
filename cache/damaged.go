package cache

import (
	"errors"
	"sync"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
)

// damagedParts are the damaged pages, postings and rows of logs that this process has met.
type damagedParts struct {
	mu   sync.Mutex
	keys map[damagedPart]bool
}

// A damagedPart is the row of the log, a page, a posting or, if both are 0, a block.
type damagedPart struct {
	log           bool
	page, storage int64
	block         uint64
}

// maxDamaged bounds how many damaged parts are counted.
const maxDamaged = 1 << 16

func (d *damagedParts) countDamage(err error) {
	var damage *pages.DamageError
	row := errors.Is(err, dbfile.ErrLogRow)
	if !errors.As(err, &damage) && !row {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.keys == nil {
		d.keys = map[damagedPart]bool{}
	}
	if len(d.keys) < maxDamaged {
		part := damagedPart{log: row}
		if damage != nil {
			part.page, part.storage = damage.Page, damage.Storage
			if damage.Page == 0 {
				part.block = damage.Block
			}
		}
		d.keys[part] = true
	}
}

// Damaged returns how many damaged pages and lists of events this process has met since it
// opened the file. It counts each once, and up to 65,536.
func (db *DB) Damaged() int {
	db.damaged.mu.Lock()
	defer db.damaged.mu.Unlock()
	return len(db.damaged.keys)
}
