package dbfile

import (
	"os"
	"testing"
)

// The size of a temporary file of SQLite is seen though it has no name.
func TestRewritten(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), sqliteTemp+"*")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if n, err := Rewritten(); n < 1000 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}
