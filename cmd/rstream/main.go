// Command rstream keeps a local, queryable, complete copy of remote event streams
// and lets a shell pipe them. It is a client of a server that the same binary
// holds.
//
// One file a command: newXCommand builds it, xOptions holds its flags, runX does
// the work and can be tested. Everything that speaks to a person, flags, hints and
// exit statuses, lives here and nowhere below.
package main

import (
	"os"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
