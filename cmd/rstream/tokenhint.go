package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/auth"
)

// The hints for a request that a log refuses, if nothing is known of its token.
const (
	unauthorizedHint = "name a file with a token in --token-file, or set RSTREAM_TOKEN"
	strangerHint     = "name the server with --server, which then gets RSTREAM_TOKEN; or name a file with a token in --token-file"
	forbiddenHint    = "ask the server's operator for a token that covers the topic"
)

// hintFor is hintFor with the token in mind that was sent last.
func (a *app) hintFor(cmd *cobra.Command, err error) string {
	hint := hintFor(cmd, err)
	sent := a.tokens.last.Load()
	if sent == nil {
		return hint
	}
	switch {
	case hint == unauthorizedHint && a.stranger && sent.text == "" && sent.from != "--header":
		return strangerHint
	case hint == unauthorizedHint:
		return sent.hintOf401(err, time.Now())
	case hint == forbiddenHint:
		return sent.hintOf403()
	}
	return hint
}

// hintOf401 says why a server does not accept the token.
func (t *sentToken) hintOf401(err error, now time.Time) string {
	const ask = "ask the server's operator for another one"
	if t.from == "--header" {
		return "the server does not accept the Authorization of --header"
	}
	if t.text == "" {
		return unauthorizedHint
	}
	_, claims, failed := auth.ReadToken(t.text)
	if failed != nil {
		return t.name() + " is not one that a server of rstream could accept; " + ask
	}
	if claims.ExpiresAt == nil {
		return t.name() + " never expires, and no server accepts that; " + ask
	}
	ends := claims.ExpiresAt.Time
	at := ends.Local().Format("2006-01-02 15:04:05")
	var status *client.StatusError
	switch {
	case !ends.After(now):
		return fmt.Sprintf("%s expired at %s, %s ago; %s", t.name(), at, now.Sub(ends).Round(time.Second), ask)
	case errors.As(err, &status) && strings.Contains(status.Detail, "has expired"):
		return fmt.Sprintf("%s expires at %s by the clock of this machine; compare it with the server's", t.name(), at)
	}
	return fmt.Sprintf("%s expires at %s, but the server does not accept it; %s", t.name(), at, ask)
}

// hintOf403 says what the token covers.
func (t *sentToken) hintOf403() string {
	_, claims, err := auth.ReadToken(t.text)
	if err != nil || claims.Rights == nil {
		return forbiddenHint
	}
	var covers []string
	if len(claims.Rights.Read) > 0 {
		covers = append(covers, "reads "+topicsShort(claims.Rights.Read))
	}
	if len(claims.Rights.Write) > 0 {
		covers = append(covers, "appends to "+topicsShort(claims.Rights.Write))
	}
	if covers == nil {
		covers = append(covers, "allows nothing")
	}
	return t.name() + " " + strings.Join(covers, " and ") + "; ask the server's operator for one that covers the topic"
}

func (t *sentToken) name() string {
	if t.from == "--token-command" {
		return "the token of --token-command"
	}
	return "the token in " + visible(t.from)
}

// topicsShort names topics, at most five.
func topicsShort(topics []event.Topic) string {
	const most = 5
	if n := len(topics) - most; n > 0 {
		return strings.Join(topicNames(topics[:most]), ", ") + fmt.Sprintf(" and %d more", n)
	}
	return strings.Join(topicNames(topics), ", ")
}
