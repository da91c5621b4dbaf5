package reconcile

import (
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// A negotiation ends at once if the peer lists more events than it claims to have. Otherwise the
// peer could make the other side collect any number.
func TestPeerThatListsMore(t *testing.T) {
	for _, with := range []Strategy{Bloom} {
		w := scattered(6, false, 3000, 30, 5)
		s := newServer(w)
		made := event.ID(1 << 20)
		s.tamper = func(req *Request, resp *Response) {
			if req.Strategy() != with {
				return
			}
			for range int(resp.Sum.Count) - len(resp.Missing) { // one answer may not list more than there are
				made++
				resp.Missing = append(resp.Missing, itemAt(made))
			}
			for i := range resp.Missing { // what is not shared is named by its hash
				resp.Missing[i] = Item{Hash: resp.Missing[i].Hash}
			}
			slices.SortFunc(resp.Missing, Item.Compare)
		}
		res := w.negotiate(t, s, Config{Strategy: with})
		if res.Proven || res.Outcome != Pull || res.Why != "the peer lists more events than it has" || len(res.Rounds) > 5 {
			t.Errorf("%s: %s after %d rounds: %s", with, res.Outcome, len(res.Rounds), explain(res))
		}
	}
}
