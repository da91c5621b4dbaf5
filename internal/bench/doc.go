// Package bench loads servers as a crowd of clients does and runs, beside what is
// measured, the limits: handlers that do nothing but answer, and SQLite that does
// nothing but insert. Both sides of a comparison get the same input from the same
// client, in turns, so that what else happens on the machine happens to both.
//
// It measures; it knows neither rstream's server nor its client nor any goal.
package bench
