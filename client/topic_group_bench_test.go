//go:build unix

package client

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
)

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// One topic of all events against fifty topics of the same events.
func BenchmarkTopics(b *testing.B) {
	for _, n := range []int{500, 120000} {
		f := newFixture(b)
		topics := f.putInTurn(50, n)
		for name, some := range map[string][]event.Topic{"one": {event.All}, "fifty": topics} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					db := f.newCache()
					c := newTestClient(b, db, Config{Servers: []string{f.http.URL}})
					before := cpuTime()
					b.StartTimer()
					group := NewTopicGroup(some)
					for _, t := range some {
						if _, err := c.Sync(b.Context(), t, SyncOptions{Group: group}); err != nil {
							b.Fatal(err)
						}
					}
					b.StopTimer()
					b.ReportMetric(float64((cpuTime() - before).Milliseconds()), "cpu-ms")
					b.ReportMetric(float64(commits(b, db.Path())), "commits")
					b.ReportMetric(float64(c.Stats().Requests), "requests")
					b.StartTimer()
				}
			})
		}
	}
}
