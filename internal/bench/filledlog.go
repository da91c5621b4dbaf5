package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

const (
	logStorages = 10_000 // in the log that is written without a server
	momentCount = 30
	comparedMax = 1_000_000 // the most events to compare
)

// A filledLog is a log in a file, written without a server.
type filledLog struct {
	file string
	in   Input
}

// filled returns a log with events. It writes the log on first use.
func (r *runner) filled(ctx context.Context) (l *filledLog, err error) {
	if r.log != nil {
		return r.log, nil
	}
	l = &filledLog{file: filepath.Join(r.dir, "filled.db"), in: newInput()}
	l.in.Storages = logStorages
	db, err := cache.Open(ctx, l.file, cache.Config{Role: cache.Server})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	const together = 5000
	for i := 0; i < r.cfg.Events; i += together {
		r.progress("fill a log", float64(i)/float64(r.cfg.Events))
		drafts := make([]event.Draft, min(together, r.cfg.Events-i))
		for j := range drafts {
			drafts[j] = l.in.Draft(i + j)
		}
		if _, err := db.Append(ctx, drafts); err != nil {
			return nil, err
		}
	}
	r.progress("seal states", 1)
	if err := db.Snapshots().SealStates(ctx, event.All); err != nil {
		return nil, err
	}
	r.log = l
	return l, nil
}

