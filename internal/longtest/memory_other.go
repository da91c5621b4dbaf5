//go:build !linux

package longtest

// TempInMemory does nothing: not every system has a folder whose files are in memory.
func TempInMemory() {}
