package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/acme"

	"github.com/rstream-dev/rstream/internal/auth"
)

// A serverTLS is how a server speaks TLS: with a certificate of files or of an authority,
// and only to clients with a certificate if that is asked for.
type serverTLS struct {
	config *tls.Config
	files  *certificateFiles  // nil with --acme
	acme   *acmeCertificates  // nil without --acme
	admits *clientAuthorities // nil without --client-ca
}

// openTLS returns how a server speaks TLS, nil if it serves http://. Certificates of an
// authority are kept in a folder next to the log.
func (o *guardFlags) openTLS(db string, say *serveLog) (*serverTLS, error) {
	if !o.hasTLS() {
		return nil, nil
	}
	t := &serverTLS{config: &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}}
	if len(o.acmeNames) > 0 {
		t.acme = o.newACME(db, say)
		t.config.GetCertificate = t.acme.get
		t.config.NextProtos = append(t.config.NextProtos, acme.ALPNProto)
	} else {
		t.files = &certificateFiles{certFile: o.tlsCert, keyFile: o.tlsKey}
		if _, err := t.files.load(); err != nil {
			return nil, err
		}
		say.a.warnIfExposed(o.tlsKey)
		t.config.GetCertificate = t.files.get
	}
	if o.clientCA != "" {
		// A session that was resumed would be admitted by the authorities of its beginning.
		t.config.SessionTicketsDisabled = true
		t.admits = &clientAuthorities{file: o.clientCA, base: t.config.Clone()}
		if _, err := t.admits.load(); err != nil {
			return nil, err
		}
		t.config.GetConfigForClient = t.admits.configFor
	}
	return t, nil
}

// watch reads files again and renews certificates, until ctx ends.
func (t *serverTLS) watch(ctx context.Context, say *serveLog) {
	var watching sync.WaitGroup
	defer watching.Wait()
	if files := t.watchedFiles(); len(files) > 0 {
		watching.Go(func() { watchFiles(ctx, say, files) })
	}
	if t.acme != nil {
		watching.Go(func() { t.acme.keepCertificates(ctx) })
	}
}

// watchedFiles returns the files that are read again.
func (t *serverTLS) watchedFiles() (files []watchedFile) {
	if t.files != nil {
		files = append(files, t.files)
	}
	if t.admits != nil {
		files = append(files, t.admits)
	}
	return files
}

// reload reads the files again at once.
func (t *serverTLS) reload() (err error) {
	for _, f := range t.watchedFiles() {
		_, failed := f.load()
		err = errors.Join(err, failed)
	}
	return err
}

// A watchedFile is a setting that is read again when its files change. After an error the
// old setting stays.
type watchedFile interface {
	load() (changed bool, err error)
	describe() (what, file string)
}

// watchFiles reads files every few seconds until ctx ends.
func watchFiles(ctx context.Context, say *serveLog, files []watchedFile) {
	ticker := time.NewTicker(5 * time.Second)
	defer ticker.Stop()
	said := make([]string, len(files))
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			for i, f := range files {
				said[i] = logLoad(say, f, said[i])
			}
		}
	}
}

// logLoad reads a file, and logs that it has changed or cannot be used, unless said is the same error. It
// returns the error's text.
func logLoad(say *serveLog, f watchedFile, said string) string {
	what, file := f.describe()
	changed, err := f.load()
	if err != nil {
		if err.Error() != said {
			say.Error(what+": not reloaded; the old file stays in use", "error", err)
		}
		return err.Error()
	}
	if changed {
		say.Info(what+": read again", "file", file)
	}
	return ""
}

// clientAuthorities are the authorities that may have signed the certificates of clients.
type clientAuthorities struct {
	file string
	base *tls.Config

	mu     sync.Mutex
	pem    []byte
	config *tls.Config
}

func (c *clientAuthorities) describe() (what, file string) { return "authorities of clients", c.file }

// load reads the file, and reports whether it has changed. After an error the old
// authorities stay.
func (c *clientAuthorities) load() (changed bool, err error) {
	b, err := auth.ReadSetting(c.file)
	if err != nil {
		return false, fmt.Errorf("read %s: %w", c.file, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if bytes.Equal(b, c.pem) {
		return false, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return false, fmt.Errorf("read %s: has no certificate in PEM", c.file)
	}
	config := c.base.Clone()
	config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, pool
	c.pem, c.config = b, config
	return true, nil
}

// configFor returns the configuration for a handshake. The authority that checks our name
// has no certificate; net/http serves nothing over its protocol.
func (c *clientAuthorities) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if isChallenge(hello) {
		return nil, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.config, nil
}

// isChallenge reports whether a handshake is an authority's check of our name (RFC 8737).
func isChallenge(hello *tls.ClientHelloInfo) bool {
	return slices.Equal(hello.SupportedProtos, []string{acme.ALPNProto})
}
