package wire

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/rstream-dev/rstream/event"
)

// PathRoom is the first part of the path of GET /api/room/TOPIC.
const PathRoom = "/api/room/"

// RoomPath returns the path of GET /api/room/TOPIC, escaped.
func RoomPath(of event.Topic) string {
	segments := strings.Split(of.String(), "/")
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	return PathRoom + strings.Join(segments, "/")
}

// ParseRoomPath parses the topic from the escaped path of a request. As in ParseSetPath, %2F
// cannot end a user unless the whole topic is one segment.
func ParseRoomPath(escaped string) (event.Topic, error) {
	rest, ok := strings.CutPrefix(escaped, PathRoom)
	if !ok || rest == "" {
		return event.Topic{}, errors.New("path: want /api/room/TOPIC")
	}
	rawUser, _, split := strings.Cut(rest, "/")
	if user, err := url.PathUnescape(rawUser); split && (err != nil || strings.Contains(user, "/")) {
		return event.Topic{}, fmt.Errorf("path: %.80q is no user", rawUser)
	}
	name, err := url.PathUnescape(rest)
	if err != nil {
		return event.Topic{}, fmt.Errorf("path: %w", err)
	}
	return event.ParseTopic(name)
}
