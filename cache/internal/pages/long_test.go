package pages

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

var long = flag.Bool("long", false, "check every byte and more random stories")

// size returns how large a test is to be: short, or with -long full.
func size(short, full int) int {
	if *long {
		return full
	}
	return short
}

// TestMain makes rapid run fewer checks by default, unless the command line says how many.
func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	if !given {
		if err := flag.Set("rapid.checks", fmt.Sprint(size(20, 100))); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
