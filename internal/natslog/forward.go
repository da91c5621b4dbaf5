package natslog

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// Headers of forwarded appends and of their answers. Both may be larger than one message, and
// then come in parts.
const (
	headerPart   = "Rstream-Part"   // "2/3"
	headerWait   = "Rstream-Wait"   // for how many milliseconds the caller waits; both have headerFormat
	headerStatus = "Rstream-Status" // of an answer without receipts: the HTTP status, or one of the next
	statusOther  = "other"          // errNotCommitter
	statusUnsure = "unknown"        // errUnknown
)

// partBytes is the size of a part. It is a variable for the tests.
var partBytes = 512 << 10

// maxForwarded bounds the bytes of all forwarded appends that a committer holds at a time.
const maxForwarded = 4 * wire.MaxBatch

// A forwards holds what arrives from other nodes.
type forwards struct {
	mu      sync.Mutex
	parts   map[string]*parts // by reply subject
	bytes   int               // of all that is held
	running sync.WaitGroup
}

// Wait waits until all appends have been answered.
func (f *forwards) Wait() { f.running.Wait() }

// parts are the parts of one forwarded append that have arrived.
type parts struct {
	data  []byte
	next  int // the number of the next part
	ended time.Time
}

// subscribe begins to take appends of other nodes, and to answer those who ask for the nodes.
func (l *Log) subscribe(ctx context.Context) ([]*nats.Subscription, error) {
	sub, err := l.conn.Subscribe(l.subject("append."+l.boot), func(msg *nats.Msg) { l.takePart(ctx, msg) })
	if err != nil {
		return nil, err
	}
	if err := sub.SetPendingLimits(-1, maxForwarded); err != nil {
		return nil, err
	}
	about, err := l.conn.Subscribe(l.subject(partNodes), l.answerNodes)
	if err != nil {
		return nil, err
	}
	return []*nats.Subscription{sub, about}, nil
}

// takePart takes a part of a forwarded append, and answers with the last one.
func (l *Log) takePart(ctx context.Context, msg *nats.Msg) {
	f := &l.forwards
	n, of, err := parsePart(msg.Header.Get(headerPart))
	if err != nil || msg.Reply == "" {
		return
	}
	f.mu.Lock()
	p := f.parts[msg.Reply]
	if p == nil {
		f.dropOld()
		p = &parts{next: 1, ended: time.Now().Add(2 * l.cfg.AppendWait)}
		if f.parts == nil {
			f.parts = map[string]*parts{}
		}
		f.parts[msg.Reply] = p
	}
	full := f.bytes+len(msg.Data) > maxForwarded || len(p.data)+len(msg.Data) > 2*wire.MaxBatch
	if n != p.next || full {
		f.bytes -= len(p.data)
		delete(f.parts, msg.Reply)
		f.mu.Unlock()
		if full {
			l.reply(msg.Reply, statusOther, nil)
		}
		return // a part was lost: the sender waits no longer than it has said
	}
	p.data, p.next = append(p.data, msg.Data...), n+1
	f.bytes += len(msg.Data)
	if n < of {
		f.mu.Unlock()
		return
	}
	delete(f.parts, msg.Reply)
	f.mu.Unlock()
	wait, err := strconv.Atoi(msg.Header.Get(headerWait))
	if err != nil || wait <= 0 {
		wait = int(l.cfg.AppendWait.Milliseconds())
	}
	f.running.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(time.Duration(wait)*time.Millisecond, 2*l.cfg.AppendWait))
		defer cancel()
		l.answerAppend(ctx, msg, p.data)
		f.mu.Lock()
		f.bytes -= len(p.data)
		f.mu.Unlock()
	})
}

// dropOld drops appends of which parts were lost.
func (f *forwards) dropOld() {
	for reply, p := range f.parts {
		if time.Now().After(p.ended) {
			f.bytes -= len(p.data)
			delete(f.parts, reply)
		}
	}
}

func parsePart(s string) (n, of int, err error) {
	a, b, _ := strings.Cut(s, "/")
	n, err = strconv.Atoi(a)
	of, err2 := strconv.Atoi(b)
	if err = errors.Join(err, err2); err == nil && (n < 1 || of < n) {
		err = fmt.Errorf("part %d of %d", n, of)
	}
	return n, of, err
}

