package server

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/wire"
)

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
	right         string // read, write, board, node, any token, or none
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
	for _, accept := range []string{wire.JSON, wire.SSE} {
		add("/api/connections", "GET", "board", false, func(event.Topic) (string, string, string) {
			return "/api/connections?until=now", "Accept: " + accept + "\n", ""
		})
	}
	// A room needs the right to read as well: see TestRoomRights.
	add(wire.PathRoom, "GET", "board of nobody", false, func(t event.Topic) (string, string, string) {
		return wire.RoomPath(t) + "?until=now", "Accept: " + wire.SSE + "\n", ""
	})
	add(wire.PathRoom, "GET", "board of nobody", false, func(t event.Topic) (string, string, string) {
		return wire.RoomPath(t), "Accept: " + wire.JSON + "\n", ""
	})
	add("/api/events", "GET", "board", false, plain("/api/events?until=now"))
	add("/board/looks", "GET", "node", false, plain("/board/looks?node=b&until=now"))
	add("/board/reports", "POST", "node", false, func(event.Topic) (string, string, string) {
		return "/board/reports", "Content-Type: application/json\n", `{"boot":"1","from":{"node":"b","head":"0000000000000.K7Q2M"}}`
	})
	add("/dashboard", "GET", "board", false, plain("/dashboard")) // browsers get a form: see TestDashboardLogin
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
	add("/snapshot", "GET", "read", false, func(t event.Topic) (string, string, string) {
		return "/snapshot?until=now&topic=" + query(t), "Accept: " + wire.SSE + "\n", ""
	})
	add("/windows", "GET", "read", false, func(t event.Topic) (string, string, string) {
		return "/windows?since=beginning&topic=" + query(t), "", ""
	})
	add("/windows", "GET", "read", false, func(t event.Topic) (string, string, string) {
		return "/windows?since=beginning&sum=1&topic=" + query(t), "If-None-Match: *\n", ""
	})
	for _, extra := range []string{"", "&folders=1", "&limit=1"} {
		add("/storages", "GET", "read", false, func(t event.Topic) (string, string, string) { return "/storages?topic=" + query(t) + extra, "", "" })
	}
	add("/sources", "GET", "read", false, plain("/sources")) // checkGranted knows who may
	add("/origin", "GET", "any", false, plain("/origin?id=0000000000001&id=0000000000003&id=0000000000004&id=0000000000005"))
	for _, accept := range accepts {
		head, until := "Accept: "+accept+"\n", ""
		if accept == wire.SSE {
			until = "until=now"
		}
		add("/get", "GET", "read", true, func(t event.Topic) (string, string, string) {
			return "/get?id=" + url.QueryEscape(userPath(t)) + "&" + until, head, ""
		})
		add("/get", "POST", "read", true, func(t event.Topic) (string, string, string) {
			return "/get?" + until, head + "Content-Type: application/json\n", fmt.Sprintf(`{"items":[{"id":"alice/posts/1"},{"id":%q}]}`, userPath(t))
		})
	}
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

// secretsOf returns the texts of the log that a bearer of rights to topic must not learn:
// values, hashes, keys and origins, and the one user that no question names.
func secretsOf(evs []event.Event, topic string) (secrets []string) {
	for i := range evs {
		if !slices.Contains(matching[topic], i) {
			secrets = append(secrets, string(evs[i].Value), evs[i].Hash.String(), evs[i].Key, originOf(i))
			if evs[i].User == "carol" {
				secrets = append(secrets, evs[i].User)
			}
		}
	}
	return secrets
}

// originOf returns where an event of guarded came from, a text that is nowhere else.
func originOf(i int) string { return fmt.Sprintf("origin-of-%d", i) }

