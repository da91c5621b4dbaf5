package pages

import (
	"context"
	"database/sql"

	"github.com/rstream-dev/rstream/window"
)

// PostBlock writes the postings of a block whose events were stored by Append. It can be
// called again when the block has more events, and replaces the postings of before.
func (t *Tables) PostBlock(ctx context.Context, tx *sql.Tx, block uint64) error {
	b := t.newBatch(tx)
	err := Scan(ctx, tx, Query{Span: window.BlockSpan(block)}, func(l Line) error {
		key := PostingKey{l.Storage, block}
		p := b.postings[key]
		if p == nil {
			p = newPosting(key)
			b.postings[key] = p
		}
		p.added = append(p.added, l.Posted())
		return nil
	})
	if err != nil {
		return err
	}
	return b.writePostings()
}
