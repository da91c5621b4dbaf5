package mirror

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/sse"
	"github.com/rstream-dev/rstream/internal/wire"
)

// HTTPConfig configures an HTTP. URL is required.
type HTTPConfig struct {
	// URL is the address of the server.
	URL string
	// TLS says how to check the server's certificate, and which one to send. If nil, as the
	// system does.
	TLS *tls.Config
	// Token returns the token to read with, "" for none. It is called before each request. If
	// nil, none is sent.
	Token func(ctx context.Context) (string, error)
	// Header has more headers for requests that read. Redirects to another host do not get
	// them, and appends do not: they may be credentials.
	Header http.Header
	// Topics are those to mirror. If empty, all.
	Topics []event.Topic
	// Compress asks for compressed history: less to send, for more time of both processors.
	Compress bool
	// Idle is how long a response may bring no byte. If zero, 45 seconds.
	Idle time.Duration
}

// An HTTP is an Upstream that is an rstream server.
type HTTP struct {
	cfg  HTTPConfig
	base *url.URL
	http *http.Client
	page atomic.Int64 // events of the next page; zero for the most
}

// NewHTTP returns the server of cfg. It makes no connection.
func NewHTTP(cfg HTTPConfig) (*HTTP, error) {
	base, err := url.Parse(cfg.URL)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("%q: want a URL such as http://127.0.0.1:8420", wire.RedactURL(cfg.URL))
	}
	base.Path, base.RawPath = strings.TrimRight(base.Path, "/"), ""
	cfg.Idle = cmp.Or(cfg.Idle, 45*time.Second)
	secrets := func(*url.URL) http.Header { return cfg.Header }
	hc := &http.Client{Transport: sse.NewTransport(min(cfg.Idle, 30*time.Second), cfg.TLS), CheckRedirect: sse.RedirectPolicy(secrets, nil)}
	return &HTTP{cfg: cfg, base: base, http: hc}, nil
}

// Close closes the connections that are not in use.
func (u *HTTP) Close() { u.http.CloseIdleConnections() }

// String returns the address of the server, without secrets.
func (u *HTTP) String() string {
	shown := *u.base
	shown.User = nil
	return shown.String()
}

// isPart reports whether some topics are mirrored only.
func (u *HTTP) isPart() bool { return len(u.cfg.Topics) > 0 }

// topics returns the topics that are mirrored.
func (u *HTTP) topics() []event.Topic {
	if u.isPart() {
		return u.cfg.Topics
	}
	return []event.Topic{event.All}
}

// follows reports whether an event is of the topics that are mirrored.
func (u *HTTP) follows(ev *event.Event) bool {
	return slices.ContainsFunc(u.topics(), func(t event.Topic) bool { return t.Matches(ev.User, ev.Path) })
}

func (u *HTTP) wrongAnswer(format string, args ...any) error {
	return &WrongAnswerError{u.String(), fmt.Sprintf(format, args...)}
}

// target returns the URL of a request.
func (u *HTTP) target(path, query string) string {
	to := *u.base
	to.Path += path
	to.RawQuery = query
	return to.String()
}

// header returns the headers of a request that reads.
func (u *HTTP) header(ctx context.Context, accept string, held Position) (http.Header, error) {
	h := http.Header{}
	for name, values := range u.cfg.Header {
		h[name] = values
	}
	h.Set("User-Agent", "rstream")
	h.Set("Accept", accept)
	if held.ID != event.Beginning {
		h.Set(wire.HeaderHeld, held.Cursor().String())
	}
	if u.cfg.Token == nil {
		return h, nil
	}
	token, err := u.cfg.Token(ctx)
	if err == nil && token != "" {
		h.Set("Authorization", "Bearer "+token)
	}
	return h, err
}

