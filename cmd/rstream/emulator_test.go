package main

import (
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/mattn/go-runewidth"
)

// An emulator is the screen of a terminal. It knows the control sequences that the program
// writes, and ignores colours.
type emulator struct {
	columns  int
	rows     [][]rune // those that have scrolled away, too; 0 is the right half of a wide rune
	row, col int
	rest     string // an incomplete sequence
}

var sequence = regexp.MustCompile(`^\x1b\[([0-9;]*)([A-Za-z])`)

func (e *emulator) Write(b []byte) (int, error) {
	text := e.rest + string(b)
	e.rest = ""
	for text != "" {
		if text[0] == 0x1b {
			m := sequence.FindStringSubmatch(text)
			if m == nil {
				e.rest = text
				break
			}
			e.control(m[1], m[2])
			text = text[len(m[0]):]
			continue
		}
		if !utf8.FullRuneInString(text) {
			e.rest = text
			break
		}
		r, size := utf8.DecodeRuneInString(text)
		text = text[size:]
		e.show(r)
	}
	return len(b), nil
}

// line returns the row of the cursor.
func (e *emulator) line() *[]rune {
	for len(e.rows) <= e.row {
		e.rows = append(e.rows, nil)
	}
	return &e.rows[e.row]
}

func (e *emulator) show(r rune) {
	switch r {
	case '\r':
		e.col = 0
		return
	case '\n':
		e.row++
		e.line()
		return
	case '\t':
		e.show(' ')
		for e.col%8 != 0 {
			e.show(' ')
		}
		return
	}
	wide := runewidth.RuneWidth(r)
	if e.col+wide > e.columns {
		e.row, e.col = e.row+1, 0
	}
	line := e.line()
	for len(*line) < e.col+wide {
		*line = append(*line, ' ')
	}
	if wide > 0 {
		(*line)[e.col] = r
	}
	if wide > 1 {
		(*line)[e.col+1] = 0
	}
	e.col += wide
}

func (e *emulator) control(number, name string) {
	n, _ := strconv.Atoi(number)
	switch name {
	case "m":
	case "A":
		e.row = max(0, e.row-max(n, 1))
	case "K":
		line := e.line()
		*line = (*line)[:min(len(*line), e.col)]
	case "J":
		line := e.line()
		*line = (*line)[:min(len(*line), e.col)]
		e.rows = e.rows[:e.row+1]
	default:
		panic("the program writes ESC [ " + number + name)
	}
}

// String returns the text on the screen, without spaces at its right and empty rows below.
func (e *emulator) String() string {
	var b strings.Builder
	for _, line := range e.rows {
		text := strings.ReplaceAll(string(line), "\x00", "")
		b.WriteString(strings.TrimRight(text, " ") + "\n")
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}
