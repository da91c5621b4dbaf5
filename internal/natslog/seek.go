package natslog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/mirror"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A seeker finds positions of the log in the stream.
type seeker struct {
	l           *Log
	log         string
	begin       event.Point // where the stream begins
	first, last uint64      // the messages of the stream
	end         event.Point // of head
}

// errNoMessage means that the stream has no message of a sequence or subject.
var errNoMessage = errors.New("no message")

// get reads a message from the leader of the stream: a replica may lack the newest ones.
// request is the JSON of a request.
func (l *Log) get(ctx context.Context, request string) (m message, seq uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.within(requestWait))
	defer cancel()
	resp, err := l.conn.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+l.cfg.Stream, []byte(request))
	if err != nil {
		return m, 0, l.unreachable(err)
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message *struct {
			Subject string `json:"subject"`
			Seq     uint64 `json:"seq"`
			Hdrs    []byte `json:"hdrs"`
			Data    []byte `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(resp.Data, &answer); err != nil {
		return m, 0, fmt.Errorf("read a message of the stream: %w", err)
	}
	switch {
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return m, 0, errNoMessage
	case answer.Error != nil:
		return m, 0, l.streamError(answer.Error)
	case answer.Message == nil:
		return m, 0, fmt.Errorf("read a message of the stream: no message in the answer")
	}
	h, err := nats.DecodeHeadersMsg(answer.Message.Hdrs)
	if err != nil {
		return m, 0, &foreignError{answer.Message.Seq, "has no headers"}
	}
	m, err = decode(answer.Message.Subject, h, answer.Message.Data, answer.Message.Seq)
	return m, answer.Message.Seq, err
}

// message returns the message of a sequence, with its events.
func (s *seeker) message(ctx context.Context, seq uint64) (m message, err error) {
	m, _, err = s.l.get(ctx, fmt.Sprintf(`{"seq":%d}`, seq))
	switch {
	case errors.Is(err, errNoMessage):
		return m, s.conflict(wire.ReasonMark, "has lost message %d", seq)
	case err != nil:
		return m, s.l.messageError(err)
	case m.log != s.log:
		return m, s.conflict(wire.ReasonLog, "has the log %s in message %d", m.log, seq)
	}
	if m.subject == s.l.subject(partEvents) {
		if err := m.parseEvents(seq); err != nil {
			return m, s.l.messageError(err)
		}
	}
	return m, nil
}

func (s *seeker) conflict(reason, format string, args ...any) error {
	return &mirror.ConflictError{Reason: reason, Detail: s.l.String() + " " + fmt.Sprintf(format, args...)}
}

// messageError returns the error for a message that cannot be taken. A node never goes on after
// such a message: what it means is not known.
func (l *Log) messageError(err error) error {
	var newer *newerError
	var foreign *foreignError
	switch {
	case errors.As(err, &newer):
		return &mirror.ConflictError{Reason: wire.ReasonVersion, Detail: l.String() + ": " + newer.Error()}
	case errors.As(err, &foreign):
		return &mirror.ConflictError{Reason: wire.ReasonLog, Detail: l.String() + " is not sound: " + foreign.Error()}
	}
	return err
}

// head returns the head of the log.
func (s *seeker) head(ctx context.Context) (event.Point, error) {
	if s.last == 0 {
		s.end = s.begin
		return s.end, nil
	}
	if s.first > 1 {
		return event.Point{}, s.conflict(wire.ReasonMark, "was purged: it begins at message %d", s.first)
	}
	m, err := s.message(ctx, s.last)
	if err != nil {
		return event.Point{}, err
	}
	s.end = m.end()
	return s.end, nil
}

// seek returns the sequence of the first message that has something after a position, after
// a check that the log has the position and its mark. If there is none, it is the next one that
// the stream will have. head must have been called.
func (s *seeker) seek(ctx context.Context, held event.Point) (uint64, error) {
	switch {
	case held.ID > s.end.ID:
		return 0, s.conflict(wire.ReasonAhead, "ends at %s, and %s is here", s.end.ID, held.ID)
	case held.ID < s.begin.ID:
		return 0, &BeginError{Stream: s.l.String(), Begin: s.begin.ID, Held: held.ID}
	case held.ID == s.begin.ID:
		return s.first1(), s.checkMark(held, s.begin)
	}
	if at, _ := s.l.state(); at.seq >= s.first1() && at.seq <= s.last && at.at == held { // it usually is
		m, err := s.message(ctx, at.seq)
		if err != nil || m.end() == held {
			return at.seq + 1, err
		}
	}
	// The first message that follows held or a later position is in [low, high].
	low, high, follows := s.first1(), s.last+1, s.end
	for low < high {
		middle := low + (high-low)/2
		m, err := s.message(ctx, middle)
		if err != nil {
			return 0, err
		}
		if m.after.ID >= held.ID {
			high, follows = middle, m.after
			continue
		}
		if low = middle + 1; m.end().ID > held.ID { // held is inside of the page
			i := held.ID - m.after.ID - 1
			return middle, s.checkMark(held, event.Point{ID: held.ID, Mark: m.events[i].Mark()})
		}
	}
	if follows.ID != held.ID {
		return 0, s.conflict(wire.ReasonMark, "has no position %s", held.ID)
	}
	return low, s.checkMark(held, follows)
}

// first1 returns the sequence of the first message, even if there is none yet.
func (s *seeker) first1() uint64 { return max(s.first, 1) }

func (s *seeker) checkMark(held, have event.Point) error {
	if !held.Mark.Agrees(have.Mark) {
		return s.conflict(wire.ReasonMark, "has another event at %s than this node: %s, not %s", held.ID, have.Mark, held.Mark)
	}
	return nil
}

// readHorizon reads the newest horizon of the stream.
func (l *Log) readHorizon(ctx context.Context, log string) error {
	m, seq, err := l.get(ctx, fmt.Sprintf(`{"last_by_subj":%q}`, l.subject(partBound)))
	if errors.Is(err, errNoMessage) {
		return nil
	}
	if err != nil {
		return l.messageError(err)
	}
	at, err := m.parseBound(seq)
	if err != nil || m.log != log {
		return nil // Follow finds it, and says so
	}
	l.noteHorizon(at)
	return nil
}

// noteHorizon notes a horizon of the stream.
func (l *Log) noteHorizon(at event.Point) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at.ID > l.horizon.ID {
		l.horizon = at
	}
}
