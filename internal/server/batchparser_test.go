package server

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// The drafts and the bad lines of a batch are in the order of its lines, however many are parsed
// at a time.
func TestParseBatchInChunks(t *testing.T) {
	for _, n := range []int{0, 1, chunkLines - 1, chunkLines, chunkLines + 1, 5*chunkLines + 3} {
		var good, mixed strings.Builder
		var bad []int
		for i := range n {
			line := fmt.Sprintf(`{"user":"a","path":"p","key":"%d","value":%d}`, i, i)
			fmt.Fprintf(&good, "%s\n\n", line)
			if i%100 == 7 || i == chunkLines {
				bad = append(bad, i+1)
				line = fmt.Sprintf(`{"user":"a","path":"p","key":"%d"}`, i)
			}
			fmt.Fprintln(&mixed, line)
		}
		drafts, problem := parseBatch(strings.NewReader(good.String()))
		if len(drafts) != n || problem != nil {
			t.Fatalf("%d of %d drafts, %v", len(drafts), n, problem)
		}
		for i := range drafts {
			if drafts[i].Key != fmt.Sprint(i) {
				t.Fatalf("draft %d has key %s", i, drafts[i].Key)
			}
		}
		_, problem = parseBatch(strings.NewReader(mixed.String()))
		if len(bad) == 0 {
			if problem != nil {
				t.Fatalf("%d good lines: %v", n, problem)
			}
			continue
		}
		if problem == nil || !slices.Equal(problem.Lines, bad) || strings.Count(problem.Detail, "line ") != min(len(bad), maxReasons) || !strings.Contains(problem.Detail, "line 8: ") {
			t.Fatalf("%d lines: %+v, want bad lines %v", n, problem, bad)
		}
	}
}
