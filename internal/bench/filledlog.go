package bench

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
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
	firstPages  = 60
	comparedMax = 1_000_000 // the most events to compare
)

// A filledLog is a log in a file, written without a server.
type filledLog struct {
	file string
	in   Input
}

// openFilled returns a log with events. It writes the log on first use.
func (r *runner) openFilled(ctx context.Context) (l *filledLog, err error) {
	if r.log != nil {
		return r.log, nil
	}
	l = &filledLog{file: filepath.Join(r.dir, "filled.db"), in: newInput()}
	l.in.Storages = logStorages
	if err := r.fillFile(ctx, l.file, cache.Config{}, 0, r.cfg.Events, l.in.Draft); err != nil {
		return nil, err
	}
	r.log = l
	return l, nil
}

// fillFile appends drafts from to to-1 to the log in a file, which it creates if there is
// none, and seals the states, as a server does when it has time.
func (r *runner) fillFile(ctx context.Context, file string, cfg cache.Config, from, to int, draft func(i int) event.Draft) (err error) {
	cfg.Role = cache.Server
	db, err := cache.Open(ctx, file, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	const together = 5000
	for i := from; i < to; i += together {
		r.reportProgress("fill a log", float64(i-from)/float64(to-from))
		drafts := make([]event.Draft, min(together, to-i))
		for j := range drafts {
			drafts[j] = draft(i + j)
		}
		if _, err := db.Append(ctx, drafts); err != nil {
			return err
		}
	}
	r.reportProgress("seal states", 1)
	return db.Snapshots().SealStates(ctx, event.All)
}

const stateHelp = `Read the state of 10,000 storages at random moments. The limit reads the lines of the same
events, in the same order, from a bare table by id, a thousand at a time.`

// benchState measures the states of a held log at random moments.
func (r *runner) benchState(ctx context.Context) (err error) {
	l, err := r.openFilled(ctx)
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
	raw, err := r.rawCopy(ctx, db)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, raw.Close()) }()
	var whole, first, limit []time.Duration
	members := 0
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range momentCount {
		r.reportProgress("state", float64(i)/momentCount)
		at := 1 + event.ID(rng.Uint64N(uint64(db.Head())))
		best, read := stateTimes{whole: math.MaxInt64}, time.Duration(math.MaxInt64)
		for range roundCount { // other work on the machine can only add time
			s, err := readState(ctx, db, topic, at)
			if err != nil {
				return err
			}
			took, err := RandomReads(ctx, raw, s.ids)
			if err != nil {
				return err
			}
			if read = min(read, took); s.whole < best.whole {
				best = s
			}
		}
		if want := min(int(at), logStorages); len(best.ids) != want {
			return fmt.Errorf("the state at %s has %d members, not %d", at, len(best.ids), want)
		}
		whole, first, limit = append(whole, best.whole), append(first, best.first), append(limit, read)
		members = max(members, len(best.ids))
	}
	slices.Sort(whole)
	slices.Sort(limit)
	last, middle := len(whole)-1, len(whole)/2
	r.addCompared("state slowest", milliseconds(whole[last]), "ms", baseline{randomReads, milliseconds(limit[last])}, goalState)
	r.addCompared("state p50", milliseconds(whole[middle]), "ms", baseline{randomReads, milliseconds(limit[middle])}, goalState)
	r.addFigure("state first line", milliseconds(slices.Max(first)), "ms")
	r.addFigure("state members", float64(members), "storages")
	return nil
}

// rawCopy returns the events of a log as raw rows.
func (r *runner) rawCopy(ctx context.Context, db *cache.DB) (*sql.DB, error) {
	dir, err := os.MkdirTemp(r.dir, "raw-")
	if err != nil {
		return nil, err
	}
	raw, err := openRaw(ctx, dir)
	if err != nil {
		return nil, err
	}
	for at := event.Beginning; at < db.Head(); {
		r.reportProgress("copy raw rows", float64(at)/float64(db.Head()))
		evs, next, err := db.Read(ctx, []event.Topic{event.All}, at, db.Head(), batchSize)
		if err == nil {
			err = insertRaw(ctx, raw, evs)
		}
		if err != nil {
			return nil, errors.Join(err, raw.Close())
		}
		at = next
	}
	return raw, nil
}

type stateTimes struct {
	first, whole time.Duration
	ids          []event.ID // of the members
}

func readState(ctx context.Context, db *cache.DB, topic event.Topic, at event.ID) (s stateTimes, err error) {
	start := time.Now()
	err = db.State(ctx, topic, at, func(ev *event.Event) error {
		if s.ids = append(s.ids, ev.ID); len(s.ids) == 1 {
			s.first = time.Since(start)
		}
		return nil
	})
	s.whole = time.Since(start)
	return s, err
}

// benchOpen measures how a server opens an existing log.
func (r *runner) benchOpen(ctx context.Context) (err error) {
	l, err := r.openFilled(ctx)
	if err != nil {
		return err
	}
	r.reportProgress("open", 0)
	start := time.Now()
	p, err := r.startProcess(ctx, "bench", "server", "--db", l.file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	r.addFigure("open", milliseconds(time.Since(start)), "ms")
	var pages []time.Duration
	for i := range firstPages {
		r.reportProgress("open", float64(i)/firstPages)
		topic := l.in.User + "/" + l.in.Draft(i*7919%r.cfg.Events).Path + "$"
		start := time.Now()
		if err := getPage(ctx, p.url+"/events?limit=100&topic="+url.QueryEscape(topic)); err != nil {
			return err
		}
		pages = append(pages, time.Since(start))
	}
	r.addFigure("open first page of a storage", milliseconds(pages[0]), "ms")
	r.addFigure("open slowest page of a storage", milliseconds(slices.Max(pages)), "ms")
	now, err := p.residentNow()
	if err != nil || now == 0 { // the system does not tell
		return err
	}
	r.atMost("open server memory", p.memory(), "MiB", goalOpenMemory)
	r.addFigure("open server memory after a collection", now, "MiB")
	r.addFigure("open events", float64(r.cfg.Events), "events")
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

// benchReconcile measures a reconciliation over HTTP that finds the missing events of a log,
// one in a hundred at random.
func (r *runner) benchReconcile(ctx context.Context) (err error) {
	l, err := r.openFilled(ctx)
	if err != nil {
		return err
	}
	all, err := l.readItems(ctx)
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
	for i, gone := range scatterMarks(len(all), missing) {
		if !gone {
			held, hashes = append(held, all[i]), append(hashes, all[i].Hash)
		}
	}
	bound := leastBytes(len(all), missing)
	for _, c := range []struct {
		name string
		set  reconcile.Set
		goal goal
	}{{"reconcile", reconcile.FromItems(span, held), goalGaps}, {"reconcile hashes", reconcile.FromHashes(span, hashes), goalSketch}} {
		r.reportProgress(c.name, 0.5)
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
		r.addCompared(c.name, float64(up+down-listed), "bytes", baseline{"fewest bytes", bound}, c.goal)
		r.addFigure(c.name+" naming the missing", float64(listed), "bytes")
		r.addFigure(c.name+" rounds", float64(len(res.Rounds)), "rounds")
		r.addFigure(c.name+" time", milliseconds(took), "ms")
	}
	r.addFigure("reconcile missing", float64(missing), "events")
	return nil
}

// readItems returns the items of the log to compare.
func (l *filledLog) readItems(ctx context.Context) (items []reconcile.Item, err error) {
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

// scatterMarks marks k of n items, the same ones each time.
func scatterMarks(n, k int) []bool {
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
