// Package testport finds TCP ports for servers of tests that must know theirs before they listen, or
// listen at the same one again. Of the ports that the system gives to listeners of port 0 and to
// connections, any could be taken by another test in the meantime; these are others.
package testport

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// The ports are those below the ones that Linux and other systems give away, and above those that
// servers have by default.
const (
	first = 20_000
	count = 12_000
)

// Addresses returns n different addresses at which nothing listens.
func Addresses(n int) (addresses []string) {
	for len(addresses) < n {
		address := fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(count))
		if l, err := net.Listen("tcp", address); err == nil {
			defer l.Close() // until all are there, so that they differ
			addresses = append(addresses, address)
		}
	}
	return addresses
}
