package wire

import "github.com/rstream-dev/rstream/event"

// A Mirror is how a server is that mirrors the log of another server, the upstream.
type Mirror struct {
	Upstream  string        // its address, without secrets
	Topics    []event.Topic // those that it has; none if it has all
	Connected bool
	Ready     bool     // everything that the upstream had at some time since the start is here
	Head      event.ID // of the upstream, as far as is known
	Horizon   event.ID // likewise
	Events    int64    // received since the start
	Bytes     int64    // of their lines
	Appends   int64    // passed on since the start
	Trouble   string   // why there is no connection, "" if there is one
	Via       string   // its name and those of the mirrors that it follows, as in HeaderVia
	Conflict  string   // why the upstream is not the one that is mirrored: one of the Reason constants, or ""
}

// A Caller is what a mirror passes on of the request of an append.
type Caller struct {
	Authorization string // the header, "" for none
	Via           string // the mirrors that have passed it on, as in HeaderVia
}
