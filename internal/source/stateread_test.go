package source

import (
	"errors"
	"io"
	"strings"
	"testing"
)

// A state that is cut off anywhere is no whole one, and one that is wrong is not taken for one
// that was cut off.
func TestStateReader(t *testing.T) {
	const state = `{"from":{"a":[1,2]},"events":[{"a":1},{"b":"x"}]}`
	read := func(text string) (n int, err error) {
		for r := newStateReader(strings.NewReader(text)); err == nil; n++ {
			_, err = r.next()
		}
		return n - 1, err
	}
	if n, err := read(state); n != 2 || !errors.Is(err, io.EOF) {
		t.Errorf("%d values, %v", n, err)
	}
	for i := range len(state) {
		if n, err := read(state[:i]); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %d values, %v", state[:i], n, err)
		}
	}
	for _, wrong := range []string{"{}", "[]", "1", `{"events":{}}`, `{"events":1}`, `{"events":[{]}`, `{"events":[]]`, `{"events":[],"a":1}`, `{"a":]}`, `{a}`, `{"events":[{"a":1}{"b":1}]}`} {
		if n, err := read(wrong); !errors.Is(err, errStateForm) {
			t.Errorf("%s: %d values, %v", wrong, n, err)
		}
	}
}
