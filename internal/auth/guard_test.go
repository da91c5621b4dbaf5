package auth

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/rstream-dev/rstream/event"
)

func topics(names ...string) []event.Topic {
	var ts []event.Topic
	for _, n := range names {
		t, err := event.ParseTopic(n)
		if err != nil {
			panic(err)
		}
		ts = append(ts, t)
	}
	return ts
}

// newRSAKey makes one key for all tests: it takes longer than they do.
var newRSAKey = sync.OnceValues(func() (Key, error) { return NewKey(RS256) })

func newKey(t testing.TB, algorithm string) Key {
	t.Helper()
	k, err := Key{}, error(nil)
	if algorithm == RS256 {
		k, err = newRSAKey()
	} else {
		k, err = NewKey(algorithm)
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func writeKeys(t testing.TB, path string, keys ...Key) {
	t.Helper()
	b, err := MarshalKeys(keys)
	if err != nil {
		t.Fatal(err)
	}
	replaceFile(t, path, b)
}

// replaceFile replaces a file as a whole, so that a guard never reads half of it.
func replaceFile(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// sign returns a token for alice that lasts an hour, after change has changed its claims.
func sign(t testing.TB, k Key, change func(*Claims)) string {
	t.Helper()
	c := NewClaims("bob", Rights{Read: topics("alice"), Write: topics("alice/inbox")}, time.Now(), time.Hour)
	if change != nil {
		change(c)
	}
	token, err := k.Sign(c)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func newGuard(t testing.TB, cfg Config) *Guard {
	t.Helper()
	g, err := NewGuard(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestEachAlgorithm(t *testing.T) {
	for _, algorithm := range Algorithms {
		path := filepath.Join(t.TempDir(), "keys.json")
		k := newKey(t, algorithm)
		writeKeys(t, path, k)
		g := newGuard(t, Config{Keys: path})
		token := sign(t, k, nil)
		grant, err := g.Check(t.Context(), token)
		if err != nil {
			t.Fatalf("%s: %v", algorithm, err)
		}
		if grant.Subject != "bob" || !grant.CanRead(topics("alice/posts")[0]) || grant.CanRead(topics("bob")[0]) ||
			!grant.MatchesWrite("alice", "inbox/1") || grant.MatchesWrite("alice", "posts") {
			t.Errorf("%s: grant %+v", algorithm, grant.Rights)
		}
		if again, _ := g.Check(t.Context(), token); again != grant {
			t.Errorf("%s: the token was verified again", algorithm)
		}
		// A server needs no private part.
		if !k.IsSecret() {
			b, err := MarshalPublicKeys([]Key{k})
			if err != nil || strings.Contains(string(b), `"d"`) {
				t.Fatalf("%s: %s, %v", algorithm, b, err)
			}
			replaceFile(t, path, b)
			if _, err := newGuard(t, Config{Keys: path}).Check(t.Context(), token); err != nil {
				t.Errorf("%s with the public key: %v", algorithm, err)
			}
		}
	}
}

func TestRefusedTokens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	k, other := newKey(t, EdDSA), newKey(t, EdDSA)
	writeKeys(t, path, k)
	g := newGuard(t, Config{Keys: path, Issuer: "here", Audience: "log"})
	good := func(c *Claims) { c.Issuer, c.Audience = "here", jwt.ClaimStrings{"log"} }
	changed := func(change func(*Claims)) string {
		return sign(t, k, func(c *Claims) { good(c); change(c) })
	}
	valid := changed(func(*Claims) {})
	if _, err := g.Check(t.Context(), valid); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(valid, ".")
	raw := func(header, claims string) string {
		e := base64.RawURLEncoding
		text := e.EncodeToString([]byte(header)) + "." + e.EncodeToString([]byte(claims))
		return text + "." + e.EncodeToString(ed25519.Sign(k.signs.(ed25519.PrivateKey), []byte(text)))
	}
	header := fmt.Sprintf(`{"alg":"EdDSA","kid":%q,"typ":"JWT"}`, k.ID)
	claims := func(rights string) string {
		return fmt.Sprintf(`{"iss":"here","aud":"log","exp":%d,"rstream":%s}`, time.Now().Add(time.Hour).Unix(), rights)
	}
	if _, err := g.Check(t.Context(), raw(header, claims(`{"read":["alice"]}`))); err != nil {
		t.Fatalf("a token made by hand: %v", err) // else the refusals below say nothing
	}
	for _, want := range []BoardRight{BoardRead, BoardWrite} {
		grant, err := g.Check(t.Context(), raw(header, claims(fmt.Sprintf(`{"board":%q}`, want))))
		if err != nil || grant.Board != want || grant.CanRead(topics("alice")[0]) {
			t.Errorf("a token for the board: %+v, %v", grant, err)
		}
	}
	none := func() string {
		token, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{"exp": time.Now().Add(time.Hour).Unix()}).SignedString(jwt.UnsafeAllowNoneSignatureType)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	// The public key as a shared secret: the classic confusion of algorithms.
	confused := func() string {
		c := NewClaims("eve", Rights{Read: topics("*")}, time.Now(), time.Hour)
		good(c)
		token := jwt.NewWithClaims(jwt.SigningMethodHS256, c)
		token.Header["kid"] = k.ID
		s, err := token.SignedString([]byte(k.verifies.(ed25519.PublicKey)))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for name, tc := range map[string]struct{ token, want string }{
		"expired":            {changed(func(c *Claims) { c.ExpiresAt = jwt.NewNumericDate(time.Now().Add(-time.Second)) }), "has expired"},
		"without exp":        {changed(func(c *Claims) { c.ExpiresAt = nil }), "lacks a claim"},
		"not yet":            {changed(func(c *Claims) { c.NotBefore = jwt.NewNumericDate(time.Now().Add(time.Minute)) }), "is not valid yet"},
		"other issuer":       {changed(func(c *Claims) { c.Issuer = "there" }), "another issuer"},
		"without issuer":     {changed(func(c *Claims) { c.Issuer = "" }), "lacks a claim"},
		"other audience":     {changed(func(c *Claims) { c.Audience = jwt.ClaimStrings{"mail"} }), "another audience"},
		"without rights":     {changed(func(c *Claims) { c.Rights = nil }), `no claim "rstream"`},
		"another key":        {sign(t, other, good), "not signed with a key of this server"},
		"known kid":          {sign(t, Key{ID: k.ID, Algorithm: EdDSA, signs: other.signs, verifies: other.verifies}, good), "not signed with a key"},
		"alg none":           {none(), `signed with "none"`},
		"confused":           {confused(), "not signed with a key"},
		"no token":           {"x", "malformed"},
		"changed claims":     {parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(claims(`{"read":["*"]}`))) + "." + parts[2], "not signed"},
		"bad topic":          {raw(header, claims(`{"read":["alice","a//b"]}`)), "a claim that is not valid"},
		"topic not text":     {raw(header, claims(`{"read":[1]}`)), "a claim that is not valid"},
		"topic null":         {raw(header, claims(`{"read":[null]}`)), "a claim that is not valid"},
		"null to append to":  {raw(header, claims(`{"read":["alice"],"write":["alice",null]}`)), "a claim that is not valid"},
		"rights null":        {raw(header, claims(`null`)), `no claim "rstream"`},
		"member in capitals": {raw(header, claims(`{"READ":["*"]}`)), "a claim that is not valid"},
		"unknown member":     {raw(header, claims(`{"read":["alice"],"except":["alice/diary"]}`)), "a claim that is not valid"},
		"board of admins":    {raw(header, claims(`{"read":["alice"],"board":"admin"}`)), "a claim that is not valid"},
		"board null":         {raw(header, claims(`{"read":["alice"],"board":null}`)), "a claim that is not valid"},
		"board empty":        {raw(header, claims(`{"read":["alice"],"board":""}`)), "a claim that is not valid"},
		"board twofold":      {raw(header, claims(`{"read":["alice"],"board":["read","write"]}`)), "a claim that is not valid"},
		"rights not object":  {raw(header, claims(`["alice"]`)), "a claim that is not valid"},
		"critical":           {raw(fmt.Sprintf(`{"alg":"EdDSA","kid":%q,"crit":["x"],"x":1}`, k.ID), claims(`{"read":["alice"]}`)), "critical extension"},
		"other type":         {raw(fmt.Sprintf(`{"alg":"EdDSA","kid":%q,"typ":"logout+jwt"}`, k.ID), claims(`{"read":["alice"]}`)), "the type"},
		"long":               {valid + strings.Repeat("A", MaxToken), "longer than"},
		"four parts":         {valid + ".AAAA", "malformed"},
		"padding":            {valid + "=", "malformed"},
	} {
		grant, err := g.Check(t.Context(), tc.token)
		var bad *InvalidError
		if grant != nil || !errors.As(err, &bad) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, %v; want %q", name, grant, err, tc.want)
		}
	}
}

func TestNoToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	k := newKey(t, EdDSA)
	writeKeys(t, path, k)
	if _, err := newGuard(t, Config{Keys: path}).Check(t.Context(), ""); !errors.Is(err, ErrNoToken) {
		t.Error(err)
	}
	g := newGuard(t, Config{Keys: path, Public: topics("news")})
	grant, err := g.Check(t.Context(), "")
	if err != nil || !grant.CanRead(topics("news/today")[0]) || grant.CanRead(topics("alice")[0]) || grant.MatchesWrite("news", "today") {
		t.Errorf("%+v, %v", grant, err)
	}
	if grant, err = g.Check(t.Context(), sign(t, k, nil)); err != nil || !grant.CanRead(topics("news")[0]) {
		t.Errorf("a token cannot read public topics: %v", err)
	}
}

func TestKeyFiles(t *testing.T) {
	long := base64.RawURLEncoding.EncodeToString(make([]byte, 32))
	for text, want := range map[string]string{
		`{}`:         "not a JWK Set",
		`[]`:         "not a JWK Set",
		`{"keys":1}`: "not a JWK Set",
		`{"keys":[{"kty":"oct","k":"` + long[:20] + `"}]}`:                                      "at least 32",
		`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAA"}]}`:                                   "not a valid JWK",
		`{"keys":[{"kty":"RSA","n":"` + strings.Repeat("A", 20) + `","e":"AQAB"}]}`:             "key 1",
		`{"keys":[{"kty":"EC","crv":"P-256","x":"` + long + `","y":"` + long + `","kid":"p"}]}`: `key 1 "p"`,
	} {
		if _, err := ParseKeys([]byte(text)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), long) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	// Keys that providers publish for other things are left out.
	for _, text := range []string{
		`{"keys":[]}`,
		`{"keys":[{"kty":"oct","k":"` + long + `","use":"enc"}]}`,
		`{"keys":[{"kty":"oct","k":"` + long + `","alg":"HS512"}]}`,
		`{"keys":[{"kty":"EC","crv":"P-521","x":"AA","y":"AA"}]}`,
	} {
		if keys, err := ParseKeys([]byte(text)); err != nil || len(keys) != 0 {
			t.Errorf("%s: %v, %v", text, keys, err)
		}
	}
	// Nothing that a key refers to is fetched.
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a key made a request") }))
	defer server.Close()
	k := newKey(t, EdDSA)
	b, err := MarshalPublicKeys([]Key{k})
	if err != nil {
		t.Fatal(err)
	}
	if keys, err := ParseKeys([]byte(strings.Replace(string(b), `"kty"`, `"x5u":"`+server.URL+`","kty"`, 1))); err != nil || len(keys) != 1 {
		t.Error(keys, err)
	}
}

// TestAppendKey: a key more takes nothing from a set, also nothing that rstream does not know.
func TestAppendKey(t *testing.T) {
	k := newKey(t, EdDSA)
	long := base64.RawURLEncoding.EncodeToString(make([]byte, 32))
	const foreign = `{"kty":"EC","crv":"P-384","x":"AA","y":"AA","d":"AA","alg":"ES384","use":"sig","x5c":["AA"],"weight":12345678901234567890}`
	own := `{"kty":"oct","k":"` + long + `","kid":"mine","key_ops":["verify"]}`
	for set, want := range map[string]string{
		`{"note":{"a":1.50},"keys":[` + foreign + `,` + own + `]}`: `{"note":{"a":1.50},"keys":[` + foreign + `,` + own + `,NEW]}`,
		own:           `{"keys":[` + own + `,NEW]}`,
		`{"keys":[]}`: `{"keys":[NEW]}`,
		"":            `{"keys":[NEW]}`,
	} {
		var before []byte
		if set != "" {
			before = []byte(set)
		}
		b, err := AppendKey(before, k)
		if err != nil {
			t.Fatal(err)
		}
		keys, err := ParseKeys(b)
		if err != nil || len(keys) == 0 || keys[len(keys)-1].ID != k.ID || !keys[len(keys)-1].CanSign() {
			t.Errorf("%s: %v, %v", set, keys, err)
		}
		var alone bytes.Buffer
		if b, err = MarshalKeys([]Key{k}); err == nil {
			err = json.Compact(&alone, b)
		}
		if err != nil {
			t.Fatal(err)
		}
		added := strings.TrimSuffix(strings.TrimPrefix(alone.String(), `{"keys":[`), `]}`)
		if b, err = AppendKey(before, k); err != nil {
			t.Fatal(err)
		}
		if got, want := sameJSON(t, b), sameJSON(t, []byte(strings.Replace(want, "NEW", added, 1))); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", set, got, want)
		}
	}
	for _, set := range []string{`{}`, `[]`, `{"Keys":[]}`, `{"keys":[{"kty":"oct","k":"AA"}]}`} {
		if b, err := AppendKey([]byte(set), k); err == nil {
			t.Errorf("%s: no error, but %s", set, b)
		}
	}
}

// sameJSON returns JSON with its members in order, and its numbers as they are.
func sameJSON(t *testing.T, b []byte) string {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	same, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(same)
}

func TestEmptyFileAtTheStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	replaceFile(t, path, []byte(`{"keys":[]}`))
	if _, err := NewGuard(t.Context(), Config{Keys: path}); err == nil || !strings.Contains(err.Error(), "no key") {
		t.Error(err)
	}
	if _, err := NewGuard(t.Context(), Config{Keys: path + "x"}); err == nil {
		t.Error("a missing file is not an error")
	}
}

// watched returns a channel that is closed once the grant ends.
func watched(g *Grant) chan struct{} {
	c := make(chan struct{})
	g.Watch(func() { close(c) })
	return c
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestReload(t *testing.T) {
	dir := t.TempDir()
	path, list := filepath.Join(dir, "keys.json"), filepath.Join(dir, "revoked")
	first, second := newKey(t, EdDSA), newKey(t, ES256)
	writeKeys(t, path, first)
	replaceFile(t, list, []byte("# nobody yet\n"))
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		g := newGuard(t, Config{Keys: path, Revoked: list})
		go g.Run(ctx)
		var ids [2]string
		var tokens [3]string
		for i := range ids {
			tokens[i] = sign(t, first, func(c *Claims) { ids[i] = c.ID })
		}
		tokens[2] = sign(t, second, nil)
		var ends [2]chan struct{}
		for i := range ends {
			grant, err := g.Check(ctx, tokens[i])
			if err != nil {
				t.Fatal(err)
			}
			ends[i] = watched(grant)
		}
		step := func(name string, want0, want1, want2 bool) {
			t.Helper()
			time.Sleep(reloadEvery + time.Second)
			synctest.Wait()
			for i, want := range []bool{want0, want1, want2} {
				_, err := g.Check(ctx, tokens[i])
				if (err == nil) != want {
					t.Errorf("%s: token %d: %v, want it accepted: %v", name, i, err, want)
				}
				if i < 2 && isClosed(ends[i]) == want {
					t.Errorf("%s: grant %d ended: %v", name, i, isClosed(ends[i]))
				}
			}
		}
		step("at first", true, true, false)
		replaceFile(t, path, []byte(`{"keys":[]}`))
		step("without keys in the file", true, true, false)
		replaceFile(t, path, []byte(`{"keys":[{"kty"`))
		step("half a file", true, true, false)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		step("without a file", true, true, false)
		renamed := first
		renamed.ID = ""
		writeKeys(t, path, renamed, second)
		step("a key that lost its name", true, true, true)
		writeKeys(t, path, first, second)
		step("both keys", true, true, true)
		replaceFile(t, list, []byte("# gone\n"+ids[0]+"\n"))
		step("one revoked", false, true, true)
		writeKeys(t, path, second)
		step("the first key removed", false, false, true)
		if _, err := g.Check(ctx, tokens[0]); !strings.Contains(fmt.Sprint(err), "not signed") && !strings.Contains(fmt.Sprint(err), "revoked") {
			t.Error(err)
		}
	})
}

