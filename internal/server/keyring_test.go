package server

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/rstream-dev/rstream/internal/auth"
)

// A keyring signs tokens that its guard accepts.
type keyring struct {
	t     testing.TB
	dir   string
	key   auth.Key
	guard *auth.Guard
	cache map[string]string // tokens that cachedGrant has signed
}

func newKeyring(t testing.TB, cfg auth.Config) *keyring {
	t.Helper()
	k := &keyring{t: t, dir: t.TempDir()}
	k.key = k.newKey()
	cfg.Keys, cfg.Revoked = filepath.Join(k.dir, "keys"), filepath.Join(k.dir, "revoked")
	k.setKeys(k.key)
	k.replace("revoked", "")
	var err error
	if k.guard, err = auth.NewGuard(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *keyring) newKey() auth.Key {
	key, err := auth.NewKey(auth.EdDSA)
	if err != nil {
		k.t.Fatal(err)
	}
	return key
}

func (k *keyring) setKeys(keys ...auth.Key) {
	b, err := auth.MarshalKeys(keys)
	if err != nil {
		k.t.Fatal(err)
	}
	k.replace("keys", string(b))
}

func (k *keyring) replace(name, text string) {
	path := filepath.Join(k.dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		k.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		k.t.Fatal(err)
	}
}

// grant returns a token for the topics, after change has changed its claims.
func (k *keyring) grant(read, write []string, change func(*auth.Claims)) string {
	return k.grantWith(&k.key, read, write, change)
}

func (k *keyring) grantWith(key *auth.Key, read, write []string, change func(*auth.Claims)) string {
	c := auth.NewClaims("tester", auth.Rights{Read: topicsOf(k.t, read...), Write: topicsOf(k.t, write...)}, time.Now(), time.Hour)
	if change != nil {
		change(c)
	}
	token, err := key.Sign(c)
	if err != nil {
		k.t.Fatal(err)
	}
	return token
}

// privateKey returns the private part of the key, for tokens that auth.Key does not sign.
func (k *keyring) privateKey() ed25519.PrivateKey {
	b, err := auth.MarshalKeys([]auth.Key{k.key})
	var set struct{ Keys []struct{ D string } }
	var seed []byte
	if err == nil {
		err = json.Unmarshal(b, &set)
	}
	if err == nil {
		seed, err = base64.RawURLEncoding.DecodeString(set.Keys[0].D)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	return ed25519.NewKeyFromSeed(seed)
}

// signByHand returns a token with any claims that names the keyring's key.
func (k *keyring) signByHand(method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
	token := jwt.NewWithClaims(method, claims)
	token.Header["kid"] = k.key.ID
	text, err := token.SignedString(key)
	if err != nil {
		k.t.Fatal(err)
	}
	return text
}

// cachedGrant is grant for tests that need the same token often. Tokens that change makes
// different have different names.
func (k *keyring) cachedGrant(name string, read, write []string, change func(*auth.Claims)) string {
	name += fmt.Sprint(read, write)
	if k.cache[name] == "" {
		if k.cache == nil {
			k.cache = map[string]string{}
		}
		k.cache[name] = k.grant(read, write, change)
	}
	return k.cache[name]
}

func bearer(token string) string { return "Bearer " + token }
