package jq

import (
	"context"
	"strings"
	"testing"
)

const line = `{"id":"0000000000001","user":"alice","path":"x","type":"PUT","value":{"mag":6.5,"n":12345678901234567890123,"tags":["a","b"],"name":"é"}}`

func TestHolds(t *testing.T) {
	for _, c := range []struct {
		text  string
		holds bool
		fails bool
	}{
		{`.value.mag > 6`, true, false},
		{`.value.mag > 7`, false, false},
		{`.value.none`, false, false},
		{`.value.tags[] == "b"`, true, false}, // one of the values is enough
		{`empty`, false, false},
		{`.value.mag.deeper`, false, true},
		{`.user == "alice" and .type == "PUT"`, true, false},
		{`.value.n == 12345678901234567890123`, true, false},
	} {
		e, err := Parse(c.text)
		if err != nil {
			t.Fatal(err)
		}
		if holds, err := e.Holds(t.Context(), []byte(line)); holds != c.holds || (err != nil) != c.fails {
			t.Errorf("%s: %t, %v", c.text, holds, err)
		}
	}
}

func TestValues(t *testing.T) {
	for text, want := range map[string]string{
		`.value.name`:           `"é" é`,
		`.value.tags[]`:         `"a" a,"b" b`,
		`{m: .value.mag}`:       `{"m":6.5} `,
		`.value.n`:              `12345678901234567890123 `,
		`.none`:                 `null `,
		`empty`:                 ``,
		`.value.mag.deeper`:     `expected an object but got: number (6.5)`,
		`.path, error("no")`:    `"x" x,error: no`,
		`[limit(2; repeat(1))]`: `[1,1] `,
	} {
		e, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		err = e.Values(t.Context(), []byte(line), func(v Value) error {
			got = append(got, string(v.JSON)+" "+v.Text)
			return nil
		})
		if err != nil {
			got = append(got, err.Error())
		}
		if strings.Join(got, ",") != want {
			t.Errorf("%s: %q, want %q", text, strings.Join(got, ","), want)
		}
	}
}

func TestOnly(t *testing.T) {
	for text, want := range map[string]string{`.path`: `"x"`, `empty`: "has no value", `1, 2`: "has more than one value", `error("no")`: "error: no"} {
		e, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		got, err := e.Only(t.Context(), []byte(line))
		if err != nil {
			got = []byte(err.Error())
		}
		if string(got) != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// An expression sees only its event, and can be ended.
func TestBounds(t *testing.T) {
	for _, text := range []string{`now`, `env.HOME`, `$ENV`, `input`, `[inputs]`, `.a as $x | def f: now; f`, `.[`, `$id`} {
		if _, err := Parse(text); err == nil {
			t.Errorf("%s is accepted", text)
		}
	}
	e, err := Parse(`last(repeat(1))`)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Only(ctx, []byte(line)); err == nil {
		t.Error("an endless expression has a value")
	}
}