// TestWatchAfterTheCacheWasCleared: the cache of tokens may forget a grant while its
// stream goes on.
func TestWatchAfterTheCacheWasCleared(t *testing.T) {
	dir := t.TempDir()
	path, list := filepath.Join(dir, "keys.json"), filepath.Join(dir, "revoked")
	k := newKey(t, HS256)
	writeKeys(t, path, k)
	replaceFile(t, list, nil)
	g := newGuard(t, Config{Keys: path, Revoked: list})
	var id [2]string
	var grants [2]*Grant
	for i := range grants {
		var err error
		if grants[i], err = g.Check(t.Context(), sign(t, k, func(c *Claims) { id[i] = c.ID })); err != nil {
			t.Fatal(err)
		}
	}
	before := watched(grants[0])
	clear(g.grants)
	after := watched(grants[1])
	replaceFile(t, list, []byte(id[0]+"\n"+id[1]+"\n"))
	if err := g.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !isClosed(before) || !isClosed(after) || grants[0].Err() == nil || grants[1].Err() == nil {
		t.Error("a grant did not end")
	}
	if late := watched(grants[0]); !isClosed(late) {
		t.Error("a watcher of a grant that has ended was not called")
	}
	if len(g.watched) != 0 {
		t.Errorf("%d grants are still watched", len(g.watched))
	}
}

