package main

import (
	"context"
	"errors"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/pflag"

	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/wire"
)

// guardFlags are the flags that control who may use a server.
type guardFlags struct {
	keys     string
	jwks     string
	revoked  string
	public   []string
	issuer   string
	audience string
	stale    time.Duration
	tlsCert  string
	tlsKey   string
	limits   []string
	behind   []string
	clientCA string

	acmeNames     []string
	acmeCache     string
	acmeDirectory string
}

func (o *guardFlags) addGuardFlags(f *pflag.FlagSet) {
	f.StringVar(&o.keys, "keys", "", "ask for tokens that are signed with a key in `FILE`, a JWK Set")
	f.StringVar(&o.jwks, "jwks", "", "ask for tokens that are signed with a key of the JWK Set at `URL`")
	f.StringVar(&o.revoked, "revoked", "", "refuse tokens whose jti is a line of `FILE`")
	f.StringArrayVar(&o.public, "public", nil, "with keys, let everybody read `TOPIC`; repeat for more")
	f.StringVar(&o.issuer, "issuer", "", "ask for tokens of the issuer `NAME`")
	f.StringVar(&o.audience, "audience", "", "ask for tokens for the audience `NAME`")
	f.Var((*age)(&o.stale), "stale-rights", "refuse all tokens while keys or revocations could not be read for `AGE` (default: accept them)")
	f.StringArrayVar(&o.limits, "limit", nil, "limit each client to `KIND=RATE`: requests, events or bytes appended per second, or open streams; 0 is no limit; repeat for more (with keys: "+defaultLimits+")")
	f.StringArrayVar(&o.behind, "behind", nil, "believe a proxy with an address in `CIDR` about its client: X-Forwarded-For, X-Forwarded-Proto, Forwarded; repeat for more")
	f.StringVar(&o.tlsCert, "tls-cert", "", "PEM `FILE` of the certificate to serve https:// with")
	f.StringVar(&o.tlsKey, "tls-key", "", "PEM `FILE` of the key of --tls-cert")
	f.StringArrayVar(&o.acmeNames, "acme", nil, "serve https:// with a certificate for `NAME`, fetched from an ACME authority, whose terms you accept; repeat for more")
	f.StringVar(&o.acmeCache, "acme-cache", "", "`FOLDER` of the certificates and keys of --acme (default: acme, next to the log)")
	f.StringVar(&o.acmeDirectory, "acme-directory", "", "directory `URL` of the ACME authority (default: Let's Encrypt)")
	f.StringVar(&o.clientCA, "client-ca", "", "admit only clients with a certificate of an authority in the PEM `FILE`")
}

// isGuarded reports whether the server asks for tokens.
func (o *guardFlags) isGuarded() bool { return o.keys != "" || o.jwks != "" }

func (o *guardFlags) checkGuardFlags() error {
	if (o.tlsCert == "") != (o.tlsKey == "") {
		return usagef("--tls-cert and --tls-key: want both or neither")
	}
	for _, name := range o.acmeNames {
		if err := checkACMEName(name); err != nil {
			return err
		}
	}
	switch {
	case o.tlsCert != "" && len(o.acmeNames) > 0:
		return usagef("--acme and --tls-cert cannot be combined")
	case o.acmeCache != "" && len(o.acmeNames) == 0:
		return usagef("--acme-cache: wants --acme")
	case o.acmeDirectory != "" && len(o.acmeNames) == 0:
		return usagef("--acme-directory: wants --acme")
	case o.clientCA != "" && !o.hasTLS():
		return usagef("--client-ca: wants TLS, from --tls-cert or --acme")
	}
	_, err := o.parseLimits()
	_, err2 := o.parseBehind()
	if err := errors.Join(err, err2); err != nil || o.isGuarded() {
		return err
	}
	for _, f := range []struct {
		name string
		set  bool
	}{{"--revoked", o.revoked != ""}, {"--public", len(o.public) > 0}, {"--issuer", o.issuer != ""}, {"--audience", o.audience != ""}, {"--stale-rights", o.stale != 0}} {
		if f.set {
			return usagef("%s: wants --keys or --jwks; without keys everybody may read and append everything", f.name)
		}
	}
	return nil
}

// defaultLimits are the limits of a server with keys.
const defaultLimits = "requests=1000, events=20000, bytes=20MB, streams=1000"

