package demo

import (
	"bytes"
	"compress/gzip"
	_ "embed" // for the quakes
	"io"
)

//go:embed quakes.jsonl.gz
var quakesGz []byte

// Quakes returns a real week of earthquakes as appends, one JSON object a line,
// oldest first. The user is the seismic network that reported them.
func Quakes() ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(quakesGz))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
