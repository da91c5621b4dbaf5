package main

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// A counter is the value of a flag: a whole number within bounds.
type counter struct {
	n           *int
	least, most int // most is no bound if it is 0
}

func (c counter) String() string {
	if c.n == nil { // pflag asks a zero value of the type
		return ""
	}
	return strconv.Itoa(*c.n)
}

// Set refuses what is no whole number within bounds.
func (c counter) Set(s string) error {
	n, err := strconv.Atoi(s)
	switch {
	case err != nil:
		return errors.New("want a whole number")
	case c.most > 0 && (n < c.least || n > c.most):
		return fmt.Errorf("want %d to %d", c.least, c.most)
	case n < c.least:
		return fmt.Errorf("want a number from %d", c.least)
	}
	*c.n = n
	return nil
}

// Type names the flag's value.
func (c counter) Type() string { return "number" }

// A waitLimit is a flag that says how long to wait: a duration such as 30s, longer than
// none.
type waitLimit time.Duration

func (p *waitLimit) String() string {
	if *p == 0 {
		return ""
	}
	return time.Duration(*p).String()
}

// Set refuses what is no time to wait.
func (p *waitLimit) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return errors.New("want a duration such as 15s")
	}
	*p = waitLimit(d)
	return nil
}

// Type names the flag's value.
func (p *waitLimit) Type() string { return "duration" }
