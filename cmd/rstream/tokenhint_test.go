package main

import (
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/auth"
)

// The hint at 401 and 403 fits the token that was sent, and does not have it.
func TestHintOfToken(t *testing.T) {
	key, err := auth.NewKey(auth.EdDSA)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	sign := func(read, write []string, ends time.Duration) string {
		var rights auth.Rights
		for to, names := range map[*[]event.Topic][]string{&rights.Read: read, &rights.Write: write} {
			for _, name := range names {
				topic, err := event.ParseTopic(name)
				if err != nil {
					t.Fatal(err)
				}
				*to = append(*to, topic)
			}
		}
		c := auth.NewClaims("bob", rights, now, time.Hour)
		if c.ExpiresAt = jwt.NewNumericDate(now.Add(ends)); ends == 0 {
			c.ExpiresAt = nil
		}
		token, err := key.Sign(c)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	narrow := sign([]string{"alice"}, []string{"alice/inbox"}, time.Hour)
	old := sign([]string{"alice"}, nil, -time.Hour)
	late := &client.StatusError{Status: 401, FromLog: true, Detail: "token has expired"}
	wrong := &client.StatusError{Status: 401, FromLog: true, Detail: "token was revoked"}
	barred := &client.StatusError{Status: 403, FromLog: true}
	for _, test := range []struct {
		token, from string
		err         error
		want        string
	}{
		{old, "bob.token", late, "the token in bob.token expired at " + now.Add(-time.Hour).Local().Format("2006-01-02 15:04:05") + ", 1h0m"},
		{narrow, tokenVariable, late, "the token in RSTREAM_TOKEN expires at " + now.Add(time.Hour).Local().Format("2006-01-02 15:04:05") + " by the clock of this machine"},
		{narrow, "bob.token", wrong, "but the server does not accept it; ask"},
		{sign(nil, nil, 0), "bob.token", wrong, "never expires"},
		{"", tokenVariable, wrong, unauthorizedHint},
		{"", "--header", wrong, "the Authorization of --header"},
		{"letmein", "--token-command", wrong, "the token of --token-command is not one"},
		{narrow, "bob.token", barred, "the token in bob.token reads alice and appends to alice/inbox; ask"},
		{sign(nil, nil, time.Hour), "bob.token", barred, "the token in bob.token allows nothing; ask"},
		{sign(strings.Split("abcdefg", ""), nil, time.Hour), "bob.token", barred, "reads a, b, c, d, e and 2 more; ask"},
		{"letmein", "bob.token", barred, forbiddenHint},
		{"", tokenVariable, barred, forbiddenHint},
		{narrow, "bob.token", &forbiddenError{barred}, "reads alice and appends"},
		{narrow, "bob.token", &client.StatusError{Status: 403}, "something in front of the server"},
	} {
		a := &app{}
		a.tokens.last.Store(&sentToken{test.token, test.from})
		if got := a.hintFor(nil, test.err); !strings.Contains(got, test.want) || test.token != "" && strings.Contains(got, test.token) {
			t.Errorf("with the token in %s, the hint for %v is %q, want %q", test.from, test.err, got, test.want)
		}
	}
	if got := (&app{}).hintFor(nil, late); got != unauthorizedHint {
		t.Errorf("before a token was looked for: %q", got)
	}
}
