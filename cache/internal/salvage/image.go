package salvage

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
)

// An image is the pages of a file as its write-ahead log leaves them.
type image struct {
	ctx       context.Context // its end ends reading
	main, log *os.File
	pageSize  int64 // in bytes
	size      int64 // of main, as a number of pages, the last of which may be cut
	told      int64 // the number of pages that the file says it has
	last      int64 // the number of the last page that is not loose
	replaced  map[int64]int64
	loose     []int64 // offsets of pages in the log, after the first frame that is damaged
	whole     bool    // the log has no damaged frame before its last commit
	ends      bool    // the log has a commit, and nothing of another after it
}

func openImage(ctx context.Context, path string) (_ *image, err error) {
	im := &image{ctx: ctx, replaced: map[int64]int64{}, whole: true}
	defer func() {
		if err != nil {
			im.close()
		}
	}()
	if im.main, err = os.Open(path); err != nil {
		return nil, err
	}
	info, err := im.main.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	if im.log, err = os.Open(path + "-wal"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if im.pageSize, err = im.findPageSize(info.Size()); err != nil {
		return nil, err
	}
	im.size = (info.Size() + im.pageSize - 1) / im.pageSize
	if im.log != nil {
		if err := im.readLog(); err != nil {
			return nil, err
		}
	}
	im.last = im.size
	for n := range im.replaced {
		im.last = max(im.last, n)
	}
	if im.whole && im.ends {
		// The file gets shorter with a checkpoint only. Until then it ends with pages of
		// removed events.
		im.last = min(im.last, im.told)
	}
	if im.told == 0 {
		first, err := im.page(1)
		if err != nil {
			return nil, err
		}
		im.told = int64(binary.BigEndian.Uint32(first[28:]))
	}
	return im, nil
}

func (im *image) close() error {
	var errs []error
	for _, f := range []*os.File{im.main, im.log} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// imagePages returns how many pages there are: they have the numbers from 1 on, and those that
// are loose come last.
func (im *image) imagePages() int64 { return im.last + int64(len(im.loose)) }

// page returns a page. What a file lacks at its end is zero.
func (im *image) page(n int64) ([]byte, error) {
	if im.ctx.Err() != nil {
		return nil, context.Cause(im.ctx)
	}
	b := make([]byte, im.pageSize)
	f, at := im.main, (n-1)*im.pageSize
	if n > im.last && len(im.loose) > 0 {
		f, at = im.log, im.loose[n-im.last-1]
	} else if frame, ok := im.replaced[n]; ok {
		f, at = im.log, frame
	}
	return b, readAt(f, b, at)
}

const (
	logHeader   = 32
	frameHeader = 24
)

// readLog finds the pages of the write-ahead log, up to its last commit. SQLite ends at
// the first damaged frame; the pages after it are loose, since nothing proves their
// numbers. If the file has become shorter, only a log without damage proves it.
func (im *image) readLog() error {
	var head [logHeader]byte
	if _, err := im.log.ReadAt(head[:], 0); err != nil {
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
	var order binary.ByteOrder = binary.LittleEndian
	switch binary.BigEndian.Uint32(head[:]) {
	case 0x377f0683:
		order = binary.BigEndian
	case 0x377f0682:
	default:
		im.whole = false
		return nil
	}
	sum := logSum{order: order}
	sum.sumBytes(head[:24])
	sound, salts := sum.matchesSum(head[24:]), head[16:24]
	if !sound { // the frames know the salts, too
		if err := readAt(im.log, salts, logHeader+8); err != nil {
			return err
		}
	}
	pending, loose := map[int64]int64{}, []int64{}
	frame := make([]byte, frameHeader+im.pageSize)
	for at := int64(logHeader); ; at += int64(len(frame)) {
		if _, err := im.log.ReadAt(frame, at); err != nil {
			if errors.Is(err, io.EOF) {
				im.ends = im.told > 0 && len(pending) == 0 && len(loose) == 0
				return nil
			}
			return err
		}
		if string(frame[8:16]) != string(salts) {
			sound = false // of an earlier round, or damaged
			continue
		}
		n, commit := int64(binary.BigEndian.Uint32(frame)), int64(binary.BigEndian.Uint32(frame[4:]))
		sum.sumBytes(frame[:8])
		sum.sumBytes(frame[frameHeader:])
		sound = sound && sum.matchesSum(frame[16:24])
		if sound {
			pending[n] = at + frameHeader
		} else {
			loose = append(loose, at+frameHeader)
		}
		switch {
		case commit != 0 && sound:
			for n, at := range pending {
				im.replaced[n] = at
			}
			clear(pending)
			im.told = commit
		case commit != 0:
			for _, at := range pending {
				loose = append(loose, at)
			}
			clear(pending)
			im.loose, loose, im.whole = append(im.loose, loose...), nil, false
		}
	}
}

// A logSum is the running checksum of a write-ahead log.
type logSum struct {
	order  binary.ByteOrder
	s0, s1 uint32
}

func (s *logSum) sumBytes(b []byte) {
	for ; len(b) >= 8; b = b[8:] {
		s.s0 += s.order.Uint32(b) + s.s1
		s.s1 += s.order.Uint32(b[4:]) + s.s0
	}
}

func (s *logSum) matchesSum(b []byte) bool {
	return binary.BigEndian.Uint32(b) == s.s0 && binary.BigEndian.Uint32(b[4:]) == s.s1
}

// findPageSize returns the size of the pages of a main file that has a number of bytes. The file
// says it at its beginning, and its write-ahead log does, too. If both are damaged, it is one of
// the two sizes that this program has given to files.
func (im *image) findPageSize(bytes int64) (int64, error) {
	var head [18]byte
	if err := readAt(im.main, head[:], 0); err != nil {
		return 0, err
	}
	if size := int64(binary.BigEndian.Uint16(head[16:])); string(head[:16]) == "SQLite format 3\x00" && isPageSize(size) {
		return size, nil
	}
	if im.log != nil {
		var told [4]byte
		if err := readAt(im.log, told[:], 8); err != nil {
			return 0, err
		}
		if size := int64(binary.BigEndian.Uint32(told[:])); isPageSize(size) {
			return size, nil
		}
	}
	const small, large = 4096, 8192
	found := 0 // more large pages than small ones
	for at := int64(0); at < bytes; at += large {
		p := tablePage{bytes: make([]byte, large)}
		if err := readAt(im.main, p.bytes, at); err != nil {
			return 0, err
		}
		switch {
		case !p.readHeader() || p.kind != tableLeaf:
		case p.isFilledTo(large):
			found++
		case p.isFilledTo(small):
			found--
		}
	}
	if found > 0 {
		return large, nil
	}
	return small, nil
}

// isPageSize reports whether pages of SQLite's can have a size.
func isPageSize(size int64) bool { return 512 <= size && size <= 1<<15 && size&(size-1) == 0 }

// readAt reads b from f at an offset. It leaves the bytes of b unchanged that are beyond the end
// of f.
func readAt(f *os.File, b []byte, at int64) error {
	_, err := f.ReadAt(b, at)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
