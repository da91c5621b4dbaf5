package event

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
)

// unusual are texts at the edges of JSON.
var unusual = []string{
	``, ` `, `{}`, `[]`, ` [ ] `, `{"a":1}`, `{"a" : [1, {"b":null}]} `, `[1,]`, `{"a":1,}`, `{,}`, `{"a"}`, `{"a":}`, `[`, `{"a":1`, `]`, `"`, `"\`, `"\u`,
	`0`, `-0`, `01`, `-`, `1.`, `.5`, `1e`, `1e+`, `1E-05`, `1.5e3`, `--1`, `+1`, `1 2`, `true`, `truex`, `tru`, `nulll`, `null`, `false`,
	`"\ud800"`, `"\u00e9"`, `"\u00G0"`, `"\u001"`, "\"\\u\x100AF\"", `"\x"`, `"\/\b\f\n\r\t\\\""`, "\"\t\"", "\"\x00\"", "\"\x7f\"", "\"\xff\"", "\"\xc3\xa9\"", "\xc3\xa9", "\"\xc3\"", "\"\xed\xa0\x80\"",
	"[1\v,2]", "\ufeff1", strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth), strings.Repeat("[", MaxDepth+1) + strings.Repeat("]", MaxDepth+1),
	strings.Repeat(`{"a":[`, 300) + strings.Repeat("]}", 300), `{"user":"alice","path":"posts/1","value":{"n": [1, "\u00e9 \\"] }}`,
	` {"user":"alice","path":"posts/1","type":"DEL","key":"k"} `, `{"user":"alice","user":"alice","path":"p","value":1}`, `{"user":"a","path":"p","value":1,"value":1}`,
	`{"user":"a","path":"p","key":"","key":"","value":1}`, `{"user":"a","path":"p","type":"PUT","type":"PUT","value":1}`, `{"user":"a","path":"p","type":"","value":1}`,
	`{"us\u0065r":"a","path":"p","value":1}`, `{"user":"\u0061","path":"p","value":1}`, `{"user":"a","path":"p","value":"\ud800"}`, `{"User":"a","path":"p","value":1}`,
	`{"user":"a","path":"p","value":1,"id":7,"time":null}`, `{"user":"a","path":"p","value":1,"x":2}`, `{"user":"a","path":"p","value":1}x`, `{"user":"a","path":"p","value":1,}`,
	`{"user":"a/b","path":"p","value":1}`, `{"user":"a","path":"p"}`, `{"user":1,"path":"p","value":1}`, `{"user":"a","path":"p","type":"DEL","value":null}`, `{"key":"k","value":1}`,
	"{\"user\":\"\u00e9\",\"path\":\"p\",\"value\":1}", "{\"user\":\"a\xff\",\"path\":\"p\",\"value\":1}", "{\"user\":\"a\",\"path\":\"p\",\"value\":\"\xff\"}", "\t{\n\"user\" :\r\"a\" , \"path\": \"p\",\"value\" : [ 1 , 2 ]\n}\r",
}

// checkScan checks that the fast paths return the same as the strict functions.
func checkScan(t *testing.T, v []byte) {
	t.Helper()
	for _, deepest := range []int{0, 1, MaxDepth} {
		want, err := checkJSONStrictly(v, deepest)
		if got, ok := isJSON(v, deepest); ok != (err == nil) || got != want && ok {
			t.Fatalf("isJSON(%.300q, %d) = %d, %v, want %d, %v", v, deepest, got, ok, want, err)
		}
	}
	want, settled, err := parseDraft(v)
	got := Draft{Type: Put}
	given, ok := scanDraft(v, &got, hasUser|hasPath|hasType|hasKey|hasValue)
	if ok && (err != nil || !reflect.DeepEqual(got, want) || (given&hasKey != 0) != settled) {
		t.Fatalf("scanDraft(%.300q) = %+v, %b, want %+v, %v, %v", v, got, given, want, settled, err)
	}
	if IsUsualNew(v) && (err != nil || want.CheckNew() != nil) {
		t.Fatalf("IsUsualNew(%.300q), which is refused: %v, %v", v, err, want.CheckNew())
	}
}

