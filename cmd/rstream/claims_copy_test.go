//go:build unix

package main

import (
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/pagetest"
)

// A copyWork is a command that changes the copy, with a way to check that it is done.
type copyWork struct {
	name   string
	before string     // a script that creates work
	delete []event.ID // events that the copy loses before
	args   []string
	show   string // a script that prints the result
	done   string // its output when all work is done
	none   string // if the command may stop first: what it prints then
	claim  string // else, how its error ends if the work is done and the output is full
}

const syncTwo = `rstream sync -q a b; `

// giveUp makes dead letters of all events of a.
const giveUp = `rstream tail -q a --name c --exec false --tries 1 --until-live 2>said || test $? = 1; `

// copyWorks is one side of the table. Add each command that changes the copy.
var copyWorks = []copyWork{
	{name: "sync", args: []string{"sync", "a", "b"}, show: "rstream log a b | wc -l", done: "14"},
	{name: "forget", before: syncTwo, args: []string{"forget", "a", "b"}, show: "rstream windows | wc -l", done: "0", claim: "; the events were forgotten\n"},
	{name: "import", before: syncTwo + "rstream export a b >ex; rstream forget -q a b", args: []string{"import", "ex"},
		show: `rstream import ex | grep -o '"known":[0-9]*'`, done: `"known":14`, claim: "; the events were imported\n"},
	{name: "verify --repair", before: syncTwo + "rstream log a >had", delete: []event.ID{2, 3}, args: []string{"verify", "--repair"}, show: "rstream log a | cmp - had && echo same", done: "same", claim: "; the repair is complete\n"},
	{name: "cursor set", before: syncTwo, args: []string{"cursor", "set", "c", "beginning", "a"}, show: "rstream cursor | wc -l", done: "1", claim: "; the cursor was set\n"},
	{name: "cursor rm", before: syncTwo + "rstream cursor set c beginning a; rstream cursor set d beginning a", args: []string{"cursor", "rm", "c", "d"},
		show: "rstream cursor | wc -l", done: "0", claim: "; the cursors were removed\n"},
	{name: "outbox drop", before: syncTwo + "seq 5 | rstream put c/x --lines --offline", args: []string{"outbox", "drop", "--all"},
		show: "rstream outbox | wc -l", done: "0", none: "; nothing was dropped\n"},
	{name: "outbox retry", before: syncTwo + "rstream put c/x 1 --offline", args: []string{"outbox", "retry", "1"},
		show: "rstream outbox | wc -l", done: "1", claim: "; the appends were queued again\n"},
	{name: "dead drop", before: syncTwo + giveUp, args: []string{"dead", "drop", "--name", "c", "--all"},
		show: "rstream dead | wc -l", done: "0", none: "; nothing was changed\n"},
	{name: "dead retry", before: syncTwo + giveUp, args: []string{"dead", "retry", "--name", "c", "--all"},
		show: `rstream dead | grep '"retry":true' | wc -l`, done: "7", none: "; nothing was changed\n"},
	{name: "compact", args: []string{"compact", "--db", "log.db"},
		show: "true", claim: "; log.db was compacted\n"},
	{name: "key new", args: []string{"key", "new", "keys.json"}, show: "rstream key list keys.json | wc -l", done: "1", claim: "; the key was added to keys.json\n"},
	{name: "server add", args: []string{"server", "add", "home", "http://127.0.0.1:1"}, show: "rstream server | wc -l", done: "1", claim: "; the server was added\n"},
	{name: "source add", args: []string{"source", "add", "feed", "http://127.0.0.1:1"}, show: "rstream source | wc -l", done: "1", claim: "; the source was added\n"},
}

// Whatever happens to its output, a command that exits with 0 has done all its work,
// and a command that says that it did nothing did nothing.
func TestCopyClaims(t *testing.T) {
	for i, w := range copyWorks {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			first := newCopyTrial(t)
			first.prepare(w)
			for j, output := range []string{"full", "closed", "none"} {
				if !longtest.Enabled() && j != i%2 { // output that is read is in every other test
					continue
				}
				t.Run(output, func(t *testing.T) {
					tr := &copyTrial{T: t, url: first.url, dir: t.TempDir()}
					if err := os.CopyFS(tr.dir, os.DirFS(first.dir)); err != nil {
						t.Fatal(err)
					}
					tr.try(w, output)
				})
			}
		})
	}
}

// A copyTrial is a folder with a copy of the log at a server.
type copyTrial struct {
	*testing.T
	url string
	dir string
}

// newCopyTrial serves seven events of each of two users. In its folder is another log.
func newCopyTrial(t *testing.T) *copyTrial {
	tr := &copyTrial{T: t, url: serveEvents(t, filepath.Join(t.TempDir(), "log.db"), 0), dir: t.TempDir()}
	var lines strings.Builder
	for i := range 14 {
		fmt.Fprintf(&lines, `{"user":"%c","path":"x","value":%d}`+"\n", "ab"[i/7], i)
	}
	if err := openNewLog(t, filepath.Join(tr.dir, "log.db")).Close(); err != nil {
		t.Fatal(err)
	}
	put := tr.command("rstream", "put", "-q", "--from", "-")
	put.Stdin = strings.NewReader(lines.String())
	if b, err := put.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return tr
}

func (tr *copyTrial) command(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(tr.Context(), name, args...)
	cmd.Dir = tr.dir
	cmd.Env = append(os.Environ(), "RSTREAM_SERVER="+tr.url, "RSTREAM_CACHE=copy.db", "HOME="+tr.dir, "XDG_DATA_HOME="+tr.dir, "XDG_CONFIG_HOME="+tr.dir)
	return cmd
}

// script runs a script of the shell and returns its output.
func (tr *copyTrial) script(text string) string {
	tr.Helper()
	b, err := tr.command("sh", "-c", text).Output()
	if err != nil {
		tr.Fatalf("%s: %v %s", text, err, b)
	}
	return strings.TrimSpace(string(b))
}

// prepare makes the copy on which the command works.
func (tr *copyTrial) prepare(w copyWork) {
	tr.Helper()
	if w.before != "" {
		tr.script(w.before)
	}
	if len(w.delete) > 0 {
		deleteEvents(tr.T, filepath.Join(tr.dir, "copy.db"), w.delete...)
	}
}

func (tr *copyTrial) try(w copyWork, output string) {
	tr.Helper()
	cmd := tr.command("rstream", w.args...)
	var said strings.Builder
	cmd.Stderr = &said
	if out := outputOf(tr.T, output); out != nil {
		defer out.Close()
		cmd.Stdout = out
	}
	err := cmd.Run()
	if (err != nil) != (output == "full") {
		tr.Errorf("the output is %s: %v: %s", output, err, &said)
	}
	none := w.none != "" && strings.HasSuffix(said.String(), w.none)
	if now := tr.script(w.show); (now == w.done) == none {
		tr.Errorf("it ends with %v and says %q; then %q prints %s", err, &said, w.show, now)
	}
	if output == "full" && !strings.HasSuffix(said.String(), w.claim) {
		tr.Errorf("it says %q, want %q at the end", &said, w.claim)
	}
}

// deleteEvents deletes events of a file without its knowledge.
func deleteEvents(t *testing.T, path string, ids ...event.ID) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, id := range ids {
		if err := pagetest.Delete(db, id); err != nil {
			t.Fatal(err)
		}
	}
}
