package pages

import (
	"cmp"
	"encoding/binary"
	"hash/crc32"
	"slices"

	"github.com/rstream-dev/rstream/event"
)

// A PostingKey names the events that a storage has in a block.
type PostingKey struct {
	Storage int64
	Block   uint64
}

// octetLen is how many storages share a posting. A transaction of a thousand events, each of
// another storage, changes an eighth as many rows, and pages of the table, as it would if each
// storage had postings of its own; a read of one storage decodes those of eight.
const (
	octetBits = 3
	octetLen  = 1 << octetBits
)

// octetOf returns the octet of a storage: storages 8·n+1 to 8·n+8 are octet n. Storage 0,
// which none is, shares its octet with no storage.
func octetOf(storage int64) int64 { return (storage - 1) >> octetBits }

// placeIn returns which storage of its octet a storage is.
func placeIn(storage int64) uint64 { return uint64(storage-1) & (octetLen - 1) }

// octetOfJSON is octetOf, and hasJSON whether posting p has events of a storage, for the value
// of json_each j. A bit of members that has flipped must not hide events, so members has the
// bits of the other storages, too: a row in which the two do not agree is read, and is found to
// be damaged.
const (
	octetOfJSON = `(j.value - 1) >> 3`
	hasJSON     = `(p.members & (1 << (j.value - 1 & 7)) OR p.members & 255 <> 255 - (p.members >> 8))`
)

// membersOf returns what the row of a posting says of the storages that have events in it.
func membersOf(entries []placedEvent) int64 {
	bits := int64(0)
	for i := range entries {
		bits |= 1 << placeIn(entries[i].storage)
	}
	return bits | (255-bits)<<octetLen
}

// An octetKey names a posting: eight storages and a block.
type octetKey struct {
	octet int64
	block uint64
}

// A posting has the events of eight storages in a block. It is written as a list of chunks, so
// that extending one appends to it; the checksum of each chunk begins with that of the one
// before, and the first with the key.
type posting struct {
	key     octetKey
	entries []placedEvent // in the order of ids; page 0 means that it is gone
	added   []placedEvent // not yet written
	written []byte        // the chunks
	chunks  int           // their number
	sum     uint32        // of the last
	changed bool          // entries are not those of chunks any more
	old     bool          // the octet is a storage, as in files of earlier versions
	broken  bool          // it lacks events, and is written as damaged
}

// maxChunks is how many chunks a posting has before they are joined.
const maxChunks = 8

func newPosting(key octetKey) *posting { return &posting{key: key, sum: key.sum()} }

// sum returns what the checksum of the first chunk begins with.
func (key octetKey) sum() uint32 {
	b := binary.BigEndian.AppendUint64(nil, uint64(key.octet))
	return checksum(binary.BigEndian.AppendUint64(b, key.block))
}

