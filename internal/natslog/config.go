package natslog

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/rstream-dev/rstream/event"
)

// Config configures Connect. URL and Stream are required.
type Config struct {
	// URL has the addresses of NATS servers, such as nats://127.0.0.1:4222 or
	// tls://nats.example.com, with commas between them. User and password, or a token in place
	// of the user, may be in it.
	URL string
	// Stream is the name of the stream: letters, digits, - and _.
	Stream string
	// Node is the name of this node in reports of others. If empty, the name of the host.
	Node string
	// Credentials is a file with a user's JWT and seed, NKey a file with a seed, and Token a
	// token. If empty, they are not used.
	Credentials, NKey, Token string
	// CA is a file with certificates to check the servers with, in place of the system's. Cert
	// and Key are files with the certificate that is sent, and its key. If empty, none.
	CA, Cert, Key string
	// SystemURL has addresses with the credentials of a user of the system account, and
	// SystemCredentials is its file as above. Only CheckDurable needs one of them.
	SystemURL, SystemCredentials string
	// Later has Connect return without a connection if no server answers: it is made when one
	// does.
	Later bool
	// Replicas is how many copies the stream must have. If zero, any number; Create makes 3.
	Replicas int
	// AppendWait is how long an append may take. If zero, 10 seconds.
	AppendWait time.Duration
	// LeaseTime is how long nothing is heard of the committer before another node takes its
	// place. If zero, 5 seconds.
	LeaseTime time.Duration
	// Wait is how long servers and nodes have to answer a question. If zero, or longer than that, some
	// seconds.
	Wait time.Duration
	// OnNews is called with changes that an operator may want to see, such as a new committer.
	// If nil, nothing is called.
	OnNews func(text string)
}

// A Creation says what log Create makes. The zero Creation is a new, empty log.
type Creation struct {
	// Log is the id of the log. If empty, a random one.
	Log string
	// Parent is the log from which this one is made, and ParentHead where the two part. If
	// empty, none.
	Parent     string
	ParentHead event.ID
	// Begin is the position at which the stream begins. Nodes need a file that has reached it.
	// The zero Point is the beginning of the log.
	Begin event.Point
}

// streamName is the form of a name that is also a part of subjects.
var streamName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// checkConfig refuses settings that are wrong, and completes addresses.
func (c *Config) checkConfig() (err error) {
	if c.URL, err = ParseAddresses(c.URL); err != nil {
		return fmt.Errorf("NATS servers: %w", err)
	}
	if c.SystemURL != "" {
		if c.SystemURL, err = ParseAddresses(c.SystemURL); err != nil {
			return fmt.Errorf("NATS servers of the system account: %w", err)
		}
	}
	switch {
	case !streamName.MatchString(c.Stream):
		return fmt.Errorf("stream %.80q: want letters, digits, - and _", c.Stream)
	case (c.Cert == "") != (c.Key == ""):
		return errors.New("a certificate needs its key, and a key its certificate")
	case c.Replicas < 0 || c.AppendWait < 0 || c.LeaseTime < 0 || c.Wait < 0:
		return errors.New("a number of the NATS settings is negative")
	}
	return nil
}

// setDefaults replaces zero values.
func (c *Config) setDefaults() {
	host, _ := os.Hostname() // or the name stays empty
	c.Node = cmp.Or(c.Node, host)
	c.AppendWait = cmp.Or(c.AppendWait, 10*time.Second)
	c.LeaseTime = cmp.Or(c.LeaseTime, 5*time.Second)
}

// within returns the usual time for an answer, or Wait if that is shorter.
func (c *Config) within(usual time.Duration) time.Duration {
	if c.Wait > 0 {
		return min(c.Wait, usual)
	}
	return usual
}

// options returns the options of a connection with credentials.
func (c *Config) options(credentials string) (options []nats.Option, err error) {
	options = []nats.Option{
		nats.Name("rstream " + c.Node),
		nats.Timeout(c.within(nats.DefaultTimeout)),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 100*time.Millisecond),
		nats.PingInterval(5 * time.Second), // a partition is noticed after two of them
		nats.ReconnectBufSize(-1),          // what cannot be sent now is sent again later, checked again
		nats.IgnoreAuthErrorAbort(),        // the servers may get new keys a moment after the nodes
	}
	if credentials != "" {
		if err := checkCredentials(credentials); err != nil {
			return nil, fmt.Errorf("read the NATS credentials %s: %w", credentials, err)
		}
		options = append(options, nats.UserCredentials(credentials))
	}
	if c.NKey != "" {
		option, err := nats.NkeyOptionFromSeed(c.NKey)
		if err != nil {
			return nil, fmt.Errorf("read the NATS key %s: %w", c.NKey, err)
		}
		options = append(options, option)
	}
	if c.Token != "" {
		options = append(options, nats.Token(c.Token))
	}
	if c.CA != "" {
		if err := checkAuthorities(c.CA); err != nil {
			return nil, fmt.Errorf("read the NATS authorities %s: %w", c.CA, err)
		}
		options = append(options, nats.RootCAs(c.CA))
	}
	if c.Cert != "" {
		if _, err := tls.LoadX509KeyPair(c.Cert, c.Key); err != nil {
			return nil, fmt.Errorf("read the NATS certificate: %w", err)
		}
		options = append(options, nats.ClientCert(c.Cert, c.Key))
	}
	return options, nil
}

// checkCredentials refuses a file that has no user of NATS. The library reads it with each
// connection, and would call it unreachable.
func checkCredentials(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return pathCause(err)
	}
	if _, err := nkeys.ParseDecoratedJWT(b); err != nil {
		return errors.New("it has no JWT of a user")
	}
	if _, err := nkeys.ParseDecoratedUserNKey(b); err != nil {
		return errors.New("it has no seed of a user")
	}
	return nil
}

// checkAuthorities refuses a file without certificates.
func checkAuthorities(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return pathCause(err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(b) {
		return errors.New("it has no certificate")
	}
	return nil
}

// pathCause returns the cause of an error that names a path.
func pathCause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// shown returns the addresses without secrets.
func (c *Config) shown() string { return ShownAddresses(c.URL) }
