//go:build unix

package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/rstream-dev/rstream/internal/auth"
)

func init() {
	// mkcert NAME: write ca.pem, and NAME.pem and NAME.key for this machine.
	commands["mkcert"] = cmdMakeCertificate
	// rename FILE NEW: rename a file over another, which no reader then sees half of.
	commands["rename"] = cmdRename
	// jti FILE...: print the jti of each token.
	commands["jti"] = cmdTokenID
	// secretfree FILE...: no other file of the script has a token or private key of these.
	commands["secretfree"] = cmdSecretFree
}

func cmdMakeCertificate(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 1, "mkcert NAME")
	now := time.Now()
	make := func(name string, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, []byte) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		ts.Check(err)
		c := &x509.Certificate{
			SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
			IsCA: parent == nil, BasicConstraintsValid: true, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		}
		if parent == nil {
			parent, signer = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
		ts.Check(err)
		return c, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	ca, signer, caPEM := make("a test's authority", nil, nil)
	_, key, certPEM := make(args[0], ca, signer)
	der, err := x509.MarshalECPrivateKey(key)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("ca.pem"), caPEM, 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".pem"), certPEM, 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600))
}

func cmdRename(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, "rename FILE NEW")
	ts.Check(os.Rename(ts.MkAbs(args[0]), ts.MkAbs(args[1])))
}

func cmdTokenID(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 1, "jti FILE...")
	for _, file := range args {
		_, claims, err := auth.ReadToken(strings.TrimSpace(ts.ReadFile(file)))
		ts.Check(err)
		fmt.Fprintln(ts.Stdout(), claims.ID)
	}
}

// privateParts finds the signature of a token, and the private members of a JWK.
var privateParts = regexp.MustCompile(`(?m)^[\w-]+\.[\w-]+\.([\w-]{40,})$|"(?:d|k)": *"([\w-]{40,})"`)

func cmdSecretFree(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 1, "secretfree FILE...")
	var secrets [][]byte
	for _, name := range args {
		parts := privateParts.FindStringSubmatch(ts.ReadFile(name))
		if parts == nil {
			ts.Fatalf("%s: no secret was found", name)
		}
		for i := range parts {
			if i > 0 && parts[i] != "" {
				secrets = append(secrets, []byte(parts[i]))
			}
		}
	}
	files := 0
	ts.Check(filepath.WalkDir(ts.MkAbs("."), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || slices.Contains(args, filepath.Base(path)) {
			return err
		}
		files++
		b, err := os.ReadFile(path)
		for _, secret := range secrets {
			if bytes.Contains(b, secret) {
				ts.Fatalf("%s has a secret", path)
			}
		}
		return err
	}))
	if files < 5 || len(secrets) < 2 {
		ts.Fatalf("%d files were searched for %d secrets", files, len(secrets))
	}
}
