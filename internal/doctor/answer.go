package doctor

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// checkReach checks that there was a response.
func checkReach(t *Transcript) Finding {
	const check = "reach"
	switch {
	case t.Err == nil:
		return ok(check, "connected to %s in %s, answered with %s", t.Address, brief(t.Connected), t.Proto)
	case t.Address == "":
		return checkConnect(t)
	case len(t.Hops) > maxHops:
		return newFinding("redirect", Error, "request the last URL directly, or fix the redirect loop", "%d redirects and no response; the last was to %s", len(t.Hops), t.Hops[len(t.Hops)-1])
	case isTimeout(t.Err):
		return newFinding("head", Error, headAdvice, "connected to %s, but no response head in %s", t.Address, brief(t.Ended))
	case isAlert(t.Err):
		return newFinding("tls", Error, "check whether the server asks for a certificate (--client-cert), and of which authority", "connected to %s, and the server ended TLS: %v", t.Address, shortCause(t.Err))
	}
	return newFinding(check, Error, "check that the port speaks HTTP, and see the log of the server that listens there", "connected to %s, but no response: %v", t.Address, shortCause(t.Err))
}

// isAlert reports whether err is an alert of TLS. In TLS 1.3 a server may refuse a client's
// certificate after the client has connected.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// checkConnect explains why there is no connection.
func checkConnect(t *Transcript) Finding {
	const check = "reach"
	var (
		dns    *net.DNSError
		cert   *tls.CertificateVerificationError
		record tls.RecordHeaderError
		alert  *net.OpError // of the other end; crypto/tls has no type for it
	)
	host := t.URL.Host
	if proxy := wire.AsProxyError(t.Err, t.URL); proxy != nil {
		proxy.Err = shortCause(proxy.Err)
		return newFinding(check, Error, "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY", "no connection to %s: %v", host, proxy)
	}
	switch err := t.Err; {
	case errors.As(err, &dns):
		return newFinding(check, Error, "check the name, and this machine's resolver", "the name %s cannot be resolved: %s", dns.Name, dns.Err)
	case errors.As(err, &cert):
		return newFinding("tls", Error, "renew the certificate, send its full chain, or trust its authority on this machine", "the certificate of %s is invalid: %v", host, cert.Err)
	case errors.As(err, &record):
		return newFinding("tls", Error, "use http://, or the port that speaks TLS", "%s does not speak TLS", host)
	case errors.As(err, &alert) && alert.Op == "remote error":
		return newFinding("tls", Error, "check the host name, the TLS versions that the server supports, and whether it asks for a certificate (--client-cert)",
			"%s refused the TLS handshake: %v", host, alert.Err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return newFinding(check, Error, "check that the server is running and listens on this port", "%s refused the connection", host)
	case isTimeout(err):
		return newFinding(check, Error, "check the address, and any firewalls on the path", "no connection to %s in %s", host, brief(t.Ended))
	}
	return newFinding(check, Error, "check the address and the network", "no connection to %s: %v", host, shortCause(t.Err))
}

// headAdvice is the advice for a response head that is late or missing.
const headAdvice = "the server must send the head at once, before the first event (in Go: Flush), and proxies must not hold it back: " + bufferAdvice

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errTimeUp) || errors.As(err, &timeout) && timeout.Timeout()
}

// shortCause removes the prefixes of system calls and of net/http from an error.
func shortCause(err error) error {
	var call *net.OpError
	switch {
	case errors.As(err, &call) && call.Err != nil:
		return call.Err
	case errors.Is(err, io.EOF):
		return errors.New("the connection was closed")
	}
	text := strings.TrimPrefix(err.Error(), "net/http: ")
	return errors.New(strings.TrimPrefix(text, "HTTP/1.x transport connection broken: "))
}

// checkRedirects reports where the request was redirected.
func checkRedirects(t *Transcript, asked *url.URL) []Finding {
	switch {
	case len(t.Hops) == 0:
		return nil
	case !hasSameOrigin(t.URL, asked):
		return []Finding{newFinding("redirect", Warning, "request the last URL directly: credentials are not sent to another origin", "redirected to %s", strings.Join(t.Hops, ", then "))}
	}
	return []Finding{newFinding("redirect", Note, "request the last URL directly: each reconnection repeats the redirects", "redirected to %s", strings.Join(t.Hops, ", then "))}
}

