package wire

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/rstream-dev/rstream/event"
)

// A PeerHas describes the events of a set that the requester has: by a filter, or by
// their hashes. The zero PeerHas describes nothing.
type PeerHas struct {
	Filter []byte       // a frame of package reconcile, not parsed here
	Have   []event.Hash // not nil if given
}

// IsZero reports whether k has neither a filter nor hashes.
func (k *PeerHas) IsZero() bool { return k.Filter == nil && k.Have == nil }

// MaxHashes is the most hashes in one request.
const MaxHashes = 10_000

// maxFilterText is the most bytes of a filter in base64. A larger one is refused before it
// is decoded.
const maxFilterText = 6 << 20

// EncodeFilter encodes a filter's frame as the value of bloomFilter.
func EncodeFilter(frame []byte) string { return base64.RawURLEncoding.EncodeToString(frame) }

// anyAlphabet converts standard base64 to base64url.
var anyAlphabet = strings.NewReplacer("+", "-", "/", "_")

// ParseFilterText decodes the value of bloomFilter: base64 or base64url, with or without
// padding. It returns a TooLargeError if the value is too long.
func ParseFilterText(s string) ([]byte, error) {
	if len(s) > maxFilterText {
		return nil, &TooLargeError{fmt.Sprintf("bloomFilter is longer than %d bytes", maxFilterText)}
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(anyAlphabet.Replace(strings.TrimRight(s, "=")))
	if err != nil || len(b) == 0 {
		return nil, errors.New("bloomFilter: want a filter's frame in base64url")
	}
	return b, nil
}

// A TooLargeError reports a request that is too large. Servers answer it with 413.
type TooLargeError struct{ Detail string }

func (e *TooLargeError) Error() string { return e.Detail }

// parsePeerHas parses bloomFilter and have from the parameters of a GET.
func parsePeerHas(rawQuery string, v url.Values) (k PeerHas, err error) {
	if v.Has("bloomFilter") {
		// If the value was not escaped, its plus signs are spaces now.
		if k.Filter, err = ParseFilterText(strings.ReplaceAll(v.Get("bloomFilter"), " ", "+")); err != nil {
			return k, err
		}
	}
	if v.Has("have") {
		k.Have = []event.Hash{}
		for _, raw := range rawValues(rawQuery, "have") {
			if err := k.addHashes(splitRaw(raw)); err != nil {
				return k, err
			}
		}
	}
	return k, k.checkOneForm()
}

// parseMember parses a member of an item. ok is false if the member is not a part of PeerHas.
func (k *PeerHas) parseMember(m event.Member) (ok bool, err error) {
	switch m.Name {
	case "bloomFilter":
		s, err := m.Text()
		if err != nil {
			return true, err
		}
		k.Filter, err = ParseFilterText(s)
		return true, err
	case "have":
		k.Have, err = parseHashes("have", m.Value)
		return true, err
	}
	return false, nil
}

func (k *PeerHas) addHashes(hashes []string) error {
	for _, s := range hashes {
		if s == "" {
			continue // have= is an empty list
		}
		h, err := event.ParseHash(s)
		if err != nil {
			return fmt.Errorf("have: %w", err)
		}
		if k.Have = append(k.Have, h); len(k.Have) > MaxHashes {
			return tooManyHashes("have")
		}
	}
	return nil
}

func (k *PeerHas) checkOneForm() error {
	if k.Filter != nil && k.Have != nil {
		return errors.New("bloomFilter and have cannot be combined")
	}
	return nil
}

func tooManyHashes(name string) error {
	return &TooLargeError{fmt.Sprintf("%s has more than %d hashes; send fewer per request", name, MaxHashes)}
}

// parseHashes parses a JSON list of hashes.
func parseHashes(name string, value []byte) ([]event.Hash, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(value, &list); err != nil || list == nil {
		return nil, fmt.Errorf("%s: want a list of hashes", name)
	}
	if len(list) > MaxHashes {
		return nil, tooManyHashes(name)
	}
	hashes := make([]event.Hash, len(list))
	for i, raw := range list {
		s, err := event.Member{Name: name, Value: raw}.Text()
		if err == nil {
			hashes[i], err = event.ParseHash(s)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return hashes, nil
}
