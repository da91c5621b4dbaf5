package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mattn/go-runewidth"
	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

const (
	progressDelay = time.Second // a command that takes less shows nothing
	redrawPause   = 100 * time.Millisecond
	linePause     = 5 * time.Second // between the lines of --progress
)

const (
	progressFlag  = "progress"
	progressUsage = "print progress on standard error as a line every 5 seconds, for logs (default: on a terminal, in its last lines)"
)

// addProgress adds the flag for lines of progress.
func addProgress(a *app, cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.progress.lines, progressFlag, false, progressUsage)
}

// A progress shows a person how far the program is with work that takes more than a
// second: in the last lines of the terminal, or with --progress in lines for a log. It
// shows nothing with --quiet, or if there is no footer.
type progress struct {
	a     *app
	lines bool // the flag --progress

	done atomic.Int64

	mu    sync.Mutex // guards what follows
	stop  func()     // ends what shows it, and waits; nil if nothing does
	now   stage
	total int64   // 0 if it is not known; then
	share float64 // of the whole, 0 if that is not known either
	meter meter
}

// A stage is a part of the work of a command.
type stage struct {
	verb   string // such as "fetching"
	object string // said in lines for a log
	unit   unit
	// picture draws the stage in place of a bar, in lines no wider than width. If nil, there
	// is a bar.
	picture func(width int) []string
}

// isSame reports whether two stages are the same one.
func (s *stage) isSame(other *stage) bool {
	return s.verb == other.verb && s.object == other.object && s.unit == other.unit
}

// report says how much of a stage is done, and of how much; total is 0 if that is not known.
// It begins the stage if another one was reported before.
func (p *progress) report(s stage, done, total int64) { p.reportShare(s, done, total, 0) }

// reportShare is report if the total may not be known, but which share of the whole is done.
func (p *progress) reportShare(s stage, done, total int64, share float64) {
	if !p.isShown() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop == nil {
		p.start()
	}
	same := p.now.isSame(&s)
	if p.now = s; !same {
		p.meter.restart(time.Now(), done)
	}
	p.done.Store(done)
	p.total, p.share = total, share
}

// add adds to the done part of the stage that was reported last.
func (p *progress) add(n int64) { p.done.Add(n) }

// isShown reports whether a person is shown anything.
func (p *progress) isShown() bool { return p.a != nil && !p.a.quiet && (p.lines || p.a.footer != nil) }

