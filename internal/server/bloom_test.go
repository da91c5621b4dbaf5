package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// socket serves log over a real socket.
func socket(t *testing.T, log Log) (*Server, string) {
	s := New(log, Config{Loopback: true})
	h := httptest.NewServer(s)
	h.Config.ErrorLog = quiet
	t.Cleanup(func() { s.Stop(); h.Close() })
	return s, h.URL
}

// tryPost makes a request and returns its whole response.
func tryPost(ctx context.Context, url, kind string, body []byte) (*http.Response, []byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	r.Header.Set("Content-Type", kind)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, b, err
}

// A framePeer asks a server.
type framePeer struct{ url string }

func (p framePeer) Ask(ctx context.Context, request []byte) ([]byte, error) {
	resp, b, err := tryPost(ctx, p.url, wire.Frames, request)
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusRequestEntityTooLarge:
		return nil, &reconcile.FrameError{TooLarge: true, Detail: string(b)}
	case resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != wire.Frames:
		return nil, fmt.Errorf("%s: %s", resp.Status, b)
	}
	return b, nil
}

// A half is one side's part of the log: the even events except the last, and two events
// that the log does not have.
func half(log *memLog) (items []reconcile.Item, missing int) {
	for _, ev := range log.filter(topicsOf(fatal{}, "a"), 0, event.MaxID) {
		if ev.ID%2 == 0 {
			items = append(items, reconcile.Item{ID: ev.ID, Time: ev.Time, Hash: ev.Hash})
		} else {
			missing++
		}
	}
	items = slices.Insert(items, 3, reconcile.Item{ID: items[2].ID + 1, Hash: event.Hash{1}})
	return items, missing
}

type fatal struct{}

func (fatal) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// Every strategy finds the difference over HTTP, with and without ids.
func TestNegotiate(t *testing.T) {
	log := newLog()
	log.put(t, "a", "p", 200)
	log.put(t, "b", "p", 20)
	log.put(t, "a", "q", 1)
	_, url := socket(t, log)
	items, missing := half(log)
	var hashes []event.Hash
	for _, it := range items {
		hashes = append(hashes, it.Hash)
	}
	all := window.Span{To: event.MaxID}
	for _, strategy := range []reconcile.Strategy{reconcile.Auto, reconcile.Gaps, reconcile.List, reconcile.Bloom, reconcile.Sketch, reconcile.Inverse, reconcile.Exact} {
		for name, set := range map[string]reconcile.Set{
			"ids":    reconcile.FromItems(all, slices.Clone(items)),
			"hashes": reconcile.FromHashes(all, slices.Clone(hashes)),
		} {
			res, err := reconcile.Negotiate(t.Context(), set, framePeer{url + "/bloom?topic=a"}, reconcile.Config{Strategy: strategy})
			if err != nil {
				t.Fatalf("%s, %s: %v", strategy, name, err)
			}
			pulled := 0
			for _, span := range res.Pull {
				pulled += len(log.filter(topicsOf(t, "a"), span.From, span.To))
			}
			if !res.Proven || len(res.Missing)+pulled != missing || len(res.Extra) != 1 || res.Span.To != log.Head() {
				t.Errorf("%s, %s: %d missing, %d to be pulled, %d extra, %s: %s", strategy, name, len(res.Missing), pulled, len(res.Extra), res.Outcome, res.Why)
			}
		}
	}
}

