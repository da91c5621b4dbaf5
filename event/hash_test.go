package event

import (
	"bytes"
	"encoding/hex"
	"testing"
)

// ParseHash agrees with encoding/hex, byte by byte and wherever the digit is, but for upper
// case.
func TestParseHashDigits(t *testing.T) {
	text := []byte("0123456789abcdef00ff19a9f0966961c3b2a1908f7e6d5c4b3a291807f6e5d4")
	for i := range text {
		for c := range 256 {
			digits := bytes.Clone(text)
			digits[i] = byte(c)
			want, err := hex.DecodeString(string(digits))
			wrong := err != nil || !bytes.Equal(digits, bytes.ToLower(digits))
			got, err := ParseHash(digits)
			if (err != nil) != wrong || !wrong && !bytes.Equal(got[:], want) {
				t.Fatalf("ParseHash(%q) = %x, %v, want %x", digits, got, err, want)
			}
		}
	}
}
