package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

// Algorithms of keys and tokens, by the names of RFC 7518 and RFC 8037. No other is
// accepted.
const (
	EdDSA = "EdDSA" // Ed25519
	ES256 = "ES256"
	RS256 = "RS256"
	HS256 = "HS256" // a shared secret: who can verify can also sign
)

// Algorithms lists the accepted algorithms.
var Algorithms = []string{EdDSA, ES256, RS256, HS256}

// Least sizes of keys.
const (
	minRSA    = 2048 // bits
	minSecret = 32   // bytes
)

// A Key verifies tokens and, if it has a private part, signs them. It has one algorithm: a
// token that names another is refused, whatever its signature.
type Key struct {
	ID        string // kid, "" if it has none
	Algorithm string

	verifies any // a public key, or the bytes of a secret
	signs    any // a private key or a secret; nil if there is none
	print    [sha256.Size]byte
}

// NewKey returns a new key.
func NewKey(algorithm string) (Key, error) {
	k := Key{ID: strings.ToLower(rand.Text()[:12]), Algorithm: algorithm}
	var err error
	switch algorithm {
	case EdDSA:
		_, k.signs, err = ed25519.GenerateKey(nil)
	case ES256:
		k.signs, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case RS256:
		k.signs, err = rsa.GenerateKey(rand.Reader, 3072)
	case HS256:
		secret := make([]byte, minSecret)
		rand.Read(secret) // never fails
		k.signs = secret
	default:
		return Key{}, CheckAlgorithm(algorithm)
	}
	if err != nil {
		return Key{}, fmt.Errorf("make a key: %w", err)
	}
	return k, k.derive()
}

// CheckAlgorithm refuses what is none of Algorithms.
func CheckAlgorithm(algorithm string) error {
	if !slices.Contains(Algorithms, algorithm) {
		return fmt.Errorf("algorithm %q: want %s", algorithm, strings.Join(Algorithms, ", "))
	}
	return nil
}

// CanSign reports whether the key has a private part or is a secret.
func (k *Key) CanSign() bool { return k.signs != nil }

// IsSecret reports whether the key is a shared secret, which has no public part.
func (k *Key) IsSecret() bool { return k.Algorithm == HS256 }

// derive sets the public part and the fingerprint of a key that signs.
func (k *Key) derive() error {
	k.verifies = k.signs
	if private, ok := k.signs.(crypto.Signer); ok {
		k.verifies = private.Public()
	}
	return k.fingerprint()
}

// fingerprint sets the fingerprint of the part that verifies.
func (k *Key) fingerprint() error {
	m, err := k.marshal(k.verifies)
	if err != nil {
		return err
	}
	m.KID = "" // a key that only gets another name is the same key
	b, err := json.Marshal(m)
	k.print = sha256.Sum256(b)
	return err
}

func (k *Key) marshal(key any) (jwkset.JWKMarshal, error) {
	jwk, err := jwkset.NewJWKFromKey(key, jwkset.JWKOptions{
		Marshal:  jwkset.JWKMarshalOptions{Private: true},
		Metadata: jwkset.JWKMetadataOptions{ALG: jwkset.ALG(k.Algorithm), KID: k.ID, USE: jwkset.UseSig},
	})
	return jwk.Marshal(), err
}

// Sign returns a token with the claims.
func (k *Key) Sign(c *Claims) (string, error) {
	if !k.CanSign() {
		return "", errors.New("the key has no private part")
	}
	t := jwt.NewWithClaims(jwt.GetSigningMethod(k.Algorithm), c)
	if k.ID != "" {
		t.Header["kid"] = k.ID
	}
	token, err := t.SignedString(k.signs)
	if err != nil {
		return "", fmt.Errorf("sign the token: %w", err)
	}
	return token, nil
}

var errNoSet = errors.New(`not a JWK Set: want {"keys": [...]}`)

