package client

import (
	"net"
	"testing"
)

// A response that is cut in its status line or in its header is no sign of another protocol:
// the next one may be complete.
func TestCutStatusLine(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nRstream-Log: " + stubLog + "\r\nConnection: close\r\n"
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 4096))
			text := head + "\r\n" + `{"log":"` + stubLog + `"}`
			if n < len(head) {
				text = text[:n]
			}
			_, _ = conn.Write([]byte(text))
			_ = conn.Close()
		}
	}()
	cfg := hasty("http://" + l.Addr().String())
	cfg.Wait = true
	info, err := Probe(t.Context(), cfg)
	if err != nil || info.Log != stubLog {
		t.Errorf("probe = %+v, %v", info, err)
	}
	_ = l.Close()
	<-done
}
