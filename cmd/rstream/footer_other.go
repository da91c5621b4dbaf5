//go:build !unix

package main

import "os"

// watchTerminal does nothing: here, nothing tells when the terminal changes.
func (s *footer) watchTerminal() (stop func()) { return func() {} }

func inBackground(*os.File) bool { return false }
