package server

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// wantSum reads the live event and checks its sum of all events up to its position.
func (fs *frames) wantSum(t *testing.T, at event.ID, evs []event.Event) {
	t.Helper()
	f, err := fs.next()
	if err != nil || f.event != wire.LiveEvent || f.position(t) != at {
		t.Fatalf("next frame is %q, %v, want live at %s", f, err, at)
	}
	var live struct {
		Count  *int
		Digest string
	}
	if err := json.Unmarshal([]byte(f.data), &live); err != nil {
		t.Fatal(err)
	}
	if evs == nil {
		if live.Count != nil || live.Digest != "" {
			t.Errorf("live says %s of what was not compared", f.data)
		}
		return
	}
	hashes := make([]event.Hash, len(evs))
	for i := range evs {
		hashes[i] = evs[i].Hash
	}
	sum, err := reconcile.FromHashes(window.Span{To: event.MaxID}, hashes).Sum(event.MaxID)
	if err != nil || live.Count == nil || *live.Count != len(evs) || live.Digest != sum.Digest.String() {
		t.Errorf("live says %s, want %d, %s", f.data, len(evs), sum.Digest)
	}
}

// The reader of a stream with a filter gets the missing events, the sum of all, and then all new
// events: the filter does not apply to events after it was made.
func TestStreamOfWhatIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog()
		log.put(t, "a", "p", 5) // 1 to 5
		log.put(t, "a", "q", 2) // 6, 7
		s, stop := serve(t, log, Config{})
		defer stop()
		// The reader claims to have what will be the next event: the filter is wrong of it.
		next := event.Draft{User: "a", Path: "p", Type: event.Put, Key: "next", Value: []byte("8")}
		held, _ := filterOf(t, false, log.evs[0].Hash, log.evs[1].Hash, log.evs[3].Hash, next.Hash())
		fs, closer := s.stream("/get?id=a/p&bloomFilter=" + held)
		fs.want(t, "PUT", 3)
		fs.want(t, "PUT", 5)
		fs.wantSum(t, 7, log.evs[:5])
		if _, err := log.Append(t.Context(), []event.Draft{next}); err != nil {
			t.Fatal(err)
		}
		fs.want(t, "PUT", 8)
		log.put(t, "a", "q", 1)
		log.put(t, "a", "p", 1)
		fs.want(t, "PUT", 10)
		fs.want(t, "", 10) // no second live event
		_ = closer.Close()

		// With an end the sum is of the range, and the stream is over.
		fs, closer = s.stream("/get?items=[%22a/p%22,%22a/q%22]&have=" + log.evs[6].Hash.String() + "&since=0000000000002&until=0000000000007")
		for _, id := range []event.ID{3, 4, 5, 6} {
			fs.want(t, "PUT", id)
		}
		fs.wantSum(t, 7, log.evs[2:7])
		if f, err := fs.next(); err == nil {
			t.Errorf("after the end comes %q", f)
		}
		_ = closer.Close()

		// Who has all is told at once.
		fs, closer = s.stream("/get?id=a/q&have=" + log.evs[5].Hash.String() + "," + log.evs[6].Hash.String() + "," + log.evs[8].Hash.String())
		fs.wantSum(t, 10, []event.Event{log.evs[5], log.evs[6], log.evs[8]})
		_ = closer.Close()
	})
}

// A reader that resumes with a cursor gets all later events, whatever filter is in the URL.
func TestStreamCursorBeforeFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog()
		log.put(t, "a", "p", 5)
		s, stop := serve(t, log, Config{})
		defer stop()
		held, _ := filterOf(t, true, log.evs[3].Hash, log.evs[4].Hash)
		fs, closer := s.stream("/get?id=a/p&bloomFilter="+held, wire.HeaderLastEventID, "0000000000003.K7Q2M")
		defer closer.Close()
		fs.want(t, "PUT", 4)
		fs.want(t, "PUT", 5)
		fs.wantSum(t, 5, nil)
	})
}

