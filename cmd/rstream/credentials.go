package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/pflag"

	"github.com/rstream-dev/rstream/internal/auth"
)

// credentials say how to get the token for a server, which headers it gets, and how to check
// its certificate. Each setting can be a file or a command, and no token is a setting: command
// lines are public on a machine.
type credentials struct {
	headerArgs   []string    // of --header, or of the setting of a server in the config file
	headers      http.Header // of a server in the config file
	headerFiles  []string    // that headers are from
	tokenFile    string
	tokenCommand string
	ca           string
	clientCert   string
	clientKey    string
}

func (c *credentials) addCredentialFlags(f *pflag.FlagSet) {
	f.StringVar(&c.tokenFile, "token-file", "", "`FILE` with a token for the server; it is read before each request (default: the token in RSTREAM_TOKEN)")
	f.StringVar(&c.tokenCommand, "token-command", "", "shell `COMMAND` that prints a token for the server; it runs again when the token is about to expire, and each minute")
	f.StringArrayVar(&c.headerArgs, "header", nil, "send `HEADER`, such as 'X-Name: value', with each request to a server, or each line of @FILE; repeat for more")
	f.StringVar(&c.ca, "ca", "", "PEM `FILE` of the authorities that may have signed the server's certificate")
	f.StringVar(&c.clientCert, "client-cert", "", "PEM `FILE` of a certificate to send to the server")
	f.StringVar(&c.clientKey, "client-key", "", "PEM `FILE` of the key of --client-cert")
}

// tokenVariable is the environment variable that has a token.
const tokenVariable = "RSTREAM_TOKEN"

// credentialsOf returns the credentials for a server: those of the command line and the
// environment, or else those that the config file has for it.
func (a *app) credentialsOf(server string) credentials {
	c := a.credentials
	if a.source != nil && server == a.source.url {
		return c.orElse(a.source.credentials, "")
	}
	if a.settings == nil || a.settings.file == nil {
		return c
	}
	i := slices.IndexFunc(a.settings.file.servers, func(n namedServer) bool {
		return slices.ContainsFunc(n.urls, func(url string) bool { return strings.TrimRight(url, "/") == server })
	})
	if i < 0 {
		return c
	}
	return c.orElse(a.settings.file.servers[i].credentials, a.environmentToken())
}

// dropServerCredentials leaves only the credentials of the command line, and those that the
// config file has for the source that the command is about: those of the environment and of
// all servers are for the servers of the settings, and this address belongs to somebody else,
// who may well pretend to be a server of rstream.
func (a *app) dropServerCredentials() (err error) {
	a.stranger = true
	for flag, value := range map[string]*string{
		"token-file": &a.credentials.tokenFile, "token-command": &a.credentials.tokenCommand, "ca": &a.credentials.ca,
		"client-cert": &a.credentials.clientCert, "client-key": &a.credentials.clientKey,
	} {
		if a.settings.sourceOf(flag) != "" {
			*value = ""
		}
	}
	if a.settings.sourceOf("header") != "" {
		a.credentials.headerArgs, a.headers = nil, nil
	}
	a.tls, err = a.tlsConfig()
	return err
}

// serverOf returns the server of the settings that a URL is of, or below it.
func (a *app) serverOf(address string) (server string, ok bool) {
	for _, s := range a.knownServers() {
		if isBelow := address == s || strings.HasPrefix(address, s+"/"); isBelow && len(s) > len(server) {
			server, ok = s, true
		}
	}
	return server, ok
}

// knownServers returns the URLs of the servers in the settings.
func (a *app) knownServers() (servers []string) {
	servers = append(servers, a.servers...)
	if a.settings.file != nil {
		for _, named := range a.settings.file.servers {
			servers = append(servers, named.urls...)
		}
	}
	for i := range servers {
		servers[i] = strings.TrimRight(servers[i], "/")
	}
	return servers
}

// chooseServer makes the command one about a server of the settings.
func (a *app) chooseServer(server string) (err error) {
	a.servers = []string{server}
	if err := a.checkAuthorization(); err != nil {
		return err
	}
	a.tls, err = a.tlsConfig()
	return err
}

