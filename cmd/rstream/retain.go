package main

import (
	"errors"
	"time"

	"github.com/spf13/pflag"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// retainOptions says what a log lets go.
type retainOptions struct {
	history time.Duration
}

func (o *retainOptions) add(f *pflag.FlagSet) {
	f.Var((*age)(&o.history), "history", "drop events older than `AGE`, such as 24h, 7d or 2w; the state stays")
}

func (o *retainOptions) retention() cache.Retention {
	return cache.Retention{History: o.history}
}

// An age is the value of a flag.
type age time.Duration

func (a *age) Set(s string) error {
	d, err := event.ParseAge(s)
	if err != nil {
		return err
	}
	if d == 0 {
		return errors.New("want more than no time")
	}
	*a = age(d)
	return nil
}

func (a *age) Type() string { return "age" }

func (a *age) String() string {
	if *a == 0 {
		return ""
	}
	return time.Duration(*a).String()
}
