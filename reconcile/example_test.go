package reconcile_test

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// A server answers each request from its own set. Over HTTP, its handler would read the
// request from a body and write the response to one.
type server struct{ hashes []event.Hash }

func (s server) Ask(_ context.Context, request []byte) ([]byte, error) {
	req, err := reconcile.ParseRequest(request, reconcile.Limits{})
	if err != nil {
		return nil, err // 400, or 413
	}
	span := window.Span{From: req.Span.From, To: min(req.Span.To, 100)} // 100 is the head
	resp, err := reconcile.Answer(reconcile.FromHashes(span, s.hashes), req, reconcile.Limits{})
	if err != nil {
		return nil, err
	}
	return resp.AppendTo(nil, req.Shared), nil
}

func ExampleNegotiate() {
	var theirs, ours []event.Hash
	for i := range byte(100) {
		h := event.Hash(sha256.Sum256([]byte{i}))
		theirs = append(theirs, h)
		if i != 42 {
			ours = append(ours, h)
		}
	}
	local := reconcile.FromHashes(window.Span{To: event.MaxID}, ours)
	res, err := reconcile.Negotiate(context.Background(), local, server{theirs}, reconcile.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(len(res.Missing), "missing,", len(res.Extra), "extra, proven", res.Proven)
	for _, r := range res.Rounds {
		fmt.Printf("%s: %s\n", r.Strategy, r.Why)
	}
	// Output:
	// 1 missing, 0 extra, proven true
	// summary: the sums come first
	// sketch: about 1 of 100 events differ: a sketch takes 432 bytes
}
