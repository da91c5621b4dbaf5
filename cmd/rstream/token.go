package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/auth"
)

type tokenOptions struct {
	keys     string
	kid      string
	subject  string
	read     []string
	write    []string
	board    string
	age      string
	issuer   string
	audience []string
}

func newTokenCommand(a *app) *cobra.Command {
	var o tokenOptions
	cmd := &cobra.Command{
		Use:     "token [COMMAND]",
		GroupID: groupServe,
		Short:   "Create a token that may read and append to topics",
		Long: `Create a token for a server with --keys: its bearer may read the topics of --read and
append to those of --write, and nothing else, until it expires. With --board read it may
see who reads these topics.

The token is printed on standard output, and its rights on standard error. Anyone
who has it may use it: hand it over in a safe way, and keep it in a file that only its
owner can read. Clients take it from --token-file or from RSTREAM_TOKEN.`,
		Example: `  rstream token --key keys.json --sub bob --read alice --write alice/inbox
  rstream token --key keys.json --sub backup --read '*' --for 1d > token
  rstream sync alice --token-file token`,
		Args:                  knownCommand,
		DisableFlagsInUseLine: true,
		RunE:                  func(*cobra.Command, []string) error { return runToken(a, o) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.keys, "key", "", "sign with the last private key in `FILE`")
	f.StringVar(&o.kid, "kid", "", "sign with the key that has this `ID` instead")
	f.StringVar(&o.subject, "sub", "", "`NAME` of the bearer, for logs")
	f.StringArrayVar(&o.read, "read", nil, "allow reading of `TOPIC`; repeat for more")
	f.StringArrayVar(&o.write, "write", nil, "allow appending to `TOPIC`; repeat for more")
	f.StringVar(&o.board, "board", "", "`RIGHT` to the board: read to see who reads these topics")
	f.StringVar(&o.age, "for", "30d", "the token expires after `AGE`")
	f.StringVar(&o.issuer, "issuer", "", "`NAME` of the issuer, if the server asks for one")
	f.StringArrayVar(&o.audience, "audience", nil, "`NAME` of the audience, if the server asks for one")
	for _, name := range []string{"key", "sub", "read", "write", "board", "for", "issuer", "audience"} {
		forLineOnly(f, name)
	}
	cmd.AddCommand(newTokenShowCommand(a))
	return cmd
}

func runToken(a *app, o tokenOptions) error {
	if o.keys == "" {
		return usagef("--key: name a private key; \"rstream key new FILE\" makes one")
	}
	if o.subject == "" {
		return usagef("--sub: name the bearer of the token")
	}
	if len(o.read)+len(o.write) == 0 && o.board == "" {
		return usagef("want --read TOPIC, --write TOPIC or --board RIGHT")
	}
	age, err := event.ParseAge(o.age)
	if err != nil || age < time.Second {
		return usagef("--for %q: want an age such as 30d or 12h", o.age)
	}
	read, err := parseGrants("--read", o.read)
	if err != nil {
		return err
	}
	write, err := parseGrants("--write", o.write)
	if err != nil {
		return err
	}
	board := auth.NoBoard
	if o.board != "" {
		if board, err = auth.ParseBoardRight(o.board); err != nil {
			return usagef("--board: %w", err)
		}
	}
	keys, err := readKeys(o.keys)
	if err != nil {
		return err
	}
	a.warnIfExposed(o.keys)
	key, err := signingKey(o.keys, keys, o.kid)
	if err != nil {
		return err
	}
	claims := auth.NewClaims(o.subject, auth.Rights{Read: read, Write: write, Board: board}, time.Now(), age)
	claims.Issuer, claims.Audience = o.issuer, o.audience
	token, err := key.Sign(claims)
	if err != nil {
		return err
	}
	if len(token) > auth.MaxToken {
		return usagef("the token would be longer than %d bytes; grant fewer or wider topics", auth.MaxToken)
	}
	if err := a.out.printf("%s\n", token); err != nil {
		return err
	}
	if err := a.out.flush(); err != nil {
		return err
	}
	a.note("%s", describeClaims(claims))
	return nil
}

func parseGrants(flag string, args []string) ([]event.Topic, error) {
	var topics []event.Topic
	for _, arg := range args {
		t, err := event.ParseTopic(arg)
		if err != nil {
			return nil, usagef("%s: %w", flag, err)
		}
		topics = append(topics, t)
	}
	return topics, nil
}

// signingKey returns the key named kid or, if it is empty, the last one that signs.
func signingKey(path string, keys []auth.Key, kid string) (*auth.Key, error) {
	for i := range slices.Backward(keys) {
		k := &keys[i]
		if kid != "" && k.ID != kid {
			continue
		}
		if k.CanSign() {
			return k, nil
		}
		if kid != "" {
			return nil, fmt.Errorf("%s: key %s has no private part", path, kid)
		}
	}
	if kid != "" {
		return nil, fmt.Errorf("%s: has no key %s; \"rstream key list %s\" lists its keys", path, kid, shellWord(path))
	}
	return nil, fmt.Errorf("%s: has no private key; \"rstream key new %s\" adds one", path, shellWord(path))
}

// describeClaims says in one line what a token allows.
func describeClaims(c *auth.Claims) string {
	parts := []string{"for " + visible(c.Subject)}
	rights := c.Rights
	if rights == nil {
		rights = &auth.Rights{}
	}
	for _, list := range []struct {
		verb   string
		topics []event.Topic
	}{{"reads", rights.Read}, {"appends to", rights.Write}} {
		if len(list.topics) > 0 {
			parts = append(parts, list.verb+" "+strings.Join(topicNames(list.topics), ", "))
		}
	}
	switch rights.Board {
	case auth.BoardRead:
		parts = append(parts, "reads the board")
	case auth.BoardWrite:
		parts = append(parts, "reports to the board")
	}
	if c.ExpiresAt != nil {
		parts = append(parts, "expires "+c.ExpiresAt.Local().Format("2006-01-02 15:04:05"))
	}
	return strings.Join(append(parts, "jti "+visible(c.ID)), "; ")
}

func topicNames(topics []event.Topic) []string {
	names := make([]string, len(topics))
	for i, t := range topics {
		names[i] = visible(t.String())
	}
	return names
}

func newTokenShowCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show [FILE]",
		Short: "Print what a token says",
		Long: `Print what the token in FILE, or else on standard input, says. It is not verified: only a
server decides whether it is valid. The token itself is not printed.`,
		Example: `  rstream token show token
  rstream token show < token`,
		Args: argCount(0, 1, "at most one FILE"),
		RunE: func(_ *cobra.Command, args []string) error { return runTokenShow(a, args) },
	}
}

