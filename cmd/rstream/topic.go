package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/event"
)

// topicFlags are the flags of commands that take topics.
type topicFlags struct {
	all, exact bool
}

func (f *topicFlags) addTopicFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.all, "all", false, "all topics, as *")
	cmd.Flags().BoolVar(&f.exact, "exact", false, "match only the paths themselves, not paths below them")
	excludeFlags(cmd, "all", "TOPIC")
}

// parseTopicArgs parses arguments as topics.
func (f *topicFlags) parseTopicArgs(args []string) ([]event.Topic, error) {
	if f.all {
		return []event.Topic{event.All}, nil
	}
	var topics []event.Topic
	for _, arg := range args {
		t, err := event.ParseTopic(arg)
		if f.exact && err == nil {
			t, err = exactTopic(t, arg)
		}
		if err != nil {
			return nil, &usageError{err}
		}
		if !slices.Contains(topics, t) {
			topics = append(topics, t)
		}
	}
	return topics, nil
}

// exactTopic returns the topic of one storage, which t names with or without a $.
func exactTopic(t event.Topic, arg string) (event.Topic, error) {
	if t.Kind() == event.Exact {
		return t, nil
	}
	exact, err := event.ParseTopic(arg + "$")
	if err != nil {
		err = fmt.Errorf("--exact: want a storage such as alice/posts/1, not %q", arg)
	}
	return exact, err
}

// needTopics is parseTopicArgs for commands that require a topic.
func (f *topicFlags) needTopics(args []string) ([]event.Topic, error) {
	topics, err := f.parseTopicArgs(args)
	if err == nil && len(topics) == 0 {
		err = errNoTopic
	}
	return topics, err
}

var errNoTopic = &usageError{errors.New("want a topic such as alice/posts, or --all")}

func topicList(topics []event.Topic) (s string) {
	for i, t := range topics {
		if i > 0 {
			s += ", "
		}
		s += t.String()
	}
	return s
}

// shellTopics formats topics as arguments for a shell.
func shellTopics(topics []event.Topic) (s string) {
	for i, t := range topics {
		if i > 0 {
			s += " "
		}
		s += shellWord(t.String())
	}
	return s
}
