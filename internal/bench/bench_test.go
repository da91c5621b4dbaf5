package bench

import (
	"context"
	"net/http/httptest"
	"testing"
	"time"
)

func TestLineCounter(t *testing.T) {
	stream := "id: 1\ndata: {}\n\n: data:\ndata\ndat: x\n\ndata:data:\n"
	for cut := range len(stream) + 1 {
		c := lineCounter{prefix: "data:"}
		c.count([]byte(stream[:cut]))
		c.count([]byte(stream[cut:]))
		if c.n != 2 {
			t.Errorf("cut at %d: %d lines, want 2", cut, c.n)
		}
	}
}

func TestLoadAgainstNothing(t *testing.T) {
	srv := httptest.NewServer(Nothing())
	defer srv.Close()
	in := Input{User: "bench", Run: "x"}
	load := Load{Publishers: 4, Events: 3, Body: func(i int) (string, []byte) { return "/set", in.Line(i) }}
	r, err := load.Run(context.Background(), srv.URL, time.Hour, 10, 35)
	if err != nil || r.Events != 75 || len(r.Waits) != 25 || r.Wait(0.99) < r.Wait(0.5) {
		t.Errorf("Run: %d events, %d waits, %v", r.Events, len(r.Waits), err)
	}
	_, size, err := Replay(context.Background(), srv.URL+"/?events=2500", 2500)
	if err != nil || size < 2500*200 {
		t.Errorf("Replay: %d bytes, %v", size, err)
	}
	if _, _, err := Replay(context.Background(), srv.URL+"/?events=5", 6); err == nil {
		t.Error("Replay of a stream that ends too early: no error")
	}
}
