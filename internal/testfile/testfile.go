// Package testfile makes new files of logs and copies for tests. Such a file is made once
// and copied from then on, which takes a small part of the time.
package testfile

import (
	"bytes"
	"crypto/rand"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/rstream-dev/rstream/event"
)

// A Template is a file as it is when it was just made. Its methods may be called at the same
// time.
type Template struct {
	made func() (newFile, error)
}

type newFile struct {
	bytes []byte
	log   string
	sum   int64                           // of the rows that name it
	sumOf func(log string) (int64, error) // the same for another log
}

// New returns a template. make, which is called at most once, makes a new file at path and
// returns its log.
func New(make func(path string) (log string, err error)) *Template {
	return &Template{sync.OnceValues(func() (newFile, error) { return buildFile(make) })}
}

func buildFile(make func(path string) (log string, err error)) (f newFile, err error) {
	dir, err := os.MkdirTemp("", "testfile")
	if err != nil {
		return f, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "new.db")
	if f.log, err = make(path); err == nil {
		err = f.forgetSalt(path)
	}
	if err == nil {
		f.bytes, err = os.ReadFile(path)
	}
	if err == nil {
		_, err = f.named(f.log)
	}
	return f, err
}

// forgetSalt takes the salt of a log's filters away. Each log gets one of its own when it is
// opened.
func (f *newFile) forgetSalt(path string) error {
	db, err := sql.Open("sqlite", path) // the driver is that of the cache
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.Exec(`UPDATE log SET salt = 0`); err != nil {
		return err
	}
	if err := SumLog(db); err != nil {
		return err
	}
	var values string
	err = db.QueryRow(`SELECT group_concat('quote(' || name || ')', ' || '', '' || ')
		FROM pragma_table_info('log') WHERE name NOT IN ('one', 'id', 'sum')`).Scan(&values)
	if err != nil {
		return err
	}
	if err := db.QueryRow(`SELECT sum, `+values+` FROM log`).Scan(&f.sum, &values); err != nil {
		return err
	}
	f.sumOf = func(log string) (sum int64, err error) {
		memory, err := sql.Open("sqlite", ":memory:")
		if err == nil {
			err = errors.Join(memory.QueryRow(`SELECT row_sum(?, `+values+`)`, log).Scan(&sum), memory.Close())
		}
		return sum, err
	}
	return db.Close()
}

// A DB is a file or a transaction.
type DB interface {
	Exec(query string, args ...any) (sql.Result, error)
	QueryRow(query string, args ...any) *sql.Row
}

// SumLog gives the row of the log, which a test has changed, its checksum, and the copy of it
// what it is.
func SumLog(db DB) error {
	var columns string
	err := db.QueryRow(`SELECT group_concat(name, ', ') FROM pragma_table_info('log') WHERE name NOT IN ('one', 'sum')`).Scan(&columns)
	if err == nil {
		_, err = db.Exec(`UPDATE log SET sum = row_sum(` + columns + `); REPLACE INTO log_copy SELECT * FROM log`)
	}
	return err
}

// named returns the bytes of the file for another log: the name and the checksum of the rows
// of the log and of its copy are others.
func (f *newFile) named(log string) ([]byte, error) {
	sum, err := f.sumOf(log)
	if err != nil {
		return nil, err
	}
	b, n := bytes.Clone(f.bytes), 0
	for at := 0; ; n++ {
		i := bytes.Index(b[at:], []byte(f.log))
		if i < 0 {
			break
		}
		row := b[at+i:]
		copy(row, log)
		i = bytes.Index(row, sumBytes(f.sum))
		if i < 0 || i > 256 {
			return nil, fmt.Errorf("the checksum of the row of log %s is not there", f.log)
		}
		copy(row[i:], sumBytes(sum))
		at = len(b) - len(row) + i
	}
	if n != 2 {
		return nil, fmt.Errorf("the name of log %s is %d times in its file", f.log, n)
	}
	return b, nil
}

// sumBytes returns a checksum as SQLite stores it.
func sumBytes(sum int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(sum))[2:] }

// Write makes the file of a log at path, or of a new log if its name is empty.
func (t *Template) Write(path, log string) error {
	f, err := t.made()
	if err != nil {
		return err
	}
	if log == "" {
		var random [10]byte
		rand.Read(random[:]) // never fails
		log = event.NewLogID(random)
	}
	if len(log) != len(f.log) {
		return fmt.Errorf("log %q: want %d characters", log, len(f.log))
	}
	b := f.bytes
	if log != f.log {
		if b, err = f.named(log); err != nil {
			return err
		}
	}
	return os.WriteFile(path, b, 0o600)
}

// WriteNew is Write that leaves a file alone which is there.
func (t *Template) WriteNew(path, log string) error {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return t.Write(path, log)
}
