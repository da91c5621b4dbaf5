package deliver

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// newTestWebhook returns a webhook to a handler of this process.
func newTestWebhook(t *testing.T, cfg WebhookConfig, h http.HandlerFunc) *Webhook {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	cfg.URL, cfg.Private = strings.Replace(srv.URL, "http://", "http://ann:pass@", 1)+"/hook", true
	w, err := NewWebhook(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// A request has the lines, the key and a signature that others can check.
func TestWebhookRequest(t *testing.T) {
	var got *http.Request
	var body []byte
	h := func(_ http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
	}
	one, two := testEvent(1, "x", "a"), testEvent(2, "y", "b")
	for _, c := range []struct {
		lines      bool
		evs        []*event.Event
		body, kind string
	}{
		{false, []*event.Event{one}, string(one.Line()), "application/json"},
		{true, []*event.Event{one}, string(one.Line()) + "\n", "application/x-ndjson"},
		{true, []*event.Event{one, two}, string(one.Line()) + "\n" + string(two.Line()) + "\n", "application/x-ndjson"},
	} {
		secret := []byte("0123456789abcdef")
		w := newTestWebhook(t, WebhookConfig{Secret: "whsec_" + base64.StdEncoding.EncodeToString(secret), Lines: c.lines, UserAgent: "rstream/x"}, h)
		if err := w.Worker().Do(t.Context(), &Try{Events: c.evs, Number: 3, Dead: true}); err != nil {
			t.Fatal(err)
		}
		if string(body) != c.body || got.Header.Get("Content-Type") != c.kind || got.Method != http.MethodPost || got.URL.Path != "/hook" {
			t.Errorf("%s %s %s: %q", got.Method, got.URL, got.Header.Get("Content-Type"), body)
		}
		id, at := got.Header.Get("Webhook-Id"), got.Header.Get("Webhook-Timestamp")
		mac := hmac.New(sha256.New, secret)
		io.WriteString(mac, id+"."+at+"."+string(body))
		if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); got.Header.Get("Webhook-Signature") != want {
			t.Errorf("signature %s, want %s", got.Header.Get("Webhook-Signature"), want)
		}
		if key := got.Header.Get("Idempotency-Key"); key != id || len(c.evs) == 1 && key != one.Hash.String() || len(key) != 64 {
			t.Errorf("key %s, id %s", key, id)
		}
		if user, pass, _ := got.BasicAuth(); user != "ann" || pass != "pass" || got.Header.Get("Rstream-Try") != "3" || got.Header.Get("Rstream-Dead") != "1" {
			t.Errorf("headers %v", got.Header)
		}
	}
}

// The status of an answer says how to go on.
func TestWebhookAnswers(t *testing.T) {
	for _, c := range []struct {
		status      int
		after, body string
		want        error // of this type; nil for none
		text        string
	}{
		{200, "", "", nil, ""},
		{204, "", "", nil, ""},
		{302, "", "", errors.New(""), "answered 302 Found; redirects are not followed"},
		{400, "", "no such user\nat all", &RefusedError{}, "answered 400 Bad Request: no such user"},
		{408, "", "", errors.New(""), "answered 408 Request Timeout"},
		{410, "", "", &EndError{}, "answered 410 Gone"},
		{429, "7", "", &AgainError{After: 7 * time.Second}, "answered 429 Too Many Requests"},
		{429, "", "", &AgainError{}, "answered 429 Too Many Requests"},
		{500, "7", "", errors.New(""), "answered 500 Internal Server Error"},
		{503, "", "", errors.New(""), "answered 503 Service Unavailable"},
		{503, "100000000", "", &AgainError{After: time.Hour}, "answered 503 Service Unavailable"},
	} {
		followed := false
		w := newTestWebhook(t, WebhookConfig{}, func(w http.ResponseWriter, r *http.Request) {
			followed = followed || r.URL.Path != "/hook"
			w.Header().Set("Location", "/elsewhere")
			if c.after != "" {
				w.Header().Set("Retry-After", c.after)
			}
			w.WriteHeader(c.status)
			io.WriteString(w, c.body)
		})
		err := w.Worker().Do(t.Context(), &Try{Events: []*event.Event{testEvent(1, "x", "a")}, Number: 1})
		if (err == nil) != (c.want == nil) || err != nil && err.Error() != c.text || followed {
			t.Errorf("%d: %v, want %s", c.status, err, c.text)
		}
		var again, wantAgain *AgainError
		var end, wantEnd *EndError
		var refused, wantRefused *RefusedError
		if errors.As(err, &again) != errors.As(c.want, &wantAgain) || errors.As(err, &end) != errors.As(c.want, &wantEnd) || errors.As(err, &refused) != errors.As(c.want, &wantRefused) {
			t.Errorf("%d: %#v, want %#v", c.status, err, c.want)
		}
		if again != nil && wantAgain != nil && again.After != wantAgain.After {
			t.Errorf("%d: again after %s, want %s", c.status, again.After, wantAgain.After)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"0": 0, "5": 5 * time.Second, "Fri, 20 Nov 2026 10:00:09 GMT": 9 * time.Second, "Fri, 20 Nov 2026 09:00:00 GMT": 0,
		"Fri, 20 Nov 2099 10:00:09 GMT": time.Hour, "99999999999999": time.Hour, "-1": -1, "soon": -1, "": -1,
	} {
		resp := &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {text}}}
		got, again := time.Duration(-1), (*AgainError)(nil)
		if errors.As(answerError(resp, nil, now), &again) {
			got = again.After
		}
		if got != want {
			t.Errorf("Retry-After %q: again after %s, want %s", text, got, want)
		}
	}
}

