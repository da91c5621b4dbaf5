package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// liveLine marks in a stream where live events begin.
const liveLine = "event: live"

// A Crowd is a set of subscribers to one stream. Each must receive every event once.
type Crowd struct {
	client  *http.Client
	cancel  context.CancelFunc
	start   time.Time
	began   []atomic.Int64 // when each event was posted, relative to start
	silence time.Duration  // how long to wait for the next event
	subs    []*subscriber
	failed  chan error
	reads   sync.WaitGroup
}

// A subscriber reads one stream.
type subscriber struct {
	crowd *Crowd
	body  io.ReadCloser
	live  chan struct{}
	got   atomic.Int64
	last  atomic.Int64 // when the last event arrived, relative to start

	// Owned by readStream.
	told  bool
	seen  []uint64 // one bit per event
	waits []time.Duration
}

// Gather connects n subscribers to the stream at url and returns once all of them receive
// live events. They expect the first most events of an Input.
func Gather(ctx context.Context, url string, n, most int) (*Crowd, error) {
	ctx, cancel := context.WithCancel(ctx)
	c := &Crowd{
		client: &http.Client{Transport: newTransport(ctx, 0)}, cancel: cancel,
		start: time.Now(), began: make([]atomic.Int64, most), silence: 20 * time.Second, failed: make(chan error, 1),
	}
	if err := c.connectAll(ctx, url, n); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// connectAll connects n subscribers, a few at a time.
func (c *Crowd) connectAll(ctx context.Context, url string, n int) error {
	const together = 64
	for i := range n {
		s, err := c.connectOne(ctx, url)
		if err != nil {
			return err
		}
		c.subs = append(c.subs, s)
		c.reads.Go(func() {
			if err := s.readStream(); err != nil && ctx.Err() == nil {
				c.recordError(fmt.Errorf("subscriber %d: %w", i, err))
			}
		})
		if i >= together {
			if err := c.subs[i-together].awaitLive(ctx, c.failed); err != nil {
				return err
			}
		}
	}
	for _, s := range c.subs {
		if err := s.awaitLive(ctx, c.failed); err != nil {
			return err
		}
	}
	return nil
}

// Close disconnects all subscribers.
func (c *Crowd) Close() {
	c.cancel()
	c.reads.Wait()
	c.client.CloseIdleConnections()
}

func (c *Crowd) recordError(err error) {
	select {
	case c.failed <- err:
	default: // one is enough
	}
}

func (c *Crowd) connectOne(ctx context.Context, url string) (*subscriber, error) {
	body, err := requestStream(ctx, c.client, url)
	if err != nil {
		return nil, err
	}
	return &subscriber{crowd: c, body: body, live: make(chan struct{}), seen: make([]uint64, (len(c.began)+63)/64)}, nil
}

// requestStream opens an event stream.
func requestStream(ctx context.Context, client *http.Client, url string) (io.ReadCloser, error) {
	req, err := newRequest(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Accept-Encoding", "identity") // net/http would ask for gzip, which the limits do not support
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("get %s: %s", url, resp.Status)
	}
	return resp.Body, nil
}

// awaitLive waits until the stream is live.
func (s *subscriber) awaitLive(ctx context.Context, failed <-chan error) error {
	select {
	case <-s.live:
		return nil
	case err := <-failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// readStream reads the stream to its end. Only the crowd may end it.
func (s *subscriber) readStream() error {
	defer s.body.Close()
	buf := make([]byte, 32<<10)
	kept := 0
	for {
		n, err := s.body.Read(buf[kept:])
		rest, bad := s.takeLines(buf[:kept+n])
		if err = errors.Join(bad, err); err != nil {
			return err
		}
		if kept = copy(buf, rest); kept == len(buf) {
			return errors.New("a line is too long")
		}
	}
}

// takeLines processes whole lines and returns the rest.
func (s *subscriber) takeLines(b []byte) (rest []byte, err error) {
	now := time.Since(s.crowd.start)
	for {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			if n := int64(len(s.waits)); n > s.got.Load() {
				s.last.Store(int64(now)) // before got, which wait polls
				s.got.Store(n)
			}
			return b, nil
		}
		line := b[:i]
		b = b[i+1:]
		switch {
		case bytes.HasPrefix(line, []byte("data:")):
			if err := s.recordEvent(line, now); err != nil {
				return nil, err
			}
		case !s.told && string(line) == liveLine:
			s.told = true
			close(s.live)
		}
	}
}

// recordEvent records the event in a line, if there is one.
func (s *subscriber) recordEvent(line []byte, now time.Duration) error {
	_, number, ok := bytes.Cut(line, []byte(numberMember))
	if !ok {
		return nil
	}
	i, digits := 0, 0
	for ; digits < len(number) && number[digits] >= '0' && number[digits] <= '9'; digits++ {
		i = i*10 + int(number[digits]-'0')
	}
	if digits == 0 || i >= len(s.crowd.began) {
		return fmt.Errorf("received an event that was not posted: %.300s", line)
	}
	if s.seen[i/64]>>(i%64)&1 == 1 {
		return fmt.Errorf("received event %d twice", i)
	}
	s.seen[i/64] |= 1 << (i % 64)
	s.waits = append(s.waits, now-time.Duration(s.crowd.began[i].Load()))
	return nil
}

// waitReceived waits until each subscriber has received the given number of events, and
// returns when the last one arrived.
func (c *Crowd) waitReceived(ctx context.Context, events int) (last time.Duration, err error) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	had, changed := int64(-1), time.Now()
	for {
		sum, last, behind := c.countReceived(events)
		if behind < 0 {
			return last, nil
		}
		if sum != had {
			had, changed = sum, time.Now()
		}
		if time.Since(changed) > c.silence {
			return 0, fmt.Errorf("subscriber %d received %d of %d events", behind, c.subs[behind].got.Load(), events)
		}
		select {
		case err := <-c.failed:
			return 0, err
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
	}
}

// countReceived returns how many events have arrived in total, when the last one did, and a
// subscriber that lacks some, or -1.
func (c *Crowd) countReceived(events int) (sum int64, last time.Duration, behind int) {
	behind = -1
	for i, s := range c.subs {
		got := s.got.Load()
		if sum += got; got < int64(events) {
			behind = i
		}
		last = max(last, time.Duration(s.last.Load()))
	}
	return sum, last, behind
}

// FanOut posts to a server for the duration d, or until most events are posted, while a
// crowd of n reads the stream at path. It returns all deliveries, each with the time since
// its post. It is an error if a subscriber misses an event or receives one twice.
func FanOut(ctx context.Context, url, path string, n int, load Load, d time.Duration, most int) (r Rate, err error) {
	c, err := Gather(ctx, url+path, n, most+1)
	if err != nil {
		return r, err
	}
	defer c.Close()
	body := load.Body
	load.Body = func(i int) (string, []byte) {
		path, b := body(i)
		c.began[i].Store(int64(time.Since(c.start)))
		return path, b
	}
	start := time.Since(c.start)
	posted, err := load.Run(ctx, url, d, 0, most)
	if err != nil {
		return r, err
	}
	last, err := c.waitReceived(ctx, posted.Events)
	if err != nil {
		return r, err
	}
	// Post one more event: anything late arrives before it.
	if err := load.postEvents(ctx, c.client, url, posted.Events); err != nil {
		return r, err
	}
	if _, err := c.waitReceived(ctx, posted.Events+1); err != nil {
		return r, err
	}
	c.Close()
	select {
	case err := <-c.failed:
		return r, err
	default:
	}
	r = Rate{Events: posted.Events * n, Elapsed: last - start}
	for _, s := range c.subs {
		r.Waits = append(r.Waits, s.waits[:posted.Events]...)
	}
	slices.Sort(r.Waits)
	return r, nil
}

// A Laggard is a subscriber that lags.
type Laggard struct {
	cancel context.CancelFunc
	done   chan struct{}
	read   int64
}

// Lag connects to the stream at url and reads until it is live. From then on it reads 4
// KiB at each interval, or nothing if every is zero.
func Lag(ctx context.Context, url string, every time.Duration) (*Laggard, error) {
	// Keep the receive buffer small, or the system reads ahead for it.
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if tcp, ok := conn.(*net.TCPConn); ok {
			err = tcp.SetReadBuffer(4 << 10)
		}
		return conn, err
	}
	ctx, cancel := context.WithCancel(ctx)
	body, err := requestStream(ctx, &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}, url)
	if err == nil {
		err = readUntil(body, []byte(liveLine))
	}
	if err != nil {
		cancel()
		return nil, err
	}
	l := &Laggard{cancel: cancel, done: make(chan struct{})}
	go l.readSlowly(ctx, body, every)
	return l, nil
}

// readUntil reads up to the first mark, and a little more.
func readUntil(r io.Reader, mark []byte) error {
	var b []byte
	for !bytes.Contains(b, mark) {
		piece := make([]byte, 512)
		n, err := r.Read(piece)
		b = append(b, piece[:n]...)
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", len(b), err)
		}
	}
	return nil
}

func (l *Laggard) readSlowly(ctx context.Context, body io.ReadCloser, every time.Duration) {
	defer close(l.done)
	defer body.Close()
	var tick <-chan time.Time
	if every > 0 {
		t := time.NewTicker(every)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick:
			n, err := io.CopyN(io.Discard, body, 4<<10)
			if l.read += n; err != nil {
				return
			}
		}
	}
}

// Close disconnects and returns how many bytes were read after the stream was live.
func (l *Laggard) Close() (read int64) {
	l.cancel()
	<-l.done
	return l.read
}

// numberMember precedes the number of an event of Input.
const numberMember = `"n":`

func appendValue(b []byte, i int) []byte {
	b = append(b, '{')
	b = append(b, numberMember...)
	b = strconv.AppendInt(b, int64(i), 10)
	return append(b, `,"text":"one two three four five"}`...)
}
