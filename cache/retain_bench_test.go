package cache

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// BenchmarkAppendWhileRetaining appends with and without retention that drops as much as it
// may as fast as possible, and reports how long appends took.
func BenchmarkAppendWhileRetaining(b *testing.B) {
	for _, retaining := range []bool{false, true} {
		b.Run(fmt.Sprint("retaining=", retaining), func(b *testing.B) {
			ctx, cancel := context.WithCancel(context.Background())
			db := mustOpen(b, filepath.Join(b.TempDir(), "log.db"), Config{Role: Server})
			defer db.Close()
			for i := range 10 * event.BlockSize / 4000 {
				mustAppend(b, db, storageDrafts(fmt.Sprint("before", i), 4000)...)
			}
			var took, steps []time.Duration
			done := make(chan error)
			go func() {
				if !retaining {
					done <- nil
					return
				}
				r, err := db.newRetainer(ctx, Retention{MaxBytes: 1})
				rest := r.Throttle
				r.Throttle = func(ctx context.Context, d time.Duration) error {
					steps = append(steps, d)
					return rest(ctx, d)
				}
				for err == nil && ctx.Err() == nil {
					err = r.Round(ctx)
				}
				done <- err
			}()
			b.ResetTimer()
			for i := range b.N {
				began := time.Now()
				mustAppend(b, db, storageDrafts(fmt.Sprint("k", i), 10)...)
				took = append(took, time.Since(began))
			}
			b.StopTimer()
			cancel()
			<-done
			slices.Sort(took)
			for _, p := range []int{50, 90, 99} {
				b.ReportMetric(float64(took[len(took)*p/100].Microseconds())/1e3, fmt.Sprintf("p%d-ms", p))
			}
			b.ReportMetric(float64(took[len(took)-1].Microseconds())/1e3, "max-ms")
			if slices.Sort(steps); len(steps) > 0 {
				b.Logf("%d steps: half of them up to %s, 99 %% up to %s, all up to %s", len(steps), steps[len(steps)/2], steps[len(steps)*99/100], steps[len(steps)-1])
			}
			at, err := db.Horizon(context.Background())
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(at), "horizon")
		})
	}
}

// storageDrafts are n appends to some of a thousand storages.
func storageDrafts(key string, n int) (ds []event.Draft) {
	for i := range n {
		ds = append(ds, draft("alice", fmt.Sprint("s/", (i*7919+len(key)*31+int(key[len(key)-1]))%1000), fmt.Sprint(key, "-", i)))
	}
	return ds
}
