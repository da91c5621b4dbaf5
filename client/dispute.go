package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// listTime limits the requests for the blocks of a range from several servers.
const listTime = 5 * time.Second

// errOverruled ends a comparison with a server whose digest has turned out to be wrong. The
// range is compared with another one.
var errOverruled = errors.New("the digests of other servers count")

// A blockSum is what one side has in a block.
type blockSum struct {
	digest window.Digest
	count  uint64
}

// A dispute is about a held range in which the copy differs from the digest of a server, while
// there are others. It finds out which of them are wrong.
//
// No proof is possible: a server can invent events with valid hashes and a digest of them. So
// in this order
//
//   - a server is wrong whose events do not make its own digest,
//   - a server is wrong whose digest of a block is not the one that was proven before, if
//     another server has that one,
//   - the digest that most servers have counts; if no digest has most, that of the server
//     which is named first. A server that was set aside for the latter while not all were heard is
//     heard again in the next dispute, and asked again if most agree with it then.
type dispute struct {
	c      *Client
	topic  event.Topic
	from   string                         // the server of the digest
	lists  map[string]map[uint64]blockSum // by server, what those that answer have, by block
	list   []wire.Window                  // of from
	proven window.Spans                   // what the copy had proven before
	honest map[string]bool                // servers whose events make their digest, as far as known
	alone  window.Spans                   // of proven, what no server has
	wrong  map[string]*ProtocolError      // servers that are wrong, and why
	tied   map[string]bool                // those of them that as many others overrule, while some have not been heard
	caught string                         // a server whose events do not make its digest, although it has not been accused yet
	sent   *page                          // of the block that was looked at last, from an honest server; nil if they are not known
}

// newDispute requests the digests of the blocks of span from the servers. It returns nil if from
// does not answer.
func (c *Client) newDispute(ctx context.Context, topic event.Topic, span window.Span, from string) (*dispute, error) {
	windows, err := c.store.Windows(ctx)
	if err != nil {
		return nil, storeError(err)
	}
	d := &dispute{c: c, topic: topic, from: from, lists: map[string]map[uint64]blockSum{}, proven: window.NewSet(windows...).Proven(topic),
		honest: map[string]bool{}, wrong: map[string]*ProtocolError{}, tied: map[string]bool{}}
	all, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, base := range c.cfg.Servers {
		if base != from && !c.mayAsk(base) && !c.isDoubtful(base) {
			continue
		}
		limit := listTime
		if base != from && !c.isFreshServer(base) { // it has failed lately, and may be silent
			limit = checkTime
		}
		asking.Go(func() {
			some, cancel := context.WithTimeout(onlyServer(all, base, false), limit)
			defer cancel()
			list, err := c.windowsOf(some, topic, span)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			d.lists[base] = blockSums(list)
			if base == from {
				d.list = list
			}
		})
	}
	asking.Wait()
	if d.lists[from] == nil {
		return nil, orCause(ctx, ctx.Err())
	}
	return d, nil
}

// blockSums returns the sums of windows, by block.
func blockSums(list []wire.Window) map[uint64]blockSum {
	sums := make(map[uint64]blockSum, len(list))
	for i := range list {
		sums[list[i].To.ID.Block()] = blockSum{list[i].Digest, list[i].Count}
	}
	return sums
}

// listOf returns the windows of the server of the digest.
func (d *dispute) listOf() []wire.Window {
	if d == nil {
		return nil
	}
	return d.list
}

// sumOf returns what a server has in the block of f.
func (d *dispute) sumOf(base string, f *Finding) blockSum {
	if sum, ok := d.lists[base][f.Span.To.Block()]; ok {
		return sum
	}
	nothing, _ := window.DigestOf(nil)
	return blockSum{nothing, 0}
}

// findWrong finds the servers that are wrong about some of the blocks in which the copy differs
// from the digest of d.from, and sets them aside.
func (d *dispute) findWrong(ctx context.Context, different []Finding) error {
	for _, part := range d.provenParts(different) {
		if err := d.compareProven(ctx, part); err != nil {
			return err
		}
	}
	for i := range different {
		if err := d.compareServers(ctx, &different[i]); err != nil {
			return err
		}
	}
	if d.caught != "" {
		d.accuseOfEvents(d.caught, &different[0])
	}
	for _, base := range slices.Sorted(maps.Keys(d.wrong)) {
		d.c.setAsideOn(base, d.wrong[base], d.tied[base])
	}
	return nil
}

