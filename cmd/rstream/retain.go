package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// retainOptions say which events a log drops or expires.
type retainOptions struct {
	history  time.Duration
	ttl      ttls
	maxBytes int64
}

func (o *retainOptions) addRetainFlags(f *pflag.FlagSet) {
	f.Var((*age)(&o.history), "history", "drop events older than `AGE`, such as 24h, 7d or 2w; keep the state")
	f.Var(&o.ttl, "ttl", "expire values not set again within `AGE`; TOPIC=AGE for one topic; repeat for more")
	f.Var((*byteSize)(&o.maxBytes), "max-bytes", "drop the oldest events while the file is larger than `SIZE`, such as 10GB; keep the state")
}

func (o *retainOptions) retention() cache.Retention {
	return cache.Retention{History: o.history, TTL: o.ttl.rules, MaxBytes: o.maxBytes}
}

// An age is a flag value.
type age time.Duration

func (a *age) Set(s string) error {
	d, err := event.ParseAge(s)
	if err != nil {
		return errors.New("want an age such as 90s, 24h, 7d or 2w") // the flag's error quotes s
	}
	if d == 0 {
		return errors.New("want an age above zero")
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

// ttls is the value of a flag that may be repeated, as AGE or TOPIC=AGE.
type ttls struct{ rules []cache.TTL }

// never is the age of values that do not expire.
const never = "never"

// Set adds a rule.
func (l *ttls) Set(s string) error {
	rule, text := cache.TTL{Topic: event.All}, s
	// An age contains no equals sign; a path may contain several.
	if i := strings.LastIndexByte(s, '='); i >= 0 {
		topic, err := event.ParseTopic(s[:i])
		if err != nil {
			return err
		}
		rule.Topic, text = topic, s[i+1:]
	}
	if text != never {
		if err := (*age)(&rule.Age).Set(text); err != nil {
			return fmt.Errorf("%w, or %s", err, never)
		}
	}
	if slices.ContainsFunc(l.rules, func(r cache.TTL) bool { return r.Topic == rule.Topic }) {
		return fmt.Errorf("%s already has an age", rule.Topic)
	}
	l.rules = append(l.rules, rule)
	return nil
}

// Append is Set. With Replace and GetSlice, it makes ttls a pflag.SliceValue.
func (l *ttls) Append(s string) error { return l.Set(s) }

// Replace replaces all rules.
func (l *ttls) Replace(list []string) error {
	l.rules = nil
	for _, s := range list {
		if err := l.Set(s); err != nil {
			return err
		}
	}
	return nil
}

// GetSlice returns the rules in the form that Replace takes.
func (l *ttls) GetSlice() (list []string) {
	for _, r := range l.rules {
		text := never
		if r.Age > 0 {
			text = r.Age.String()
		}
		list = append(list, r.Topic.String()+"="+text)
	}
	return list
}

func (l *ttls) Type() string { return "ttl" }

func (l *ttls) String() string { return strings.Join(l.GetSlice(), " ") }

// A byteSize is a flag value.
type byteSize int64

// units are the units of sizes.
var units = map[string]int64{
	"": 1, "B": 1,
	"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
	"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40,
}

// minByteSize is the smallest size that a log can be kept to.
const minByteSize = 1e6

func (b *byteSize) Set(s string) error {
	digits := strings.TrimRight(s, "BKMGTIibkmgt ")
	unit, known := units[strings.ToUpper(strings.TrimSpace(s[len(digits):]))]
	n, err := strconv.ParseFloat(digits, 64)
	switch {
	case err != nil || !known || !(n >= 0) || n*float64(unit) > 1<<60:
		return fmt.Errorf("want a size such as 500MB, 10GB or 8GiB, not %.40q", s)
	case n*float64(unit) < minByteSize:
		return errors.New("want at least 1MB")
	}
	*b = byteSize(n * float64(unit))
	return nil
}

func (b *byteSize) Type() string { return "size" }

func (b *byteSize) String() string {
	if *b == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*b), 10)
}
