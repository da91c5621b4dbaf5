package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/internal/deliver"
	"github.com/rstream-dev/rstream/internal/wire"
)

// hintFor returns what to do about err, "" if there is no advice.
func hintFor(cmd *cobra.Command, err error) string {
	for _, hint := range typeHints {
		if text, ok := hint(cmd, err); ok {
			return text
		}
	}
	for _, h := range valueHints {
		if errors.Is(err, h.err) {
			return h.text
		}
	}
	return ""
}

// A typeHint returns the hint for one type of error. ok is false if err is not of that
// type or the hint is not known.
type typeHint func(cmd *cobra.Command, err error) (text string, ok bool)

// hintAs makes a typeHint for errors of type E. An empty text is no hint.
func hintAs[E error](text func(cmd *cobra.Command, e E) string) typeHint {
	return func(cmd *cobra.Command, err error) (string, bool) {
		var e E
		if !errors.As(err, &e) {
			return "", false
		}
		t := text(cmd, e)
		return t, t != ""
	}
}

// typeHints are tried before valueHints, and the first match counts: an error about a
// server may wrap one of the network.
var typeHints = []typeHint{
	hintAs(func(_ *cobra.Command, e *claimError) string { return e.hint }),
	hintOfExit,
	hintAs(func(_ *cobra.Command, e *carriedError) string {
		return fmt.Sprintf("continue with --cache %s; %s is unchanged", shellWord(e.path), e.old)
	}),
	hintAs(func(_ *cobra.Command, e *uncarriedError) string { return e.hint() }),
	hintAs(hintOfUsage),
	hintAs(hintOfGap),
	hintAs(hintOfOtherLog),
	hintOfUnreachable,
	hintAs(func(*cobra.Command, *client.RolledBackError) string {
		return "put the right file back on the server; if it is lost, run \"rstream serve --as-new-log\" once. This copy, its outbox and its cursors are unchanged"
	}),
	hintAs(func(_ *cobra.Command, e *client.HeldUpError) string {
		return fmt.Sprintf("\"rstream outbox drop %d\" gives it up; those after it are sent then", e.Number)
	}),
	hintAs(func(_ *cobra.Command, e *client.StatusError) string {
		switch {
		case e.Status == http.StatusConflict:
			return "\"rstream status\" shows where the server's log ends"
		case e.Status == http.StatusUnauthorized && !e.FromLog:
			return "something in front of the server asks for credentials; put them into its URL, as in http://user:password@host"
		case e.Status == http.StatusUnauthorized:
			return unauthorizedHint
		case e.Status == http.StatusForbidden && e.FromLog && strings.HasPrefix(e.Detail, "host "):
			return "the server listens on its own machine only; a proxy in front of it must send \"Host: localhost\""
		case e.Status == http.StatusForbidden && e.FromLog:
			return forbiddenHint
		case e.Status == http.StatusProxyAuthRequired:
			return proxyAuthHint
		case e.Status == http.StatusForbidden:
			return "something in front of the server refuses this; if it wants a header, send that with --header"
		}
		return ""
	}),
	hintAs(func(*cobra.Command, *forbiddenError) string { return forbiddenHint }),
	hintAs(func(_ *cobra.Command, e *client.ShortenedError) string {
		return fmt.Sprintf("a proxy or filter cuts answers; \"rstream doctor %s\" checks the path to the server", shellWord(wire.RedactURL(e.URL)))
	}),
	hintAs(func(*cobra.Command, *cache.RoomError) string {
		return "free space, or move the file and its -wal file to a larger disk. It is unchanged: back it up before its upgrade"
	}),
	hintAs(func(*cobra.Command, *client.MismatchError) string { return repairHint }),
	hintAs(func(*cobra.Command, *differsError) string { return repairHint }),
	hintAs(func(cmd *cobra.Command, e *cache.HeldAsError) string {
		if f := cmd.Flags().Lookup("before"); f != nil && f.Changed {
			return fmt.Sprintf("\"rstream forget %s --before %s\" forgets all of it up to there", shellWord(e.As.String()), shellWord(f.Value.String()))
		}
		return fmt.Sprintf("\"rstream forget %s\" forgets all of it", shellWord(e.As.String()))
	}),
	hintAs(func(*cobra.Command, *deliver.PrivateError) string {
		return "if that is intended, allow it with --allow-private"
	}),
	hintAs(func(_ *cobra.Command, e *cache.NeededError) string {
		if e.Unread {
			return fmt.Sprintf("its next tail does them; \"rstream cursor rm %s\" gives them up", shellWord(e.Cursor))
		}
		return fmt.Sprintf("\"rstream dead list --name %s\" lists them; \"rstream cursor rm %s\" gives them up", shellWord(e.Cursor), shellWord(e.Cursor))
	}),
	hintAs(func(cmd *cobra.Command, e *client.ProtocolError) string {
		if rest, plain := strings.CutPrefix(e.URL, "http://"); plain && strings.Contains(e.Error(), plainToTLS) {
			return "use https://" + wire.RedactURL(rest)
		}
		return fmt.Sprintf("\"rstream doctor %s\" shows what answers there", shellWord(wire.RedactURL(e.URL))) + sourcesHint(cmd, serverAnnotation)
	}),
	hintAs(func(cmd *cobra.Command, _ *client.DifferentLogsError) string {
		return "use servers of one log" + sourcesHint(cmd, serverAnnotation)
	}),
	hintOfInput,
	hintOfBackup,
	hintOfRole,
	hintOfDamage,
	hintOfLocked,
}

