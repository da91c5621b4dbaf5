//go:build !unix

package source

import (
	"testing"
	"time"
)

var started = time.Now()

// processTime returns the time that has passed, which is at least that of the processor.
func processTime(testing.TB) time.Duration { return time.Since(started) }