// A filtered stream of a long history sends heartbeats, and their positions are the reader's.
func TestStreamOfWhatIsMissingIsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog()
		log.put(t, "a", "p", 9)
		log.look, log.pause = 1, 10*time.Second
		s, stop := serve(t, log, Config{})
		defer stop()
		var all []string
		for _, ev := range log.evs[:8] {
			all = append(all, ev.Hash.String())
		}
		fs, closer := s.stream("/get?id=a/p&have=" + strings.Join(all, ","))
		defer closer.Close()
		beats, last := 0, event.ID(0)
		for {
			f, err := fs.next()
			if err != nil || f.position(t) <= last {
				t.Fatalf("%q after %s, %v", f, last, err)
			}
			if last = f.position(t); f.event == "PUT" {
				break
			}
			beats++
		}
		if last != 9 || beats < 3 {
			t.Errorf("%d heartbeats before event %s", beats, last)
		}
		fs.wantSum(t, 9, log.evs)
	})
}

// Both spellings of the media type request a stream, which has the correct one.
func TestStreamSpelledOtherwise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog()
		log.put(t, "a", "p", 1)
		s, stop := serve(t, log, Config{})
		defer stop()
		for _, request := range []string{
			with("/events?topic=a&until=now", "Accept: event/text-stream"),
			with("/get?id=a/p&until=now", "Accept: application/json;q=0.5, Event/Text-Stream"),
			"POST /get?until=now HTTP/1.1\nHost: localhost\nAccept: event/text-stream\nContent-Length: 15\n\n" + `{"items":"a/p"}`,
		} {
			resp, text := s.raw(request)
			if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != wire.SSE || strings.Count(text, "\nevent: ") != 2 {
				t.Errorf("%s: %s %s", request, resp.Status, text)
			}
		}
	})
}

// Notices identify an event without its contents, in every form.
func TestNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog()
		log.put(t, `a"b`, "p", 2)
		log.put(t, "a", "q", 1)
		s, stop := serve(t, log, Config{})
		defer stop()
		notice := func(i int) string {
			ev := log.evs[i]
			user, _ := json.Marshal(ev.User)
			return `{"id":"` + ev.ID.String() + `","type":"` + string(ev.Type) + `","user":` + string(user) + `,"path":"` + ev.Path + `","hash":"` + ev.Hash.String() + `"}`
		}
		page := `{"events":[` + notice(0) + "," + notice(1) + "," + notice(2) + `],"next":"` + log.cursor(3).String() + `","live":true}` + "\n"
		if got := body(t, s.get("/events?topic=*&values=0")); got != page {
			t.Errorf("page %s, want %s", got, page)
		}
		if got := body(t, s.get("/events?topic=*&values=0&except=a", "Accept", wire.NDJSON)); got != notice(0)+"\n"+notice(1)+"\n" {
			t.Errorf("lines %s", got)
		}
		if got := body(t, s.get("/get?id=a/q&values=0&have=")); !strings.Contains(got, notice(2)) || !strings.Contains(got, `"count":1,`) {
			t.Errorf("missing %s", got)
		}
		if _, got := s.raw(post("/get?values=0", `{"hashes":["`+log.evs[2].Hash.String()+`"]}`)); got != `{"events":[`+notice(2)+"]}\n" {
			t.Errorf("by hash %s", got)
		}
		if got := body(t, s.get("/events?topic=a&values=1")); !strings.Contains(got, string(log.evs[2].Line())) {
			t.Errorf("with values %s", got)
		}
		fs, closer := s.stream("/events?topic=*&values=0")
		defer closer.Close()
		for i := range 5 {
			if i == 3 {
				fs.want(t, wire.LiveEvent, 3)
				if _, err := log.Append(t.Context(), []event.Draft{{User: "a", Path: "q", Type: event.Del}}); err != nil {
					t.Fatal(err)
				}
				log.put(t, "a", "q", 1)
			}
			f, err := fs.next()
			if err != nil || f.data != notice(i) || f.event != string(log.evs[i].Type) || f.id != log.cursor(log.evs[i].ID).String() {
				t.Fatalf("frame %d is %q, %v, want %s", i, f, err, notice(i))
			}
		}
	})
}
