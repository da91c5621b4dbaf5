package cache

import "github.com/rstream-dev/rstream/cache/internal/dbfile"

// The errors of opening a file that callers branch on.
var (
	ErrNotCache   = dbfile.ErrNotCache
	ErrNoLog      = dbfile.ErrNoLog
	ErrNoIdentity = dbfile.ErrNoIdentity
	ErrOlder      = dbfile.ErrOlder
	ErrLinked     = dbfile.ErrLinked
	ErrNewer      = dbfile.ErrNewer
	ErrLocked     = dbfile.ErrLocked
	ErrRole       = dbfile.ErrRole
	ErrOtherLog   = dbfile.ErrOtherLog
	ErrCorrupt    = dbfile.ErrCorrupt
	ErrIO         = dbfile.ErrIO
)

// The errors of using a file that callers branch on.
var (
	// ErrFull means that the disk or the file can take no more; nothing was
	// written, unless it comes with ErrUnknown, and then it may have been.
	ErrFull = dbfile.ErrFull
	// ErrBusy means that another process was writing for too long; nothing
	// was written.
	ErrBusy = dbfile.ErrBusy
	// ErrFiles means that the process or the system has too many files open, so
	// that nothing could be read or written. It may pass.
	ErrFiles = dbfile.ErrFiles
)

// The errors of files that may only be read.
var (
	// ErrReadOnly means that the file, its folder or what SQLite keeps beside it
	// may not be written by this process.
	ErrReadOnly = dbfile.ErrReadOnly
	// ErrChanged means that somebody wrote a file that is read without locks.
	ErrChanged = dbfile.ErrChanged
)

// A StatusError is an error for which HTTP has a status, which its method HTTPStatus
// returns.
type StatusError = dbfile.StatusError
