package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A brokenFile is a watched file that cannot be read, except the sixth time.
type brokenFile struct{ loads int }

func (f *brokenFile) describe() (what, file string) { return "certificate", "cert.pem" }

func (f *brokenFile) load() (changed bool, err error) {
	if f.loads++; f.loads == 6 {
		return true, nil
	}
	return false, errors.New("has no certificate")
}

// An error that stays is logged once, and again after the file could be read.
func TestWatchedFileStaysBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		said := &bytes.Buffer{}
		say := newServeLog(&app{err: said}, &logFlags{logFormat: "text", logLevel: "info"})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		f := &brokenFile{}
		watchFiles(ctx, say, []watchedFile{f})
		if errs := strings.Count(said.String(), "not reloaded"); f.loads < 11 || errs != 2 || strings.Count(said.String(), "read again") != 1 {
			t.Errorf("%d loads:\n%s", f.loads, said)
		}
	})
}
