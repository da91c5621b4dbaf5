package natslog

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
)

// Appends through a node, which also has them in its file when they are answered, compared to
// the same lines in bare atomic batches of a thousand messages, to the same pages in bare
// batches, and to one message for each event from 64 publishers. The server syncs before it
// acknowledges, to a disk.
func TestSpeed(t *testing.T) {
	longtest.Require(t)
	dir, err := os.MkdirTemp("/var/tmp", "natslog") // TMPDIR may be in memory
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	s := newServer(t, func(o *server.Options) { o.StoreDir, o.SyncAlways = dir, true })
	url := s.ClientURL()
	const writers, batches, size = 8, 12, 1000
	n := &node{t: t, cfg: newConfig(t, url, "a"), path: filepath.Join(dir, "log.db")}
	n.start()
	defer func() { n.stop() }()
	n.mustAppend(draft("p", "first"))
	value := []byte(`"` + strings.Repeat("v", 60) + `"`)
	list := func(name string) (ds []event.Draft) {
		for i := range size {
			ds = append(ds, event.Draft{User: "alice", Path: fmt.Sprintf("p%d", i%50), Type: event.Put, Key: fmt.Sprintf("%s-%d", name, i), Value: value})
		}
		return ds
	}
	js := n.log.js
	bare := func(name string) string {
		cfg := jetstream.StreamConfig{Name: t.Name() + name, Subjects: []string{t.Name() + name}, Storage: jetstream.FileStorage, AllowAtomicPublish: true, DenyDelete: true}
		if _, err := js.CreateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		return cfg.Name
	}
	one, many, pages := bare("one"), bare("many"), bare("pages")
	rates := map[string][]float64{}
	packed, lines := 0, 0 // bytes
	note := func(name string, events int, began time.Time) {
		rates[name] = append(rates[name], float64(events)/time.Since(began).Seconds())
	}
	for round := range 3 {
		first := n.db.Head()
		var lists [writers][batches][]event.Draft
		for w := range writers {
			for i := range batches {
				lists[w][i] = list(fmt.Sprint(round, "-", w, "-", i))
			}
		}
		began := time.Now()
		var appending sync.WaitGroup
		for w := range writers {
			appending.Go(func() {
				for i := range batches {
					if _, err := n.append(lists[w][i]...); err != nil {
						t.Error(err)
					}
				}
			})
		}
		appending.Wait()
		note("rstream", writers*batches*size, began)

		var evs []event.Event
		for at, head := first, n.db.Head(); at < head; {
			some, next, err := n.db.Read(t.Context(), []event.Topic{event.All}, at, head, size)
			if err != nil {
				t.Fatal(err)
			}
			evs, at = append(evs, some...), next
		}
		if len(evs) != writers*batches*size {
			t.Fatalf("%d events were appended", len(evs))
		}
		began = time.Now()
		for some := evs; len(some) > 0; some = some[size:] {
			publishBare(t, js, many, some[:size])
		}
		note("batches of messages", len(evs), began)

		messages, err := paginate(pages, n.db.Log(), event.Point{ID: first}, evs, pageBytes, pageBytes)
		if err != nil {
			t.Fatal(err)
		}
		var all []*nats.Msg
		for i := range messages {
			all = append(all, messages[i].encode())
			packed += len(messages[i].payload)
			lines += messages[i].size
		}
		began = time.Now()
		for len(all) > 0 {
			msgs := all[:min(8, len(all))]
			all = all[len(msgs):]
			if _, err := jetstreamext.PublishMsgBatch(t.Context(), js, msgs, jetstreamext.BatchFlowControl{}); err != nil {
				t.Fatal(err)
			}
		}
		note("batches of pages", len(evs), began)

		began = time.Now()
		const alone = 2000
		for p := range 64 {
			appending.Go(func() {
				for i := p; i < alone; i += 64 {
					if _, err := js.Publish(t.Context(), one, evs[i].Line()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		appending.Wait()
		note("one message an event", alone, began)
	}
	best := func(name string) (most float64) {
		for _, r := range rates[name] {
			most = max(most, r)
		}
		return most
	}
	for name, r := range rates {
		t.Logf("%-22s %8.0f events/s at best of %.0f", name, best(name), r)
	}
	t.Logf("%.2f of bare batches of pages; a page is compressed to %.2f of its lines", best("rstream")/best("batches of pages"), float64(packed)/float64(lines))
	t.Logf("%+v", n.log.Status().Counters)
	if have := best("rstream") / best("batches of messages"); have < 0.7 {
		t.Errorf("%.2f of the speed of bare batches", have)
	}
	if have := best("rstream") / best("one message an event"); have < 5 {
		t.Errorf("%.1f times the speed of one message an event", have)
	}
}

// publishBare publishes each event as a message, all in one batch.
func publishBare(t *testing.T, js jetstream.JetStream, subject string, evs []event.Event) {
	t.Helper()
	var msgs []*nats.Msg
	for i := range evs {
		msg := nats.NewMsg(subject)
		msg.Data = evs[i].Line()
		msgs = append(msgs, msg)
	}
	if _, err := jetstreamext.PublishMsgBatch(t.Context(), js, msgs, jetstreamext.BatchFlowControl{}); err != nil {
		t.Fatal(err)
	}
}
