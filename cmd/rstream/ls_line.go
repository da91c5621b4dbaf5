package main

import (
	"fmt"
	"time"

	"github.com/mattn/go-runewidth"

	"github.com/rstream-dev/rstream/event"
)

// A usageLine is a line of ls as JSON.
type usageLine struct {
	Type     string      `json:"type"` // user, folder or storage
	Name     string      `json:"name"`
	User     string      `json:"user"`
	Path     string      `json:"path"`               // empty for a user
	Storages int64       `json:"storages,omitempty"` // of a user or folder
	Events   int64       `json:"events"`
	Bytes    int64       `json:"bytes"`
	First    event.ID    `json:"first"`
	Last     event.ID    `json:"last"`
	Time     *event.Time `json:"time"` // of the last event; null if it is damaged
	Deleted  bool        `json:"deleted,omitempty"`
	Damaged  bool        `json:"damaged,omitempty"`
}

func newUsageLine(u *event.Usage) usageLine {
	line := usageLine{"storage", u.Name(), u.User, u.Path, u.Storages, u.Count, u.Bytes, u.First, u.Last, nil, u.Type == event.Del, u.Damaged}
	switch {
	case u.Path == "":
		line.Type = "user"
	case u.IsFolder():
		line.Type = "folder"
	}
	if u.Time != 0 {
		line.Time = &u.Time
	}
	return line
}

func (l *usageList) printUsage(u *event.Usage) error {
	out := l.a.out
	l.printed++
	if !out.isForPerson() {
		return out.writeJSON(newUsageLine(u))
	}
	if l.printed == 1 {
		if err := out.printf("%s\n", l.columns("STORAGES", "EVENTS", "SIZE", "LAST")+"  NAME"); err != nil {
			return err
		}
	}
	storages, last := "-", "-"
	if u.IsFolder() {
		storages = fmt.Sprint(u.Storages)
	}
	if u.Time != 0 {
		last = out.lastTime(u.Time)
	}
	columns := l.columns(storages, fmt.Sprint(u.Count), formatSize(u.Bytes), last)
	return out.printf("%s\n", l.nameLine(u, columns))
}

// columns returns the columns before the name, with their widths.
func (l *usageList) columns(storages, events, size, last string) string {
	if width, limited := l.a.out.lineWidth(); limited && width < narrow {
		return fmt.Sprintf("%7s %8s %-5s", events, size, last)
	}
	columns := fmt.Sprintf("%9s  %8s  %-19s", events, size, last)
	if !l.o.recursive {
		columns = fmt.Sprintf("%8s  %s", storages, columns)
	}
	return columns
}

// nameLine returns columns and the name, which is cut at its beginning: names in a list
// often begin alike.
func (l *usageList) nameLine(u *event.Usage, columns string) string {
	out := l.a.out
	width, limited := out.lineWidth()
	style, note := nameStyle(u, limited && width < narrow)
	name := visible(u.Name())
	if limited {
		room := width - runewidth.StringWidth(columns) - 2 - len(note)
		name = shortenStart(name, max(room, shortestName))
	}
	return out.screenLine(column{text: columns}, column{text: name + note, style: style})
}

// nameStyle returns the style of a name, and a note that follows it.
func nameStyle(u *event.Usage, short bool) (style, note string) {
	switch {
	case u.Damaged && short:
		return styleDelete, " (!)"
	case u.Damaged:
		return styleDelete, " (damaged)"
	case u.Type == event.Del && short:
		return styleDim, " (del)"
	case u.Type == event.Del:
		return styleDim, " (deleted)"
	case u.IsFolder():
		return styleUser, ""
	}
	return "", ""
}

// shortestName is the room that a name has on the narrowest screen.
const shortestName = 8

// shortenStart cuts the beginning of s so that it is at most width wide.
func shortenStart(s string, width int) string {
	wide := runewidth.StringWidth(s)
	for cut := wide - width + 1; wide > width; cut++ {
		short := "…" + runewidth.TruncateLeft(s, cut, "")
		if wide = runewidth.StringWidth(short); wide <= width {
			return short
		}
	}
	return s
}

// lastTime returns the local time of a last event. A narrow screen shows the clock if it is
// of today, else the day or the year.
func (o *output) lastTime(t event.Time) string {
	local, now := t.Time().Local(), time.Now()
	width, limited := o.lineWidth()
	switch {
	case !limited || width >= narrow:
		return localTime(t)
	case local.Format(time.DateOnly) == now.Format(time.DateOnly):
		return local.Format("15:04")
	case local.Year() == now.Year():
		return local.Format("01-02")
	}
	return local.Format("2006")
}
