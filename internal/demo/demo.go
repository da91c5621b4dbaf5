// Package demo shows what rstream does. It runs a server, a client and a connection
// between them that is cut again and again, with a real week of earthquakes. Tests use
// its Quakes and its proxy, too.
package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/server"
	"github.com/rstream-dev/rstream/window"
)

// A demo has a server, the flaky connection to it, and the copy.
type demo struct {
	report func(Step) error
	log    *cache.DB
	copy   *cache.DB
	http   *http.Server
	srv    *server.Server
	proxy  *FlakyProxy
	client *client.Client
	quakes []event.Draft
}

// A Step is a command as a person would type it, and its result.
type Step struct{ Command, Text string }

// Run runs the demo in a temporary folder, which it removes, and reports each step when
// it is done.
func Run(ctx context.Context, report func(Step) error) (err error) {
	dir, err := os.MkdirTemp("", "rstream-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d := demo{report: report}
	defer func() { err = errors.Join(err, d.closeAll()) }()
	for _, step := range []func(context.Context, string) error{d.startServer, d.appendQuakes, d.syncTwice, d.tailThroughCuts, d.readOffline} {
		if err := step(ctx, dir); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) printStep(command, format string, args ...any) error {
	return d.report(Step{command, fmt.Sprintf(format, args...)})
}

// shutdownTime is how long requests may continue after the server is stopped.
const shutdownTime = 10 * time.Second

// startServer starts a server on a free port, and a proxy in front of it.
func (d *demo) startServer(ctx context.Context, dir string) (err error) {
	if d.log, err = cache.Open(ctx, filepath.Join(dir, "rstream.db"), cache.Config{Role: cache.Server}); err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	d.srv = server.New(d.log, server.Config{Loopback: true, Retry: 20 * time.Millisecond})
	d.http = &http.Server{Handler: d.srv, ReadHeaderTimeout: time.Second}
	go d.http.Serve(l) // ends with d.close
	if d.proxy, err = NewFlakyProxy(ctx, l.Addr().String()); err != nil {
		return err
	}
	if d.copy, err = cache.Open(ctx, filepath.Join(dir, "copy.db"), cache.Config{Role: cache.Client, Log: d.log.Log()}); err != nil {
		return err
	}
	d.client, err = client.New(d.copy, client.Config{
		Servers: []string{"http://" + d.proxy.Addr()}, RetryMin: 20 * time.Millisecond, PageLimit: 200})
	if err != nil {
		return err
	}
	return d.printStep("rstream serve", "a server on http://%s\nits log %s in one SQLite file", l.Addr(), d.log.Log())
}

// appendQuakes appends the first part of the earthquakes. The rest follows during tail.
func (d *demo) appendQuakes(ctx context.Context, _ string) error {
	lines, err := Quakes()
	if err != nil {
		return err
	}
	for line := range bytes.Lines(lines) {
		q, err := event.ParseDraft(line)
		if err != nil {
			return err
		}
		d.quakes = append(d.quakes, q)
	}
	began := time.Now()
	first := len(d.quakes) * 3 / 4
	if _, err := d.client.Put(ctx, d.quakes[:first]); err != nil {
		return err
	}
	return d.printStep("rstream put --from quakes.jsonl", "%d of the %d earthquakes of a week in 2013\nappended and synced to disk in %s", first, len(d.quakes), roundedSince(began))
}

func roundedSince(t time.Time) time.Duration { return time.Since(t).Round(100 * time.Microsecond) }

// syncTwice fetches one network twice.
func (d *demo) syncTwice(ctx context.Context, _ string) error {
	topic, err := event.ParseTopic("*/quakes")
	if err != nil {
		return err
	}
	half := event.At(event.CursorOf(event.ID(len(d.quakes)/2), d.log.Log()))
	var text []string
	for range 2 {
		before, began := d.client.Stats(), time.Now()
		if _, err := d.client.Sync(ctx, topic, client.SyncOptions{Range: client.Range{Until: &half}}); err != nil {
			return err
		}
		got := d.client.Stats()
		text = append(text, fmt.Sprintf("%d events fetched in %s (%.1f kB)", got.Events-before.Events, roundedSince(began), float64(got.Bytes-before.Bytes)/1e3))
	}
	return d.printStep("rstream sync '*/quakes' --until "+half.String()+"; again",
		"the older half into a local file: %s\nthe same again: %s", text[0], text[1])
}

// tailThroughCuts reads everything from the beginning while the connection is cut every
// few events and the rest is appended.
func (d *demo) tailThroughCuts(ctx context.Context, _ string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var rest sync.WaitGroup
	var putErr error
	rest.Go(func() {
		for _, q := range d.quakes[len(d.quakes)*3/4:] {
			if _, putErr = d.log.Append(ctx, []event.Draft{q}); putErr != nil {
				cancel()
				return
			}
		}
	})
	defer rest.Wait()
	before := d.client.Stats()
	d.proxy.CutAfter(16 << 10)
	defer d.proxy.CutAfter(0)
	n, ordered := 0, true
	topic, err := event.ParseTopic("*/quakes")
	if err != nil {
		return err
	}
	var last event.ID
	for ev, err := range d.client.Tail(ctx, topic, client.TailOptions{}) {
		if err != nil {
			return errors.Join(putErr, err)
		}
		ordered = ordered && ev.ID > last && ev.Hash == d.quakes[n].Hash()
		last = ev.ID
		if n++; n == len(d.quakes) {
			break
		}
	}
	if !ordered {
		return errors.New("the tail received other events than were appended")
	}
	got := d.client.Stats()
	return d.printStep("rstream tail '*/quakes' --since beginning",
		"%d events, each once and in order, over a connection that was cut %d times\n%s of them came over the wire; the rest was held already",
		n, d.proxy.Cuts(), fmt.Sprint(got.Events-before.Events))
}

// readOffline reads the copy after the server has stopped.
func (d *demo) readOffline(ctx context.Context, _ string) error {
	if err := d.stopServer(); err != nil {
		return err
	}
	topic, err := event.ParseTopic("*/quakes")
	if err != nil {
		return err
	}
	held, err := d.copy.Held(ctx, topic)
	if err != nil || len(held) == 0 {
		return errors.Join(err, errors.New("the copy holds nothing"))
	}
	strongest, mag, err := strongestQuake(ctx, d.copy, topic, held[0])
	if err != nil {
		return err
	}
	return d.printStep("rstream log '*/quakes' | jq …   (the server is gone)",
		"the strongest earthquake of the week, read from the local file:\nmagnitude %s, %s", mag, strongest)
}

func strongestQuake(ctx context.Context, db *cache.DB, topic event.Topic, span window.Span) (place, mag string, err error) {
	most := 0.0
	err = db.Each(ctx, []event.Topic{topic}, span, func(ev *event.Event) error {
		var q struct {
			Mag   float64
			Place string
		}
		if err := json.Unmarshal(ev.Value, &q); err != nil {
			return err
		}
		if q.Mag > most {
			most, place = q.Mag, q.Place
		}
		return nil
	})
	return place, fmt.Sprint(most), err
}

// stopServer stops the server. It may be called twice.
func (d *demo) stopServer() error {
	if d.http == nil {
		return nil
	}
	d.srv.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTime)
	defer cancel()
	err := d.http.Shutdown(ctx)
	d.http = nil
	return err
}

func (d *demo) closeAll() error {
	if d.client != nil {
		d.client.Close()
	}
	if d.proxy != nil {
		d.proxy.Close()
	}
	errs := []error{d.stopServer()}
	for _, db := range []*cache.DB{d.copy, d.log} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}
