// Package wire is what client and server must agree on, written once: paths,
// parameters, headers, bodies, the NDJSON and SSE encodings and the form of errors.
// docs/protocol.md is its specification.
//
// The package promises that what one end writes the other reads as the same thing,
// and that a request which could mean two things is refused. It opens no
// connections and knows neither client nor server.
package wire
