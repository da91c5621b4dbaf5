package wire

import "github.com/rstream-dev/rstream/event"

// A Mirror is how a server is that mirrors the log of another server, the upstream.
type Mirror struct {
	Upstream  string // its address, without secrets
	Connected bool
	Ready     bool     // everything that the upstream had at some time since the start is here
	Head      event.ID // of the upstream, as far as is known
	Horizon   event.ID // likewise
	Events    int64    // received since the start
	Bytes     int64    // of their lines
	Appends   int64    // passed on since the start
	Trouble   string   // why there is no connection, "" if there is one
	Conflict  string   // why the upstream is not the one that is mirrored: one of the Reason constants, or ""
}
