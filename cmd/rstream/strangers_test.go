//go:build unix

package main

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rstream-dev/rstream/internal/server"
)

// A stranger is a server of somebody else, which notes the credentials of each request. It serves
// a stream at /sse, and can pretend to be rstream at its root.
type stranger struct {
	url string

	mu  sync.Mutex
	got []string
}

// take returns the credentials of the requests since the last call, one text for each.
func (s *stranger) take() (got []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	got, s.got = s.got, nil
	return got
}

func (s *stranger) note(r *http.Request) {
	said := fmt.Sprintf("%s|%s|%d", r.Header.Get("Authorization"), r.Header.Get("X-Door"), len(r.TLS.PeerCertificates))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, said)
}

// newStranger starts a stranger, and writes its certificate to ca.pem and a certificate for clients
// to own.pem and own.key.
func newStranger(t *testing.T, dir string) *stranger {
	t.Helper()
	db := openNewLog(t, filepath.Join(dir, "log.db"))
	log := server.New(db, server.Config{})
	s := &stranger{}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.note(r)
		switch r.URL.Path {
		case "/sse":
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "id: 1\ndata: {}\n\n")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case "/none":
			http.NotFound(w, r)
		default:
			log.ServeHTTP(w, r)
		}
	}))
	srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	srv.StartTLS()
	t.Cleanup(func() {
		log.Stop()
		srv.CloseClientConnections()
		srv.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	writePEM(t, filepath.Join(dir, "ca.pem"), "CERTIFICATE", srv.Certificate().Raw)
	makeCertificate(t, dir)
	s.url = srv.URL
	return s
}

// Credentials of the environment and of the config file are for the servers of the settings, and for
// no other server, even if it claims to be one of rstream.
func TestStrangersGetNoCredentials(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	alone(t)
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"} {
		t.Setenv(name, dir)
	}
	s := newStranger(t, dir)
	const token = "a-token-of-the-settings"
	write := func(name, text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("token", token+"\n")
	write("headers", "X-Door: "+token+"\n")
	kinds := []struct{ name, settings string }{
		{"token-file", "token-file: token"},
		{"token-command", "token-command: cat token"},
		{"header", "header: 'X-Door: " + token + "'"},
		{"file of headers", "header: '@headers'"},
		{"authorization", "header: 'Authorization: Bearer " + token + "'"},
		{"certificate", "client-cert: own.pem\nclient-key: own.key"},
	}
	commands := []string{"doctor URL/none --for 1s", "doctor -s foreign --for 1s", "source try URL/sse --count 1 --kind sse", "tail -s foreign --count 1", "sync URL/sse --idle 1ms", "sync URL/", "sync URL/", "tail URL/ --until-live"}
	sources := "sources:\n  - name: foreign\n    url: " + s.url + "/none\n    kind: sse\n"
	for _, kind := range kinds {
		for _, origin := range []string{"environment", "config"} {
			t.Run(kind.name+" of the "+origin, func(t *testing.T) {
				settings := kind.settings + "\n" + sources
				if origin == "environment" {
					settings = sources
					for line := range strings.Lines(kind.settings) {
						name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
						t.Setenv(envName(name), strings.Trim(value, "'"))
					}
				}
				write("config.yaml", settings)
				check := func(args string, want bool) {
					t.Helper()
					r := runCommand(t, strings.Fields(strings.ReplaceAll(args, "URL", s.url)+" --ca ca.pem --config config.yaml")...)
					got := s.take()
					if sent := slices.ContainsFunc(got, func(said string) bool { return said != "||0" }); len(got) == 0 || sent != want {
						t.Errorf("%s: the requests brought %q: %+v", args, got, r)
					}
				}
				for _, args := range commands {
					check(args, false)
				}
				check("status -s URL", true)
			})
		}
	}
}

// The sources of a relay get nothing of the environment either.
func TestRelayedSourceGetsNoToken(t *testing.T) {
	alone(t)
	t.Setenv(tokenVariable, "secret")
	a := testApp(t)
	a.settings = &settings{}
	s, err := a.newRelayedSource(&namedSource{name: "foreign", url: "https://foreign.example/sse"})
	if err != nil {
		t.Fatal(err)
	}
	if token, err := s.cfg.Token(t.Context()); token != "" || err != nil {
		t.Errorf("the token is %q, %v", token, err)
	}
}

// The parameters of the URL of a stream may be secret. Doctor shows none, nor those of redirects.
func TestDoctorShowsNoParameters(t *testing.T) {
	alone(t)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/first" {
			http.Redirect(w, r, "/second?auth=s3cret", http.StatusFound)
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(srv.Close)
	config := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(config, []byte("sources:\n  - name: foreign\n    url: "+srv.URL+"/first?auth=s3cret\n    kind: sse\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ args, want string }{
		{"doctor -s foreign --for 1s", `"url":"URL/first"`},
		{"doctor -s foreign --for 1s -o text", "URL/first: "},
		{"doctor URL/first?auth=s3cret --for 1s", "redirected to URL/second?…"},
		{"doctor -s foreign --for 1s --topic alice", "; URL/first is the URL of a stream"},
		{"doctor -s foreign URL/first?auth=s3cret", "URL/first and --server cannot be combined"},
	} {
		want := strings.Replace(test.want, "URL", srv.URL, 1)
		args := append(strings.Fields(strings.ReplaceAll(test.args, "URL", srv.URL)), "--config", config)
		r := runCommand(t, args...)
		if said := r.out + r.err; strings.Contains(said, "s3cret") || !strings.Contains(said, want) {
			t.Errorf("%s: %+v", test.args, r)
		}
	}
}