// environmentToken returns the token of the environment, "" if it is not for those that the command
// is about.
func (a *app) environmentToken() string {
	if a.stranger {
		return ""
	}
	return strings.TrimSpace(os.Getenv(tokenVariable))
}

// orElse returns the credentials of c, and those of own that neither c nor a token has.
func (c credentials) orElse(own credentials, token string) credentials {
	c.headers, c.headerFiles = own.headers, filesOfHeaders(own.headerArgs)
	if c.tokenFile == "" && c.tokenCommand == "" && token == "" {
		c.tokenFile, c.tokenCommand = own.tokenFile, own.tokenCommand
	}
	if c.ca == "" {
		c.ca = own.ca
	}
	if c.clientCert == "" && c.clientKey == "" {
		c.clientCert, c.clientKey = own.clientCert, own.clientKey
	}
	return c
}

// storedCredentials returns the credentials of the command line as the config file has them for the
// servers, or the source, of b: checked, and with names of files that mean the same in every folder.
func (a *app) storedCredentials(b *app) (credentials, error) {
	b.credentials, b.err, b.quiet = a.credentials, a.err, a.quiet
	if err := b.credentials.makeAbsolute(); err != nil {
		return credentials{}, err
	}
	if _, err := parseRequestHeaders(b.credentials.headerArgs); err != nil {
		return credentials{}, err
	}
	var err error
	b.tls, err = b.tlsConfig()
	return b.credentials, err
}

// credentialVariables returns the credentials for a server as environment variables of another
// process.
func (a *app) credentialVariables(server string) (env []string) {
	c := a.credentialsOf(server)
	add := func(flag, value string) {
		if value != "" {
			env = append(env, envName(flag)+"="+value)
		}
	}
	add("ca", c.ca)
	add("client-cert", c.clientCert)
	add("client-key", c.clientKey)
	var lines []string
	for name, values := range a.requestHeaders(server) {
		for _, value := range values {
			lines = append(lines, name+": "+value)
		}
	}
	add("header", strings.Join(lines, "\n"))
	if a.sendsHeader(server) {
		return env
	}
	add("token-file", c.tokenFile)
	add("token-command", c.tokenCommand)
	add("token", a.environmentToken())
	return env
}

// serverToken returns the token for a server, "" if there is none.
func (a *app) serverToken(ctx context.Context, server string) (string, error) {
	token, from, err := a.findToken(ctx, server)
	if err == nil {
		a.tokens.last.Store(&sentToken{token, from})
	}
	return token, err
}

// findToken returns the token for a server, and where it is.
func (a *app) findToken(ctx context.Context, server string) (token, from string, err error) {
	c := a.credentialsOf(server)
	switch {
	case a.sendsHeader(server):
		return "", "--header", nil
	case c.tokenFile != "":
		token, err = readTokenFile(c.tokenFile)
		if err != nil && a.tokens.last.Load() == nil { // later, it may be late
			err = usagef("--token-file: %w", err)
		}
		a.warnIfExposed(c.tokenFile)
		return token, c.tokenFile, err
	case c.tokenCommand != "":
		token, err = a.tokens.runCommand(ctx, c.tokenCommand)
		return token, "--token-command", err
	}
	if token, err = checkTokenText(a.environmentToken(), tokenVariable); err != nil {
		err = usagef("%w", err)
	}
	return token, tokenVariable, err
}

func readTokenFile(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	return checkToken(b, path)
}

// checkToken returns the token in the contents of a file or the output of a command. Its
// errors do not quote it.
func checkToken(b []byte, from string) (string, error) {
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", fmt.Errorf("%s has no token", from)
	}
	return checkTokenText(token, from)
}

func checkTokenText(token, from string) (string, error) {
	if len(token) > auth.MaxToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", fmt.Errorf("%s has more than a token", from)
	}
	return token, nil
}

// commandTokens caches the tokens that commands have printed, and has the last token that was sent.
type commandTokens struct {
	last atomic.Pointer[sentToken]

	mu    sync.Mutex
	token map[string]commandToken // by command
}

// A sentToken is a token, "" if none was sent, and where it was found.
type sentToken struct{ text, from string }

type commandToken struct {
	text string
	ends time.Time
}

