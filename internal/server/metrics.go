package server

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/board"
	"github.com/rstream-dev/rstream/internal/wire"
)

// metrics are the metrics of GET /metrics. Counters are atomic and updated as things happen;
// gauges are read when they are requested.
type metrics struct {
	registry *prometheus.Registry
	handler  http.Handler

	appends       *prometheus.CounterVec // by outcome
	appended      *prometheus.CounterVec // by result: known to the log, or new
	appendSeconds prometheus.Histogram

	events, bytes *prometheus.CounterVec // delivered, by form and encoding
	delivered     map[[2]string]delivery
	streamsEnded  *prometheus.CounterVec // by reason
	rounds        *prometheus.CounterVec // by strategy

	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	problems  *prometheus.CounterVec
	limited   *prometheus.CounterVec // requests beyond a limit, by kind
	refused   *prometheus.CounterVec // cursors, by reason
	reports   *prometheus.CounterVec // of nodes, by what the board wants next
}

// A delivery counts the events and bytes sent in one form and encoding.
type delivery struct{ events, bytes prometheus.Counter }

// seconds are the buckets of durations: from a read from memory to a batch over a slow
// connection.
var seconds = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60}

func newMetrics(s *Server) *metrics {
	reg := prometheus.NewRegistry()
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		reg.MustRegister(c)
		return c
	}
	m := &metrics{
		registry: reg,
		appends:  counters("rstream_append_requests_total", "Append requests: done, refused as invalid, full if the log or its disk is full, failed, or left if the client went away.", "outcome"),
		appended: counters("rstream_append_events_total", "Events in append requests: new, or already known to the log.", "result"),
		appendSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rstream_append_duration_seconds", Help: "Time that the log took to make an append durable and visible, including waiting.", Buckets: seconds}),
		events:       counters("rstream_delivered_events_total", "Events sent to readers, by form and content encoding.", "form", "encoding"),
		bytes:        counters("rstream_delivered_bytes_total", "Bytes of bodies with events as sent to readers.", "form", "encoding"),
		streamsEnded: counters("rstream_streams_ended_total", "Streams that ended: done, aged, stopped, stalled, left, gone or failed.", "reason"),
		rounds:       counters("rstream_negotiation_rounds_total", "Answered requests of POST /bloom in frames, by strategy.", "strategy"),
		requests:     counters("rstream_http_requests_total", "Answered requests; a stream counts when it ends.", "route", "method", "code"),
		problems:     counters("rstream_problems_total", "Requests answered with a problem, by its title.", "kind"),
		limited:      counters("rstream_limited_total", "Requests answered with 429 because their client has used its rate: requests, events, bytes, streams, or tokens that were not valid.", "kind"),
		reports:      counters("rstream_board_reports_total", "Reports of nodes that the board took (changes), asked all connections for (list), or refused because nobody looks (nothing) or a later process has the name (replaced).", "outcome"),
		refused:      counters("rstream_cursors_refused_total", "Cursors and appends answered with 409: from another log (log), above the head (ahead), or with another event at their position (mark).", "reason"),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rstream_http_request_duration_seconds", Help: "Duration of requests, without streams.", Buckets: seconds}, []string{"route", "method"}),
		delivered: map[[2]string]delivery{},
	}
	reg.MustRegister(m.appendSeconds, m.durations, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &gauges{s, describeGauges(), describeSources(), describeBoards(), describeMirror(), describeCluster()})
	for _, kind := range []string{limitedRequests, limitedEvents, limitedBytes, limitedStreams, limitedTokens} {
		m.limited.WithLabelValues(kind)
	}
	for _, outcome := range []string{string(board.WantChanges), string(board.WantList), string(board.WantNothing), "replaced"} {
		m.reports.WithLabelValues(outcome)
	}
	for _, reason := range []string{wire.ReasonLog, wire.ReasonAhead, wire.ReasonMark} {
		m.refused.WithLabelValues(reason) // starts at 0, so that the first one is an increase
	}
	for mediaType, form := range forms {
		for _, encoding := range []string{"", wire.Gzip, wire.Zstd} {
			name := encoding
			if name == "" {
				name = "identity"
			}
			m.delivered[[2]string{mediaType, encoding}] = delivery{m.events.WithLabelValues(form, name), m.bytes.WithLabelValues(form, name)}
		}
	}
	m.handler = promhttp.HandlerFor(reg, promhttp.HandlerOpts{DisableCompression: true})
	return m
}

