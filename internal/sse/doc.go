// Package sse reads one connection that carries server-sent events, as the WHATWG
// HTML standard defines them.
//
// A [Session] is the connection. It returns a [Frame] for each complete block: an
// event, or only a new cursor, which is the last event id in force. A frame is returned
// as soon as its blank line has arrived. A block that the end of the connection cuts
// off is dropped, including its id.
//
// The Client of r3labs/sse makes the connection, over a transport that normalizes
// the stream. No other package of the module imports that library.
//
// The package does not reconnect and stores no cursor. The caller's loop does both: it
// passes its stored cursor to Open and learns from Next why the connection ended.
package sse
