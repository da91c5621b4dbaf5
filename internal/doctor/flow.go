package doctor

import (
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"
)

// bufferAdvice says how to turn off buffering in common proxies.
const bufferAdvice = "nginx: proxy_buffering off; Caddy: flush_interval -1; Apache: flushpackets=on; or make the server send X-Accel-Buffering: no"

const (
	// lull is the shortest silence in which a buffer could have collected a burst.
	lull = time.Second
	// span is the longest time over which events that arrive at once may have been
	// produced.
	span = 2 * time.Second
)

// checkBuffered looks for frames that were produced over time but arrived at once.
func checkBuffered(t *Transcript) Finding {
	const check = "buffered"
	bad := func(format string, args ...any) Finding {
		return newFinding(check, Error, bufferAdvice, format, args...)
	}
	first := t.Ended
	if len(t.Reads) > 0 {
		first = t.Reads[0].At
	}
	if t.isOurs() && first-t.Answered > lull {
		return bad("the server sends its first block with its head, but the block came %s later or not at all", brief(first-t.Answered))
	}
	for _, f := range t.Frames {
		if f.Pause > lull {
			return bad("an event came in parts, %s apart: something forwards only full buffers", brief(f.Pause))
		}
	}
	bursts := t.bursts()
	for i, b := range bursts {
		silence := b.Before
		if i == 0 {
			silence = b.At - t.Connected // a buffer holds back the head as well
		}
		if silence < lull {
			continue
		}
		if n := b.heartbeats(); n > 1 {
			return bad("%d heartbeats arrived at once, after a silence of %s", n, brief(silence))
		}
		if d := b.spread(t.productionRange(b.At)); d > span && t.isLog() {
			return bad("events produced over %s arrived at once, after a silence of %s", brief(d), brief(silence))
		} else if d > span {
			return newFinding(check, Warning, "if these are the times at which the events were produced, something holds them back: "+bufferAdvice,
				"events with times %s apart arrived at once, after a silence of %s", brief(d), brief(silence))
		}
	}
	switch {
	case len(t.Reads) == 0:
		return newFinding(check, Note, "listen for more than two heartbeats: --for 60s", "nothing came in %s: either the stream is quiet, or something holds it back", brief(t.Ended-t.Answered))
	case len(bursts) < 2:
		return newFinding(check, Note, "listen for more than two heartbeats: --for 60s", "everything arrived at once; it is unknown whether later events arrive one by one")
	}
	return ok(check, "blocks arrived one by one, at %d different times", len(bursts))
}

// productionRange returns the range of times, on the server's clock, of events that were produced
// while doctor was listening and that arrived at the moment at. If the head has no Date, it is
// empty.
func (t *Transcript) productionRange(at time.Duration) (from, to time.Time) {
	date, err := http.ParseTime(t.Header.Get("Date"))
	if err != nil {
		return from, to
	}
	// Date has whole seconds. A buffer may have held back the head after Date was written. The
	// events may come from another machine, whose clock is a little ahead.
	from = date.Add(time.Second)
	return from, from.Add(at - t.Connected + time.Second)
}

// heartbeats returns how often the most frequent heartbeat occurs in a burst.
func (b *burst) heartbeats() (most int) {
	counts := map[string]int{}
	for i := range b.Frames {
		if kind, is := b.Frames[i].heartbeat(); is {
			counts[kind]++
			most = max(most, counts[kind])
		}
	}
	return most
}

// heartbeat reports whether the frame only keeps the connection alive, and returns its
// kind.
func (f *Frame) heartbeat() (kind string, is bool) {
	switch {
	case f.Retry:
		return "", false
	case !f.IsEvent() && f.HasID:
		return "id", true
	case !f.IsEvent():
		return f.Comment, f.Comment != ""
	}
	switch name := strings.ToLower(f.Event); name {
	case "ping", "heartbeat", "keepalive", "keep-alive":
		return name, true
	}
	return "", false
}

var timestamp = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)`)
})

// time returns the first RFC 3339 time in the event's data.
func (f *Frame) time() (time.Time, bool) {
	at, err := time.Parse(time.RFC3339Nano, timestamp().FindString(f.Head))
	return at, err == nil
}

// spread returns the longest difference between the times of a burst's events, of those
// between two times. Later ones are of something that is still to come.
func (b *burst) spread(from, to time.Time) time.Duration {
	var first, last time.Time
	for i := range b.Frames {
		at, told := b.Frames[i].time()
		if !told || !at.After(from) || at.After(to) {
			continue
		}
		if first.IsZero() || at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
	}
	return last.Sub(first)
}

// By default, proxies close a connection after a minute without a byte.
const (
	proxiesCut = 55 * time.Second
	usualBeat  = 30 * time.Second
)

// checkHeartbeat checks how long the stream was silent while it was open.
func checkHeartbeat(t *Transcript) []Finding {
	const check = "heartbeat"
	const advice = "send a comment every 15 seconds: proxies close streams that are silent for a minute"
	listened := t.Ended - t.Answered
	tail := t.Ended - t.Last
	switch {
	case t.Silence >= proxiesCut:
		return []Finding{newFinding(check, Warning, advice, "no byte came for %s", brief(t.Silence))}
	case t.End == clean || t.End == dropped:
		return nil
	case t.Silence > usualBeat && t.Silence > tail:
		return []Finding{newFinding(check, Note, advice, "the longest silence was %s", brief(t.Silence))}
	case tail >= t.Silence && tail > lull:
		return []Finding{newFinding(check, Note, "--for 70s shows whether proxies would close the stream", "no byte came in the last %s of %s; a heartbeat may still come later", brief(tail), brief(listened))}
	}
	return []Finding{ok(check, "the longest silence in %s was %s", brief(listened), brief(t.Silence))}
}

// idle is the shortest silence that is taken as the cause of an end.
const idle = 4 * time.Second

// checkEnd checks whether and how the stream ended while doctor was listening.
func checkEnd(t *Transcript) Finding {
	const check = "end"
	listened, silence := t.Ended-t.Answered, t.Ended-t.Last
	switch {
	case t.End == enough:
		return ok(check, "the stream stayed open for %s", brief(listened))
	case t.End == full:
		return newFinding(check, Note, "start at a later position to see live events", "read %d bytes in %s, then stopped", t.Text.Bytes, brief(listened))
	case silence >= idle:
		how := "ended"
		if t.End == dropped {
			how = "broke"
		}
		return newFinding(check, Warning, "send heartbeats at least twice as often, or raise the proxy's timeout (nginx: proxy_read_timeout 1h; HAProxy: timeout tunnel 1h)", "the stream %s after %s without a byte", how, brief(silence))
	case t.End == dropped:
		return newFinding(check, Warning, "see the logs of the server and its proxies; one of them may limit the duration of a request", "the stream broke after %s: %v", brief(listened), shortCause(t.Cause))
	case len(t.dispatched()) == 0 && len(t.Text.Retries) == 0:
		return newFinding(check, Warning, "see the logs of the server and its proxies", "the stream ended after %s without an event", brief(listened))
	}
	return newFinding(check, Note, "clients reconnect after the delay of retry; nothing to do if this is intended", "the server ended the stream after %s", brief(listened))
}
