package window

import (
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// BenchmarkLeafer is the leaves of 100,000 events, and their digest.
func BenchmarkLeafer(b *testing.B) {
	const n = 100_000
	b.ReportAllocs()
	for b.Loop() {
		var l Leafer
		for id := event.ID(1); id <= n; id++ {
			l.Add(id, event.Time(id), event.Hash{byte(id), byte(id >> 8)})
		}
		if _, count := DigestOf(l.Leaves()); count != n {
			b.Fatal(count)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/event")
}
