package source

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// durableServer is a program that serves Durable Streams with the package of their authors, at a
// port, and prints its URL.
const durableServer = `const {DurableStreamTestServer} = require("@durable-streams/server")
const server = new DurableStreamTestServer({port: Number(process.argv[1]), host: "127.0.0.1", dataDir: process.argv[2]})
server.start().then(url => console.log(url))`

// startDurable starts a server of Durable Streams. It returns an error if the machine has none.
func startDurable(t *testing.T, port, dir string) (server *exec.Cmd, address string, err error) {
	if os.Getenv("NODE_PATH") == "" {
		return nil, "", errors.New("there is no NODE_PATH")
	}
	cmd := exec.Command("node", "-e", durableServer, port, dir)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, "", err
	}
	said := bufio.NewScanner(out)
	for !strings.HasPrefix(said.Text(), "http://") {
		if !said.Scan() {
			return nil, "", fmt.Errorf("node cannot load @durable-streams/server: %v", cmd.Wait())
		}
	}
	address = said.Text()
	read := make(chan struct{})
	go func() {
		defer close(read)
		for said.Scan() { // what it logs
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-read
		_ = cmd.Wait()
	})
	return cmd, address, nil
}

// The server of Durable Streams, which is killed again and again, is followed by knobs alone: each
// event is stored once. NODE_PATH says where its package is.
func TestDurableServer(t *testing.T) {
	const n, kills = 120, 3
	dir := t.TempDir()
	server, address, err := startDurable(t, "0", dir)
	if err != nil {
		t.Logf("Durable Streams are not followed: %v", err)
		return
	}
	send := func(method, body string) error {
		req, err := http.NewRequestWithContext(t.Context(), method, address+"/s", strings.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode >= 300 {
			return fmt.Errorf("%s: %s", method, resp.Status)
		}
		return nil
	}
	if err := send(http.MethodPut, ""); err != nil {
		t.Fatal(err)
	}
	db := newLog(t)
	cfg := kindConfig(t, address+"/s", "durable", db)
	cfg.Knobs.End = Place{}
	cfg.UntilEnd, cfg.RetryMin, cfg.RetryMax = false, time.Millisecond, 20*time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := Follow(ctx, cfg)
		ended <- err
	}()
	for i := 1; i <= n; i++ {
		if err := send(http.MethodPost, strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
		if i%(n/(kills+1)) == 0 && i < n {
			_ = server.Process.Kill()
			_ = server.Wait() // it was killed
			port := address[strings.LastIndexByte(address, ':')+1:]
			if server, _, err = startDurable(t, port, dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := numbers(n)
	for i, number := range want {
		want[i] = "[" + number + "]"
	}
	for tick := time.NewTicker(5 * time.Millisecond); ; <-tick.C {
		if events, _ := eventsOf(t, db); len(events) >= n && events[len(events)-1] == want[n-1] {
			break
		}
	}
	cancel()
	<-ended // it was ended here
	checkEvents(t, db, want)
}
