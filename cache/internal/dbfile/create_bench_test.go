package dbfile

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
)

// A new file, with its schema and identity.
func BenchmarkCreate(b *testing.B) {
	dir := b.TempDir()
	for i := 0; b.Loop(); i++ {
		f, err := Open(context.Background(), filepath.Join(dir, fmt.Sprint(i)), Options{Role: Server})
		if err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
