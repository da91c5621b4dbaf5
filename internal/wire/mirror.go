package wire

import "github.com/rstream-dev/rstream/event"

// A Mirror is how a server is that mirrors the log of another server, the upstream.
type Mirror struct {
	Upstream  string        // its address, without secrets
	Topics    []event.Topic // those that it has; none if it has all
	Connected bool
	Ready     bool     // everything that the upstream had at some time since the start is here, or since it began at a later horizon
	Head      event.ID // of the upstream, as far as is known
	Horizon   event.ID // likewise
	Events    int64    // received since the start
	Bytes     int64    // of their lines
	Appends   int64    // passed on since the start
	Trouble   string   // why there is no connection, "" if there is one
	Via       string   // its name and those of the mirrors that it follows, as in HeaderVia
	Conflict  string   // why the upstream is not the one that is mirrored: one of the Reason constants, or ""
}

// A Cluster is how a server is that is a node of a cluster. It counts from the start.
type Cluster struct {
	Committer bool   // this node assigns the ids
	Sequence  uint64 // of the last message of the stream that is in the file
	Last      uint64 // of the stream, as far as is known
	Forwarded int64  // appends that were passed on to the committer
	Batches   int64  // stored in the stream by this node
	Events    int64  // of these batches
	Conflicts int64  // batches that were not stored, since another node had committed
	Repeats   int64  // batches that were sent again, since no answer came
	Unknown   int64  // batches whose outcome is not known

	ReceivedMessages, ReceivedBytes int64 // from NATS servers
	SentBytes                       int64 // to them
}

// A Caller is what a mirror passes on of the request of an append.
type Caller struct {
	Authorization string // the header, "" for none
	Via           string // the mirrors that have passed it on, as in HeaderVia
}
