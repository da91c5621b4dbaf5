package doctor

import (
	"net/http"
	"regexp"
	"strings"
	"time"
)

// bufferAdvice says where proxies are told not to buffer.
const bufferAdvice = "nginx: proxy_buffering off; Caddy: flush_interval -1; Apache: flushpackets=on; or let the server say X-Accel-Buffering: no"

const (
	// A silence of lull is long enough to have a burst behind it.
	lull = time.Second
	// A span of events that arrive at once is produced over time, not at once.
	span = 2 * time.Second
)

// checkBuffered looks for what must have been made over time and arrived at once.
func checkBuffered(t *Transcript) Finding {
	const check = "buffered"
	bad := func(format string, args ...any) Finding {
		return found(check, Error, bufferAdvice, format, args...)
	}
	first := t.Ended
	if len(t.Reads) > 0 {
		first = t.Reads[0].At
	}
	if t.isOurs() && first-t.Answered > lull {
		return bad("the server sends its first block with its head, and it came %s later or not at all", brief(first-t.Answered))
	}
	for _, f := range t.Frames {
		if f.Pause > lull {
			return bad("an event came in parts, %s apart: a buffer that is emptied when it is full", brief(f.Pause))
		}
	}
	bursts := t.bursts()
	for i, b := range bursts {
		silence := b.Before
		if i == 0 {
			silence = b.At - t.Connected // a head that is held back comes with it
		}
		if silence < lull {
			continue
		}
		if n := b.heartbeats(); n > 1 {
			return bad("%d heartbeats arrived at once, after a silence of %s", n, brief(silence))
		}
		if d := b.spread(t.made()); d > span {
			return bad("events that were made over %s arrived at once, after a silence of %s", brief(d), brief(silence))
		}
	}
	switch {
	case len(t.Reads) == 0:
		return found(check, Note, "listen longer than a heartbeat or two: --for 60s", "nothing came in %s: the stream is quiet, or something holds it back; which of them cannot be told", brief(t.Ended-t.Answered))
	case len(bursts) < 2:
		return found(check, Note, "listen longer than a heartbeat or two: --for 60s", "all that came arrived together; whether later events come one by one cannot be told")
	}
	return ok(check, "blocks arrived one by one, at %d times", len(bursts))
}

// made returns the time on the server's clock after which an event was made while we
// listened.
func (t *Transcript) made() time.Time {
	date, err := http.ParseTime(t.Header.Get("Date"))
	if err != nil {
		return time.Time{}
	}
	return date.Add(time.Second)
}

// heartbeats returns how many frames of a burst are the same heartbeat.
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

// heartbeat reports whether the frame is only there to be heard, and of which kind.
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

var timestamp = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)`)

// time returns the first time that the event's data tells.
func (f *Frame) time() (time.Time, bool) {
	at, err := time.Parse(time.RFC3339Nano, timestamp.FindString(f.Head))
	return at, err == nil
}

// spread returns how far the times of a burst's events lie apart that were made after a
// time.
func (b *burst) spread(after time.Time) time.Duration {
	if after.IsZero() {
		return 0
	}
	var first, last time.Time
	for i := range b.Frames {
		at, told := b.Frames[i].time()
		if !told || !at.After(after) {
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

// Proxies cut a connection after a minute without a byte, if nobody tells them
// otherwise.
const (
	proxiesCut = 55 * time.Second
	usualBeat  = 30 * time.Second
)

// checkHeartbeat says how long the stream was silent while it was open.
func checkHeartbeat(t *Transcript) []Finding {
	const check = "heartbeat"
	const advice = "send a comment every 15 seconds: proxies cut streams that are silent for a minute"
	listened := t.Ended - t.Answered
	tail := t.Ended - t.Last
	switch {
	case t.Silence >= proxiesCut:
		return []Finding{found(check, Warning, advice, "no byte came for %s", brief(t.Silence))}
	case t.End == clean || t.End == dropped:
		return nil
	case t.Silence > usualBeat && t.Silence > tail:
		return []Finding{found(check, Note, advice, "the longest silence was %s", brief(t.Silence))}
	case tail >= t.Silence && tail > lull:
		return []Finding{found(check, Note, "--for 70s tells whether proxies would cut it", "no byte came in the last %s of %s; whether a heartbeat comes later cannot be told", brief(tail), brief(listened))}
	}
	return []Finding{ok(check, "the longest silence in %s was %s", brief(listened), brief(t.Silence))}
}

// idle is a silence after which an end has to do with it.
const idle = 4 * time.Second

// checkEnd says whether and how the stream ended while we listened.
func checkEnd(t *Transcript) Finding {
	const check = "end"
	listened, silence := t.Ended-t.Answered, t.Ended-t.Last
	switch {
	case t.End == enough:
		return ok(check, "it stayed open for %s", brief(listened))
	case t.End == full:
		return found(check, Note, "begin later, to hear what is live", "%d bytes came in %s; no more was read", t.Text.Bytes, brief(listened))
	case silence >= idle:
		how := "ended"
		if t.End == dropped {
			how = "broke"
		}
		return found(check, Warning, "send a heartbeat at least twice as often, or raise the proxy's limit (nginx: proxy_read_timeout 1h; HAProxy: timeout tunnel 1h)", "the stream %s after %s without a byte", how, brief(silence))
	case t.End == dropped:
		return found(check, Warning, "look into the logs of the server and its proxies; is there a limit on the time of a request?", "the stream broke after %s: %v", brief(listened), plainly(t.Cause))
	case len(t.events()) == 0 && len(t.Text.Retries) == 0:
		return found(check, Warning, "look into the logs of the server and its proxies", "the stream ended after %s without an event", brief(listened))
	}
	return found(check, Note, "clients come back after the delay that retry tells; that is fine if it was meant so", "the server ended the stream after %s", brief(listened))
}
