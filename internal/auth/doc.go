// Package auth decides which topics the bearer of a token may read and append to, and what
// the bearer may do with the board.
//
// A token is a JWT (RFC 7519). Its claim "rstream" grants topics to read, topics to append
// to and a right to the board, until its "exp". A [Key] signs tokens; a [Guard] verifies them with the keys
// of a JWK Set (RFC 7517), which it reads from a file or a URL, and returns a [Grant]. A
// grant allows a topic if one of its topics contains it; nothing is ever filtered.
//
// A grant ends when its token expires, when its key is removed, or when the token's "jti"
// is revoked. Files are read again every few seconds, and only a set that was read, is
// valid and has keys replaces the one before: a server that cannot be reached or a file
// that is half written ends nothing.
//
// The package does not know HTTP requests, and it logs no token and no key.
package auth
