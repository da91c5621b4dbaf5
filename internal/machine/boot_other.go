//go:build !linux && !darwin

package machine

func boot() string { return "" }
