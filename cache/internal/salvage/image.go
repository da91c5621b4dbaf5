package salvage

import (
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
)

// pageSize is the size of a page of SQLite's. All files of this program have it.
const pageSize = 4096

// An image is the pages of a file as its write-ahead log leaves them.
type image struct {
	main, log *os.File
	size      int64 // of main, as a number of pages, the last of which may be cut
	told      int64 // the number of pages that the file says it has
	last      int64 // the number of the last page that is not loose
	replaced  map[int64]int64
	loose     []int64 // offsets of pages in the log, after the first frame that is damaged
	whole     bool    // the log has no damaged frame before its last commit
}

func openImage(path string) (_ *image, err error) {
	im := &image{replaced: map[int64]int64{}, whole: true}
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
	im.size = (info.Size() + pageSize - 1) / pageSize
	if im.log, err = os.Open(path + "-wal"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil {
		if err := im.readLog(); err != nil {
			return nil, err
		}
	}
	im.last = im.size
	for n := range im.replaced {
		im.last = max(im.last, n)
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
	b := make([]byte, pageSize)
	f, at := im.main, (n-1)*pageSize
	if n > im.last && len(im.loose) > 0 {
		f, at = im.log, im.loose[n-im.last-1]
	} else if frame, ok := im.replaced[n]; ok {
		f, at = im.log, frame
	}
	if _, err := f.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b, nil
}

const (
	logHeader   = 32
	frameHeader = 24
)

// readLog finds the pages of the write-ahead log, up to its last commit. SQLite ends at
// the first damaged frame; the pages after it are loose, since nothing proves their
// numbers.
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
		if _, err := im.log.ReadAt(salts, logHeader+8); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	pending, loose := map[int64]int64{}, []int64{}
	frame := make([]byte, frameHeader+pageSize)
	for at := int64(logHeader); ; at += int64(len(frame)) {
		if _, err := im.log.ReadAt(frame, at); err != nil {
			if errors.Is(err, io.EOF) {
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
