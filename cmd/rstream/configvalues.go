package main

import (
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/board"
)

// valueChecks are checks that commands make when they run, of values that their flags take as any
// text. Those that also depend on other flags are not here: the command line may have them.
var valueChecks = map[string]func(values []string) error{
	"log-level":  forEach(func(s string) error { return (&logFlags{logFormat: "text", logLevel: s}).checkLogFlags() }),
	"log-format": forEach(func(s string) error { return (&logFlags{logFormat: s, logLevel: "info"}).checkLogFlags() }),
	"max-stream-age": forDuration(func(d time.Duration) error {
		return (&logFlags{logFormat: "text", logLevel: "info", maxStreamAge: d}).checkLogFlags()
	}),
	"heartbeat":    forDuration(checkHeartbeat),
	"listen":       forEach(func(s string) error { return checkListen("--listen", s, true, "") }),
	"admin":        forEach(func(s string) error { return checkListen("--admin", s, true, "") }),
	"acme":         forEach(checkACMEName),
	"node":         forEach(board.CheckNodeName),
	"limit":        func(values []string) error { _, err := (&guardFlags{limits: values}).parseLimits(); return err },
	"behind":       func(values []string) error { _, err := (&guardFlags{behind: values}).parseBehind(); return err },
	"allow-origin": func(values []string) error { _, err := parseOrigins(values); return err },
	"header":       func(values []string) error { _, err := parseRequestHeaders(values); return err },
	"strategy":     forEach(func(s string) error { _, err := parseStrategy(s); return err }),
	"log":          forEach(checkLogID),
	"alg":          forEach(auth.CheckAlgorithm),
}

func forEach(check func(string) error) func(values []string) error {
	return func(values []string) error {
		for _, value := range values {
			if err := check(value); err != nil {
				return err
			}
		}
		return nil
	}
}

// forDuration is forEach for a flag whose values are durations, which it has checked.
func forDuration(check func(time.Duration) error) func(values []string) error {
	return forEach(func(s string) error {
		d, err := time.ParseDuration(s)
		if err != nil {
			return err
		}
		return check(d)
	})
}

// checkHeartbeat refuses a heartbeat that would be nothing else than traffic.
func checkHeartbeat(d time.Duration) error {
	if d < 10*time.Millisecond {
		return usagef("--heartbeat %s: want at least 10ms", d)
	}
	return nil
}

// checkLogID refuses text that is not the id of a log.
func checkLogID(id string) error {
	if !event.ValidLogID(id) {
		return usagef("--log %.40q: want %d characters as \"rstream status\" shows them", id, event.LogIDLen)
	}
	return nil
}
