package dbfile

import (
	"context"
	"fmt"
)

// A RoomError says that the disk of a file lacks the space that its upgrade takes. The file
// was not changed. It wraps ErrFull.
type RoomError struct{ Needed, Free int64 } // in bytes

func (e *RoomError) Error() string {
	return fmt.Sprintf("its upgrade to this version takes %s of free space, and the disk has %s", megabytes(e.Needed), megabytes(e.Free))
}

func (e *RoomError) Unwrap() error { return ErrFull }

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// freeSpace returns how many bytes this process can still write to the disk of a file; ok
// is false if that is unknown. It is a variable for the tests.
var freeSpace = diskSpace

// checkRoom returns a *RoomError if the file cannot be upgraded where it is. What moves
// takes the place of what it was, so only what grows is needed, and the write-ahead log.
func (f *File) checkRoom(ctx context.Context, now schemaState) error {
	size, err := f.Size(ctx)
	if err != nil {
		return err
	}
	events, err := f.HasOldEvents(ctx)
	if err != nil {
		return err
	}
	grows := size.Used() / postingGrowth
	if events || now.version < pagesVersion {
		grows = size.Used() / growth
	}
	needed := grows + min(size.Used(), maxLog)
	if free, ok := freeSpace(f.absPath); ok && free < needed {
		return &RoomError{needed, free}
	}
	return nil
}

const (
	growth        = 4        // an upgrade makes a file this part larger, at most,
	postingGrowth = 16       // and this part if only postings move
	maxLog        = 32 << 20 // how large its write-ahead log becomes, roughly
)
