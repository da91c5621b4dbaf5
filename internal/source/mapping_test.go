package source

import (
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

func mapOne(t *testing.T, m Mapping, f Frame) (event.Draft, bool, error) {
	t.Helper()
	mapper, err := NewMapper("src", m)
	if err != nil {
		t.Fatal(err)
	}
	return mapper.Map(t.Context(), &f, 0)
}

func TestMap(t *testing.T) {
	const page = `{"a":{"b":"x/y"},"n":12345678901234567890,"f":1.50,"no":false}`
	for _, tt := range []struct {
		name    string
		mapping Mapping
		frame   Frame
		want    string // "" if it is left out
	}{
		{"no expression", Mapping{}, Frame{ID: "7", Data: []byte(`{"b": 1, "a": [ 1.50 ]}`)},
			`{"user":"src","path":"message","type":"PUT","key":"0/7/0","value":{"b":1,"a":[1.50]}}`},
		{"a type and an ordinal", Mapping{}, Frame{ID: "7", Ordinal: 2, Type: "up/date", Data: []byte("1")},
			`{"user":"src","path":"up/date","type":"PUT","key":"0/7/2","value":1}`},
		{"data that is not JSON", Mapping{}, Frame{ID: "7", Data: []byte("a\n\"b\xff<")},
			`{"user":"src","path":"message","type":"PUT","key":"0/7/0","value":"a\n\"b\ufffd<"}`},
		{"half a pair, which jq cannot read", Mapping{}, Frame{ID: "7", Data: []byte(`{"a":"\ud800"}`)},
			`{"user":"src","path":"message","type":"PUT","key":"0/7/0","value":"{\"a\":\"\\ud800\"}"}`},
		{"a type that turns text", Mapping{}, Frame{ID: "7", Type: "a\u202eb", Data: []byte("1")},
			`{"user":"src","path":"a%E2%80%AEb","type":"PUT","key":"0/7/0","value":1}`},
		{"expressions", Mapping{User: ".a.b", Path: `"p/" + $id + $type`, Key: ".n", Value: "{n, f}", Where: ".a"}, Frame{ID: "7", Type: "t", Data: []byte(page)},
			`{"user":"x%2Fy","path":"p/7t","type":"PUT","key":"12345678901234567890","value":{"f":1.50,"n":12345678901234567890}}`},
		{"a topic", Mapping{User: ".a.b", Into: "*/message"}, Frame{ID: "7", Data: []byte(`{"a":{"b":"x"}}`)},
			`{"user":"x","path":"message","type":"PUT","key":"0/7/0","value":{"a":{"b":"x"}}}`},
		{"left out", Mapping{Where: ".no"}, Frame{Data: []byte(page)}, ""},
		{"left out by null", Mapping{Where: ".nothing"}, Frame{Data: []byte(page)}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, taken, err := mapOne(t, tt.mapping, tt.frame)
			if err != nil || taken != (tt.want != "") {
				t.Fatalf("Map = %+v, %v, %v", d, taken, err)
			}
			if got := string(d.AppendJSON(nil)); taken && got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// A key that cannot be one, or is too long, is hashed.
func TestMapHashesKeys(t *testing.T) {
	for _, f := range []Frame{{ID: strings.Repeat("x", 300)}, {ID: "\xff"}, {ID: "a\u202eb"}} {
		f.Data = []byte("1")
		d, taken, err := mapOne(t, Mapping{}, f)
		if again, _, _ := mapOne(t, Mapping{}, f); err != nil || !taken || d.Key != again.Key || len(d.Key) != len("sha256:")+64 {
			t.Errorf("key of the id %q: %q, %q, %v", f.ID, d.Key, again.Key, err)
		}
	}
}

// Without an id, two events that are equal are two.
func TestMapWithoutID(t *testing.T) {
	one, _, _ := mapOne(t, Mapping{}, Frame{Data: []byte("1")})
	two, _, _ := mapOne(t, Mapping{}, Frame{Data: []byte("1")})
	if one.Key == two.Key || one.Key == "" {
		t.Errorf("keys %q, %q", one.Key, two.Key)
	}
}

func TestMapRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		mapping Mapping
		data    string
	}{
		"a user with a dot":     {Mapping{User: `".sources"`}, "1"},
		"no user":               {Mapping{User: `""`}, "1"},
		"a user that is null":   {Mapping{User: ".x"}, "{}"},
		"a path that is a list": {Mapping{Path: ".x"}, `{"x":[]}`},
		"another topic":         {Mapping{User: ".x", Into: "alice"}, `{"x":"bob"}`},
		"an error":              {Mapping{Value: `error("no")`}, "1"},
		"a type error":          {Mapping{User: ".a.b"}, `{"a":1}`},
		"no value":              {Mapping{Value: "empty"}, "1"},
		"two values":            {Mapping{Value: "1, 2"}, "1"},
		"not a number":          {Mapping{Path: "nan"}, "1"},
		"a long user":           {Mapping{User: `"x" * 1000`}, "1"},
		"half a pair":           {Mapping{Key: ".k"}, `{"k":"\ud800"}`},
	} {
		if d, taken, err := mapOne(t, tt.mapping, Frame{Data: []byte(tt.data)}); err == nil || taken {
			t.Errorf("%s: %+v, %v, %v", name, d, taken, err)
		}
	}
}

// A value may be 1 MiB, which is what a log takes from others, too: data may grow when it becomes JSON,
// and an expression may make more of it than there is.
func TestMapLimitsValues(t *testing.T) {
	longest := strings.Repeat("x", wire.MaxValue-len(`""`))
	for name, tt := range map[string]struct {
		mapping Mapping
		data    string
		taken   bool
	}{
		"the longest value":             {Mapping{}, longest, true},
		"a longer one":                  {Mapping{}, longest + "x", false},
		"control characters":            {Mapping{}, strings.Repeat("\x01", 200<<10), false},
		"fewer control characters":      {Mapping{}, strings.Repeat("\x01", 170<<10), true}, // six bytes each
		"data that is not UTF-8":        {Mapping{}, strings.Repeat("\xff", 200<<10), false},
		"an expression that makes more": {Mapping{Value: `"xxxxxxxxxxxxxxxx" * 100000`}, "1", false},
	} {
		d, taken, err := mapOne(t, tt.mapping, Frame{ID: "1", Data: []byte(tt.data)})
		if taken != tt.taken || (err == nil) != tt.taken {
			t.Errorf("%s: a value of %d bytes, %v, %.200v", name, len(d.Value), taken, err)
		}
	}
}

// An expression sees the event and nothing else.
func TestExpressionsArePure(t *testing.T) {
	for _, text := range []string{"now", ".a | now", "{a: now}", "[.[] | localtime]", "env", "$ENV.HOME", "env.HOME", "input", "[inputs]", "debug",
		`"\(now)"`, "def f: now; f", "if now then 1 else 2 end", "reduce .[] as $x (now; .)", "input_filename", "halt", `import "a" as a; .`, ".[now:]",
		"try now catch 1", ". as [$a, {b: $c}] | now", "-now", "$__prog_args"} {
		if m, err := NewMapper("x", Mapping{Value: text}); err == nil {
			t.Errorf("%s: %v was taken", text, m)
		}
	}
	for _, text := range []string{".now", "{now: 1}", `"now"`, "$id", "$type", "(.time | todate)"} {
		if _, err := NewMapper("x", Mapping{Value: text}); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}
