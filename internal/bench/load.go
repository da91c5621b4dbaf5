package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Load is a set of publishers. Each waits for the response to one request before it
// sends the next.
type Load struct {
	Publishers int
	// Body returns the path and body of request i.
	Body func(i int) (path string, body []byte)
	// Events is the number of events in a request. If zero, 1.
	Events int
	// Type is the content type of requests.
	Type string
}

// A Rate is the result of a load.
type Rate struct {
	Events  int
	Elapsed time.Duration
	Waits   []time.Duration // for each request, sorted
}

// PerSecond returns the events per second.
func (r Rate) PerSecond() float64 { return float64(r.Events) / r.Elapsed.Seconds() }

// Wait returns the quantile of the waits at part, from 0 to 1.
func (r Rate) Wait(part float64) time.Duration {
	if len(r.Waits) == 0 {
		return 0
	}
	return r.Waits[min(int(part*float64(len(r.Waits))), len(r.Waits)-1)]
}

// Add combines two rates of the same load.
func (r Rate) Add(other Rate) Rate {
	waits := slices.Concat(r.Waits, other.Waits)
	slices.Sort(waits)
	return Rate{r.Events + other.Events, r.Elapsed + other.Elapsed, waits}
}

// prepare returns l with the bodies of requests from to to-1 made beforehand.
func (l Load) prepare(from, to int) Load {
	paths, bodies := make([]string, to-from), make([][]byte, to-from)
	for i := range bodies {
		paths[i], bodies[i] = l.Body(from + i)
	}
	l.Body = func(i int) (string, []byte) { return paths[i-from], bodies[i-from] }
	return l
}

// Run posts to a server for the duration d, or until requests from to to-1 are done.
func (l *Load) Run(ctx context.Context, url string, d time.Duration, from, to int) (Rate, error) {
	ctx, cancel := context.WithTimeout(ctx, d+time.Minute)
	defer cancel()
	client := &http.Client{Transport: newTransport(ctx, l.Publishers)}
	defer client.CloseIdleConnections()
	r, err := runWorkers(l.Publishers, d, from, to, func(_, i int) error { return l.postEvents(ctx, client, url, i) })
	r.Events *= max(l.Events, 1)
	return r, err
}

// runWorkers calls do for i from from to to-1, in turns from several workers, for the duration d
// or until a call fails. In the Rate that it returns, each call counts as an event.
func runWorkers(workers int, d time.Duration, from, to int, do func(worker, i int) error) (Rate, error) {
	var next, done atomic.Int64
	next.Store(int64(from))
	waits := make([][]time.Duration, workers)
	errs := make([]error, workers)
	var crowd sync.WaitGroup
	start := time.Now()
	for w := range workers {
		crowd.Go(func() {
			for errs[w] == nil && time.Since(start) < d {
				i := int(next.Add(1)) - 1
				if i >= to {
					return
				}
				began := time.Now()
				if errs[w] = do(w, i); errs[w] == nil {
					waits[w] = append(waits[w], time.Since(began))
					done.Add(1)
				}
			}
		})
	}
	crowd.Wait()
	r := Rate{Events: int(done.Load()), Elapsed: time.Since(start), Waits: slices.Concat(waits...)}
	slices.Sort(r.Waits)
	return r, errors.Join(errs...)
}

func (l *Load) postEvents(ctx context.Context, client *http.Client, url string, i int) error {
	path, body := l.Body(i)
	req, err := newRequest(ctx, http.MethodPost, url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", l.Type)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("post %s: %s: %.200s", path, resp.Status, answer)
	}
	return err
}

// Replay reads a stream until n events have arrived, and returns how long that took and
// how many bytes it read.
func Replay(ctx context.Context, url string, n int) (elapsed time.Duration, size int64, err error) {
	client := &http.Client{Transport: newTransport(ctx, 0)}
	defer client.CloseIdleConnections()
	start := time.Now()
	body, err := requestStream(ctx, client, url)
	if err != nil {
		return 0, 0, err
	}
	defer body.Close()
	buf := make([]byte, 64<<10)
	data := lineCounter{prefix: "data:"}
	for data.n < n {
		k, err := body.Read(buf)
		data.countSeen(buf[:k])
		size += int64(k)
		if err != nil && data.n < n {
			return 0, 0, fmt.Errorf("get %s: after %d of %d events: %w", url, data.n, n, err)
		}
	}
	return time.Since(start), size, nil
}

// A lineCounter counts the lines that begin with prefix in a stream of chunks.
type lineCounter struct {
	prefix string
	n      int
	at     int  // how much of the prefix this line has matched
	past   bool // this line is decided: counted, or without the prefix
}

func (c *lineCounter) countSeen(b []byte) {
	for len(b) > 0 {
		if c.past {
			i := bytes.IndexByte(b, '\n')
			if i < 0 {
				return
			}
			b, c.past, c.at = b[i+1:], false, 0
			continue
		}
		switch {
		case b[0] == '\n':
			c.at = 0
		case b[0] != c.prefix[c.at]:
			c.past = true
		default:
			if c.at++; c.at == len(c.prefix) {
				c.n++
				c.past = true
			}
		}
		b = b[1:]
	}
}
