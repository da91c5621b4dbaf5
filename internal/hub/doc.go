// Package hub fans out the events of one log to its subscriptions: on the server to
// the readers of its log, on the client to the subscribers of the cache.
//
// A [Source] is the log, readable from any position. A [Hub] learns of each commit
// from [Hub.Publish], or from [Hub.Advance] if the events are not at hand. A
// [Subscription] is one reader: it has topics and a position, and
// [Subscription.Next] returns the events after it.
//
// A subscription is either joined or not. When it joins, it notes a goal, the head of
// the log at that moment: it reads events up to the goal from the Source, and the hub
// queues those after it. A new subscription is not joined, nor is one whose queue
// overflowed: nothing is queued for it. It reads up to its goal, then joins again with
// a new goal. A reader that falls behind therefore costs reads of the Source, but no
// memory and no other reader's time.
//
// A subscription gets every event of its topics after its position once and in order,
// whatever the speed of its reader, and even if calls are cancelled or reads fail. Its
// position never passes an event that it was not given. The Source must hold the events
// that Publish and Advance announce, or hold them eventually: the hub waits for missing
// events and skips none.
//
// The package starts no goroutines, reads no clock and keeps no events except in the
// queues. It does not deal with horizons, permissions, heartbeats or encodings.
package hub
