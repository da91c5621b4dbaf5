package main

import (
	"bytes"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/internal/server"
)

// openTerminal returns both ends of a terminal: writes to person are typed, reads from
// it see the screen.
func openTerminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	// By default, ^C drops what the screen has not shown yet, which may be half of a picture.
	mode, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	mode.Lflag |= unix.NOFLSH
	if err := unix.IoctlSetTermios(int(program.Fd()), unix.TCSETS, mode); err != nil {
		t.Fatal(err)
	}
	return person, program
}

// A screen collects the output of a program.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // receives when there is more
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// waitFor waits until the screen shows a text.
func (s *screen) waitFor(t *testing.T, text string) {
	t.Helper()
	s.waitForAny(t, text)
}

// waitForAny waits until the screen shows one of the texts.
func (s *screen) waitForAny(t *testing.T, texts ...string) {
	t.Helper()
	deadline := time.After(patience)
	for !slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(s.String(), text) }) {
		select {
		case <-s.more:
		case <-deadline:
			t.Fatalf("the screen shows %q, want %q", s, texts)
		}
	}
}

// openLogFile opens a new log.
func openLogFile(t *testing.T) *cache.DB {
	t.Helper()
	db, err := cache.Open(t.Context(), filepath.Join(t.TempDir(), "log.db"), cache.Config{Role: cache.Server})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// logServer serves a log and returns its URL.
func logServer(t *testing.T) string {
	t.Helper()
	srv := httptest.NewServer(server.New(openLogFile(t), server.Config{}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// rstreamCommand returns the program with its own home.
func rstreamCommand(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Args[0] = "rstream"
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir, "TZ=UTC")
	return cmd
}

const interruptKey = "\x03" // ^C

// put on a terminal says that it reads, takes what is typed up to ^D, and ends at the
// first ^C.
func TestPutAtTerminal(t *testing.T) {
	inParallel(t)
	url := logServer(t)
	for _, c := range []struct {
		name, says, types, want string
		args                    []string
		status                  int
	}{
		{"value", "reading a value from the terminal; ^D ends it", "{\"n\":1}\n\x04", `{"n":1}`, []string{"put", "a/x", "-"}, 0},
		{"value and ^C", "reading a value from the terminal; ^D ends it", interruptKey, "", []string{"put", "a/x", "-"}, 130},
		{"half a value and ^C", "reading a value from the terminal; ^D ends it", "{\"n\":" + interruptKey, "", []string{"put", "a/x", "-"}, 130},
		{"lines", "reading lines from the terminal; ^D ends it", "7\n8\n\x04", `"value":8`, []string{"put", "a/x", "--lines"}, 0},
		{"lines and ^C", "reading lines from the terminal; ^D ends it", interruptKey, "", []string{"put", "a/x", "--lines"}, 130},
		{"events and ^C", "reading lines from the terminal; ^D ends it", interruptKey, "", []string{"put", "--from", "-"}, 130},
	} {
		t.Run(c.name, func(t *testing.T) {
			person, program := openTerminal(t)
			cmd := rstreamCommand(t, append(c.args, "-s", url, "-o", "json")...)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = program, program, program
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true} // ^C sends it a signal
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			program.Close()
			shown := &screen{more: make(chan struct{}, 1)}
			go io.Copy(shown, person) // until the program's end is closed
			shown.waitFor(t, c.says)
			if _, err := io.WriteString(person, c.types); err != nil {
				t.Fatal(err)
			}
			err := waitWithin(t, cmd)
			if cmd.ProcessState.ExitCode() != c.status {
				t.Errorf("it ended with %v, want status %d; the screen shows %q", err, c.status, shown)
			}
			shown.waitFor(t, c.want)
		})
	}
}

// waitWithin waits for a program that is about to end.
func waitWithin(t *testing.T, cmd *exec.Cmd) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		cmd.Process.Kill()
		<-done
		t.Fatalf("%s has not ended after %s", cmd, patience)
		return nil
	}
}

// put --from FIFO ends within a second of an interrupt and says how far it came: if
// nobody has opened the FIFO, if the writer is silent, and in the middle of a line.
func TestPutFromSilentFIFO(t *testing.T) {
	url := logServer(t)
	line := func(n int) string { return `{"user":"a","path":"` + strconv.Itoa(n) + `","value":1,"key":"k"}` + "\n" }
	for _, c := range []struct {
		name   string
		opened bool
		writes string
		lines  int // lines appended before the interrupt
		says   string
	}{
		{"no writer", false, "", 0, "rstream: error: interrupt; nothing was appended\n"},
		{"silent", true, "", 0, "rstream: error: interrupt; nothing was appended\n"},
		{"silent after lines", true, line(1) + line(2), 2, "; lines 1-2 of FIFO were appended\nrstream: hint: run the command again: each line so far has a key and is appended once\n"},
		{"silent within a line", true, line(1) + `{"user"`, 1, "; line 1 of FIFO was appended\nrstream: hint: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			fastest := patience
			for range 3 { // other work on the machine can only add time
				fastest = min(fastest, interruptFIFO(t, url, c.opened, c.writes, c.lines, c.says))
			}
			if fastest > time.Second {
				t.Errorf("it ended %s after the interrupt", fastest)
			}
		})
	}
}

// interruptFIFO returns how long put --from ran after an interrupt.
func interruptFIFO(t *testing.T, url string, opened bool, writes string, lines int, says string) time.Duration {
	t.Helper()
	path := filepath.Join(t.TempDir(), "FIFO")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := rstreamCommand(t, "put", "--from", "FIFO", "-s", url)
	cmd.Dir = filepath.Dir(path)
	shown, said := &screen{more: make(chan struct{}, 1)}, &screen{more: make(chan struct{}, 1)}
	cmd.Stdout, cmd.Stderr = shown, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if opened {
		w, err := os.OpenFile(path, os.O_WRONLY, 0) // waits until the program has opened it
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if _, err := io.WriteString(w, writes); err != nil {
			t.Fatal(err)
		}
		for n := 1; n <= lines; n++ {
			shown.waitFor(t, `"path":"`+strconv.Itoa(n)+`"`)
		}
	} else {
		waitBlocked(t, cmd.Process.Pid)
	}
	start := time.Now()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	err := waitWithin(t, cmd)
	if status := cmd.ProcessState.ExitCode(); status != 130 || !strings.Contains(said.String(), says) {
		t.Errorf("it ended with %v and says %q, want 130 and %q", err, said, says)
	}
	return time.Since(start)
}

// waitBlocked waits until a thread of a program blocks on opening a FIFO without a
// writer.
func waitBlocked(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		waits, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/wchan")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range waits {
			b, err := os.ReadFile(name)
			if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
				t.Fatal(err)
			}
			if string(b) == "wait_for_partner" {
				return
			}
		}
	}
	t.Fatal("no thread opens the FIFO")
}