// state measures the states of a held log at random moments.
func (r *runner) state(ctx context.Context) (err error) {
	l, err := r.filled(ctx)
	if err != nil {
		return err
	}
	db, err := cache.Open(ctx, l.file, cache.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	topic, err := event.ParseTopic(l.in.User)
	if err != nil {
		return err
	}
	var whole, first []time.Duration
	members := 0
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range momentCount {
		r.progress("state", float64(i)/momentCount)
		at := 1 + event.ID(rng.Uint64N(uint64(db.Head())))
		best := stateTimes{whole: math.MaxInt64}
		for range roundCount {
			s, err := readState(ctx, db, topic, at)
			if err != nil {
				return err
			}
			if s.whole < best.whole { // other work on the machine can only add time
				best = s
			}
		}
		if want := min(int(at), logStorages); best.members != want {
			return fmt.Errorf("the state at %s has %d members, not %d", at, best.members, want)
		}
		whole, first, members = append(whole, best.whole), append(first, best.first), max(members, best.members)
	}
	slices.Sort(whole)
	r.atMost("state slowest", milliseconds(whole[len(whole)-1]), "ms", goalState)
	r.say("state p50", milliseconds(whole[len(whole)/2]), "ms")
	r.say("state first line", milliseconds(slices.Max(first)), "ms")
	r.say("state members", float64(members), "storages")
	return nil
}

type stateTimes struct {
	first, whole time.Duration
	members      int
}

func readState(ctx context.Context, db *cache.DB, topic event.Topic, at event.ID) (s stateTimes, err error) {
	start := time.Now()
	err = db.State(ctx, topic, at, func(*event.Event) error {
		if s.members++; s.members == 1 {
			s.first = time.Since(start)
		}
		return nil
	})
	s.whole = time.Since(start)
	return s, err
}

// open measures how a server opens an existing log.
func (r *runner) open(ctx context.Context) (err error) {
	l, err := r.filled(ctx)
	if err != nil {
		return err
	}
	r.progress("open", 0)
	start := time.Now()
	p, err := r.startProcess(ctx, "bench", "server", "--db", l.file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	r.say("open", milliseconds(time.Since(start)), "ms")
	var pages []time.Duration
	for i := range momentCount {
		r.progress("open", float64(i)/momentCount)
		topic := l.in.User + "/" + l.in.Draft(i*7919%r.cfg.Events).Path + "$"
		start := time.Now()
		if err := getPage(ctx, p.url+"/events?limit=100&topic="+url.QueryEscape(topic)); err != nil {
			return err
		}
		pages = append(pages, time.Since(start))
	}
	r.say("open first page of a storage", milliseconds(pages[0]), "ms")
	r.say("open slowest page of a storage", milliseconds(slices.Max(pages)), "ms")
	now, err := p.residentNow()
	if err != nil || now == 0 { // the system does not tell
		return err
	}
	r.atMost("open server memory", p.memory(), "MiB", goalOpenMemory)
	r.say("open server memory after a collection", now, "MiB")
	r.say("open events", float64(r.cfg.Events), "events")
	return nil
}

// getPage reads a page, which must not be empty.
func getPage(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", wire.NDJSON)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || len(b) == 0) {
		err = fmt.Errorf("get %s: %s, %d bytes", url, resp.Status, len(b))
	}
	return err
}

// reconcile measures a reconciliation over HTTP that finds the missing events of a log,
// one in a hundred at random.
func (r *runner) reconcile(ctx context.Context) (err error) {
	l, err := r.filled(ctx)
	if err != nil {
		return err
	}
	all, err := l.items(ctx)
	if err != nil {
		return err
	}
	p, err := r.startProcess(ctx, "bench", "server", "--db", l.file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	span := window.Span{To: all[len(all)-1].ID}
	missing := max(len(all)/100, 1)
	var held []reconcile.Item
	var hashes []event.Hash
	for i, gone := range scattered(len(all), missing) {
		if !gone {
			held, hashes = append(held, all[i]), append(hashes, all[i].Hash)
		}
	}
	bound := leastBytes(len(all), missing)
	for _, c := range []struct {
		name string
		set  reconcile.Set
		goal float64
	}{{"reconcile", reconcile.FromItems(span, held), goalGaps}, {"reconcile hashes", reconcile.FromHashes(span, hashes), goalSketch}} {
		r.progress(c.name, 0.5)
		start := time.Now()
		res, err := reconcile.Negotiate(ctx, c.set, bloomURL(p.url+"/bloom?topic=*"), reconcile.Config{})
		took := time.Since(start)
		if err == nil && (len(res.Missing) != missing || len(res.Pull) > 0 || !res.Proven) {
			err = fmt.Errorf("%s: %d of %d missing events were found", c.name, len(res.Missing), missing)
		}
		if err != nil {
			return err
		}
		up, down, listed := res.Bytes()
		r.compare(c.name, float64(up+down-listed), bound, "bytes", c.goal)
		r.say(c.name+" naming the missing", float64(listed), "bytes")
		r.say(c.name+" rounds", float64(len(res.Rounds)), "rounds")
		r.say(c.name+" time", milliseconds(took), "ms")
	}
	r.say("reconcile missing", float64(missing), "events")
	return nil
}

// items returns the items of the log to compare.
func (l *filledLog) items(ctx context.Context) (items []reconcile.Item, err error) {
	db, err := cache.Open(ctx, l.file, cache.Config{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	err = db.Each(ctx, []event.Topic{event.All}, window.Span{To: min(db.Head(), comparedMax)}, func(ev *event.Event) error {
		items = append(items, reconcile.Item{ID: ev.ID, Time: ev.Time, Hash: ev.Hash})
		return nil
	})
	return items, err
}

// scattered marks k of n items, the same ones each time.
func scattered(n, k int) []bool {
	marks := make([]bool, n)
	for _, i := range rand.New(rand.NewPCG(2, 2)).Perm(n)[:k] {
		marks[i] = true
	}
	return marks
}

// leastBytes is the information-theoretic minimum to identify k of n to a peer that
// knows all n.
func leastBytes(n, k int) float64 {
	choose := func(n int) float64 { v, _ := math.Lgamma(float64(n) + 1); return v }
	return (choose(n) - choose(k) - choose(n-k)) / math.Ln2 / 8
}

// A bloomURL is the URL of a server that answers reconcile's requests.
type bloomURL string

// Ask sends a request; see reconcile.Negotiate.
func (p bloomURL) Ask(ctx context.Context, request []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, string(p), bytes.NewReader(request))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", wire.Frames)
	req.Header.Set("Accept", wire.Frames)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusRequestEntityTooLarge {
		return nil, &reconcile.FrameError{TooLarge: true, Detail: resp.Status}
	}
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("post %s: %s: %.200s", string(p), resp.Status, b)
	}
	return b, err
}
