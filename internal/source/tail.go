package source

import (
	"context"
	"slices"
	"time"
)

// Events after the last cursor, which have none themselves, are a source's tail. A server that goes on
// from the cursor sends them again; one that does not keep them never does. So they are kept over the
// end of a connection, and compared with what the next one begins with.

// resendTime is how long after a connection has begun an event may be one that was sent before.
const resendTime = holdTime

// A looseTail remembers the events that were stored after a cursor and have none.
type looseTail struct {
	cursor string
	sums   []uint32
	next   int // how many of them the connection has brought again

	kept    bool // the last one did not come again
	brought int  // next before the first one that did not
}

// add reports whether an event is the next one of the tail. Otherwise the tail ends with it.
func (t *looseTail) add(cursor string, fr *Frame, limit int) (wasThere bool) {
	if t.cursor != cursor {
		*t = looseTail{cursor: cursor}
	}
	if fr.kept && !t.kept {
		t.brought = t.next
	}
	t.kept = fr.kept
	if fr.fresh {
		t.next = len(t.sums)
	}
	sum := sumOf(fr)
	if t.next < len(t.sums) && t.sums[t.next] == sum {
		t.next++
		return true
	}
	if t.next < limit {
		t.sums = append(t.sums[:t.next], sum)
		t.next++
	}
	return false
}

// pass forgets what comes before a frame with a cursor, which may be the same as before: the server
// does not send that again.
func (t *looseTail) pass(fr *Frame) {
	if fr.fresh {
		t.next = len(t.sums)
	}
	t.sums, t.next, t.kept = t.sums[t.next:], 0, false
}

// isTail reports whether an event has nothing by which it would be known again.
func (fr *Frame) isTail() bool { return fr.Event && fr.Cursor == "" && fr.ID == "" }

// wasStored reports whether an event of the tail was stored before, and remembers it.
func (f *follower) wasStored(fr *Frame) bool {
	return fr.isTail() && f.state.Cursor != "" && f.tail.add(f.state.Cursor, fr, f.cfg.repeats)
}

// beginTail prepares for a connection: what waits for a cursor may come again. What precedes a control
// event with a cursor surely does, perhaps grouped in another way.
func (f *follower) beginTail() {
	if f.cfg.Knobs.Cursor.In == InEvent {
		f.waiting = nil
	}
	f.carried, f.waiting = append(f.waiting, f.carried...), nil
	f.awaitTail(0)
}

// awaitTail begins the time in which the server may send again what was stored of the tail, from the
// n-th event on.
func (f *follower) awaitTail(n int) { f.opened, f.tail.next, f.tail.kept = time.Now(), n, false }

// endTail stores what waits at the end of a connection that has stored events without a cursor: there
// is a gap anyway, and the tail is one whole. So it does with what has waited for too long, since it
// was brought by an earlier connection: the next one may be as short.
func (f *follower) endTail(ctx context.Context) error {
	first := f.firstCarried()
	late := first != nil && time.Since(first.came) > holdTime
	if !f.state.Loose && !late || f.cfg.Knobs.Cursor.In == InEvent {
		return nil
	}
	return f.take(ctx, nil, true)
}

// restTime is how long a follower that ends may take to store what waits.
const restTime = 5 * time.Second

// storeRest stores what waits when the last connection has ended: no other one would bring it again
// to this follower, and perhaps none at all. It does so although ctx has ended.
func (f *follower) storeRest(ctx context.Context) error {
	isEvent := func(fr Frame) bool { return fr.Event }
	waits := slices.ContainsFunc(f.waiting, isEvent) || slices.ContainsFunc(f.carried, isEvent)
	if !waits || f.failed || f.cfg.Knobs.Cursor.In == InEvent {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restTime)
	defer cancel()
	return f.take(ctx, nil, true)
}

// firstCarried returns the first event of the connection before that has not come again, nil if there
// is none.
func (f *follower) firstCarried() *Frame {
	for len(f.carried) > 0 {
		if f.carried[0].Event {
			return &f.carried[0]
		}
		f.carried = f.carried[1:]
	}
	return nil
}

// addWaiting adds the frames that have come to those that wait.
func (f *follower) addWaiting(ctx context.Context, frames []Frame, timedOut bool) error {
	now := time.Now()
	for i := range frames {
		fr := &frames[i]
		fr.came, fr.fresh = now, now.Sub(f.opened) > resendTime
		if first := f.firstCarried(); first != nil {
			switch {
			case fr.Event && fr.Cursor == "" && fr.ID == first.ID && sumOf(fr) == sumOf(first):
				fr.came = first.came
				f.carried = f.carried[1:]
			case fr.Event && !f.classify(fr, f.state.Highest).isRepeat, !fr.Event && fr.Cursor != "":
				if err := f.keepCarried(ctx); err != nil {
					return err
				}
			}
		}
		f.waiting = append(f.waiting, *fr)
	}
	if f.firstCarried() != nil && (timedOut || now.Sub(f.opened) > holdTime) {
		return f.keepCarried(ctx)
	}
	return nil
}

// keepCarried decides that the frames that have waited since the connection before do not come again.
// There is a gap, since that is not certain.
func (f *follower) keepCarried(ctx context.Context) error {
	for i := range f.carried {
		f.carried[i].kept = true
	}
	f.waiting, f.carried = append(f.waiting, f.carried...), nil
	b := &batch{}
	b.add(f.gap(looseGap), "")
	return f.commitReceived(ctx, b)
}
