package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/sse"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A WrongAnswerError means that an rstream server has sent what such a server must not send.
// Nothing of it was stored.
type WrongAnswerError struct {
	URL  string // without secrets
	Text string
}

func (e *WrongAnswerError) Error() string { return e.URL + " " + e.Text }

func (c *Config) wrongAnswer(format string, args ...any) error {
	return &WrongAnswerError{c.shownURL(), fmt.Sprintf(format, args...)}
}

// ServerURL returns the URL of the rstream server that an address, its own or that of its
// /events, would be a source of.
func ServerURL(address string) (string, error) {
	base, _, err := (&Config{URL: address}).upstreamURL()
	if err != nil {
		return "", err
	}
	return base.String(), nil
}

// upstreamURL returns the base URL of an rstream server, and the topics to follow.
func (c *Config) upstreamURL() (base *url.URL, topics []event.Topic, err error) {
	u, err := ParseURL(c.URL)
	if err != nil {
		return nil, nil, err
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, nil, errors.New("the parameters of the URL cannot be read")
	}
	for name, values := range query {
		if name != "topic" {
			return nil, nil, fmt.Errorf("want no parameter but topic in the URL of an rstream server, not %.40q", name)
		}
		for _, text := range values {
			t, err := event.ParseTopic(text)
			if err != nil {
				return nil, nil, err
			}
			topics = append(topics, t)
		}
	}
	if len(topics) == 0 {
		topics = []event.Topic{event.All}
	}
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	path = strings.TrimSuffix(strings.TrimSuffix(path, "/events"), "/")
	u.Path, u.RawPath, u.RawQuery = "", "", ""
	return u.JoinPath(path), topics, nil
}

// upstreamMapping returns what stands for the mapping of an rstream server: its topics. With
// other ones, a cursor would have another meaning.
func (c *FollowConfig) upstreamMapping() (string, error) {
	if c.Mapper.isChanged {
		return "", errors.New("events of an rstream server are not mapped: want no expressions")
	}
	_, topics, err := c.upstreamURL()
	if err != nil {
		return "", err
	}
	var names []string
	for _, t := range topics {
		names = append(names, t.String())
	}
	slices.Sort(names)
	sum := sha256.Sum256([]byte(strings.Join(slices.Compact(names), "\n")))
	return "topics " + hex.EncodeToString(sum[:6]), nil
}

// errStandIn means that a stream names no log.
var errStandIn = errors.New("a stream that names no log: not an rstream server, or a proxy")

// maxURL is the longest URL that is sent: longer topics go into the body.
const maxURL = 4 << 10

// askUpstream sets the request to an rstream server, and how its answer is read.
func (c *Config) askUpstream(cfg *sse.Config, conn *connection, cursor string) error {
	base, topics, err := c.upstreamURL()
	if err != nil {
		return err
	}
	at, err := parseUpstreamCursor(cursor)
	if err != nil {
		return err
	}
	q := wire.Query{Topics: topics, Since: event.FromBeginning}
	if cursor != "" {
		q.Since = event.At(at)
	}
	target, params := base.JoinPath("events"), q.Values().Encode()
	cfg.URL = target.String() + "?" + params
	if len(cfg.URL) > maxURL {
		cfg.URL, cfg.Form = target.String(), params
	}
	cfg.Cursor = cursor
	if cfg.MaxEvent == 0 {
		cfg.MaxEvent = 2 * wire.MaxLine
	}
	conn.upstream = &upstreamReader{cfg: c, topics: topics, at: at.ID}
	cfg.Check = func(resp *http.Response) error { return c.checkUpstream(conn.upstream, resp) }
	return nil
}

// parseUpstreamCursor parses a stored cursor, "" as the beginning.
func parseUpstreamCursor(cursor string) (event.Cursor, error) {
	if cursor == "" {
		return event.Cursor{}, nil
	}
	c, err := event.ParseCursor(cursor)
	if err != nil {
		return c, fmt.Errorf("the stored cursor: %w", err)
	}
	return c, nil
}

// checkAnswer refuses a response that is not of an rstream server with status 200. It returns
// the id of the log.
func (c *Config) checkAnswer(resp *http.Response, mediaType string) (log string, err error) {
	if resp.StatusCode != http.StatusOK {
		body := sse.NewIdleBody(resp.Body, c.idle())
		defer body.Close()
		resp.Body = body
		problem := wire.ReadError(resp)
		return "", &StatusError{URL: c.shownURL(), Status: resp.StatusCode, RetryAfter: problem.RetryAfter, problem: problem}
	}
	kind := resp.Header.Get("Content-Type")
	media, _, err := mime.ParseMediaType(kind)
	if err != nil || media != mediaType {
		return "", &StreamError{c.shownURL(), fmt.Sprintf("is not an rstream server: its content type is %.60q", kind), false}
	}
	if coding := resp.Header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		return "", &StreamError{c.shownURL(), fmt.Sprintf("is compressed with %.40q, which was not asked for", coding), false}
	}
	log = wire.LogOf(resp.Header)
	if log == "" {
		return "", &UnreachableError{c.shownURL(), errStandIn}
	}
	if !event.ValidLogID(log) {
		return "", c.wrongAnswer("names the log %.40q, which is no id of a log", log)
	}
	return log, nil
}