// The hints for a damaged file: a log exists nowhere else, a copy does.
const (
	salvageHint = "\"rstream salvage FILE OUT\" writes the events that can be read"
	damageHint  = "\"rstream verify --offline --db FILE\" lists the damaged parts; " + salvageHint
	copyHint    = "a copy: \"rstream verify --repair\" or move it away and sync again; keep the file of a server; " + salvageHint
)

// hintOfDamage is for commands that open a server's file.
func hintOfDamage(cmd *cobra.Command, err error) (text string, ok bool) {
	if cmd == nil || !errors.Is(err, cache.ErrCorrupt) {
		return "", false
	}
	f := cmd.Flags().Lookup("db")
	return damageHint, f != nil && (cmd.Name() != "verify" || f.Changed)
}

// hintOfLocked is for commands that change the file of a server otherwise than by serving it.
func hintOfLocked(cmd *cobra.Command, err error) (text string, ok bool) {
	if cmd == nil || !errors.Is(err, cache.ErrLocked) || cmd.Flags().Lookup("db") != nil {
		return "", false
	}
	return "stop the server, and run the command again", true
}

const repairHint = "\"rstream verify --repair\" fetches the differing blocks again"

// valueHints are the hints for errors without a type of their own.
var valueHints = []struct {
	err  error
	text string
}{
	{cache.ErrInUse, "stop the tail or sync that is running, and run the command again"},
	{syscall.EADDRINUSE, "is a server running already? another program listens there; --listen 127.0.0.1:0 picks a free port"},
	{cache.ErrNewer, "upgrade rstream, or name another file"},
	{cache.ErrNoIdentity, "put its -wal file back next to it; to start a new one, move the file away"},
	{cache.ErrOlder, "run any command on it as a user who may write it; or copy it, with its -wal file, to a writable folder"},
	{cache.ErrServedOlder, "stop that server and start this version, which upgrades the file. Back the file up before"},
	{cache.ErrLinked, "the -wal file was removed, or the server uses another name; name the file as the server does, or ask the server"},
	{cache.ErrOtherWAL, "move the -wal file away; keep it with the file that it is of"},
	{cache.ErrOnlyWAL, "put the file back next to it; to start a new one, move the -wal file away"},
	{cache.ErrNotCache, "name a file that rstream made, or one that does not exist yet; \"rstream salvage\" reads the events of a damaged one"},
	{cache.ErrMirror, "serve it with --mirror URL, or a node's file with --nats URL; with --as-new-log it becomes a log of its own"},
	{cache.ErrNotMirror, "name another file with --db: a mirror has its own"},
	{cache.ErrOtherTopics, "a mirror keeps its topics: name those, or another file with --db"},
	{cache.ErrPartMirror, "only a mirror of all topics can take the place of its server"},
	{cache.ErrLocked, "stop the other server, or name another file with --db"},
	{cache.ErrDamagedCursor, "set it again: rstream cursor set NAME MOMENT TOPIC"},
	{cache.ErrCorrupt, copyHint},
	{cache.ErrHeld, "only one process can use a cursor; choose another --name"},
	{cache.ErrUnfinished, "continue with --exec, --pipe or --webhook; or leave those events out: rstream cursor set NAME MOMENT"},
	{cache.ErrNoDeadLetter, "\"rstream dead\" lists dead letters"},
	{cache.ErrNoCursor, "\"rstream cursor\" lists cursors; \"rstream cursor set NAME MOMENT TOPIC\" creates one"},
	{cache.ErrIO, "the disk is full, or a file size limit reached; no acknowledged event is lost"},
	{cache.ErrFull, "free some space and run the command again"},
	{fs.ErrPermission, writableHint},
	{syscall.EROFS, writableHint},
}

