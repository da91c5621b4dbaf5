// Package longtest has the -long flag of tests. A test that has a long form runs in a
// short one by default.
package longtest

import (
	"flag"
	"strconv"
	"testing"
)

var long = flag.Bool("long", false, "run the long forms of the tests")

// Enabled reports whether tests run in their long form.
func Enabled() bool { return *long }

// Size returns how large a test is to be: short or, with -long, full.
func Size(short, full int) int {
	if *long {
		return full
	}
	return short
}

// Require skips a test unless the long form runs, because a shorter test covers it.
func Require(t testing.TB) {
	t.Helper()
	if !*long {
		t.Skip("runs with -long")
	}
}

// SetChecks makes each test of rapid run short checks or, with -long, full ones, unless the
// command line says how many. It is called by TestMain.
func SetChecks(short, full int) {
	flag.Parse()
	SetDefault("rapid.checks", strconv.Itoa(Size(short, full)))
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
