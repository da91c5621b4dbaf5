// Package deliver does something for each event of some topics, and moves a named cursor on
// success alone.
//
// A consumer reads events in the order of their ids. A Worker tries one event, or a batch of
// them, at a time. An event that a worker has tried with success is done. A storage's events
// are tried in order: while one is not done, those after it wait, and other storages go on.
// A storage whose event has failed is blocked until its next try; an event that has failed
// too often becomes a dead letter, and its storage goes on.
//
// The package promises that each event is done at least once or becomes a dead letter,
// however the process ends, and that tries of one storage neither overlap nor change their
// order. What is repeated after a kill is what was under way and what was done in the last
// 50 ms. A try is stored before it starts: an event that kills the process is counted, and
// events that were under way next to it are not.
//
// What is stored is one position up to which events were read, a row for each blocked
// storage, and the first unfinished event of each other storage that has one. Memory is
// bounded whatever the backlog: events of blocked storages are dropped, and read again from
// the file when their turn comes.
//
// The package leaves out where events come from: it gets them in batches, and finds those of
// one storage in a Store. It prints nothing.
package deliver