// witnessBlocks is how many blocks that were proven before say who is wrong about new ones.
const witnessBlocks = 16

// provenParts returns the parts of blocks that were proven before. If there are none, it returns
// the newest blocks that were: a server that is wrong about those is not believed about others.
func (d *dispute) provenParts(different []Finding) window.Spans {
	parts := d.proven.Intersect(spansOf(different))
	if n := len(d.proven); len(parts) == 0 && n > 0 {
		newest := d.proven[n-1]
		begin := window.BlockSpan(newest.To.Block() - min(newest.To.Block(), witnessBlocks-1)).From
		parts = window.Spans{{From: max(newest.From, begin), To: newest.To}}
	}
	return parts
}

// accuse records that a server is wrong.
func (d *dispute) accuse(base, format string, args ...any) {
	if d.wrong[base] == nil {
		d.wrong[base] = &ProtocolError{base, fmt.Sprintf(format, args...)}
	}
}

// servers returns the servers that have answered and are not known to be wrong, in the order of
// the configuration.
func (d *dispute) servers() (bases []string) {
	for _, base := range d.c.cfg.Servers {
		if d.lists[base] != nil && d.wrong[base] == nil {
			bases = append(bases, base)
		}
	}
	return bases
}

// compareProven accuses the servers that have another digest of a part of a block than the one
// that was proven here before, if another server has that one.
func (d *dispute) compareProven(ctx context.Context, part window.Span) error {
	leaves, err := d.c.store.CheckedLeaves(ctx, d.topic, part)
	if err != nil {
		return storeError(err)
	}
	var ours blockSum
	ours.digest, ours.count = window.DigestOf(leaves)
	var same bool
	var other []string
	all, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	until := d.c.momentAt(part.To)
	for _, base := range d.servers() {
		sum, err := d.c.requestSum(onlyServer(all, base, false), d.topic, Range{Since: d.c.momentAt(part.From), Until: &until})
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
		case ours == blockSum{sum.Digest, sum.Count}:
			same = true
		default:
			other = append(other, base)
		}
	}
	if !same {
		d.alone = d.alone.Add(part)
		return nil
	}
	for _, base := range other {
		d.accuse(base, "its digest of %s in %s is not the one proven before", d.topic, part)
	}
	return nil
}

// compareServers accuses the servers that differ from the others about a block.
func (d *dispute) compareServers(ctx context.Context, f *Finding) error {
	sides := d.sides(f)
	if len(sides) < 2 {
		return nil
	}
	for i, side := range sides {
		first, err := d.findHonest(ctx, side, f)
		if err != nil {
			return err
		}
		if first == "" {
			continue
		}
		for j, other := range sides {
			for _, base := range other {
				switch {
				case j == i:
					d.c.reinstate(base)
				case d.wrong[base] == nil:
					d.accuse(base, "its digest of %s in %s differs from that of %s", d.topic, f.Span, hostOf(first))
					d.tied[base] = len(other) == len(side) && len(d.lists) < len(d.c.cfg.Servers)
				}
			}
		}
		return nil
	}
	return nil
}

// findHonest returns a server of a side whose events make the digest of the side, "" if there is
// none. Those that have failed lately are asked last, and the fastest of the others first.
func (d *dispute) findHonest(ctx context.Context, side []string, f *Finding) (string, error) {
	var well, rest []string // the rest may be silent or slow
	for _, base := range side {
		if d.c.isFreshServer(base) {
			well = append(well, base)
		} else {
			rest = append(rest, base)
		}
	}
	for len(well) > 0 {
		base := d.c.fastest(well)
		well = slices.DeleteFunc(well, func(other string) bool { return other == base })
		honest, err := d.isHonest(onlyServer(ctx, base, len(well) > 0), base, f)
		switch {
		case errors.Is(err, errOvertaken):
			rest = append(rest, base)
		case err != nil || honest:
			return base, err
		}
	}
	for _, base := range rest {
		if honest, err := d.isHonest(onlyServer(ctx, base, false), base, f); err != nil || honest {
			return base, err
		}
	}
	return "", nil
}

