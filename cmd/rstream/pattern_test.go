package main

import (
	"regexp"
	"sync"
)

// pattern returns a regular expression that is compiled when it is first used: scripts
// start the test binary as the program, hundreds of times.
func pattern(text string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}