const (
	// tokenAge is how long the token of a command is used, and tokenMargin how long before
	// it expires another one is asked for.
	tokenAge    = time.Minute
	tokenMargin = 30 * time.Second
	// tokenWait is how long a command may take.
	tokenWait = 30 * time.Second
)

// runCommand returns the token that a command prints.
func (t *commandTokens) runCommand(ctx context.Context, command string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last, ok := t.token[command]; ok && time.Now().Before(last.ends) {
		return last.text, nil
	}
	ctx, cancel := context.WithTimeout(ctx, tokenWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Stderr = os.Stderr      // it may have to ask for a password
	cmd.WaitDelay = time.Second // programs that the shell has started may keep the output open
	out, err := cmd.Output()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return "", fmt.Errorf("--token-command: printed no token within %s", tokenWait)
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) { // that is of a program in the background
		return "", fmt.Errorf("--token-command: %w", err)
	}
	token, err := checkToken(out, "the output of --token-command")
	if err != nil {
		return "", err
	}
	ends := time.Now().Add(tokenAge)
	if _, claims, err := auth.ReadToken(token); err == nil && claims.ExpiresAt != nil {
		if soon := claims.ExpiresAt.Add(-tokenMargin); soon.Before(ends) {
			ends = soon
		}
	}
	if t.token == nil {
		t.token = map[string]commandToken{}
	}
	t.token[command] = commandToken{token, ends}
	return token, nil
}

// tlsConfig returns how to check the servers' certificates, nil for the system's way. All
// servers of a command serve one log, and share their authorities.
func (a *app) tlsConfig() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	used := false
	servers := a.servers
	if a.source != nil {
		servers = []string{a.source.url}
	}
	for _, server := range servers {
		c := a.credentialsOf(server)
		if c.ca != "" {
			b, err := os.ReadFile(c.ca)
			if err != nil {
				return nil, usagef("--ca: %w", err)
			}
			if cfg.RootCAs == nil {
				cfg.RootCAs = x509.NewCertPool()
			}
			if !cfg.RootCAs.AppendCertsFromPEM(b) {
				return nil, usagef("--ca %s: has no certificate in PEM", c.ca)
			}
			used = true
		}
		if (c.clientCert == "") != (c.clientKey == "") {
			return nil, usagef("--client-cert and --client-key: want both or neither")
		}
		if c.clientCert != "" && len(cfg.Certificates) == 0 {
			pair, err := tls.LoadX509KeyPair(c.clientCert, c.clientKey)
			if err != nil {
				return nil, usagef("--client-cert %s: %w", c.clientCert, trimTLS(err))
			}
			a.warnIfExposed(c.clientKey)
			cfg.Certificates = []tls.Certificate{pair}
			used = true
		}
	}
	if !used {
		return nil, nil
	}
	return cfg, nil
}

// trimTLS removes the package's name from an error.
func trimTLS(err error) error {
	if text, ok := strings.CutPrefix(err.Error(), "tls: "); ok {
		return errors.New(text)
	}
	return err
}

// certificateFiles is a certificate that is read again when its files change.
type certificateFiles struct {
	certFile, keyFile string

	mu          sync.Mutex
	cert, key   []byte
	certificate *tls.Certificate
}

// load reads the files, and reports whether they have changed. After an error the old
// certificate stays.
func (c *certificateFiles) load() (changed bool, err error) {
	cert, err := auth.ReadSetting(c.certFile)
	if err != nil {
		return false, fmt.Errorf("read %s: %w", c.certFile, err)
	}
	key, err := auth.ReadSetting(c.keyFile)
	if err != nil {
		return false, fmt.Errorf("read %s: %w", c.keyFile, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if bytes.Equal(cert, c.cert) && bytes.Equal(key, c.key) {
		return false, nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return false, fmt.Errorf("%s, %s: %w", c.certFile, c.keyFile, trimTLS(err))
	}
	c.cert, c.key, c.certificate = cert, key, &pair
	return true, nil
}

func (c *certificateFiles) describe() (what, file string) { return "certificate", c.certFile }

// leafNames returns the names in the certificate.
func (c *certificateFiles) leafNames() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.certificate.Leaf.DNSNames
}

// get returns the certificate for a handshake.
func (c *certificateFiles) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.certificate, nil
}
