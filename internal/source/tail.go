package source

import (
	"context"
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
}

// bringsAgain reports whether an event is the next one of the tail. Otherwise the tail ends with it.
func (t *looseTail) bringsAgain(cursor string, sum uint32, limit int) bool {
	if t.cursor != cursor {
		*t = looseTail{cursor: cursor}
	}
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

// skipResent passes over those of the tail that did not come again in time.
func (t *looseTail) skipResent() { t.next = len(t.sums) }

// isTail reports whether an event has nothing by which it would be known again.
func (fr *Frame) isTail() bool { return fr.Event && fr.Cursor == "" && fr.ID == "" }

// wasStored reports whether an event of the tail was stored before, and remembers it.
func (f *follower) wasStored(fr *Frame) bool {
	if !fr.isTail() || f.state.Cursor == "" {
		return false
	}
	if time.Since(f.opened) > resendTime {
		f.tail.skipResent()
	}
	return f.tail.bringsAgain(f.state.Cursor, sumOf(fr), f.cfg.repeats)
}

// beginTail prepares for a connection: what waits for a cursor may come again. What precedes a control
// event with a cursor surely does, perhaps grouped in another way.
func (f *follower) beginTail() {
	if f.cfg.Knobs.Cursor.In == InEvent {
		f.waiting = nil
	}
	f.carried, f.waiting = append(f.waiting, f.carried...), nil
	f.opened, f.tail.next = time.Now(), 0
}

// endTail stores what waits at the end of a connection that has stored events without a cursor: there
// is a gap anyway, and the tail is one whole.
func (f *follower) endTail(ctx context.Context) error {
	if !f.state.Loose || f.cfg.Knobs.Cursor.In == InEvent {
		return nil
	}
	return f.take(ctx, nil, true)
}

// addWaiting adds the frames that have come to those that wait.
func (f *follower) addWaiting(ctx context.Context, frames []Frame, timedOut bool) error {
	now := time.Now()
	for i := range frames {
		fr := &frames[i]
		fr.came = now
		for len(f.carried) > 0 && !f.carried[0].Event {
			f.carried = f.carried[1:]
		}
		if len(f.carried) > 0 {
			switch first := &f.carried[0]; {
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
	if len(f.carried) > 0 && (timedOut || len(frames) == 0 && now.Sub(f.carried[0].came) > holdTime) {
		return f.keepCarried(ctx)
	}
	return nil
}

// keepCarried decides that the frames that have waited since the connection before do not come again.
// There is a gap, since that is not certain.
func (f *follower) keepCarried(ctx context.Context) error {
	f.waiting, f.carried, f.keptCarried = append(f.waiting, f.carried...), nil, true
	b := &batch{}
	b.add(f.gap(looseGap), "")
	return f.commitReceived(ctx, b)
}
