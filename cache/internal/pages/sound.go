package pages

import (
	"bytes"
	"context"
	"database/sql"
	"errors"

	"github.com/rstream-dev/rstream/event"
)

// A KnownHash is a hash that an event of a damaged page may have. Storage is 0 if it is not
// known.
type KnownHash struct {
	ID      event.ID
	Storage int64
	Hash    event.Hash
}

// KnownHashes returns the hashes of the events of a damaged page, in the order of their ids.
// An event whose own line is damaged may have two, that of its text and that of its
// contents: if one bit has flipped, one of them is right, and nobody sends an event with the
// other. If the index is damaged, only lines that are sound count.
func KnownHashes(ctx context.Context, tx *sql.Tx, key int64) (known []KnownHash, err error) {
	var p page
	var first, last event.ID
	var count int64
	err = tx.QueryRowContext(ctx, `SELECT `+pageColumns+` FROM page WHERE key = ?`, key).
		Scan(&p.key, &first, &last, &count, &p.index, &p.lines)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if p.decodeEntries(first, last, count, p.index, len(p.lines)) != nil {
		for line := range bytes.SplitSeq(p.lines, newline) {
			if ev, err := event.ParseLine(bytes.Trim(line, " ")); err == nil {
				known = append(known, KnownHash{ev.ID, 0, ev.Hash})
			}
		}
		return known, nil
	}
	for i := range p.entries {
		e := &p.entries[i]
		if e.dead {
			continue
		}
		for _, h := range hashesIn(p.line(e)) {
			known = append(known, KnownHash{e.id, e.storage, h})
		}
	}
	return known, nil
}

// hashLabel stands before the hash in a line. It stands nowhere before that, since quotes in
// names and keys are escaped.
var hashLabel = []byte(`,"hash":"`)

// hashDigits is the length of a hash in a line.
const hashDigits = 2 * len(event.Hash{})

// hashesIn returns the hashes that the event of a line may have.
func hashesIn(line []byte) []event.Hash {
	if ev, err := event.ParseLine(line); err == nil {
		return []event.Hash{ev.Hash}
	}
	if ev, err := event.Stored(line); err == nil {
		return []event.Hash{ev.Hash, ev.Draft.Hash()}
	}
	at := findHash(line)
	if at < 0 {
		return nil
	}
	if h, err := event.ParseHash(line[at:][:hashDigits]); err == nil {
		return []event.Hash{h}
	}
	line = bytes.Clone(line)
	copy(line[at:], bytes.Repeat([]byte("0"), hashDigits))
	if ev, err := event.Stored(line); err == nil {
		return []event.Hash{ev.Draft.Hash()}
	}
	return nil
}

// findHash returns where the hash is in a line, -1 if there is none. A byte of the label may
// be another.
func findHash(line []byte) int {
	for at := 0; at+len(hashLabel)+hashDigits <= len(line); at++ {
		same := 0
		for i, c := range hashLabel {
			if line[at+i] == c {
				same++
			}
		}
		if same >= len(hashLabel)-1 {
			return at + len(hashLabel)
		}
	}
	return -1
}
