package server

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A keyring signs tokens that its guard accepts.
type keyring struct {
	t     testing.TB
	dir   string
	key   auth.Key
	guard *auth.Guard
	cache map[string]string // tokens that cachedGrant has signed
}

func newKeyring(t testing.TB, cfg auth.Config) *keyring {
	t.Helper()
	k := &keyring{t: t, dir: t.TempDir()}
	k.key = k.newKey()
	cfg.Keys, cfg.Revoked = filepath.Join(k.dir, "keys"), filepath.Join(k.dir, "revoked")
	k.setKeys(k.key)
	k.replace("revoked", "")
	var err error
	if k.guard, err = auth.NewGuard(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *keyring) newKey() auth.Key {
	key, err := auth.NewKey(auth.EdDSA)
	if err != nil {
		k.t.Fatal(err)
	}
	return key
}

func (k *keyring) setKeys(keys ...auth.Key) {
	b, err := auth.MarshalKeys(keys)
	if err != nil {
		k.t.Fatal(err)
	}
	k.replace("keys", string(b))
}

func (k *keyring) replace(name, text string) {
	path := filepath.Join(k.dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		k.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		k.t.Fatal(err)
	}
}

// grant returns a token for the topics, after change has changed its claims.
func (k *keyring) grant(read, write []string, change func(*auth.Claims)) string {
	return k.grantWith(&k.key, read, write, change)
}

func (k *keyring) grantWith(key *auth.Key, read, write []string, change func(*auth.Claims)) string {
	c := auth.NewClaims("tester", auth.Rights{Read: topicsOf(k.t, read...), Write: topicsOf(k.t, write...)}, time.Now(), time.Hour)
	if change != nil {
		change(c)
	}
	token, err := key.Sign(c)
	if err != nil {
		k.t.Fatal(err)
	}
	return token
}

// cachedGrant is grant for tests that need the same token often.
func (k *keyring) cachedGrant(read, write []string, change func(*auth.Claims)) string {
	name := fmt.Sprint(read, write)
	if k.cache[name] == "" {
		if k.cache == nil {
			k.cache = map[string]string{}
		}
		k.cache[name] = k.grant(read, write, change)
	}
	return k.cache[name]
}

func bearer(token string) string { return "Bearer " + token }

// The storages of the log in these tests. Each value, like each name, appears nowhere
// else, so that a search finds it where it must not be.
var guarded = []event.Storage{
	{User: "alice", Path: "posts/1"}, {User: "alice", Path: "posts/12"}, {User: "alice", Path: "notes"},
	{User: "bob", Path: "posts/1"}, {User: "carol", Path: "x"},
}

func guardedLog(t *testing.T) (*memLog, []event.Event) {
	log := newLog()
	for i, st := range guarded {
		d := event.Draft{User: st.User, Path: st.Path, Type: event.Put, Key: fmt.Sprint("key", i), Value: fmt.Appendf(nil, `"value-of-%s"`, st.User+"-"+strings.ReplaceAll(st.Path, "/", "-"))}
		if _, err := log.Append(t.Context(), []event.Draft{d}); err != nil {
			t.Fatal(err)
		}
	}
	return log, slices.Clone(log.evs)
}

// asked is a request for a topic in one form.
type asked struct {
	route, method string
	right         string // read, write, any token, or none
	storage       bool   // the topic must be a storage
	request       func(topic event.Topic) (target, headers, body string)
}

func query(t event.Topic) string { return url.QueryEscape(t.String()) }

// userPath returns the user and the path of an exact topic.
func userPath(t event.Topic) string {
	user, _ := t.User()
	return user + "/" + t.Path()
}

// questions has every route, method and form. TestRights fails if a route or a method of
// the server is missing here.
var questions = func() []asked {
	var all []asked
	add := func(route, method, right string, storage bool, request func(event.Topic) (target, headers, body string)) {
		all = append(all, asked{route, method, right, storage, request})
	}
	plain := func(target string) func(event.Topic) (string, string, string) {
		return func(event.Topic) (string, string, string) { return target, "", "" }
	}
	add("/", "GET", "any", false, plain("/"))
	add("/", "GET", "any", false, func(event.Topic) (string, string, string) { return "/", "Accept: text/html\n", "" })
	add("/healthz", "GET", "none", false, plain("/healthz"))
	add("/readyz", "GET", "none", false, plain("/readyz"))
	add("/metrics", "GET", "absent", false, plain("/metrics"))
	add("/login", "POST", "login", false, plain("/login"))
	add("/logout", "POST", "none", false, plain("/logout"))
	accepts := []string{wire.JSON, wire.NDJSON, wire.SSE}
	for _, accept := range accepts {
		head := "Accept: " + accept + "\n"
		var extras []string
		if accept == wire.SSE {
			extras = []string{"&until=now", "&until=now&values=0", "&until=now&last=1"}
		} else {
			extras = []string{"", "&limit=0", "&limit=2", "&last=1", "&values=0", "&stubs=1"}
		}
		for _, extra := range extras {
			add("/events", "GET", "read", false, func(t event.Topic) (string, string, string) {
				return "/events?topic=" + query(t) + extra, head, ""
			})
			for _, method := range []string{"POST", wire.MethodQuery} {
				add("/events", method, "read", false, func(t event.Topic) (string, string, string) {
					return "/events", head + "Content-Type: " + wire.FormData + "\n", "topic=" + query(t) + extra
				})
			}
			// A second topic that is allowed does not open the first, in either order.
			add("/events", "GET", "read", false, func(t event.Topic) (string, string, string) {
				return "/events?topic=" + query(t) + "&topic=" + url.QueryEscape("alice/posts/1$") + extra, head, ""
			})
			add("/events", "GET", "read", false, func(t event.Topic) (string, string, string) {
				return "/events?topic=" + url.QueryEscape("alice/posts/1$") + "&topic=" + query(t) + extra, head, ""
			})
		}
		if accept == wire.SSE {
			continue
		}
		add("/snapshot", "GET", "read", false, func(t event.Topic) (string, string, string) {
			return "/snapshot?topic=" + query(t), head, ""
		})
	}
	add("/windows", "GET", "read", false, func(t event.Topic) (string, string, string) {
		return "/windows?since=beginning&topic=" + query(t), "", ""
	})
	add("/windows", "GET", "read", false, func(t event.Topic) (string, string, string) {
		return "/windows?since=beginning&sum=1&topic=" + query(t), "If-None-Match: *\n", ""
	})
	for _, extra := range []string{"", "&folders=1", "&limit=1"} {
		add("/storages", "GET", "read", false, func(t event.Topic) (string, string, string) { return "/storages?topic=" + query(t) + extra, "", "" })
	}
	add("/get", "GET", "read", true, func(t event.Topic) (string, string, string) {
		return "/get?id=" + url.QueryEscape(userPath(t)), "", ""
	})
	add("/get", "POST", "read", true, func(t event.Topic) (string, string, string) {
		return "/get", "Content-Type: application/json\n", fmt.Sprintf(`{"items":[{"id":%q}]}`, userPath(t))
	})
	add("/bloom", "GET", "read", true, func(t event.Topic) (string, string, string) {
		return "/bloom?id=" + url.QueryEscape(userPath(t)) + "&count=0", "", ""
	})
	add("/bloom", "POST", "read", true, func(t event.Topic) (string, string, string) {
		return "/bloom", "Content-Type: application/json\n", fmt.Sprintf(`{"items":[{"id":"alice/posts/1","have":[]},{"id":%q,"have":[]}]}`, userPath(t))
	})
	add("/bloom", "POST", "read", false, func(t event.Topic) (string, string, string) {
		return "/bloom?topic=" + query(t), "Content-Type: " + wire.Frames + "\n", "not frames"
	})
	add("/set/", "POST", "write", true, func(t event.Topic) (string, string, string) {
		return "/set/" + userPath(t), "", `{"key":"new","value":1}`
	})
	add("/set", "POST", "write", true, func(t event.Topic) (string, string, string) {
		line := func(user, path string) string {
			return fmt.Sprintf(`{"user":%q,"path":%q,"key":"new","value":1}`+"\n", user, path)
		}
		user, _ := t.User()
		return "/set", "", line("alice", "posts/1") + line(user, t.Path()) + line("alice", "posts/1")
	})
	return all
}()

// allowed says, for each token, which topics it covers. It is written by hand, since it
// checks the code that computes this.
var (
	asks    = []string{"*", "*/posts/1", "alice", "alice/posts", "alice/posts/", "alice/posts/1*", "alice/posts/1$", "alice/notes$", "bob", "bob/posts/1$", "nobody/x$"}
	ofAlice = []string{"alice", "alice/posts", "alice/posts/", "alice/posts/1*", "alice/posts/1$", "alice/notes$"}
	allowed = map[string][]string{
		"*":              asks,
		"alice":          ofAlice,
		"alice/posts":    {"alice/posts", "alice/posts/", "alice/posts/1*", "alice/posts/1$"},
		"alice/posts/":   {"alice/posts/", "alice/posts/1*", "alice/posts/1$"},
		"alice/posts/1*": {"alice/posts/1*", "alice/posts/1$"},
		"alice/posts/1$": {"alice/posts/1$"},
		"*/posts":        {"*/posts/1", "alice/posts", "alice/posts/", "alice/posts/1*", "alice/posts/1$", "bob/posts/1$"},
		"bob":            {"bob", "bob/posts/1$"},
		"nobody":         {"nobody/x$"},
	}
)

// matching says which of guarded a token with one topic covers.
var matching = map[string][]int{
	"*": {0, 1, 2, 3, 4}, "alice": {0, 1, 2}, "alice/posts": {0, 1}, "alice/posts/": {0, 1}, "alice/posts/1*": {0, 1},
	"alice/posts/1$": {0}, "*/posts": {0, 1, 3}, "bob": {3}, "nobody": {},
}

// A bringing is how a request brings its token, as headers in which TOKEN stands for it.
type bringing string

const (
	byHeader bringing = "Authorization: Bearer TOKEN\n"
	byCookie bringing = "Origin: http://localhost\nCookie: other=1; " + plainCookie + "=TOKEN\n"
)

// ask sends a question with a token and reads the answer.
func (q *asked) ask(s *served, method string, topic event.Topic, by bringing, token string) (*http.Response, string) {
	target, headers, body := q.request(topic)
	if token != "" {
		headers += strings.Replace(string(by), "TOKEN", token, 1)
	}
	request := method + " " + target + " HTTP/1.1\nHost: localhost\nConnection: close\n" + headers
	if body != "" {
		request += fmt.Sprintf("Content-Length: %d\n", len(body))
	}
	return s.raw(request + "\n" + body)
}

// secretsOf returns the texts of the log that a bearer of rights to topic must not learn.
func secretsOf(evs []event.Event, topic string) (secrets []string) {
	for i := range evs {
		if !slices.Contains(matching[topic], i) {
			secrets = append(secrets, string(evs[i].Value), evs[i].Hash.String())
		}
	}
	return secrets
}

func checkSecrets(t *testing.T, name string, resp *http.Response, text string, secrets []string) {
	t.Helper()
	all := fmt.Sprint(resp.Header) + text
	for _, secret := range secrets {
		if strings.Contains(all, secret) {
			t.Errorf("%s: the answer tells %s: %s", name, secret, all)
		}
	}
}

// TestRights asks everything with every token, and looks for all that it must not learn.
func TestRights(t *testing.T) {
	log, evs := guardedLog(t)
	ring := newKeyring(t, auth.Config{Issuer: "here", Audience: "log"})
	s, stop := serve(t, log, Config{Guard: ring.guard})
	defer stop()
	checkQuestions(t, s)
	good := func(c *auth.Claims) { c.Issuer, c.Audience = "here", jwt.ClaimStrings{"log"} }
	bad := badTokens(t, ring, good)
	for i := range questions {
		q := &questions[i]
		methods := []string{q.method}
		if q.method == http.MethodGet {
			methods = append(methods, http.MethodHead)
		}
		for _, method := range methods {
			for j, ask := range asks {
				if q.storage && !strings.HasSuffix(ask, "$") {
					continue
				}
				topic := topicsOf(t, ask)[0]
				if ask == "*" || ask == "alice/posts/1$" {
					for name, token := range bad {
						checkUnauthorized(t, s, q, method, topic, byHeader, name, token)
						checkUnauthorized(t, s, q, method, topic, byCookie, name, token)
					}
				}
				for k, granted := range slices.Sorted(maps.Keys(allowed)) {
					// By default, each two of question, ask and grant meet, and a third of all threes.
					if !longtest.Enabled() && (i+j+k)%3 != 0 && granted != ask {
						continue
					}
					for _, right := range []string{"read", "write"} {
						if right == q.right || granted == "*" {
							checkGranted(t, s, ring, q, method, topic, byHeader, granted, right, good, evs)
						}
						if granted == "*" || right == q.right && granted == "alice/posts" { // the rest is checked in the same way
							checkGranted(t, s, ring, q, method, topic, byCookie, granted, right, good, evs)
						}
					}
				}
			}
		}
	}
}

// checkQuestions compares questions with the routes of the server.
func checkQuestions(t *testing.T, s *served) {
	t.Helper()
	have := map[string]bool{}
	for _, q := range questions {
		have[q.method+" "+q.route] = true
	}
	for route, methods := range s.paths {
		for method := range methods {
			if !have[method+" "+route] {
				t.Errorf("no question for %s %s", method, route)
			}
			delete(have, method+" "+route)
		}
	}
	if len(have) > 0 {
		t.Errorf("questions for routes that do not exist: %v", slices.Collect(maps.Keys(have)))
	}
}

// badTokens returns tokens that a server must not accept, and no token.
func badTokens(t *testing.T, ring *keyring, good func(*auth.Claims)) map[string]string {
	all := []string{"*"}
	changed := func(change func(*auth.Claims)) string {
		return ring.grant(all, all, func(c *auth.Claims) { good(c); change(c) })
	}
	stranger := ring.newKey()
	named := stranger
	named.ID = ring.key.ID
	valid := changed(func(*auth.Claims) {})
	parts := strings.Split(valid, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
	return map[string]string{
		"none":           "",
		"expired":        changed(func(c *auth.Claims) { c.ExpiresAt = jwt.NewNumericDate(time.Now().Add(-time.Second)) }),
		"not yet":        changed(func(c *auth.Claims) { c.NotBefore = jwt.NewNumericDate(time.Now().Add(time.Hour)) }),
		"other issuer":   changed(func(c *auth.Claims) { c.Issuer = "there" }),
		"other audience": changed(func(c *auth.Claims) { c.Audience = nil }),
		"without rights": changed(func(c *auth.Claims) { c.Rights = nil }),
		"unknown key":    ring.grantWith(&stranger, all, all, good),
		"stranger's key": ring.grantWith(&named, all, all, good),
		"alg none":       none,
		"cut":            parts[0] + "." + parts[1] + ".",
		"not a token":    "letmein",
	}
}

func checkUnauthorized(t *testing.T, s *served, q *asked, method string, topic event.Topic, by bringing, name, token string) {
	t.Helper()
	resp, text := q.ask(s, method, topic, by, token)
	name = fmt.Sprintf("%s %s of %s with the token %q by %q", method, q.route, topic, name, by)
	if q.right == "none" {
		if resp.StatusCode >= 300 {
			t.Errorf("%s: %s %s", name, resp.Status, text)
		}
		if resp.Header.Get(wire.HeaderHead) != "" && token != "" && method == "" {
			t.Errorf("%s: headers %v", name, resp.Header)
		}
		return
	}
	want := `Bearer realm="rstream", error="invalid_token"`
	if token == "" || q.right == "login" && by == byCookie { // a login does not look at cookies
		want = `Bearer realm="rstream"`
	} else if deleted := resp.Header.Get("Set-Cookie") == "rstream=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"; deleted != (by == byCookie) {
		t.Errorf("%s: the cookie is deleted: %t; %v", name, deleted, resp.Header)
	}
	if resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("WWW-Authenticate") != want {
		t.Errorf("%s: %s, %v, %s", name, resp.Status, resp.Header, text)
	}
	if resp.Header.Get(wire.HeaderHead) != "" || strings.Contains(text, "alice") || token != "" && strings.Contains(text, token) {
		t.Errorf("%s: headers %v, %s", name, resp.Header, text)
	}
}

func checkGranted(t *testing.T, s *served, ring *keyring, q *asked, method string, topic event.Topic, by bringing, granted, right string, good func(*auth.Claims), evs []event.Event) {
	t.Helper()
	var read, write []string
	if right == "read" {
		read = []string{granted}
	} else {
		write = []string{granted}
	}
	resp, text := q.ask(s, method, topic, by, ring.cachedGrant(read, write, good))
	name := fmt.Sprintf("%s %s of %s with the right to %s %s by %q", method, q.route, topic, right, granted, by)
	covers := slices.Contains(allowed[granted], topic.String())
	// Requests for several topics name alice/posts/1$ as well.
	target, _, body := q.request(topic)
	if strings.Contains(target+body, "alice%2Fposts%2F1%24") || strings.Contains(body, `"alice/posts/1"`) || q.route == "/set" {
		covers = covers && slices.Contains(allowed[granted], "alice/posts/1$")
	}
	learns := granted
	if right == "write" {
		learns = "nobody" // whoever may append may not read
	}
	checkSecrets(t, name, resp, text, secretsOf(evs, learns))
	switch {
	case q.right == "absent":
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", name, resp.Status)
		}
	case q.right == "login" && by == byCookie:
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %s", name, resp.Status)
		}
	case q.right == "none" || q.right == "any" || q.right == "login" || q.right == right && covers:
		if resp.StatusCode >= 400 && !(resp.StatusCode == http.StatusBadRequest && body == "not frames") {
			t.Errorf("%s: %s %s", name, resp.Status, text)
		}
	default:
		checkForbidden(t, name, resp, text, method)
	}
}

