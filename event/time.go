package event

import (
	"fmt"
	"time"
)

// A Time is a time of the server's clock, in microseconds since the Unix epoch, UTC. Within
// a log, times never decrease.
type Time int64

// timeLayout has a fixed width, so that times also sort as text.
const (
	timeLayout = "2006-01-02T15:04:05.000000Z"
	timeLen    = len(timeLayout)
	minTime    = Time(-62167219200000000) // the beginning of year 0
	maxTime    = Time(253402300799999999) // the end of year 9999
)

// TimeOf returns t truncated to microseconds, so that "the last event with a time at or
// before t" is the same event for t and for the Time that is sent.
func TimeOf(t time.Time) Time { return Time(t.UnixMicro()) }

// Time returns t as a time.Time in UTC.
func (t Time) Time() time.Time { return time.UnixMicro(int64(t)).UTC() }

// AppendTo appends the text of t to b: RFC 3339 with six decimals and a Z.
func (t Time) AppendTo(b []byte) []byte {
	tt := t.Time()
	year, month, day := tt.Date()
	hour, minute, sec := tt.Clock()
	b = appendDigits(b, year, 4)
	b = appendDigits(append(b, '-'), int(month), 2)
	b = appendDigits(append(b, '-'), day, 2)
	b = appendDigits(append(b, 'T'), hour, 2)
	b = appendDigits(append(b, ':'), minute, 2)
	b = appendDigits(append(b, ':'), sec, 2)
	b = appendDigits(append(b, '.'), tt.Nanosecond()/1000, 6)
	return append(b, 'Z')
}

// String returns the text of t.
func (t Time) String() string { return string(t.AppendTo(nil)) }

// Valid reports whether t has a text, which is true in the years 0 to 9999.
func (t Time) Valid() bool { return t >= minTime && t <= maxTime }

func appendDigits(b []byte, n, width int) []byte {
	for range width {
		b = append(b, '0')
	}
	for i := len(b) - 1; n > 0 && i >= len(b)-width; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
	return b
}

// parseTime parses the canonical text of a Time and accepts no other form.
func parseTime(s []byte) (Time, error) {
	if len(s) != timeLen || s[4] != '-' || s[7] != '-' || s[10] != 'T' || s[13] != ':' ||
		s[16] != ':' || s[19] != '.' || s[26] != 'Z' {
		return 0, fmt.Errorf("parse time %.40q: want the form %s", s, timeLayout)
	}
	var worst byte // other characters are more than 9; checked once, since this runs for each event of a replay
	two := func(i int) int {
		tens, ones := s[i]-'0', s[i+1]-'0'
		worst = max(worst, tens, ones)
		return 10*int(tens) + int(ones)
	}
	year, month, day := 100*two(0)+two(2), two(5), two(8)
	hour, minute, sec, micro := two(11), two(14), two(17), 10_000*two(20)+100*two(22)+two(24)
	if worst > 9 || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) || hour > 23 || minute > 59 || sec > 59 {
		return 0, fmt.Errorf("parse time %.40q: no such time", s)
	}
	seconds := ((daysBefore(year, month)+day-1)*24+hour)*3600 + minute*60 + sec
	return Time(seconds)*1_000_000 + Time(micro), nil
}

// monthDays are the days of a year before each month, and of the whole year, without a leap
// day.
var monthDays = [...]int{0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365}

func isLeap(year int) bool { return year%4 == 0 && (year%100 != 0 || year%400 == 0) }

func daysIn(year, month int) int {
	if month == 2 && isLeap(year) {
		return 29
	}
	return monthDays[month] - monthDays[month-1]
}

// daysBefore returns the number of days from the beginning of 1970 to the beginning of a
// month.
func daysBefore(year, month int) int {
	const until1970 = 719528 // from the beginning of year 0
	days := 365*year + monthDays[month-1] - until1970
	if y := year - 1; year > 0 {
		days += y/4 - y/100 + y/400 + 1 // and year 0
	}
	if month > 2 && isLeap(year) {
		days++
	}
	return days
}

// MarshalText returns the text of t.
func (t Time) MarshalText() ([]byte, error) { return t.AppendTo(nil), nil }

// UnmarshalText parses the canonical text of a Time.
func (t *Time) UnmarshalText(b []byte) (err error) {
	*t, err = parseTime(b)
	return err
}
