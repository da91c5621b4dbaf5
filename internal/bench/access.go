package bench

import (
	"context"
	"io"
	"net/http"
	"strings"

	"github.com/rstream-dev/rstream/client"
)

// accessKey is the key of a *Config in a context. Load and Crowd are used without a Config, so
// each request takes the credentials for Config.Server from its context.
type accessKey struct{}

// withAccess returns a context whose requests to Config.Server have its credentials.
func (cfg *Config) withAccess(ctx context.Context) context.Context {
	if cfg.Server == "" {
		return ctx
	}
	return context.WithValue(ctx, accessKey{}, cfg)
}

// accessTo returns the configuration of a client of a server.
func accessTo(ctx context.Context, server string) client.Config {
	access := client.Config{}
	if cfg, ok := ctx.Value(accessKey{}).(*Config); ok && cfg.Server == server {
		access = cfg.Access
	}
	access.Servers = []string{server}
	return access
}

// newTransport returns a transport with so many idle connections, which checks certificates as
// the access of ctx says. Each run has its own, so that no connection is left of an earlier one.
func newTransport(ctx context.Context, idle int) *http.Transport {
	t := &http.Transport{MaxIdleConnsPerHost: idle}
	if cfg, ok := ctx.Value(accessKey{}).(*Config); ok {
		t.TLSClientConfig = cfg.Access.TLS
	}
	return t
}

// newRequest makes a request, with the credentials of the server of ctx if it is for that.
func newRequest(ctx context.Context, method, url string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	cfg, ok := ctx.Value(accessKey{}).(*Config)
	if err != nil || !ok || !strings.HasPrefix(url, cfg.Server+"/") {
		return req, err
	}
	server, access := cfg.Server, cfg.Access
	if access.Header != nil {
		for name, values := range access.Header(server) {
			req.Header[name] = values
		}
	}
	if access.Token == nil {
		return req, nil
	}
	token, err := access.Token(ctx, server)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return req, err
}
