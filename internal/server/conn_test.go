package server

import (
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// A write ends when the reader has taken nothing for as long as the connection is patient, whenever
// it has taken something before, and not while the reader takes a little now and then.
func TestPatientWrite(t *testing.T) {
	const patience = 30 * time.Second
	for _, tt := range []struct {
		name   string
		pauses []time.Duration // before each byte that the reader takes
		took   time.Duration
	}{
		{"nothing", nil, patience},
		{"one byte at once", []time.Duration{0}, patience},
		{"one byte later", []time.Duration{20 * time.Second}, 20*time.Second + patience},
		{"a byte now and then", []time.Duration{25 * time.Second, 25 * time.Second, 25 * time.Second}, 75*time.Second + patience},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				defer ours.Close()
				go func() {
					for _, pause := range tt.pauses {
						time.Sleep(pause)
						if _, err := theirs.Read(make([]byte, 1)); err != nil {
							t.Error(err)
						}
					}
				}()
				begun := time.Now()
				n, err := (&patientConn{Conn: ours, patience: patience}).Write(make([]byte, 100))
				took := time.Since(begun)
				if n != len(tt.pauses) || !errors.Is(err, os.ErrDeadlineExceeded) || took < tt.took || took > tt.took+patience/5 {
					t.Errorf("%d bytes, %v after %s, want %d after %s", n, err, took, len(tt.pauses), tt.took)
				}
			})
		})
	}
}

// A time that was set for the whole write holds, also while the reader takes bytes.
func TestPatientWriteDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer ours.Close()
		go func() {
			for range 8 {
				time.Sleep(time.Second)
				theirs.Read(make([]byte, 1))
			}
		}()
		c := &patientConn{Conn: ours, patience: time.Minute}
		if err := c.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if n, err := c.Write(make([]byte, 100)); n != 8 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) != 10*time.Second {
			t.Errorf("%d bytes, %v after %s", n, err, time.Since(begun))
		}
	})
}
