package natslog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/mirror"
	"github.com/rstream-dev/rstream/internal/wire"
)

// packagedConfig returns the config of a NATS server that docs/cluster.md shows, for a server
// alone in a folder of its own.
func packagedConfig(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../packaging/docker/nats.conf")
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?m)^(cluster|http_port).*\n`).ReplaceAllString(string(b), "")
	for old, now := range map[string]string{"store_dir: /data, ": "", "$NODE_PASSWORD": "node-secret", "$SYS_PASSWORD": "sys-secret"} {
		if !strings.Contains(text, old) {
			t.Fatalf("the config has no %s", old)
		}
		text = strings.ReplaceAll(text, old, now)
	}
	return text
}

// A witness has what nodes have reported.
type witness struct {
	patient bool // until does not end for what is not allowed
	mu      sync.Mutex
	texts   []string
	cancel  func() // called for what is not allowed, unless nil
}

func (w *witness) note(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.texts = append(w.texts, text)
	if w.cancel != nil && strings.Contains(text, "does not allow") {
		w.cancel()
	}
}

// whileAllowed returns a context that ends when something is not allowed.
func (w *witness) whileAllowed(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cancel = cancel
	return ctx
}

// refusals returns what was not allowed.
func (w *witness) refusals() (found []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, text := range w.texts {
		if strings.Contains(text, "does not allow") {
			found = append(found, text)
		}
	}
	return found
}

// until waits until is returns true, or something is not allowed, unless that is expected.
func (w *witness) until(is func() bool) bool {
	for limit := time.After(testPatience); ; {
		if is() {
			return true
		}
		if !w.patient && len(w.refusals()) > 0 {
			return is()
		}
		select {
		case <-limit:
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// startUser starts a node as a user of the packaged config.
func startUser(t *testing.T, host, user, name string, w *witness) (*node, error) {
	cfg := newConfig(t, fmt.Sprintf("nats://%s:node-secret@%s", user, host), name)
	cfg.Stream, cfg.OnNews = "log", w.note
	n := &node{t: t, cfg: cfg, path: filepath.Join(t.TempDir(), name+".db")}
	if err := n.tryStart(t.Context()); err != nil {
		return n, err
	}
	t.Cleanup(func() { n.stop() })
	if !w.until(func() bool { return n.mirror.Ready() == nil }) {
		return n, n.mirror.Ready()
	}
	return n, nil
}

// useCluster does all that nodes and cluster status do, until something is not allowed.
func useCluster(t *testing.T, host string, w *witness) error {
	ctx := w.whileAllowed(t)
	a, err := startUser(t, host, "node", "a", w)
	if err == nil {
		_, err = a.mirror.Append(ctx, wire.Caller{}, []event.Draft{draft("p", "committed")})
	}
	if err != nil {
		return err
	}
	b, err := startUser(t, host, "node", "b", w)
	if err == nil {
		_, err = b.mirror.Append(ctx, wire.Caller{}, drafts(2, "forwarded"))
	}
	if err != nil {
		return err
	}
	cfg := a.cfg
	cfg.Node = "status"
	l, err := Connect(t.Context(), cfg)
	if err != nil {
		return err
	}
	defer l.Close()
	if _, err := l.Describe(t.Context(), mirror.Position{}); err != nil {
		return err
	}
	nodes, _, err := l.Nodes(t.Context())
	if err == nil && (len(nodes) != 2 || !nodes[0].Answers || !nodes[1].Answers || !nodes[0].Committer) {
		err = fmt.Errorf("the nodes are %+v", nodes)
	}
	if err != nil {
		return err
	}
	a.stop()
	if _, err := b.mirror.Append(ctx, wire.Caller{}, []event.Draft{draft("p", "taken over")}); err != nil {
		return err
	}
	b.stop()
	return nil
}

// A user with the permissions of docs/cluster.md can do all that a node does, and each of the
// permissions is needed: without one, a text names the subject, and nothing waits for an answer
// that cannot come.
func TestPermissions(t *testing.T) {
	t.Parallel()
	config := packagedConfig(t)
	t.Run("all", func(t *testing.T) {
		t.Parallel()
		var w witness
		if err := useCluster(t, configured(t, config).Addr().String(), &w); err != nil {
			t.Error(err)
		}
		if found := w.refusals(); len(found) > 0 {
			t.Errorf("with all permissions: %q", found)
		}
	})
	publish, subscribe, _ := strings.Cut(config, "subscribe: [")
	subscribe, _, _ = strings.Cut(subscribe, "]")
	_, publish, _ = strings.Cut(publish, "publish: [")
	for doing, list := range map[string]string{"publish to": publish, "subscribe to": subscribe} {
		for _, m := range regexp.MustCompile(`(?m)^ *"(\S+)".*\n`).FindAllStringSubmatch(list, -1) {
			line, subject := m[0], m[1]
			if !longtest.Enabled() && subject != "$JS.API.STREAM.INFO.log" && subject != "$JS.API.CONSUMER.MSG.NEXT.log.>" && subject != "_INBOX.>" {
				continue
			}
			t.Run("without "+doing+" "+subject, func(t *testing.T) {
				t.Parallel()
				reduced := strings.Replace(config, list, strings.Replace(list, line, "", 1), 1)
				var w witness
				err := useCluster(t, configured(t, reduced).Addr().String(), &w)
				want := fmt.Sprintf("does not allow this user to %s %q", doing, subject)
				want = strings.TrimRight(want, `*>"`)
				var refused *RefusedError
				if errors.As(err, &refused) {
					w.note(refused.Error())
				}
				if !w.until(func() bool { return strings.Contains(strings.Join(w.refusals(), "\n"), want) }) {
					t.Errorf("nothing says %s: %v, %q", want, err, w.refusals())
				}
			})
		}
	}
}