// ParseKeys parses a JWK Set, or one JWK. Keys for other uses than signatures or for other
// algorithms, which providers publish next to these, are left out; a key that is
// damaged or too short is an error. Nothing is fetched that a key refers to.
func ParseKeys(b []byte) ([]Key, error) {
	var set struct {
		Keys *[]jwkset.JWKMarshal `json:"keys"`
		jwkset.JWKMarshal
	}
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, fmt.Errorf("not a JWK Set: %w", err)
	}
	all := []jwkset.JWKMarshal{set.JWKMarshal}
	if set.Keys != nil {
		all = *set.Keys
	} else if set.KTY == "" {
		return nil, errNoSet
	}
	var keys []Key
	for i := range all {
		k, ok, err := parseKey(&all[i])
		if err != nil {
			return nil, fmt.Errorf("key %d %q: %w", i+1, all[i].KID, err)
		}
		if ok {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// parseKey parses a key. ok is false if it is not one for tokens.
func parseKey(m *jwkset.JWKMarshal) (k Key, ok bool, err error) {
	if m.USE != "" && m.USE != jwkset.UseSig {
		return k, false, nil
	}
	k = Key{ID: m.KID, Algorithm: algorithmOf(m)}
	if k.Algorithm == "" {
		return k, false, nil
	}
	bare := *m
	bare.X5U, bare.X5C, bare.X5T, bare.X5TS256, bare.KEYOPS = "", nil, "", "", nil
	jwk, err := jwkset.NewJWKFromMarshal(bare, jwkset.JWKMarshalOptions{Private: true}, jwkset.JWKValidateOptions{})
	if err != nil {
		return k, false, errors.New("is not a valid JWK") // the error of the library could quote the key
	}
	switch key := jwk.Key().(type) {
	case []byte:
		if len(key) < minSecret {
			return k, false, fmt.Errorf("the secret has %d bytes; want at least %d", len(key), minSecret)
		}
		k.signs = key
	case crypto.Signer:
		k.signs = key
	default:
		k.verifies = key
	}
	if k.signs != nil {
		err = k.derive()
	} else {
		err = k.fingerprint()
	}
	if public, isRSA := k.verifies.(*rsa.PublicKey); isRSA && err == nil && public.N.BitLen() < minRSA {
		err = fmt.Errorf("the RSA key has %d bits; want at least %d", public.N.BitLen(), minRSA)
	}
	return k, err == nil, err
}

// algorithmOf returns the one algorithm that a key may be used with, or "" if it is none
// of ours.
func algorithmOf(m *jwkset.JWKMarshal) string {
	var fits string
	switch {
	case m.KTY == jwkset.KtyOKP && m.CRV == jwkset.CrvEd25519:
		fits = EdDSA
	case m.KTY == jwkset.KtyEC && m.CRV == jwkset.CrvP256:
		fits = ES256
	case m.KTY == jwkset.KtyRSA:
		fits = RS256
	case m.KTY == jwkset.KtyOct:
		fits = HS256
	}
	if m.ALG != "" && string(m.ALG) != fits {
		return ""
	}
	return fits
}

// AppendKey returns a JWK Set, or a set of one JWK, with one more key. All else in it stays, also keys
// and members that ParseKeys leaves out. No set, nil, stands for one without keys.
func AppendKey(set []byte, k Key) ([]byte, error) {
	members, keys := map[string]json.RawMessage{}, []json.RawMessage{}
	if set != nil {
		if _, err := ParseKeys(set); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(set, &members); err != nil {
			return nil, err
		}
		list, isSet := members["keys"]
		if _, isKey := members["kty"]; !isSet && !isKey {
			return nil, errNoSet
		}
		if !isSet {
			members, keys = map[string]json.RawMessage{}, []json.RawMessage{set}
		} else if err := json.Unmarshal(list, &keys); err != nil {
			return nil, err
		}
	}
	m, err := k.marshal(k.signs)
	if err != nil {
		return nil, err
	}
	added, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if members["keys"], err = json.Marshal(append(keys, added)); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(members, "", "  ")
	return append(b, '\n'), err
}

// MarshalKeys returns a JWK Set of all keys with their private parts.
func MarshalKeys(keys []Key) ([]byte, error) {
	return marshalSet(keys, func(k *Key) any {
		if k.CanSign() {
			return k.signs
		}
		return k.verifies
	})
}

// MarshalPublicKeys returns a JWK Set of the public parts of keys. Shared secrets have
// none, and are left out.
func MarshalPublicKeys(keys []Key) ([]byte, error) {
	return marshalSet(keys, func(k *Key) any {
		if k.IsSecret() {
			return nil
		}
		return k.verifies
	})
}

func marshalSet(keys []Key, part func(*Key) any) ([]byte, error) {
	set := jwkset.JWKSMarshal{Keys: []jwkset.JWKMarshal{}}
	for i := range keys {
		key := part(&keys[i])
		if key == nil {
			continue
		}
		m, err := keys[i].marshal(key)
		if err != nil {
			return nil, err
		}
		set.Keys = append(set.Keys, m)
	}
	b, err := json.MarshalIndent(set, "", "  ")
	return append(b, '\n'), err
}
