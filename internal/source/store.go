package source

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// A batch is what one commit appends.
type batch struct {
	drafts  []event.Draft
	foreign []string   // what the source calls each, "" if it is not from there
	after   []event.ID // the event that must be the last of the storage, or nil if none must be
	log     string     // the foreign log, if it is not that of the state
}

func (b *batch) add(d event.Draft, foreign string) { b.addAfter(d, foreign, event.Beginning) }

// addAfter adds a draft that is only to be appended if last is the last event of its storage.
func (b *batch) addAfter(d event.Draft, foreign string, last event.ID) {
	b.drafts, b.foreign = append(b.drafts, d), append(b.foreign, foreign)
	if b.after == nil && last == event.Beginning {
		return
	}
	for len(b.after) < len(b.drafts)-1 {
		b.after = append(b.after, event.Beginning)
	}
	b.after = append(b.after, last)
}

// gap returns the draft that says that events may be missing.
func (f *follower) gap(reason string) event.Draft {
	f.state.Gaps++
	value, _ := json.Marshal(struct {
		Gap   string     `json:"gap"`
		After string     `json:"after,omitempty"` // the cursor
		Since event.Time `json:"since"`
	}{reason, f.state.Cursor, event.Time(f.state.Time)})
	return f.note("", value)
}

// note returns the draft of an event about the source.
func (f *follower) note(below string, value []byte) event.Draft {
	compact, _ := event.CompactValue(value) // it was made here
	return event.Draft{User: Gaps, Path: GapPath(f.cfg.Name) + below, Type: event.Put,
		Key: fmt.Sprintf("%s/%d", f.cfg.Mapper.salt, f.state.Step), Value: compact}
}

// take stores the frames that can be stored: those up to the last one with a cursor. The
// others wait for one, if there has been one before, since the server would send them
// again after a cut.
func (f *follower) take(ctx context.Context, frames []Frame, timedOut bool) error {
	if len(frames) > 0 {
		f.moved = true
	}
	if len(f.waiting) == 0 {
		f.since = time.Now()
	}
	f.waiting = append(f.waiting, frames...)
	n, bears, size := len(f.waiting), false, 0
	for n > 0 && !bears {
		if bears = f.waiting[n-1].Cursor != ""; !bears {
			size += f.waiting[n-1].size()
			n--
		}
	}
	hopeless := f.state.Cursor == "" && f.cfg.Knobs.Cursor.In != InEvent
	full := len(f.waiting) >= maxQueuedFrames || size >= maxQueuedBytes
	if !bears && (hopeless || timedOut || full || time.Since(f.since) > holdTime) {
		n = len(f.waiting)
	}
	for n < len(f.waiting) && !f.waiting[n].Event {
		n++
	}
	if n == 0 {
		return nil
	}
	done := f.waiting[:n]
	f.waiting = append([]Frame(nil), f.waiting[n:]...)
	f.since = time.Now()
	f.tail.late = !bears && !f.tail.ends
	return f.store(ctx, done)
}

// store commits frames.
func (f *follower) store(ctx context.Context, frames []Frame) error {
	old, err := f.findOld(ctx, frames)
	if err != nil {
		return err
	}
	b := &batch{drafts: make([]event.Draft, 0, len(frames)), foreign: make([]string, 0, len(frames))}
	before := f.state
	for i := range frames {
		fr := &frames[i]
		f.ended = f.ended || fr.End
		if fr.Event {
			f.addFrame(ctx, b, fr, old)
		}
		f.moveCursor(fr)
	}
	if f.interrupted != nil { // the follower ends: the next one takes these frames
		return f.interrupted
	}
	if f.cfg.Knobs.Rstream && f.state.Cursor != before.Cursor {
		f.advanced = true // its positions pass events that were not asked for
	}
	if len(b.drafts) == 0 && f.state == before {
		return nil
	}
	if f.state.Restored {
		if err := f.repeatLost(ctx, b); err != nil {
			return err
		}
	}
	return f.commitReceived(ctx, b)
}

// sharedEvents is for how many events with ids of their own a source is still taken to give several
// events one id.
const sharedEvents = 1000

