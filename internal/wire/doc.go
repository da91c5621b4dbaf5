// Package wire implements the parts of the protocol that client and server share:
// paths, parameters, headers, bodies, the NDJSON and SSE encodings and the form of
// errors. docs/protocol.md is its specification.
//
// A value that one end writes is read by the other end as the same value, and an
// ambiguous request is refused. The package opens no connections and imports neither
// client nor server.
package wire
