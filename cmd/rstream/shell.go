package main

import (
	"strings"
)

// shellWord writes s as one word of a shell, in quotes only if it needs them.
func shellWord(s string) string {
	plain := strings.Trim(s, "/-._:@%+,ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") == ""
	if plain && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