// read makes a request that reads, and checks that the response is one of the log. The caller
// must close the body.
func (u *HTTP) read(ctx context.Context, path, query, accept string, held Position) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.target(path, query), nil)
	if err != nil {
		return nil, err
	}
	if req.Header, err = u.header(ctx, accept, held); err != nil {
		return nil, err
	}
	if u.cfg.Compress {
		req.Header.Set("Accept-Encoding", acceptedCodings)
	}
	resp, err := u.http.Do(req)
	if err != nil {
		return nil, u.networkError(err)
	}
	resp.Body = sse.NewIdleBody(resp.Body, u.cfg.Idle)
	if err := u.checkResponse(resp, accept, held); err != nil {
		resp.Body.Close()
		return nil, err
	}
	if resp.Body, err = u.decompress(resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// checkResponse refuses a response that is not what was asked for.
func (u *HTTP) checkResponse(resp *http.Response, mediaType string, held Position) error {
	if resp.StatusCode != http.StatusOK {
		return u.refusal(wire.ReadError(resp), held)
	}
	log := wire.LogOf(resp.Header)
	if !event.ValidLogID(log) {
		return &UnreachableError{u.String(), false, errors.New("the response names no log: not an rstream server, or a proxy")}
	}
	if held.Log != "" && held.Log != log {
		return &ConflictError{wire.ReasonLog, fmt.Sprintf("%s serves the log %s, not %s", u, log, held.Log)}
	}
	if kind := resp.Header.Get("Content-Type"); !isMedia(kind, mediaType) {
		return u.wrongAnswer("sent %.60q, not %s", kind, mediaType)
	}
	switch coding := resp.Header.Get("Content-Encoding"); coding {
	case "", "identity":
	default:
		if !u.cfg.Compress || mediaType == wire.SSE || !isAccepted(coding) {
			return u.wrongAnswer("compressed its response with %.40q, which was not asked for", coding)
		}
	}
	return nil
}

func isMedia(kind, want string) bool {
	got, _, err := mime.ParseMediaType(kind)
	return err == nil && got == want
}

// A RefusedError means that the upstream has refused a request that reads.
type RefusedError struct {
	URL     string // without secrets
	Problem *wire.Error
}

func (e *RefusedError) Error() string {
	if e.Problem.FromLog && e.Problem.Detail != "" {
		return fmt.Sprintf("%s answers %d: %s", e.URL, e.Problem.Status, e.Problem.Detail)
	}
	return fmt.Sprintf("%s answers %d %s", e.URL, e.Problem.Status, http.StatusText(e.Problem.Status))
}

// refusal returns the error for a problem that the server has sent.
func (u *HTTP) refusal(p *wire.Error, held Position) error {
	switch {
	case p.FromLog && p.Status == http.StatusConflict:
		return &ConflictError{p.Reason, fmt.Sprintf("%s answers: %s", u, p.Detail)}
	case p.FromLog && p.Status == http.StatusGone && p.Oldest != nil:
		return &GoneError{held.ID, *p.Oldest}
	}
	return &RefusedError{u.String(), p}
}

// An UnreachableError means that the upstream did not answer.
type UnreachableError struct {
	URL    string // without secrets
	Unsent bool   // there was no connection
	Err    error
}

func (e *UnreachableError) Error() string { return fmt.Sprintf("connect %s: %v", e.URL, e.Err) }

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// networkError names the server in an error of the network, whose URL may have secrets.
func (u *HTTP) networkError(err error) error {
	var failed *url.Error
	if errors.As(err, &failed) {
		err = failed.Err
	}
	var dial *net.OpError
	unsent := errors.As(err, &dial) && dial.Op == "dial"
	var call *os.SyscallError
	if errors.As(err, &call) { // the error around it repeats the address
		err = call.Err
	}
	return &UnreachableError{u.String(), unsent, err}
}

// maxDescription is the greatest size of what a server says of itself, in bytes.
const maxDescription = 64 << 10

// readJSON reads a short response.
func (u *HTTP) readJSON(resp *http.Response, to any) error {
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxDescription))
	if err != nil {
		return u.networkError(err)
	}
	if err := json.Unmarshal(b, to); err != nil {
		return u.wrongAnswer("sent a response that cannot be read: %v", err)
	}
	return nil
}

