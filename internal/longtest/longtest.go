// Package longtest has the -long and -full flags of tests. A test that has a long form runs in
// a short one by default. CI runs the long forms. A test that repeats something random, or needs
// much data, may also have a full form, which takes many times longer and runs by hand.
package longtest

import (
	"flag"
	"strconv"
	"testing"
)

var (
	long = flag.Bool("long", false, "run the long forms of the tests")
	full = flag.Bool("full", false, "run the long forms of the tests in their full size, which takes many times longer")
)

// Enabled reports whether tests run in their long form.
func Enabled() bool { return *long || *full }

// Size returns how large a test is to be: short or, with -long, long.
func Size(short, long int) int { return Scale(short, long, long) }

// Scale returns how large a test that has a full form is to be: short, long with -long, or
// full with -full.
func Scale(short, long, most int) int {
	switch {
	case *full:
		return most
	case Enabled():
		return long
	}
	return short
}

// Require skips a test unless the long form runs, because a shorter test covers it.
func Require(t testing.TB) {
	t.Helper()
	if !Enabled() {
		t.Skip("runs with -long")
	}
}

// SetChecks makes each test of rapid run as many checks as Scale says, unless the command line
// says how many. It is called by TestMain.
func SetChecks(short, long, most int) {
	flag.Parse()
	SetDefault("rapid.checks", strconv.Itoa(Scale(short, long, most)))
}

// SetDefault sets a flag that the command line does not set.
func SetDefault(name, value string) {
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	if given {
		return
	}
	if err := flag.Set(name, value); err != nil {
		panic(err)
	}
}
