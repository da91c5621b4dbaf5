package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// storagePages requests page after page, and adds up what continues on the next one.
func storagePages(t tester, h http.Handler, q wire.UsageQuery) (all []event.Usage) {
	t.Helper()
	for {
		_, text := ask(t, h, "/storages?"+q.Values().Encode(), wire.JSON)
		var page wire.UsagePage
		if err := json.Unmarshal([]byte(text), &page); err != nil || len(page.Storages) > q.Limit || page.Damaged {
			t.Fatalf("%s, %v", text, err)
		}
		for _, u := range page.Storages {
			all = event.AppendUsage(all, u)
		}
		if page.Next == "" {
			return all
		}
		next, err := event.ParseStorage(page.Next)
		if err != nil || next.Compare(q.After) <= 0 {
			t.Fatalf("a page after %s ends at %q, %v", q.After, page.Next, err)
		}
		q.After = next
	}
}

// Whatever the pages are, they add up to what a slow log counts, storage by storage and
// folder by folder.
func TestStoragesAgree(t *testing.T) {
	dir, n := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		db, err := cache.Open(t.Context(), filepath.Join(dir, fmt.Sprint(n)), cache.Config{Role: cache.Server, Log: logName})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		slow := newLog()
		names := []string{"a/p", "a/p/1", "a/p/1/x", "a/p-1", "a/p/2", "a/q", "a-b/p/1", "b/p", "b/p/é", "zoë/p/1"}
		for i := range rapid.IntRange(0, 20).Draw(t, "events") {
			s, err := event.ParseStorage(rapid.SampledFrom(names).Draw(t, "storage"))
			if err != nil {
				t.Fatal(err)
			}
			d := event.Draft{User: s.User, Path: s.Path, Type: event.Put, Key: fmt.Sprint(i), Value: []byte("1")}
			if rapid.IntRange(0, 3).Draw(t, "del") == 0 {
				d.Type, d.Value = event.Del, nil
			}
			rs, err := db.Append(t.Context(), []event.Draft{d})
			if err != nil {
				t.Fatal(err)
			}
			slow.evs = append(slow.evs, rs[0].Event)
		}
		fast, truth := New(db, Config{}), New(slow, Config{})
		for _, name := range []string{"*", "a", "a/p", "a/p/", "a/p*", "*/p", "a/p/1$", "nobody"} {
			q := wire.UsageQuery{Topic: topicsOf(t, name)[0], Limit: rapid.SampledFrom([]int{1, 2, 100}).Draw(t, "limit")}
			list, err := slow.Usage(t.Context(), q.Topic, event.Storage{}, event.MaxID, 100)
			if err != nil {
				t.Fatal(err)
			}
			for _, q.Folders = range []bool{false, true} {
				var want []event.Usage
				for _, u := range list.Usages {
					if q.Folders {
						u = u.Folder(q.Topic)
					}
					want = event.AppendUsage(want, u)
				}
				for _, h := range []http.Handler{fast, truth} {
					if got := storagePages(t, h, q); !slices.Equal(got, want) {
						t.Fatalf("%+v:\n%+v\nwant\n%+v", q, got, want)
					}
				}
			}
		}
	})
}

// A damaged page is a remark in the list, and costs no number of another storage.
func TestStoragesOfDamagedLog(t *testing.T) {
	_, request := damagedLog(t)
	status, body := request(http.MethodGet, "/storages?topic=alice", "")
	var page wire.UsagePage
	if err := json.Unmarshal([]byte(body), &page); status != http.StatusOK || err != nil {
		t.Fatalf("%d %s", status, body)
	}
	count := int64(0)
	for _, u := range page.Storages {
		count += u.Count
	}
	if !page.Damaged || len(page.Storages) != 30 || count >= 300 || count < 250 {
		t.Errorf("%d events of 300 are counted: %s", count, body)
	}
}
