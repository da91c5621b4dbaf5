// Package hub hands the events of one log to everyone who asked for them: to the
// server's readers, where the log is the server's own, and to the client's
// subscribers, where it is the cache.
//
// A [Source] is the log, readable from any position. A [Hub] stands beside it and
// is told of every commit by [Hub.Publish], or, when the events themselves are not
// at hand, by [Hub.Advance]. A [Subscription] is one reader: it names topics and a
// position, and [Subscription.Next] gives it what comes after.
//
// A subscription is in one of two states. Joined, it has noted a goal, the head of
// the log at that moment: what lies at or before the goal it reads from the Source,
// what comes after the goal the hub puts into its queue. Not joined, as it is born
// and as an overflowing queue leaves it, nothing is queued for it; it reads to the
// goal it has, then joins again with a new one. Whoever falls behind therefore
// costs reads of the Source and nothing else: no memory, nobody else's time.
//
// The promise: a subscription gets every event of its topics after its position
// once and in order, whatever the speed of its reader and however often a call is
// cancelled or a read fails; and its position never passes an event that it has not
// been given. The Source must hold what Publish and Advance announce, or come to
// hold it; the hub waits for what is missing and skips nothing.
//
// The package starts no goroutines, reads no clock and keeps no events beyond the
// queues. It knows nothing of horizons, rights, heartbeats or encodings.
package hub