func TestWatchWithoutAToken(t *testing.T) {
	keys := filepath.Join(t.TempDir(), "keys")
	writeKeys(t, keys, newKey(t, EdDSA))
	g := newGuard(t, Config{Keys: keys, Public: topics("news")})
	open, err := g.Check(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	ended := watched(open)
	writeKeys(t, keys, newKey(t, EdDSA))
	if err := g.Reload(t.Context()); err != nil || isClosed(ended) {
		t.Error(err, isClosed(ended))
	}
}

func TestUnwatch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	k := newKey(t, HS256)
	writeKeys(t, path, k)
	g := newGuard(t, Config{Keys: path})
	grant, err := g.Check(t.Context(), sign(t, k, nil))
	if err != nil {
		t.Fatal(err)
	}
	stop := grant.Watch(func() { t.Error("called after stop") })
	other := watched(grant)
	stop()
	stop()
	writeKeys(t, path, newKey(t, HS256))
	if err := g.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !isClosed(other) {
		t.Error("the other watcher was not called")
	}
}

// TestUnwatchWhileGrantsEnd: after stop, a watcher of a grant that has just ended is neither running
// nor called. What it would use may be gone.
func TestUnwatchWhileGrantsEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	k := newKey(t, HS256)
	writeKeys(t, path, k)
	g := newGuard(t, Config{Keys: path})
	grant, err := g.Check(t.Context(), sign(t, k, nil))
	if err != nil {
		t.Fatal(err)
	}
	var stops [3]func() // of watchers of which the first one that is called stops the others
	var called atomic.Int32
	stopped := make(chan struct{})
	for i := range stops {
		stops[i] = grant.Watch(func() {
			if called.Add(1) > 1 {
				t.Error("called after stop")
				return
			}
			go func() {
				for j := range stops {
					if j != i {
						stops[j]()
					}
				}
				close(stopped)
			}()
			<-stopped
		})
	}
	writeKeys(t, path, newKey(t, HS256))
	if err := g.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if called.Load() != 1 {
		t.Errorf("%d watchers were called", called.Load())
	}
	done, entered := make(chan struct{}), make(chan struct{})
	w := &watcher{fn: func() {
		close(entered)
		for range 1000 {
			runtime.Gosched()
		}
		close(done)
	}}
	go w.call()
	<-entered
	if w.stop(); !isClosed(done) {
		t.Error("stop has not waited for a call")
	}
}

