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

// The errors of opening a file that callers branch on.
var (
	ErrNotCache   = errors.New("is not an rstream file")
	ErrNoLog      = fmt.Errorf("%w: it has not been given a log yet", ErrNotCache)
	ErrNoIdentity = errors.New("does not say which log it is: its write-ahead log was lost, or an earlier version was killed while creating it")
	ErrOlder      = errors.New("only a process that may write it can upgrade it")
	ErrLinked     = errors.New("is being served, but its write-ahead log is not next to it: the server knows the file by another name, or the -wal file was removed")
	ErrNewer      = errors.New("was written by a later version of rstream")
	ErrLocked     = errors.New("is in use by another server")
	ErrRole       = errors.New("has another role")
	ErrOtherLog   = errors.New("belongs to another log")
	ErrCorrupt    = errors.New("is damaged")
	ErrIO         = errors.New("cannot be read or written")
)

// A StatusError is an error for which HTTP has a status.
type StatusError struct {
	Text   string
	Status int
}

// Error returns the text.
func (e *StatusError) Error() string { return e.Text }

// HTTPStatus returns the status.
func (e *StatusError) HTTPStatus() int { return e.Status }

// The errors of using a file that callers branch on.
var (
	// ErrFull means that the disk or the file can take no more; nothing was
	// written, unless it comes with ErrUnknown, and then it may have been.
	ErrFull error = &StatusError{Text: "no space left for the file", Status: 507}
	// ErrBusy means that another process was writing for too long; nothing
	// was written.
	ErrBusy error = &StatusError{Text: "the file is being written by another process", Status: 503}
	// ErrUnknown means that the transaction may or may not have been
	// committed.
	ErrUnknown error = &StatusError{Text: "outcome unknown; retry with the same key", Status: 503}
	// ErrFiles means that the process or the system has too many files open, so
	// that nothing could be read or written. It may pass.
	ErrFiles error = &StatusError{Text: "too many files are open", Status: 503}
)

// The errors of files that may only be read.
var (
	// ErrReadOnly means that the file, its folder or what SQLite keeps beside it
	// may not be written by this process.
	ErrReadOnly = errors.New("is read-only")
	// ErrChanged means that somebody wrote a file that is read without locks.
	ErrChanged = errors.New("was changed while it was being read; try again")
)

// orDone names err, and says that ctx has ended where SQLite would only say that it
// was interrupted, or database/sql that the transaction is over.
func orDone(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil || errors.Is(err, ctx.Err()) {
		return Classify(err)
	}
	return fmt.Errorf("%w (%w)", ctx.Err(), Classify(err))
}

// Classify gives SQLite's errors the package's names, so that callers need not
// know SQLite's.
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
		// What is asked of a file never changes, and a sound one can answer it.
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

// A printable is an error that may quote a damaged file: its text is the first line,
// without what a terminal would act upon.
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

// Wrap says what was being done when err happened.
func Wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}
