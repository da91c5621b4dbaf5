package server

import (
	"encoding/json"
	"io"
	"net/url"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// A room of any topic is JSON, also of one whose name Go would not print as it is.
func TestRoomOfAnyName(t *testing.T) {
	s, stop := serve(t, newLog(), Config{})
	defer stop()
	for _, path := range []string{"posts", "a<b>&\"c\"", "\U0001f3f4\U000e0067\U000e0062\U000e007f", "\U0001fae9", "\u2028"} {
		want := event.Exactly(event.Storage{User: "alice", Path: path})
		resp := s.get("/api/room/alice/" + url.PathEscape(path+"$"))
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		var room struct{ Topic event.Topic }
		if err == nil {
			err = json.Unmarshal(b, &room)
		}
		if err != nil || room.Topic.String() != want.String() {
			t.Errorf("%+q: %v, %s", path, err, b)
		}
	}
}
