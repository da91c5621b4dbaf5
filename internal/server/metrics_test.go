package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// scraped returns the lines of GET /metrics when all that was sent has been counted: a reader
// may have its bytes before the server counts them.
func (s *served) scraped(t *testing.T) []string {
	t.Helper()
	synctest.Wait()
	return strings.Split(body(t, s.get("/metrics")), "\n")
}

// wantMetric checks that the metrics contain these lines.
func (s *served) wantMetric(t *testing.T, want ...string) {
	t.Helper()
	got := s.scraped(t)
	for _, line := range want {
		if !slices.Contains(got, line) {
			name, _, _ := strings.Cut(line, "{")
			name, _, _ = strings.Cut(name, " ")
			near := slices.DeleteFunc(slices.Clone(got), func(s string) bool { return !strings.HasPrefix(s, name) })
			t.Errorf("no metric %s among\n%s", line, strings.Join(near, "\n"))
		}
	}
}

const metricsFile = "testdata/metrics.txt"

// The names of metrics never change: testdata/metrics.txt has each with its help.
func TestMetricNames(t *testing.T) {
	s := New(newLog(), Config{Sizes: func() (int64, int64) { return 1, 2 }, Clock: func() (time.Duration, int64) { return 0, 0 }, Damaged: func() int { return 0 },
		Boards: func() []BoardLink { return []BoardLink{{URL: "https://board.example"}} }, Mirror: &standInMirror{}, Cluster: func() wire.Cluster { return wire.Cluster{Committer: true, Sequence: 7, Last: 9} }})
	s.metrics.touch()
	families, err := s.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "rstream_") {
			got.WriteString(f.GetName() + " " + strings.ToLower(f.GetType().String()) + ": " + f.GetHelp() + "\n")
		}
	}
	if *update {
		if err := os.WriteFile(metricsFile, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(metricsFile)
	if err != nil || string(want) != got.String() {
		t.Errorf("the metrics are not those of %s (%v):\n%s", metricsFile, err, got.String())
	}
	operations, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(want)) {
		if name, _, _ := strings.Cut(line, " "); !strings.Contains(string(operations), "`"+name) {
			t.Errorf("docs/operations.md does not tell of %s", name)
		}
	}
	problems, err := testutil.GatherAndLint(s.metrics.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// touch makes every metric with labels appear.
func (m *metrics) touch() {
	m.noteAppend(context.Background(), nil, nil, 0)
	m.streamsEnded.WithLabelValues(endDone)
	m.rounds.WithLabelValues("sketch")
	m.requests.WithLabelValues("/", "GET", "200")
	m.durations.WithLabelValues("/", "GET")
	m.problems.WithLabelValues("gone")
}

// The metrics count what happens.
func TestMetrics(t *testing.T) {
	bubble(t, Config{Queue: 1, Version: "v1", Sizes: func() (int64, int64) { return 4096, 32 },
		Clock: func() (time.Duration, int64) { return 1500 * time.Millisecond, 7 }, Damaged: func() int { return 3 }}, func(t *testing.T, s *served, log *memLog) {
		log.put(t, "a", "p", 9)
		s.raw("POST /set/a/p HTTP/1.1\nHost: localhost\nContent-Length: 20\n\n{\"value\":1,\"key\":\"\"}")
		s.raw("POST /set/a/p HTTP/1.1\nHost: localhost\nContent-Length: 20\n\n{\"value\":1,\"key\":\"\"}")
		s.raw("POST /set/a HTTP/1.1\nHost: localhost\nContent-Length: 20\n\n{\"value\":1,\"key\":\"\"}")
		body(t, s.get("/events?topic=a&limit=2"))
		lines := body(t, s.get("/events?topic=a", "Accept", wire.NDJSON, "Accept-Encoding", "gzip"))
		body(t, s.get("/events?topic=a&since=0000000000020"))
		done := body(t, s.get("/events?topic=a&until=0000000000003", "Accept", wire.SSE))
		s.raw("BREW /pot HTTP/1.1\nHost: localhost\n\n")
		fs, open := s.stream("/events?topic=a&since=now")
		defer open.Close()
		fs.want(t, "live", 10)
		s.wantMetric(t,
			`rstream_append_requests_total{outcome="done"} 2`,
			`rstream_append_events_total{result="new"} 1`,
			`rstream_append_events_total{result="known"} 1`,
			`rstream_append_duration_seconds_count 2`,
			`rstream_delivered_events_total{encoding="identity",form="page"} 2`,
			`rstream_delivered_events_total{encoding="gzip",form="lines"} 10`,
			metricLine(`rstream_delivered_bytes_total{encoding="gzip",form="lines"}`, len(lines)),
			`rstream_delivered_events_total{encoding="identity",form="stream"} 3`,
			metricLine(`rstream_delivered_bytes_total{encoding="identity",form="stream"}`, len(done)+len("retry: 1000\n: rstream\n\n")+len("id: 000000000000A.K7Q2M.012345\nevent: live\ndata: {\"type\":\"live\",\"head\":\"000000000000A.K7Q2M.012345\"}\n\n")),
			`rstream_streams_ended_total{reason="done"} 1`,
			`rstream_readers 1`,
			`rstream_readers_behind 0`,
			`rstream_readers_max_lag_events 0`,
			`rstream_queue_overflows_total 0`,
			`rstream_log_head_position 10`,
			`rstream_log_horizon_position 0`,
			`rstream_log_sealed_blocks 0`,
			`rstream_log_file_bytes 4096`,
			`rstream_log_wal_bytes 32`,
			`rstream_log_clock_ahead_seconds 1.5`,
			`rstream_clock_jumps_total 7`,
			`rstream_log_damaged_pages 3`,
			`rstream_problems_total{kind="conflict"} 1`,
			`rstream_cursors_refused_total{reason="ahead"} 1`,
			`rstream_problems_total{kind="not found"} 1`,
			`rstream_problems_total{kind="bad request"} 1`,
			`rstream_http_requests_total{code="200",method="GET",route="/events"} 3`,
			`rstream_http_requests_total{code="201",method="POST",route="/set/"} 1`,
			`rstream_http_requests_total{code="404",method="other",route="other"} 1`,
			`rstream_http_request_duration_seconds_count{method="GET",route="/events"} 3`,
		)
		// One that takes nothing is sent to the log, is behind, and is cut.
		stalled := s.stall("/events?topic=a&since=now", wire.SSE)
		defer stalled.Close()
		readTo(t, stalled, ": rstream\n\n\r\n")
		synctest.Wait()
		log.put(t, "a", "p", 9)
		for id := event.ID(11); id <= 19; id++ {
			fs.want(t, "PUT", id)
		}
		s.wantMetric(t, `rstream_readers 2`, `rstream_readers_behind 1`, `rstream_readers_max_lag_events 9`)
		if slices.Contains(s.scraped(t), "rstream_queue_overflows_total 0") {
			t.Error("no queue has overflowed")
		}
		for at := time.Now(); time.Since(at) < 30*time.Second; {
			fs.want(t, "", 19)
		}
		synctest.Wait()
		s.wantMetric(t, `rstream_readers 1`, `rstream_readers_behind 0`, `rstream_streams_ended_total{reason="stalled"} 1`)
	})
}

func metricLine(name string, v int) string { return fmt.Sprintf("%s %d", name, v) }

// Rounds of comparisons are counted by strategy.
func TestMetricsOfRounds(t *testing.T) {
	log := newLog()
	log.put(t, "a", "p", 200)
	srv, url := socket(t, log)
	items, _ := half(log)
	_, err := reconcile.Negotiate(t.Context(), reconcile.FromItems(window.Span{To: event.MaxID}, items),
		framePeer{url + "/bloom?topic=a"}, reconcile.Config{Strategy: reconcile.Gaps})
	if err != nil {
		t.Fatal(err)
	}
	if n := testutil.ToFloat64(srv.metrics.rounds.WithLabelValues("gaps")); n != 1 {
		t.Errorf("%g rounds", n)
	}
}

// TestPackagedMetrics: the alerts and the dashboard ask for metrics that the server has.
func TestPackagedMetrics(t *testing.T) {
	s := New(newLog(), Config{Sizes: func() (int64, int64) { return 1, 2 }, Clock: func() (time.Duration, int64) { return 0, 0 }, Damaged: func() int { return 0 },
		Boards: func() []BoardLink { return []BoardLink{{URL: "https://board.example"}} }, Mirror: &standInMirror{}, Cluster: func() wire.Cluster { return wire.Cluster{Committer: true, Sequence: 7, Last: 9} }})
	s.metrics.touch()
	families, err := s.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	have := map[string][]string{} // the labels of each metric
	for _, f := range families {
		labels := []string{"instance", "job"} // those of Prometheus
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName())
			}
		}
		have[f.GetName()] = labels
		if f.GetType().String() == "HISTOGRAM" {
			have[f.GetName()+"_bucket"] = append(labels, "le")
		}
	}
	for _, name := range []string{"rules.yml", "rules_test.yml", "dashboard.json"} {
		b, err := os.ReadFile("../../packaging/monitoring/" + name)
		if err != nil {
			t.Fatal(err)
		}
		asked := regexp.MustCompile(`\b(rstream|process|go)_[a-z_]+\b`).FindAllString(string(b), -1)
		for _, metric := range asked {
			if have[metric] == nil {
				t.Errorf("%s: the server has no metric %s", name, metric)
			}
		}
		for _, m := range groupedMetric.FindAllStringSubmatch(string(b), -1) {
			for label := range strings.SplitSeq(m[1], ", ") {
				if !slices.Contains(have[m[2]], label) {
					t.Errorf("%s: %s has no label %s", name, m[2], label)
				}
			}
		}
		if len(asked) < 10 {
			t.Errorf("%s asks for %d metrics", name, len(asked))
		}
	}
	// Each alert that docs/operations.md explains has its rule.
	rules, err := os.ReadFile("../../packaging/monitoring/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	operations, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(operations), "### What to alert on")
	table, _, _ = strings.Cut(table, "### ")
	conditions := regexp.MustCompile("(?m)^\\| `([^`]+ > [^`]+)`").FindAllStringSubmatch(table, -1)
	if len(conditions) < 8 {
		t.Errorf("the table has %d conditions", len(conditions))
	}
	for _, c := range conditions {
		if want := strings.ReplaceAll(c[1], `\|`, "|"); !strings.Contains(string(rules), "expr: "+want+"\n") {
			t.Errorf("no rule has the condition %s", want)
		}
	}
}