// Stub requests follow the rules of all reads, and leave out events that cannot be rebuilt
// from a stub.
func TestStubFrames(t *testing.T) {
	log := newLog()
	log.put(t, "a", "p", 5)
	log.put(t, "b", "p", 4)
	_, url := socket(t, log)
	ask := func(req *reconcile.StubRequest) (int, []byte) {
		resp, b, err := tryPost(t.Context(), url+"/bloom?topic=a", wire.Frames, req.AppendTo(nil))
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, b
	}
	all := log.filter(topicsOf(t, "a"), 0, event.MaxID)
	f, err := reconcile.NewBloom(reconcile.FromHashes(window.Span{}, []event.Hash{all[1].Hash}).Items(), 1, 20, reconcile.Salt{1})
	if err != nil {
		t.Fatal(err)
	}
	places := func(req *reconcile.StubRequest) (ids []event.ID) {
		status, b := ask(req)
		resp, err := reconcile.ParseStubs(b, req, reconcile.Limits{})
		if status != 200 || err != nil || resp.To != req.Span.To {
			t.Fatalf("%d %q, %v", status, b, err)
		}
		for _, s := range resp.Stubs {
			if ev := all[s.ID-1]; s.Time != ev.Time || s.Short != req.Short(ev.Hash) {
				t.Errorf("%+v of %s", s, ev.Line())
			}
			ids = append(ids, s.ID)
		}
		return ids
	}
	for _, c := range []struct {
		req  reconcile.StubRequest
		want []event.ID
	}{
		{reconcile.StubRequest{Span: window.Span{To: 9}}, []event.ID{1, 2, 3, 4, 5}},
		{reconcile.StubRequest{Span: window.Span{From: 2, To: 4}}, []event.ID{3, 4}},
		{reconcile.StubRequest{Span: window.Span{From: 4, To: 4}}, nil},
		{reconcile.StubRequest{Span: window.Span{To: 9}, Filter: f}, []event.ID{2}},
	} {
		c.req.Width = 3
		if got := places(&c.req); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.req.Span, got, c.want)
		}
	}
	log.evs[2].Extra = []byte(`"origin":"x"`)
	if got := places(&reconcile.StubRequest{Span: window.Span{To: 9}, Width: 3}); !slices.Equal(got, []event.ID{1, 2, 4, 5}) {
		t.Errorf("with an event that says more: %v", got)
	}
	log.horizon = 3
	for _, c := range []struct {
		span   window.Span
		status int
	}{{window.Span{From: 2, To: 9}, 410}, {window.Span{From: 3, To: 10}, 409}, {window.Span{From: 10, To: 10}, 409}} {
		if status, b := ask(&reconcile.StubRequest{Span: c.span, Width: 3}); status != c.status {
			t.Errorf("%s: %d %s, want %d", c.span, status, b, c.status)
		}
	}
}

// Comparisons follow the rules of all reads.
func TestNegotiatePositions(t *testing.T) {
	log := newLog()
	log.put(t, "a", "p", 9)
	log.horizon = 3
	_, url := socket(t, log)
	ask := func(req reconcile.Request) (int, string) {
		resp, b, err := tryPost(t.Context(), url+"/bloom?id=a/p", wire.Frames, req.AppendTo(nil))
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	for _, c := range []struct {
		req    reconcile.Request
		status int
	}{
		{reconcile.Request{Shared: true, Span: window.Span{From: 3, To: event.MaxID}}, 200},
		{reconcile.Request{Span: window.Span{From: 3, To: 9}}, 200},
		{reconcile.Request{Shared: true, Span: window.Span{From: 2, To: event.MaxID}}, 410},
		{reconcile.Request{Span: window.Span{From: 0, To: 9}}, 410},
		{reconcile.Request{Shared: true, Span: window.Span{From: 3, To: 10}}, 409},
		{reconcile.Request{Span: window.Span{From: 3, To: 10}}, 409},
		{reconcile.Request{Span: window.Span{From: 10, To: event.MaxID}}, 409},
		{reconcile.Request{Shared: true, Span: window.Span{From: 3, To: event.MaxID}, Sum: reconcile.Sum{Count: 1, Last: 10}}, 409},
	} {
		if status, text := ask(c.req); status != c.status {
			t.Errorf("%s: %d %s, want %d", c.req.Span, status, text, c.status)
		}
	}
	defer func(n int) { maxHashes = n }(maxHashes)
	maxHashes = 5
	if status, text := ask(reconcile.Request{Span: window.Span{From: 3, To: 9}}); status != 413 {
		t.Errorf("6 hashes of 5: %d %s", status, text)
	}
}

// One comparison too many is refused, with Retry-After.
func TestComparingIsBounded(t *testing.T) {
	log := newLog()
	log.put(t, "a", "p", 3)
	s, url := socket(t, log)
	defer func(d time.Duration) { compareWait = d }(compareWait)
	compareWait = time.Millisecond
	for range maxComparing {
		s.comparing <- struct{}{}
	}
	resp, b, err := tryPost(t.Context(), url+"/bloom", "", []byte(`{"items":[{"topic":"a"}]}`))
	if err != nil || resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("%v %s, %v", resp, b, err)
	}
	<-s.comparing
	if resp, b, err = tryPost(t.Context(), url+"/bloom", "", []byte(`{"items":[{"topic":"a"}]}`)); err != nil || resp.StatusCode != 200 {
		t.Errorf("%v %s, %v", resp, b, err)
	}
}

