package main

import (
	"context"
	"slices"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A syncPicture draws the timeline of the topic that a sync fetches or a verify compares.
type syncPicture struct {
	a  *app
	db *cache.DB

	// Of a verify.
	topic    event.Topic
	compared window.Spans
}

// reportFetched reports how far a sync is.
func (s *syncPicture) reportFetched(p client.SyncProgress) {
	draw := func(width int) []string {
		windows, err := s.db.Windows(context.Background())
		if err != nil {
			return nil // the sync itself will say why
		}
		return s.timelineLines(p, windows, nil, width)
	}
	share := 0.0
	if !p.Span.Empty() {
		share = float64(p.Reached-p.Span.From) / float64(p.Span.To-p.Span.From)
	}
	s.a.progress.reportShare(stage{verb: "fetching", object: p.Topic.String(), picture: draw}, int64(p.Done), int64(p.Total), share)
}

// reportCompared reports how far a verify is. What it has not compared is drawn as held: it
// may have been proven before, which is not the question.
func (s *syncPicture) reportCompared(p client.SyncProgress) {
	if s.topic != p.Topic {
		s.topic, s.compared = p.Topic, nil
	}
	s.compared = s.compared.Add(window.Span{From: p.Span.From, To: p.Reached})
	compared := s.compared
	draw := func(width int) []string {
		windows, err := s.db.Windows(context.Background())
		if err != nil {
			return nil
		}
		for i := range windows {
			windows[i].Proven = false
		}
		return s.timelineLines(p, windows, compared, width)
	}
	s.a.progress.report(stage{verb: "comparing", object: p.Topic.String(), picture: draw}, int64(p.Done), int64(p.Total))
}

// timelineLines draws the topic's timeline. It is drawn many times, so windows of other
// topics are left out first.
func (s *syncPicture) timelineLines(p client.SyncProgress, windows []window.Window, compared window.Spans, width int) []string {
	windows = slices.DeleteFunc(windows, func(w window.Window) bool { return !w.Topic.Contains(p.Topic) })
	t := newTimelineOf([]event.Topic{p.Topic}, windows, min(width, maxColumns), s.a.footer.hasColour())
	t.end, t.compared = max(t.end, p.Span.To), compared
	return t.lines()
}
