// Package tempfile creates files for what does not fit in memory. Such a file has one process, and goes
// with it, even if it is killed.
package tempfile