type tokenLine struct {
	Type      string          `json:"type"`
	Subject   string          `json:"sub"`
	ID        string          `json:"jti,omitempty"`
	KeyID     string          `json:"kid,omitempty"`
	Algorithm string          `json:"alg"`
	Issuer    string          `json:"iss,omitempty"`
	Audience  []string        `json:"aud,omitempty"`
	Read      []event.Topic   `json:"read"`
	Write     []event.Topic   `json:"write"`
	Board     auth.BoardRight `json:"board,omitempty"`
	Issued    *event.Time     `json:"issued,omitempty"`
	Expires   *event.Time     `json:"expires,omitempty"`
	Expired   bool            `json:"expired"`
}

func runTokenShow(a *app, args []string) error {
	token, err := readTokenInput(a, args)
	if err != nil {
		return err
	}
	header, claims, err := auth.ReadToken(token)
	if err != nil {
		return err
	}
	l := tokenLine{Type: "token", Subject: claims.Subject, ID: claims.ID, KeyID: header.KeyID, Algorithm: header.Algorithm,
		Issuer: claims.Issuer, Audience: claims.Audience, Read: []event.Topic{}, Write: []event.Topic{}}
	if claims.Rights != nil {
		l.Read, l.Write = append(l.Read, claims.Rights.Read...), append(l.Write, claims.Rights.Write...)
		l.Board = claims.Rights.Board
	}
	if claims.IssuedAt != nil {
		t := event.TimeOf(claims.IssuedAt.Time)
		l.Issued = &t
	}
	if claims.ExpiresAt != nil {
		t := event.TimeOf(claims.ExpiresAt.Time)
		l.Expires, l.Expired = &t, !claims.ExpiresAt.After(time.Now())
	}
	if !a.out.isForPerson() {
		return a.out.writeJSON(l)
	}
	text := describeClaims(claims)
	if l.Expired {
		text += "; has expired"
	}
	return a.out.printf("%s\n", text)
}

// maxTokenFile is the greatest size of a file with a token.
const maxTokenFile = 2 * auth.MaxToken

func readTokenInput(a *app, args []string) (string, error) {
	in := a.in
	if len(args) == 1 && args[0] != "-" {
		f, err := os.Open(args[0])
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxTokenFile))
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", errors.New("the input is empty; want a token")
	}
	return token, nil
}
