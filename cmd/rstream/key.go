package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/internal/auth"
)

func newKeyCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "key COMMAND",
		GroupID: groupServe,
		Short:   "Create and list the keys that sign tokens",
		Long: `Create and list the keys that sign tokens for a server with --keys. A key file is a JWK
Set; anyone who can read one with private keys can sign tokens for every topic.`,
		Example: `  rstream key new keys.json
  rstream serve --keys keys.json
  rstream key public keys.json > public.json`,
		Args:                  knownCommand,
		DisableFlagsInUseLine: true,
		RunE:                  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newKeyNewCommand(a), newKeyListCommand(a), newKeyPublicCommand(a))
	return cmd
}

func newKeyNewCommand(a *app) *cobra.Command {
	algorithm := auth.EdDSA
	cmd := &cobra.Command{
		Use:   "new FILE",
		Short: "Add a new key to a file",
		Long: `Add a new key to FILE, which is created for you alone if it does not exist. "rstream
token" signs with the last key of a file, and servers accept tokens of all its keys. To
replace a key without an outage, add a new one, give out new tokens, and remove the old
one once its tokens have expired.`,
		Example: `  rstream key new keys.json
  rstream key new keys.json --alg HS256`,
		Args: argCount(1, 1, "one FILE"),
		RunE: func(_ *cobra.Command, args []string) error { return runKeyNew(a, args[0], algorithm) },
	}
	cmd.Flags().StringVar(&algorithm, "alg", algorithm, "`ALGORITHM` of the key: "+strings.Join(auth.Algorithms, ", "))
	completeFlag(cmd, "alg", auth.Algorithms...)
	return cmd
}

func runKeyNew(a *app, path, algorithm string) error {
	k, err := auth.NewKey(algorithm)
	if err != nil {
		return &usageError{err}
	}
	file, err := replaceable(path)
	if err != nil {
		return err
	}
	if file == "" {
		err = addKey(path, k)
	} else {
		err = withLock(file, func() error { return addKey(path, k) })
	}
	if err != nil {
		return err
	}
	a.recordDone("the key was added to " + path)
	return a.out.writeKey(&k)
}

// addKey adds a key to a file, which only its owner may read afterwards, also if others could before.
func addKey(path string, k auth.Key) error {
	set, err := readKeyFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b, err := auth.AppendKey(set, k)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return replaceFile(path, b, 0o600)
}

func newKeyListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list FILE",
		Short: "List the keys in a file",
		Long: `List the keys in FILE: for each its id and algorithm, and whether it can sign. Secrets are
not printed.`,
		Example: `  rstream key list keys.json`,
		Args:    argCount(1, 1, "one FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			keys, err := readKeys(args[0])
			if err != nil {
				return err
			}
			for i := range keys {
				if err := a.out.writeKey(&keys[i]); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

type keyLine struct {
	Type      string `json:"type"`
	ID        string `json:"kid"`
	Algorithm string `json:"alg"`
	Signs     bool   `json:"signs"`
}

func (o *output) writeKey(k *auth.Key) error {
	if !o.isForPerson() {
		return o.writeJSON(keyLine{"key", k.ID, k.Algorithm, k.CanSign()})
	}
	use := "verifies"
	if k.CanSign() {
		use = "signs and verifies"
	}
	return o.printf("key %s, %s, %s\n", visible(k.ID), k.Algorithm, use)
}

func newKeyPublicCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "public FILE",
		Short: "Print the public parts of the keys in a file",
		Long: `Print the public parts of the keys in FILE as a JWK Set, for servers that verify tokens
but must not sign any. HS256 keys have no public part, and are left out.`,
		Example: `  rstream key public keys.json > public.json`,
		Args:    argCount(1, 1, "one FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			keys, err := readKeys(args[0])
			if err != nil {
				return err
			}
			for i := range keys {
				if keys[i].IsSecret() {
					a.note("key %s is a shared secret, which has no public part; it was left out", keys[i].ID)
				}
			}
			b, err := auth.MarshalPublicKeys(keys)
			if err != nil {
				return err
			}
			return a.out.printf("%s", b)
		},
	}
}

// readKeyFile reads a key file, which is not empty.
func readKeyFile(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return nil, fmt.Errorf("%s: is empty; remove it, or name another file", path)
	}
	return b, nil
}

// readKeys reads the keys in a key file.
func readKeys(path string) ([]auth.Key, error) {
	b, err := readKeyFile(path)
	if err != nil {
		return nil, err
	}
	keys, err := auth.ParseKeys(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return keys, nil
}