// Describe implements Upstream.
func (u *HTTP) Describe(ctx context.Context, held Position) (d Description, err error) {
	resp, err := u.read(ctx, "/", "", wire.JSON, held)
	if err != nil {
		return d, err
	}
	var info wire.Info
	if err := u.readJSON(resp, &info); err != nil {
		return d, err
	}
	d = Description{Log: wire.LogOf(resp.Header), Head: info.Head.Point(), Horizon: info.Horizon.Point(), ParentHead: event.MaxID, Via: resp.Header.Get(wire.HeaderVia)}
	if info.Log != d.Log || d.Head.ID < d.Horizon.ID {
		return d, u.wrongAnswer("contradicts itself about its log")
	}
	if info.Parent != nil && event.ValidLogID(info.Parent.Log) {
		if d.Parent = info.Parent.Log; info.Parent.Head != nil {
			d.ParentHead = *info.Parent.Head
		}
	}
	return d, nil
}

// State implements Upstream. The state of several topics is that of one after the other, each
// without the storages of those before.
func (u *HTTP) State(ctx context.Context, at Position) (t event.Time, state iter.Seq2[event.Event, error], err error) {
	moment := event.At(at.Cursor())
	w := wire.WindowQuery{Topic: u.topics()[0], Since: moment, Until: &moment, Sum: true}
	resp, err := u.read(ctx, "/windows", w.Values().Encode(), wire.JSON, Position{Log: at.Log})
	if err != nil {
		return 0, nil, err
	}
	var empty wire.Window
	if err := u.readJSON(resp, &empty); err != nil {
		return 0, nil, err
	}
	switch {
	case empty.To.ID == at.ID && empty.End != nil:
		t = *empty.End
	case empty.To.ID == at.ID && u.isPart():
		t = 1 // a mirror of some topics does not know when the last event of all was
	default:
		return 0, nil, u.wrongAnswer("does not know the time at its horizon %s", at.ID)
	}
	return t, func(yield func(event.Event, error) bool) {
		for i := range u.topics() {
			if !u.yieldState(ctx, at, i, yield) {
				return
			}
		}
	}, nil
}

// yieldState yields the state of one of the topics, without the storages of those before. It
// returns false after an error, or if yield wants no more.
func (u *HTTP) yieldState(ctx context.Context, at Position, number int, yield func(event.Event, error) bool) (more bool) {
	earlier := u.topics()[:number]
	fresh := func(ev event.Event, err error) bool {
		if slices.ContainsFunc(earlier, func(t event.Topic) bool { return t.Matches(ev.User, ev.Path) }) {
			return true
		}
		return yield(ev, err)
	}
	var after event.Storage
	for attempt := 0; ; attempt++ {
		before := after
		stopped, err := u.readState(ctx, at, u.topics()[number], &after, fresh)
		if stopped || err == nil {
			return !stopped
		}
		if after != before {
			attempt = 0
		}
		var torn *UnreachableError // the next request goes on where it was torn
		if !errors.As(err, &torn) || attempt >= 3 || ctx.Err() != nil {
			yield(event.Event{}, err)
			return false
		}
	}
}

// readState yields the values of the state of a topic that follow a storage, which it moves on.
func (u *HTTP) readState(ctx context.Context, at Position, topic event.Topic, after *event.Storage, yield func(event.Event, error) bool) (stopped bool, err error) {
	q := wire.SnapshotQuery{Topic: topic, At: event.At(at.Cursor()), After: *after}
	resp, err := u.read(ctx, "/snapshot", q.Values().Encode(), wire.JSON, Position{Log: at.Log})
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if to, ok := wire.PositionIn(resp.Header, wire.HeaderTo); !ok || to != at.ID {
		return false, u.wrongAnswer("did not send the state at %s", at.ID)
	}
	values := json.NewDecoder(resp.Body) // an object shows where it ends
	if err := u.findEvents(values); err != nil {
		return false, err
	}
	for values.More() {
		var line json.RawMessage
		if err := values.Decode(&line); err != nil {
			return false, u.networkError(err)
		}
		ev, err := event.ParseLine(line)
		if err != nil {
			return false, u.wrongAnswer("sent a bad event: %v", err)
		}
		if s := ev.Storage(); ev.ID > at.ID || ev.Type != event.Put || s.Compare(*after) <= 0 || !topic.Matches(ev.User, ev.Path) {
			return false, u.wrongAnswer("sent event %s, which is not in the state at %s", ev.ID, at.ID)
		}
		if !yield(ev, nil) {
			return true, nil
		}
		*after = ev.Storage()
	}
	for range 2 { // ], }
		if _, err := values.Token(); err != nil {
			return false, u.networkError(err)
		}
	}
	return false, nil
}

