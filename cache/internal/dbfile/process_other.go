//go:build !unix

package dbfile

// processExists always says yes where there is no cheap way to know: then a lease
// simply runs out.
func processExists(int) bool { return true }
