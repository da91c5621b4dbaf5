// Package bench measures a server and a client in turns with the limits of the machine:
// handlers that only answer, and SQLite that only inserts. Both sides of a comparison get the
// same input from the same client, so that other work on the machine slows both.
//
// A Benchmark is one thing to measure, a Result one figure with its limit and goal. Run starts
// the servers as processes of the program that calls it, by its commands "serve",
// "bench server" and "bench limit", and measures its commands "put", "sync" and "tail". Comparison
// also starts Redis and NATS, whose protocols the package speaks as far as it needs them.
//
// The package parses no flags, and writes only the table of results.
package bench
