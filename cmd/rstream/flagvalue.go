package main

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// A counter is a flag value: a whole number within bounds.
type counter struct {
	n           *int
	least, most int // if most is 0, there is no upper bound
}

func (c counter) String() string {
	if c.n == nil { // pflag calls String on a zero value
		return ""
	}
	return strconv.Itoa(*c.n)
}

// Set rejects anything but a whole number within bounds.
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

// A waitLimit is a flag value that limits a wait: a positive duration such as 30s.
type waitLimit time.Duration

func (p *waitLimit) String() string {
	if *p == 0 {
		return ""
	}
	return time.Duration(*p).String()
}

// Set rejects anything but a positive duration.
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