// forms are the labels of the forms in which events are delivered, by media type.
var forms = map[string]string{wire.SSE: "stream", wire.NDJSON: "lines", wire.JSON: "page"}

func (m *metrics) deliveries(mediaType, encoding string) delivery {
	return m.delivered[[2]string{mediaType, encoding}]
}

// noteAppend counts one append to the log.
func (m *metrics) noteAppend(ctx context.Context, receipts []event.Receipt, err error, took time.Duration) {
	m.appendSeconds.Observe(took.Seconds())
	var refused Refused
	switch {
	case errors.As(err, &refused) && refused.HTTPStatus() == http.StatusInsufficientStorage:
		m.appends.WithLabelValues("full").Inc()
	case errors.As(err, &refused) && refused.HTTPStatus() != http.StatusServiceUnavailable:
		m.appends.WithLabelValues("refused").Inc()
	case err != nil && ctx.Err() != nil:
		m.appends.WithLabelValues("left").Inc()
	case err != nil:
		m.appends.WithLabelValues("failed").Inc()
	default:
		m.appends.WithLabelValues("done").Inc()
	}
	known := 0
	for i := range receipts {
		if receipts[i].Duplicate {
			known++
		}
	}
	m.appended.WithLabelValues("known").Add(float64(known))
	m.appended.WithLabelValues("new").Add(float64(len(receipts) - known))
}

// getPublicMetrics returns the metrics: GET /metrics. A server with keys has them only in
// ServeMetrics, since no right covers them.
func (s *Server) getPublicMetrics(w http.ResponseWriter, r *http.Request) *wire.Error {
	if s.cfg.Guard != nil {
		return wire.Errorf(http.StatusNotFound, "the metrics of this server are at its --admin address")
	}
	return s.getMetrics(w, r)
}

// ServeMetrics handles a request for the metrics, on an address that only operators reach.
func (s *Server) ServeMetrics(w http.ResponseWriter, r *http.Request) {
	s.metrics.handler.ServeHTTP(w, r)
}

// getMetrics returns the metrics.
func (s *Server) getMetrics(w http.ResponseWriter, r *http.Request) *wire.Error {
	w.Header().Set("Cache-Control", "no-store")
	s.metrics.handler.ServeHTTP(w, r)
	return nil
}

// The gauges collector returns the metrics that are read when they are requested.
type gauges struct {
	s       *Server
	d       descriptions
	sources sourceMetrics
	boards  boardMetrics
	mirror  mirrorMetrics
	cluster clusterMetrics
}

type descriptions struct {
	build, viewers, nodes, readers, behind, lag, overflows, head, horizon, sealed, file, wal, ahead, jumps, damaged *prometheus.Desc
}

func describeGauges() descriptions {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return descriptions{
		build:     d("rstream_build_info", "Always 1; the labels are the versions of the server and of Go.", "version", "goversion"),
		viewers:   d("rstream_board_viewers", "Open streams that show who reads what."),
		nodes:     d("rstream_board_nodes", "Other servers that wait to report to the board."),
		readers:   d("rstream_readers", "Open streams."),
		behind:    d("rstream_readers_behind", "Open streams that are catching up from the log."),
		lag:       d("rstream_readers_max_lag_events", "Distance of the slowest stream from the head, in ids."),
		overflows: d("rstream_queue_overflows_total", "Times that a reader's queue was full and the reader went back to the log."),
		head:      d("rstream_log_head_position", "The newest position of the log."),
		horizon:   d("rstream_log_horizon_position", "The position below which history was dropped."),
		sealed:    d("rstream_log_sealed_blocks", "Complete blocks."),
		file:      d("rstream_log_file_bytes", "Size of the log's file."),
		wal:       d("rstream_log_wal_bytes", "Size of the write-ahead log of that file."),
		ahead:     d("rstream_log_clock_ahead_seconds", "How far the last event's time is ahead of the clock; new events get that time until the clock reaches it."),
		damaged:   d("rstream_log_damaged_pages", "Damaged pages and lists of events of the log's file that were found since the server started."),
		jumps:     d("rstream_clock_jumps_total", "Times that the clock jumped forward by more than a minute."),
	}
}