// end ends what was reported. What was shown in the footer is erased.
func (p *progress) end() {
	p.mu.Lock()
	stop := p.stop
	p.stop, p.now = nil, stage{}
	p.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// start shows the progress from a second on until p.stop is called.
func (p *progress) start() {
	ended := make(chan struct{})
	var showing sync.WaitGroup
	showing.Go(func() {
		select {
		case <-ended:
			return
		case <-time.After(progressDelay):
		}
		if p.lines {
			p.printUntil(ended)
		} else {
			p.drawUntil(ended)
		}
	})
	p.stop = func() {
		close(ended)
		showing.Wait()
	}
}

// printUntil prints lines until ended is closed.
func (p *progress) printUntil(ended <-chan struct{}) {
	tick := time.NewTicker(linePause)
	defer tick.Stop()
	for {
		f := p.frame(time.Now())
		p.a.note("%s", f.logLine())
		select {
		case <-tick.C:
		case <-ended:
			return
		}
	}
}

// drawUntil draws in the footer until ended is closed.
func (p *progress) drawUntil(ended <-chan struct{}) {
	screen := &footerWriter{footer: p.a.footer}
	lines := mpb.New(mpb.WithConsoleWriter(screen), mpb.WithRefreshRate(redrawPause))
	bar := newBarFiller(p.a.footer.hasColour())
	fill := func(w io.Writer, stat decor.Statistics) error {
		f := p.frame(time.Now())
		screen.moved = f.moved
		_, err := io.WriteString(w, strings.Join(f.screenLines(stat.AvailableWidth, p.a.footer.rows(), bar), "\n"))
		return err
	}
	_, err := lines.Add(-1, mpb.BarFillerFunc(fill), mpb.BarFillerTrim())
	if err == nil {
		<-ended
	}
	lines.Shutdown()
	p.a.footer.endPicture()
}

// newBarFiller returns what draws a bar, which looks like a timeline.
func newBarFiller(colour bool) mpb.BarFiller {
	style := mpb.BarStyle().Lbound("").Rbound("").Tip("").Filler(string(marks[proven].char)).Padding(string(marks[missing].char))
	if colour {
		style = style.FillerMeta(marks[proven].paint).PaddingMeta(marks[missing].paint)
	}
	return style.Build()
}

// A footerWriter has mpb draw into a footer, which alone writes to the terminal.
type footerWriter struct {
	bytes.Buffer
	footer *footer
	moved  bool // there is progress since the frame before
}

// IsTerminal, GetTermSize and Flush implement mpb.ConsoleWriter.
func (w *footerWriter) IsTerminal() bool { return true }

// GetTermSize returns the room for lines. The last column would start a new line.
func (w *footerWriter) GetTermSize() (width, height int, err error) {
	return w.footer.columns() - 1, w.footer.rows(), nil
}

// Flush shows the lines that were written.
func (w *footerWriter) Flush(int) error {
	text := strings.TrimSuffix(w.String(), "\n")
	w.Reset()
	w.footer.showPicture(strings.Split(text, "\n"), w.moved)
	return nil
}

// A frame is how far a stage is at some moment.
type frame struct {
	stage
	done, total int64
	share       float64
	rate        float64       // a second; 0 if it is not known
	elapsed     time.Duration // since the stage began
	moved       bool          // since the frame before
}

func (p *progress) frame(now time.Time) frame {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := frame{stage: p.now, done: p.done.Load(), total: p.total, share: p.share, elapsed: now.Sub(p.meter.start)}
	if f.total > 0 {
		f.done = min(f.done, f.total)
		f.share = float64(f.done) / float64(f.total)
	}
	f.rate, f.moved = p.meter.measure(now, f.done)
	return f
}

// logLine returns the frame as a line for a log.
func (f *frame) logLine() string {
	var parts []string
	for _, s := range []string{f.countText(true), f.shareText(), f.rateText(), f.timeText()} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	text := f.verb
	if f.object != "" {
		text += " " + f.object
	}
	return text + ": " + strings.Join(parts, ", ")
}

const (
	leastBar = 10
	mostBar  = 60
)

// screenLines returns the frame for a screen.
func (f *frame) screenLines(width, height int, bar mpb.BarFiller) (lines []string) {
	if f.picture != nil {
		lines = f.picture(width)
		if len(lines)+2 > height || len(lines) > 0 && lineWidthOf(lines[0]) > width {
			lines = nil
		}
		for i, line := range lines {
			if lineWidthOf(line) > width { // the axis and the legend have no colours
				lines[i] = strings.TrimRight(runewidth.Truncate(line, width, "…"), " ")
			}
		}
	}
	verb, percent, count, rate, left := f.verb, f.shareText(), f.countText(true), f.rateText(), f.timeText()
	text := joinParts(percent, count, rate, left)
	if room := width - len(verb) - len(text) - 4; len(lines) == 0 && f.total > 0 && room >= leastBar {
		var b strings.Builder
		room = min(room, max(leastBar, width-60), mostBar) // the same one with longer numbers
		stat := decor.Statistics{AvailableWidth: room, Total: f.total, Current: f.done}
		if bar.Fill(&b, stat) == nil {
			return append(lines, joinParts(verb, b.String(), text))
		}
	}
	for _, parts := range [][]string{{verb, percent, count, rate, left}, {verb, count, rate, left}, {verb, f.countText(false), rate, left}, {f.countText(false), rate, left}} {
		if text = joinParts(parts...); len(text) <= width {
			return append(lines, text)
		}
	}
	return append(lines, shortenName(text, width))
}

// joinParts joins the parts of a line that are not empty.
func joinParts(parts ...string) string {
	var b strings.Builder
	for _, s := range parts {
		if s != "" && b.Len() > 0 {
			b.WriteString("  ")
		}
		b.WriteString(s)
	}
	return b.String()
}

// A unit is what a stage counts.
type unit int

const (
	inEvents unit = iota
	inBytes
	inPages
	inParts // of the whole; only percents and times are shown
)

// partsOfWhole is the total of inParts.
const partsOfWhole = 10_000

var unitNames = [...]string{inEvents: "event", inPages: "page"}

// countText returns how much is done, and of how much, with the name of the unit if named.
func (f *frame) countText(named bool) string {
	switch {
	case f.total == 0 && (f.unit == inParts || f.unit == inBytes && f.done == 0):
		return ""
	case f.unit == inParts:
		return f.percentText()
	case f.unit == inBytes && f.total > 0:
		return formatSize(f.done) + "/" + formatSize(f.total)
	case f.unit == inBytes:
		return formatSize(f.done)
	case !named && f.total > 0:
		return fmt.Sprintf("%d/%d", f.done, f.total)
	case !named:
		return fmt.Sprint(f.done)
	case f.total > 0:
		return fmt.Sprintf("%d/%s", f.done, count(f.total, unitNames[f.unit]))
	}
	return count(f.done, unitNames[f.unit])
}

// shareText returns the percents, next to a count.
func (f *frame) shareText() string {
	if f.unit == inParts || f.total == 0 && f.share == 0 {
		return ""
	}
	return f.percentText()
}

func (f *frame) percentText() string {
	return fmt.Sprintf("%d%%", int(f.share*100))
}

func (f *frame) rateText() string {
	switch {
	case f.unit == inParts || f.rate <= 0:
		return ""
	case f.unit == inBytes:
		return formatSize(int64(f.rate)) + "/s"
	}
	return formatRate(f.rate) + "/s"
}

// timeText returns the time left or, if the total is not known, the time passed.
func (f *frame) timeText() string {
	total := float64(f.total)
	switch {
	case f.total == 0 && f.share == 0:
		return formatSeconds(f.elapsed)
	case f.rate <= 0:
		return ""
	case f.total == 0:
		total = float64(f.done) / f.share
	}
	left := time.Duration((total - float64(f.done)) / f.rate * float64(time.Second))
	return formatSeconds(left+time.Second-1) + " left"
}

// formatRate formats a rate with three digits.
func formatRate(rate float64) string {
	if rate < 10 {
		return fmt.Sprintf("%.1f", rate)
	}
	n, round := int64(rate+0.5), int64(1)
	for n/round >= 1000 {
		round *= 10
	}
	return fmt.Sprint((n + round/2) / round * round)
}

// formatSeconds formats a duration with two units at most.
func formatSeconds(d time.Duration) string {
	s := int64(d / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 60*60:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 24*60*60:
		return fmt.Sprintf("%dh%02dm", s/(60*60), s/60%60)
	}
	return fmt.Sprintf("%dd%02dh", s/(24*60*60), s/(60*60)%24)
}

// A meter measures the rate of the last seconds.
type meter struct {
	start   time.Time
	samples []sample // of the last seconds, oldest first; never empty once it was restarted
}

// A sample is how much was done at some moment.
type sample struct {
	at   time.Time
	done int64
}

// meterTime is how far back a meter looks.
const meterTime = 5 * time.Second

func (m *meter) restart(now time.Time, done int64) {
	m.start, m.samples = now, append(m.samples[:0], sample{now, done})
}

// measure returns the rate a second, 0 if it is not known, and whether more is done than
// the last time.
func (m *meter) measure(now time.Time, done int64) (rate float64, moved bool) {
	last := m.samples[len(m.samples)-1]
	if done < last.done { // it counts something else
		m.restart(now, done)
		return 0, true
	}
	moved = done > last.done
	m.samples = append(m.samples, sample{now, done})
	for len(m.samples) > 2 && now.Sub(m.samples[1].at) >= meterTime {
		m.samples = m.samples[1:]
	}
	first := m.samples[0]
	if passed := now.Sub(first.at); passed > 0 {
		rate = float64(done-first.done) / passed.Seconds()
	}
	return rate, moved
}
