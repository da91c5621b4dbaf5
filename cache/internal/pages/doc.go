// Package pages stores the events of a log many to a row, in the order in which they
// came, and checks them whenever it reads them.
//
// A page is a row: some events whose ids ascend, an index of them, and their lines. Its
// key is given in the order of arrival and never again, so storing goes into no gap,
// whatever the ids are; pages may overlap in ids. The page that was written last is
// extended as long as nobody else has changed it. A [Locator] says where in which page a
// line is, and a posting has the locators of eight storages' events in one block. Postings
// decide whether an event is held.
//
// Index, lines and postings have checksums. A read returns the line that was stored or a
// [DamageError], which names the page or the posting and spoils nothing else. Dropping a
// line overwrites it, so that no locator of another line changes; a page that is mostly
// dead is rewritten under a new key, together with its postings.
//
// Every function works in a transaction of its caller and begins none. [Tables] remembers
// the last page; after a transaction that was not committed, ForgetPage must be called.
//
// The package does not number storages, and does not decide what may be dropped. It reads
// no clock.
package pages
