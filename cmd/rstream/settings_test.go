package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rstream-dev/rstream/internal/longtest"
)

// configured runs a command line up to the start of its command and returns the flags
// that are set, each as "name=value".
func configured(t *testing.T, args ...string) (set []string, err error) {
	t.Helper()
	root := newRootCommand(testApp(t))
	cmd, _, err := root.Find(args)
	if err != nil {
		t.Fatal(err)
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cmd.Flags().Visit(func(f *pflag.Flag) { set = append(set, f.Name+"="+f.Value.String()) })
		return nil
	}
	root.SetArgs(args)
	err = root.Execute()
	return set, err
}

func testApp(t *testing.T) *app {
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	return &app{in: strings.NewReader(""), out: newOutput(t.Context(), out), err: out}
}

// alone hides the settings of the user who runs the test.
func alone(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "RSTREAM_") {
			t.Setenv(name, "")
		}
	}
}

// eachCommand calls fn with every runnable command and arguments that it accepts.
func eachCommand(t *testing.T, fn func(cmd *cobra.Command, line []string)) {
	t.Helper()
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, c := range cmd.Commands() {
			walk(c)
		}
		if !cmd.Runnable() {
			return
		}
		cmd.InheritedFlags() // merges them into Flags
		for _, args := range [][]string{nil, {"alice/x"}, {"alice/x", "1h"}} {
			if cmd.ValidateArgs(args) == nil {
				fn(cmd, append(strings.Fields(cmd.CommandPath())[1:], args...))
				return
			}
		}
		t.Errorf("%s: takes none of the arguments that were tried", cmd.CommandPath())
	}
	root := newRootCommand(testApp(t))
	root.RunE = nil // it accepts the names of commands
	for _, c := range root.Commands() {
		if c.Name() != "completion" {
			walk(c)
		}
	}
}

// TestEmptyValues gives each flag an empty value. The short form tries a flag that several
// commands share with one of them.
func TestEmptyValues(t *testing.T) {
	alone(t)
	tried, shared := 0, map[string]bool{}
	eachCommand(t, func(cmd *cobra.Command, line []string) {
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.NoOptDefVal != "" || f.Name == "text" {
				return
			}
			tried++
			same := f.Name + f.Value.Type() + f.Usage
			if shared[same] && !longtest.Enabled() {
				return
			}
			shared[same] = true
			set, err := configured(t, append(line, "--"+f.Name+"=")...)
			if !errors.As(err, new(*usageError)) || !strings.Contains(err.Error(), "--"+f.Name) {
				t.Errorf("%s --%s= is %v, %v; want a usage error that names the flag", line, f.Name, set, err)
			}
		})
	})
	if tried < 100 {
		t.Errorf("only %d flags were tried", tried)
	}
	set, err := configured(t, "put", "a/x", "--text=")
	if err != nil || !slices.Contains(set, "text=") {
		t.Errorf("put --text= is %v, %v; want an empty text", set, err)
	}
}

// A setting applies to every command that has the flag, so it must mean the same to
// all.
func TestSettingsMeanOneThing(t *testing.T) {
	types := map[string]string{}
	eachCommand(t, func(cmd *cobra.Command, _ []string) {
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if isOwnFlag(f) {
				return
			}
			typ := f.Value.Type()
			if before, ok := types[f.Name]; ok && before != typ {
				t.Errorf("--%s is of type %s in %s and of type %s elsewhere", f.Name, typ, cmd.CommandPath(), before)
			}
			types[f.Name] = typ
		})
	})
}

// valueOf returns a value that a flag accepts.
func valueOf(f *pflag.Flag) string {
	switch f.Value.Type() {
	case "bool":
		return "true"
	case "moment", "age", "duration", "ttl":
		return "1h"
	}
	return "1"
}

func TestExcludedFlags(t *testing.T) {
	alone(t)
	tried := 0
	eachCommand(t, func(cmd *cobra.Command, line []string) {
		path := strings.Fields(cmd.CommandPath())[1:]
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			for _, other := range f.Annotations[excludes] {
				o := cmd.Flags().Lookup(other)
				if o == nil {
					if argumentNames[other] == 0 {
						t.Errorf("%s: --%s excludes %s, which is neither a flag nor an argument", path, f.Name, other)
					}
					continue
				}
				tried++
				checkPair(t, slices.Clone(path), f, o)
				checkPair(t, slices.Clone(path), o, f)
			}
		})
	})
	if tried < 10 {
		t.Errorf("only %d pairs were tried", tried)
	}
}

// checkPair checks two flags that cannot be combined.
func checkPair(t *testing.T, path []string, f, other *pflag.Flag) {
	near, far := "--"+f.Name+"="+valueOf(f), "--"+other.Name+"="+valueOf(other)
	if len(path) == 1 && slices.Contains([]string{"get", "del", "put"}, path[0]) && f.Name != "from" && other.Name != "from" {
		path = append(path, "alice/x")
	}
	set, err := configured(t, append(slices.Clone(path), near, far)...)
	if err == nil || !strings.Contains(err.Error(), "cannot be combined") {
		t.Errorf("%s %s %s is %v, %v; want a usage error", path, near, far, set, err)
	}
	if isOwnFlag(other) {
		return
	}
	t.Setenv(envName(other.Name), valueOf(other))
	defer t.Setenv(envName(other.Name), "")
	set, err = configured(t, append(slices.Clone(path), near)...)
	if err != nil || !slices.Contains(set, f.Name+"="+f.Value.String()) && len(set) != 1 {
		t.Errorf("%s=%s, %s %s is %v, %v; want the command line alone", envName(other.Name), valueOf(other), path, near, set, err)
	}
	if isOwnFlag(f) {
		return
	}
	t.Setenv(envName(f.Name), valueOf(f))
	defer t.Setenv(envName(f.Name), "")
	set, err = configured(t, path...)
	if err == nil || !strings.Contains(err.Error(), envName(f.Name)) || !strings.Contains(err.Error(), envName(other.Name)) {
		t.Errorf("%s and %s, %s: %v, %v; want an error that names both", envName(f.Name), envName(other.Name), path, set, err)
	}
}