// parseLimits returns the rates of --limit. Without keys there are none by default: a
// server on loopback serves one person.
func (o *guardFlags) parseLimits() (*wire.Rates, error) {
	var rates wire.Rates
	if !o.isGuarded() && len(o.limits) == 0 {
		return nil, nil
	}
	all, defaults := o.limits, 0
	if o.isGuarded() {
		all = strings.Split(defaultLimits, ", ")
		defaults = len(all)
		all = append(all, o.limits...)
	}
	given := map[string]bool{}
	for i, arg := range all {
		kind, text, _ := strings.Cut(arg, "=")
		if given[kind] {
			return nil, usagef("--limit %q: %s have a limit already", arg, kind)
		}
		given[kind] = i >= defaults
		var size byteSize
		n, err := strconv.ParseFloat(text, 64)
		if kind == "bytes" && err != nil {
			err = size.Set(text)
			n = float64(size)
		}
		if err != nil || !(n >= 0 && n <= 1e15) {
			return nil, usagef("--limit %q: want a rate such as requests=100 or bytes=10MB", arg)
		}
		if kind == "streams" && n != math.Trunc(n) {
			return nil, usagef("--limit %q: want a whole number of streams", arg)
		}
		switch kind {
		case "requests":
			rates.Requests = n
		case "events":
			rates.Events = n
		case "bytes":
			rates.Bytes = n
		case "streams":
			rates.Streams = int(n)
		default:
			return nil, usagef("--limit %q: want requests, events, bytes or streams", arg)
		}
	}
	return &rates, nil
}

// parseBehind returns the networks of --behind.
func (o *guardFlags) parseBehind() (all []netip.Prefix, err error) {
	for _, arg := range o.behind {
		p, err := netip.ParsePrefix(arg)
		if a, failed := netip.ParseAddr(arg); failed == nil {
			p, err = a.Prefix(a.BitLen())
		}
		switch {
		case err != nil:
			return nil, usagef("--behind %q: want an address or a network, such as 127.0.0.1 or 10.0.0.0/8", arg)
		case p.Bits() == 0:
			return nil, usagef("--behind %s: would believe everybody", arg)
		case p.Addr().Is4In6():
			return nil, usagef("--behind %s: write an address of IPv4 as such", arg)
		}
		all = append(all, p.Masked())
	}
	return all, nil
}

// openGuard returns the guard of a server, nil if it asks for no tokens.
func (o *guardFlags) openGuard(ctx context.Context, say *serveLog) (*auth.Guard, error) {
	if !o.isGuarded() {
		return nil, nil
	}
	public, err := parseGrants("--public", o.public)
	if err != nil {
		return nil, err
	}
	guard, err := auth.NewGuard(ctx, auth.Config{Keys: o.keys, JWKS: o.jwks, Revoked: o.revoked, Public: public,
		Issuer: o.issuer, Audience: o.audience, MaxAge: o.stale, Logger: say.Logger})
	switch {
	case err != nil && o.keys != "" && !exists(o.keys):
		return nil, &exitError{exitFailed, err.Error(), "\"rstream key new " + shellWord(o.keys) + "\" makes a key"}
	case err != nil && o.revoked != "" && !exists(o.revoked):
		return nil, &exitError{exitFailed, err.Error(), "an empty file revokes nothing: \"touch " + shellWord(o.revoked) + "\" makes one"}
	}
	if keys, failed := readKeys(o.keys); failed == nil && slices.ContainsFunc(keys, func(k auth.Key) bool { return k.CanSign() }) {
		say.a.warnIfExposed(o.keys)
	}
	return guard, err
}

// hasTLS reports whether the server serves https://.
func (o *guardFlags) hasTLS() bool { return o.tlsCert != "" || len(o.acmeNames) > 0 }

// secretFiles are what a server reads again when it changes: keys, revocations, certificates
// and their authorities. Each is nil until it is open, and stays nil if the server has none.
type secretFiles struct {
	guard atomic.Pointer[auth.Guard]
	tls   atomic.Pointer[serverTLS]
}

// startReading reads them again every few seconds, until stop.
func (f *secretFiles) startReading(ctx context.Context, say *serveLog) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	if g := f.guard.Load(); g != nil {
		reading.Go(func() { g.Run(ctx) })
	}
	if t := f.tls.Load(); t != nil {
		reading.Go(func() { t.watch(ctx, say) })
	}
	return func() {
		cancel()
		reading.Wait()
	}
}

// reload reads them at once.
func (f *secretFiles) reload(ctx context.Context) (err error) {
	if g := f.guard.Load(); g != nil {
		err = g.Reload(ctx)
	}
	if t := f.tls.Load(); t != nil {
		err = errors.Join(err, t.reload())
	}
	return err
}