func TestScanOfTheUnusual(t *testing.T) {
	for _, v := range unusual {
		checkScan(t, []byte(v))
	}
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for range 20_000 {
		v := []byte(unusual[random.IntN(len(unusual))])
		for range random.IntN(3) {
			at, c := random.IntN(len(v)+1), `{}[]",:\u0 e-1t`[random.IntN(15)]
			switch random.IntN(3) {
			case 0:
				v = append(v[:at:at], v[min(at+1, len(v)):]...)
			case 1:
				v = append(append(v[:at:at], c), v[at:]...)
			default:
				v = append(append(v[:at:at], c), v[min(at+1, len(v)):]...)
			}
		}
		if checkScan(t, v); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func FuzzScan(f *testing.F) {
	for _, v := range unusual {
		f.Add([]byte(v))
	}
	f.Fuzz(func(t *testing.T, v []byte) { checkScan(t, v) })
}

// A typical append takes the fast path.
func TestScanTakesTheUsual(t *testing.T) {
	for _, v := range []string{
		`{"user":"alice","path":"posts/1","key":"k","value":{"n":1}}`,
		`{"value": [1, "\"", "é"], "user": "zoë", "path": "posts/1", "type": "PUT"}`,
		`{"user":"alice","path":"posts/1","type":"DEL"}`,
	} {
		d := Draft{Type: Put}
		if _, ok := scanDraft([]byte(v), &d, hasUser|hasPath|hasType|hasKey|hasValue); !ok {
			t.Errorf("scanDraft does not take %s", v)
		}
	}
	for _, v := range []string{
		`{"user":"alice","path":"posts/1.x","key":"k","type":"PUT","value":{"n":1}}`,
		` {"value": [1, "\"", "é"], "user": "a.b", "path": "posts"}`,
	} {
		object := []byte(v)
		if n := testing.AllocsPerRun(10, func() { IsUsualNew(object) }); !IsUsualNew(object) || n > 0 {
			t.Errorf("IsUsualNew does not take %s, or allocates %v times", v, n)
		}
	}
	if d, keyed, ok := ScanBody([]byte(`{"key":"k","value":1}`), Storage{"alice", "posts/1"}); !ok || !keyed || d.User != "alice" || d.Key != "k" {
		t.Errorf("ScanBody = %+v, %v, %v", d, keyed, ok)
	}
	if _, _, ok := ScanBody([]byte(`{"user":"bob","value":1}`), Storage{"alice", "posts/1"}); ok {
		t.Error("ScanBody takes a body that names a user")
	}
}

// Only a key or a hash determines the identity of an append. An empty key counts.
func TestParseAppendSettled(t *testing.T) {
	line := New(1, 0, Draft{User: "a", Path: "p", Type: Put, Value: []byte("1")}, Hash{}).Draft
	hash := line.Hash()
	for object, want := range map[string]bool{
		`{"user":"a","path":"p","value":1}`:                                         false,
		`{"user":"a","path":"p","value":{"key":"k"}}`:                               false,
		`{"user":"a","path":"p","type":"DEL"}`:                                      false,
		`{"user":"a","path":"p","value":1,"id":"0000000000001","time":"now"}`:       false,
		`{"user":"a","path":"p","value":1,"key":""}`:                                true,
		`{"user":"a","path":"p","value":1,"k\u0065y":""}`:                           true,
		`{"user":"a","path":"p","value":1,"key":"k"}`:                               true,
		`{"user":"a","path":"p","value":1,"hash":"` + hash.String() + `"}`:          true,
		`{"hash":"` + hash.String() + `","value":1,"key":"","user":"a","path":"p"}`: true,
	} {
		if d, settled, err := ParseAppend([]byte(object)); err != nil || settled != want {
			t.Errorf("ParseAppend(%s) = %+v, %v, %v, want %v", object, d, settled, err, want)
		}
	}
}

// Times are valid if and only if package time says so.
func TestParseTimeAgainstTheCalendar(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	check := func(year, month, day, hour, minute, sec, micro int) {
		text := fmt.Sprintf("%04d-%02d-%02dT%02d:%02d:%02d.%06dZ", year, month, day, hour, minute, sec, micro)
		want, err := time.Parse(timeLayout, text)
		if got, failed := parseTime([]byte(text)); (failed == nil) != (err == nil) || err == nil && got != TimeOf(want) {
			t.Fatalf("seed %d: parseTime(%s) = %d, %v, want %d, %v", seed, text, got, failed, TimeOf(want), err)
		}
	}
	for year := range 10_000 {
		for _, day := range [][2]int{{1, 1}, {2, 28}, {2, 29}, {3, 1}, {12, 31}} {
			check(year, day[0], day[1], 0, 0, 0, 0)
		}
		check(year, random.IntN(14), random.IntN(33), random.IntN(25), random.IntN(61), random.IntN(61), random.IntN(1e6))
	}
}
