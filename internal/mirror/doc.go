// Package mirror serves the log of another server, the upstream, from a file of its own.
//
// An [Upstream] is where the log comes from: it describes the log, yields the state at its
// horizon and the events after a position, and appends drafts. [HTTP] is one over HTTP,
// which may be a mirror itself.
//
// A [Mirror] stores each event with the id and the time that the upstream has given it, in
// order and without a gap. What a server computes from its log, such as states, digests and
// marks, is therefore the same here, and a reader may move between the two with its cursor.
// An append is passed on with the credentials of the caller, and answered once its events are
// here, too.
//
// A mirror mixes no two histories. Each connection begins with the newest position here and
// its mark; an upstream that refuses them, because it was rolled back, restored or is another
// log, is a [ConflictError]: nothing is taken from it, appends are refused, and reads go on.
// They also go on while the upstream is away.
//
// The package checks no rights, which its server does with its own keys, and chooses among no
// upstreams. It believes the upstream about the times of events, which their hashes do not
// cover.
package mirror
