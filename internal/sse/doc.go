// Package sse makes one connection that carries an event stream, as the WHATWG
// text defines it.
//
// A [Session] is the connection. It gives a [Frame] for each complete block: an
// event, or only a new cursor, which is the last event id in force. A frame is given
// as soon as its blank line has arrived; what the end of the connection cuts off is
// dropped together with its id.
//
// The Client of r3labs/sse makes the connection, over a transport that normalizes
// the stream. Nothing else in the module imports that library.
//
// The package does not reconnect and stores no cursor: the loop around it does both,
// gives Open the cursor that it has stored, and gets from Next why the connection
// ended.
package sse
