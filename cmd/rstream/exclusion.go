package main

import (
	"slices"

	"github.com/spf13/cobra"
)

// excludes annotates a flag with the flags and arguments that it cannot be combined
// with.
const excludes = "excludes"

// excludeFlags records that a flag of cmd cannot be combined with others. A name in capitals
// is an argument; see argumentNames.
func excludeFlags(cmd *cobra.Command, flag string, others ...string) {
	if f := cmd.Flags().Lookup(flag); f != nil {
		_ = cmd.Flags().SetAnnotation(flag, excludes, append(f.Annotations[excludes], others...))
	}
}

// argumentNames maps an argument that flags exclude to its position, counted from 1.
var argumentNames = map[string]int{"TOPIC": 1, "STORAGE": 1, "COMMAND": 1, "NUMBER": 1, "VALUE": 2}

// isExcluded reports whether a flag cannot be combined with one of others or with args.
func isExcluded(cmd *cobra.Command, flag string, others, args []string) bool {
	return excludedBy(cmd, flag, others, args) != ""
}

// excludedBy returns the flag or argument that flag cannot be combined with, "" if
// there is none.
func excludedBy(cmd *cobra.Command, flag string, others, args []string) string {
	f := cmd.Flags().Lookup(flag)
	for _, name := range f.Annotations[excludes] {
		if n, isArg := argumentNames[name]; isArg && len(args) >= n {
			return name
		}
	}
	for _, other := range others {
		o := cmd.Flags().Lookup(other)
		if slices.Contains(f.Annotations[excludes], other) || slices.Contains(o.Annotations[excludes], flag) {
			return other
		}
	}
	return ""
}

// checkCombined rejects flags that cannot be combined.
func (s *settings) checkCombined(cmd *cobra.Command, args []string) error {
	names := givenFlags(cmd.Flags())
	for _, name := range names {
		if other := excludedBy(cmd, name, names, args); other != "" {
			return usagef("%s and %s cannot be combined", s.nameOf(cmd, name), s.nameOf(cmd, other))
		}
	}
	return nil
}

// nameOf describes an argument, or a flag and where its value comes from.
func (s *settings) nameOf(cmd *cobra.Command, name string) string {
	f := cmd.Flags().Lookup(name)
	if f == nil {
		return name
	}
	text := "--" + name
	if f.Shorthand != "" {
		text = "-" + f.Shorthand
	}
	if from := s.sourceOf(name); from != "" {
		text += " (" + from + ")"
	}
	return text
}