// A client that compares as much as it may keeps nobody else from comparing, and its requests that wait
// for its own turns take none of the others.
func TestComparingOfOneClient(t *testing.T) {
	limitedBubble(t, wire.Rates{}, func(t *testing.T, s *served, _ *memLog, token func(string) string) {
		turns, part := s.comparers.join("subject alice")
		for range maxOwnComparing {
			turns <- struct{}{}
			s.comparing <- struct{}{}
		}
		answers := make(chan int)
		alice := token("alice")
		for range 2 * maxComparing {
			go func() {
				resp := s.get("/bloom?topic=a", "Authorization", alice)
				body(t, resp)
				answers <- resp.StatusCode
			}()
		}
		synctest.Wait()
		began := time.Now()
		if resp := s.get("/bloom?topic=a", "Authorization", token("bob")); resp.StatusCode != http.StatusOK || time.Since(began) > 0 {
			t.Errorf("another client: %s after %s", resp.Status, time.Since(began))
		}
		for range 2 * maxComparing {
			if status := <-answers; status != http.StatusTooManyRequests {
				t.Errorf("status %d", status)
			}
		}
		<-turns
		if resp := s.get("/bloom?topic=a", "Authorization", alice); resp.StatusCode != http.StatusOK {
			t.Errorf("with a turn: %s", resp.Status)
		}
		part()
		if len(s.comparers.of) > 0 || len(s.comparing) != maxOwnComparing {
			t.Errorf("%d clients are kept, %d turns", len(s.comparers.of), len(s.comparing))
		}
	})
}

// On a server without limits, all clients may be behind one proxy, and no request waits for a turn of its own
// client.
func TestComparingWithoutLimits(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *served, _ *memLog) {
		for range maxComparing {
			s.comparing <- struct{}{}
		}
		answers := make(chan int)
		for range maxComparing {
			go func() {
				resp := s.get("/bloom?topic=a")
				body(t, resp)
				answers <- resp.StatusCode
			}()
		}
		synctest.Wait()
		if n := len(s.comparers.of); n > 0 {
			t.Errorf("requests wait for turns of %d clients", n)
		}
		for range maxComparing {
			<-s.comparing
		}
		for range maxComparing {
			if status := <-answers; status != http.StatusOK {
				t.Errorf("status %d", status)
			}
		}
	})
}

// A reader that does not take its response keeps nobody else from comparing, in neither form.
func TestComparingWithSlowReaders(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *served, log *memLog) {
		log.put(t, "a", "p", 8000)
		req := reconcile.Request{Shared: true, Span: window.Span{To: event.MaxID}, Back: 10}
		frames := string(req.AppendTo(nil))
		for kind, body := range map[string]string{wire.JSON: `{"items":[{"topic":"a","have":["` + strings.Repeat("0", 64) + `"]}]}`, wire.Frames: frames} {
			target := "/bloom"
			if kind == wire.Frames {
				target += "?topic=a"
			}
			request := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", target, kind, len(body), body)
			for range maxComparing {
				conn := s.dial()
				defer conn.Close()
				if _, err := io.WriteString(conn, request); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
			if resp, text := s.raw(strings.ReplaceAll(request, "\r\n", "\n")); resp.StatusCode != http.StatusOK || len(text) < 4096 {
				t.Errorf("%s: %s, %d bytes", kind, resp.Status, len(text))
			}
		}
	})
}