// answerAppend appends the drafts in lines, whose last part is msg, and answers.
func (l *Log) answerAppend(ctx context.Context, msg *nats.Msg, lines []byte) {
	r, reply := &request{}, msg.Reply
	var err error
	if v := msg.Header.Get(headerFormat); v != format {
		err = wire.Errorf(http.StatusServiceUnavailable, "%s: the committer %s is of another version, and does not know the format %.20q", wire.NothingAppended, l.cfg.Node, v)
	} else if msg.Header.Get(headerLog) != l.logID() {
		err = wire.Errorf(http.StatusServiceUnavailable, "%s: the committer has another log", wire.NothingAppended)
	} else if r.Drafts, r.Hashes, err = parseDrafts(lines); err == nil {
		err = responseTo(l.committer.submit(ctx, r))
	}
	var problem *wire.Error
	switch {
	case err == nil:
		l.reply(reply, "", appendReceipts(nil, r.Receipts))
	case errors.Is(err, errNotCommitter):
		l.reply(reply, statusOther, nil)
	case errors.As(err, &problem):
		l.reply(reply, strconv.Itoa(problem.Status), []byte(problem.Detail))
	default:
		l.reply(reply, statusUnsure, []byte(err.Error()))
	}
}

// reply answers in parts. An answer that is lost is as none: the caller does not know.
func (l *Log) reply(to, status string, data []byte) {
	for _, msg := range divide(to, data) {
		if status != "" {
			msg.Header.Set(headerStatus, status)
		}
		_ = l.conn.PublishMsg(msg) // the caller finds out
	}
}

// divide returns data as messages.
func divide(subject string, data []byte) (messages []*nats.Msg) {
	of := max((len(data)+partBytes-1)/partBytes, 1)
	for i := range of {
		msg := nats.NewMsg(subject)
		msg.Data = data[i*partBytes : min((i+1)*partBytes, len(data))]
		msg.Header.Set(headerFormat, format)
		msg.Header.Set(headerPart, fmt.Sprintf("%d/%d", i+1, of))
		messages = append(messages, msg)
	}
	return messages
}

func parseDrafts(lines []byte) (drafts []event.Draft, hashes []event.Hash, err error) {
	for rest := lines; len(rest) > 0; {
		line, after, _ := bytes.Cut(rest, []byte{'\n'})
		rest = after
		d, ok := event.ScanDraft(line)
		if !ok {
			if d, err = event.ParseDraft(line); err != nil {
				return nil, nil, wire.Errorf(http.StatusBadRequest, "%s: %v", wire.NothingAppended, err)
			}
		}
		if err := d.Check(); err != nil {
			return nil, nil, wire.Errorf(http.StatusBadRequest, "%s: %v", wire.NothingAppended, err)
		}
		drafts, hashes = append(drafts, d), append(hashes, d.Hash())
	}
	return drafts, hashes, nil
}

// Flags of a receipt in an answer.
const (
	flagDuplicate = 1
	flagDropped   = 2
	receiptBytes  = 17 // id, time, flags
)

func appendReceipts(b []byte, receipts []event.Receipt) []byte {
	for i := range receipts {
		r := &receipts[i]
		b = binary.BigEndian.AppendUint64(b, uint64(r.ID))
		b = binary.BigEndian.AppendUint64(b, uint64(r.Time))
		flags := byte(0)
		if r.Duplicate {
			flags |= flagDuplicate
		}
		if r.Dropped {
			flags |= flagDropped
		}
		b = append(b, flags)
	}
	return b
}

// parseReceipts returns the receipts of drafts in an answer.
func parseReceipts(b []byte, a *cache.Assignment) ([]event.Receipt, error) {
	if len(b) != receiptBytes*len(a.Drafts) {
		return nil, fmt.Errorf("the committer has sent %d bytes for %d receipts", len(b), len(a.Drafts))
	}
	receipts := make([]event.Receipt, len(a.Drafts))
	for i := range receipts {
		r, d, h := b[i*receiptBytes:], a.Drafts[i], a.Hashes[i]
		id, at := event.ID(binary.BigEndian.Uint64(r)), event.Time(binary.BigEndian.Uint64(r[8:]))
		receipts[i].Duplicate, receipts[i].Dropped = r[16]&flagDuplicate != 0, r[16]&flagDropped != 0
		switch {
		case id == event.Beginning || id >= event.MaxID || !receipts[i].Dropped && !at.Valid():
			return nil, errors.New("the committer has sent a bad receipt")
		case receipts[i].Dropped:
			receipts[i].Event = event.Event{ID: id, Draft: d, Hash: h}
		default:
			receipts[i].Event = event.New(id, at, d, h)
		}
	}
	return receipts, nil
}