// An address is checked when a connection is made, so that a name that resolves to one of this
// machine is refused, too.
func TestWebhookPrivate(t *testing.T) {
	called := false
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called = true }))
	defer srv.Close()
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "[::1]"} {
		w, err := NewWebhook(WebhookConfig{URL: strings.Replace(srv.URL, "127.0.0.1", host, 1)})
		if err != nil {
			t.Fatal(err)
		}
		err = w.Worker().Do(t.Context(), &Try{Events: []*event.Event{testEvent(1, "x", "a")}})
		var private *PrivateError
		var end *EndError
		if !errors.As(err, &private) || !errors.As(err, &end) || called {
			t.Errorf("%s: %v", host, err)
		}
	}
	for addr, want := range map[string]bool{
		"8.8.8.8": false, "2606:4700::1111": false, "64:ff9b::808:808": false, "2002:808:808::1": false,
		"10.0.0.1": true, "172.16.5.5": true, "192.168.1.1": true, "169.254.169.254": true, "100.64.0.1": true, "224.0.0.1": true, "255.255.255.255": true, "0.1.2.3": true,
		"198.18.0.1": true, "192.0.0.8": true, "240.0.0.1": true, "fe80::1": true, "fe80::1%eth0": true, "fd00::1": true, "fc00::1": true, "ff02::1": true, "::": true, "::1": true,
		"::ffff:10.0.0.1": true, "64:ff9b::a00:1": true, "64:ff9b::7f00:1": true, "2002:7f00:1::": true, "2002:a00:1::": true, "::7f00:1": true, "fec0::1": true,
		"64:ff9b:1::a00:1": true, "3fff::1": true, "5f00::1": true,
	} {
		if got := isPrivate(netip.MustParseAddr(addr)); got != want {
			t.Errorf("isPrivate(%s) = %t, want %t", addr, got, want)
		}
	}
}