// Describe implements prometheus.Collector.
func (p *gauges) Describe(ch chan<- *prometheus.Desc) {
	d := &p.d
	for _, desc := range []*prometheus.Desc{d.build, d.viewers, d.nodes, d.readers, d.behind, d.lag, d.overflows, d.head, d.horizon, d.sealed, d.file, d.wal, d.ahead, d.jumps, d.damaged} {
		ch <- desc
	}
	for _, desc := range slices.Concat(p.sources.all(), p.boards.all(), p.mirror.all(), p.cluster.all()) {
		ch <- desc
	}
}

// Collect implements prometheus.Collector. It visits every reader.
func (p *gauges) Collect(ch chan<- prometheus.Metric) {
	tell := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	head := p.s.log.Head()
	readers := p.s.readerStats(head)
	tell(p.d.build, prometheus.GaugeValue, 1, p.s.cfg.Version, runtime.Version())
	tell(p.d.viewers, prometheus.GaugeValue, float64(p.s.board.Viewers()))
	tell(p.d.nodes, prometheus.GaugeValue, float64(p.s.board.Lookouts()))
	tell(p.d.readers, prometheus.GaugeValue, float64(readers.Readers))
	tell(p.d.behind, prometheus.GaugeValue, float64(readers.Behind))
	tell(p.d.lag, prometheus.GaugeValue, float64(readers.MaxLag))
	tell(p.d.overflows, prometheus.CounterValue, float64(readers.Overflows))
	tell(p.d.head, prometheus.GaugeValue, float64(head))
	tell(p.d.sealed, prometheus.GaugeValue, float64(head/event.BlockSize))
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if horizon, err := p.s.log.Horizon(ctx); err == nil {
		tell(p.d.horizon, prometheus.GaugeValue, float64(horizon))
	}
	if p.s.cfg.Sizes != nil {
		file, wal := p.s.cfg.Sizes()
		tell(p.d.file, prometheus.GaugeValue, float64(file))
		tell(p.d.wal, prometheus.GaugeValue, float64(wal))
	}
	if p.s.cfg.Damaged != nil {
		tell(p.d.damaged, prometheus.GaugeValue, float64(p.s.cfg.Damaged()))
	}
	p.sources.tellSources(p.s.sources(), tell)
	if p.s.cfg.Boards != nil {
		p.boards.tellBoards(p.s.cfg.Boards(), tell)
	}
	if p.s.cfg.Mirror != nil {
		p.mirror.tellMirror(p.s.cfg.Mirror.Report(), head, tell)
	}
	if p.s.cfg.Cluster != nil {
		p.cluster.tellCluster(p.s.cfg.Cluster(), tell)
	}
	if p.s.cfg.Clock != nil {
		ahead, jumps := p.s.cfg.Clock()
		tell(p.d.ahead, prometheus.GaugeValue, ahead.Seconds())
		tell(p.d.jumps, prometheus.CounterValue, float64(jumps))
	}
}

// sourceMetrics are the metrics of each source.
type sourceMetrics struct {
	connected, behind, stored, events, bytes, gaps, refused *prometheus.Desc
}

func describeSources() sourceMetrics {
	d := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("rstream_source_"+name, help, []string{"source"}, nil)
	}
	return sourceMetrics{
		connected: d("connected", "1 if there is a connection to the source, else 0."),
		behind:    d("behind_events", "Distance from the head of a source that is an rstream server, in its ids."),
		stored:    d("stored_timestamp_seconds", "When events or the cursor of the source were last stored."),
		events:    d("events_total", "Events taken from the source since it was first followed."),
		bytes:     d("bytes_total", "Bytes of the data of these events."),
		gaps:      d("gaps_total", "Times that events of the source may have been lost."),
		refused:   d("refused_events_total", "Events of the source that could not be mapped."),
	}
}

