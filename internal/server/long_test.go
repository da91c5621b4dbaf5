package server

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

var long = flag.Bool("long", false, "run the long forms of the tests")

func size(short, whole int) int {
	if *long {
		return whole
	}
	return short
}

// TestMain makes rapid run fewer checks by default, unless the command line says how many.
func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	if !given {
		if err := flag.Set("rapid.checks", fmt.Sprint(size(25, 100))); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