// groupedMetric matches an aggregation by labels, and its metric.
var groupedMetric = regexp.MustCompile(`by \(([a-z, ]+)\) ?\((?:rate\()?([a-z_]+)`)

// Each panel of the dashboard has a query and a place of its own, and asks the chosen data
// source.
func TestDashboard(t *testing.T) {
	b, err := os.ReadFile("../../packaging/monitoring/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	type place struct{ X, Y, W, H int }
	var dashboard struct {
		Panels []struct {
			ID          int
			Type, Title string
			GridPos     place
			Datasource  struct{ UID string }
			Targets     []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(b, &dashboard); err != nil {
		t.Fatal(err)
	}
	ids, queries := map[int]bool{}, 0
	taken := map[[2]int]string{} // cells of the grid
	for _, p := range dashboard.Panels {
		if ids[p.ID] {
			t.Errorf("%s: another panel has the id %d", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, ok := taken[[2]int{x, y}]; ok || x >= 24 {
					t.Fatalf("%s: lies on %q or outside at %d, %d", p.Title, other, x, y)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		queries += len(p.Targets)
		if len(p.Targets) == 0 || p.Datasource.UID != "${datasource}" {
			t.Errorf("%s: %+v", p.Title, p)
		}
	}
	if queries < 20 {
		t.Errorf("%d queries", queries)
	}
}

// A slowLog takes two seconds for each append.
type slowLog struct{ *memLog }

func (l slowLog) Append(ctx context.Context, drafts []event.Draft) ([]event.Receipt, error) {
	time.Sleep(2 * time.Second)
	return l.memLog.Append(ctx, drafts)
}

// Refused, slow and aborted requests are logged as warnings, successful ones are not. Of many
// appends that are slow together, one is logged.
func TestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said lines
		logger := slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug,
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey || a.Key == "error" {
					return slog.Attr{}
				}
				return a
			}}))
		s, stop := serve(t, slowLog{newLog()}, Config{Logger: logger})
		defer stop()
		var putting sync.WaitGroup
		for range 3 {
			putting.Go(func() {
				s.raw("POST /set/a/p HTTP/1.1\nHost: localhost\nContent-Length: 20\n\n{\"value\":1,\"key\":\"\"}")
			})
		}
		putting.Wait()
		said.want(t, 1, `level=WARN msg="append was slow" took_ms=2000 events=1`)
		said.want(t, 1, `level=DEBUG msg=request method=POST path=/set/a/p status=201 bytes=188 took_ms=2000 address=pipe`)
		said.want(t, 2, `level=DEBUG msg=request method=POST path=/set/a/p status=200 bytes=188 took_ms=2000 address=pipe`)
		s.raw("GET /events?topic=a&until=0000000000009 HTTP/1.1\nHost: localhost\n\n")
		said.want(t, 1, `level=WARN msg="request refused" method=GET path=/events status=409 bytes=268 took_ms=0 address=pipe detail="cursor 0000000000009 is ahead of this log, whose head is 0000000000001: it belongs to another log, or this log was rolled back to an older state"`)
		body(t, s.get("/events?topic=a&until=0000000000001", "Accept", wire.SSE))
		said.want(t, 1, `level=DEBUG msg="stream ended" reason=done path=/events query="topic=a&until=0000000000001" took_ms=0 address=pipe`)
		stalled := s.stall("/events?topic=a", wire.SSE)
		defer stalled.Close()
		time.Sleep(31 * time.Second)
		synctest.Wait()
		said.want(t, 1, `level=WARN msg="stream ended" reason=stalled path=/events query="topic=a" took_ms=30000 address=pipe`)
		_, left := s.stream("/events?topic=a")
		left.Close()
		synctest.Wait()
		said.want(t, 1, `level=DEBUG msg="stream ended" reason=left path=/events query="topic=a" took_ms=0 address=pipe`)
	})
}

