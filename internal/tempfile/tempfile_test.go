package tempfile

import (
	"io"
	"os"
	"runtime"
	"testing"
)

// A file can be written and read, and leaves nothing. Except on Windows, it has no name that a killed process
// could leave.
func TestCreate(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Setenv("TMP", dir)
	names := func() int {
		t.Helper()
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	for _, in := range []string{dir, ""} {
		f, err := Create(in, "test-")
		if err != nil {
			t.Fatal(err)
		}
		if n := names(); n > 0 && runtime.GOOS != "windows" {
			t.Errorf("the folder has %d files", n)
		}
		if _, err := io.WriteString(f, "text"); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(f); string(b) != "text" || err != nil {
			t.Errorf("the file has %q, %v", b, err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if n := names(); n > 0 {
			t.Errorf("%d files are left", n)
		}
	}
	if _, err := Create(dir+"/none", "test-"); err == nil {
		t.Error("created a file without a folder")
	}
}
