// Command rstream keeps a local, queryable, complete copy of remote event streams and
// lets a shell pipe them. The same binary also contains the server.
//
// Each command has a file: newXCommand builds it, xOptions holds its flags, and runX
// does the work and can be tested. Flags, hints, exit statuses and everything else that
// addresses a person live here, and in no package below.
package main

import (
	"io"
	"log"
	"os"
)

func main() {
	// As a client, net/http logs to the standard logger alone, and quotes what a server sent.
	log.SetOutput(io.Discard)
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
