package dbfile

import (
	"database/sql"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
)

// While free pages are returned to the disk, the other writers of the program have their turns.
func TestGiveBackInTurns(t *testing.T) {
	defer func(was int) { shrinkBytes = was }(shrinkBytes)
	synctest.Test(t, func(t *testing.T) {
		f, err := Open(t.Context(), filepath.Join(t.TempDir(), "copy.db"), Options{Role: Client, Log: "0123456789ABCDEF"})
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		shrinkBytes = 4 * f.pageSize
		const pages = 64
		err = f.Update(t.Context(), func(tx *sql.Tx) error {
			_, err := tx.Exec(`CREATE TABLE big (b BLOB)`)
			for i := 0; i < pages && err == nil; i++ {
				_, err = tx.Exec(`INSERT INTO big VALUES (zeroblob(?))`, f.pageSize)
			}
			if err != nil {
				return err
			}
			_, err = tx.Exec(`DROP TABLE big`)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Lock(t.Context()); err != nil {
			t.Fatal(err)
		}
		var free int
		var both sync.WaitGroup
		both.Go(func() {
			if err := f.GiveBack(t.Context()); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait() // it is the first to wait for the lock
		both.Go(func() {
			err := f.Update(t.Context(), func(tx *sql.Tx) error { return tx.QueryRow(`PRAGMA freelist_count`).Scan(&free) })
			if err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		f.Unlock()
		both.Wait()
		if free < pages/2 {
			t.Errorf("the writer that came second saw %d free pages: it waited for all the others", free)
		}
		if s, err := f.Size(t.Context()); s.Free > 0 || err != nil {
			t.Errorf("%d pages are free in the end, %v", s.Free, err)
		}
	})
}
