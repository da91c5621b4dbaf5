//go:build !unix

package main

import (
	"os"
	"time"
)

// watchClosed does nothing where there is no cheap way to know: then the next write
// tells.
func watchClosed(*os.File, func()) (stop func()) { return func() {} }

// readerLeaves waits and knows nothing.
func readerLeaves(_ *os.File, wait time.Duration) bool {
	time.Sleep(wait)
	return false
}

// hasRoom does not know.
func hasRoom(*os.File, time.Duration) bool { return true }
