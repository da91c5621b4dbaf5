package server

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/board"
	"github.com/rstream-dev/rstream/internal/wire"
)

// Readers returns the registry of the open streams.
func (s *Server) Readers() *board.Registry { return &s.readers }

// Node describes this server as a node of a board.
func (s *Server) Node() board.Node { return s.describe() }

// A BoardLink says how the link to a board is, for GET /metrics.
type BoardLink struct {
	URL       string // without secrets
	Connected bool
	Reporting bool // somebody looks
	Reports   int64
	Bytes     int64
	Failed    int64 // reports without an answer
}

// listWait is how long a response waits for the connections of nodes, if nobody has looked before.
const listWait = 2 * time.Second

// awaitLists waits until the board has the connections of all nodes, but not long: a node may be
// stopped.
func awaitLists(r *http.Request, viewer *board.Viewer) {
	listed := viewer.Listed()
	select {
	case <-listed:
		return
	default:
	}
	timer := time.NewTimer(listWait)
	defer timer.Stop()
	select {
	case <-listed:
	case <-timer.C:
		viewer.StopWaiting() // the next one need not wait
	case <-r.Context().Done():
	}
}

// lookSilence is the longest silence on the stream of a node, whatever that of other streams is.
const lookSilence = 15 * time.Second

// getLooks sends a node whether somebody looks at the board, as a stream: GET /board/looks.
func (s *Server) getLooks(w http.ResponseWriter, r *http.Request) *wire.Error {
	node, ends, err := wire.ParseLooks(r.URL.RawQuery)
	if err != nil {
		return badParameters(err)
	}
	if err := board.CheckNodeName(node); err != nil {
		return wire.Errorf(http.StatusBadRequest, "node: %v", err)
	}
	if problem := s.mayReport(recorderOf(w), r); problem != nil {
		return problem
	}
	if node == s.cfg.Node {
		return wire.Errorf(http.StatusConflict, "%v", &board.ReplacedError{Node: node, Own: true})
	}
	return s.prepareControlStream(w, r, func(c controlStream) stream { return &lookStream{controlStream: c, node: node, ends: ends} })
}

// A lookStream sends one node whether somebody looks.
type lookStream struct {
	controlStream
	node string
	ends bool // after the first announcement
}

func (c *lookStream) runStream() { c.run(c.follow) }

// follow sends the look at the beginning, each other one at once, and a look that lasts again
// and again.
func (c *lookStream) follow() error {
	c.s.hadNodes.Store(true)
	lookout := c.s.board.Wait(c.node, c.wake)
	defer lookout.Close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	c.buf = wire.AppendPreamble(c.buf, c.s.cfg.Retry)
	var sent board.Look
	for {
		if err := c.checkEnd(); err != nil {
			return err
		}
		look := lookout.Look()
		silence := lookSilence
		if look.Looking {
			silence = board.RenewEvery
		}
		isDue := time.Since(c.written) >= silence
		switch {
		case look != sent, look.Looking && isDue:
			if err := c.gather(wire.LookEvent, look); err != nil {
				return err
			}
			sent = look
		case isDue:
			c.buf = append(c.buf, ":\n\n"...)
		}
		if err := c.flush(); err != nil || c.ends {
			return err
		}
		timer.Reset(c.patience(silence))
		if err := c.await(timer); err != nil {
			return err
		}
	}
}

// maxReport is the greatest size of a report, in bytes.
const maxReport = 8 << 20

// postReport takes a report of a node: POST /board/reports.
func (s *Server) postReport(w http.ResponseWriter, r *http.Request) *wire.Error {
	rec := recorderOf(w)
	if problem := s.mayReport(rec, r); problem != nil {
		return problem
	}
	body, problem := readBody(w, r, maxReport)
	if problem != nil {
		return problem
	}
	var report board.Report
	err := json.Unmarshal(body, &report)
	if err == nil {
		err = report.Check()
	}
	if err != nil {
		return wire.Errorf(http.StatusBadRequest, "report: %v", err)
	}
	want, err := s.board.Report(&report)
	if err != nil {
		s.metrics.reports.WithLabelValues("replaced").Inc()
		return wire.Errorf(http.StatusConflict, "%v", err)
	}
	s.metrics.reports.WithLabelValues(string(want)).Inc()
	return writeJSON(w, struct {
		Want board.Wanted `json:"want"`
	}{want})
}

// mayReport refuses a request of a node whose token does not allow to report to the board.
func (s *Server) mayReport(rec *recorder, r *http.Request) *wire.Error {
	if rec.grant == nil {
		return nil
	}
	if rec.grant.Board != auth.BoardWrite {
		return missingBoardRight(rec, "report to the board")
	}
	if problem := s.mayWriteByCookie(rec, r); problem != nil {
		return problem
	}
	rec.ruled = true
	return nil
}
