package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// steering returns the characters that control a terminal or change the direction of
// text.
func steering() (s string) {
	for r := rune(1); r < 0x20; r++ {
		s += string(r)
	}
	for r := rune(0x7f); r < 0xa0; r++ {
		s += string(r)
	}
	return s + "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
}

// written returns the bytes that an output writes.
func written(t *testing.T, terminal bool, f form, write func(*output) error) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "out")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	out := newOutput(t.Context(), file)
	out.terminal, out.form, out.full = terminal, f, true
	if err := write(out); err != nil {
		t.Fatal(err)
	}
	if err := out.flush(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// No control character of an event reaches a terminal, in any form. In a pipe, bytes
// are exact. The JSON on a terminal is equivalent.
func TestTerminalIsNotSteered(t *testing.T) {
	t.Setenv("NO_COLOR", "1")                                                      // so that every control character comes from the event
	raw := strings.TrimLeftFunc(steering(), func(r rune) bool { return r < 0x20 }) // a value has no raw C0
	d := event.Draft{User: "zoë\u202e", Path: "日本\u2066/x", Type: event.Put, Key: "k\u200f", Value: []byte(`"` + raw + `\u001b[2J"`)}
	if err := d.Check(); err != nil {
		t.Fatal(err)
	}
	ev := event.New(1, 0, d, d.Hash())
	shown := func(s string) bool {
		return strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && steersTerminal(r) })
	}
	for _, f := range []form{formText, formJSON, ""} {
		for name, write := range map[string]func(*output) error{
			"event":   func(o *output) error { return o.writeEvent(&ev) },
			"line":    func(o *output) error { return o.writeLine(ev.Value) },
			"json":    func(o *output) error { return o.writeJSON(map[string]string{"x": raw}) },
			"printf":  func(o *output) error { return o.printf("%s %s\n", ev.Storage(), raw) },
			"receipt": func(o *output) error { return o.writeReceipt(&event.Receipt{Event: ev, Dropped: true}) },
		} {
			if got := written(t, true, f, write); shown(got) {
				t.Errorf("%s as %q on a terminal is %q", name, f, got)
			}
		}
	}
	if got := written(t, false, formJSON, func(o *output) error { return o.writeEvent(&ev) }); got != string(ev.Line())+"\n" {
		t.Errorf("in a pipe: %q", got)
	}
	var a, b any
	on := written(t, true, formJSON, func(o *output) error { return o.writeEvent(&ev) })
	if err := json.Unmarshal([]byte(on), &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(ev.Line(), &b); err != nil {
		t.Fatal(err)
	}
	if x, y := mustJSON(t, a), mustJSON(t, b); x != y {
		t.Errorf("on a terminal the event is %s, want %s", x, y)
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestVisible(t *testing.T) {
	for s, want := range map[string]string{
		"plain": "plain", "日本 👩‍👩‍👧": "日本 👩‍👩‍👧", "a\x1b[31mb": `a\u001b[31mb`, "a\u009bb": `a\u009bb`, "\u202e": `\u202e`, "a\xffb": "a\xffb",
	} {
		if got := visible(s); got != want {
			t.Errorf("visible(%q) = %q, want %q", s, got, want)
		}
	}
	const own = "\x1b[31m- a\x1b[0m\n"
	if got := visibleLines(own + "\u202e\x1b[2J\n"); got != own+`\u202e\u001b[2J`+"\n" {
		t.Errorf("visibleLines = %q", got)
	}
	if got := plainLines("a\tb\n\x1b[31mred"); got != "a\tb\n"+`\u001b[31mred` {
		t.Errorf("plainLines = %q", got)
	}
}

// Text of a server, such as the names in its certificate, can make no line of its own: neither of a
// note, nor of the last line of a terminal.
func TestNotesAreLines(t *testing.T) {
	err := errors.Join(errors.New("certificate is valid for x\n\x1b[8mrstream: hint: run evil\u009b\t\r\nb"), errors.New("again"))
	var said strings.Builder
	(&app{err: &said}).note("%v; trying again", err)
	(&app{say: func(text string) { said.WriteString(text + "\n") }}).note("%v", err)
	footer := &footer{midLine: true, out: &output{colouring: colourNever}}
	(&app{err: io.Discard, footer: footer}).onRetry(err, time.Second)
	lines := footer.lines(200)
	said.WriteString(strings.Join(lines, "\n") + "\n")
	const want = `certificate is valid for x; \u001b[8mrstream: hint: run evil\u009b\u0009\u000d; b; again`
	if want := "rstream: " + want + "; trying again\n" + want + "\n" + want + "; trying again in 1s\n"; said.String() != want {
		t.Errorf("it says\n%q, want\n%q", said.String(), want)
	}
}
