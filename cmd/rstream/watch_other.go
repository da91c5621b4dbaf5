//go:build !unix

package main

import (
	"os"
	"time"
)

// watchClosed does nothing: there is no cheap way to know here, so the next write fails
// instead.
func watchClosed(*os.File, func()) (stop func()) { return func() {} }

// readerLeaves waits and returns false: here, nothing tells.
func readerLeaves(_ *os.File, wait time.Duration) bool {
	time.Sleep(wait)
	return false
}

// hasRoom returns true: here, nothing tells.
func hasRoom(*os.File, time.Duration) bool { return true }