// appendChunk appends a chunk of entries, whose checksum goes on from sum.
func appendChunk(b []byte, block uint64, entries []placedEvent, sum uint32) ([]byte, uint32) {
	body := binary.AppendUvarint(make([]byte, 0, 4+14*len(entries)), uint64(len(entries)))
	before, page := event.ID(block*event.BlockSize), int64(0)
	for i := range entries {
		e := &entries[i]
		body = binary.AppendUvarint(body, uint64(e.ID-before)<<octetBits|placeIn(e.storage))
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
func decodePosting(key octetKey, members, count int64, chunks []byte) (*posting, error) {
	p := newPosting(key)
	if err := p.decode(count, chunks); err != nil {
		return nil, err
	}
	if membersOf(p.entries) != members {
		return nil, postingDamage(key, "it has events of other storages")
	}
	return p, nil
}

// decodeOldPosting is decodePosting for a row of earlier versions, of one storage.
func decodeOldPosting(storage int64, block uint64, count int64, chunks []byte) (*posting, error) {
	p := newPosting(octetKey{storage, block})
	p.old = true
	if err := p.decode(count, chunks); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *posting) decode(count int64, chunks []byte) error {
	key := p.key
	p.written = chunks
	if key.block > uint64(event.MaxID)/event.BlockSize {
		return postingDamage(key, "there is no such block")
	}
	for d := (decoder{b: chunks}); len(d.b) > 0; p.chunks++ {
		if !p.decodeChunk(&d) {
			return postingDamage(key, "chunk %d or its checksum differs", p.chunks+1)
		}
	}
	if int64(len(p.entries)) != count {
		return postingDamage(key, "it has %d events, not %d", len(p.entries), count)
	}
	if p.chunks <= 1 {
		return nil
	}
	slices.SortFunc(p.entries, comparePlaced)
	for i := 1; i < len(p.entries); i++ {
		if comparePlaced(p.entries[i], p.entries[i-1]) == 0 {
			return postingDamage(key, "event %s is in it twice", p.entries[i].ID)
		}
	}
	return nil
}

func comparePlaced(a, b placedEvent) int {
	if a.ID != b.ID {
		return cmp.Compare(a.ID, b.ID)
	}
	return cmp.Compare(a.storage, b.storage)
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
	first := event.ID(p.key.block * event.BlockSize)
	last := placedEvent{Posted: Posted{ID: first}}
	p.entries = slices.Grow(p.entries, int(count))
	for range count {
		e := p.decodeEntry(&body, last.ID, last.Page)
		if body.bad || e.ID < last.ID || e.ID == last.ID && e.storage <= last.storage || e.ID <= first || e.ID > first+event.BlockSize || e.Page <= 0 || e.Page > MaxKey {
			return false
		}
		p.entries = append(p.entries, e)
		last = e
	}
	return !body.bad && len(body.b) == 0
}

func (p *posting) decodeEntry(d *decoder, before event.ID, page int64) (e placedEvent) {
	n := d.uvarint(event.BlockSize<<octetBits | octetLen - 1)
	e.ID, e.storage = before+event.ID(n>>octetBits), p.key.octet<<octetBits+1+int64(n&(octetLen-1))
	if p.old {
		e.ID, e.storage = before+event.ID(n), p.key.octet
	}
	e.Page = page + d.varint()
	e.Offset, e.Length = uint16(d.uvarint(maxRecord)), uint16(d.uvarint(maxRecord))
	e.Sum = d.uint32()
	return e
}

// encode returns the chunks of all entries, and how many entries and of which storages there
// are. One chunk is appended to those that were written, unless there are too many or entries
// have changed.
func (p *posting) encode() (chunks []byte, members int64, count int) {
	if !p.changed && p.chunks > 0 && p.chunks < maxChunks {
		chunks, _ = appendChunk(slices.Clip(p.written), p.key.block, p.added, p.sum)
		bits := (membersOf(p.entries) | membersOf(p.added)) & (1<<octetLen - 1)
		return chunks, bits | (255-bits)<<octetLen, len(p.entries) + len(p.added)
	}
	all := p.all()
	chunks, _ = appendChunk(nil, p.key.block, all, p.key.sum())
	return chunks, membersOf(all), len(all)
}

// all returns all entries in their order, those that are not yet written included.
func (p *posting) all() []placedEvent {
	all := append(slices.Clone(p.entries), p.added...)
	all = slices.DeleteFunc(all, func(e placedEvent) bool { return e.Page == 0 })
	slices.SortFunc(all, comparePlaced)
	return all
}

// find returns the entry that was written for an event of a storage, or nil.
func (p *posting) find(storage int64, id event.ID) *Posted {
	i, ok := slices.BinarySearchFunc(p.entries, placedEvent{storage: storage, Posted: Posted{ID: id}}, comparePlaced)
	if !ok || p.entries[i].Page == 0 {
		return nil
	}
	return &p.entries[i].Posted
}

// appendOf appends the events that a storage has in a span.
func (p *posting) appendOf(posted []Posted, storage int64, from, to event.ID) []Posted {
	for i := range p.entries {
		if e := &p.entries[i]; e.storage == storage && from < e.ID && e.ID <= to {
			posted = append(posted, e.Posted)
		}
	}
	return posted
}

// places returns where the events of p are.
func (p *posting) places() []Posted {
	places := make([]Posted, len(p.entries))
	for i := range places {
		places[i] = p.entries[i].Posted
	}
	return places
}

// lastPage returns the page that was written last of those that p names for a storage.
func (p *posting) lastPage(storage int64) (key int64) {
	for i := range p.entries {
		if e := &p.entries[i]; e.storage == storage {
			key = max(key, e.Page)
		}
	}
	return key
}
