//go:build unix

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// consumerPrograms returns the programs of docs/consumers.md: blocks of which the first or the
// second line has the name of a file.
func consumerPrograms(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "consumers.md"))
	if err != nil {
		t.Fatal(err)
	}
	programs := map[string]string{}
	for i, block := range strings.Split(string(b), "```") {
		_, text, _ := strings.Cut(block, "\n")
		first := strings.TrimPrefix(text, "#!/bin/sh\n")
		if name, _, named := strings.Cut(strings.TrimLeft(first, "#/ "), ":"); i%2 == 1 && named && !strings.ContainsAny(name, " \n") {
			programs[name] = text
		}
	}
	return programs
}

// The workers of the documentation answer each event with its id, and with a reason if it has
// failed.
func TestDocumentedWorkers(t *testing.T) {
	inParallel(t)
	programs := consumerPrograms(t)
	var lines bytes.Buffer
	var want strings.Builder
	for id := range event.ID(3) {
		ev := event.New(id, 1, event.Draft{User: "shop", Path: "orders/1", Type: event.Put, Key: "k", Value: []byte("1")}, event.Hash{})
		lines.Write(append(ev.AppendLine(nil), '\n'))
		want.WriteString(id.String() + "\n")
	}
	for _, c := range []struct {
		program, file, fails string
		flags                []string
	}{
		{"python3", "index.py", "def handle(event):\n    raise ValueError('no\\nroom')\n\n\n#", []string{"-IS"}},
		{"node", "index.mjs", "async function handle(event) {\n  throw new Error(\"no\\nroom\");\n}\n\nasync function unused", nil},
	} {
		path, err := exec.LookPath(c.program)
		if err != nil {
			t.Logf("%s is not run: %v", c.file, err)
			continue
		}
		for _, fails := range []bool{false, true} {
			text := programs[c.file]
			if fails {
				text = strings.Replace(strings.Replace(text, "def handle(event):\n    print(event", c.fails+"print(event", 1), "async function handle", c.fails, 1)
			}
			file := filepath.Join(t.TempDir(), c.file)
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(path, append(slices.Clone(c.flags), file)...)
			cmd.Stdin = bytes.NewReader(lines.Bytes())
			out, err := cmd.Output()
			got := string(out)
			if fails {
				for line := range strings.Lines(got) {
					if !strings.HasSuffix(line, "no room\n") {
						t.Errorf("%s answers a failure with %q", c.file, line)
					}
					got = strings.Replace(got, line, line[:event.IDLen]+"\n", 1)
				}
			}
			if err != nil || got != want.String() {
				t.Errorf("%s answers %q: %v", c.file, out, err)
			}
		}
	}
}

// The mailer of the documentation sends a mail for an order, and fails for one without an
// address.
func TestDocumentedMailer(t *testing.T) {
	inParallel(t)
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write("mail.sh", consumerPrograms(t)["mail.sh"])
	write("sendmail", "#!/bin/sh\ncat >mail\n")
	if _, err := exec.LookPath("jq"); err != nil {
		t.Logf("mail.sh is not run: %v", err)
		return
	}
	for _, value := range []string{`{"email":"ann@shop.example"}`, `{"mail":"ann@shop.example"}`} {
		cmd := exec.Command(filepath.Join(dir, "mail.sh"))
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "RSTREAM_EVENT_HASH=abc", "RSTREAM_EVENT_PATH=orders/1")
		cmd.Stdin = strings.NewReader(`{"value":` + value + "}\n")
		out, err := cmd.CombinedOutput()
		mail, _ := os.ReadFile(filepath.Join(dir, "mail"))
		switch good := strings.Contains(value, `"email"`); {
		case good && (err != nil || !strings.HasPrefix(string(mail), "To: ann@shop.example\nMessage-ID: <abc@shop.example>\nSubject: your order orders/1\n\n{\n")):
			t.Errorf("mail.sh: %v: %s: %s", err, out, mail)
		case !good && (err == nil || len(mail) > 0):
			t.Errorf("mail.sh without an address: %v: %s", err, mail)
		}
		os.Remove(filepath.Join(dir, "mail"))
	}
}
