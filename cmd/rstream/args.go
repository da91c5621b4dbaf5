package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// argCount requires from least to most arguments, which the error calls want.
func argCount(least, most int, want string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > most {
			return usagef("want %s, got %d arguments", want, len(args))
		}
		if len(args) < least {
			return usagef("want %s", want)
		}
		if slices.Contains(args, "") { // of a shell variable that is not set
			return usagef("want %s, got an empty argument", want)
		}
		return nil
	}
}

// newFileName requires one argument, the name of a file that SQLite is to write.
func newFileName(cmd *cobra.Command, args []string) error {
	if err := argCount(1, 1, "one FILE to write")(cmd, args); err != nil {
		return err
	}
	if args[0] == "-" {
		return usagef("want the name of a FILE: %s cannot write to standard output", cmd.Name())
	}
	return nil
}

// distinct returns names without those that were there before: each is dealt with once.
func distinct[T comparable](names []T) (once []T) {
	for _, name := range names {
		if !slices.Contains(once, name) {
			once = append(once, name)
		}
	}
	return once
}

// noArgs refuses arguments.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no argument, got %q", cmd.Name(), args[0])
	}
	return nil
}

// oneStorage requires one argument, a storage.
func oneStorage(_ *cobra.Command, args []string) error {
	switch len(args) {
	case 0:
		return usagef("want a storage such as alice/posts/1")
	case 1:
		return nil
	}
	return usagef("want one storage, not also %q", args[1])
}

// knownCommand rejects an unknown command and suggests a similar one.
func knownCommand(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("%q is not a command", args[0])
	if like := similarCommands(root, args[0]); len(like) > 0 {
		text += "; did you mean " + strings.Join(like, " or ") + "?"
	}
	return usagef("%s", text)
}

// similarCommands returns the commands for which name is a synonym or, if there is none, those
// with a similar name.
func similarCommands(root *cobra.Command, name string) (names []string) {
	for _, c := range root.Commands() {
		if slices.Contains(c.SuggestFor, strings.ToLower(name)) {
			names = append(names, c.Name())
		}
	}
	if names != nil {
		return names
	}
	root.SuggestionsMinimumDistance = 2
	return root.SuggestionsFor(name)
}

// flagError rewrites an error about a flag without the wording of strconv.
func flagError(cmd *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		var unknown *pflag.NotExistError
		if errors.As(err, &unknown) {
			err = suggestFlags(cmd, unknown)
		}
		return &usageError{err}
	}
	err = fmt.Errorf("--%s %q: %w", invalid.GetFlag().Name, invalid.GetValue(), plainCause(invalid))
	if invalid.GetFlag().Name == "output" && cmd.Flags().Lookup("to") != nil {
		return usagef("%w; to write to a file, use --to", err)
	}
	return &usageError{err}
}

// suggestFlags adds the flags that may be meant to the error of an unknown one: those with a
// similar name, or what other programs call by it.
func suggestFlags(cmd *cobra.Command, unknown *pflag.NotExistError) error {
	name := unknown.GetSpecifiedName()
	like := synonymsOf(cmd, name)
	if len(like) == 0 && unknown.GetSpecifiedShortnames() == "" {
		like = similarFlags(cmd, name)
	}
	switch {
	case cmd.Name() == "tail" && (name == "f" || name == "follow"):
		return fmt.Errorf("%w; tail always follows, unless --until, --until-live or --count ends it", unknown)
	case len(like) == 0 || len(like) > 3:
		return unknown
	}
	return fmt.Errorf("%w; did you mean --%s?", unknown, strings.Join(like, " or --"))
}

func similarFlags(cmd *cobra.Command, name string) []string {
	names := &cobra.Command{SuggestionsMinimumDistance: 2} // cobra compares names of commands
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names.AddCommand(&cobra.Command{Use: f.Name, Run: func(*cobra.Command, []string) {}})
		}
	})
	return slices.DeleteFunc(names.SuggestionsFor(name), func(like string) bool {
		return len(name) <= 3 && !strings.HasPrefix(like, name) // nearly all short names are similar
	})
}

// flagSynonyms are the flags that other programs call by a name or a letter, with a value if the
// name implies one.
var flagSynonyms = map[string][]string{
	"f":       {"follow"},
	"n":       {"lines", "count"},
	"limit":   {"lines", "count"},
	"max":     {"lines", "count"},
	"r":       {"raw"},
	"p":       {"listen"},
	"port":    {"listen"},
	"addr":    {"listen"},
	"address": {"listen"},
	"bind":    {"listen"},
	"from":    {"since"},
	"after":   {"since"},
	"start":   {"since"},
	"before":  {"until"},
	"end":     {"until"},
	"json":    {"output json"},
	"format":  {"output"},
	"url":     {"server"},
	"host":    {"server"},
}

// synonymsOf returns those that a command has.
func synonymsOf(cmd *cobra.Command, name string) (has []string) {
	for _, flag := range flagSynonyms[name] {
		if name, _, _ := strings.Cut(flag, " "); cmd.Flags().Lookup(name) != nil {
			has = append(has, flag)
		}
	}
	return has
}

func plainCause(invalid *pflag.InvalidValueError) error {
	cause := errors.Unwrap(invalid)
	switch invalid.GetFlag().Value.Type() {
	case "int":
		return errors.New("want a whole number")
	case "bool":
		return errors.New("want true or false")
	case "duration":
		return errors.New("want a duration such as 15s")
	}
	var number *strconv.NumError
	if errors.As(cause, &number) {
		return number.Err
	}
	return cause
}

// numbersLast lets the value of put be a negative number: it moves arguments such as -5
// to the end, after a --, because they would be parsed as flags.
func numbersLast(root *cobra.Command, args []string) []string {
	cmd, _, err := root.Find(args)
	if err != nil || cmd.Name() != "put" {
		return args
	}
	cmd.InheritedFlags() // merges them into Flags
	var front, numbers []string
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "--":
			return append(append(append(front, "--"), numbers...), args[i+1:]...)
		case isNegative(arg):
			numbers = append(numbers, arg)
		case i+1 < len(args) && wantsNext(cmd.Flags(), arg):
			front = append(front, arg, args[i+1])
			i++
		default:
			front = append(front, arg)
		}
	}
	if len(numbers) == 0 {
		return args
	}
	return append(append(front, "--"), numbers...)
}

func isNegative(arg string) bool {
	return len(arg) > 1 && arg[0] == '-' && '0' <= arg[1] && arg[1] <= '9'
}

// wantsNext reports whether arg is a flag whose value is the next argument.
func wantsNext(flags *pflag.FlagSet, arg string) bool {
	if name, long := strings.CutPrefix(arg, "--"); long {
		f := flags.Lookup(name)
		return f != nil && f.NoOptDefVal == ""
	}
	if !strings.HasPrefix(arg, "-") {
		return false
	}
	for i := 1; i < len(arg); i++ {
		f := flags.ShorthandLookup(arg[i : i+1])
		if f == nil {
			return false
		}
		if f.NoOptDefVal == "" { // the rest of arg is its value
			return i == len(arg)-1
		}
	}
	return false
}