// sides returns the servers by what they have in a block. The side of most comes first or, if
// some are equally many, the one of the server that is named first.
func (d *dispute) sides(f *Finding) (sides [][]string) {
	at := map[blockSum]int{}
	for _, base := range d.servers() {
		sum := d.sumOf(base, f)
		i, known := at[sum]
		if !known {
			i, sides = len(sides), append(sides, nil)
			at[sum] = i
		}
		sides[i] = append(sides[i], base)
	}
	slices.SortStableFunc(sides, func(a, b []string) int { return cmp.Compare(len(b), len(a)) })
	return sides
}

// isHonest reports whether the events of a server, the only one of ctx, make its digest of a
// block. A server that does not send them has no say any more. What was found out about one block
// counts for all. The error is errOvertaken if the server is slow and another one can be asked.
func (d *dispute) isHonest(ctx context.Context, base string, f *Finding) (bool, error) {
	sum := d.sumOf(base, f)
	if base == d.caught {
		return false, nil
	}
	if d.honest[base] || sum == f.ours() { // nobody can make a digest of events that others have sent
		return true, nil
	}
	var leaves window.Leafer
	sent := page{base: base, next: event.Point{ID: f.Span.To}}
	err := d.c.eachPart(ctx, d.topic, f.Span, func(_ window.Span, evs []event.Event) error {
		for i := range evs {
			leaves.Add(evs[i].ID, evs[i].Time, evs[i].Hash)
			sent.size += len(evs[i].Line())
		}
		if sent.events = append(sent.events, evs...); sent.size > maxPageBytes {
			sent.events = nil
		}
		return nil
	})
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case errors.Is(err, errOvertaken):
		return false, err
	case err != nil:
		delete(d.lists, base)
		return false, nil
	}
	if digest, count := window.DigestOf(leaves.Leaves()); sum != (blockSum{digest, count}) {
		d.accuseOfEvents(base, f)
		return false, nil
	}
	if d.honest[base] = true; sent.size <= maxPageBytes {
		d.sent = &sent
	}
	return true, nil
}

// hearSender takes the events of a page, of which f is a block, for what its server has there,
// whether it answers about its digest or not. A server that answers something else is wrong, and its
// digest may still be right.
func (d *dispute) hearSender(base string, f *Finding) {
	switch {
	case d.lists[base] == nil:
		d.lists[base] = map[uint64]blockSum{f.Span.To.Block(): f.ours()}
	case d.sumOf(base, f) != f.ours():
		d.caught = base
	}
}

// accuseOfEvents accuses a server whose events of a block do not make its digest of it.
func (d *dispute) accuseOfEvents(base string, f *Finding) {
	d.accuse(base, "its events of %s in %s are not those of its digest", d.topic, f.Span)
}

// replaceBlock replaces the stored events of a block, which do not make the digest of d.from,
// with those of a server that has this digest, and reports whether they make it now. It sets aside
// the servers that have sent the wrong events. It leaves events alone that were proven before, and
// a block that nobody else vouches for.
func (d *dispute) replaceBlock(ctx context.Context, f *Finding, fresh func([]event.Event) error) (ok bool, err error) {
	if d == nil || len(d.alone.Intersect(window.Spans{f.Span})) > 0 ||
		len(d.lists) < 2 && len(d.c.suppliers(d.topic, window.Spans{f.Span}, d.from)) == 0 {
		return false, nil
	}
	r := replacing{c: d.c, topic: d.topic, spans: d.proven.Gaps(f.Span), fresh: fresh}
	if err := r.readHeld(ctx); err != nil {
		return false, err
	}
	slow := map[string]bool{}
	for senders := d.sendersOf(f); len(senders) > 0; {
		base := senders[0]
		senders = senders[1:]
		err := r.replaceFrom(onlyServer(ctx, base, len(senders) > 0 && !slow[base]))
		switch {
		case ctx.Err() != nil:
			return false, context.Cause(ctx)
		case isOurs(err):
			return false, err
		case errors.Is(err, errOvertaken):
			slow[base], senders = true, append(senders, base)
			continue
		case err != nil:
			continue
		}
		leaves, err := d.c.store.CheckedLeaves(ctx, d.topic, f.Span)
		if err != nil {
			return false, storeError(err)
		}
		if digest, count := window.DigestOf(leaves); d.sumOf(d.from, f) == (blockSum{digest, count}) {
			wrong, what := r.wrong()
			for _, other := range d.c.sendersAt(wrong, base) {
				d.c.setAside(other, &ProtocolError{other, fmt.Sprintf("sent %s events of %s in %s than %s", what, d.topic, f.Span, hostOf(base))})
			}
			return true, nil
		}
		d.accuseOfEvents(base, f)
		d.c.setAside(base, d.wrong[base])
	}
	return false, nil
}