func TestExpiry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	k := newKey(t, HS256)
	writeKeys(t, path, k)
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, Config{Keys: path})
		token := sign(t, k, func(c *Claims) { c.ExpiresAt = jwt.NewNumericDate(time.Now().Add(10 * time.Second)) })
		grant, err := g.Check(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(grant.Left() - time.Nanosecond)
		if err := grant.Err(); err != nil {
			t.Errorf("before exp: %v", err)
		}
		time.Sleep(time.Nanosecond)
		if err := grant.Err(); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("at exp: %v", err)
		}
		if _, err := g.Check(t.Context(), token); err == nil {
			t.Error("the cached token is accepted after exp")
		}
	})
}

// A provider serves a JWK Set that tests change.
type provider struct {
	keys  atomic.Pointer[[]Key]
	fails atomic.Bool
	hangs atomic.Bool
	asked atomic.Int64
}

func (p *provider) RoundTrip(r *http.Request) (*http.Response, error) {
	p.asked.Add(1)
	if p.hangs.Load() {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	rec := httptest.NewRecorder()
	if p.fails.Load() {
		rec.WriteHeader(http.StatusBadGateway)
	} else {
		b, err := MarshalPublicKeys(*p.keys.Load())
		if err != nil {
			return nil, err
		}
		rec.Write(b)
	}
	return rec.Result(), nil
}

func (p *provider) set(keys ...Key) { p.keys.Store(&keys) }

// Keys and revocations that could not be read for too long let nobody in, until they can be
// read again. What is public stays so.
func TestMaxAge(t *testing.T) {
	for _, name := range []string{"keys", "revoked", "jwks"} {
		dir := t.TempDir()
		path := func(file string) string { return filepath.Join(dir, file) }
		k, p := newKey(t, EdDSA), &provider{}
		writeKeys(t, path("keys"), newKey(t, EdDSA))
		replaceFile(t, path("revoked"), nil)
		p.set(k)
		if name != "jwks" {
			writeKeys(t, path("keys"), k)
		}
		synctest.Test(t, func(t *testing.T) {
			cfg := Config{Keys: path("keys"), Revoked: path("revoked"), MaxAge: time.Minute, Public: topics("open"), HTTP: &http.Client{Transport: p}}
			if name == "jwks" {
				cfg.JWKS = "https://id.example.com/keys"
			}
			g := newGuard(t, cfg)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go g.Run(ctx)
			token := sign(t, k, nil)
			time.Sleep(10 * time.Minute)
			grant, err := g.Check(t.Context(), token)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			fail := func(fails bool) {
				p.fails.Store(fails)
				if from, to := path(name), path("away"); name != "jwks" {
					if !fails {
						from, to = to, from
					}
					if err := os.Rename(from, to); err != nil {
						t.Fatal(err)
					}
				}
			}
			fail(true)
			time.Sleep(30 * time.Second)
			if _, err := g.Check(t.Context(), token); err != nil || grant.Err() != nil {
				t.Errorf("%s: after 30 seconds: %v, %v", name, err, grant.Err())
			}
			time.Sleep(40 * time.Second)
			if _, err := g.Check(t.Context(), token); !errors.Is(err, ErrStale) || !errors.Is(grant.Err(), ErrStale) {
				t.Errorf("%s: after 70 seconds: %v, %v", name, err, grant.Err())
			}
			if open, err := g.Check(t.Context(), ""); err != nil || open.Err() != nil {
				t.Errorf("%s: without a token: %v", name, err)
			}
			fail(false)
			time.Sleep(30 * time.Second)
			if _, err := g.Check(t.Context(), token); err != nil || grant.Err() != nil {
				t.Errorf("%s: read again: %v, %v", name, err, grant.Err())
			}
		})
	}
}

// TestMaxAgeWhenTheClockIsSet: a clock that is set back does not make old rights young, and one that
// is set forward ends them until the keys were read once more.
func TestMaxAgeWhenTheClockIsSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := &provider{}, newKey(t, EdDSA)
		p.set(k)
		const maxAge = 10 * time.Minute
		var step atomic.Int64
		now := func() time.Time { return time.Now().Round(0).Add(time.Duration(step.Load())) }
		g := newGuard(t, Config{JWKS: "https://provider.example/jwks", HTTP: &http.Client{Transport: p}, MaxAge: maxAge, Now: now})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go g.Run(ctx)
		if err := g.checkAge(); err != nil {
			t.Fatal(err)
		}
		step.Store(int64(time.Hour))
		if err := g.checkAge(); !errors.Is(err, ErrStale) {
			t.Errorf("an hour later, by the clock of the system: %v", err)
		}
		time.Sleep(refetchAfter + 2*reloadEvery)
		if err := g.checkAge(); err != nil {
			t.Errorf("after the keys were fetched once more: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "keys.json")
		writeKeys(t, path, newKey(t, EdDSA))
		g := newGuard(t, Config{Keys: path, MaxAge: time.Minute})
		began := time.Now()
		g.cfg.Now = func() time.Time { return began.Round(0).Add(-time.Hour) }
		g.since = func(at time.Time) time.Duration { return time.Since(at) }
		time.Sleep(50 * time.Second)
		if err := g.checkAge(); err != nil {
			t.Errorf("50 seconds later: %v", err)
		}
		time.Sleep(20 * time.Second)
		if err := g.checkAge(); !errors.Is(err, ErrStale) {
			t.Errorf("70 seconds later, after the clock of the system was set back: %v", err)
		}
	})
}

