//go:build race

package client

func init() { underRace = true }