// sendersOf returns the servers that have the digest of d.from of a block, those first that
// have not sent the events which are here.
func (d *dispute) sendersOf(f *Finding) []string {
	var others, same []string
	suppliers := d.c.suppliers(d.topic, window.Spans{f.Span}, "")
	for _, base := range d.servers() {
		switch {
		case d.sumOf(base, f) != d.sumOf(d.from, f):
		case slices.Contains(suppliers, base):
			same = append(same, base)
		default:
			others = append(others, base)
		}
	}
	return append(others, same...)
}

// A replacing replaces stored events of a topic with those of another server.
type replacing struct {
	c     *Client
	topic event.Topic
	spans window.Spans // in one block
	fresh func([]event.Event) error

	held map[event.ID]placedItem // the events that were stored first
	got  map[event.ID]placedItem // the events that are stored now
}

// A placedItem is an event as a comparison sees it, and its storage.
type placedItem struct {
	reconcile.Item
	of event.Storage
}

func placedItemOf(ev *event.Event) placedItem { return placedItem{itemOf(ev), ev.Storage()} }

// readHeld reads what is stored.
func (r *replacing) readHeld(ctx context.Context) error {
	r.held = map[event.ID]placedItem{}
	for _, span := range r.spans {
		err := r.c.store.Each(ctx, []event.Topic{r.topic}, span, func(ev *event.Event) error {
			r.held[ev.ID] = placedItemOf(ev)
			return nil
		})
		if err != nil {
			return storeError(err)
		}
	}
	return nil
}

// replaceFrom replaces the stored events with those of the server of ctx, and passes on those that
// were not stored first.
func (r *replacing) replaceFrom(ctx context.Context) error {
	r.got = map[event.ID]placedItem{}
	for _, span := range r.spans {
		err := r.c.eachPart(ctx, r.topic, span, func(part window.Span, evs []event.Event) error {
			var added []event.Event
			for i := range evs {
				item := placedItemOf(&evs[i])
				if r.got[item.ID] = item; r.held[item.ID] != item {
					added = append(added, evs[i])
				}
			}
			if err := r.c.store.Replace(ctx, r.topic, part, evs); err != nil || len(added) == 0 {
				return err
			}
			return r.fresh(added)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// wrong returns the events that were stored wrongly or not at all, and whether their sender has sent
// "other" events or, if all that were stored are right, "fewer".
func (r *replacing) wrong() (items []placedItem, what string) {
	what = "fewer"
	for id, item := range r.got {
		held, ok := r.held[id]
		if held != item {
			items = append(items, item)
		}
		if ok && held != item {
			items, what = append(items, held), "other"
		}
	}
	for id, held := range r.held {
		if _, ok := r.got[id]; !ok {
			items, what = append(items, held), "other"
		}
	}
	return items, what
}

// itemOf returns what identifies an event in a log.
func itemOf(ev *event.Event) reconcile.Item {
	return reconcile.Item{ID: ev.ID, Time: ev.Time, Hash: ev.Hash}
}

// spanOfEvent returns the span of one event.
func spanOfEvent(id event.ID) window.Span { return window.Span{From: id - 1, To: id} }
