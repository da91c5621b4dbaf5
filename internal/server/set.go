package server

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A Refused error is an error of a Log that has an HTTP status, and whose text may be sent to
// clients.
type Refused interface {
	error
	// HTTPStatus returns the status: 503 to retry with the same key, 507 for a full
	// disk.
	HTTPStatus() int
}

// setOne appends one event: POST /set/{user}/{path}.
func (s *Server) setOne(w http.ResponseWriter, r *http.Request) *wire.Error {
	if problem := s.checkTargetLog(r); problem != nil {
		return problem
	}
	storage, err := wire.ParseSetPath(rawPath(r))
	if err != nil {
		return wire.Errorf(http.StatusBadRequest, "%v", err)
	}
	body, problem := readBody(w, r, wire.MaxLine)
	if problem != nil {
		return problem
	}
	draft, keyed, err := wire.ParseSetBody(body, storage)
	if err != nil {
		return wire.Errorf(http.StatusBadRequest, "%v", err)
	}
	if !keyed {
		draft.Key = rand.Text()
	}
	if len(draft.Value) > wire.MaxValue {
		return valueTooLarge(&draft)
	}
	receipts, problem := s.appendDrafts(w, r, []event.Draft{draft})
	if problem != nil {
		return problem
	}
	w.Header().Set("Content-Type", wire.JSON)
	if !receipts[0].Duplicate {
		w.WriteHeader(http.StatusCreated)
	}
	_, _ = w.Write(wire.AppendReceipt(nil, &receipts[0])) // fails only if the client is gone
	return nil
}

// checkTargetLog refuses an append to another log.
func (s *Server) checkTargetLog(r *http.Request) *wire.Error {
	given := r.Header.Values(wire.HeaderLog)
	if len(given) > 1 || len(given) == 1 && given[0] == "" {
		return wire.Errorf(http.StatusBadRequest, "%s: want one log, the one that the append is for; %s", wire.HeaderLog, wire.NothingAppended)
	}
	if log := wire.LogOf(r.Header); log != "" && log != s.log.Log() {
		return s.conflictError(wire.ReasonLog, s.log.HeadPoint(), "the append is for the log %.40s; this log is %s", log, s.log.Log())
	}
	return nil
}

func valueTooLarge(d *event.Draft) *wire.Error {
	return wire.Errorf(http.StatusRequestEntityTooLarge, "value must be at most %d bytes long, not %d", wire.MaxValue, len(d.Value))
}

// setBatch appends the lines of an NDJSON body, all or none: POST /set.
func (s *Server) setBatch(w http.ResponseWriter, r *http.Request) *wire.Error {
	if problem := s.checkTargetLog(r); problem != nil {
		return problem
	}
	body, problem := openBody(w, r, wire.MaxBatch)
	if problem != nil {
		return problem
	}
	drafts, problem := parseBatch(body)
	if problem != nil {
		return problem
	}
	answer := func() *wire.Error {
		receipts, problem := s.appendDrafts(w, r, drafts)
		if problem != nil {
			return problem
		}
		w.Header().Set("Content-Type", wire.NDJSON)
		_, _ = w.Write(wire.AppendResults(nil, receipts)) // fails only if the client is gone
		return nil
	}
	if len(drafts) > longBatch {
		return s.whileOpen(w, r, answer)
	}
	return answer()
}

// longBatch is how many results make a response of about 64 KiB. A longer one needs a place, which it
// takes before anything is appended.
const longBatch = 400

func parseBatch(body io.Reader) ([]event.Draft, *wire.Error) {
	lines := wire.NewLineReader(body, wire.MaxLine)
	var p batchParser
	defer p.parsing.Wait()
	for n := 0; ; n++ {
		line, err := lines.Next()
		switch {
		case errors.Is(err, io.EOF):
			return p.result()
		case errors.Is(err, wire.ErrLineTooLong):
			return nil, wire.Errorf(http.StatusRequestEntityTooLarge, "body: %v", err)
		case err != nil:
			return nil, bodyError(err)
		case n == wire.MaxBatchLen: // including bad lines, which take memory as well
			return nil, wire.Errorf(http.StatusRequestEntityTooLarge, "body has more than %d lines", wire.MaxBatchLen)
		}
		p.addLine(lines.Number(), line)
	}
}

