package report

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"

	"github.com/rstream-dev/rstream/internal/board"
	"github.com/rstream-dev/rstream/internal/sse"
	"github.com/rstream-dev/rstream/internal/wire"
)

// parseLook returns the look that a frame announces.
func parseLook(f *sse.Frame) (look board.Look, ok bool) {
	if f.Type != wire.LookEvent {
		return look, false
	}
	err := json.Unmarshal(f.Data, &look)
	return look, err == nil && look.Board != ""
}

// checkStream refuses a response that is not the stream of a board.
func checkStream(resp *http.Response) error {
	if err := checkStatus(resp); err != nil {
		return err
	}
	if media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || media != wire.SSE {
		return errors.New("the server has no board")
	}
	return nil
}

// A refusedError is an answer to which no other request of the same kind gets another one soon.
type refusedError struct{ error }

// checkStatus returns the error of a response other than 200.
func checkStatus(resp *http.Response) error {
	if resp.StatusCode == http.StatusOK && wire.LogOf(resp.Header) != "" {
		return nil
	}
	if resp.StatusCode == http.StatusOK {
		return errors.New("it is not an rstream server")
	}
	e := wire.ReadError(resp)
	if e.Final() {
		return refusedError{e}
	}
	return e
}

// send sends a report once, and returns what the board wants next.
func (r *Reporter) send(ctx context.Context, body []byte) (want board.Wanted, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.cfg.Board+wire.PathReports, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	header, err := r.cfg.Header(ctx)
	if err != nil {
		return "", err
	}
	maps.Copy(req.Header, header)
	req.Header.Set("Content-Type", wire.JSON)
	r.cfg.Meter.Reports.Add(1)
	r.cfg.Meter.Bytes.Add(int64(len(body)))
	resp, err := r.cfg.HTTP.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if err := checkStatus(resp); err != nil {
		return "", err
	}
	var answer struct {
		Want board.Wanted `json:"want"`
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err == nil {
		err = json.Unmarshal(b, &answer)
	}
	if err != nil {
		return "", fmt.Errorf("read the answer of the board: %w", err)
	}
	return answer.Want, nil
}
