package natslog

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/rstream-dev/rstream/internal/mirror"
)

// configured starts a server with a config file.
func configured(t *testing.T, config string) *server.Server {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nats.conf")
	writeFile(t, path, config+"\nlisten: 127.0.0.1:-1\nmax_payload: 2MB\n")
	o, err := server.ProcessConfigFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return newServer(t, func(d *server.Options) {
		o.NoSigs, o.NoLog = true, true
		if o.StoreDir == "" {
			o.StoreDir = t.TempDir()
		}
		o.JetStream = !strings.Contains(config, "jetstream: disabled")
		*d = *o
	})
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A node connects with each kind of credentials, and not with wrong ones, which no error
// shows.
func TestCredentials(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	public, err := user.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/nkey", string(seed))
	ca := makeCertificates(t, dir)
	operator, creds := makeCreds(t)
	writeFile(t, dir+"/creds", creds)
	for name, c := range map[string]struct {
		config     string
		good, bad  Config
		userInfo   string
		badAddress string
	}{
		"password": {config: `authorization { user: alice, password: "s3cret!" }`, userInfo: "alice:s3cret%21@", badAddress: "alice:Wr0ng@"},
		"token":    {config: `authorization { token: "s3cret-token" }`, good: Config{Token: "s3cret-token"}, bad: Config{Token: "Wr0ng"}},
		"nkey":     {config: `authorization { users: [{ nkey: ` + public + ` }] }`, good: Config{NKey: dir + "/nkey"}},
		"creds":    {config: operator, good: Config{Credentials: dir + "/creds"}},
		"tls": {config: fmt.Sprintf(`tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true }`, dir+"/cert.pem", dir+"/key.pem", ca),
			good: Config{CA: ca, Cert: dir + "/cert.pem", Key: dir + "/key.pem"}, bad: Config{CA: ca}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := configured(t, c.config)
			host := s.Addr().String()
			connect := func(cfg Config, userInfo string) error {
				cfg.URL, cfg.Stream, cfg.Replicas = "nats://"+userInfo+host, "log", 1
				l, err := Connect(t.Context(), cfg)
				if err != nil {
					return err
				}
				defer l.Close()
				if strings.Contains(l.String(), "s3cret") {
					t.Errorf("the name of the upstream shows the password: %s", l)
				}
				if _, _, err := l.Create(t.Context(), Creation{}); err != nil {
					return err
				}
				_, err = l.Describe(t.Context(), mirror.Position{})
				return err
			}
			if err := connect(c.good, c.userInfo); err != nil {
				t.Errorf("with credentials: %v", err)
			}
			err := connect(c.bad, c.badAddress)
			if err == nil {
				t.Error("connected with wrong credentials")
			} else if strings.Contains(err.Error(), "Wr0ng") {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
}

// makeCertificates makes a certificate that is its own authority, for servers and clients.
func makeCertificates(t *testing.T, dir string) (ca string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	writeFile(t, dir+"/key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	return dir + "/cert.pem"
}

// makeCreds returns the configuration of an operator with one account, and the creds of a user
// of it.
func makeCreds(t *testing.T) (config, creds string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	pair := func(create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
		k, err := create()
		must(err)
		public, err := k.PublicKey()
		must(err)
		return k, public
	}
	operator, operatorKey := pair(nkeys.CreateOperator)
	_, systemKey := pair(nkeys.CreateAccount)
	account, accountKey := pair(nkeys.CreateAccount)
	user, userKey := pair(nkeys.CreateUser)

	oc := jwt.NewOperatorClaims(operatorKey)
	oc.SystemAccount = systemKey
	operatorToken, err := oc.Encode(operator)
	must(err)
	systemToken, err := jwt.NewAccountClaims(systemKey).Encode(operator)
	must(err)
	ac := jwt.NewAccountClaims(accountKey)
	ac.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	accountToken, err := ac.Encode(operator)
	must(err)
	userToken, err := jwt.NewUserClaims(userKey).Encode(account)
	must(err)
	seed, err := user.Seed()
	must(err)
	file, err := jwt.FormatUserConfig(userToken, seed)
	must(err)
	config = fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: { %s: %s, %s: %s }\n",
		operatorToken, systemKey, systemKey, systemToken, accountKey, accountToken)
	return config, string(file)
}

// The system account says when a server syncs.
func TestCheckDurable(t *testing.T) {
	t.Parallel()
	const accounts = `
		accounts { SYS: { users: [{ user: sys, password: s }] }, APP: { jetstream: enabled, users: [{ user: app, password: a }] } }
		system_account: SYS
	`
	for name, want := range map[string]ServerSync{"always": {Always: true}, `"2m"`: {Interval: 2 * time.Minute}} {
		s := configured(t, accounts+fmt.Sprintf("jetstream { store_dir: %q, sync_interval: %s }", t.TempDir(), name))
		host := s.Addr().String()
		l, err := Connect(t.Context(), Config{URL: "nats://app:a@" + host, Stream: "log", SystemURL: "nats://sys:s@" + host})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		got, err := l.CheckDurable(t.Context(), nil)
		if err != nil || len(got) != 1 || got[0].Always != want.Always || !want.Always && got[0].Interval != want.Interval {
			t.Errorf("sync_interval %s: %+v, %v", name, got, err)
		}
		l.cfg.SystemURL = ""
		if _, err := l.CheckDurable(t.Context(), nil); err == nil {
			t.Error("it was known without the system account")
		}
	}
}

// A server without JetStream acknowledges nothing, so when it syncs does not count. If there is no other, it
// is not known.
func TestCheckDurableOfRouter(t *testing.T) {
	t.Parallel()
	const accounts = `
		accounts { SYS: { users: [{ user: sys, password: s }] }, APP: { users: [{ user: app, password: a }] } }
		system_account: SYS
	`
	routers := func(name string, routes ...string) *server.Server {
		return configured(t, accounts+fmt.Sprintf("server_name: %s\ncluster { name: c, listen: \"127.0.0.1:-1\", routes: [%s] }\njetstream: disabled", name, strings.Join(routes, ",")))
	}
	alone := routers("alone")
	l, err := Connect(t.Context(), Config{URL: "nats://app:a@" + alone.Addr().String(), Stream: "log", SystemURL: "nats://sys:s@" + alone.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var wrong *SetupError
	if got, err := l.CheckDurable(t.Context(), []string{"alone"}); !errors.As(err, &wrong) || !strings.Contains(err.Error(), "none of the NATS servers that answer has JetStream") {
		t.Errorf("of a server without JetStream: %+v, %v", got, err)
	}
	route := fmt.Sprintf("%q", "nats-route://"+alone.ClusterAddr().String())
	configured(t, accounts+fmt.Sprintf("server_name: stores\ncluster { name: c, listen: \"127.0.0.1:-1\", routes: [%s] }\njetstream { store_dir: %q, sync_interval: always }", route, t.TempDir()))
	await(t, "the servers have a route", func() bool { return alone.NumRoutes() > 0 })
	got, err := l.CheckDurable(t.Context(), []string{"alone", "stores"})
	if err != nil || len(got) != 1 || got[0].Server != "stores" || !got[0].Always {
		t.Errorf("of both servers: %+v, %v", got, err)
	}
}

// An error of the system account names its servers, and says which user is refused.
func TestSystemAccountRefused(t *testing.T) {
	t.Parallel()
	s := configured(t, `accounts { SYS: { users: [{ user: sys, password: s }] }, APP: { users: [{ user: app, password: a }, { user: none, password: n, permissions: { publish: { deny: ">" } } }] } }
		system_account: SYS`)
	host := s.Addr().String()
	l, err := Connect(t.Context(), Config{URL: "nats://app:a@" + host, Stream: "log"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for user, want := range map[string]string{
		"sys:wrong": host + " refuses the credentials: ",
		"none:n":    host + ` does not allow this user to publish to "$SYS.REQ.SERVER.PING.VARZ"`,
	} {
		l.cfg.SystemURL = "nats://" + user + "@" + host
		_, err := l.CheckDurable(t.Context(), nil)
		var refused *RefusedError
		if !errors.As(err, &refused) || !refused.System || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", user, err, want)
		}
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	l.cfg.SystemURL = "nats://" + closed.Addr().String()
	var away *mirror.UnreachableError
	if _, err := l.CheckDurable(t.Context(), nil); !errors.As(err, &away) || away.URL != l.cfg.SystemURL {
		t.Errorf("nobody is there: %v", err)
	}
}

// A server that is too old, or takes too small messages, is refused.
func TestServerRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(o *server.Options) { o.MaxPayload = 1 << 20 })
	l, err := Connect(t.Context(), newConfig(t, s.ClientURL(), "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, _, err := l.Create(t.Context(), Creation{}); err == nil || !strings.Contains(err.Error(), "max_payload") {
		t.Errorf("a small max_payload: %v", err)
	}
	for version, ok := range map[string]bool{"2.14.9": false, "2.15.0": true, "2.15.3-beta.1": true, "3.0.0": true, "1.9.0": false, "dev": false} {
		if err := checkVersion(version); (err == nil) != ok {
			t.Errorf("version %s: %v", version, err)
		}
	}
}
