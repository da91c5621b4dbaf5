package main

import (
	"strings"
)

// shellWord quotes s as one word of a shell command, if it needs quotes.
func shellWord(s string) string {
	plain := strings.Trim(s, "/-._:@%+,ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") == ""
	if plain && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
