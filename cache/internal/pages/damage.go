package pages

import (
	"errors"
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
)

// A DamageError says that a page or a posting is not as it was written. It wraps
// dbfile.ErrCorrupt.
type DamageError struct {
	Page     int64    // the key of the page, or 0
	Storage  int64    // of the posting, the first one that it may be of, or 0
	Storages int      // how many it may be of: they are numbered one after another
	ID, Last event.ID // the first and the last event of the page, as far as can be known
	Block    uint64   // of ID, or of the posting
	Twin     bool     // the event is stored twice, and the page is sound
	Reason   string
}

func (e *DamageError) Error() string {
	switch {
	case e.Storages > 1:
		return fmt.Sprintf("%s: posting of storages %d to %d in block %d: %s", dbfile.ErrCorrupt, e.Storage, e.Storage+int64(e.Storages)-1, e.Block, e.Reason)
	case e.Storage != 0:
		return fmt.Sprintf("%s: posting of storage %d in block %d: %s", dbfile.ErrCorrupt, e.Storage, e.Block, e.Reason)
	case e.Page == 0:
		return fmt.Sprintf("%s: block %d: %s", dbfile.ErrCorrupt, e.Block, e.Reason)
	}
	return fmt.Sprintf("%s: page %d at event %s, block %d: %s", dbfile.ErrCorrupt, e.Page, e.ID, e.Block, e.Reason)
}

func (e *DamageError) Unwrap() error { return dbfile.ErrCorrupt }

func isDamage(err error) bool {
	var damage *DamageError
	return errors.As(err, &damage)
}

// A Skip is called with damage that a read goes past. If nil, damage ends the read.
type Skip func(*DamageError) error

// Pass calls f with damage. It returns any other error, and damage if f is nil.
func (f Skip) Pass(err error) error {
	var damage *DamageError
	if f == nil || !errors.As(err, &damage) {
		return err
	}
	return f(damage)
}

func pageDamage(key int64, first, last event.ID, format string, args ...any) error {
	return &DamageError{Page: key, ID: first, Last: last, Block: first.Block(), Reason: fmt.Sprintf(format, args...)}
}

// Damage returns the damage of a sound page whose line of p is wrong for a reason.
func (p *Posted) Damage(reason error) *DamageError {
	return &DamageError{Page: p.Page, ID: p.ID, Last: p.ID, Block: p.ID.Block(), Reason: reason.Error()}
}

func postingDamage(key octetKey, format string, args ...any) error {
	return &DamageError{Storage: key.octet<<octetBits + 1, Storages: octetLen, Block: key.block, Reason: fmt.Sprintf(format, args...)}
}

// A HeldError says that another event is held under an id: its hash or its time differs.
type HeldError struct{ ID event.ID }

func (e *HeldError) Error() string {
	return fmt.Sprintf("event %s differs from the one that is held", e.ID)
}