// TestLogOfBearers: messages about a request name the subject of its token, and never the
// token.
func TestLogOfBearers(t *testing.T) {
	ring := newKeyring(t, auth.Config{Public: topicsOf(t, "news")})
	var said lines
	log := newLog()
	log.put(t, "a", "p", 1)
	s, stop := serve(t, log, Config{Guard: ring.guard, Logger: slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	token := ring.grant([]string{"a"}, nil, nil)
	for _, header := range []string{bearer(token), bearer(token + "x"), ""} {
		body(t, s.get("/events?topic=a", "Authorization", header))
		body(t, s.get("/events?topic=a&until=now", "Authorization", header, "Accept", wire.SSE))
	}
	stop()
	text := strings.Join(said.text, "\n")
	for line, n := range map[string]int{
		`path=/events status=200 bytes=\d+ took_ms=[0-9.]+ address=pipe subject=tester$`:                      2,
		`"stream ended" reason=done .* took_ms=[0-9.]+ error=<nil> address=pipe subject=tester$`:              1,
		`"request refused" .* status=401 bytes=\d+ took_ms=[0-9.]+ address=pipe detail="token is malformed"$`: 2,
		`"request refused" .* status=401 bytes=\d+ took_ms=[0-9.]+ address=pipe detail="a token is .*"$`:      2,
	} {
		if got := regexp.MustCompile("(?m)"+line).FindAllString(text, -1); len(got) != n {
			t.Errorf("%d lines match %s, want %d: %s", len(got), line, n, text)
		}
	}
	if strings.Contains(text, strings.Split(token, ".")[2]) {
		t.Errorf("the log has the token: %s", text)
	}
}

// A client that left counts neither as a failure nor as a problem.
func TestLogOfThoseWhoLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said lines
		log := newLog()
		log.put(t, "a", "p", 1)
		log.pause = time.Minute
		s, stop := serve(t, hastyLog{log}, Config{Logger: slog.New(slog.NewTextHandler(&said, nil))})
		defer stop()
		for _, request := range []string{
			"GET /events?topic=a HTTP/1.1\r\nHost: localhost\r\n\r\n",
			"POST /set/a/p HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\n\r\n{\"value\":1}",
		} {
			conn := s.dial()
			if _, err := io.WriteString(conn, request); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			_ = conn.Close()
			synctest.Wait()
		}
		if len(said.text) != 0 {
			t.Errorf("the log says %q", said.text)
		}
		s.wantMetric(t,
			`rstream_append_requests_total{outcome="left"} 1`,
			`rstream_http_requests_total{code="499",method="GET",route="/events"} 1`,
			`rstream_http_requests_total{code="499",method="POST",route="/set/"} 1`)
		for _, line := range s.scraped(t) {
			if strings.HasPrefix(line, "rstream_problems_total") {
				t.Error(line)
			}
		}
	})
}

// A hastyLog appends after the client has left, and returns an error.
type hastyLog struct{ *memLog }

func (l hastyLog) Append(ctx context.Context, _ []event.Draft) ([]event.Receipt, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// lines are the lines that a logger wrote.
type lines struct {
	mu   sync.Mutex
	text []string
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, strings.TrimSpace(string(b)))
	return len(b), nil
}

// count returns how many lines have a text.
func (l *lines) count(text string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.text {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// want checks that a line occurs that many times.
func (l *lines) want(t *testing.T, n int, line string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	got := 0
	for _, s := range l.text {
		if s == line {
			got++
		}
	}
	if got != n {
		t.Errorf("%d times, want %d: %s\nin\n%s", got, n, line, strings.Join(l.text, "\n"))
	}
}