const writableHint = "name a file in a writable folder with --cache FILE (serve: --db)"

// hintOfExit also returns ok for an empty hint: the error then needs none.
func hintOfExit(_ *cobra.Command, err error) (text string, ok bool) {
	var exit *exitError
	if !errors.As(err, &exit) {
		return "", false
	}
	return exit.hint, true
}

// hintOfInput returns an empty hint: the error already says what to do.
func hintOfInput(_ *cobra.Command, err error) (text string, ok bool) {
	var input *inputError
	return "", errors.As(err, &input)
}

func hintOfBackup(cmd *cobra.Command, err error) (text string, ok bool) {
	if cmd == nil || cmd.Name() != "backup" || !errors.Is(err, fs.ErrPermission) {
		return "", false
	}
	return "use a file in a writable folder", true
}

// hintOfRole names the kind of file that a command takes.
func hintOfRole(cmd *cobra.Command, err error) (text string, ok bool) {
	switch {
	case cmd == nil || !errors.Is(err, cache.ErrRole):
		return "", false
	case cmd.Flags().Lookup("db") != nil:
		return "name a server's log with --db; \"rstream log\" and \"rstream export\" read copies", true
	}
	return "name the file of a copy with --cache, or leave --cache out", true
}

func hintOfUsage(cmd *cobra.Command, _ *usageError) string {
	if cmd == nil {
		return ""
	}
	return fmt.Sprintf("see \"%s --help\"", cmd.CommandPath()) + sourcesHint(cmd, sourcesAnnotation)
}

func hintOfGap(cmd *cobra.Command, gap *client.GapError) string {
	if cmd != nil && (cmd.Name() == "state" || cmd.Name() == "get") {
		return "the oldest state on the server is --at " + gap.Oldest.String()
	}
	if f := nameFlag(cmd); f != nil && f.Changed {
		return "the server keeps only later history; \"rstream cursor set " + shellWord(f.Value.String()) + " " + gap.Oldest.String() + "\" goes on there" + skipHint(cmd)
	}
	return "the server keeps only later history; start again with --since " + gap.Oldest.String() + skipHint(cmd)
}

// nameFlag returns the flag that names a cursor, nil if the command has none.
func nameFlag(cmd *cobra.Command) *pflag.Flag {
	if cmd == nil || cmd.Name() != "tail" {
		return nil
	}
	return cmd.Flags().Lookup("name")
}

func hintOfOtherLog(cmd *cobra.Command, other *client.OtherLogError) string {
	if !cacheNamed(cmd) {
		if cmd != nil && cmd.Name() == "status" { // it makes no copy
			return "\"rstream sync TOPIC\" makes a copy of the new log; or name the old server with --server"
		}
		return "run the command again to continue with a copy of the new log; or name the old server with --server"
	}
	return "name another file with --cache; or name the server of this log with --server; to start a new copy with the events of this one: " +
		moveCommand(cmd.Flags().Lookup("cache").Value.String(), "--cache NEW --server "+shellWord(wire.RedactURL(other.URL)))
}

const proxyAuthHint = "the proxy wants a user and a password; put them into its URL"

