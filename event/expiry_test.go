package event

import (
	"strings"
	"testing"
)

// A value expires with the same event no matter who appends it, and its line has the reason.
func TestExpiry(t *testing.T) {
	put := Draft{User: "alice", Path: "posts/1", Type: Put, Key: "k1", Value: []byte(`{"n":1}`)}
	ev := New(7, 7, put, put.Hash())
	d := Expiry(&ev)
	if err := d.Check(); err != nil || !d.IsExpiry() || d.Type != Del || d.User != ev.User || d.Path != ev.Path {
		t.Errorf("Expiry = %+v, %v", d, err)
	}
	end := New(9, 9, d, d.Hash())
	if !strings.HasSuffix(string(end.Line()), `","reason":"expired"}`) || !end.Covered() {
		t.Errorf("its line is %s", end.Line())
	}
	if again, err := ParseDraft(end.Line()); err != nil || again.Hash() != end.Hash {
		t.Errorf("ParseDraft of it = %+v, %v", again, err)
	}
	for _, other := range []Draft{
		{Type: Put, Key: d.Key}, {Type: Del, Key: "expired:"}, {Type: Del, Key: d.Key + "0"}, {Type: Del, Key: "k"},
		{Type: Del, Key: strings.ToUpper(d.Key)}, {Type: Del, Key: strings.TrimPrefix(d.Key, "expired:")},
	} {
		if other.IsExpiry() {
			t.Errorf("%+v is one", other)
		}
	}
	silent := end
	silent.Extra = nil
	more := ev
	more.Extra = []byte(`"reason":"expired"`)
	if silent.Covered() || more.Covered() || !ev.Covered() {
		t.Error("Covered takes what no log writes for what it would write")
	}
}
