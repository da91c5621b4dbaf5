package natslog

import (
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/rstream-dev/rstream/internal/wire"
)

// schemes are those that NATS servers are reached by.
var schemes = []string{"nats", "tls", "ws", "wss"}

// errAddress does not repeat the address, which may have a password in an unexpected place.
var errAddress = errors.New("want nats://HOST:4222; passwords escape / # @ and , with %")

// ParseAddresses checks the addresses of NATS servers and returns them with their schemes, which
// nats.go does not need: only with one are user and password found wherever an address is shown.
func ParseAddresses(text string) (string, error) {
	parts := strings.Split(text, ",")
	for i, part := range parts {
		part = strings.TrimSpace(part)
		if !strings.Contains(part, "://") {
			part = "nats://" + part
		}
		u, err := url.Parse(part)
		if err != nil || !slices.Contains(schemes, u.Scheme) || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" ||
			strings.ContainsAny(part, " \t\"'`<>") || strings.Count(part, "@") > 1 {
			return "", errAddress
		}
		parts[i] = part
	}
	return strings.Join(parts, ","), nil
}

// ShownAddresses returns addresses of NATS servers without users and passwords, whether they are
// valid or not.
func ShownAddresses(text string) string {
	parsed, err := ParseAddresses(text)
	if err != nil {
		return wire.RedactURL(text)
	}
	parts := strings.Split(parsed, ",")
	for i := range parts {
		parts[i] = wire.RedactURL(parts[i])
	}
	return strings.Join(parts, ",")
}