func checkForbidden(t *testing.T, name string, resp *http.Response, text, method string) {
	t.Helper()
	if resp.StatusCode != http.StatusForbidden || resp.Header.Get("WWW-Authenticate") != `Bearer realm="rstream", error="insufficient_scope"` {
		t.Fatalf("%s: %s, %v, %s", name, resp.Status, resp.Header, text)
	}
	if method == http.MethodHead {
		return
	}
	var e wire.Error
	if err := json.Unmarshal([]byte(text), &e); err != nil || e.Topic == nil || !strings.Contains(e.Detail, e.Topic.String()) {
		t.Errorf("%s: %s", name, text)
	}
}

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

// TestReadByHash: a hash names no topic, so events that are not covered are left out, as
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

// TestStreamsEndWithTheirTokens: streams end at exp, or soon after the server has learned
// of a revocation; others go on.
func TestStreamsEndWithTheirTokens(t *testing.T) {
	for name, end := range map[string]func(ring *keyring, jti string){
		"exp":     func(*keyring, string) { time.Sleep(time.Minute) },
		"revoked": func(ring *keyring, jti string) { ring.replace("revoked", jti+"\n") },
		"key":     func(ring *keyring, _ string) { ring.setKeys(ring.newKey()) },
	} {
		t.Run(name, func(t *testing.T) {
			ring := newKeyring(t, auth.Config{})
			other := ring.newKey()
			ring.setKeys(ring.key, other)
			synctest.Test(t, func(t *testing.T) {
				guard, err := auth.NewGuard(t.Context(), auth.Config{Keys: filepath.Join(ring.dir, "keys"), Revoked: filepath.Join(ring.dir, "revoked")})
				if err != nil {
					t.Fatal(err)
				}
				log := newLog()
				s, stop := serve(t, log, Config{Guard: guard, Heartbeat: time.Hour})
				defer stop()
				log.put(t, "a", "p", 1)
				var jti string
				token := ring.grant([]string{"a"}, nil, func(c *auth.Claims) {
					jti = c.ID
					if name == "exp" {
						c.ExpiresAt = jwt.NewNumericDate(time.Now().Add(time.Minute))
					}
				})
				fs, body := s.stream("/events?topic=a", "Authorization", bearer(token))
				defer body.Close()
				fs.want(t, "PUT", 1)
				fs.want(t, "live", 1)
				kept, keptBody := s.stream("/events?topic=a&since=now", "Authorization", bearer(ring.grantWith(&other, []string{"a"}, nil, nil)))
				defer keptBody.Close()
				kept.want(t, "live", 1)
				began := time.Now()
				if name == "key" {
					ring.setKeys(other)
				} else {
					end(ring, jti)
				}
				if name != "exp" {
					if err := guard.Reload(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				for {
					f, err := fs.next()
					if err == io.EOF {
						break
					}
					if err != nil || f.event != "" {
						t.Fatalf("%q, %v", f, err)
					}
				}
				if took := time.Since(began); name == "exp" && took != time.Minute || name != "exp" && took != 0 {
					t.Errorf("the stream ended after %s", took)
				}
				log.put(t, "a", "p", 1)
				kept.want(t, "PUT", 2)
				resp := s.get("/events?topic=a", "Authorization", bearer(token), "Last-Event-ID", "0000000000001")
				if resp.Body.Close(); resp.StatusCode != http.StatusUnauthorized {
					t.Errorf("the next connection: %s", resp.Status)
				}
			})
		})
	}
}

// TestNothingAfterExp: an event that comes right after exp is not sent.
func TestNothingAfterExp(t *testing.T) {
	ring := newKeyring(t, auth.Config{})
	synctest.Test(t, func(t *testing.T) {
		guard, err := auth.NewGuard(t.Context(), auth.Config{Keys: filepath.Join(ring.dir, "keys")})
		if err != nil {
			t.Fatal(err)
		}
		log := newLog()
		s, stop := serve(t, log, Config{Guard: guard})
		defer stop()
		exp := time.Now().Add(time.Minute)
		fs, body := s.stream("/events?topic=a", "Authorization", bearer(ring.grant([]string{"a"}, nil, func(c *auth.Claims) { c.ExpiresAt = jwt.NewNumericDate(exp) })))
		defer body.Close()
		fs.want(t, "live", 0)
		time.AfterFunc(time.Until(exp), func() { log.put(t, "a", "late", 1) })
		for {
			f, err := fs.next()
			if err == io.EOF {
				return
			}
			if err != nil || f.data != "" {
				t.Fatalf("%q, %v", f, err)
			}
		}
	})
}

// TestStalledReaderWithoutRights: a reader that takes nothing cannot keep its stream.
func TestStalledReaderWithoutRights(t *testing.T) {
	ring := newKeyring(t, auth.Config{})
	synctest.Test(t, func(t *testing.T) {
		guard, err := auth.NewGuard(t.Context(), auth.Config{Keys: filepath.Join(ring.dir, "keys"), Revoked: filepath.Join(ring.dir, "revoked")})
		if err != nil {
			t.Fatal(err)
		}
		log := newLog()
		s, stop := serve(t, log, Config{Guard: guard, WriteTimeout: time.Hour})
		defer stop()
		log.put(t, "a", "p", 500)
		var jti string
		token := ring.grant([]string{"a"}, nil, func(c *auth.Claims) { jti = c.ID })
		conn := s.stall("/events?topic=a", wire.SSE+"\r\nAuthorization: "+bearer(token))
		defer conn.Close()
		readTo(t, conn, "event: PUT\n")
		began := time.Now()
		ring.replace("revoked", jti)
		if err := guard.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		for time.Since(began) < time.Minute { // takes 100 bytes a second
			if _, err := conn.Read(b); err != nil {
				break
			}
			time.Sleep(time.Second)
		}
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("the stream ended after %s", took)
		}
		s.wantConns(t, 0)
	})
}

// TestDownloadsEndWithTheirTokens: a download whose token is revoked is cut off, and never
// looks complete.
func TestDownloadsEndWithTheirTokens(t *testing.T) {
	const events = 5000
	ring := newKeyring(t, auth.Config{})
	for target, accept := range map[string]string{
		"/events?topic=a": wire.NDJSON, "/snapshot?topic=a": wire.NDJSON, "/snapshot?topic=a&at=now": wire.JSON,
	} {
		for name, end := range map[string]func(jti string){
			"revoked": func(jti string) { ring.replace("revoked", jti) },
			"key":     func(string) { ring.setKeys(ring.newKey()) },
			"another": func(string) { ring.replace("revoked", "another") },
		} {
			t.Run(target+" "+accept+" "+name, func(t *testing.T) {
				ring.setKeys(ring.key)
				ring.replace("revoked", "")
				synctest.Test(t, func(t *testing.T) {
					guard, err := auth.NewGuard(t.Context(), auth.Config{Keys: filepath.Join(ring.dir, "keys"), Revoked: filepath.Join(ring.dir, "revoked")})
					if err != nil {
						t.Fatal(err)
					}
					log := newLog()
					s, stop := serve(t, log, Config{Guard: guard})
					defer stop()
					for i := range events {
						log.put(t, "a", fmt.Sprint(i), 1)
					}
					var jti string
					token := ring.grant([]string{"a"}, nil, func(c *auth.Claims) { jti = c.ID })
					conn := s.stall(target, accept+"\r\nConnection: close\r\nAuthorization: "+bearer(token))
					defer conn.Close()
					readTo(t, conn, `"hash"`)
					end(jti)
					if err := guard.Reload(t.Context()); err != nil {
						t.Fatal(err)
					}
					rest, err := io.ReadAll(conn)
					if err != nil {
						t.Fatal(err)
					}
					whole := strings.HasSuffix(string(rest), "\r\n0\r\n\r\n")
					if n := strings.Count(string(rest), `"hash"`) + 1; whole != (name == "another") || whole != (n == events) {
						t.Errorf("%d events; complete: %t", n, whole)
					}
				})
			})
		}
	}
}

// TestFarExpiry: a token that expires in the year 9999 ends nothing.
func TestFarExpiry(t *testing.T) {
	ring := newKeyring(t, auth.Config{})
	for _, year := range []int{2261, 2263, 2300, 9999} {
		synctest.Test(t, func(t *testing.T) {
			log := newLog()
			s, stop := serve(t, log, Config{Guard: ring.guard})
			defer stop()
			token := ring.grant([]string{"a"}, nil, func(c *auth.Claims) {
				c.ExpiresAt = jwt.NewNumericDate(time.Date(year, 12, 31, 0, 0, 0, 0, time.UTC))
			})
			fs, body := s.stream("/events?topic=a", "Authorization", bearer(token))
			defer body.Close()
			fs.want(t, "live", 0)
			time.Sleep(time.Second)
			log.put(t, "a", "p", 1)
			fs.want(t, "PUT", 1)
		})
	}
}

// TestConnectionAfterAToken: a connection is used again after a stream has ended, and after
// the token of that stream has expired.
func TestConnectionAfterAToken(t *testing.T) {
	ring := newKeyring(t, auth.Config{})
	synctest.Test(t, func(t *testing.T) {
		log := newLog()
		s, stop := serve(t, log, Config{Guard: ring.guard})
		defer stop()
		log.put(t, "a", "p", 3)
		token := ring.grant([]string{"a"}, nil, func(c *auth.Claims) { c.ExpiresAt = jwt.NewNumericDate(time.Now().Add(time.Minute)) })
		conn := s.stall("/events?topic=a&until=now", wire.SSE+"\r\nAuthorization: "+bearer(token))
		defer conn.Close()
		readTo(t, conn, "\r\n0\r\n\r\n")
		time.Sleep(2 * time.Minute)
		if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		readTo(t, conn, `{"status":"ok"}`)
	})
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