// checkTLS reports how long the certificate is valid.
func checkTLS(t *Transcript) []Finding {
	if t.TLSUntil.IsZero() {
		return nil
	}
	left := t.TLSUntil.Sub(t.Began)
	if left < 14*24*time.Hour {
		return []Finding{newFinding("tls", Warning, "renew the certificate", "the certificate expires in %s", brief(left))}
	}
	return []Finding{ok("tls", "the certificate is valid for %d days", int(left.Hours()/24))}
}

// checkStatus explains the status to a client of streams.
func checkStatus(t *Transcript) Finding {
	const check = "status"
	said := fmt.Sprintf("%d %s", t.Status, http.StatusText(t.Status))
	if text := t.complaint(); text != "" {
		said += ": " + text
	}
	switch s := t.Status; {
	case s == http.StatusOK:
		return ok(check, "%s", said)
	case s == http.StatusNoContent:
		return newFinding(check, Error, "clients stop for good at 204: the requested end of the stream was reached", "%s", said)
	case s == http.StatusForbidden && t.Header.Get("Rstream-Log") != "":
		return newFinding(check, Error, "name a topic that the token covers in --topic, or send another token; if a Host or an Origin is not allowed, see docs/proxies.md", "%s", said)
	case s == http.StatusUnauthorized || s == http.StatusForbidden || s == http.StatusProxyAuthRequired:
		return newFinding(check, Error, "send credentials with --header 'Authorization: Bearer …' or --header @FILE; if a Host or an Origin is not allowed, see docs/proxies.md", "%s", said)
	case s == http.StatusNotFound:
		return newFinding(check, Error, "check the path; for an rstream server, use its root or /events?topic=…", "%s", said)
	case s == http.StatusNotAcceptable:
		return newFinding(check, Error, "this path does not serve text/event-stream; check the path", "%s", said)
	case s == http.StatusGone:
		return newFinding(check, Error, "start at a later position: the history there was dropped", "%s", said)
	case s == http.StatusTooManyRequests:
		return newFinding(check, Error, "try again later"+retryAfterText(t), "%s", said)
	case s == http.StatusBadGateway || s == http.StatusServiceUnavailable || s == http.StatusGatewayTimeout:
		return newFinding(check, Error, "a proxy could not reach its server, or the server is not ready"+retryAfterText(t), "%s", said)
	case s >= 500:
		return newFinding(check, Error, "see the server's log", "%s", said)
	}
	return newFinding(check, Error, "a stream needs status 200: browsers never reconnect after any other", "%s", said)
}

func retryAfterText(t *Transcript) string {
	if s := t.Header.Get("Retry-After"); s != "" {
		return "; it sent Retry-After: " + shortenLine(s)
	}
	return ""
}

// complaint returns the message of an error in JSON or plain text, or "".
func (t *Transcript) complaint() string {
	var problem struct{ Title, Detail, Error, Message string }
	if json.Unmarshal(t.Body, &problem) == nil {
		for _, s := range []string{problem.Detail, problem.Message, problem.Error, problem.Title} {
			if s != "" {
				return shortenText(s, 200)
			}
		}
	}
	if media, _, _ := mime.ParseMediaType(t.Header.Get("Content-Type")); media == "text/plain" {
		line, _, _ := strings.Cut(string(t.Body), "\n")
		return shortenText(line, 200)
	}
	return ""
}

// checkType checks that the response is an event stream.
func checkType(t *Transcript) Finding {
	const check = "content-type"
	header := t.Header.Get("Content-Type")
	media, params, err := mime.ParseMediaType(header)
	body := strings.ToLower(string(t.Body))
	switch charset := params["charset"]; {
	case t.IsStream && charset != "" && !strings.EqualFold(charset, "utf-8"):
		return newFinding(check, Warning, "declare no charset but utf-8: clients decode event streams as UTF-8", "%s", shortenLine(header))
	case t.IsStream:
		return ok(check, "%s", shortenLine(header))
	case err == nil && media == "text/html" && strings.Contains(body, "password"):
		return newFinding(check, Error, "this is a login page: send credentials with --header", "%s with a password field", shortenLine(header))
	case err == nil && media == "text/html":
		return newFinding(check, Error, "this is a web page: check the path, and that the proxy routes it to the stream's server", "%s", shortenLine(header))
	case strings.HasSuffix(media, "json") && t.complaint() != "":
		return newFinding(check, Error, "the server must not send an error with status 200: clients see a broken stream", "%s: %s", shortenLine(header), t.complaint())
	case strings.HasPrefix(strings.TrimSpace(body), "data:") || strings.Contains(body, "\ndata:"):
		return newFinding(check, Error, "the body looks like an event stream: the server must send Content-Type: text/event-stream", "%q", shortenLine(header))
	}
	return newFinding(check, Error, "the server must send Content-Type: text/event-stream when Accept asks for it", "%q, %d bytes", shortenLine(header), len(t.Body))
}