// With hashes and inverse filters, of storages and of topics, missing and unknown are exact.
// With a bloom filter, they contain no wrong events.
func TestBloomJSON(t *testing.T) {
	log := newLog()
	log.put(t, "a", "p", 50)
	log.put(t, "a", "q", 50)
	_, url := socket(t, log)
	var salt reconcile.Salt
	rand.Read(salt[:])
	var have, all []event.Hash
	for _, ev := range log.filter(topicsOf(t, "a/p"), 0, event.MaxID) {
		if ev.ID%5 > 0 {
			have = append(have, ev.Hash)
		}
		all = append(all, ev.Hash)
	}
	slices.SortFunc(all, event.Hash.Compare)
	stranger := event.Hash{9}
	have = append(have, stranger)
	set := reconcile.FromHashes(window.Span{To: event.MaxID}, slices.Clone(have))
	inverse, err := reconcile.NewInverse(set.Items(), uint64(len(have)), 4096, salt)
	if err != nil {
		t.Fatal(err)
	}
	bloom, err := reconcile.NewBloom(set.Items(), uint64(len(have)), 10, salt)
	if err != nil {
		t.Fatal(err)
	}
	list, _ := json.Marshal(have)
	frame := func(f *reconcile.Filter) string { return wire.EncodeFilter(f.AppendTo(nil)) }
	body := fmt.Sprintf(`{"items":[{"id":"a/p","have":%s},{"id":"a/p","bloomFilter":"%s"},{"topic":"a/p","bloomFilter":"%s","count":41,"back":true}]}`,
		list, frame(inverse), frame(bloom))
	resp, b, err := tryPost(t.Context(), url+"/bloom", "application/json", []byte(body))
	var answers wire.BloomAnswers
	if err != nil || resp.StatusCode != 200 || json.Unmarshal(b, &answers) != nil || len(answers.Items) != 3 {
		t.Fatalf("%v %s, %v", resp, b, err)
	}
	// The slots of an inverse filter may be shared, so it forgets now and then, and a bloom
	// filter takes one event for another: what they have not seen is what is missing.
	for i, seen := range []func(event.Hash) bool{func(h event.Hash) bool { return slices.Contains(have, h) }, inverse.Seen, bloom.Seen} {
		var missing, unknown []event.Hash
		for _, h := range all {
			if !seen(h) {
				missing = append(missing, h)
			}
		}
		if i < 2 && seen(stranger) {
			unknown = []event.Hash{stranger}
		}
		if a := answers.Items[i]; a.Count != 50 || !slices.Equal(a.Missing, missing) || !slices.Equal(a.Unknown, unknown) {
			t.Errorf("item %d: %d, missing %v, unknown %v; want %v, %v", i, a.Count, a.Missing, a.Unknown, missing, unknown)
		}
	}
	raw, err := wire.ParseFilterText(answers.Items[2].Filter)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := reconcile.ParseFilter(raw, reconcile.Limits{})
	if err != nil || theirs.Count != 50 {
		t.Fatalf("the server's filter is of %+v, %v", theirs, err)
	}
	for _, h := range have {
		if h != stranger && !theirs.Seen(h) {
			t.Errorf("the server's filter does not have %s", h)
		}
	}
}

// A reader that sends a filter or hashes gets the other events, as pages, lines and stubs.
func TestGetKnown(t *testing.T) {
	log := newLog()
	log.put(t, "a", "p", 20)
	log.put(t, "a", "q", 5)
	_, url := socket(t, log)
	evs := log.filter(topicsOf(t, "a/p"), 0, event.MaxID)
	var have []event.Hash
	for _, ev := range evs[:15] {
		have = append(have, ev.Hash)
	}
	list, _ := json.Marshal(have)
	body := fmt.Appendf(nil, `{"items":[{"id":"a/p","have":%s},"a/q"]}`, list)
	var page struct {
		Events []wire.Stub
		Count  int
		Digest window.Digest
	}
	resp, b, err := tryPost(t.Context(), url+"/get", "", body)
	if err != nil || json.Unmarshal(b, &page) != nil || len(page.Events) != 10 || page.Count != 25 || page.Events[0].ID != 16 {
		t.Errorf("%v %s, %v", resp, b, err)
	}
	if resp.Header.Get(wire.HeaderCount) != "25" || resp.Header.Get(wire.HeaderDigest) != page.Digest.String() {
		t.Errorf("headers %v", resp.Header)
	}
	resp, b, err = tryPost(t.Context(), url+"/get?stubs=1", "", body)
	if err != nil || json.Unmarshal(b, &page) != nil || len(page.Events) != 25 || bytes.Count(b, []byte(`"value"`)) != 10 {
		t.Errorf("%v %s, %v", resp, b, err)
	}
	for i, s := range page.Events[:15] {
		if s != (wire.Stub{ID: evs[i].ID, Time: evs[i].Time, Hash: evs[i].Hash}) {
			t.Errorf("stub %+v of %s", s, evs[i].Line())
		}
	}
}