func TestConfigFile(t *testing.T) {
	alone(t)
	for _, c := range []struct {
		name, text string
		env        string // RSTREAM_NAME=value
		args       string
		want       string // the flags that are set, or
		refused    string // the text of the error
	}{
		{name: "a number with a zero", text: "key: 0123", want: "key=0123"},
		{name: "an octal number", text: "key: 0o17", want: "key=0o17"},
		{name: "a time", text: "key: 14:05", want: "key=14:05"},
		{name: "a date", text: "key: 2026-11-20", want: "key=2026-11-20"},
		{name: "the zeros of an id", text: "key: 0000000000000", want: "key=0000000000000"},
		{name: "an exponent", text: "key: 1e3", want: "key=1e3"},
		{name: "a word for false", text: "key: no", want: "key=no"},
		{name: "underscores", text: "key: 1_000", want: "key=1_000"},
		{name: "a word for infinity", text: "key: .inf", want: "key=.inf"},
		{name: "quotes", text: `key: "0x1F"`, want: "key=0x1F"},
		{name: "a quoted null", text: `key: "null"`, want: "key=null"},
		{name: "an alias", text: "key: &k 007\ncache: *k", want: "cache=007 key=007"},
		{name: "another case", text: "Key: a", refused: `config.yaml: line 1: unknown setting "Key"`},
		{name: "a mark at the beginning", text: "\ufeffkey: a", want: "key=a"},
		{name: "CRLF", text: "key: a\r\ncache: b\r\n", want: "cache=b key=a"},
		{name: "comments alone", text: "# nothing\n", want: ""},
		{name: "nothing", text: "", want: ""},
		{name: "a server's name", text: "server: 0123\nservers: [{name: 0123, url: http://a}]", want: "server=[http://a]"},
		{name: "one server with a space", text: "server: two words\nservers: [{name: two words, url: http://a}]", want: "server=[http://a]"},
		{name: "several servers", text: "server: [http://a, http://b]", want: "server=[http://a,http://b]"},
		{name: "an empty value", text: "key:", refused: "config.yaml: line 1: must not be empty"},
		{name: "an empty string", text: `key: ""`, refused: "config.yaml: line 1: must not be empty"},
		{name: "null", text: "key: null", refused: "line 1: null means no value in YAML"},
		{name: "a doubled key", text: "key: a\nkey: b", refused: `line 2: "key" is already set in line 1`},
		{name: "a doubled key in servers", text: "servers:\n  - name: a\n    name: b", refused: `line 3: "name" is already set in line 2`},
		{name: "a doubled server", text: "servers:\n  - name: a\n  - name: a", refused: `"a" is named twice`},
		{name: "a second document", text: "key: a\n---\nkey: b", refused: "second document"},
		{name: "an empty second document", text: "key: a\n---\n", refused: "second document"},
		{name: "a list", text: "- key", refused: `line 1: want lines such as "name: value"`},
		{name: "a list for one value", text: "key: [a, b]", refused: "config.yaml:1: --key: want one value, not a list of 2"},
		{name: "a mapping for a value", text: "key: {a: b}", refused: "line 1: want a value or a list of values"},
		{name: "a merge", text: "<<: {key: a}", refused: `unknown setting "<<"`},
		{name: "a setting of another command", text: "db: x.db\nkey: a", want: "key=a"},
		{name: "a flag of the command line alone", text: "lines: 5\nkey: a", want: "key=a"},
		{name: "a bad value", text: "\nquiet: perhaps", refused: `config.yaml:2: --quiet "perhaps": want true or false`},
		{name: "the environment wins", text: "key: a", env: "RSTREAM_KEY=b", want: "key=b"},
		{name: "the command line wins", text: "key: a", env: "RSTREAM_KEY=b", args: "--key=c", want: "key=c"},
		{name: "an empty variable is not set", text: "key: a", env: "RSTREAM_KEY=", want: "key=a"},
		{name: "the environment excludes", text: "offline: true", env: "RSTREAM_QUEUE=true", want: "queue=true"},
		{name: "a switch that is off excludes nothing", text: "offline: true", args: "--queue=false", want: "offline=true queue=false"},
		{name: "both in the file", text: "offline: true\nqueue: true", refused: "config.yaml:1) and --queue ("},
		{name: "an argument excludes", text: "text: b\nkey: a", args: "1", want: "key=a"},
		{name: "a server that has no name", text: "server: nowhere", refused: `config.yaml:1: server "nowhere": is neither a URL`},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if name, value, ok := strings.Cut(c.env, "="); ok {
				t.Setenv(name, value)
			}
			set, err := configured(t, append([]string{"put", "a/x", "--config", path}, strings.Fields(c.args)...)...)
			set = slices.DeleteFunc(set, func(s string) bool { return strings.HasPrefix(s, "config=") })
			slices.Sort(set)
			switch got := strings.Join(set, " "); {
			case c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)):
				t.Errorf("is %q, %v; want an error with %q", got, err, c.refused)
			case c.refused == "" && (err != nil || got != c.want):
				t.Errorf("is %q, %v; want %q", got, err, c.want)
			}
		})
	}
}
