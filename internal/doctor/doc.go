// Package doctor diagnoses an event stream and the proxies in front of it.
//
// Examine makes a few requests to any Server-Sent Events server, one after the
// other, and records each response as a Transcript: its head, its frames byte by
// byte, and when they arrived. A check is a small function over transcripts. It
// returns a Finding: one fact, and how to fix it if it is a problem.
//
// A frame is the text between two blank lines: an event, a comment or only an id.
// The package parses frames itself, because the parsers of clients hide malformed
// ones.
//
// The package only reads from servers, makes few requests, and bounds its time and
// memory whatever the server sends. If it cannot tell, the finding says so. It shares
// no code with the rstream client or server except packages event and wire.
package doctor
