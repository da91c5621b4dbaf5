// Package doctor says what is wrong with an event stream and its way here.
//
// Examine makes a few requests to any server of Server-Sent Events, one after the
// other, and records each answer as a Transcript: its head, and its frames byte by
// byte with the times at which they arrived. A check is a small function over
// transcripts that says one thing, a Finding, and what to do about it.
//
// A frame is what stands between two blank lines, be it an event, a comment or only
// an id. The package parses frames itself, since parsers of clients hide what is wrong
// with them.
//
// The package promises to write nothing to any server, to keep its requests few, and to
// stay within bounds of time and memory whatever the server sends. Where it cannot know,
// it says so. It does not know our client, and of our server only the wire.
package doctor