// parseAppend parses one line of a batch.
func parseAppend(line []byte) (event.Draft, error) {
	d, settled, err := event.ParseAppend(line)
	if err == nil && !settled {
		d.Key = rand.Text()
	}
	if err == nil {
		err = d.CheckNew()
	}
	if err == nil && len(d.Value) > wire.MaxValue {
		err = errors.New(valueTooLarge(&d).Detail)
	}
	return d, err
}

// badLines are the lines of a batch that cannot be appended.
type badLines struct {
	numbers []int
	reasons []string
}

// maxReasons is how many bad lines are explained. The numbers of all are listed.
const maxReasons = 5

// append adds the bad lines that follow.
func (b *badLines) append(next *badLines) {
	b.numbers = append(b.numbers, next.numbers...)
	b.reasons = append(b.reasons, next.reasons[:min(maxReasons-len(b.reasons), len(next.reasons))]...)
}

func (b *badLines) addBad(number int, err error) {
	b.numbers = append(b.numbers, number)
	if len(b.reasons) < maxReasons {
		b.reasons = append(b.reasons, fmt.Sprintf("line %d: %v", number, err))
	}
}

func (b *badLines) problem() *wire.Error {
	if len(b.numbers) == 0 {
		return nil
	}
	e := wire.Errorf(http.StatusBadRequest, wire.NothingAppended+": %s", strings.Join(b.reasons, "; "))
	if more := len(b.numbers) - len(b.reasons); more > 0 {
		e.Detail += fmt.Sprintf("; and %d more bad lines", more)
	}
	e.Lines = b.numbers
	return e
}

// appendDrafts appends drafts to the log, and sets the header of the new head.
func (s *Server) appendDrafts(w http.ResponseWriter, r *http.Request, drafts []event.Draft) ([]event.Receipt, *wire.Error) {
	if problem := s.mayWrite(w, r, drafts); problem != nil || len(drafts) == 0 {
		return nil, problem
	}
	if problem := s.refuseForged(drafts); problem != nil {
		return nil, problem
	}
	if problem := s.limitAppend(w, r, drafts); problem != nil {
		return nil, problem
	}
	receipts, err := s.timedAppend(w, r, drafts)
	s.setPosition(w.Header(), wire.HeaderHead, s.log.HeadPoint())
	w.Header().Set("Cache-Control", "no-store")
	if err == nil {
		return receipts, nil
	}
	if s.cfg.Mirror != nil {
		return nil, s.mirrorProblem(w, r, err)
	}
	problem := s.internalProblem(r, err)
	var refused Refused
	if errors.As(err, &refused) {
		problem = wire.Errorf(refused.HTTPStatus(), "%v", refused)
	}
	if problem.Status == http.StatusInsufficientStorage {
		problem.Detail += "; " + wire.NothingAppended
	}
	if problem.Status == http.StatusServiceUnavailable {
		problem.RetryAfter = time.Second
	}
	return nil, problem
}

// slowAppend is the duration from which an append is logged as slow.
const slowAppend = time.Second

// timedAppend appends drafts, counts the outcome, and logs slow appends: at most one a second,
// since many may wait for the same disk.
func (s *Server) timedAppend(w http.ResponseWriter, r *http.Request, drafts []event.Draft) (receipts []event.Receipt, err error) {
	began := time.Now()
	if s.cfg.Mirror != nil {
		receipts, err = s.passOn(w, r, drafts)
	} else {
		receipts, err = s.log.Append(r.Context(), drafts)
	}
	took := time.Since(began)
	s.metrics.noteAppend(r.Context(), receipts, err, took)
	if last := s.slowTold.Load(); took >= slowAppend && began.UnixNano() > last && s.slowTold.CompareAndSwap(last, time.Now().UnixNano()) {
		s.cfg.Logger.Warn("append was slow", "took_ms", milliseconds(took), "events", len(drafts))
	}
	return receipts, err
}
