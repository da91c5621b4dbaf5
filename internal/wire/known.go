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

// A Known is what the asking side says that it holds of a set: a filter, or the
// hashes themselves. The zero Known says nothing.
type Known struct {
	Filter []byte       // a frame of package reconcile, not looked at here
	Have   []event.Hash // not nil if given
}

// IsZero reports whether k says nothing.
func (k *Known) IsZero() bool { return k.Filter == nil && k.Have == nil }

// MaxHashes is how many hashes one request names.
const MaxHashes = 10_000

// maxFilterText bounds a filter in base64, so that one that would be refused costs
// nothing.
const maxFilterText = 6 << 20

// EncodeFilter writes a filter's frame as the value of bloomFilter.
func EncodeFilter(frame []byte) string { return base64.RawURLEncoding.EncodeToString(frame) }

// anyAlphabet makes base64url of what is written in the standard alphabet.
var anyAlphabet = strings.NewReplacer("+", "-", "/", "_")

// ParseFilterText reads the value of bloomFilter, in either alphabet of base64, with or
// without padding.
func ParseFilterText(s string) ([]byte, error) {
	if len(s) > maxFilterText {
		return nil, &TooLargeError{fmt.Sprintf("bloomFilter: is over %d bytes long", maxFilterText)}
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(anyAlphabet.Replace(strings.TrimRight(s, "=")))
	if err != nil || len(b) == 0 {
		return nil, errors.New("bloomFilter: want a filter's frame in base64url")
	}
	return b, nil
}

// A TooLargeError is a request that asks for too much: 413.
type TooLargeError struct{ Detail string }

func (e *TooLargeError) Error() string { return e.Detail }

// parseKnown reads bloomFilter and have from the parameters of a GET.
func parseKnown(rawQuery string, v url.Values) (k Known, err error) {
	if v.Has("bloomFilter") {
		// The plus signs of an alphabet that was not escaped have become spaces.
		if k.Filter, err = ParseFilterText(strings.ReplaceAll(v.Get("bloomFilter"), " ", "+")); err != nil {
			return k, err
		}
	}
	if v.Has("have") {
		k.Have = []event.Hash{}
		for _, raw := range rawValues(rawQuery, "have") {
			if err := k.haveList(splitRaw(raw)); err != nil {
				return k, err
			}
		}
	}
	return k, k.check()
}

// member reads a member of an item, if it is one of ours.
func (k *Known) member(m event.Member) (ok bool, err error) {
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

func (k *Known) haveList(hashes []string) error {
	for _, s := range hashes {
		if s == "" {
			continue // have= is nothing
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

func (k *Known) check() error {
	if k.Filter != nil && k.Have != nil {
		return errors.New("bloomFilter and have: only one of them can be given")
	}
	return nil
}

func tooManyHashes(name string) error {
	return &TooLargeError{fmt.Sprintf("%s: more than %d hashes are named; ask for some at a time", name, MaxHashes)}
}

// parseHashes reads a list of hashes.
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
