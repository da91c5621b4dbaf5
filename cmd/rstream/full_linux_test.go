package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/internal/longtest"
)

// smallDisk begins a script: small is a folder on a disk of 1 MB, and room enlarges it.
// If mounting is not allowed, the file size of programs run by small is limited.
const smallDisk = `set -u
mkdir small
if mount -t tmpfs -o size=1m tmpfs small 2>/dev/null; then
	small() { "$@"; }
	room() { mount -o remount,size=64m small; }
else
	small() { (trap '' XFSZ; ulimit -f 2000; exec "$@"); }
	room() { :; }
fi
mkfifo said
rstream serve --listen 127.0.0.1:0 --db log.db 2>said &
hub=$!
trap 'kill $hub; wait $hub' EXIT
exec 3<said
read -r line <&3
RSTREAM_SERVER=$(echo "$line" | grep -o 'http://[0-9.:]*')
export RSTREAM_SERVER
`

// A copy on a full disk: the error says so, stored events can be read, and the next
// sync with room stores the rest.
const fullCopy = smallDisk + `
rstream put -q --from ev
small rstream sync a --cache small/c.db >out 2>err
echo "full: $? $(wc -c <out)"
cat err
rstream log a --cache small/c.db 2>/dev/null >some
echo "log: $?"
room
rstream sync a -q --cache small/c.db && rstream verify a --cache small/c.db >/dev/null
echo "room: $?"
rstream log a --cache small/c.db >all
`

// A copy on a full disk puts lines into its outbox as long as it can, and names the
// lines that it took.
const fullOutbox = smallDisk + `
rstream put -q a/first 1
rstream sync -q a/first --cache small/c.db
small rstream put -q --offline --from ev --cache small/c.db 2>err
echo "put: $?"
cat err
room
rstream outbox --cache small/c.db >all
`

// inSmall runs a script on a small disk, if this machine can mount one.
func inSmall(t *testing.T, script string) (dir, said string) {
	t.Helper()
	ids := func(id int) []syscall.SysProcIDMap { return []syscall.SysProcIDMap{{HostID: id, Size: 1}} }
	for _, attr := range []*syscall.SysProcAttr{
		{Unshareflags: syscall.CLONE_NEWNS},
		{Cloneflags: syscall.CLONE_NEWUSER, Unshareflags: syscall.CLONE_NEWNS, UidMappings: ids(os.Getuid()), GidMappings: ids(os.Getgid())},
		nil,
	} {
		dir = t.TempDir()
		writeEvents(t, filepath.Join(dir, "ev"))
		cmd := exec.Command("sh", "-c", script)
		cmd.Dir, cmd.SysProcAttr = dir, attr
		cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
		b, err := cmd.CombinedOutput()
		if started := (*os.PathError)(nil); errors.As(err, &started) {
			continue // this machine does not allow it
		}
		if err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		return dir, string(b)
	}
	return "", ""
}

const fullLines = 3000

func writeEvents(t *testing.T, path string) {
	t.Helper()
	var b strings.Builder
	for n := 1; n <= fullLines; n++ {
		b.WriteString(`{"user":"a","path":"p` + strconv.Itoa(n) + `","value":"` + strings.Repeat("x", 300) + "\"}\n")
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCopyOnFullDisk(t *testing.T) {
	inParallel(t)
	dir, said := inSmall(t, fullCopy)
	if !regexp.MustCompile(`^full: 1 0\nrstream: error: .*(no space left|disk I/O error).*\nrstream: hint: .*\nlog: [03]\nroom: 0\n$`).MatchString(said) {
		t.Errorf("it says %s", said)
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if all := read("all"); strings.Count(all, "\n") != fullLines || !partOf(read("some"), all) {
		t.Errorf("%d lines are there in the end, of %d", strings.Count(all, "\n"), fullLines)
	}
}

func TestOutboxOnFullDisk(t *testing.T) {
	inParallel(t)
	dir, said := inSmall(t, fullOutbox)
	claim := regexp.MustCompile(`^put: 1\nrstream: error: queue: .*; (?:nothing was|lines 1-(\d+) of ev were) kept in the outbox(; whether lines (\d+)-(\d+) were kept in the outbox is unknown)?\nrstream: hint: `)
	t.Log(said)
	match := claim.FindStringSubmatch(said)
	if match == nil {
		t.Fatalf("it says %s", said)
	}
	b, err := os.ReadFile(filepath.Join(dir, "all"))
	if err != nil {
		t.Fatal(err)
	}
	last, _ := strconv.Atoi(match[1])
	most := last
	if match[2] != "" {
		most, _ = strconv.Atoi(match[4])
	}
	if n := strings.Count(string(b), "\n"); n != last && n != most {
		t.Errorf("%d lines are in the outbox, and it says %s", n, said)
	}
}

// A file that cannot grow ends a sync of a source with the error. The next one goes on from there.
func TestSourceOnLimitedFile(t *testing.T) {
	t.Parallel()
	if !longtest.Enabled() {
		t.Skip("it waits ten seconds for an outcome; -long")
	}
	const n = 5000
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		after, _ := strconv.Atoi(r.Header.Get("Last-Event-ID"))
		for i := after + 1; i <= n; i++ {
			fmt.Fprintf(w, "id: %d\ndata: {\"n\":%d,\"text\":\"%0300d\"}\n\n", i, i, 0)
		}
	}))
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	w := &walker{t: t, dir: dir, env: []string{"HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir, "RSTREAM_SERVER=", "RSTREAM_TOKEN="}}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", "trap '' XFSZ; ulimit -f 1000; exec rstream sync "+srv.URL)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), w.env...)
	if said, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != exitFailed || !strings.Contains(string(said), "outcome unknown: ") || !strings.Contains(string(said), "disk I/O error") {
		t.Errorf("%v: %s", err, said)
	}
	w.run(exitDone, "sync -q "+srv.URL)
	if out, _ := w.run(exitDone, "log -o json "+srv.URL); strings.Count(out, "\n") != n {
		t.Errorf("%d lines, want %d", strings.Count(out, "\n"), n)
	}
}
