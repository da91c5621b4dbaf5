package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// invalidLines collects the lines of a file that are not events: the first ones with
// errors, all by number.
type invalidLines struct {
	reasons []string
	numbers []int
}

func (b *invalidLines) addInvalid(number int, err error) {
	b.numbers = append(b.numbers, number)
	if len(b.reasons) < maxBadLines {
		b.reasons = append(b.reasons, err.Error())
	}
}

func (b *invalidLines) asError(name, hint string) error {
	if len(b.numbers) == 0 {
		return nil
	}
	var text []string
	for i, reason := range b.reasons {
		text = append(text, fmt.Sprintf("%s:%d: %s", name, b.numbers[i], reason))
	}
	if more := b.numbers[len(b.reasons):]; len(more) > 0 {
		text = append(text, fmt.Sprintf("%s: and %s: %s", name, count(len(more), "bad line"), lineRanges(more)))
	}
	return &exitError{exitFailed, strings.Join(text, "\n"), hint}
}

// lineRanges formats ascending numbers, for example "3, 5-9".
func lineRanges(numbers []int) string {
	var b strings.Builder
	for i := 0; i < len(numbers); {
		j := i
		for j+1 < len(numbers) && numbers[j+1] == numbers[j]+1 {
			j++
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strconv.Itoa(numbers[i]))
		if j > i {
			b.WriteString("-" + strconv.Itoa(numbers[j]))
		}
		i = j + 1
	}
	return b.String()
}

// lineError removes the part of an error that repeats the line.
func lineError(err error) error {
	if cause := errors.Unwrap(err); cause != nil {
		return cause
	}
	return err
}

// maxBadLines limits how many bad lines of a file are explained.
const maxBadLines = 10
