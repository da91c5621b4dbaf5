//go:build unix

package client

import (
	"fmt"
	"net/http/httptest"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// One server, and two honest ones, one of which is asked for the digests of the pages of the other.
func BenchmarkSecondDigest(b *testing.B) {
	for _, n := range []int{5000, 300_000} {
		f := newFixture(b)
		f.put("alice/x", n)
		second := httptest.NewServer(f.srv)
		defer second.Close()
		for i, servers := range [][]string{{f.http.URL}, {f.http.URL, second.URL}} {
			b.Run(fmt.Sprintf("servers=%d/%d", i+1, n), func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					c := newTestClient(b, f.newCache(), Config{Servers: servers})
					before := cpuTime()
					b.StartTimer()
					if _, err := c.Sync(b.Context(), event.All, SyncOptions{}); err != nil {
						b.Fatal(err)
					}
					b.StopTimer()
					b.ReportMetric(float64((cpuTime() - before).Milliseconds()), "cpu-ms")
					b.ReportMetric(float64(c.Stats().Requests), "requests")
					b.ReportMetric(float64(c.Stats().Bytes), "bytes")
					b.StartTimer()
				}
			})
		}
	}
}
