//go:build unix

package main

import (
	"fmt"
	"os"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"github.com/rogpeppe/go-internal/testscript"
)

func init() {
	// mknats: write user.nkey and nkey.conf, a user of NATS with a seed and the part of the config
	// that knows it; and user.creds and jwt.conf, a user with a JWT and its operator.
	commands["mknats"] = cmdMakeNATSUsers
}

func cmdMakeNATSUsers(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 0, "mknats")
	pair := func(create func() (nkeys.KeyPair, error)) (key nkeys.KeyPair, public, seed string) {
		key, err := create()
		ts.Check(err)
		public, err = key.PublicKey()
		ts.Check(err)
		b, err := key.Seed()
		ts.Check(err)
		return key, public, string(b)
	}
	write := func(name, text string) { ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600)) }
	_, user, seed := pair(nkeys.CreateUser)
	write("user.nkey", seed)
	write("nkey.conf", fmt.Sprintf("authorization { users: [ { nkey: %s } ] }\n", user))

	operator, operatorKey, _ := pair(nkeys.CreateOperator)
	_, systemKey, _ := pair(nkeys.CreateAccount)
	account, accountKey, _ := pair(nkeys.CreateAccount)
	oc := jwt.NewOperatorClaims(operatorKey)
	oc.SystemAccount = systemKey
	operatorToken, err := oc.Encode(operator)
	ts.Check(err)
	systemToken, err := jwt.NewAccountClaims(systemKey).Encode(operator)
	ts.Check(err)
	ac := jwt.NewAccountClaims(accountKey)
	ac.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	accountToken, err := ac.Encode(operator)
	ts.Check(err)
	userToken, err := jwt.NewUserClaims(user).Encode(account)
	ts.Check(err)
	file, err := jwt.FormatUserConfig(userToken, []byte(seed))
	ts.Check(err)
	write("user.creds", string(file))
	write("jwt.conf", fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: { %s: %s, %s: %s }\n",
		operatorToken, systemKey, systemKey, systemToken, accountKey, accountToken))
}
