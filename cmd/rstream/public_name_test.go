//go:build unix

package main

import (
	"bufio"
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/longtest"
)

// A publicName leads to a server on this machine, as DNS and port 443 would.
type publicName struct {
	t      *testing.T
	port   int
	ready  chan struct{} // closed once server is set
	server string        // address
	proxy  string        // a proxy that leads every name here
}

func newPublicName(t *testing.T) *publicName {
	l, port := listenLoopback(t)
	p := &publicName{t: t, port: port, ready: make(chan struct{})}
	var passing sync.WaitGroup
	pass := func(from, to net.Conn) {
		passing.Go(func() {
			_, _ = io.Copy(to, from)
			_, _ = from.Close(), to.Close()
		})
	}
	passing.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			<-p.ready
			if out, err := net.Dial("tcp", p.server); err == nil {
				pass(in, out)
				pass(out, in)
			}
		}
	})
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out, err := net.Dial("tcp", l.Addr().String())
		if err != nil || r.Method != http.MethodConnect {
			http.Error(w, "no", http.StatusBadGateway)
			return
		}
		in, _, err := http.NewResponseController(w).Hijack()
		if err == nil { // only now, or a byte of what follows could be lost
			_, err = io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n")
		}
		if err != nil {
			t.Error(err)
			return
		}
		pass(in, out)
		pass(out, in)
	}))
	p.proxy = proxy.URL
	t.Cleanup(func() {
		proxy.Close()
		_ = l.Close()
		passing.Wait()
	})
	return p
}

// A walker runs the program in a folder, with an environment.
type walker struct {
	t   *testing.T
	dir string
	env []string
}

func (w *walker) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(w.t.Context(), "rstream", args...)
	cmd.Dir, cmd.Env = w.dir, append(os.Environ(), w.env...)
	return cmd
}

