// Package client keeps a local copy of a remote event stream.
//
// A [Client] asks servers of one log and puts everything that it receives, page or
// stream, through one path: a transaction of the cache that stores the events and
// moves the window they belong to, then the hub, then whoever asked. [Client.Sync]
// fills a bounded stretch of a topic; [Client.Tail] gives a topic's events from a
// position on and goes on live; [Client.Put] appends. They differ only in what they
// ask of that path.
//
// There is one live cursor for each Client, however many tails it has: topics join
// and leave it while it runs. It survives any disconnection by asking on from what
// is durably stored.
//
// The package promises that what is held is not asked for again, that every event
// is checked against its hash before it is stored, and that a reader gets each
// event of its topics once and in order. It prints nothing and knows no flags.
package client
