// Package natslog keeps a log in a NATS JetStream stream, so that many nodes serve one log and
// any of them can take over from another.
//
// A [Log] is the stream, seen from one node. It is the upstream of a mirror: each node has a
// file of its own, follows the stream into it, and answers readers from it. A message of the
// stream is a page of consecutive events with their ids and times. Every page names the log,
// the position that it follows and that position's mark, so a node notices before it takes one
// event that a stream was purged, created again, restored from a backup, or belongs to another
// log: a [mirror.ConflictError].
//
// One node is the committer and assigns ids; the others forward appends to it. Which node it is
// stands in the stream, too: a node claims the role with a message, and the newest claim counts.
// The committer announces itself on a subject that is not stored; a node that has not heard of
// it for some seconds claims the role. So there is no second place, such as a key-value bucket,
// that could disagree with the stream, and nothing is stored while nothing happens.
//
// The sequence of the stream is the fence. At sequence S, with everything up to S in its file,
// the committer looks up the hashes of drafts, assigns ids, and publishes pages as one atomic
// batch that the server stores only if its last sequence is still S. If it is not, somebody else
// has committed: the committer reads on and assigns again. If no answer comes, it sends the same
// batch at S again: only one of the two can be stored. Two nodes that both take themselves for
// the committer are therefore slow, and never wrong.
//
// Expired values and horizons are messages as well, by the committer, so that all nodes agree.
// The stream itself keeps all its messages.
//
// The package promises no more than JetStream does. An append is answered once a majority of the
// stream's replicas has it; whether it survives a power failure of all of them depends on
// sync_interval of the servers, which clients can read only through the system account:
// [Log.CheckDurable].
package natslog
