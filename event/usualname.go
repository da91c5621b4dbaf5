package event

// Nearly all names are ASCII without a character that has a meaning. Drafts are checked several
// times on their way into a log, so these functions recognize such names in one pass. Names that
// they do not accept may still be valid.

// The names that a byte may be part of.
const (
	inKey = 1 << iota
	inUser
	inPath
)

var usualBytes = func() (in [256]byte) {
	for c := ' '; c <= '~'; c++ {
		in[c] = inKey | inUser | inPath
	}
	for _, c := range "/*$," {
		in[c] &^= inUser
	}
	for _, c := range "*$" {
		in[c] &^= inPath
	}
	return in
}()

// isUsualUser reports whether CheckUser accepts a usual user.
func isUsualUser[T string | []byte](user T) bool {
	in := byte(inUser)
	for i := range len(user) {
		in &= usualBytes[user[i]]
	}
	return in != 0 && 0 < len(user) && len(user) <= MaxUser && user[0] != '.'
}

// isUsualPath reports whether CheckPath accepts a usual path.
func isUsualPath[T string | []byte](path T) bool {
	in, before := byte(inPath), byte('/')
	for i := range len(path) {
		c := path[i]
		if before == '/' && (c == '/' || c == '.') {
			return false
		}
		in &= usualBytes[c]
		before = c
	}
	return in != 0 && before != '/' && len(path) <= MaxPath
}

// isUsualKey reports whether CheckKey accepts a usual key.
func isUsualKey[T string | []byte](key T) bool {
	in := byte(inKey)
	for i := range len(key) {
		in &= usualBytes[key[i]]
	}
	return in != 0 && len(key) <= MaxKey
}