// checkHead checks that the head came soon after the connection was made.
func checkHead(t *Transcript) Finding {
	took := t.Answered - t.Connected
	if took > 2*time.Second {
		return newFinding("head", Warning, headAdvice, "the response head came %s after the connection", brief(took))
	}
	return ok("head", "came %s after the connection", brief(took))
}

// checkLength checks that the body is of unknown length, and that its end can be detected.
func checkLength(t *Transcript) []Finding {
	const check = "length"
	switch {
	case t.Length >= 0:
		return []Finding{newFinding(check, Error, "a stream has no Content-Length: the server or a proxy collected the whole response first, "+bufferAdvice, "Content-Length: %d", t.Length)}
	case strings.HasPrefix(t.Proto, "HTTP/1.") && !t.Chunked:
		return []Finding{newFinding(check, Note, "make the proxy use HTTP/1.1 (nginx: proxy_http_version 1.1;)", "neither chunked nor of known length: a truncated body looks complete")}
	}
	return nil
}

// checkEncoding checks that the stream came without compression, as requested.
func checkEncoding(t *Transcript) []Finding {
	encoding := t.Header.Get("Content-Encoding")
	switch encoding {
	case "", "identity":
		return nil
	case gzipAnswers:
		return []Finding{newFinding("encoding", Warning, "compress only if Accept-Encoding allows it, and flush the encoder after each event", "Content-Encoding: gzip, though the request allowed no encoding")}
	}
	return []Finding{newFinding("encoding", Error, "compress only if Accept-Encoding allows it", "Content-Encoding: %s, though the request allowed no encoding", shortenLine(encoding))}
}

// checkCaching checks for the headers that keep caches and buffers from delaying the
// stream.
func checkCaching(t *Transcript) Finding {
	const check = "caching"
	cache := strings.ToLower(strings.Join(t.Header.Values("Cache-Control"), ", "))
	stores := strings.Contains(cache, "public") || strings.Contains(cache, "max-age=") && !strings.Contains(cache, "max-age=0")
	var lacks []string
	if !strings.Contains(cache, "no-cache") && !strings.Contains(cache, "no-store") {
		lacks = append(lacks, "Cache-Control: no-cache")
	}
	if !strings.Contains(cache, "no-transform") {
		lacks = append(lacks, "no-transform")
	}
	// nginx obeys this header and removes it.
	if t.Header.Get("X-Accel-Buffering") != "no" && !strings.HasPrefix(t.Header.Get("Server"), "nginx") {
		lacks = append(lacks, "X-Accel-Buffering: no")
	}
	advice := "send Cache-Control: no-cache, no-transform and X-Accel-Buffering: no, so that caches, encoders and nginx pass the stream on as it is"
	switch age := t.Header.Get("Age"); {
	case age != "" && age != "0":
		return newFinding(check, Error, "exclude this path from the cache", "Age: %s: the response came from a cache", shortenLine(age))
	case stores && !strings.Contains(cache, "no-store") && !strings.Contains(cache, "no-cache"):
		return newFinding(check, Warning, advice, "Cache-Control: %s: caches may keep the stream", shortenLine(cache))
	case len(lacks) > 0:
		return newFinding(check, Note, advice, "the head lacks %s (a proxy may have removed it)", strings.Join(lacks, ", "))
	}
	return ok(check, "the head forbids caching, transformation and buffering")
}

