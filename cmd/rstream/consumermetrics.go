package main

import (
	"bytes"
	"fmt"
	"sync"
	"time"

	"github.com/rstream-dev/rstream/internal/deliver"
)

// consumerMetrics keeps the metrics of a consumer in a file.
type consumerMetrics struct {
	file string
	name string

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

// write writes the newest status.
func (m *consumerMetrics) write() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.known {
		return nil
	}
	m.written = time.Now()
	var b bytes.Buffer
	for _, x := range []struct {
		name, kind, help string
		value            any
	}{
		{"done_total", "counter", "Events that the consumer has done.", m.status.Done},
		{"failed_total", "counter", "Tries that have failed.", m.status.Failed},
		{"under_way", "gauge", "Events that are being tried.", m.status.UnderWay},
		{"waiting_storages", "gauge", "Storages that wait for another try, or for their turn after one.", m.status.Waiting},
		{"dead_letters", "gauge", "Events that were given up.", m.status.Dead},
		{"position", "gauge", "The position up to which events were read, as a number.", uint64(m.status.Position)},
		{"updated_seconds", "gauge", "When these metrics were taken, in Unix time.", m.status.At.Unix()},
	} {
		fmt.Fprintf(&b, "# HELP rstream_consumer_%s %s\n# TYPE rstream_consumer_%s %s\nrstream_consumer_%s{name=%q} %v\n",
			x.name, x.help, x.name, x.kind, x.name, m.name, x.value)
	}
	if err := replaceFile(m.file, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write the metrics: %w", err)
	}
	return nil
}