// moveCursor moves the cursor to that of a frame. After a batch, new events may overtake
// old ones: the cursor stays until a heartbeat, by which the old ones are there.
func (f *follower) moveCursor(fr *Frame) {
	if fr.End {
		f.state.Among = false
	}
	f.tail.pass(fr)
	batches := f.cfg.Knobs.Batch != ""
	switch {
	case fr.Cursor != "" && batches:
		f.newest = fr.Cursor
	case fr.Cursor != "":
		f.state.Loose = false
		switch {
		case fr.Event && fr.Ordinal > 0 && f.cfg.Knobs.ID == (Place{}):
			f.state.Shared = sharedEvents
		case fr.Event && f.state.Shared > 0:
			f.state.Shared--
		}
		f.state.Among = f.state.Shared > 0 && fr.Event
		f.setCursor(fr.Cursor)
	case !fr.Event && batches && !f.batch:
		f.setCursor(f.newest)
	case fr.Event && f.state.Cursor != "" && !f.tail.ends:
		f.state.Loose = true
	}
}

// addFrame adds the drafts of an event. old are the events whose ids go back and
// that were stored before.
func (f *follower) addFrame(ctx context.Context, b *batch, fr *Frame, old map[event.Hash]event.ID) {
	if fr.upstream != nil {
		f.addUpstream(b, fr)
		return
	}
	if f.isTailAgain(fr) {
		f.noteRepeat(b, f.tailKey())
		return
	}
	found := f.classify(fr, f.state.Highest)
	if found.isRepeat {
		f.noteRepeat(b, f.keyOf(fr))
		return
	}
	d, taken := f.draftOf(ctx, fr)
	if found.goesBack {
		if !taken || old[d.Hash()] != event.Beginning {
			f.noteRepeat(b, f.keyOf(fr))
			return // it may have been left out before, too
		}
		if !f.wentBack {
			f.wentBack = true
			b.add(f.gap(fmt.Sprintf("ids went back to %.80s: the server may have lost its history", fr.ID)), "")
		}
	}
	if found.isOther { // the ids before it may be taken, too
		f.state.Generation++
		f.state.Highest = 0
		d, taken = f.draftOf(ctx, fr)
	}
	f.remember(fr)
	f.advanced = true
	f.fresh = f.fresh || fr.ID != ""
	if !taken {
		return
	}
	f.nameless = f.nameless || fr.ID == "" && !f.tail.ends
	if d.User == Gaps {
		f.state.Refused++
		b.add(d, "")
		return
	}
	b.add(d, fr.ID)
	f.state.Events++
	f.state.Bytes += int64(len(fr.Data))
}

// noteRepeat notes that an event comes again. Events without ids before it may come again, too,
// and nothing tells them from new ones.
func (f *follower) noteRepeat(b *batch, key repeatKey) {
	if f.nameless && !f.doubted {
		f.doubted = true
		b.add(f.gap("events without ids came before one that was stored before: they may be stored twice"), "")
	}
	f.nameless = false
	if f.again[key] {
		return
	}
	if f.again == nil || len(f.again) >= f.cfg.repeats {
		f.again = map[repeatKey]bool{}
	}
	f.again[key], f.advanced = true, true
}

// draftOf returns the draft of an event, if there is one.
func (f *follower) draftOf(ctx context.Context, fr *Frame) (d event.Draft, taken bool) {
	d, taken, err := f.cfg.Mapper.Map(ctx, fr, f.state.Generation)
	switch {
	case err == nil:
		return d, taken
	case ctx.Err() != nil: // an expression was cut off, which says nothing about the event
		f.interrupted = context.Cause(ctx)
		return d, false
	}
	return f.refusal(fr, err), true
}

// A finding is the result of looking up an event by its id.
type finding struct {
	isRepeat bool // it is one of the last events
	goesBack bool // its id is lower than another one
	isOther  bool // one of the last events has its id, and is another one
}

// classify looks an event up by its id. Ids that go back may be those of a repeat, or of a
// server that has begun to count again: it is a repeat if the contents are the same.
func (f *follower) classify(fr *Frame, highest uint64) (found finding) {
	if fr.ID == "" {
		return found
	}
	n, ordered := f.orderOf(fr)
	found.goesBack = ordered && n < highest
	before, known := f.repeats.sums[f.keyOf(fr)]
	found.isOther = known && found.goesBack && before != sumOf(fr)
	found.isRepeat = known && !found.isOther
	return found
}

// orderOf returns the number that orders an event, if the server's ids are numbers.
func (f *follower) orderOf(fr *Frame) (n uint64, ordered bool) {
	if f.cfg.Knobs.ID != (Place{}) || f.cfg.Knobs.Cursor != (Place{}) {
		return 0, false
	}
	return isOrdered(fr.ID)
}