// A node whose user may not write to the stream never commits, and passes appends on. If it may
// not do that either, appends are refused at once, and reads go on.
func TestReaderNode(t *testing.T) {
	t.Parallel()
	config := packagedConfig(t)
	begin := strings.Index(config, "      {\n        user: node")
	end := begin + strings.Index(config[begin:], "\n      }\n") + len("\n      }\n")
	user := config[begin:end]
	without := func(name, text string, subjects ...string) string {
		text = strings.Replace(text, "user: node", "user: "+name, 1)
		for _, subject := range subjects {
			text = regexp.MustCompile(`(?m)^ *"`+regexp.QuoteMeta(subject)+`".*\n`).ReplaceAllString(text, "")
		}
		return text
	}
	config = strings.Replace(config, user, user+without("forwarder", user, "rstream.log.log.*")+without("reader", user, "rstream.log.log.*", "rstream.log.append.*"), 1)
	host := configured(t, config).Addr().String()
	var nobody witness
	start := func(user, name string, w *witness) *node {
		t.Helper()
		n, err := startUser(t, host, user, name, w)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	a := start("node", "a", &nobody)
	a.mustAppend(draft("p", "one"))
	forwarder := start("forwarder", "forwarder", &witness{patient: true})
	forwarder.mustAppend(draft("p", "two"))
	reader := start("reader", "reader", &witness{patient: true})
	awaitHead(t, 2, reader)
	if _, err := reader.append(draft("p", "three")); err == nil || !strings.Contains(err.Error(), "nothing was appended") || !strings.Contains(err.Error(), "does not allow") {
		t.Errorf("an append through the reader: %v", err)
	}

	a.stop()
	await(t, "the forwarder may not commit", forwarder.log.lease.isBarred)
	b := start("node", "b", &nobody)
	b.mustAppend(draft("p", "four"))
	forwarder.mustAppend(draft("p", "five"))
	awaitHead(t, 4, reader, forwarder, b)
	checkEqual(t, 4, b, reader, forwarder)
	for _, n := range []*node{reader, forwarder} {
		if claims := n.log.Status().Counters.Claims; claims != 0 {
			t.Errorf("%s has claimed %d times", n.cfg.Node, claims)
		}
	}
	if found := nobody.refusals(); len(found) > 0 {
		t.Errorf("the nodes that may write: %q", found)
	}
}

// Credentials that are refused are no server that cannot be reached, whether at the first
// connection or at a later one.
func TestRefusedCredentials(t *testing.T) {
	t.Parallel()
	s := configured(t, `authorization { users: [{ user: node, password: "s3cret" }] }`)
	cfg := newConfig(t, "nats://node:Wr0ng@"+s.Addr().String(), "a")
	_, err := Connect(t.Context(), cfg)
	var refused *RefusedError
	if !errors.As(err, &refused) || strings.Contains(err.Error(), "Wr0ng") || !strings.Contains(err.Error(), "refuses the credentials") {
		t.Errorf("at once: %v", err)
	}
	cfg.Later = true
	var w witness
	cfg.OnNews = w.note
	l, err := Connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	await(t, "the refusal is known", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), testPatience)
		defer cancel()
		_, err := l.Describe(ctx, mirror.Position{})
		return errors.As(err, &refused) && strings.Contains(err.Error(), "refuses the credentials")
	})
	tried := func() uint64 {
		v, err := s.Varz(nil)
		if err != nil {
			t.Fatal(err)
		}
		return v.TotalConnections
	}
	before := tried()
	await(t, "it was tried again", func() bool { return tried() > before+3 })
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.texts) > 2 {
		t.Errorf("it is said again and again: %q", w.texts)
	}
}

// A file without credentials is named, and is no server that cannot be reached.
func TestCredentialFiles(t *testing.T) {
	t.Parallel()
	url := sharedURL(t)
	empty := filepath.Join(t.TempDir(), "empty")
	writeFile(t, empty, "")
	for _, path := range []string{empty, empty + "-none"} {
		for name, change := range map[string]func(*Config){
			"creds": func(c *Config) { c.Credentials = path }, "nkey": func(c *Config) { c.NKey = path },
			"ca": func(c *Config) { c.CA = path }, "certificate": func(c *Config) { c.Cert, c.Key = path, path },
		} {
			cfg := newConfig(t, url, "a")
			change(&cfg)
			_, err := Connect(t.Context(), cfg)
			var away *mirror.UnreachableError
			if err == nil || errors.As(err, &away) || !strings.Contains(err.Error(), "NATS") || name != "certificate" && !strings.Contains(err.Error(), path) {
				t.Errorf("%s %s: %v", name, filepath.Base(path), err)
			}
		}
	}
}