// checkProxies lists the programs that name themselves in the head.
func checkProxies(t *Transcript) Finding {
	var names []string
	for _, name := range []string{"Server", "Via", "X-Powered-By", "X-Cache", "Cf-Ray"} {
		if v := t.Header.Get(name); v != "" {
			names = append(names, name+": "+shortenLine(v))
		}
	}
	if len(names) == 0 {
		return ok("proxies", "none names itself")
	}
	if t.isOurs() && isProxied(t.Header) {
		return newFinding("proxies", Note, "make the proxy answer event streams with 200 and retry:, or wait for the server: docs/proxies.md",
			"%s; a proxy that answers 502 while the server restarts stops each browser's EventSource for good; doctor cannot see whether this one does", strings.Join(names, "; "))
	}
	return ok("proxies", "%s", strings.Join(names, "; "))
}

// isProxied reports whether a proxy in front of an rstream server has put its name into
// the head. The server itself names none.
func isProxied(h http.Header) bool { return h.Get("Via") != "" || h.Get("Server") != "" }

// checkClock compares the clocks.
func checkClock(t *Transcript) []Finding {
	const check = "clock"
	date, err := http.ParseTime(t.Header.Get("Date"))
	if err != nil {
		return []Finding{newFinding(check, Note, "", "the head has no Date, so clocks cannot be compared")}
	}
	// Date has whole seconds, and was written between the request and the response.
	early, late := date.Sub(t.Began.Add(t.Answered)), date.Add(time.Second).Sub(t.Began)
	apart, word := time.Duration(0), ""
	switch {
	case early > 0:
		apart, word = early, "ahead of"
	case late < 0:
		apart, word = -late, "behind"
	}
	advice := "synchronize both clocks with NTP: the server's clock resolves ages such as --since 24h"
	switch {
	case apart > time.Minute:
		return []Finding{newFinding(check, Warning, advice, "the server's clock is %s %s ours", brief(apart), word)}
	case apart > 2*time.Second:
		return []Finding{newFinding(check, Note, advice, "the server's clock is %s %s ours", brief(apart), word)}
	}
	return []Finding{ok(check, "the server's clock and ours agree to the second")}
}

// checkCompression checks that a compressed stream still arrives event by event. plain is
// the same stream without compression.
func checkCompression(t, plain *Transcript) Finding {
	const check = "compression"
	encoding := t.Header.Get("Content-Encoding")
	switch {
	case t.Err != nil || !t.IsStream:
		return newFinding(check, Warning, "Accept-Encoding must change nothing but the encoding of a response", "with Accept-Encoding: gzip, the response is not a stream: %s", t.outcome())
	case encoding == "" || encoding == "identity":
		return ok(check, "not compressed, even if requested")
	case encoding != gzipAnswers:
		return newFinding(check, Warning, "send only encodings that Accept-Encoding lists", "with Accept-Encoding: gzip, the response has Content-Encoding: %s", shortenLine(encoding))
	case len(t.Frames) > 0:
		return ok(check, "gzip works, the first block came after %s", brief(t.Frames[0].At))
	case t.End == dropped && !isTimeout(t.Cause):
		return newFinding(check, Error, "send the body in the encoding of the head, or disable compression", "with gzip the stream breaks: %v", shortCause(t.Cause))
	case len(plain.Frames) > 0 && plain.Frames[0].At < t.Ended/2:
		return newFinding(check, Error, "flush the encoder after each event, or do not compress streams (nginx: remove text/event-stream from gzip_types)", "with gzip nothing came in %s; without, the first block came after %s", brief(t.Ended), brief(plain.Frames[0].At))
	}
	return newFinding(check, Note, "", "the stream uses gzip, but nothing came in %s, so its delay is unknown", brief(t.Ended))
}

// outcome describes the result of a request in a few words.
func (t *Transcript) outcome() string {
	switch {
	case t.Err != nil && isTimeout(t.Err):
		return "no response in " + brief(t.Ended)
	case t.Err != nil:
		return shortCause(t.Err).Error()
	case t.IsStream:
		return "a stream"
	}
	s := strconv.Itoa(t.Status)
	if text := t.complaint(); text != "" {
		return s + " " + text
	}
	return s + " " + shortenLine(t.Header.Get("Content-Type"))
}

// brief formats a duration with as many digits as a reader needs.
func brief(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// isOurs reports whether the response comes from an rstream server.
func (t *Transcript) isOurs() bool { return event.ValidLogID(wire.LogOf(t.Header)) }
