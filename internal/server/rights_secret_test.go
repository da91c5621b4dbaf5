package server

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/wire"
)

// TestForbiddenOrMissing: what is forbidden and what does not exist look the same.
func TestForbiddenOrMissing(t *testing.T) {
	log, _ := guardedLog(t)
	ring := newKeyring(t, auth.Config{})
	s, stop := serve(t, log, Config{Guard: ring.guard})
	defer stop()
	token := ring.grant([]string{"alice"}, []string{"alice"}, nil)
	for i := range questions {
		q := &questions[i]
		if q.right != "read" && q.right != "write" {
			continue
		}
		answer := func(name string) string {
			resp, text := q.ask(s, q.method, topicsOf(t, name)[0], byHeader, token)
			resp.Header.Del("Date")
			return strings.ReplaceAll(fmt.Sprint(resp.Status, resp.Header, text), name, "TOPIC")
		}
		if there, missing := answer("bob/posts/1$"), answer("eve/posts/1$"); there != missing {
			t.Errorf("%s %s:\n%s\n%s", q.method, q.route, there, missing)
		}
	}
}

// TestReadByHashOfOthers: a hash names no topic, so events that are not covered are left out, as
// if they did not exist.
func TestReadByHashOfOthers(t *testing.T) {
	log, evs := guardedLog(t)
	ring := newKeyring(t, auth.Config{Public: topicsOf(t, "carol")})
	s, stop := serve(t, log, Config{Guard: ring.guard})
	defer stop()
	unknown := event.Hash{1}
	ask := func(token, accept string, hashes ...event.Hash) string {
		var list []string
		for _, h := range hashes {
			list = append(list, fmt.Sprintf("%q", h))
		}
		headers := "Content-Type: application/json\nAccept: " + accept + "\n"
		if token != "" {
			headers += "Authorization: " + bearer(token) + "\n"
		}
		body := `{"hashes":[` + strings.Join(list, ",") + `]}`
		resp, text := s.raw(fmt.Sprintf("POST /get HTTP/1.1\nHost: localhost\n%sContent-Length: %d\n\n%s", headers, len(body), body))
		if resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status, text)
		}
		resp.Header.Del("Date")
		return fmt.Sprint(resp.Header, text)
	}
	all := make([]event.Hash, len(evs))
	for i := range evs {
		all[i] = evs[i].Hash
	}
	for _, accept := range []string{wire.JSON, wire.NDJSON} {
		for granted, want := range matching {
			text := ask(ring.grant([]string{granted}, nil, nil), accept, all...)
			for i := range evs {
				public := guarded[i].User == "carol"
				if has := strings.Contains(text, evs[i].Hash.String()); has != (slices.Contains(want, i) || public) {
					t.Errorf("with %s, event %d is sent: %v", granted, i, has)
				}
			}
		}
		writer := ring.grant(nil, []string{"*"}, nil)
		if a, b := ask(writer, accept, all[0]), ask(writer, accept, unknown); a != b {
			t.Errorf("an event of others and no event differ:\n%s\n%s", a, b)
		}
		if text := ask("", accept, all...); strings.Count(text, `"hash"`) != 1 || !strings.Contains(text, "carol") {
			t.Errorf("without a token: %s", text)
		}
	}
}

// TestForbiddenBatch: a batch with one storage that is not covered appends nothing.
func TestForbiddenBatch(t *testing.T) {
	log, evs := guardedLog(t)
	ring := newKeyring(t, auth.Config{})
	s, stop := serve(t, log, Config{Guard: ring.guard})
	defer stop()
	body := `{"user":"alice","path":"a","value":1}` + "\n" + `{"user":"bob","path":"b","value":2}` + "\n"
	resp, text := s.raw(fmt.Sprintf("POST /set HTTP/1.1\nHost: localhost\nAuthorization: %s\nContent-Length: %d\n\n%s",
		bearer(ring.grant(nil, []string{"alice"}, nil)), len(body), body))
	if resp.StatusCode != http.StatusForbidden || !strings.Contains(text, "bob/b$") || int(log.Head()) != len(evs) {
		t.Errorf("%s %s, head %s", resp.Status, text, log.Head())
	}
}

// TestPublic: without a token, only public topics can be read, and the answer for others
// asks for a token.
func TestPublic(t *testing.T) {
	log, _ := guardedLog(t)
	ring := newKeyring(t, auth.Config{Public: topicsOf(t, "carol")})
	s, stop := serve(t, log, Config{Guard: ring.guard})
	defer stop()
	for target, want := range map[string]int{
		"/events?topic=carol&limit=9": 200, "/events?topic=carol/x&limit=9": 200, "/": 200,
		"/events?topic=alice": 401, "/events?topic=*": 401, "/snapshot?topic=bob": 401,
	} {
		resp := s.get(target)
		if text := body(t, resp); resp.StatusCode != want || (want == 401) != (resp.Header.Get("WWW-Authenticate") == `Bearer realm="rstream"`) {
			t.Errorf("%s: %s, %v, %s", target, resp.Status, resp.Header, text)
		}
	}
	if resp, text := s.raw(post("/set/carol/x", `{"value":1}`)); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("%s %s", resp.Status, text)
	}
}

// TestUnruledRoute: a handler that forgets to ask sends nothing.
func TestUnruledRoute(t *testing.T) {
	ring := newKeyring(t, auth.Config{})
	s, stop := serve(t, newLog(), Config{Guard: ring.guard})
	defer stop()
	s.paths["other"] = methods{http.MethodGet: func(w http.ResponseWriter, _ *http.Request) *wire.Error {
		_, _ = io.WriteString(w, "secret")
		return nil
	}}
	if resp, err := s.tryGet(t.Context(), "/forgotten", "Authorization", bearer(ring.grant([]string{"*"}, []string{"*"}, nil))); err == nil {
		t.Errorf("%s: %s", resp.Status, body(t, resp))
	}
}

// TestStrangersLearnNoHead: requests that need no token tell nothing of the log but its id.
func TestStrangersLearnNoHead(t *testing.T) {
	log, _ := guardedLog(t)
	ring := newKeyring(t, auth.Config{})
	s, stop := serve(t, log, Config{Guard: ring.guard})
	defer stop()
	for _, request := range []string{"GET /healthz", "HEAD /readyz", "OPTIONS /events", "OPTIONS /set/bob/x", "OPTIONS /", "OPTIONS /none", "GET /events?topic=bob"} {
		for _, held := range []string{"0000000000001", "000000000000Z", "0000000000001.ABCDE.FGHJK0", "x"} {
			resp, text := s.raw(request + " HTTP/1.1\nHost: localhost\nConnection: close\nRstream-Held: " + held + "\n\n")
			if resp.Header.Get(wire.HeaderHead) != "" || resp.StatusCode == http.StatusConflict || strings.Contains(text, log.Head().String()) {
				t.Errorf("%s, %s: %s, %v, %s", request, held, resp.Status, resp.Header, text)
			}
		}
	}
}
