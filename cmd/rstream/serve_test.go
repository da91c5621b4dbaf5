package main

import (
	"strings"
	"testing"
)

// An address with a password is rejected, and the error does not show the password.
func TestListenShowsNoPassword(t *testing.T) {
	for _, address := range []string{"bob:Hunter2@127.0.0.1:0", "http://bob:Hunter2@127.0.0.1:0", "bob:Hunter2@"} {
		if err := checkListen("--listen", address, false, false); err == nil || strings.Contains(err.Error(), "Hunter2") {
			t.Errorf("--listen %s: %v", address, err)
		}
	}
}
