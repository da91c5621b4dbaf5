package pages

import (
	"cmp"
	"encoding/binary"
	"hash/crc32"
	"slices"

	"github.com/rstream-dev/rstream/event"
)

// A PostingKey names a posting: a storage and a block.
type PostingKey struct {
	Storage int64
	Block   uint64
}

// A posting has the events of a storage in a block. It is written as a list of chunks, so
// that extending one appends to it; the checksum of each chunk begins with that of the one
// before, and the first with the key.
type posting struct {
	key     PostingKey
	entries []Posted // in the order of ids; page 0 means that it is gone
	added   []Posted // not yet written
	written []byte   // the chunks
	chunks  int      // their number
	sum     uint32   // of the last
	changed bool     // entries are not those of chunks any more
}

// maxChunks is how many chunks a posting has before they are joined.
const maxChunks = 8

func newPosting(key PostingKey) *posting { return &posting{key: key, sum: key.sum()} }

// sum returns what the checksum of the first chunk begins with.
func (key PostingKey) sum() uint32 {
	b := binary.BigEndian.AppendUint64(nil, uint64(key.Storage))
	return checksum(binary.BigEndian.AppendUint64(b, key.Block))
}

// appendChunk appends a chunk of entries, whose checksum goes on from sum.
func appendChunk(b []byte, block uint64, entries []Posted, sum uint32) ([]byte, uint32) {
	body := binary.AppendUvarint(nil, uint64(len(entries)))
	before, page := event.ID(block*event.BlockSize), int64(0)
	for i := range entries {
		e := &entries[i]
		body = binary.AppendUvarint(body, uint64(e.ID-before))
		body = binary.AppendVarint(body, e.Page-page)
		body = binary.AppendUvarint(body, uint64(e.Offset))
		body = binary.AppendUvarint(body, uint64(e.Length))
		body = binary.BigEndian.AppendUint32(body, e.Sum)
		before, page = e.ID, e.Page
	}
	sum = crc32.Update(sum, castagnoli, body)
	b = binary.AppendUvarint(b, uint64(len(body)))
	return binary.BigEndian.AppendUint32(append(b, body...), sum), sum
}

// decodePosting reads a row and checks all of it.
func decodePosting(key PostingKey, count int64, chunks []byte) (*posting, error) {
	p := newPosting(key)
	p.written = chunks
	if key.Block > uint64(event.MaxID)/event.BlockSize {
		return nil, postingDamage(key, "there is no such block")
	}
	for d := (decoder{b: chunks}); len(d.b) > 0; p.chunks++ {
		if !p.decodeChunk(&d) {
			return nil, postingDamage(key, "chunk %d or its checksum differs", p.chunks+1)
		}
	}
	if int64(len(p.entries)) != count {
		return nil, postingDamage(key, "it has %d events, not %d", len(p.entries), count)
	}
	if p.chunks > 1 {
		slices.SortFunc(p.entries, comparePosted)
	}
	for i := 1; i < len(p.entries); i++ {
		if p.entries[i].ID == p.entries[i-1].ID {
			return nil, postingDamage(key, "event %s is in it twice", p.entries[i].ID)
		}
	}
	return p, nil
}

func comparePosted(a, b Posted) int { return cmp.Compare(a.ID, b.ID) }

// decodeChunk adds the next chunk.
func (p *posting) decodeChunk(d *decoder) bool {
	n := d.uvarint(uint64(len(d.b)))
	if d.bad || n > uint64(len(d.b)) {
		return false
	}
	body := decoder{b: d.b[:n]}
	p.sum = crc32.Update(p.sum, castagnoli, body.b)
	d.b = d.b[n:]
	if d.uint32() != p.sum || d.bad {
		return false
	}
	count := body.uvarint(n / 8) // an entry has eight bytes or more
	before, page := event.ID(p.key.Block*event.BlockSize), int64(0)
	p.entries = slices.Grow(p.entries, int(count))
	for range count {
		e := p.decodeEntry(&body, before, page)
		if body.bad || e.ID <= before || e.ID.Block() != p.key.Block || e.Page <= 0 || e.Page > MaxKey {
			return false
		}
		p.entries = append(p.entries, e)
		before, page = e.ID, e.Page
	}
	return !body.bad && len(body.b) == 0
}

func (p *posting) decodeEntry(d *decoder, before event.ID, page int64) (e Posted) {
	e.ID = before + event.ID(d.uvarint(event.BlockSize))
	e.Page = page + d.varint()
	e.Offset, e.Length = uint16(d.uvarint(maxRecord)), uint16(d.uvarint(maxRecord))
	e.Sum = d.uint32()
	return e
}

// encode returns the chunks of all entries, and how many entries there are. One chunk is
// appended to those that were written, unless there are too many or entries have changed.
func (p *posting) encode() (chunks []byte, count int) {
	if !p.changed && p.chunks > 0 && p.chunks < maxChunks {
		chunks, _ = appendChunk(slices.Clip(p.written), p.key.Block, p.added, p.sum)
		return chunks, len(p.entries) + len(p.added)
	}
	all := p.all()
	chunks, _ = appendChunk(nil, p.key.Block, all, p.key.sum())
	return chunks, len(all)
}

// all returns all entries in their order, those that are not yet written included.
func (p *posting) all() []Posted {
	all := append(slices.Clone(p.entries), p.added...)
	all = slices.DeleteFunc(all, func(e Posted) bool { return e.Page == 0 })
	slices.SortFunc(all, comparePosted)
	return all
}

// find returns the entry that was written for an id, or nil.
func (p *posting) find(id event.ID) *Posted {
	i, ok := slices.BinarySearchFunc(p.entries, id, func(e Posted, id event.ID) int { return cmp.Compare(e.ID, id) })
	if !ok || p.entries[i].Page == 0 {
		return nil
	}
	return &p.entries[i]
}

// lastPage returns the page that was written last of those that p names.
func (p *posting) lastPage() (key int64) {
	for i := range p.entries {
		key = max(key, p.entries[i].Page)
	}
	return key
}

// clipPosted returns the entries after from and up to to.
func clipPosted(entries []Posted, from, to event.ID) []Posted {
	search := func(at event.ID) int {
		i, ok := slices.BinarySearchFunc(entries, at, func(e Posted, id event.ID) int { return cmp.Compare(e.ID, id) })
		if ok {
			i++
		}
		return i
	}
	i, j := search(from), search(to)
	return entries[i:max(i, j)]
}