// hostileFilters are filters that bloom/v3's own decoder would panic, die, hang or lie
// on, and inverse ones like them.
func hostileFilters() map[string][]byte {
	salt := make([]byte, 16)
	u64 := func(v ...uint64) (b []byte) {
		for _, v := range v {
			for i := 56; i >= 0; i -= 8 {
				b = append(b, byte(v>>i))
			}
		}
		return b
	}
	frame := func(kind byte, body ...[]byte) []byte {
		all := bytes.Join(body, nil)
		b := []byte{0xf5, 0x72, 1, kind}
		n := len(all)
		for ; n > 127; n >>= 7 {
			b = append(b, byte(n)|0x80)
		}
		return append(append(b, byte(n)), all...)
	}
	one, ones := []byte{1}, bytes.Repeat([]byte{0xff}, 8)
	bloom := func(m, k, length uint64, words ...byte) []byte {
		return frame(4, salt, one, u64(m, k, length), words)
	}
	return map[string][]byte{
		"bitset of 2^63":    bloom(64, 1, 1<<63),
		"bitset of 2^48":    bloom(1<<48, 1, 1<<48),
		"bitset of 2^37":    bloom(1<<37, 1, 1<<37, make([]byte, 8)...),
		"k of zero":         bloom(64, 0, 64, make([]byte, 8)...),
		"k of 2^40":         bloom(64, 1<<40, 64, make([]byte, 8)...),
		"all ones":          bloom(64, 1, 64, ones...),
		"m of zero":         bloom(0, 1, 0),
		"bits after m":      bloom(65, 1, 65, append(make([]byte, 8), 0x80, 0, 0, 0, 0, 0, 0, 0)...),
		"trailing bytes":    bloom(64, 1, 64, make([]byte, 9)...),
		"half a header":     {0xf5, 0x72, 1},
		"another version":   {0xf5, 0x72, 9, 4, 0},
		"a length of 2^62":  {0xf5, 0x72, 1, 4, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40},
		"the zero value":    frame(4, salt, []byte{0}, u64(0, 0, 0)),
		"slots of 2^40":     frame(6, salt, one, []byte{0x80, 0x80, 0x80, 0x80, 0x80, 0x20}),
		"used without hash": frame(6, salt, one, []byte{8, 0xff}),
		"text":              []byte("null"),
	}
}

// Hostile filters and frames are refused and cost nothing, and the server keeps running.
func TestHostileFrames(t *testing.T) {
	log := newLog()
	log.put(t, "a", "p", 5)
	_, url := socket(t, log)
	reads := log.reads.Load()
	where := (&reconcile.StubRequest{Span: window.Span{To: 5}, Width: 5}).AppendTo(nil)
	for name, body := range map[string][]byte{
		"cut":                where[:20],
		"a byte more":        append(bytes.Clone(where), 0),
		"a width of 9":       bytes.Replace(where, []byte{19, 5}, []byte{19, 9}, 1),
		"a backward range":   bytes.Replace(where, []byte{5, 0, 5}, []byte{5, 6, 5}, 1),
		"a summary after it": append(bytes.Clone(where), (&reconcile.Request{Span: window.Span{To: 5}}).AppendTo(nil)...),
	} {
		if resp, b, err := tryPost(t.Context(), url+"/bloom?topic=a", wire.Frames, body); err != nil || resp.StatusCode != 400 {
			t.Errorf("%s: %v %s, %v", name, resp, b, err)
		}
	}
	sum := (&reconcile.Request{Span: window.Span{To: event.MaxID}, Sum: reconcile.Sum{Count: 1}}).AppendTo(nil)
	for name, filter := range hostileFilters() {
		text := wire.EncodeFilter(filter)
		for target, body := range map[string]string{
			"/bloom?topic=a": string(sum) + string(filter),
			"/bloom?id=a/p":  string(where) + string(filter),
			"/bloom?topic=*": string(filter),
			"/bloom":         `{"items":[{"topic":"a","bloomFilter":"` + text + `"}]}`,
			"/get":           `{"items":[{"id":"a/p","bloomFilter":"` + text + `"}]}`,
		} {
			kind := wire.JSON
			if strings.Contains(target, "?") {
				kind = wire.Frames
			}
			if resp, b, err := tryPost(t.Context(), url+target, kind, []byte(body)); err != nil || resp.StatusCode != 400 {
				t.Errorf("%s to %s: %v %s, %v", name, target, resp, b, err)
			}
		}
		for _, target := range []string{"/bloom?topic=a&bloomFilter=", "/get?id=a/p&bloomFilter="} {
			r, err := http.Get(url + target + text) //nolint:noctx // it is answered
			if err != nil || r.StatusCode != 400 {
				t.Errorf("%s to GET %s: %v, %v", name, target, r, err)
			}
			r.Body.Close()
		}
	}
	for target, body := range map[string][]byte{
		"/bloom?topic=a": make([]byte, 9<<20),
		"/bloom":         append([]byte(`{"items":[{"topic":"a","bloomFilter":"`), bytes.Repeat([]byte("A"), 7<<20)...),
		"/get":           fmt.Appendf(nil, `{"hashes":[%s"%064d"]}`, strings.Repeat(fmt.Sprintf(`"%064d",`, 0), wire.MaxHashes), 0),
	} {
		resp, b, err := tryPost(t.Context(), url+target, wire.Frames, body)
		if target == "/bloom" {
			body = append(body, `"}]}`...)
			resp, b, err = tryPost(t.Context(), url+target, wire.JSON, body)
		}
		if err == nil && resp.StatusCode != 413 {
			t.Errorf("%d bytes to %s: %d %.200s, want 413", len(body), target, resp.StatusCode, b)
		}
	}
	if n := log.reads.Load() - reads; n > 0 {
		t.Errorf("the log was read %d times", n)
	}
	resp, b, err := tryPost(t.Context(), url+"/bloom?topic=a", wire.Frames, sum)
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("afterwards: %v %s, %v", resp, b, err)
	}
}