// checkUpstream refuses a stream that was not asked for.
func (c *Config) checkUpstream(r *upstreamReader, resp *http.Response) (err error) {
	if r.log, err = c.checkAnswer(resp, wire.SSE); err != nil {
		return err
	}
	if r.log == c.own {
		return &StreamError{c.shownURL(), "serves the log itself", true}
	}
	if from, ok := wire.PositionIn(resp.Header, wire.HeaderFrom); !ok || from != r.at {
		return c.wrongAnswer("was asked to go on from %s and begins at %s", r.at, from)
	}
	r.head, _ = wire.PositionIn(resp.Header, wire.HeaderHead)
	return nil
}

// An upstreamReader reads the frames of one connection to an rstream server.
type upstreamReader struct {
	cfg    *Config
	topics []event.Topic
	log    string
	head   event.ID // of the log, when the connection began
	at     event.ID // the position that was reached
}

// read checks one frame. A block without data moves the cursor, and so does the live event.
// The event at the position from which the reader went on may come again.
func (r *upstreamReader) read(f sse.Frame) (Frame, error) {
	isEvent := f.Data != nil && (f.Type == string(event.Put) || f.Type == string(event.Del))
	fr := Frame{Type: f.Type, Data: f.Data, End: f.Type == wire.LiveEvent}
	if f.Cursor == "" && !isEvent {
		return fr, nil
	}
	cursor, err := event.ParseCursor(f.Cursor)
	switch {
	case err != nil:
		return fr, r.cfg.wrongAnswer("sent the invalid id %.40q", f.Cursor)
	case !cursor.Of(r.log):
		return fr, r.cfg.wrongAnswer("sent the cursor %s, which is not of its log %s", cursor, r.log)
	case !isEvent && cursor.ID < r.at:
		return fr, nil
	}
	fr.Cursor = cursor.String()
	if !isEvent {
		r.at = cursor.ID
		return fr, nil
	}
	ev, err := event.ParseLine(f.Data)
	switch {
	case err != nil:
		return fr, r.cfg.wrongAnswer("sent a bad event: %v", err)
	case ev.ID != cursor.ID || string(ev.Type) != f.Type:
		return fr, r.cfg.wrongAnswer("sent event %s, a %s, as %s %s", ev.ID, ev.Type, f.Type, cursor)
	case ev.ID < r.at:
		return fr, r.cfg.wrongAnswer("sent event %s after %s", ev.ID, r.at)
	case len(ev.Value) > wire.MaxValue:
		return fr, r.cfg.wrongAnswer("sent event %s, whose value is longer than %d bytes", ev.ID, wire.MaxValue)
	case !matchesAny(r.topics, &ev):
		return fr, r.cfg.wrongAnswer("sent event %s of %s, which was not asked for", ev.ID, ev.Storage())
	}
	if ev.ID > r.at {
		fr.Event, fr.ID, fr.upstream = true, ev.ID.String(), &ev
		r.at = ev.ID
	}
	return fr, nil
}

func matchesAny(topics []event.Topic, ev *event.Event) bool {
	return slices.ContainsFunc(topics, func(t event.Topic) bool { return t.Matches(ev.User, ev.Path) })
}

// isUpstreamsOwn reports whether an event is one of those that a server writes about itself.
func isUpstreamsOwn(ev *event.Event) bool { return strings.HasPrefix(ev.User, ".") }

// addUpstream adds an event of an rstream server. Its author's hash stays what it is, so the
// log knows the event again, wherever else it has it from.
func (f *follower) addUpstream(b *batch, fr *Frame) {
	if isUpstreamsOwn(fr.upstream) {
		return
	}
	f.fresh, f.advanced = true, true
	b.add(fr.upstream.Draft, fr.ID)
	f.state.Events++
	f.state.Bytes += int64(len(fr.Data))
}

// errRecovered means that a position that the server no longer takes was replaced: the next
// connection goes on from another one.
var errRecovered = errors.New("goes on from another position")

// recoverUpstream finds out what to do after a connection was refused. It returns err if
// nothing can be done.
func (f *follower) recoverUpstream(ctx context.Context, err error) error {
	var status *StatusError
	if !errors.As(err, &status) || status.problem == nil || !status.problem.FromLog {
		return err
	}
	switch p := status.problem; {
	case p.Status == http.StatusGone && p.Oldest != nil:
		return f.skipDropped(ctx, *p.Oldest)
	case p.Status == http.StatusConflict:
		return f.followRestored(ctx, err)
	}
	return err
}
