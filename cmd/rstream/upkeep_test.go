package main

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Background work that fails is done again, and each error is noted once.
func TestKeepUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		a := &app{err: &said}
		outcomes := []error{errors.New("bad disk"), errors.New("bad disk"), errors.New("worse"), nil}
		var at []time.Duration
		begun := time.Now()
		a.keepUp(t.Context(), func(context.Context) error {
			err := outcomes[len(at)]
			at = append(at, time.Since(begun))
			return err
		})
		if want := 7 * time.Second; len(at) != 4 || at[3] != want {
			t.Errorf("done at %v, want 4 times until %s", at, want)
		}
		if want := "rstream: bad disk; trying again\nrstream: worse; trying again\n"; said.String() != want {
			t.Errorf("said %q, want %q", &said, want)
		}
	})
}

// An error is noted again if the work has gone well in between.
func TestKeepUpLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		times := 0
		(&app{err: &said}).keepUp(t.Context(), func(context.Context) error {
			if times++; times == 3 {
				return nil
			}
			time.Sleep(time.Hour)
			return errors.New("bad disk")
		})
		if want := "rstream: bad disk; trying again\nrstream: bad disk; trying again\n"; said.String() != want {
			t.Errorf("said %q, want %q", &said, want)
		}
	})
}

// It ends with its context, also in a pause, and says nothing then.
func TestKeepUpEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		times := 0
		(&app{err: &said}).keepUp(ctx, func(ctx context.Context) error {
			if times++; times < 3 {
				return errors.New("bad disk")
			}
			<-ctx.Done()
			return ctx.Err()
		})
		if times != 3 || said.String() != "rstream: bad disk; trying again\n" {
			t.Errorf("done %d times, and said %q", times, &said)
		}
	})
}
