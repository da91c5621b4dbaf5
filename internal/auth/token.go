package auth

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// MaxToken is the greatest length of a token, in bytes.
const MaxToken = 8 << 10

// Claims are the claims of a token.
type Claims struct {
	jwt.RegisteredClaims
	Rights *Rights `json:"rstream,omitempty"`
}

// NewClaims returns the claims of a token for subject, with a random jti.
func NewClaims(subject string, rights Rights, now time.Time, age time.Duration) *Claims {
	return &Claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Subject: subject, ID: strings.ToLower(rand.Text()[:16]),
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(age)),
		},
		Rights: &rights,
	}
}

// An InvalidError refuses a token. Its text is safe to show to the bearer.
type InvalidError struct{ Reason string }

func (e *InvalidError) Error() string { return "token " + e.Reason }

func invalidf(format string, args ...any) error { return &InvalidError{fmt.Sprintf(format, args...)} }

// A TokenHeader is the part of a token that says how it is signed. It is not to be trusted.
type TokenHeader struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid,omitempty"`
}

// ReadToken returns what a token says, without verifying it.
func ReadToken(token string) (TokenHeader, *Claims, error) {
	claims := &Claims{}
	h, err := readHeader(token)
	if err != nil {
		return h, nil, err
	}
	if _, _, err := jwt.NewParser(jwt.WithStrictDecoding()).ParseUnverified(token, claims); err != nil {
		return h, nil, invalidf("has a claim that is not valid: %v", errors.Unwrap(err))
	}
	return h, claims, nil
}

// readHeader returns the header of a token whose parts are JSON objects.
func readHeader(token string) (TokenHeader, error) {
	t, _, err := jwt.NewParser(jwt.WithStrictDecoding()).ParseUnverified(token, jwt.MapClaims{})
	if err != nil {
		return TokenHeader{}, invalidf("is malformed")
	}
	return headerOf(t)
}

// headerOf returns the header of a token. It refuses types of other uses and extensions
// that must be understood.
func headerOf(t *jwt.Token) (h TokenHeader, err error) {
	if _, ok := t.Header["crit"]; ok {
		return h, invalidf(`has a critical extension ("crit"), and none is supported`)
	}
	switch typ := t.Header["typ"].(type) {
	case nil:
	case string:
		if !slices.Contains([]string{"jwt", "at+jwt", "application/at+jwt"}, strings.ToLower(typ)) {
			return h, invalidf(`has the type %.40q; want "JWT" or "at+jwt"`, typ)
		}
	default:
		return h, invalidf("has a type that is not text")
	}
	h.Algorithm, _ = t.Header["alg"].(string)
	kid, ok := t.Header["kid"].(string)
	if !ok && t.Header["kid"] != nil {
		return h, invalidf("has a key id that is not text")
	}
	h.KeyID = kid
	return h, nil
}

// verification says what a valid token must have besides a signature.
type verification struct {
	issuer   string // "" accepts every issuer
	audience string // "" accepts every audience
	now      func() time.Time
}

// verify returns the claims of a token that is signed with one of keys, and that key.
// known is false if the token names a key that is not among them.
func (v *verification) verify(token string, keys []Key) (claims *Claims, key *Key, known bool, err error) {
	if len(token) > MaxToken {
		return nil, nil, true, invalidf("is longer than %d bytes", MaxToken)
	}
	h, err := readHeader(token)
	if err != nil {
		return nil, nil, true, err
	}
	if !slices.Contains(Algorithms, h.Algorithm) {
		return nil, nil, true, invalidf("is signed with %.20q; want one of %s", h.Algorithm, strings.Join(Algorithms, ", "))
	}
	err = invalidf("is not signed with a key of this server")
	for i := range keys {
		k := &keys[i]
		if k.Algorithm != h.Algorithm || h.KeyID != "" && k.ID != h.KeyID {
			continue
		}
		known = true
		claims, err = v.verifyWith(token, k)
		if !errors.Is(err, jwt.ErrTokenSignatureInvalid) {
			return claims, k, true, explain(err)
		}
		err = invalidf("is not signed with a key of this server")
	}
	return nil, nil, known, err
}

func (v *verification) verifyWith(token string, k *Key) (*Claims, error) {
	options := []jwt.ParserOption{
		jwt.WithValidMethods([]string{k.Algorithm}), jwt.WithExpirationRequired(), jwt.WithStrictDecoding(), jwt.WithTimeFunc(v.now),
	}
	if v.issuer != "" {
		options = append(options, jwt.WithIssuer(v.issuer))
	}
	if v.audience != "" {
		options = append(options, jwt.WithAudience(v.audience))
	}
	claims := &Claims{}
	_, err := jwt.NewParser(options...).ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return k.verifies, nil })
	if err == nil && claims.Rights == nil {
		err = invalidf(`has no claim "rstream"`)
	}
	return claims, err
}

// explain returns an InvalidError for an error of the library.
func explain(err error) error {
	var bad *InvalidError
	var syntax *json.SyntaxError
	var mismatch *json.UnmarshalTypeError
	switch {
	case err == nil || errors.As(err, &bad):
		return err
	case errors.Is(err, jwt.ErrTokenExpired):
		return invalidf("has expired")
	case errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return invalidf("is not valid yet")
	case errors.Is(err, jwt.ErrTokenInvalidIssuer):
		return invalidf("is of another issuer")
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return invalidf("is for another audience")
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return invalidf("lacks a claim: exp, and iss and aud if the server asks for them")
	case errors.As(err, &syntax), errors.As(err, &mismatch):
		return invalidf("has a claim that is not valid")
	}
	return invalidf("has a claim that is not valid") // a topic, for example
}

// expiry returns when a verified token ends.
func (c *Claims) expiry() time.Time { return c.ExpiresAt.Time }