func (d *sourceMetrics) all() []*prometheus.Desc {
	return []*prometheus.Desc{d.connected, d.behind, d.stored, d.events, d.bytes, d.gaps, d.refused}
}

// tellSources calls tell with the metrics of each source.
func (d *sourceMetrics) tellSources(sources []wire.Source, tell func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string)) {
	for i := range sources {
		src := &sources[i]
		connected := 0.0
		if src.Connected {
			connected = 1
		}
		tell(d.connected, prometheus.GaugeValue, connected, src.Name)
		if src.Behind != nil {
			tell(d.behind, prometheus.GaugeValue, float64(*src.Behind), src.Name)
		}
		if src.Stored != nil {
			tell(d.stored, prometheus.GaugeValue, float64(*src.Stored)/1e6, src.Name)
		}
		tell(d.events, prometheus.CounterValue, float64(src.Events), src.Name)
		tell(d.bytes, prometheus.CounterValue, float64(src.Bytes), src.Name)
		tell(d.gaps, prometheus.CounterValue, float64(src.Gaps), src.Name)
		tell(d.refused, prometheus.CounterValue, float64(src.Refused), src.Name)
	}
}

// boardMetrics are the metrics of each board to which the server reports.
type boardMetrics struct{ connected, reporting, sent, bytes, failed *prometheus.Desc }

func describeBoards() boardMetrics {
	d := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("rstream_node_"+name, help, []string{"board"}, nil)
	}
	return boardMetrics{
		connected: d("connected", "1 if there is a connection to the board, else 0."),
		reporting: d("reporting", "1 while somebody looks at the board, else 0."),
		sent:      d("reports_total", "Reports sent to the board."),
		bytes:     d("report_bytes_total", "Bytes of these reports."),
		failed:    d("reports_failed_total", "Reports that the board did not answer, or refused."),
	}
}

func (d *boardMetrics) all() []*prometheus.Desc {
	return []*prometheus.Desc{d.connected, d.reporting, d.sent, d.bytes, d.failed}
}

// tellBoards calls tell with the metrics of each board.
func (d *boardMetrics) tellBoards(links []BoardLink, tell func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string)) {
	flag := map[bool]float64{true: 1}
	for i := range links {
		l := &links[i]
		tell(d.connected, prometheus.GaugeValue, flag[l.Connected], l.URL)
		tell(d.reporting, prometheus.GaugeValue, flag[l.Reporting], l.URL)
		tell(d.sent, prometheus.CounterValue, float64(l.Reports), l.URL)
		tell(d.bytes, prometheus.CounterValue, float64(l.Bytes), l.URL)
		tell(d.failed, prometheus.CounterValue, float64(l.Failed), l.URL)
	}
}

// mirrorMetrics are the metrics of a mirror.
type mirrorMetrics struct {
	connected, ready, behind, conflict, events, bytes, appends *prometheus.Desc
}

func describeMirror() mirrorMetrics {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("rstream_mirror_"+name, help, labels, nil)
	}
	return mirrorMetrics{
		connected: d("connected", "1 if there is a connection to the upstream, else 0."),
		ready:     d("ready", "1 once the mirror had everything that the upstream had; 0 until then, and again after it began at a later horizon."),
		behind:    d("behind_events", "Distance from the head of the upstream, as far as it is known, in ids."),
		conflict:  d("conflict", "1 if the upstream is another log (log), has less than the mirror (ahead), has other events (mark), mirrors this mirror (loop), or is of a newer version (version), else 0.", "reason"),
		events:    d("events_total", "Events received since the server started."),
		bytes:     d("bytes_total", "Bytes of the lines of these events."),
		appends:   d("appends_total", "Appends passed on to the upstream, and accepted there."),
	}
}

