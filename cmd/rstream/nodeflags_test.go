package main

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

func newNodeApp() *app {
	return &app{settings: &settings{origins: map[string]origin{}}, headers: http.Header{}, err: io.Discard}
}

// TestBoardTwice: a board is named once, since metrics and log messages name it without its password.
func TestBoardTwice(t *testing.T) {
	for _, names := range [][]string{{"http://b", "http://b/"}, {"http://u:1@b", "http://v:2@b"}} {
		_, err := newNodeApp().newBoardLinks(&nodeFlags{boards: names})
		if !errors.As(err, new(*usageError)) || !strings.HasSuffix(err.Error(), "b: is named twice") {
			t.Errorf("%q: %v", names, err)
		}
	}
}
