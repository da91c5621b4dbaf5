package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

func gzipped(t *testing.T, s string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func zstded(t *testing.T, s string) string {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(w.EncodeAll([]byte(s), nil))
}

func TestPlainReader(t *testing.T) {
	const bom, text = "\xef\xbb\xbf", "{\"a\":1}\r\n{\"b\":2}"
	for _, c := range []struct{ name, file, want, refused string }{
		{"text", text, text, ""},
		{"nothing", "", "", ""},
		{"a mark", bom + text, text, ""},
		{"a mark alone", bom, "", ""},
		{"a half mark", bom[:2], bom[:2], ""},
		{"two marks", bom + bom + text, bom + text, ""},
		{"a mark inside", text + bom, text + bom, ""},
		{"gzip", gzipped(t, text), text, ""},
		{"gzip in two parts", gzipped(t, text) + gzipped(t, text), text + text, ""},
		{"gzip of a mark", gzipped(t, bom+text), text, ""},
		{"gzip of nothing", gzipped(t, ""), "", ""},
		{"zstd", zstded(t, text), text, ""},
		{"zstd of a mark", zstded(t, bom+text), text, ""},
		{"cut gzip", gzipped(t, text)[:25], "", "decompress gzip: "},
		{"cut zstd", zstded(t, text)[:12], "", "decompress zstd: "},
		{"not gzip after all", "\x1f\x8bxxxxxxxxxxxxxx", "", "decompress gzip: "},
		{"half of a magic number", "\x1f", "\x1f", ""},
		{"a bracket", "(x)", "(x)", ""},
		{"bzip2", "BZh91AY&SY", "", "compressed with bzip2; want plain UTF-8 text, gzip or zstd"},
		{"xz", "\xfd7zXZ\x00\x00", "", "compressed with xz; want"},
		{"zip", "PK\x03\x04\x14", "", "a zip archive; want"},
		{"UTF-16", "\xff\xfe{\x00", "", "UTF-16 text; want"},
		{"UTF-16 of the other order", "\xfe\xff\x00{", "", "UTF-16 text; want"},
	} {
		for how, wrap := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "by bytes": iotest.OneByteReader, "with its end": iotest.DataErrReader} {
			got, err := io.ReadAll(newPlainReader(wrap(strings.NewReader(c.file))))
			switch {
			case c.refused == "" && (err != nil || string(got) != c.want):
				t.Errorf("%s, %s: %q, %v, want %q", c.name, how, got, err, c.want)
			case c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)):
				t.Errorf("%s, %s: %v, want %q", c.name, how, err, c.refused)
			}
		}
	}
}

// A line is passed on as soon as it arrives, although more may follow.
func TestPlainReaderDoesNotWait(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	go func() { _, _ = io.WriteString(w, "1\n") }()
	b := make([]byte, 10)
	if n, err := newPlainReader(r).Read(b); err != nil || string(b[:n]) != "1\n" {
		t.Errorf("read %q, %v", b[:n], err)
	}
}
