package server

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// pageIDs returns the ids of a JSON page.
func pageIDs(t *testing.T, page string) (ids []event.ID) {
	t.Helper()
	var p struct{ Events []struct{ ID event.ID } }
	if err := json.Unmarshal([]byte(page), &p); err != nil {
		t.Fatalf("%s: %v", page, err)
	}
	for _, ev := range p.Events {
		ids = append(ids, ev.ID)
	}
	return ids
}

// filterOf returns a filter of hashes as the value of bloomFilter, and its frame.
func filterOf(t *testing.T, inverse bool, hashes ...event.Hash) (text string, frame []byte) {
	t.Helper()
	salt := reconcile.Salt{0xfb, 0xef, 0xbe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	set := reconcile.FromHashes(window.Span{To: event.MaxID}, slices.Clone(hashes))
	f, err := reconcile.NewBloom(set.Items(), uint64(len(hashes)), 20, salt)
	if inverse {
		f, err = reconcile.NewInverse(set.Items(), uint64(len(hashes)), 4096, salt)
	}
	if err != nil {
		t.Fatal(err)
	}
	frame = f.AppendTo(nil)
	return wire.EncodeFilter(frame), frame
}

// All forms of naming storages mean the same.
func TestGetForms(t *testing.T) {
	log := newLog()
	log.put(t, "a", "p", 2)       // 1, 2
	log.put(t, "b", "q", 1)       // 3
	log.put(t, "a", "p,q", 1)     // 4
	log.put(t, "[a", "p", 1)      // 5
	log.put(t, "a", `"p]`, 1)     // 6
	log.put(t, "a", "p?x=1", 1)   // 7
	log.put(t, `["a`, `p","q`, 1) // 8
	_, base := socket(t, log)
	held, frame := filterOf(t, false, log.evs[0].Hash)
	standard := base64.StdEncoding.EncodeToString(frame)
	if !strings.Contains(standard, "+") || !strings.Contains(standard, "/") {
		t.Fatalf("%s shows no difference between the alphabets", standard)
	}
	esc := url.QueryEscape
	both := []event.ID{1, 2, 3}
	for target, want := range map[string][]event.ID{
		`id=a/p`:                                  {1, 2},
		`items=a/p,b/q`:                           both,
		`items=["a/p","b/q"]`:                     both,
		`items=` + esc(`["a/p","b/q"]`):           both,
		`items=` + esc(` [ "a/p" , "b/q" ] `):     both,
		`%69tems=["a/p"]&items=b/q`:               both,
		`items="a/p"`:                             {1, 2},
		`items={"id":"b/q"}`:                      {3},
		`items=["a/p",{"id":"b/q"},"a/p"]`:        both,
		`items=["a/p,q"]`:                         {4},
		`items=a/p%2Cq`:                           {4},
		`items=` + esc(`["[a/p"]`):                {5},
		`id=[a/p`:                                 {5},
		`items=` + esc(`["a/\"p]"]`):              {6},
		`id=a/"p]`:                                {6},
		`id=a/p?x=1`:                              {7},
		`items=` + esc(`["[\"a/p\",\"q"]`):        {8},
		`items=["\u0061\/p"]`:                     {1, 2},
		`items=["c/none"]`:                        nil,
		`id=a/p&bloomFilter=` + held:              {2},
		`id=a/p?bloomFilter=` + held:              {2},
		`id=a/p&bloomFilter=` + held + "==":       {2},
		`id=a/p&bloomFilter=` + standard:          {2},
		`id=a/p&bloomFilter=` + esc(standard):     {2},
		`items=a/p,b/q&bloomFilter=` + held:       {2, 3},
		`items=["a/p","b/q"]&bloomFilter=` + held: {2, 3},
		`items=[{"id":"a/p","bloomFilter":"` + held + `"},{"id":"b/q"}]`:               {2, 3},
		`items=` + esc(`[{"id":"a/p","bloomFilter":"`+standard+`"}]`):                  {2},
		`items={"id":"a/p","have":["` + log.evs[1].Hash.String() + `"]}&items=["b/q"]`: {1, 3},
	} {
		resp, b := rawGet(t, base+"/get", target)
		if resp.StatusCode != http.StatusOK || !slices.Equal(pageIDs(t, b), want) {
			t.Errorf("GET /get?%s: %s %s, want %v", target, resp.Status, b, want)
		}
	}
	for body, want := range map[string][]event.ID{
		`{"items":"a/p"}`:                                                          {1, 2},
		`{"items":["a/p","b/q"]}`:                                                  both,
		` {"items" : [ {"id":"a/p"} , "b/q" ] } `:                                  both,
		`{"items":{"id":"b/q"}}`:                                                   {3},
		`{"items":{"id":"a/p","bloomFilter":"` + standard + `"}}`:                  {2},
		`{"items":[{"id":"a/p","bloomFilter":"` + held + `"},{"id":"b/q"},"a/p"]}`: {2, 3},
	} {
		resp, b, err := tryPost(t.Context(), base+"/get", "", []byte(body))
		if err != nil || resp.StatusCode != http.StatusOK || !slices.Equal(pageIDs(t, string(b)), want) {
			t.Errorf("POST /get %s: %v %s, %v, want %v", body, resp, b, err, want)
		}
	}
}

// rawGet gets a URL and sends its query unchanged.
func rawGet(t *testing.T, base, query string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.URL.RawQuery = query
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body(t, resp)
}

// A requester that sends its count gets the server's filter if the server has more events, of
// the kind of its own filter and in the form of its request.
func TestBloomForms(t *testing.T) {
	log := newLog()
	log.put(t, "a", "p", 40)
	log.put(t, "b", "q", 10)
	_, base := socket(t, log)
	var some []event.Hash
	for _, ev := range log.evs[:30] {
		some = append(some, ev.Hash)
	}
	bloom, _ := filterOf(t, false, some...)
	inverse, _ := filterOf(t, true, some...)
	type want struct {
		count, missing int
		filter         string // "", "bloom" or "inverse"
	}
	check := func(what, text string, w want) {
		t.Helper()
		var a wire.BloomAnswer
		if err := json.Unmarshal([]byte(text), &a); err != nil || a.Count != uint64(w.count) || a.Missing == nil != (w.missing < 0) || len(a.Missing) != max(0, w.missing) {
			t.Errorf("%s: %s, %v, want %+v", what, text, err, w)
			return
		}
		if kind := kindOf(t, a, log.evs); kind != w.filter {
			t.Errorf("%s: the answer has the filter %q, want %q", what, kind, w.filter)
		}
	}
	for query, w := range map[string]want{
		"":                                     {50, -1, ""},
		"count=49":                             {50, -1, "bloom"},
		"count=50":                             {50, -1, ""},
		"count=0":                              {50, -1, "bloom"},
		"count=18446744073709551615":           {50, -1, ""},
		"topic=b&count=9":                      {10, -1, "bloom"},
		"id=b/q&count=10&back=1":               {10, -1, "bloom"},
		"bloomFilter=" + bloom:                 {50, 20, "bloom"},
		"bloomFilter=" + inverse:               {50, 20, "inverse"},
		"bloomFilter=" + bloom + "&count=50":   {50, 20, ""},
		"bloomFilter=" + inverse + "&count=51": {50, 20, ""},
		"bloomFilter=" + inverse + "&count=9999999&back=1": {50, 20, "inverse"},
		"topic=a&bloomFilter=" + inverse + "&count=30":     {40, 10, "inverse"},
		"have=" + some[0].String():                         {50, 49, ""},
		"have=" + some[0].String() + "&count=1":            {50, 49, "bloom"},
	} {
		resp, text := rawGet(t, base+"/bloom", query)
		if resp.StatusCode != http.StatusOK {
			t.Errorf("GET /bloom?%s: %s %s", query, resp.Status, text)
			continue
		}
		check("GET /bloom?"+query, text, w)
	}
	for body, w := range map[string]want{
		`{"items":{}}`:          {50, -1, ""},
		`{"items":{"count":3}}`: {50, -1, "bloom"},
		`{"items":{"bloomFilter":"` + bloom + `","count":30}}`:     {50, 20, "bloom"},
		`{"items":{"bloomFilter":"` + inverse + `","count":30}}`:   {50, 20, "inverse"},
		`{"items":[{"bloomFilter":"` + inverse + `","count":30}]}`: {50, 20, "inverse"},
		`{"items":[{"topic":"b","count":3}]}`:                      {10, -1, "bloom"},
	} {
		resp, b, err := tryPost(t.Context(), base+"/bloom", "application/json", []byte(body))
		var list struct{ Items []json.RawMessage }
		var one struct{ Items json.RawMessage }
		if strings.Contains(body, "[") {
			if json.Unmarshal(b, &list) == nil && len(list.Items) == 1 {
				one.Items = list.Items[0]
			}
		} else {
			_ = json.Unmarshal(b, &one)
		}
		if err != nil || resp.StatusCode != http.StatusOK || len(one.Items) == 0 {
			t.Errorf("POST /bloom %s: %v %s, %v", body, resp, b, err)
			continue
		}
		check("POST /bloom "+body, string(one.Items), w)
	}
}

// kindOf returns the kind of the filter in a response, whose count must be that of the
// response, or "" if there is none.
func kindOf(t *testing.T, a wire.BloomAnswer, evs []event.Event) string {
	t.Helper()
	if a.Filter == "" {
		return ""
	}
	frame, err := wire.ParseFilterText(a.Filter)
	if err != nil {
		t.Fatal(err)
	}
	f, err := reconcile.ParseFilter(frame, reconcile.Limits{})
	if err != nil || f.Count != a.Count {
		t.Fatalf("a filter of %d, %v, want %d", f.Count, err, a.Count)
	}
	seen := 0
	for _, ev := range evs {
		if f.Seen(ev.Hash) {
			seen++
		}
	}
	if f.Seen(event.Hash{1}) && f.Seen(event.Hash{2}) && f.Seen(event.Hash{3}) && f.Seen(event.Hash{4}) {
		t.Error("the filter says yes to everything")
	}
	if f.Inverse() { // of so many slots only some are shared
		if uint64(seen) > a.Count || uint64(seen) < a.Count/3 {
			t.Errorf("the inverse filter has %d of %d", seen, a.Count)
		}
		return "inverse"
	}
	if uint64(seen) < a.Count {
		t.Errorf("the filter has %d of %d", seen, a.Count)
	}
	return "bloom"
}
