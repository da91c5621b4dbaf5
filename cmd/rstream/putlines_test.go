//go:build unix

package main

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
)

// numbered returns lines with keys.
func numbered(n int) (in string) {
	for i := range n {
		in += fmt.Sprintf(`{"user":"a","path":"x","key":"%d","value":%d}`+"\n", i, i)
	}
	return in
}

// The fast path of parseEvent agrees with the other.
func FuzzParseEvent(f *testing.F) {
	for _, line := range []string{
		`{"user":"a","path":"x","value":1}`,
		` { "path" : "x", "user":"a", "type":"DEL", "key":"" } `,
		`{"user":"a","path":"x","key":"k","type":"PUT","value":{"n": 1}}`,
		`{"user":"a","path":"x","Type":"live","value":1}`,
		`{"type":"live"}`,
		`{"type":"queued","user":"a","path":"x"}`,
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		got, made, err := parseEvent(line)
		want, wantMade, refused := parseAnyEvent(line)
		if made && wantMade {
			got.Key, want.Key = "", ""
		}
		if (err == nil) != (refused == nil) || made != wantMade || err == nil && !reflect.DeepEqual(got, want) {
			t.Fatalf("parseEvent(%q) = %+v, %v, %v, want %+v, %v, %v", line, got, made, err, want, wantMade, refused)
		}
	})
}

// A server or proxy that accepts only a few lines a request gets a few at a time, each
// once and in order, and is never sent a larger request again.
func TestSendLinesInParts(t *testing.T) {
	inParallel(t)
	tooLarge := &client.UnknownOutcomeError{Err: &client.StatusError{Status: http.StatusRequestEntityTooLarge}}
	const most = 7
	refused, next := 0, 0
	send := func(ds []event.Draft) (fate, showFunc, error) {
		if len(ds) > most {
			refused++
			return unknown, nil, tooLarge
		}
		for _, d := range ds {
			if d.Key != fmt.Sprint(next) {
				t.Fatalf("key %s was sent, want %d", d.Key, next)
			}
			next++
		}
		return taken, nil, nil
	}
	c := &lineClaim{name: "in"}
	if err := sendLines(t.Context(), strings.NewReader(numbered(3000)), c, send, parseEvent); err != nil || next != 3000 {
		t.Fatalf("sendLines = %v, %d lines were taken", err, next)
	}
	if refused > 10 {
		t.Errorf("%d requests were too large", refused)
	}
}

// If the answers to a part cannot be printed, the parts up to the next one have been appended,
// and no other is.
func TestSendLinesUnprinted(t *testing.T) {
	sent := 0
	full := func(ds []event.Draft) (fate, showFunc, error) {
		sent += len(ds)
		return taken, func() error { return errors.New("full") }, nil
	}
	err := sendLines(t.Context(), strings.NewReader(numbered(1)), &lineClaim{name: "in"}, full, parseEvent)
	if want := "full; line 1 of in was appended"; err == nil || err.Error() != want {
		t.Errorf("one line: %v, want %q", err, want)
	}
	var batch []lineItem
	for i := range 100 {
		batch = append(batch, lineItem{number: i + 1})
	}
	sent = 0
	err = (&lineClaim{name: "in", most: 8}).sendParts(batch, full, &showing{})
	if want := "full; lines 1-16 of in were appended"; err == nil || err.Error() != want || sent != 16 {
		t.Errorf("many lines: %v, want %q; %d were sent", err, want, sent)
	}
}

// A proxy may have passed on a request that it rejected as too large, so a later
// refusal of a part leaves the fate of all lines unknown.
func TestSendLinesInPartsFails(t *testing.T) {
	for _, c := range []struct {
		first fate // of the request that was too large
		want  string
	}{
		{unknown, "no; whether lines 1-8 of in were appended is unknown"},
		{untaken, "no; nothing was appended"},
	} {
		var batch []lineItem
		for i := range 8 {
			batch = append(batch, lineItem{number: i + 1})
		}
		asked := 0
		err := (&lineClaim{name: "in"}).sendParts(batch, func([]event.Draft) (fate, showFunc, error) {
			if asked++; asked == 1 {
				return c.first, nil, &client.StatusError{Status: http.StatusRequestEntityTooLarge}
			}
			return untaken, nil, errors.New("no")
		}, &showing{})
		if err == nil || err.Error() != c.want {
			t.Errorf("send = %v, want %q", err, c.want)
		}
	}
}
