//go:build unix

package main

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.yaml.in/yaml/v3"

	"github.com/rstream-dev/rstream/internal/testport"
)

const (
	clusterDocument = "../../docs/cluster.md"
	clusterCompose  = "../../packaging/docker/cluster.yaml"
	clusterNATS     = "../../packaging/docker/nats.conf"
)

func readText(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A composed is what the test reads of a Compose file.
type composed struct {
	Services map[string]struct {
		Image       string
		Command     []string
		Environment map[string]string
		Healthcheck struct{ Test []string }
		DependsOn   map[string]struct{ Condition string } `yaml:"depends_on"`
		Volumes     []string
		Ports       []string
	}
	Volumes map[string]any
}

// The Compose file of a cluster starts three NATS servers with a config that they accept, which is
// the one in the document, and three nodes with settings that the program accepts. No test runs it.
func TestClusterCompose(t *testing.T) {
	alone(t)
	conf, text := readText(t, clusterNATS), readText(t, clusterCompose)
	if !strings.Contains(readText(t, clusterDocument), "```\n"+conf+"```\n") {
		t.Errorf("%s does not show %s", clusterDocument, clusterNATS)
	}
	// Passwords as the first lines of the file make them.
	secrets := map[string]string{"NODE_PASSWORD": "n12e45678901234567890123456789012", "SYS_PASSWORD": "s00000000000000000000000000000000"}
	for name, value := range secrets {
		if !strings.Contains(text, name+"="+value[:1]+"$(openssl rand -hex 16)") {
			t.Errorf("the file does not make the password %s", name)
		}
		t.Setenv(name, value)
		text = strings.ReplaceAll(text, "${"+name+":?}", value)
	}
	o, err := server.ProcessConfigFile(clusterNATS)
	if err != nil {
		t.Fatal(err)
	}
	users := map[string]string{}
	for _, u := range o.Users {
		users[u.Username] = u.Password
	}
	if want := map[string]string{"node": secrets["NODE_PASSWORD"], "sys": secrets["SYS_PASSWORD"]}; !maps.Equal(users, want) || !o.SyncAlways || len(o.Routes) != 3 {
		t.Errorf("the NATS servers have the users %v, %d routes, sync %v", users, len(o.Routes), o.SyncAlways)
	}

	var file composed
	if err := yaml.Unmarshal([]byte(text), &file); err != nil {
		t.Fatal(err)
	}
	image := imageSettings(t)
	var nats, nodes []string
	for name, s := range file.Services {
		for _, v := range s.Volumes {
			from, _, _ := strings.Cut(v, ":")
			if _, named := file.Volumes[from]; !named && from != "./"+filepath.Base(clusterNATS) {
				t.Errorf("%s has the volume %s", name, v)
			}
		}
		if s.Command[0] == "nats-server" {
			nats = append(nats, name)
			if want := "nats-server --config /etc/nats/nats.conf --name " + name; strings.Join(s.Command, " ") != want || s.Environment["NODE_PASSWORD"] == "" || s.Environment["SYS_PASSWORD"] == "" {
				t.Errorf("%s is %q", name, s.Command)
			}
			if version, _ := strings.CutPrefix(s.Image, "nats:"); !strings.HasPrefix(server.VERSION, strings.TrimSuffix(version, "-alpine")+".") {
				t.Errorf("%s has the image %s, and the tests run %s", name, s.Image, server.VERSION)
			}
			continue
		}
		nodes = append(nodes, name)
		for _, needs := range []string{"n1", "n2", "n3"} {
			if s.DependsOn[needs].Condition != "service_healthy" {
				t.Errorf("%s does not wait for %s", name, needs)
			}
		}
		settings := maps.Clone(image)
		maps.Copy(settings, s.Environment)
		for key, value := range settings {
			t.Setenv(key, value)
		}
		var got serveOptions
		a := testApp(t)
		a.onServe = func(o serveOptions) { got = o }
		root := newRootCommand(a)
		root.SetArgs(s.Command)
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Errorf("%s: %q: %v", name, s.Command, err)
			continue
		}
		want := fmt.Sprintf("nats://node:%[1]s@n1:4222,nats://node:%[1]s@n2:4222,nats://node:%[1]s@n3:4222", secrets["NODE_PASSWORD"])
		if got.nats != want || got.stream != "log" || !got.create || got.durable != "always" || got.node != name || got.replicas != 0 || !got.insecure || got.advertise != "http://"+name+":8420" {
			t.Errorf("%s has the options %+v", name, got)
		}
		if want := strings.ReplaceAll(strings.ReplaceAll(want, secrets["NODE_PASSWORD"], secrets["SYS_PASSWORD"]), "node:", "sys:"); got.systemURL != want {
			t.Errorf("%s asks %s when the servers sync", name, got.systemURL)
		}
		if test := s.Healthcheck.Test; test[0] != "CMD" || test[1] != "/usr/bin/rstream" || !slices.Contains(test, "--ready") {
			t.Errorf("the health of %s is %q", name, test)
		}
		checkAccepted(t, s.Healthcheck.Test[2:])
		if len(s.Ports) != 1 || !strings.HasPrefix(s.Ports[0], "127.0.0.1:") {
			t.Errorf("%s is open at %q", name, s.Ports)
		}
	}
	slices.Sort(nats)
	slices.Sort(nodes)
	if !slices.Equal(nats, []string{"n1", "n2", "n3"}) || !slices.Equal(nodes, []string{"a", "b", "c"}) {
		t.Errorf("there are the NATS servers %q and the nodes %q", nats, nodes)
	}
	commands := regexp.MustCompile(`(?m)^#   .* exec \w rstream (.*)$`).FindAllStringSubmatch(text, -1)
	if len(commands) < 3 {
		t.Errorf("the file has %d commands", len(commands))
	}
	for _, m := range commands {
		checkAccepted(t, strings.Fields(strings.ReplaceAll(m[1], "'", "")))
	}
}