// wantsProxyAuth reports whether a proxy has refused to connect to a server of https without a
// password. net/http has no type for that error, which is the text of the status.
func wantsProxyAuth(err error) bool {
	return err.Error() == http.StatusText(http.StatusProxyAuthRequired)
}

func hintOfUnreachable(cmd *cobra.Command, err error) (text string, ok bool) {
	var unreachable *client.UnreachableError
	var proxy *client.ProxyError
	if !errors.As(err, &unreachable) {
		return "", false
	}
	if text := hintOfTLS(err, unreachable.URL); text != "" {
		return text, true
	}
	switch {
	case wantsProxyAuth(unreachable.Err):
		return proxyAuthHint, true
	case errors.As(err, &proxy):
		return "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY", true
	case errors.Is(err, syscall.ECONNREFUSED):
		return "is a server running? start one with \"rstream serve\"; or name one with --server URL" + sourcesHint(cmd, serverAnnotation), true
	}
	return "check the name and the network; or name another server with --server URL" + sourcesHint(cmd, serverAnnotation), true
}

// What crypto/tls, which has no types for them, says of the alerts of a server that gets no
// client certificate: certificateRequired of TLS 1.3, and handshakeFailure of TLS 1.2, which can
// have other reasons.
const (
	certificateRequired = "tls: certificate required"
	handshakeFailure    = "tls: handshake failure"
)

// plainToTLS is what Go's servers of https answer to a request without TLS.
const plainToTLS = "Client sent an HTTP request to an HTTPS server"

// unacceptable are its alerts if it does not accept the certificate that it gets.
var unacceptable = []string{"tls: bad certificate", "tls: unknown certificate authority", "tls: expired certificate", "tls: revoked certificate", "tls: unsupported certificate", "tls: unknown certificate"}

// hintOfTLS returns what to do about an error of TLS with a URL, "" if err is of something else.
func hintOfTLS(err error, address string) string {
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	switch isTLS := strings.HasPrefix(address, "https://"); {
	case errors.As(err, new(x509.UnknownAuthorityError)):
		return "if your own authority signed its certificate, name that in --ca"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "if the clock here is right, the server needs a new certificate"
	case errors.As(err, &name) && len(namesIn(name.Certificate)) > 0:
		return "the certificate is for " + strings.Join(namesIn(name.Certificate), ", ") + "; use that name in the URL"
	case errors.As(err, &name):
		return "the server needs a certificate for the name in the URL"
	case strings.Contains(err.Error(), certificateRequired):
		return "the server asks for a certificate; name yours in --client-cert, and its key in --client-key"
	case isTLS && slices.ContainsFunc(unacceptable, func(alert string) bool { return strings.HasSuffix(err.Error(), alert) }):
		return "the server does not accept the certificate in --client-cert; check who has signed it, and that it has not expired"
	case isTLS && (strings.Contains(err.Error(), handshakeFailure) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)):
		return "if the server wants a certificate, name it in --client-cert; name its key in --client-key"
	}
	return ""
}

// hostName matches names of hosts, as certificates have them.
var hostName = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9_.-]+$`)

// namesIn returns the names of hosts in a certificate, at most five. Nobody has verified it: other text
// among them could pass for a hint.
func namesIn(certificate *x509.Certificate) (names []string) {
	for _, name := range certificate.DNSNames {
		if len(names) < 5 && hostName.MatchString(name) {
			names = append(names, name)
		}
	}
	return names
}

// sourcesHint names the flags that were not set on the command line.
func sourcesHint(cmd *cobra.Command, annotation string) string {
	if cmd == nil || cmd.Annotations[annotation] == "" {
		return ""
	}
	return "; " + cmd.Annotations[annotation]
}

// skipHint offers --skip-gap, for commands that have it.
func skipHint(cmd *cobra.Command) string {
	if cmd == nil || cmd.Flags().Lookup("skip-gap") == nil {
		return ""
	}
	return ", or skip the gap with --skip-gap"
}

// cacheNamed reports whether the user chose the file of the copy.
func cacheNamed(cmd *cobra.Command) bool {
	if cmd == nil {
		return false
	}
	f := cmd.Flags().Lookup("cache")
	return f != nil && f.Changed
}
