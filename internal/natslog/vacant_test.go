package natslog

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/internal/wire"
)

// While no node commits, an append that waits is not sent to the last committer again and again.
func TestVacantRole(t *testing.T) {
	t.Parallel()
	url := sharedURL(t)
	a := startNode(t, newConfig(t, url, "a"), nil)
	a.mustAppend(draft("p", "one"))
	cfg := newConfig(t, url, "b")
	cfg.AppendWait = 2 * time.Second
	b := startNode(t, cfg, nil)
	awaitHead(t, 1, b)
	b.log.lease.setBarred(true)
	a.kill()
	awaitGone(t, a, b)
	_, err := b.append(draft("p", "two"))
	var problem *wire.Error
	if !errors.As(err, &problem) || problem.Status != http.StatusServiceUnavailable || !strings.HasPrefix(problem.Detail, wire.NothingAppended) {
		t.Errorf("the append got %v", err)
	}
	if n := b.log.Status().Counters.Forwarded; n > 7 {
		t.Errorf("the append was forwarded %d times", n)
	}
	b.log.lease.setBarred(false)
	b.mustAppend(draft("p", "two"))
	checkEqual(t, 2, b)
}
