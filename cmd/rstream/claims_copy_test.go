//go:build unix

package main

import (
	"database/sql"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A copyWork is a command that changes the copy, with a way to check that it is done.
type copyWork struct {
	name   string
	before string // a script that creates work
	damage string // an SQL statement that does
	args   []string
	show   string // a script that prints the result
	done   string // its output when all work is done
	none   string // if the command may stop first: what it prints then
}

const syncTwo = `rstream sync -q a b; `

// copyWorks is one side of the table. Add each command that changes the copy.
var copyWorks = []copyWork{
	{name: "sync", args: []string{"sync", "a", "b"}, show: "rstream log a b | wc -l", done: "14"},
	{name: "forget", before: syncTwo, args: []string{"forget", "a", "b"}, show: "rstream windows | wc -l", done: "0"},
	{name: "import", before: syncTwo + "rstream export a b >ex; rstream forget -q a b", args: []string{"import", "ex"},
		show: `rstream import ex | grep -o '"known":[0-9]*'`, done: `"known":14`},
	{name: "verify --repair", before: syncTwo + "rstream log a >had", damage: `DELETE FROM event WHERE id IN (2, 3)`, args: []string{"verify", "--repair"}, show: "rstream log a | cmp - had && echo same", done: "same"},
	{name: "cursor set", before: syncTwo, args: []string{"cursor", "set", "c", "beginning", "a"}, show: "rstream cursor | wc -l", done: "1"},
	{name: "cursor rm", before: syncTwo + "rstream cursor set c beginning a; rstream cursor set d beginning a", args: []string{"cursor", "rm", "c", "d"},
		show: "rstream cursor | wc -l", done: "0"},
	{name: "outbox drop", before: syncTwo + "seq 5 | rstream put c/x --lines --offline", args: []string{"outbox", "drop", "--all"},
		show: "rstream outbox | wc -l", done: "0", none: "; nothing was dropped\n"},
}

// Whatever happens to its output, a command that exits with 0 has done all its work,
// and a command that says that it did nothing did nothing.
func TestCopyClaims(t *testing.T) {
	for _, w := range copyWorks {
		for _, output := range []string{"none", "full", "closed"} {
			t.Run(w.name+"/"+output, func(t *testing.T) {
				t.Parallel()
				w.try(t, output)
			})
		}
	}
}

func (w *copyWork) try(t *testing.T, output string) {
	dir := t.TempDir()
	url := serveEvents(t, filepath.Join(dir, "log.db"), 0)
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "RSTREAM_SERVER="+url, "RSTREAM_CACHE=copy.db", "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
		return cmd
	}
	script := func(text string) string {
		t.Helper()
		b, err := command("sh", "-c", text).Output()
		if err != nil {
			t.Fatalf("%s: %v %s", text, err, b)
		}
		return strings.TrimSpace(string(b))
	}
	script("seq 7 | rstream put -q a/x --lines && seq 7 | rstream put -q b/x --lines")
	if w.before != "" {
		script(w.before)
	}
	if w.damage != "" {
		damage(t, filepath.Join(dir, "copy.db"), w.damage)
	}
	cmd := command("rstream", w.args...)
	var said strings.Builder
	cmd.Stderr = &said
	if out := outputOf(t, output); out != nil {
		defer out.Close()
		cmd.Stdout = out
	}
	err := cmd.Run()
	if (err != nil) != (output == "full") {
		t.Errorf("the output is %s: %v: %s", output, err, &said)
	}
	none := w.none != "" && strings.HasSuffix(said.String(), w.none)
	if now := script(w.show); (now == w.done) == none {
		t.Errorf("it ends with %v and says %q; then %q prints %s", err, &said, w.show, now)
	}
}

func damage(t *testing.T, path, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}
