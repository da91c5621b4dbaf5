//go:build unix

package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/internal/natslog"
)

// A NATS server of three is lost: a node that runs, and one that starts meanwhile, take appends to be
// durable. The server comes back with another setting: neither does.
func TestDurableWithoutServer(t *testing.T) {
	c := startNATSClusterWith(t, ", sync_interval: always", `
		accounts { APP: { jetstream: enabled, users: [{ user: app, password: a }] }, SYS: { users: [{ user: sys, password: s }] } }
		system_account: SYS, no_auth_user: app`)
	system := strings.ReplaceAll(c.url(ofTest), "nats://", "nats://sys:s@")
	start := func() *node {
		l, err := natslog.Connect(t.Context(), natslog.Config{URL: c.url(ofTest), Stream: "log", SystemURL: system})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.Close)
		n := &node{Log: l}
		n.disks = &diskCheck{ask: n.askWhenSynced}
		return n
	}
	become := func(n *node, what string, is func(err error) bool) {
		t.Helper()
		var err error
		for deadline := time.Now().Add(clusterPatience); ; <-time.After(100 * time.Millisecond) {
			if err = n.disks.prove(t.Context(), 0); is(err) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("waited in vain until %s: %v", what, err)
			}
		}
	}
	old := start()
	become(old, "all have answered", func(err error) bool { return err == nil && old.disks.complete })
	lost := (c.leader() + 1) % 3
	c.servers[lost].kill()
	become(old, "the others are enough", func(err error) bool { return err == nil && !old.disks.complete })
	fresh := start()
	become(fresh, "the others are enough for a new node", func(err error) bool { return err == nil && !fresh.disks.complete })

	conf := c.servers[lost].conf
	b, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, []byte(strings.ReplaceAll(string(b), "sync_interval: always", `sync_interval: "1m"`)), 0o600); err != nil {
		t.Fatal(err)
	}
	c.start(lost)
	for _, n := range []*node{old, fresh} {
		become(n, "the server is refused", func(err error) bool {
			return err != nil && strings.Contains(err.Error(), "has a sync_interval of 1m0s")
		})
	}
}
