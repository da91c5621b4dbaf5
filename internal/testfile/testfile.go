// Package testfile makes new files of logs and copies for tests. Such a file is made once
// and copied from then on, which takes a small part of the time.
package testfile

import (
	"bytes"
	"crypto/rand"
	"database/sql"
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
		err = forgetSalt(path)
	}
	if err == nil {
		f.bytes, err = os.ReadFile(path)
	}
	if n := bytes.Count(f.bytes, []byte(f.log)); err == nil && n != 1 {
		err = fmt.Errorf("the name of the log is %d times in its file", n)
	}
	return f, err
}

// forgetSalt takes the salt of a log's filters away. Each log gets one of its own when it is
// opened.
func forgetSalt(path string) error {
	db, err := sql.Open("sqlite", path) // the driver is that of the cache
	if err != nil {
		return err
	}
	_, err = db.Exec(`UPDATE log SET salt = 0`)
	return errors.Join(err, db.Close())
}

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
	return os.WriteFile(path, bytes.Replace(f.bytes, []byte(f.log), []byte(log), 1), 0o600)
}

// WriteNew is Write that leaves a file alone which is there.
func (t *Template) WriteNew(path, log string) error {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return t.Write(path, log)
}
