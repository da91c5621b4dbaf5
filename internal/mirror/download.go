package mirror

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/tempfile"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A downloaded is a state that was received as a whole, in a temporary file. The system removes the
// file once it is closed, even if the mirror is killed.
type downloaded struct{ file *os.File }

// download writes a state to a file in a folder. Its caller must close it.
func download(dir string, state iter.Seq2[event.Event, error]) (*downloaded, error) {
	f, err := tempfile.Create(dir, "rstream-state-")
	if err != nil {
		return nil, &StoreError{fmt.Errorf("download the state at the horizon: %w", err)}
	}
	d := &downloaded{f}
	w := bufio.NewWriterSize(f, 256<<10)
	for ev, err := range state {
		if err != nil {
			d.close()
			return nil, err
		}
		_, err = w.Write(ev.Line())
		if err = errors.Join(err, w.WriteByte('\n')); err != nil {
			break // Flush returns it, too
		}
	}
	if err := w.Flush(); err != nil {
		d.close()
		return nil, &StoreError{fmt.Errorf("download the state at the horizon: %w", err)}
	}
	return d, nil
}

// events yields the events. They were checked when they came.
func (d *downloaded) events(yield func(event.Event, error) bool) {
	if _, err := d.file.Seek(0, io.SeekStart); err != nil {
		yield(event.Event{}, err)
		return
	}
	for lines := wire.NewLineReader(d.file, wire.MaxLine); ; {
		line, err := lines.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		var ev event.Event
		if err == nil {
			ev, err = event.ParseLine(line)
		}
		if !yield(ev, err) || err != nil {
			return
		}
	}
}

func (d *downloaded) close() { d.file.Close() }
