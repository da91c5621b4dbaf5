package client

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// smallPages lets the server answer requests for storages with pages of one.
func smallPages(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.RawQuery = strings.Replace(r.URL.RawQuery, fmt.Sprint("limit=", wire.MaxLimit), "limit=1", 1)
		h.ServeHTTP(w, r)
	})
}

func usagesOf(t *testing.T, c *Client, topic string, folders bool) (usages []event.Usage) {
	t.Helper()
	for u, err := range c.Usage(t.Context(), mustTopic(t, topic), folders) {
		if err != nil {
			t.Fatal(err)
		}
		usages = append(usages, u)
	}
	return usages
}

// Usage counts what one GET of all events returns, with a copy and without, whatever the
// pages are.
func TestUsage(t *testing.T) {
	f := newFixture(t)
	for i, name := range []string{"alice/p/1", "alice/p/2", "alice/q", "bob/p/1", "alice/p/1", "alice-x/p"} {
		f.put(name, i+1)
	}
	want := map[string]event.Usage{}
	add := func(name string, ev *plainEvent) {
		u := want[name]
		u.Count++
		u.Bytes += int64(len(ev.line) + 1)
		want[name] = u
	}
	for _, ev := range f.truth("*", "", "") {
		add(ev.User+"/"+ev.Path, &ev)
		add(ev.User+"/", &ev)
	}
	for _, wrap := range []func(http.Handler) http.Handler{nil, smallPages} {
		f.through(wrap)
		bare := newTestClient(t, nil, hasty(f.http.URL))
		for _, c := range []*Client{bare, newTestClient(t, f.newCache(), hasty(f.http.URL))} {
			for topic, names := range map[string][]string{
				"*":              {"alice/p/1", "alice/p/2", "alice/q", "alice-x/p", "bob/p/1"},
				"alice":          {"alice/p/1", "alice/p/2", "alice/q"},
				"alice/p/":       {"alice/p/1", "alice/p/2"},
				"nobody/at/all":  nil,
				"alice/p/1$":     {"alice/p/1"},
				"users, folders": {"alice/", "alice-x/", "bob/"},
			} {
				topic, folders := strings.CutSuffix(topic, ", folders")
				if folders {
					topic = "*"
				}
				got := usagesOf(t, c, topic, folders)
				if len(got) != len(names) {
					t.Fatalf("%s: %+v", topic, got)
				}
				for i, u := range got {
					if w := want[names[i]]; u.Name() != names[i] || u.Count != w.Count || u.Bytes != w.Bytes || u.Time == 0 {
						t.Errorf("%s: %+v, want %s %+v", topic, u, names[i], w)
					}
				}
			}
		}
	}
	c := newTestClient(t, nil, hasty(f.http.URL))
	n := 0
	for range c.Usage(t.Context(), event.All, false) {
		if n++; n == 2 {
			break
		}
	}
	if n != 2 {
		t.Errorf("%d usages before the end", n)
	}
	if got := usagesOf(t, c, "alice", true); len(got) != 2 || got[0].Name() != "alice/p/" || got[0].Storages != 2 || got[0].Count != want["alice/p/1"].Count+want["alice/p/2"].Count {
		t.Errorf("folders of alice: %+v", got)
	}
}

// A server that lists anything else than what it was asked for is an error, and so is one
// that never comes to an end.
func TestUsageOfLiars(t *testing.T) {
	f := newFixture(t)
	f.put("alice/x", 1)
	row := func(name string) string {
		user, path, _ := strings.Cut(name, "/")
		return fmt.Sprintf(`{"user":%q,"path":%q,"count":1,"bytes":9,"first":"0000000000001","last":"0000000000001"}`, user, path)
	}
	folder := func(name string) string { return strings.Replace(row(name), `"count"`, `"storages":1,"count"`, 1) }
	for _, c := range []struct {
		name    string
		folders bool
		body    string
		want    any // nil is ErrDamagedLog
	}{
		{"another topic", false, `{"storages":[` + row("bob/x") + `]}`, new(*ProtocolError)},
		{"out of order", false, `{"storages":[` + row("alice/y") + `,` + row("alice/x") + `]}`, new(*ProtocolError)},
		{"twice", false, `{"storages":[` + row("alice/x") + `,` + row("alice/x") + `]}`, new(*ProtocolError)},
		{"a bad name", false, `{"storages":[` + row("alice/x//y") + `]}`, new(*ProtocolError)},
		{"a folder without folders", false, `{"storages":[` + folder("alice/x/") + `]}`, new(*ProtocolError)},
		{"a folder without storages", true, `{"storages":[` + row("alice/x/") + `]}`, new(*ProtocolError)},
		{"a folder of another user", true, `{"storages":[` + folder("bob/") + `]}`, new(*ProtocolError)},
		{"a number below zero", false, `{"storages":[` + strings.Replace(row("alice/x"), `"count":1`, `"count":-1`, 1) + `]}`, new(*ProtocolError)},
		{"the same page again", false, `{"storages":[` + row("alice/x") + `],"next":"alice/x"}`, new(*ProtocolError)},
		{"a next page of another topic", false, `{"storages":[],"next":"bob/x"}`, new(*ProtocolError)},
		{"a next page of no storage", false, `{"storages":[],"next":"x"}`, new(*ProtocolError)},
		{"no JSON", false, `<html>`, new(*ProtocolError)},
		{"half an answer", false, `{"storages":[` + row("alice/x"), new(*ShortenedError)},
		{"a damaged storage", false, `{"storages":[` + strings.Replace(row("alice/x"), `"count"`, `"damaged":true,"count"`, 1) + `]}`, nil},
		{"a damaged list", false, `{"storages":[],"damaged":true}`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.through(func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path != "/storages" {
						h.ServeHTTP(w, r)
						return
					}
					l := liar{f: f, h: w.Header(), w: w, r: r}
					l.header(wire.JSON)
					fmt.Fprint(w, c.body)
				})
			})
			var errs []error
			for _, err := range newTestClient(t, nil, hasty(f.http.URL)).Usage(t.Context(), mustTopic(t, "alice"), c.folders) {
				errs = append(errs, err)
			}
			errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
			if len(errs) != 1 || c.want != nil && !errors.As(errs[0], c.want) || c.want == nil && !errors.Is(errs[0], ErrDamagedLog) {
				t.Errorf("%v, want a %T", errs, c.want)
			}
		})
	}
}

// A log that was rolled back is noticed before anything is listed.
func TestUsageOfRolledBackLog(t *testing.T) {
	f := newFixture(t)
	f.put("alice/x", 5)
	before := f.file()
	f.put("alice/x", 5)
	db := f.newCache()
	if _, err := newTestClient(t, db, hasty(f.http.URL)).Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	f.putBack(before)
	f.put("alice/y", 7)
	for u, err := range newTestClient(t, db, hasty(f.http.URL)).Usage(t.Context(), event.All, false) {
		if !errors.As(err, new(*RolledBackError)) {
			t.Errorf("%+v, %v", u, err)
		}
	}
}
