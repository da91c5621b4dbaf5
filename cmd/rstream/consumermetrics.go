package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/internal/deliver"
)

// consumerMetrics keeps the metrics of a consumer in a file.
type consumerMetrics struct {
	file string
	name string
	db   *cache.DB

	mu      sync.Mutex
	status  deliver.Status
	known   bool // there is a status
	written time.Time
}

// metricsTime is how often the file is written at most.
const metricsTime = time.Second

// take takes the newest status. An error of writing is left to the end: the consumer's work
// matters more.
func (m *consumerMetrics) take(s deliver.Status) {
	m.mu.Lock()
	m.status, m.known = s, true
	due := time.Since(m.written) >= metricsTime
	m.mu.Unlock()
	if due {
		_ = m.write()
	}
}

// write writes the newest status, and the dead letters that there are now: "rstream dead" drops
// some.
func (m *consumerMetrics) write() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.known {
		return nil
	}
	m.written = time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	info, _, err := m.db.ConsumerInfo(ctx, m.name)
	if err == nil {
		err = replaceFile(m.file, m.format(info.Dead), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write the metrics: %w", err)
	}
	return nil
}

// escapeLabel escapes what the values of labels may not have.
var escapeLabel = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func (m *consumerMetrics) format(dead int) []byte {
	var b bytes.Buffer
	for _, x := range []struct {
		name, kind, help string
		value            any
	}{
		{"done_total", "counter", "Events that the consumer has done.", m.status.Done},
		{"failed_total", "counter", "Tries that have failed.", m.status.Failed},
		{"rate", "gauge", "Events done per second, in the last minute.", m.status.Rate},
		{"under_way", "gauge", "Events that are being tried.", m.status.UnderWay},
		{"waiting_storages", "gauge", "Storages that wait for another try, or for their turn after one.", m.status.Waiting},
		{"dead_letters", "gauge", "Events that were given up.", dead},
		{"position", "gauge", "The position up to which events were read, as a number.", uint64(m.status.Position)},
		{"updated_seconds", "gauge", "When these metrics were taken, in Unix time.", m.status.At.Unix()},
	} {
		fmt.Fprintf(&b, "# HELP rstream_consumer_%[1]s %[2]s\n# TYPE rstream_consumer_%[1]s %[3]s\nrstream_consumer_%[1]s{name=\"%[4]s\"} %[5]v\n",
			x.name, x.help, x.kind, escapeLabel.Replace(m.name), x.value)
	}
	return b.Bytes()
}
