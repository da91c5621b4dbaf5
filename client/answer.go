package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/rstream-dev/rstream/internal/wire"
)

// silentTime is how long the first response may take before OnSilence is called.
const silentTime = 2 * time.Second

// watchSilence calls OnSilence if no response begins in time. The caller calls answered
// when one has begun, or none will.
func (c *Client) watchSilence(base string) (answered func()) {
	if c.cfg.OnSilence == nil || c.everReached() {
		return func() {}
	}
	timer := time.AfterFunc(silentTime, func() {
		c.mu.Lock()
		first := !c.silent && !c.reached
		c.silent = true
		c.mu.Unlock()
		if first {
			c.cfg.OnSilence(publicURL(base))
		}
	})
	return func() { timer.Stop() }
}

// fromStranger reports whether status is one that an rstream server sends only together
// with the name of its log, and that proxies in front of it do not send.
func fromStranger(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusGone,
		http.StatusMisdirectedRequest, http.StatusUpgradeRequired, http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return true
	}
	return false
}

// noAnswer returns the error of a request that got no HTTP response. If the first thing
// that answers speaks another protocol, retrying cannot help.
func (c *Client) noAnswer(ctx context.Context, base string, err error, sent bool) error {
	if reason := otherProtocol(err); reason != "" && !c.everReached() {
		return &ProtocolError{base, "is not an rstream server: " + reason}
	}
	target, _ := url.Parse(base) // cannot fail: New has parsed it before
	if proxy := wire.AsProxyError(err, target); proxy != nil {
		return &UnreachableError{URL: base, Err: &ProxyError{proxy.Proxy, trimNetError(proxy.Err)}}
	}
	if err = c.findAlert(ctx, base, err); isRefusedHandshake(err) {
		return &UnreachableError{URL: base, Err: trimNetError(err), unread: true}
	}
	return &UnreachableError{URL: base, Err: trimNetError(err), sent: sent}
}

// otherProtocol says which protocol the other end speaks if it is not that of the URL,
// and returns "" if err is about something else, such as a status line that was cut: net/http
// reports its beginning as a malformed response, for which it has no error type.
func otherProtocol(err error) string {
	var record tls.RecordHeaderError
	switch {
	case errors.Is(err, http.ErrSchemeMismatch):
		return "it does not speak TLS; use http:// in place of https://"
	case errors.As(err, &record):
		return "it speaks neither TLS nor HTTP"
	}
	_, what, malformed := strings.Cut(err.Error(), "malformed HTTP ")
	quoted, isLine := strings.CutPrefix(what, "response ")
	line, _ := strconv.Unquote(quoted)
	switch {
	case !malformed, isCutStatus(what):
		return ""
	case !isLine:
		return "it does not speak HTTP"
	case strings.HasPrefix(line, "\x15\x03"): // a TLS alert
		return "it speaks TLS; use https:// in place of http://"
	}
	return fmt.Sprintf("it answers %.60s, which is not HTTP", quoted)
}

// isCutStatus reports whether the part that net/http calls malformed may be the beginning of
// "HTTP/1.1 200": a response without a space, or a status code of fewer than three digits.
func isCutStatus(what string) bool {
	const version = "HTTP/1.1"
	if quoted, ok := strings.CutPrefix(what, "response "); ok {
		line, err := strconv.Unquote(quoted)
		return err == nil && strings.HasPrefix(version, line)
	}
	quoted, ok := strings.CutPrefix(what, "status code ")
	code, err := strconv.Unquote(quoted)
	return ok && err == nil && len(code) < 3 && strings.Trim(code, "0123456789") == ""
}

// trimNetError removes the method, the URL, the addresses and the system call from an
// error of net/http. Callers add the server and the request.
func trimNetError(err error) error {
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		err = call.Err
	}
	switch {
	case err == io.EOF:
		return errNoAnswer
	case err.Error() == "net/http: timeout awaiting response headers": // it has no error of its own
		return errLateAnswer
	}
	return err
}

// errLateAnswer replaces the error of a response that has not begun in time.
var errLateAnswer = errors.New("no answer in time")

// errNoAnswer replaces an io.EOF that came in place of a response.
var errNoAnswer = errors.New("the connection was closed without an answer")
