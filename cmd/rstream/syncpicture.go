package main

import (
	"context"

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
	s.a.progress.report(stage{verb: "fetching", object: p.Topic.String(), picture: draw}, int64(p.Done), int64(p.Total))
}

// reportCompared reports how far a verify is. What it has not compared is drawn as held: it
// may have been proven before, which is not the question.
func (s *syncPicture) reportCompared(p client.SyncProgress) {
	if s.topic != p.Topic {
		s.topic, s.compared = p.Topic, nil
	}
	s.compared = s.compared.Add(p.Compared)
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

// timelineLines draws the topic's timeline.
func (s *syncPicture) timelineLines(p client.SyncProgress, windows []window.Window, compared window.Spans, width int) []string {
	t := newTimelineOf([]event.Topic{p.Topic}, windows, min(width, maxColumns), s.a.footer.hasColour())
	t.end, t.compared = max(t.end, p.Span.To), compared
	return t.lines()
}