// imageSettings returns the environment of the image.
func imageSettings(t *testing.T) map[string]string {
	t.Helper()
	settings := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^ENV (.*)$`).FindAllStringSubmatch(readText(t, "../../packaging/docker/Dockerfile"), -1) {
		for _, one := range strings.Fields(m[1]) {
			name, value, _ := strings.Cut(one, "=")
			settings[name] = value
		}
	}
	if settings["RSTREAM_DB"] == "" {
		t.Fatal("the image has no settings")
	}
	return settings
}

// checkAccepted checks that the program accepts a command line.
func checkAccepted(t *testing.T, line []string) {
	t.Helper()
	root := newRootCommand(testApp(t))
	cmd, rest, err := root.Find(line)
	if err == nil {
		err = cmd.ParseFlags(rest)
	}
	if err == nil {
		err = cmd.ValidateArgs(cmd.Flags().Args())
	}
	if err != nil || cmd == root {
		t.Errorf("rstream %s: %v", strings.Join(line, " "), err)
	}
}

// The ten lines of docs/cluster.md work in a shell: those that start the servers at once, the
// others when the nodes are ready.
func TestTenLines(t *testing.T) {
	t.Parallel()
	_, text, _ := strings.Cut(readText(t, clusterDocument), "## Three nodes in ten lines\n")
	text, _, _ = strings.Cut(text, "\n## ")
	var blocks []string
	lines, inside := 0, false
	for line := range strings.Lines(text) {
		line, is := strings.CutPrefix(line, "    ")
		if is && !inside {
			blocks = append(blocks, "")
		}
		if inside = is; is {
			blocks[len(blocks)-1] += line
			lines++
		}
	}
	if len(blocks) != 2 || lines > 10 {
		t.Fatalf("there are %d lines in %d blocks", lines, len(blocks))
	}
	script := strings.Join(blocks, "--\n")
	listeners := map[string]string{}
	ports := []string{"4222", "8420", "8421", "8422"}
	addresses := testport.Addresses(len(ports))
	for i, port := range ports {
		listeners[port] = addresses[i]
		if !strings.Contains(script, "127.0.0.1:"+port) {
			t.Errorf("the lines have no port %s", port)
		}
	}
	for port, at := range listeners {
		script = strings.ReplaceAll(script, "127.0.0.1:"+port, at)
	}
	dir, bin := t.TempDir(), t.TempDir()
	// The NATS server is the one of the tests, which has no other flags.
	wrapper := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = -c ] || exit 2\nexec %s \"$2\" nats.url\n", filepath.Join(bin, natsName))
	if err := os.WriteFile(filepath.Join(bin, "nats-server"), []byte(wrapper), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{natsName, "rstream"} {
		if err := os.Symlink(executable(t), filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	out, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command("sh")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); !strings.HasPrefix(name, "RSTREAM_") && !strings.HasPrefix(name, "XDG_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "HOME="+dir, "PATH="+bin+":"+os.Getenv("PATH"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }) // the servers in it
	late := time.AfterFunc(patience, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer late.Stop()
	begin, rest, _ := strings.Cut(script, "--\n")
	if _, err := io.WriteString(in, begin); err != nil {
		t.Fatal(err)
	}
	for _, port := range []string{"8420", "8421", "8422"} {
		awaitReady(t, "http://"+listeners[port], out.Name())
	}
	if _, err := io.WriteString(in, rest); err != nil {
		t.Fatal(err)
	}
	in.Close()
	failed := cmd.Wait()
	shown := readText(t, out.Name())
	if failed != nil || !strings.Contains(shown, "\n\"hello\"\n") && !strings.Contains(shown, `"value":"hello"`) {
		t.Fatalf("%v\n%s", failed, shown)
	}
	for _, want := range []string{`"committer":"`, `{"node":"a","answers":true`, `{"node":"b","answers":true`, `{"node":"c","answers":true`} {
		if !strings.Contains(shown, want) {
			t.Errorf("the lines do not show %s:\n%s", want, shown)
		}
	}
}

// awaitReady waits until a server is ready. shown is the file with its output.
func awaitReady(t *testing.T, url, shown string) {
	t.Helper()
	for limit := time.After(patience); ; {
		resp, err := http.Get(url + "/readyz")
		if err == nil {
			resp.Body.Close()
		}
		if err == nil && resp.StatusCode == http.StatusOK {
			return
		}
		select {
		case <-limit:
			t.Fatalf("%s is not ready:\n%s", url, readText(t, shown))
		case <-time.After(10 * time.Millisecond):
		}
	}
}
