package source

import (
	"context"
	"errors"
	"io"

	"github.com/rstream-dev/rstream/event"
)

// A Trial is a frame that Try has read, and what would be stored of it.
type Trial struct {
	Frame
	Draft event.Draft
	Taken bool  // Draft would be appended
	Err   error // why the event cannot be mapped
}

// Try calls fn with the first frames of a source, at most n of them, and stores nothing.
// It returns nil if the server ends the stream before, and the cause for which ctx has ended.
func Try(ctx context.Context, cfg Config, m *Mapper, n int, fn func(Trial) error) error {
	conn, err := cfg.connect(ctx, "", false)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	defer conn.close()
	for range n {
		f, err := conn.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return cfg.nameReadError(err)
		}
		t := Trial{Frame: f}
		switch {
		case f.upstream != nil:
			t.Draft, t.Taken = f.upstream.Draft, !isUpstreamsOwn(f.upstream)
		case f.Event:
			if t.Draft, t.Taken, t.Err = m.Map(ctx, &f, 0); t.Err != nil && ctx.Err() != nil {
				return context.Cause(ctx) // an expression was cut off
			}
		}
		if err := fn(t); err != nil {
			return err
		}
	}
	return nil
}
