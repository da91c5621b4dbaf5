package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/reconcile"
)

// The explanation has one line a round, with the names of --strategy.
func TestExplain(t *testing.T) {
	c := &client.Comparison{Outcome: reconcile.Sketch.String(), Why: "1 events were missing here and 0 there", Asked: 1, Saved: 9,
		Rounds: []reconcile.Round{{Strategy: reconcile.Summary, Why: "the sums come first", Up: 44, Down: 40},
			{Strategy: reconcile.Sketch, Why: "few differ", Up: 200, Down: 90}}}
	for form, want := range map[form]string{
		formText: "round  strategy  bytes up  bytes down  why\n" +
			"1      summary   44        40          the sums come first\n" +
			"2      iblt      200       90          few differ\n" +
			"*: iblt: 1 events were missing here and 0 there; 1 event asked for, 9 saved\n",
		formJSON: `{"type":"explain","topic":"*","strategy":"iblt","why":"1 events were missing here and 0 there","up":244,"down":130,"asked":1,"saved":9,` +
			`"rounds":[{"strategy":"summary","why":"the sums come first","up":44,"down":40},{"strategy":"iblt","why":"few differ","up":200,"down":90}]}` + "\n",
	} {
		dir := t.TempDir()
		stdout, stderr := createFile(t, filepath.Join(dir, "stdout")), createFile(t, filepath.Join(dir, "stderr"))
		a := &app{out: newOutput(t.Context(), stdout), err: stderr}
		a.out.form = form
		if err := a.printComparison(event.All, c, false); err != nil {
			t.Fatal(err)
		}
		if err := a.out.flush(); err != nil {
			t.Fatal(err)
		}
		var said strings.Builder
		for _, f := range []*os.File{stdout, stderr} {
			b, err := os.ReadFile(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			said.Write(b)
		}
		if said.String() != want {
			t.Errorf("%s: said\n%s, want\n%s", form, &said, want)
		}
	}
}

func createFile(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
