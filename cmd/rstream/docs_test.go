//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestDocs types the commands of the documents into a shell, one shell for each document, and
// compares what they print with what the document shows. With -update it writes it instead.
func TestDocs(t *testing.T) {
	for _, name := range []string{"tutorial.md", "recipes.md"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("..", "..", "docs", name)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			sh := newDocShell(t)
			got := runDocument(sh, string(b))
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if n := strings.Count(string(b), "\n$ "); n < 10 {
				t.Errorf("%s has %d commands", name, n)
			}
			want, have := strings.SplitAfter(steady(string(b)), "\n"), strings.SplitAfter(steady(got), "\n")
			for i := range want {
				if i >= len(have) || want[i] != have[i] {
					t.Fatalf("%s:%d: the document shows\n%sthe program printed\n%s", name, i+1,
						strings.Join(want[i:min(i+8, len(want))], ""), strings.Join(have[min(i, len(have)):min(i+8, len(have))], ""))
				}
			}
		})
	}
}

// runDocument returns the document with what its commands print. Blocks of the kind console are
// run, files are blocks after a line such as "<!-- file NAME -->".
func runDocument(sh *docShell, text string) string {
	var out strings.Builder
	console, file := false, ""
	var content strings.Builder
	for line := range strings.Lines(text) {
		fence := strings.HasPrefix(line, "```")
		switch name, marked := strings.CutPrefix(line, "<!-- file "); {
		case marked:
			file = strings.TrimSuffix(strings.TrimSpace(name), " -->")
		case fence && console:
			console = false
		case fence && file != "" && content.Len() > 0:
			sh.write(file, strings.TrimPrefix(content.String(), "\n"))
			file = ""
			content.Reset()
		case fence && file != "":
			content.WriteByte('\n')
		case fence:
			console = strings.HasPrefix(line, "```console")
		case file != "" && content.Len() > 0:
			content.WriteString(line)
		}
		command, typed := strings.CutPrefix(line, "$ ")
		if !console || fence || typed {
			out.WriteString(line)
		}
		if console && typed {
			out.WriteString(sh.run(strings.TrimSpace(command)))
		}
	}
	return out.String()
}

// A docShell is a shell in a folder of its own. A server in it listens on a free port, always
// the same one.
type docShell struct {
	t     *testing.T
	dir   string
	in    io.Writer
	lines *bufio.Reader
}

func newDocShell(t *testing.T) *docShell {
	sh := &docShell{t: t, dir: t.TempDir()}
	cmd := exec.CommandContext(context.Background(), "sh") // it ends after the servers in it
	cmd.Dir = sh.dir
	home := filepath.Join(sh.dir, "home")
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); !strings.HasPrefix(name, "RSTREAM_") && !strings.HasPrefix(name, "XDG_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "HOME="+home, "XDG_DATA_HOME="+filepath.Join(home, "data"), "XDG_CONFIG_HOME="+filepath.Join(home, "config"), "TZ=UTC",
		"RSTREAM_OUTPUT=text", "RSTREAM_LISTEN=127.0.0.1:0")
	for _, name := range []string{"quakes.jsonl.gz"} {
		b, err := os.ReadFile(filepath.Join("..", "..", "internal", "demo", name))
		if err != nil {
			t.Fatal(err)
		}
		sh.write(name, string(b))
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	sh.in, sh.lines = in, bufio.NewReader(r)
	t.Cleanup(func() {
		sh.run("kill %1")
		in.Close()
		_ = cmd.Wait()
		r.Close()
	})
	return sh
}

func (sh *docShell) write(name, text string) {
	if err := os.WriteFile(filepath.Join(sh.dir, name), []byte(text), 0o700); err != nil {
		sh.t.Fatal(err)
	}
}

// servePattern is a command that starts a server in the background.
var servePattern = regexp.MustCompile(`^rstream serve\b(.*) &$`)

// run runs a command and returns what it prints, without empty lines at the end.
func (sh *docShell) run(command string) string {
	const end = "== end of the command"
	if m := servePattern.FindStringSubmatch(command); m != nil {
		command = fmt.Sprintf(`rm -f url; rstream serve%s --url-file url 2>serve.err & echo $! >serve.pid
until [ -s url ] || ! kill -0 $(cat serve.pid); do sleep 0.05; done; cat serve.err
export RSTREAM_SERVER=$(cat url) RSTREAM_LISTEN=$(sed s,http://,, url)`, m[1])
	}
	if strings.HasPrefix(command, "kill %") { // job numbers need a terminal; a person types slowly
		command = "kill $(cat serve.pid); wait"
	}
	if _, err := fmt.Fprintf(sh.in, "%s\necho '%s'\n", command, end); err != nil {
		sh.t.Fatal(err)
	}
	timer := time.AfterFunc(time.Minute, func() { panic("the command does not end: " + command) })
	defer timer.Stop()
	var out bytes.Buffer
	for {
		line, err := sh.lines.ReadString('\n')
		if err != nil {
			sh.t.Fatalf("%s: %v after %s", command, err, out.String())
		}
		before, ended := strings.CutSuffix(line, end+"\n")
		out.WriteString(before)
		if ended {
			break
		}
	}
	if out.Len() > 0 && !bytes.HasSuffix(out.Bytes(), []byte("\n")) {
		out.WriteByte('\n')
	}
	text := strings.ReplaceAll(out.String(), filepath.Join(sh.dir, "home", "data"), "~/.local/share")
	return regexp.MustCompile(`127\.0\.0\.1:\d+`).ReplaceAllString(text, "127.0.0.1:8420")
}

// changing matches what differs between two runs: names of logs, times, sizes.
var changing = []struct {
	pattern *regexp.Regexp
	text    string
}{
	{regexp.MustCompile(`\b([0-9A-Z]{13})\.[0-9A-Z]{5}(\.[0-9A-Z]{6})?\b`), "$1.MARK"},
	{regexp.MustCompile(`\b[0-9A-HJKMNP-TV-Z]{16}\b`), "LOG"},
	{regexp.MustCompile(`\b20\d\d-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?Z?`), "TIME"},
	{regexp.MustCompile(`\b(\d\d-\d\d )?\d\d:\d\d(:\d\d)?\b`), "TIME"},
	{regexp.MustCompile(`\b\d+(\.\d+)? (B|kB|MB)\b`), "SIZE"},
	{regexp.MustCompile(`"key":"[A-Z2-7]{26}"`), `"key":"KEY"`},
	{regexp.MustCompile(`"hash":"[0-9a-f]{64}"`), `"hash":"HASH"`},
	{regexp.MustCompile(`jti [a-z0-9]{16}|kid":"[a-z0-9]{12}`), "NAME"},
	{regexp.MustCompile(` +└|┘`), "└"},
}

// steady replaces what differs between two runs.
func steady(text string) string {
	for _, c := range changing {
		text = c.pattern.ReplaceAllString(text, c.text)
	}
	return text
}
