package client

import (
	"context"
	"errors"
	"net/http"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// Info describes a server and its log.
type Info struct {
	Name    string       // of the program: rstream
	Version string       // of the program
	Log     string       // the name of the log
	Head    event.Cursor // the newest position
	Horizon event.Cursor // the oldest position that is still served
	Parent  *Parent      // the log that this one continues, or nil
	Limits  Limits
}

// A Parent is the log that a server's log continues. Up to Head the two are the same. If
// Head is nil, it is not known where they diverge.
type Parent struct {
	Log  string
	Head *event.ID
}

// Limits are the limits of a server. It refuses larger requests.
type Limits struct {
	Value  int // bytes of one value
	Batch  int // bytes of one batch
	Page   int // events of one page
	Topics int // topics of one request
}

func infoOf(w *wire.Info) Info {
	info := Info{Name: w.Name, Version: w.Version, Log: w.Log, Head: w.Head, Horizon: w.Horizon, Limits: Limits(w.Limits)}
	if w.Parent != nil {
		info.Parent = &Parent{Log: w.Parent.Log, Head: w.Parent.Head}
	}
	return info
}

// Probe returns the Info of the first server of cfg that answers.
func Probe(ctx context.Context, cfg Config) (Info, error) {
	cfg, err := cfg.checked()
	if err != nil {
		return Info{}, err
	}
	c := newClient(nil, cfg)
	defer c.closeIdle()
	return c.Info(ctx)
}

// Ready returns nil if the first server of cfg can serve its log, and else an error that says
// why not. It asks once, and needs no token.
func Ready(ctx context.Context, cfg Config) error {
	cfg, err := cfg.checked()
	if err != nil {
		return err
	}
	c := newClient(nil, cfg)
	defer c.closeIdle()
	resp, err := c.doRequest(ctx, http.MethodGet, cfg.Servers[0], "/readyz", nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return readStatus(resp)
	}
	return c.checkIsRstream(cfg.Servers[0], resp.Header, wire.JSON)
}

// Info asks the server for its Info.
func (c *Client) Info(ctx context.Context) (info Info, err error) {
	err = c.retryEach(ctx, c.newBackoff(), func(ctx context.Context) error {
		resp, err := c.askServers(ctx, http.MethodGet, "/", nil, nil)
		if err == nil {
			info, err = c.readInfo(resp)
		}
		return err
	})
	if err == nil {
		err = c.ensureOneLog(ctx)
	}
	return info, err
}

// HeadTime asks the server for the time of the log's newest event; ok is false if the log has
// none.
func (c *Client) HeadTime(ctx context.Context) (t event.Time, ok bool, err error) {
	q := wire.WindowQuery{Topic: event.All, Since: event.Now, Sum: true} // nothing, which ends at the head
	w, _, err := requestWindows[wire.Window](ctx, c, &q, nil)
	if err != nil || w.End == nil {
		return 0, false, err
	}
	return *w.End, true, nil
}

// askInfo asks one server for its Info.
func (c *Client) askInfo(ctx context.Context, base string) (Info, error) {
	resp, err := c.doRequest(ctx, http.MethodGet, base, "/", nil, nil)
	if err != nil {
		return Info{}, err
	}
	return c.readInfo(&serverAnswer{resp, base})
}

// readInfo reads the Info in a response, and closes it.
func (c *Client) readInfo(resp *serverAnswer) (Info, error) {
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return Info{}, readStatus(resp.Response)
	}
	base := resp.base
	if err := c.checkIsRstream(base, resp.Header, wire.JSON); err != nil {
		return Info{}, err // before reading the body, which may never end
	}
	var info wire.Info
	_, err := readObject(base, "/", resp.Body, &info)
	if errors.As(err, new(*ProtocolError)) || err == nil && !event.ValidLogID(info.Log) {
		return Info{}, &ProtocolError{base, "sent an invalid description of itself"}
	}
	return infoOf(&info), err
}