func (d *mirrorMetrics) all() []*prometheus.Desc {
	return []*prometheus.Desc{d.connected, d.ready, d.behind, d.conflict, d.events, d.bytes, d.appends}
}

// tellMirror calls tell with the metrics of a mirror whose log ends at head.
func (d *mirrorMetrics) tellMirror(m wire.Mirror, head event.ID, tell func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string)) {
	flag := func(is bool) float64 {
		if is {
			return 1
		}
		return 0
	}
	tell(d.connected, prometheus.GaugeValue, flag(m.Connected))
	tell(d.ready, prometheus.GaugeValue, flag(m.Ready))
	tell(d.behind, prometheus.GaugeValue, float64(max(m.Head, head)-head))
	for _, reason := range []string{wire.ReasonLog, wire.ReasonAhead, wire.ReasonMark, wire.ReasonLoop, wire.ReasonVersion} {
		tell(d.conflict, prometheus.GaugeValue, flag(m.Conflict == reason), reason)
	}
	tell(d.events, prometheus.CounterValue, float64(m.Events))
	tell(d.bytes, prometheus.CounterValue, float64(m.Bytes))
	tell(d.appends, prometheus.CounterValue, float64(m.Appends))
}

// clusterMetrics are the metrics of a node of a cluster.
type clusterMetrics struct {
	committer, sequence, behind, forwarded, batches, events, conflicts, repeats, unknown, received, receivedBytes, sentBytes *prometheus.Desc
}

func describeCluster() clusterMetrics {
	d := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("rstream_cluster_"+name, help, nil, nil)
	}
	return clusterMetrics{
		committer: d("committer", "1 if this node assigns the ids, else 0."),
		sequence:  d("sequence", "Sequence of the last message of the stream that is in the file."),
		behind:    d("behind_messages", "Messages of the stream that are not in the file yet, as far as is known."),
		forwarded: d("forwarded_total", "Appends passed on to the committer."),
		batches:   d("batches_total", "Batches that this node has stored in the stream."),
		events:    d("events_total", "Events of these batches."),
		conflicts: d("conflicts_total", "Batches that were not stored, since another node had committed."),
		repeats:   d("repeats_total", "Batches sent again, since the stream did not answer."),
		unknown:   d("unknown_total", "Batches whose outcome is not known."),

		received:      d("received_messages_total", "Messages received from NATS servers."),
		receivedBytes: d("received_bytes_total", "Bytes of these messages."),
		sentBytes:     d("sent_bytes_total", "Bytes of the messages sent to NATS servers."),
	}
}

func (d *clusterMetrics) all() []*prometheus.Desc {
	return []*prometheus.Desc{d.committer, d.sequence, d.behind, d.forwarded, d.batches, d.events, d.conflicts, d.repeats, d.unknown, d.received, d.receivedBytes, d.sentBytes}
}

// tellCluster calls tell with the metrics of a node.
func (d *clusterMetrics) tellCluster(c wire.Cluster, tell func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string)) {
	committer := 0.0
	if c.Committer {
		committer = 1
	}
	tell(d.committer, prometheus.GaugeValue, committer)
	tell(d.sequence, prometheus.GaugeValue, float64(c.Sequence))
	tell(d.behind, prometheus.GaugeValue, float64(c.Last-c.Sequence))
	tell(d.forwarded, prometheus.CounterValue, float64(c.Forwarded))
	tell(d.batches, prometheus.CounterValue, float64(c.Batches))
	tell(d.events, prometheus.CounterValue, float64(c.Events))
	tell(d.conflicts, prometheus.CounterValue, float64(c.Conflicts))
	tell(d.repeats, prometheus.CounterValue, float64(c.Repeats))
	tell(d.unknown, prometheus.CounterValue, float64(c.Unknown))
	tell(d.received, prometheus.CounterValue, float64(c.ReceivedMessages))
	tell(d.receivedBytes, prometheus.CounterValue, float64(c.ReceivedBytes))
	tell(d.sentBytes, prometheus.CounterValue, float64(c.SentBytes))
}
