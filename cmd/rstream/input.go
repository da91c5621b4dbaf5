package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/mattn/go-isatty"
)

// Prefixes of files that can be read. No JSON begins with one.
var (
	byteOrderMark = []byte("\xef\xbb\xbf")
	gzipMagic     = []byte("\x1f\x8b")
	zstdMagic     = []byte("\x28\xb5\x2f\xfd")
)

// otherMagic maps the prefixes of files that cannot be read to their formats. No JSON
// begins with one.
var otherMagic = []struct {
	magic []byte
	form  string
}{
	{[]byte("BZh"), "compressed with bzip2"},
	{[]byte("\xfd7zXZ"), "compressed with xz"},
	{[]byte("PK\x03\x04"), "a zip archive"},
	{[]byte("\xff\xfe"), "UTF-16 text"}, // written by redirection in PowerShell
	{[]byte("\xfe\xff"), "UTF-16 text"},
}

// maxWindow bounds the memory that a zstd file can request.
const maxWindow = 128 << 20

// A plainReader reads a text without the byte order mark that some editors write, and
// decompresses gzip and zstd. The first Read looks at the beginning of the input, and
// waits for no more bytes than needed.
type plainReader struct {
	src  *bufio.Reader
	text io.Reader // nil before the first read
	name string    // of the compression
}

func newPlainReader(r io.Reader) *plainReader { return &plainReader{src: bufio.NewReader(r)} }

func (p *plainReader) Read(b []byte) (int, error) {
	if p.text == nil {
		text, err := p.detectForm()
		if err != nil {
			return 0, p.nameForm(err)
		}
		p.text = text
	}
	n, err := p.text.Read(b)
	return n, p.nameForm(err)
}

func (p *plainReader) nameForm(err error) error {
	if err == nil || err == io.EOF || p.name == "" {
		return err
	}
	return fmt.Errorf("decompress %s: %w", p.name, err)
}

func (p *plainReader) detectForm() (io.Reader, error) {
	switch {
	case startsWith(p.src, gzipMagic):
		p.name = "gzip"
		z, err := gzip.NewReader(p.src)
		return &markSkipper{src: z}, err
	case startsWith(p.src, zstdMagic):
		p.name = "zstd"
		z, err := zstd.NewReader(p.src, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow)) // no goroutines
		return &markSkipper{src: z}, err
	}
	for _, other := range otherMagic {
		if startsWith(p.src, other.magic) {
			return nil, fmt.Errorf("%s; want plain UTF-8 text, gzip or zstd", other.form)
		}
	}
	return &markSkipper{src: p.src}, nil
}

// A markSkipper reads src without a leading byte order mark.
type markSkipper struct {
	src  io.Reader
	text *bufio.Reader // nil before the first read
}

func (m *markSkipper) Read(b []byte) (int, error) {
	if m.text == nil {
		m.text = bufio.NewReader(m.src)
		if startsWith(m.text, byteOrderMark) {
			_, _ = m.text.Discard(len(byteOrderMark)) // they are buffered
		}
	}
	return m.text.Read(b)
}

// startsWith reports whether r begins with a prefix. A slow writer may have sent only
// one byte, and that byte may rule the prefix out, so startsWith reads on only while
// they agree.
func startsWith(r *bufio.Reader, prefix []byte) bool {
	for n := 1; n <= len(prefix); n++ {
		b, err := r.Peek(n)
		if err != nil || !bytes.Equal(b, prefix[:n]) {
			return false
		}
	}
	return true
}

// isTerminal reports whether in is a terminal.
func isTerminal(in io.Reader) bool {
	f, ok := in.(*os.File)
	return ok && (isatty.IsTerminal(f.Fd()) || isatty.IsCygwinTerminal(f.Fd()))
}

// noteTerminal says that the program waits for input from a person.
func (a *app) noteTerminal(what string) {
	if isTerminal(a.in) {
		a.note("reading %s from the terminal; ^D ends it", what)
	}
}

// orSignal runs fn, which may block in a read that cannot be interrupted: of a
// terminal, or of a FIFO without a writer. If ctx ends first, fn continues until the
// program ends.
func orSignal[T any](ctx context.Context, fn func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := fn()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}

// An inputError says that an input file cannot be opened.
type inputError struct{ err error }

func (e *inputError) Error() string { return e.err.Error() }
func (e *inputError) Unwrap() error { return e.err }

// openInput opens an input file, which may be a FIFO without a writer.
func openInput(ctx context.Context, path string) (*os.File, error) {
	f, err := orSignal(ctx, func() (*os.File, error) { return os.Open(path) })
	if err == nil {
		if info, statErr := f.Stat(); statErr == nil && info.IsDir() {
			f.Close()
			f, err = nil, &fs.PathError{Op: "read", Path: path, Err: syscall.EISDIR}
		}
	}
	if err != nil && ctx.Err() == nil {
		err = &inputError{err}
	}
	return f, err
}

// restOf returns the format of a command that appends the lines of a file from %d on.
func restOf(f *os.File, name string) string {
	name = strings.ReplaceAll(shellWord(name), "%", "%%")
	begin := make([]byte, len(zstdMagic))
	n, _ := f.ReadAt(begin, 0) // a file that cannot be read counts as not compressed
	switch begin = begin[:n]; {
	case bytes.HasPrefix(begin, gzipMagic):
		return "gzip -dc " + name + " | tail -n +%d | rstream put --from -"
	case bytes.HasPrefix(begin, zstdMagic):
		return "zstd -dc " + name + " | tail -n +%d | rstream put --from -"
	}
	return "tail -n +%d " + name + " | rstream put --from -"
}
