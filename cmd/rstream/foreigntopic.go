package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/event"
)

// noteForeignTopics suggests the equivalent of topics with wildcards of NATS or MQTT.
// They are valid names, so they are not rejected.
func (a *app) noteForeignTopics(cmd *cobra.Command, args []string) {
	all, exact := cmd.Flags().Lookup("all"), cmd.Flags().Lookup("exact")
	if all == nil || exact == nil || exact.Changed || !slices.Contains(all.Annotations[excludes], "TOPIC") {
		return // takes no topics, or takes them literally
	}
	for _, arg := range args {
		if wildcard, meant := foreignTopic(arg); wildcard != "" {
			a.note("topic %s: %s matches only itself here; did you mean %s?", visible(arg), wildcard, shellWord(meant))
		}
	}
}

// foreignTopic returns the first wildcard of NATS or MQTT in a topic, and the
// equivalent topic. If there is none, wildcard is empty.
func foreignTopic(arg string) (wildcard, meant string) {
	separator := "."
	if strings.Contains(arg, "/") {
		separator = "/"
	}
	tokens := strings.Split(arg, separator)
	last := len(tokens) - 1
	n := slices.IndexFunc(tokens, func(s string) bool { return s == "+" || s == ">" || s == "#" })
	if n < 0 || tokens[n] != "+" && n != last {
		return "", ""
	}
	wildcard = tokens[n]
	if n == 0 && last > 0 { // any user
		tokens[0] = "*"
		n = slices.IndexFunc(tokens, func(s string) bool { return s == "+" || s == ">" || s == "#" })
	}
	if n > 1 && tokens[n] != "#" { // # also matches the topic above it
		tokens[n] = "" // everything below it
		n++
	}
	if n >= 0 {
		tokens = tokens[:n]
	}
	meant = strings.Join(tokens, "/")
	if t, err := event.ParseTopic(meant); err == nil {
		return wildcard, t.String()
	}
	return wildcard, "*"
}

// dottedTopic returns the equivalent of a topic written with dots instead of slashes,
// "" if there is none.
func dottedTopic(t event.Topic) string {
	text := t.String()
	if strings.Contains(text, "/") || !strings.Contains(text, ".") {
		return ""
	}
	meant, err := event.ParseTopic(strings.ReplaceAll(text, ".", "/"))
	if err != nil {
		return ""
	}
	return meant.String()
}