// The source and the reader that no token in TestRights shows, except that to read everything shows
// the source.
const (
	secretSource = "source-of-all"
	secretReader = "reader-of-carol"
)

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
	log.origins = map[event.ID]event.Origin{}
	for i := range evs {
		log.origins[evs[i].ID] = event.Origin{Source: secretSource, ID: originOf(i)}
	}
	ring := newKeyring(t, auth.Config{Issuer: "here", Audience: "log"})
	s, stop := serve(t, log, Config{Guard: ring.guard, Sources: func() []wire.Source {
		return []wire.Source{{Name: secretSource, URL: "https://" + secretSource, Cursor: secretSource}}
	}})
	defer stop()
	checkQuestions(t, s)
	good := func(c *auth.Claims) { c.Issuer, c.Audience = "here", jwt.ClaimStrings{"log"} }
	_, reading := s.stream("/events?since=now&topic=carol", "Authorization",
		bearer(ring.grant([]string{"carol"}, nil, func(c *auth.Claims) { good(c); c.Subject = secretReader })))
	defer reading.Close()
	bad := badTokens(t, ring, good)
	turn := rand.IntN(45)
	t.Logf("turn %d", turn)
	for i := range questions {
		q := &questions[i]
		turns := 9 // as many as there are grants: a question and an ask meet one of them
		if q.storage {
			turns = 5 // it has few asks
		}
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
					for n, name := range slices.Sorted(maps.Keys(bad)) {
						// By default, each question meets each token with one of the two asks, in one of the two ways,
						// which take turns.
						if !longtest.Enabled() && !q.storage && ((i+n)%2 == 0) != (ask == "*") {
							continue
						}
						if longtest.Enabled() || (i+n)/2%2 == 0 {
							checkUnauthorized(t, s, q, method, topic, byHeader, name, bad[name])
						}
						if longtest.Enabled() || (i+n)/2%2 == 1 {
							checkUnauthorized(t, s, q, method, topic, byCookie, name, bad[name])
						}
					}
				}
				for k, granted := range slices.Sorted(maps.Keys(allowed)) {
					// By default, each two of question, ask and grant meet, and a part of all threes, which take turns.
					if !longtest.Enabled() && (i+j+k)%turns != turn%turns && granted != ask {
						continue
					}
					for _, right := range []string{"read", "write", "board", "node"} {
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
	private := ring.privateKey()
	public := []byte(private.Public().(ed25519.PublicKey))
	byHand := func(method jwt.SigningMethod, key any, rights string) string {
		return ring.signByHand(method, key, jwt.MapClaims{"iss": "here", "aud": "log", "exp": time.Now().Add(time.Hour).Unix(), "rstream": json.RawMessage(rights)})
	}
	// Else the refusals of tokens made by hand would say nothing.
	if _, err := ring.guard.Check(t.Context(), byHand(jwt.SigningMethodEdDSA, private, `{"read":["*"],"write":["*"]}`)); err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"none":                    "",
		"expired":                 changed(func(c *auth.Claims) { c.ExpiresAt = jwt.NewNumericDate(time.Now().Add(-time.Second)) }),
		"not yet":                 changed(func(c *auth.Claims) { c.NotBefore = jwt.NewNumericDate(time.Now().Add(time.Hour)) }),
		"other issuer":            changed(func(c *auth.Claims) { c.Issuer = "there" }),
		"other audience":          changed(func(c *auth.Claims) { c.Audience = jwt.ClaimStrings{"mail"} }),
		"without audience":        changed(func(c *auth.Claims) { c.Audience = nil }),
		"without rights":          changed(func(c *auth.Claims) { c.Rights = nil }),
		"unknown key":             ring.grantWith(&stranger, all, all, good),
		"stranger's key":          ring.grantWith(&named, all, all, good),
		"alg none":                none,
		"HS256 with a public key": byHand(jwt.SigningMethodHS256, public, `{"read":["*"],"write":["*"]}`),
		"bad topic to read":       byHand(jwt.SigningMethodEdDSA, private, `{"read":["*","a//b"],"write":["*"]}`),
		"bad topic to append to":  byHand(jwt.SigningMethodEdDSA, private, `{"read":["*"],"write":["*",null]}`),
		"cut":                     parts[0] + "." + parts[1] + ".",
		"not a token":             "letmein",
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
		if resp.Header.Get(wire.HeaderHead) != "" {
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
	change := good
	switch right {
	case "read":
		read = []string{granted}
	case "write":
		write = []string{granted}
	case "board": // and nothing to see there
		change = func(c *auth.Claims) { good(c); c.Rights.Board = auth.BoardRead }
	case "node":
		change = func(c *auth.Claims) { good(c); c.Rights.Board = auth.BoardWrite }
	}
	resp, text := q.ask(s, method, topic, by, ring.cachedGrant(right, read, write, change))
	name := fmt.Sprintf("%s %s of %s with the right to %s %s by %q", method, q.route, topic, right, granted, by)
	covers := slices.Contains(allowed[granted], topic.String())
	// Requests for several topics name alice/posts/1$ as well.
	target, _, body := q.request(topic)
	if strings.Contains(target+body, "alice%2Fposts%2F1%24") || strings.Contains(body, `"alice/posts/1"`) || q.route == "/set" {
		covers = covers && slices.Contains(allowed[granted], "alice/posts/1$")
	}
	if q.route == "/sources" {
		covers = granted == "*"
	}
	learns := granted
	if right != "read" {
		learns = "nobody" // whoever may append, or see the board, may not read
	}
	secrets := append(secretsOf(evs, learns), secretReader)
	if learns != "*" && q.route != "/origin" { // which names the source of each readable event
		secrets = append(secrets, secretSource)
	}
	checkSecrets(t, name, resp, text, secrets)
	switch {
	case q.right == "absent":
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", name, resp.Status)
		}
	case q.right == "login" && by == byCookie:
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %s", name, resp.Status)
		}
	case q.right == "none" || q.right == "any" || q.right == "login" || q.right == right && (covers || right == "board" || right == "node"):
		if resp.StatusCode >= 400 && !(resp.StatusCode == http.StatusBadRequest && body == "not frames") {
			t.Errorf("%s: %s %s", name, resp.Status, text)
		}
	default:
		checkForbidden(t, name, resp, text, method, q.right != "node" && (!strings.HasPrefix(q.right, "board") || right == "board"))
	}
}

func checkForbidden(t *testing.T, name string, resp *http.Response, text, method string, named bool) {
	t.Helper()
	if resp.StatusCode != http.StatusForbidden || resp.Header.Get("WWW-Authenticate") != `Bearer realm="rstream", error="insufficient_scope"` {
		t.Fatalf("%s: %s, %v, %s", name, resp.Status, resp.Header, text)
	}
	if method == http.MethodHead {
		return
	}
	var e wire.Error
	if err := json.Unmarshal([]byte(text), &e); err != nil || (e.Topic != nil) != named || named && !strings.Contains(e.Detail, e.Topic.String()) {
		t.Errorf("%s: %s", name, text)
	}
}