// errNoAnswer means that the committer did not answer before another node became it.
var errNoAnswer = errors.New("the committer did not answer")

// forward passes an append on to the committer. An answer does not come after the connection has
// ended.
func (l *Log) forward(ctx context.Context, log, boot string, a *cache.Assignment) ([]event.Receipt, error) {
	ctx, cancel := l.whileConnected(ctx)
	defer cancel()
	var lines []byte
	for i := range a.Drafts {
		lines = append(a.Drafts[i].AppendJSON(lines), '\n')
	}
	ctx, done := l.whileAllowed(ctx, l.subject("append."))
	defer done()
	inbox := l.conn.NewInbox()
	answers := make(chan *nats.Msg, 64)
	sub, err := l.conn.ChanSubscribe(inbox, answers)
	if err != nil {
		return nil, errNotCommitter
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection may be closed
	for i, msg := range divide(l.subject("append."+boot), lines) {
		msg.Reply = inbox
		msg.Header.Set(headerLog, log)
		if limit, ok := ctx.Deadline(); ok {
			msg.Header.Set(headerWait, strconv.FormatInt(max(time.Until(limit).Milliseconds(), 1), 10))
		}
		if err := l.conn.PublishMsg(msg); err != nil && i == 0 {
			return nil, errNotCommitter
		} else if err != nil {
			break // the committer never gets the last part
		}
	}
	var data []byte
	for next := 1; ; next++ {
		msg, err := l.awaitAnswer(ctx, answers, boot)
		if err != nil {
			return nil, err
		}
		if len(msg.Data) == 0 && msg.Header.Get("Status") == "503" {
			l.lease.lookSoon()
			return nil, errNotCommitter // nobody has got it
		}
		n, of, err := parsePart(msg.Header.Get(headerPart))
		if err != nil || n != next {
			return nil, errNoAnswer
		}
		if v := msg.Header.Get(headerFormat); v != format {
			return nil, fmt.Errorf("%w: the committer is of another version, and answers in the format %.20q", errUnknown, v)
		}
		if data = append(data, msg.Data...); n < of {
			continue
		}
		l.refusals.noteForwarded()
		return answered(msg.Header.Get(headerStatus), data, a)
	}
}

// awaitAnswer waits for a part of an answer, as long as the node commits.
func (l *Log) awaitAnswer(ctx context.Context, answers <-chan *nats.Msg, boot string) (*nats.Msg, error) {
	for {
		now, changed := l.lease.watch()
		if now.holder.Boot != boot {
			return nil, errNoAnswer
		}
		select {
		case msg := <-answers:
			return msg, nil
		case <-changed:
		case <-ctx.Done():
			return nil, l.notForwarded(ctx)
		}
	}
}

// notForwarded returns the error of an append that got no answer. It was certainly not appended if
// NATS allows no appends of this node.
func (l *Log) notForwarded(ctx context.Context) error {
	err := refusalOr(ctx, errNoAnswer)
	l.refusals.mu.Lock()
	defer l.refusals.mu.Unlock()
	if errors.Is(err, errNoAnswer) || l.refusals.once {
		return errNoAnswer
	}
	return wire.Errorf(http.StatusServiceUnavailable, "%s: %v", wire.NothingAppended, err)
}

// answered returns what an answer of the committer says.
func answered(status string, data []byte, a *cache.Assignment) ([]event.Receipt, error) {
	switch status {
	case "":
		return parseReceipts(data, a)
	case statusOther:
		return nil, errNotCommitter
	case statusUnsure:
		return nil, fmt.Errorf("%w: %s", errUnknown, data)
	}
	code, err := strconv.Atoi(status)
	if err != nil {
		return nil, errNoAnswer
	}
	return nil, wire.Errorf(code, "%s", data)
}