func TestJWKS(t *testing.T) {
	first, second, third := newKey(t, RS256), newKey(t, EdDSA), newKey(t, EdDSA)
	synctest.Test(t, func(t *testing.T) {
		p := &provider{}
		p.fails.Store(true)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		g := newGuard(t, Config{JWKS: "https://provider.example/jwks", HTTP: &http.Client{Transport: p}})
		token := func(k Key) string {
			return sign(t, k, func(c *Claims) { c.ExpiresAt = jwt.NewNumericDate(time.Now().Add(24 * time.Hour)) })
		}
		if _, err := g.Check(ctx, token(first)); !errors.Is(err, ErrNoKeys) {
			t.Errorf("before the keys were fetched: %v", err)
		}
		go g.Run(ctx)
		p.fails.Store(false)
		p.set(first)
		time.Sleep(refetchAfter)
		kept := token(first)
		grant, err := g.Check(ctx, kept)
		if err != nil {
			t.Fatalf("once they could be: %v", err)
		}
		end := watched(grant)

		// The provider is down for an hour: nothing ends.
		p.fails.Store(true)
		time.Sleep(time.Hour)
		if _, err := g.Check(ctx, kept); err != nil || isClosed(end) {
			t.Errorf("while the provider is down: %v", err)
		}
		p.fails.Store(false)
		p.set()
		time.Sleep(time.Hour)
		if _, err := g.Check(ctx, kept); err != nil || isClosed(end) {
			t.Errorf("while its set is empty: %v", err)
		}

		// A new key is found at once, and strangers' keys cost few requests and little time.
		p.set(first, second)
		time.Sleep(refetchAfter)
		if _, err := g.Check(ctx, token(second)); err != nil {
			t.Errorf("a new key: %v", err)
		}
		p.asked.Store(0)
		for range 100 {
			if _, err := g.Check(ctx, token(third)); err == nil {
				t.Fatal("a stranger's key was accepted")
			}
		}
		if n := p.asked.Load(); n > 1 {
			t.Errorf("a hundred tokens of a stranger caused %d requests", n)
		}
		p.hangs.Store(true)
		time.Sleep(refetchAfter)
		began := time.Now()
		if _, err := g.Check(ctx, token(third)); err == nil || time.Since(began) > 2*fetchWait {
			t.Errorf("a provider that hangs held a request for %s: %v", time.Since(began), err)
		}
		p.hangs.Store(false)

		p.set(second)
		time.Sleep(2 * fetchEvery)
		synctest.Wait()
		if _, err := g.Check(ctx, kept); err == nil || !isClosed(end) {
			t.Error("a removed key ended nothing")
		}
	})
}

func TestReadToken(t *testing.T) {
	k := newKey(t, ES256)
	h, c, err := ReadToken(sign(t, k, nil))
	if err != nil || h.Algorithm != ES256 || h.KeyID != k.ID || c.Subject != "bob" || c.ID == "" {
		t.Errorf("%+v, %+v, %v", h, c, err)
	}
	b, err := json.Marshal(c.Rights)
	if err != nil || string(b) != `{"read":["alice"],"write":["alice/inbox"]}` {
		t.Errorf("%s, %v", b, err)
	}
}

func BenchmarkCheck(b *testing.B) {
	path := filepath.Join(b.TempDir(), "keys.json")
	k := newKey(b, EdDSA)
	writeKeys(b, path, k)
	g := newGuard(b, Config{Keys: path})
	token := sign(b, k, nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := g.Check(b.Context(), token); err != nil {
			b.Fatal(err)
		}
	}
}