// A host that cannot be reached costs no try, and no error has the URL.
func TestWebhookUnreachable(t *testing.T) {
	srv := httptest.NewServer(nil)
	url := srv.URL + "/secret"
	srv.Close()
	w, err := NewWebhook(WebhookConfig{URL: url, Private: true})
	if err != nil {
		t.Fatal(err)
	}
	err = w.Worker().Do(t.Context(), &Try{Events: []*event.Event{testEvent(1, "x", "a")}})
	var again *AgainError
	if !errors.As(err, &again) || strings.Contains(err.Error(), "secret") {
		t.Errorf("no server: %v", err)
	}
	secure := httptest.NewTLSServer(nil) // its certificate is not known
	defer secure.Close()
	if w, err = NewWebhook(WebhookConfig{URL: secure.URL, Private: true}); err != nil {
		t.Fatal(err)
	}
	if err := w.Worker().Do(t.Context(), &Try{Events: []*event.Event{testEvent(1, "x", "a")}}); !errors.As(err, &again) {
		t.Errorf("a certificate that is not known: %v", err)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the handshake does not end
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if w, err = NewWebhook(WebhookConfig{URL: "https://" + silent.Addr().String(), Private: true}); err != nil {
		t.Fatal(err)
	}
	err = try(t.Context(), 10*time.Millisecond, w.Worker(), &Try{Events: []*event.Event{testEvent(1, "x", "a")}})
	if !errors.As(err, &again) {
		t.Errorf("no connection within the time of a try: %v", err)
	}
	for _, bad := range []string{"", "host/path", "ftp://host", "http://", "http://a b/secret"} {
		if _, err := NewWebhook(WebhookConfig{URL: bad}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("NewWebhook(%q): %v", bad, err)
		}
	}
	if _, err := NewWebhook(WebhookConfig{URL: url, Secret: "whsec_!"}); err == nil {
		t.Error("a secret that is not base64 is accepted")
	}
}

// A batch with bad events is halved until each of them is alone: the others are done, and
// those after it in its storage wait.
func TestWebhookHalves(t *testing.T) {
	s := newListStore(100, 10)
	s.events[41] = testEvent(42, "1", "bad")
	var mu sync.Mutex
	done := map[string]bool{}
	posts := 0
	w := newTestWebhook(t, WebhookConfig{Lines: true}, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		posts++
		if strings.Contains(string(body), `"bad"`) {
			w.WriteHeader(http.StatusUnprocessableEntity)
			return
		}
		for line := range strings.Lines(string(body)) {
			done[line] = true
		}
	})
	var failures []Failure
	err := Run(t.Context(), Config{Store: s, Batches: s.batches, NewWorker: w.Worker, Workers: 2, Batch: 50, Tries: 2, OnFail: func(f Failure) { failures = append(failures, f) }})
	if err != nil {
		t.Fatal(err)
	}
	if len(done) != 99 || posts > 60 {
		t.Errorf("%d events are done after %d requests", len(done), posts)
	}
	alone := slices.DeleteFunc(failures, func(f Failure) bool { return f.Events > 1 })
	if len(alone) != 2 || alone[0].Event.ID != 42 || alone[1].Event.ID != 42 || alone[0].Try != 1 || !alone[1].Dead {
		t.Errorf("failures of single events: %v", alone)
	}
}

// Nothing is posted while the destination asks to be left alone.
func TestWebhookHeldBack(t *testing.T) {
	s := newListStore(20, 20)
	var mu sync.Mutex
	var until time.Time
	busy, early := 0, 0
	w := newTestWebhook(t, WebhookConfig{}, func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if time.Now().Before(until) {
			early++
		}
		if busy < 1 {
			busy++
			until = time.Now().Add(time.Second)
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	var status Status
	if err := Run(context.Background(), Config{Store: s, Batches: s.batches, NewWorker: w.Worker, Tries: 1, OnStatus: func(st Status) { status = st }}); err != nil {
		t.Fatal(err)
	}
	if status.Done != 20 || status.Failed != 0 || busy != 1 || early != 0 {
		t.Errorf("%d done, %d failed, %d times busy, %d requests too early", status.Done, status.Failed, busy, early)
	}
}