// findEvents reads up to the first element of the list of events in an object, of which it
// is the last member.
func (u *HTTP) findEvents(object *json.Decoder) error {
	if _, err := object.Token(); err != nil {
		return u.networkError(err)
	}
	for {
		name, err := object.Token()
		if err != nil {
			return u.networkError(err)
		}
		if name == "events" {
			_, err := object.Token()
			if err != nil {
				err = u.networkError(err)
			}
			return err
		}
		var other json.RawMessage
		if err := object.Decode(&other); err != nil {
			return u.networkError(err)
		}
	}
}

// appendWait is how long an append may take.
const appendWait = 30 * time.Second

// Append implements Upstream. The request has no credentials but those of the caller.
func (u *HTTP) Append(ctx context.Context, held Position, from wire.Caller, drafts []event.Draft) ([]event.Receipt, error) {
	ctx, cancel := context.WithTimeout(ctx, appendWait)
	defer cancel()
	var body []byte
	for i := range drafts {
		body = append(drafts[i].AppendJSON(body), '\n')
	}
	to := *u.base
	to.User, to.Path = nil, to.Path+"/set"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "rstream")
	req.Header.Set("Accept", wire.NDJSON)
	req.Header.Set("Content-Type", wire.NDJSON)
	req.Header.Set(wire.HeaderLog, held.Log)
	if held.ID != event.Beginning {
		req.Header.Set(wire.HeaderHeld, held.Cursor().String())
	}
	if from.Via != "" {
		req.Header.Set(wire.HeaderVia, from.Via)
	}
	if from.Authorization != "" {
		req.Header.Set("Authorization", from.Authorization)
	}
	resp, err := u.http.Do(req)
	if err != nil {
		return nil, u.networkError(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, u.appendProblem(wire.ReadError(resp), resp.Header)
	}
	if log := wire.LogOf(resp.Header); log != held.Log {
		return nil, u.wrongAnswer("answered an append to the log %s for the log %.40q", held.Log, log)
	}
	return u.readReceipts(resp.Body, drafts)
}

// appendProblem returns the error for an append that was refused. A refusal of the log is
// passed on as it is.
func (u *HTTP) appendProblem(p *wire.Error, h http.Header) error {
	if p.FromLog {
		return p
	}
	return &RefusedError{u.String(), p}
}

// readReceipts reads the response to an append of drafts.
func (u *HTTP) readReceipts(body io.Reader, drafts []event.Draft) ([]event.Receipt, error) {
	lines := wire.NewLineReader(body, wire.MaxLine)
	receipts := make([]event.Receipt, len(drafts))
	for i := range drafts {
		line, err := lines.Peek()
		if err != nil {
			return nil, u.networkError(err)
		}
		r, err := wire.ParseResult(line)
		if err != nil || r.Hash != drafts[i].Hash() || r.ID == event.Beginning {
			return nil, u.wrongAnswer("sent a receipt that is not for the append")
		}
		receipts[i].Duplicate, receipts[i].Dropped = r.Status == http.StatusOK, r.Dropped
		if r.Dropped {
			receipts[i].Event = event.Event{ID: r.ID, Draft: drafts[i], Hash: r.Hash}
		} else {
			receipts[i].Event = event.New(r.ID, r.Time, drafts[i], r.Hash)
		}
	}
	return receipts, nil
}