// remember makes an event one of the last ones.
func (f *follower) remember(fr *Frame) {
	if fr.ID == "" {
		f.rememberTail(fr)
		return
	}
	if n, ordered := f.orderOf(fr); ordered {
		f.state.Highest = max(f.state.Highest, n)
	}
	f.repeats.add(f.keyOf(fr), sumOf(fr))
}

// keyOf returns the key by which an event with an id is remembered.
func (f *follower) keyOf(fr *Frame) repeatKey {
	return repeatKeyOf(f.state.Generation, fr.ID, fr.Ordinal)
}

// findOld returns the events of frames whose ids go back and that were stored before, longer
// ago than the last events are remembered: the log knows all of its events by their hash.
func (f *follower) findOld(ctx context.Context, frames []Frame) (map[event.Hash]event.ID, error) {
	var hashes []event.Hash
	highest := f.state.Highest
	for i := range frames {
		fr := &frames[i]
		if !fr.Event {
			continue
		}
		if found := f.classify(fr, highest); found.goesBack && !found.isRepeat {
			if d, taken := f.draftOf(ctx, fr); taken {
				hashes = append(hashes, d.Hash())
			}
		}
		if n, ordered := f.orderOf(fr); ordered {
			highest = max(highest, n)
		}
	}
	if len(hashes) == 0 {
		return nil, nil
	}
	return f.cfg.Log.Taken(ctx, hashes)
}

// maxRefusedText is how much is kept of the data of an event that cannot be mapped, of its type and of
// the error.
const maxRefusedText = 16 << 10

// refusedText returns the beginning of a text of an event that cannot be mapped.
func refusedText[T string | []byte](text T) string {
	return strings.ToValidUTF8(string(text[:min(len(text), maxRefusedText)]), "\uFFFD")
}

// refusal returns the draft that says that an event cannot be mapped.
func (f *follower) refusal(fr *Frame, err error) event.Draft {
	value, _ := json.Marshal(struct {
		Error string `json:"error"`
		ID    string `json:"id,omitempty"`
		Type  string `json:"type,omitempty"`
		Data  string `json:"data"`
	}{refusedText(err.Error()), fr.ID, refusedText(fr.Type), refusedText(fr.Data)})
	d := f.note(Refused, value)
	d.Key = f.cfg.Mapper.defaultKey(fr, f.state.Generation)
	return d
}

// commitPause is the pause before a commit with an unknown outcome is tried again, and
// maxCommitTime how long it is: a disk that fails for good must not look like a silent source.
const (
	commitPause   = 200 * time.Millisecond
	maxCommitTime = 10 * time.Second
)

// commitReceived is commit of what the source has sent up to now, or of a gap that ends now: a later
// gap begins here.
func (f *follower) commitReceived(ctx context.Context, b *batch) error {
	f.state.Time = f.cfg.Now().UnixMicro()
	return f.commit(ctx, b)
}

// commit appends drafts and stores the state, both or neither. While the outcome is unknown,
// the same is committed again, which counts once. If it stays unknown, the follower ends: the
// next one reads in the log whether the state was stored, and so whether the drafts were.
func (f *follower) commit(ctx context.Context, b *batch) error {
	seen, n := f.repeats.takeFresh()
	f.state.Step++
	f.state.Seen += n
	m := cache.SourceMove{Name: f.cfg.Name, Old: f.stored, New: f.state.encode(), Seen: seen, Until: f.state.Seen, Forget: f.state.Seen - int64(f.cfg.repeats),
		Foreign: b.foreign, Log: cmp.Or(b.log, f.state.Log), If: b.after}
	var failing time.Time
	for {
		// A signal must not leave the outcome unknown.
		_, err := f.cfg.Log.AppendFrom(context.WithoutCancel(ctx), &m, b.drafts)
		switch {
		case err == nil:
			f.stored = m.New
			f.cfg.Meter.noteStored(&f.state)
			return nil
		case !errors.Is(err, cache.ErrUnknown) && !errors.Is(err, cache.ErrBusy):
			return err
		case failing.IsZero():
			failing = time.Now()
		case time.Since(failing) >= f.cfg.commitTime:
			return err
		}
		select {
		case <-time.After(commitPause):
		case <-ctx.Done():
			return err
		}
	}
}
