package jq

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/itchyny/gojq"
)

// An Expression is compiled for the lines of events. It may be used concurrently.
type Expression struct{ code *gojq.Code }

// Parse parses an expression over an event's line.
func Parse(text string) (*Expression, error) {
	code, err := Compile(text)
	if err != nil {
		return nil, err
	}
	return &Expression{code}, nil
}

// Holds reports whether the expression has a value for a line that is neither false nor null.
// An error means that it failed before.
func (e *Expression) Holds(ctx context.Context, line []byte) (holds bool, err error) {
	err = e.each(ctx, line, func(v any) error {
		if holds = v != nil && v != false; holds {
			return errStopEach
		}
		return nil
	})
	if errors.Is(err, errStopEach) {
		err = nil
	}
	return holds, err
}

// errStopEach ends a call of each.
var errStopEach = errors.New("enough")

// A Value is one value of an expression.
type Value struct {
	JSON []byte
	Text string // of a string
	Is   bool   // it is a string
}

// Values calls fn with the values of the expression for a line.
func (e *Expression) Values(ctx context.Context, line []byte, fn func(Value) error) error {
	return e.each(ctx, line, func(v any) error {
		b, err := gojq.Marshal(v)
		if err != nil {
			return err
		}
		text, is := v.(string)
		return fn(Value{b, text, is})
	})
}

// Only returns the only value of the expression for a line, as JSON. It is an error if there is
// none or another one.
func (e *Expression) Only(ctx context.Context, line []byte) (value []byte, err error) {
	n := 0
	err = e.Values(ctx, line, func(v Value) error {
		value = v.JSON
		if n++; n > 1 {
			return errStopEach
		}
		return nil
	})
	switch {
	case n > 1:
		return nil, errors.New("has more than one value")
	case err == nil && n == 0:
		return nil, errors.New("has no value")
	}
	return value, err
}

// each calls fn with the values of the expression.
func (e *Expression) each(ctx context.Context, line []byte, fn func(any) error) error {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.UseNumber() // a float64 has not all digits of a number
	var input any
	if err := dec.Decode(&input); err != nil {
		return fmt.Errorf("parse the event: %w", err)
	}
	values := e.code.RunWithContext(ctx, input)
	for {
		v, ok := values.Next()
		if !ok {
			return nil
		}
		if err, failed := v.(error); failed {
			return err
		}
		if err := fn(v); err != nil {
			return err
		}
	}
}
