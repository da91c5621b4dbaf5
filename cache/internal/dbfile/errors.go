package dbfile

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	sqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// Errors of opening a file, for callers to branch on.
var (
	ErrNotCache    = errors.New("is not an rstream file")
	ErrNoLog       = fmt.Errorf("%w yet: it is empty, or was not created to the end", ErrNotCache)
	ErrNoIdentity  = errors.New("has no identity: its -wal file was lost, or its creator killed")
	ErrOlder       = errors.New("only a process that may write it can upgrade it")
	ErrServedOlder = errors.New("is being served by an earlier version of rstream")
	ErrLinked      = errors.New("is being served, but its write-ahead log is not next to it")
	ErrOtherWAL    = errors.New("is complete, and the -wal file next to it is another file's")
	ErrOnlyWAL     = errors.New("is missing or empty, and the -wal file next to it is not")
	ErrNewer       = errors.New("was written by a later version of rstream")
	ErrLocked      = errors.New("is in use by another server")
	ErrRole        = errors.New("is the wrong kind of file")
	ErrOtherLog    = errors.New("belongs to another log")
	ErrMirror      = errors.New("is a mirror of another server's log")
	ErrNotMirror   = errors.New("is a log of its own, not a mirror")
	ErrOtherTopics = errors.New("mirrors other topics")
	ErrPartMirror  = errors.New("is a mirror of some topics")
	ErrCorrupt     = errors.New("is damaged")
	ErrIO          = errors.New("cannot be read or written")
)

// A StatusError is an error with an HTTP status.
type StatusError struct {
	Text   string
	Status int
}

// Error returns Text.
func (e *StatusError) Error() string { return e.Text }

// HTTPStatus returns the HTTP status code.
func (e *StatusError) HTTPStatus() int { return e.Status }

// Errors of using a file, for callers to branch on.
var (
	// ErrFull means that the disk or the file is full. Nothing was written, unless
	// ErrUnknown is wrapped too: then it may have been.
	ErrFull error = &StatusError{Text: "no space left for the file", Status: 507}
	// ErrBusy means that another process was writing for too long. Nothing was written.
	ErrBusy error = &StatusError{Text: "the file is being written by another process", Status: 503}
	// ErrUnknown means that the transaction may or may not have been
	// committed.
	ErrUnknown error = &StatusError{Text: "outcome unknown; retry with the same key", Status: 503}
	// ErrFiles means that the process or the system has too many open files to read or
	// write. It may pass.
	ErrFiles error = &StatusError{Text: "too many files are open", Status: 503}
)

// Errors of files that may only be read.
var (
	// ErrReadOnly means that this process may not write the file, its folder or SQLite's
	// files next to it.
	ErrReadOnly = errors.New("is read-only")
	// ErrChanged means that a file was written while it was read without locks.
	ErrChanged = errors.New("was changed while it was being read; try again")
)

// orDone classifies err. If ctx has ended it says so, where SQLite would only report an
// interrupt, and database/sql a finished transaction.
func orDone(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil || errors.Is(err, ctx.Err()) {
		return Classify(err)
	}
	return fmt.Errorf("%w (%w)", ctx.Err(), Classify(err))
}

// Classify maps SQLite's errors to those of this package, so that callers need not know
// SQLite's. The original error stays wrapped.
func Classify(err error) error {
	if err == nil || isClassified(err) {
		return err
	}
	var e *sqlite.Error
	if !errors.As(err, &e) {
		if strings.Contains(err.Error(), "sql: Scan error on column") { // it has no type
			return fmt.Errorf("%w (%w)", ErrCorrupt, &printable{err})
		}
		return err
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%w (%w)", ErrNotCache, err)
	case sqlite3.SQLITE_CORRUPT,
		// The statements are fixed, and a sound file can run them.
		sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG:
		return fmt.Errorf("%w (%w)", ErrCorrupt, &printable{err})
	case sqlite3.SQLITE_FULL:
		return fmt.Errorf("%w (%w)", ErrFull, err)
	case sqlite3.SQLITE_READONLY:
		return fmt.Errorf("%w (%w)", ErrReadOnly, err)
	case sqlite3.SQLITE_CANTOPEN:
		if outOfFiles() {
			return fmt.Errorf("%w (%w)", ErrFiles, err)
		}
	case sqlite3.SQLITE_IOERR:
		return fmt.Errorf("%w (%w)", ErrIO, err)
	case sqlite3.SQLITE_BUSY:
		return fmt.Errorf("%w (%w)", ErrBusy, err)
	}
	return err
}

// IsUnindexed reports whether SQLite found no entry of an index for a row that it was to
// change or delete. If the table has no other index, it has changed nothing.
func IsUnindexed(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code() == sqlite3.SQLITE_CORRUPT_INDEX
}

// IsSQLite reports whether err is one of SQLite's own.
func IsSQLite(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e)
}

// A printable is an error that may quote a damaged file. Its text is the first line,
// without characters that a terminal would act on.
type printable struct{ err error }

func (e *printable) Unwrap() error { return e.err }

func (e *printable) Error() string {
	line, _, _ := strings.Cut(e.err.Error(), "\n")
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, line)
}

func isClassified(err error) bool {
	for _, known := range []error{ErrNotCache, ErrCorrupt, ErrFull, ErrBusy, ErrIO, ErrReadOnly, ErrFiles} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// OutOfOrder returns the error for rows of a table that SQLite does not return in the order
// of their keys, since a bit of one is flipped. A loop that goes on after the last key that
// it was given would never end.
func OutOfOrder(table string) error {
	return fmt.Errorf("%w: rows of the table %s are out of order", ErrCorrupt, table)
}

// Wrap prefixes err with the step that failed, formatted as by fmt.Sprintf. It returns
// nil if err is nil.
func Wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}
