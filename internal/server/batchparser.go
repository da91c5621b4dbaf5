package server

import (
	"runtime"
	"sync"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// chunkLines is how many lines of a batch are parsed at a time.
const chunkLines = 256

// parsers has a token for each goroutine that parses lines of a batch, for all requests together:
// one less than there are processors, since each request parses, too.
var parsers = make(chan struct{}, max(runtime.GOMAXPROCS(0)-1, 0))

// A batchParser parses the lines of a batch in chunks. If another processor is free it parses one
// while the next is read: a publisher that waits for the answer to each batch keeps none busy.
type batchParser struct {
	chunks  []*batchChunk
	parsing sync.WaitGroup
}

type batchChunk struct {
	lines  []numberedLine
	drafts []event.Draft
	bad    badLines
}

type numberedLine struct {
	number int
	text   []byte
}

// addLine adds a line, which the caller must not change afterwards.
func (p *batchParser) addLine(number int, text []byte) {
	n := len(p.chunks)
	if n == 0 || len(p.chunks[n-1].lines) == chunkLines {
		p.parseLast()
		p.chunks = append(p.chunks, &batchChunk{})
		n++
	}
	c := p.chunks[n-1]
	c.lines = append(c.lines, numberedLine{number, text})
}

// parseLast begins to parse the last chunk, or parses it if no other processor is free.
func (p *batchParser) parseLast() {
	if len(p.chunks) == 0 {
		return
	}
	c := p.chunks[len(p.chunks)-1]
	select {
	case parsers <- struct{}{}:
		p.parsing.Go(func() {
			c.parseLines()
			<-parsers
		})
	default:
		c.parseLines()
	}
}

// result parses the rest of the lines, and returns the drafts or why some lines are none.
func (p *batchParser) result() ([]event.Draft, *wire.Error) {
	if n := len(p.chunks); n > 0 {
		p.chunks[n-1].parseLines()
	}
	p.parsing.Wait()
	n := 0
	for _, c := range p.chunks {
		n += len(c.drafts)
	}
	var bad badLines
	drafts := make([]event.Draft, 0, n)
	for _, c := range p.chunks {
		drafts = append(drafts, c.drafts...)
		bad.append(&c.bad)
	}
	return drafts, bad.problem()
}

func (c *batchChunk) parseLines() {
	c.drafts = make([]event.Draft, 0, len(c.lines))
	for _, line := range c.lines {
		d, err := parseAppend(line.text)
		if err != nil {
			c.bad.addBad(line.number, err)
			continue
		}
		c.drafts = append(c.drafts, d)
	}
	c.lines = nil
}
