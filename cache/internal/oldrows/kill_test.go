package oldrows

import (
	"bufio"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/internal/longtest"
)

// The environment of a child: its file, the file's role and what it does.
const (
	childFile = "RSTREAM_OLDROWS_FILE"
	childRole = "RSTREAM_OLDROWS_ROLE"
	childWork = "RSTREAM_OLDROWS_WORK"
)

var killRounds = flag.Int("kill.rounds", 1, "how often each file is upgraded by children that are killed; 2 with -long")

func TestMain(m *testing.M) {
	if path := os.Getenv(childFile); path != "" {
		if err := runChild(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	debug.SetGCPercent(400) // the heap is small
	longtest.TempInMemory()
	flag.Parse()
	longtest.SetDefault("kill.rounds", strconv.Itoa(longtest.Size(1, 2)))
	os.Exit(m.Run())
}

// runChild opens a file and says after each step how far it is.
func runChild(path string) error {
	stepEvents, stepBlocks, stepPostings = 50, 1, 4
	f := oldFile{path: path, role: dbfile.Role(os.Getenv(childRole))}
	if os.Getenv(childWork) == "fill" {
		return fillDisk(f)
	}
	file, err := f.open(func(p dbfile.Progress) {
		if !p.Waiting {
			fmt.Println(p.Done)
		}
	})
	if err != nil {
		return err
	}
	return file.Close()
}

func childOf(f *oldFile, work string) *exec.Cmd {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childFile+"="+f.path, childRole+"="+string(f.role), childWork+"="+work)
	return c
}

// killAfter starts a child and kills it once it has said something n times. It reports
// whether the child was done before.
func killAfter(t *testing.T, f *oldFile, n int) (done bool) {
	t.Helper()
	c := childOf(f, "")
	var errs strings.Builder
	c.Stderr = &errs
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	killed := false
	for lines := bufio.NewScanner(out); !killed && lines.Scan(); n-- {
		if n <= 1 {
			killed = true
			c.Process.Kill()
		}
	}
	if err := c.Wait(); err != nil && !killed {
		t.Fatalf("child: %v: %s", err, errs.String())
	}
	return !killed
}

// Killed at any moment, and again and again, an upgrade loses no event and has none twice.
func TestKilledUpgrade(t *testing.T) {
	r := newRand(t)
	all := 0
	for range *killRounds {
		for _, role := range roles {
			f := writeOld(t, 1+r.IntN(schemas), role, madeRows(r, longtest.Size(1000, 2000), 1+9*int64(len(role)%2)))
			all += killUpgrades(t, r, &f)
			posted := f.split(t)
			all += killUpgrades(t, r, &f)
			f.mustPost(t, posted)
		}
	}
	if all < 6 {
		t.Errorf("they were killed %d times only", all)
	}
}

// killUpgrades kills children that upgrade a file until one is done before, and returns how
// many it has killed.
func killUpgrades(t *testing.T, r *rand.Rand, f *oldFile) (kills int) {
	t.Helper()
	for ; !killAfter(t, f, 1+r.IntN(10)); kills++ {
		if kills > 1000 {
			t.Fatal("it does not come to an end")
		}
	}
	f.check(t)
	t.Logf("%s: killed %d times", f.path, kills)
	return kills
}

// Several processes open a copy at once: it is upgraded once.
func TestUpgradeAtOnce(t *testing.T) {
	f := writeOld(t, schemas, dbfile.Client, madeRows(newRand(t), 2000, 10))
	var children []*exec.Cmd
	var says []*strings.Builder
	for range 4 {
		c, said := childOf(&f, ""), &strings.Builder{}
		c.Stdout, c.Stderr = said, said
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		children, says = append(children, c), append(says, said)
	}
	working := 0
	for i, c := range children {
		if err := c.Wait(); err != nil {
			t.Errorf("child: %v: %s", err, says[i])
		}
		if says[i].Len() > 0 {
			working++
		}
	}
	if working != 1 {
		t.Errorf("%d processes have moved events", working)
	}
	f.check(t)
}
