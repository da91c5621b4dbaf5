//go:build unix

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// exportOf returns the export of topics with so many events each.
func exportOf(t *testing.T, topics, events int) []byte {
	t.Helper()
	var b bytes.Buffer
	id := event.Beginning
	for i := range topics {
		more := ""
		if left := topics - 1 - i; left > 0 {
			more = fmt.Sprintf(`,"more":%d`, left)
		}
		fmt.Fprintf(&b, `{"type":"export","log":"0123456789ABCDEF","topic":"u%d","from":"0000000000000","to":"0000000000100","count":%d,"windows":[]%s}`+"\n", i, events, more)
		for j := range events {
			id++
			d := event.Draft{User: fmt.Sprintf("u%d", i), Path: "p", Type: event.Put, Key: fmt.Sprintf("%d.%d", i, j), Value: []byte(fmt.Sprint(j))}
			ev := event.Event{ID: id, Time: event.Time(1e15 + int64(id)), Draft: d, Hash: d.Hash()}
			b.Write(append(ev.Line(), '\n'))
		}
	}
	return b.Bytes()
}

// A file that was cut at any byte never counts as complete.
func TestImportOfCutFiles(t *testing.T) {
	inParallel(t)
	const topics, events = 2, 2
	text := exportOf(t, topics, events)
	for _, name := range []string{"x.jsonl", "x.jsonl.gz", "x.jsonl.zst"} {
		path := filepath.Join(t.TempDir(), name)
		out, err := createOutFile(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := out.publishFile(); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		size, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			t.Fatal(err)
		}
		for n := size; n >= 0; n-- {
			if err := errors.Join(f.Truncate(n), seekStart(f)); err != nil {
				t.Fatal(err)
			}
			im := importing{name: name}
			err := im.readEvents(f, func(int64) {}, func([]event.Event, string) error { return nil })
			complete := err == nil && im.missing == 0 && im.topics == 0 && im.first != ""
			// Without its final line feed, the last line is still complete.
			if whole := n == size || name == "x.jsonl" && n == size-1; complete != whole || whole && im.events != topics*events {
				t.Errorf("%s, %d of %d bytes: %d events, %d missing, %d topics missing, %v", name, n, size, im.events, im.missing, im.topics, err)
			}
		}
	}
}

func seekStart(f *os.File) error {
	_, err := f.Seek(0, io.SeekStart)
	return err
}

// A file that is not committed leaves the old one unchanged.
func TestOutFileNotCommitted(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.gz")
	for _, old := range []string{"", "old"} {
		if old != "" {
			if err := os.WriteFile(path, []byte(old), 0o640); err != nil {
				t.Fatal(err)
			}
		}
		f, err := createOutFile(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		f.discardFile()
		b, err := os.ReadFile(path)
		if string(b) != old || old == "" && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q is %q after an abort, %v", old, b, err)
		}
	}
	if names, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(names) > 0 {
		t.Errorf("%q are left, %v", names, err)
	}
}

// The given name selects the compression, not that of a link's target, whose mode is kept.
func TestOutFileThroughLink(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "x.jsonl"), filepath.Join(dir, "x.gz")
	if err := errors.Join(os.WriteFile(target, nil, 0o600), os.Symlink(target, link)); err != nil {
		t.Fatal(err)
	}
	f, err := createOutFile(t.Context(), link)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(f, "text"); err != nil {
		t.Fatal(err)
	}
	if err := f.publishFile(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(target)
	if !bytes.HasPrefix(b, []byte("\x1f\x8b")) {
		t.Errorf("%s written as %s is %q, %v", target, link, b, err)
	}
	if info, err := os.Stat(target); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode of %s: %v, %v", target, info, err)
	}
}

// An interrupted export exits with its status, leaves no file or a complete one, and
// removes the temporary file. A killed one leaves no file of that name.
func TestInterruptedExport(t *testing.T) {
	dir := t.TempDir()
	db, err := cache.Open(t.Context(), filepath.Join(dir, "log.db"), cache.Config{Role: cache.Server})
	if err != nil {
		t.Fatal(err)
	}
	var drafts []event.Draft
	for i := range 4000 {
		drafts = append(drafts, event.Draft{User: "a", Path: fmt.Sprint(i), Type: event.Put, Key: "k", Value: []byte(`"` + strings.Repeat("x", 1000) + `"`)})
	}
	if _, err := db.Append(t.Context(), drafts); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		path := filepath.Join(dir, sig.String()+".zst")
		cmd := exec.Command(os.Args[0], "export", "--all", "--cache", filepath.Join(dir, "log.db"), "--to", path)
		cmd.Args[0] = "rstream"
		cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		partial := func() []string {
			names, _ := filepath.Glob(filepath.Join(dir, tempPrefix+"*"))
			return names
		}
		for len(partial()) == 0 {
			if _, err := os.Stat(path); err == nil {
				break
			}
		}
		_ = cmd.Process.Signal(sig) // it may have ended
		err := cmd.Wait()
		_, missing := os.Stat(path)
		if (err == nil) != (missing == nil) {
			t.Errorf("%s: ended with %v, and the file: %v", sig, err, missing)
		}
		if status := cmd.ProcessState.ExitCode(); status != 0 && status != 128+int(sig) && sig != syscall.SIGKILL {
			t.Errorf("%s: status %d", sig, status)
		}
		if left := partial(); len(left) > 0 && sig != syscall.SIGKILL {
			t.Errorf("%s: %q are left", sig, left)
		}
	}
}
