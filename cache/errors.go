package cache

import "github.com/rstream-dev/rstream/cache/internal/dbfile"

// Errors of opening a file, for callers to branch on.
var (
	ErrNotCache    = dbfile.ErrNotCache
	ErrNoLog       = dbfile.ErrNoLog
	ErrNoIdentity  = dbfile.ErrNoIdentity
	ErrOlder       = dbfile.ErrOlder
	ErrServedOlder = dbfile.ErrServedOlder
	ErrLinked      = dbfile.ErrLinked
	ErrOtherWAL    = dbfile.ErrOtherWAL
	ErrOnlyWAL     = dbfile.ErrOnlyWAL
	ErrNewer       = dbfile.ErrNewer
	ErrLocked      = dbfile.ErrLocked
	ErrRole        = dbfile.ErrRole
	ErrOtherLog    = dbfile.ErrOtherLog
	ErrCorrupt     = dbfile.ErrCorrupt
	ErrIO          = dbfile.ErrIO
)

// Errors of using a file, for callers to branch on.
var (
	// ErrFull means that the disk or the file is full. Nothing was written, unless
	// ErrUnknown is wrapped too: then it may have been.
	ErrFull = dbfile.ErrFull
	// ErrBusy means that another process was writing for too long. Nothing was written.
	ErrBusy = dbfile.ErrBusy
	// ErrFiles means that the process or the system has too many open files to read or
	// write. It may pass.
	ErrFiles = dbfile.ErrFiles
)

// Errors of files that may only be read.
var (
	// ErrReadOnly means that this process may not write the file, its folder or SQLite's
	// files next to it.
	ErrReadOnly = dbfile.ErrReadOnly
	// ErrChanged means that a file was written while it was read without locks.
	ErrChanged = dbfile.ErrChanged
)

// A RoomError says that the disk of a file lacks the space that its upgrade takes. The file
// was not changed. It wraps ErrFull.
type RoomError = dbfile.RoomError

// A StatusError is an error with an HTTP status, which its method HTTPStatus returns.
type StatusError = dbfile.StatusError
