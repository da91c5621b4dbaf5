package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// A peer is another program that stores and streams events, running as a server.
type peer struct {
	name    string // in the names of results
	kind    string // in words, with its version
	connect func(ctx context.Context) (peerConn, error)
	stop    func()
}

// A peerConn is a connection to a peer. It is used by one goroutine.
type peerConn interface {
	// publishLines appends lines to a stream in one pipeline and waits for all acknowledgements.
	publishLines(stream string, lines [][]byte) error
	// replayStream reads the first n events of a stream.
	replayStream(stream string, n int) error
	close() error
}

const (
	singleStream = "single" // of events appended one by one
	batchStream  = "batch"

	peerPage    = 1000 // events requested at a time
	peerTimeout = time.Minute
	startTime   = 10 * time.Second // for a peer to start
)

// missingError reports that a program is not in PATH.
type missingError struct{ program string }

// Error implements error.
func (e *missingError) Error() string { return e.program + " is not installed" }

// startPeer runs a program of another project until ctx ends or stop is called. ended
// receives the reason if it ends.
func startPeer(ctx context.Context, name string, args ...string) (stop func(), ended <-chan error, err error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, nil, &missingError{name}
	}
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, path, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = stopTime
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, nil, err
	}
	done, failed := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(done)
		err := cmd.Wait()
		b := bytes.TrimSpace(out.Bytes())
		failed <- fmt.Errorf("%s ended: %w: %s", name, errors.Join(err, ctx.Err()), b[max(0, len(b)-300):])
	}()
	return func() {
		cancel()
		<-done
	}, failed, nil
}

// awaitPeer calls try until it succeeds, the peer has ended or it takes too long.
func awaitPeer(ctx context.Context, ended <-chan error, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case err := <-ended:
			return err
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

// dialPeer connects to a peer. The end of ctx closes the connection.
func dialPeer(ctx context.Context, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &boundConn{conn, context.AfterFunc(ctx, func() { _ = conn.Close() })}, nil
}

// A boundConn is closed when its context ends.
type boundConn struct {
	net.Conn
	unbind func() bool
}

// Close implements net.Conn.
func (c *boundConn) Close() error {
	c.unbind()
	return c.Conn.Close()
}

// startRedis starts Redis. An append is acknowledged once it is synced to disk.
func startRedis(ctx context.Context, dir string) (p *peer, err error) {
	for range 3 { // another program may have taken the port
		var missing *missingError
		if p, err = tryRedis(ctx, dir); err == nil || errors.As(err, &missing) {
			return p, err
		}
	}
	return p, err
}

func tryRedis(ctx context.Context, dir string) (p *peer, err error) {
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	stop, ended, err := startPeer(ctx, "redis-server", "--bind", "127.0.0.1", "--port", port, "--dir", dir,
		"--appendonly", "yes", "--appendfsync", "always", "--save", "", "--daemonize", "no")
	if err != nil {
		return nil, err
	}
	p = &peer{name: "redis", stop: stop, connect: func(ctx context.Context) (peerConn, error) {
		conn, err := dialPeer(ctx, address)
		if err != nil {
			return nil, err
		}
		return newRedisConn(conn), nil
	}}
	err = awaitPeer(ctx, ended, func() error {
		conn, err := dialPeer(ctx, address)
		if err != nil {
			return err
		}
		defer conn.Close()
		version, err := newRedisConn(conn).readVersion()
		p.kind = "redis " + version + ", appendfsync always"
		return err
	})
	if err != nil {
		stop()
		return nil, err
	}
	return p, nil
}

// freeAddress returns an address that nothing listens on.
func freeAddress(ctx context.Context) (string, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// startNATS starts NATS with JetStream. An append is acknowledged before it is synced to
// disk, which is the default.
func startNATS(ctx context.Context, dir string) (p *peer, err error) {
	return runNATS(ctx, dir, &peer{name: "nats", kind: "not synced"}, "")
}

// startNATSSynced starts NATS with JetStream. An append is acknowledged once it is synced
// to disk.
func startNATSSynced(ctx context.Context, dir string) (p *peer, err error) {
	return runNATS(ctx, dir, &peer{name: "nats sync always", kind: "sync always"}, "sync_interval: always")
}

func runNATS(ctx context.Context, dir string, p *peer, setting string) (_ *peer, err error) {
	config := filepath.Join(dir, "nats.conf")
	text := fmt.Sprintf("jetstream {\n  store_dir: %q\n  %s\n}\n", filepath.ToSlash(dir), setting)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	stop, ended, err := startPeer(ctx, "nats-server", "--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir", dir, "--config", config)
	if err != nil {
		return nil, err
	}
	p.stop = stop
	version := ""
	err = awaitPeer(ctx, ended, func() error {
		address, err := natsAddress(dir)
		if err != nil {
			return err
		}
		p.connect = func(ctx context.Context) (peerConn, error) { return connectNATS(ctx, address) }
		c, err := connectNATS(ctx, address)
		if err != nil {
			return err
		}
		version = c.version
		return errors.Join(c.createStream(singleStream), c.createStream(batchStream), c.close())
	})
	p.kind = "NATS " + version + ", " + p.kind
	if err != nil {
		stop()
		return nil, err
	}
	return p, nil
}

func connectNATS(ctx context.Context, address string) (*natsConn, error) {
	conn, err := dialPeer(ctx, address)
	if err != nil {
		return nil, err
	}
	c, err := newNATSConn(conn)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return c, nil
}

// natsAddress returns the address that the server in a folder has published.
func natsAddress(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.ports"))
	if err != nil || len(files) == 0 {
		return "", errors.Join(err, errors.New("nats-server has not published its port"))
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		return "", err
	}
	var ports struct{ NATS []string }
	if err := json.Unmarshal(b, &ports); err != nil || len(ports.NATS) == 0 {
		return "", errors.Join(err, fmt.Errorf("the ports of nats-server: %.80q", b))
	}
	u, err := url.Parse(ports.NATS[0])
	if err != nil {
		return "", err
	}
	return u.Host, nil
}

// publishAll calls do with up to most numbers, from publishers with a connection each.
func (p *peer) publishAll(ctx context.Context, publishers int, d time.Duration, most int, do func(conn peerConn, i int) error) (r Rate, err error) {
	conns := make([]peerConn, 0, publishers)
	defer func() {
		for _, c := range conns {
			err = errors.Join(err, c.close())
		}
	}()
	for range publishers {
		c, err := p.connect(ctx)
		if err != nil {
			return r, err
		}
		conns = append(conns, c)
	}
	return runWorkers(publishers, d, 0, most, func(worker, i int) error { return do(conns[worker], i) })
}

// readAll reads the first n events of the stream of batches, and returns how long that took.
func (p *peer) readAll(ctx context.Context, n int) (took time.Duration, err error) {
	c, err := p.connect(ctx)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	err = c.replayStream(batchStream, n)
	return time.Since(start), errors.Join(err, c.close())
}