func linesOf(evs []event.Event) string { return string(appendLines(nil, evs)) }

// The client in JavaScript, which shares no code with this one, finds the difference.
func TestFilterClient(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not there")
	}
	log := newLog()
	log.put(t, "a", "p", 60)
	log.put(t, "b", "p", 10)
	_, url := socket(t, log)
	all := log.filter(topicsOf(t, "a"), 0, event.MaxID)
	held := slices.DeleteFunc(slices.Clone(all), func(ev event.Event) bool { return ev.ID%4 == 1 })
	other := event.Draft{User: "a", Path: "p", Type: event.Put, Key: "x", Value: []byte(`"elsewhere"`)}
	held = append(held, event.New(999, 1, other, other.Hash()))
	cmd := exec.CommandContext(t.Context(), node, "../../testdata/reconcile/client.mjs", url, "a")
	cmd.Stdin = strings.NewReader(linesOf(held))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	want := linesOf(append(slices.Clone(all), held[len(held)-1]))
	var said struct {
		Round   int
		Unknown []event.Hash
	}
	if err := json.Unmarshal(stderr.Bytes(), &said); err != nil || len(said.Unknown) != 1 || said.Unknown[0] != other.Hash() {
		t.Errorf("%v: %s", err, &stderr)
	}
	if string(out) != want {
		t.Errorf("%d lines in %d rounds, want %d", bytes.Count(out, []byte("\n")), said.Round, len(all)+1)
	}
}

// The specification has exactly the commands with curl, jq and sha256sum that run here.
func TestListConversation(t *testing.T) {
	for _, tool := range []string{"sh", "curl", "jq", "xxd", "sha256sum"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool + " is not there")
		}
	}
	text, err := os.ReadFile(protocolFile)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "    $ jq -c '{items:")
	rest, _, ok2 := strings.Cut(rest, "\n\n")
	if !ok || !ok2 {
		t.Fatal("docs/protocol.md does not have the conversation")
	}
	script := "set -e\n" + strings.NewReplacer("\n    $ ", "\n", "\n    >   ", "\n").Replace("jq -c '{items:"+rest) + "\n"
	log := exampleLog(t)
	log.horizon = 0
	_, url := socket(t, log)
	dir := t.TempDir()
	all := log.filter(topicsOf(t, "alice/posts/1$"), 0, event.MaxID)
	if err := os.WriteFile(filepath.Join(dir, "mine"), []byte(linesOf(all[1:])), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "SERVER="+url, "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lines := strings.Fields(string(out))
	if len(lines) != 2 || lines[0] != lines[1] {
		t.Errorf("said %q", lines)
	}
	mine, err := os.ReadFile(filepath.Join(dir, "mine"))
	if err != nil || string(mine) != linesOf(all) {
		t.Errorf("%v: has\n%s", err, mine)
	}
}
