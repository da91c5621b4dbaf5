//go:build unix

package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
)

// A server whose body is longer than it says makes net/http log the rest. No such line gets
// between those of the program.
func TestStrayLogLines(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	const body = "id: 1\ndata: 1\n\n"
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%sstray bytes", len(body), body)
			}
		}
	}()
	dir := t.TempDir()
	w := &walker{t: t, dir: dir, env: []string{"HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir, "RSTREAM_SERVER=", "RSTREAM_TOKEN="}}
	// The second connection brings nothing new, and is the last.
	out, said := w.run(exitDone, "sync http://"+l.Addr().String()+"/ -o json")
	if strings.Contains(said, "stray bytes") || !strings.Contains(out, `"events":1`) {
		t.Errorf("it prints %s and says\n%s", out, said)
	}
}