// run runs a command, which must end with a status.
func (w *walker) run(status int, args string) (out, errors string) {
	w.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := w.command(strings.Fields(args)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != status {
		w.t.Fatalf("rstream %s: %v, want %d\n%s%s", args, cmd.ProcessState, status, &stdout, &stderr)
	}
	return stdout.String(), stderr.String()
}

// start starts a command that ends with the test, and returns its output and errors.
func (w *walker) start(args string) (cmd *exec.Cmd, out, errors *lockedBuffer) {
	out, errors = &lockedBuffer{}, &lockedBuffer{}
	cmd = w.command(strings.Fields(args)...)
	cmd.Stdout, cmd.Stderr = out, errors
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	return cmd, out, errors
}

func (w *walker) write(name, text string) {
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// TestServerOnAPublicName does what docs/security.md says: a server on a public name, whose
// certificate an authority issues, a colleague with a token for one topic, a page with a cookie,
// and a revocation that all of them feel at once.
func TestServerOnAPublicName(t *testing.T) {
	longtest.Require(t)
	name := newPublicName(t)
	authority := startPebble(t, name.port)
	dir := t.TempDir()
	base := fmt.Sprintf("https://log.example.com:%d", name.port)
	w := &walker{t: t, dir: dir, env: []string{"HOME=" + dir, "XDG_DATA_HOME=" + dir, "HTTPS_PROXY=" + name.proxy, "RSTREAM_SERVER=" + base, "RSTREAM_CA=" + filepath.Join(dir, "ca.pem")}}
	w.write("ca.pem", string(authority.root))
	w.write("directory.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Certificate().Raw})))
	w.write("revoked", "")

	w.run(exitDone, "key new keys.json")
	pages := httptest.NewUnstartedServer(nil)
	page := fmt.Sprintf("https://app.example.com:%d", pages.Listener.Addr().(*net.TCPAddr).Port)
	hub := &walker{t: t, dir: dir, env: []string{"SSL_CERT_FILE=" + filepath.Join(dir, "directory.pem")}}
	server, _, said := hub.start("serve --listen 127.0.0.1:0 --db log.db --keys keys.json --revoked revoked --acme log.example.com --acme-directory " +
		authority.URL + "/dir --allow-origin " + page)
	said.waitFor(t, " on https://", " from log.db")
	_, at, _ := strings.Cut(said.String(), " on https://")
	name.server, _, _ = strings.Cut(at, " ")
	close(name.ready)

	root, _ := w.run(exitDone, "token --key keys.json --sub me --read * --write *")
	bob, _ := w.run(exitDone, "token --key keys.json --sub bob --read alice --write alice/inbox")
	w.write("root", root)
	w.write("bob", bob)
	w.run(exitDone, "put alice/posts/1 1 --token-file root")
	w.run(exitDone, "put carol/secret 2 --token-file root")
	w.run(exitDone, "sync alice --token-file bob")
	if out, _ := w.run(exitDone, "log alice"); strings.Count(out, "\n") != 1 {
		t.Errorf("the colleague's copy has %s", out)
	}
	if _, text := w.run(exitNotAllowed, "sync carol --token-file bob"); !strings.Contains(text, "the token in bob reads alice and appends to alice/inbox") {
		t.Error(text)
	}
	w.run(exitNotAllowed, "put alice/posts/1 3 --token-file bob")
	w.run(exitNotAllowed, "sync alice")
	_, tailed, tailSaid := w.start("tail alice --token-file bob")
	tailed.waitFor(t, `"posts/1"`)
	w.run(exitDone, "put alice/inbox/1 4 --token-file bob")
	tailed.waitFor(t, `"inbox/1"`)

	seen := openPage(t, pages, base, strings.TrimSpace(bob), dir)
	if seen != nil {
		seen.waitFor(t, "status 200 after login", "status 401 after logout", "logged in as bob", "event inbox/1")
		w.run(exitDone, "put alice/inbox/2 5 --token-file bob")
		seen.waitFor(t, "event inbox/2")
	}

	_, claims, err := auth.ReadToken(strings.TrimSpace(bob))
	if err != nil {
		t.Fatal(err)
	}
	w.write("revoked", claims.ID+"\n")
	began := time.Now()
	if err := server.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	tailSaid.waitFor(t, "token was revoked (401); trying again")
	if seen != nil {
		seen.waitFor(t, "closed")
	}
	t.Logf("the revocation was felt after %s", time.Since(began))
	next, _ := w.run(exitDone, "token --key keys.json --sub bob --read alice")
	w.write("bob", next)
	w.run(exitDone, "put alice/posts/2 6 --token-file root")
	tailed.waitFor(t, `"posts/2"`)
	if seen != nil && strings.Contains(seen.String(), "posts/2") {
		t.Errorf("the page has seen an event after the revocation:\n%s", seen)
	}
	for _, secret := range []string{strings.TrimSpace(root), strings.TrimSpace(bob), strings.TrimSpace(next)} {
		if strings.Contains(said.String()+tailSaid.String()+tailed.String(), secret) {
			t.Error("a token was printed")
		}
	}
}

// openPage opens a page in Chromium that logs in with a token and follows alice. It returns what the
// page reports, nil if there is no Chromium on this machine.
func openPage(t *testing.T, pages *httptest.Server, log, token, dir string) *lockedBuffer {
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Log("without a page: there is no chromium")
		return nil
	}
	seen := &lockedBuffer{}
	pages.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			lines := bufio.NewScanner(r.Body)
			for lines.Scan() {
				_, _ = fmt.Fprintln(seen, lines.Text())
			}
			return
		}
		w.Header().Set("Content-Type", "text/html")
		_, _ = fmt.Fprintf(w, `<!doctype html><script>
			const report = text => fetch('/seen', {method: 'POST', body: text})
			const follow = async () => {
				const at = %q
				const send = (path, body) => fetch(at + path, {method: 'POST', credentials: 'include', body})
				const login = async () => (await (await send('/login', new URLSearchParams({token: %q}))).json()).sub
				const read = () => fetch(at + '/events?topic=alice&limit=0', {credentials: 'include'})
				await login()
				await report('status ' + (await read()).status + ' after login')
				await send('/logout')
				await report('status ' + (await read()).status + ' after logout')
				await report('logged in as ' + await login())
				const events = new EventSource(at + '/events?topic=alice', {withCredentials: true})
				events.addEventListener('PUT', e => report('event ' + JSON.parse(e.data).path))
				events.addEventListener('error', () => { if (events.readyState === EventSource.CLOSED) report('closed') })
			}
			follow().catch(e => report('failed: ' + e))
		</script>`, log, token)
	})
	pages.StartTLS()
	t.Cleanup(pages.Close)
	u, err := url.Parse(log)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(pages.Listener.Addr().String())
	cmd := exec.CommandContext(t.Context(), chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--remote-debugging-port=0", "--ignore-certificate-errors", "--user-data-dir="+filepath.Join(dir, "chromium"),
		"--host-resolver-rules=MAP log.example.com:"+u.Port()+" 127.0.0.1:"+u.Port()+",MAP app.example.com:"+port+" 127.0.0.1:"+port,
		"https://app.example.com:"+port+"/")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stderr = &lockedBuffer{} // Wait ends when all of its processes have closed it, and write no more
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	return seen
}
