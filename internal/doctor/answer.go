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

// checkReach says whether anyone answered.
func checkReach(t *Transcript) Finding {
	const check = "reach"
	switch {
	case t.Err == nil:
		return ok(check, "connected to %s in %s, answered with %s", t.Address, brief(t.Connected), t.Proto)
	case t.Address == "":
		return checkConnect(t)
	case len(t.Hops) > maxHops:
		return found("redirect", Error, "ask for the last of them, or end the circle", "%d redirects and no answer; the last was to %s", len(t.Hops), t.Hops[len(t.Hops)-1])
	case isTimeout(t.Err):
		return found("head", Error, headAdvice, "connected to %s, and no head of an answer in %s", t.Address, brief(t.Ended))
	}
	return found(check, Error, "check that the port speaks HTTP, and look into the log of what listens there", "connected to %s, and no answer: %v", t.Address, plainly(t.Err))
}

// checkConnect says why there is no connection.
func checkConnect(t *Transcript) Finding {
	const check = "reach"
	var (
		dns    *net.DNSError
		cert   *tls.CertificateVerificationError
		record tls.RecordHeaderError
		alert  tls.AlertError
	)
	host := t.URL.Host
	if proxy := wire.AsProxyError(t.Err, t.URL); proxy != nil {
		proxy.Err = plainly(proxy.Err)
		return found(check, Error, "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY", "no connection to %s: %v", host, proxy)
	}
	switch err := t.Err; {
	case errors.As(err, &dns):
		return found(check, Error, "check the name, and the resolver of this machine", "the name %s cannot be resolved: %s", dns.Name, dns.Err)
	case errors.As(err, &cert):
		return found("tls", Error, "renew the certificate, send its whole chain, or trust its authority on this machine", "the certificate of %s is not good: %v", host, cert.Err)
	case errors.As(err, &record):
		return found("tls", Error, "use http://, or the port that speaks TLS", "%s does not speak TLS", host)
	case errors.As(err, &alert):
		return found("tls", Error, "check the name and the versions of TLS that the server takes", "%s refused: %v", host, alert)
	case errors.Is(err, syscall.ECONNREFUSED):
		return found(check, Error, "is the server running, and is this its port?", "%s refused the connection", host)
	case isTimeout(err):
		return found(check, Error, "check the address, and the firewalls on the way", "no connection to %s in %s", host, brief(t.Ended))
	}
	return found(check, Error, "check the address, and the network", "no connection to %s: %v", host, plainly(t.Err))
}

// headAdvice goes with heads that are late or never come.
const headAdvice = "the server must send its head at once and not with the first event (in Go: Flush), and no proxy may keep it: " + bufferAdvice

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errTimeUp) || errors.As(err, &timeout) && timeout.Timeout()
}

// plainly takes the words of system calls and of net/http out of an error.
func plainly(err error) error {
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

// checkRedirects says where the request was sent on to.
func checkRedirects(t *Transcript, asked *url.URL) []Finding {
	switch {
	case len(t.Hops) == 0:
		return nil
	case !sameOrigin(t.URL, asked):
		return []Finding{found("redirect", Warning, "ask for the last URL itself: credentials are not sent to another origin", "redirected to %s", strings.Join(t.Hops, ", then "))}
	}
	return []Finding{found("redirect", Note, "ask for the last URL itself: each reconnection pays for the redirects", "redirected to %s", strings.Join(t.Hops, ", then "))}
}

// checkTLS says how long the certificate is good.
func checkTLS(t *Transcript) []Finding {
	if t.TLSUntil.IsZero() {
		return nil
	}
	left := t.TLSUntil.Sub(t.Began)
	if left < 14*24*time.Hour {
		return []Finding{found("tls", Warning, "renew it", "the certificate ends in %s", brief(left))}
	}
	return []Finding{ok("tls", "the certificate is good for %d days", int(left.Hours()/24))}
}

// checkStatus says what the status means for a client of streams.
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
		return found(check, Error, "a client stops at 204 for good; the end that was asked for is reached", "%s", said)
	case s == http.StatusUnauthorized || s == http.StatusForbidden || s == http.StatusProxyAuthRequired:
		return found(check, Error, "give credentials: --header 'Authorization: Bearer …', or --header @FILE; if a Host or an Origin is not allowed, see docs/proxies.md", "%s", said)
	case s == http.StatusNotFound:
		return found(check, Error, "check the path; of an rstream server, give the root or /events?topic=…", "%s", said)
	case s == http.StatusNotAcceptable:
		return found(check, Error, "this path does not send text/event-stream", "%s", said)
	case s == http.StatusGone:
		return found(check, Error, "history was dropped: begin later", "%s", said)
	case s == http.StatusTooManyRequests:
		return found(check, Error, "come back later"+after(t), "%s", said)
	case s == http.StatusBadGateway || s == http.StatusServiceUnavailable || s == http.StatusGatewayTimeout:
		return found(check, Error, "a proxy did not reach the server behind it, or the server is not ready"+after(t), "%s", said)
	case s >= 500:
		return found(check, Error, "look into the log of the server", "%s", said)
	}
	return found(check, Error, "a stream is answered with 200; browsers give up for good on any other status", "%s", said)
}

func after(t *Transcript) string {
	if s := t.Header.Get("Retry-After"); s != "" {
		return "; it says Retry-After: " + short(s)
	}
	return ""
}

// complaint returns what an error in JSON or plain text says.
func (t *Transcript) complaint() string {
	var problem struct{ Title, Detail, Error, Message string }
	if json.Unmarshal(t.Body, &problem) == nil {
		for _, s := range []string{problem.Detail, problem.Message, problem.Error, problem.Title} {
			if s != "" {
				return cut(s, 200)
			}
		}
	}
	if media, _, _ := mime.ParseMediaType(t.Header.Get("Content-Type")); media == "text/plain" {
		line, _, _ := strings.Cut(string(t.Body), "\n")
		return cut(line, 200)
	}
	return ""
}

// checkType says whether the answer is a stream at all.
func checkType(t *Transcript) Finding {
	const check = "content-type"
	header := t.Header.Get("Content-Type")
	media, params, err := mime.ParseMediaType(header)
	body := strings.ToLower(string(t.Body))
	switch charset := params["charset"]; {
	case t.IsStream && charset != "" && !strings.EqualFold(charset, "utf-8"):
		return found(check, Warning, "an event stream is UTF-8 whatever the header says", "%s", short(header))
	case t.IsStream:
		return ok(check, "%s", short(header))
	case err == nil && media == "text/html" && strings.Contains(body, "password"):
		return found(check, Error, "this is a page to log in: give credentials with --header", "%s, with a password field in it", short(header))
	case err == nil && media == "text/html":
		return found(check, Error, "a web page answered: check the path, and that the proxy sends this path to the stream's server", "%s", short(header))
	case strings.HasSuffix(media, "json") && t.complaint() != "":
		return found(check, Error, "the server sends an error with status 200; clients see a broken stream", "%s: %s", short(header), t.complaint())
	case strings.HasPrefix(strings.TrimSpace(body), "data:") || strings.Contains(body, "\ndata:"):
		return found(check, Error, "the body looks like an event stream: its server must send Content-Type: text/event-stream", "%q", short(header))
	}
	return found(check, Error, "the server must send Content-Type: text/event-stream when Accept asks for it", "%q, %d bytes", short(header), len(t.Body))
}

// checkHead says whether the head came when the connection was there.
func checkHead(t *Transcript) Finding {
	took := t.Answered - t.Connected
	if took > 2*time.Second {
		return found("head", Warning, headAdvice, "the head of the answer came %s after the connection", brief(took))
	}
	return ok("head", "came %s after the connection", brief(took))
}

// checkLength says whether the body has an end that is known before.
func checkLength(t *Transcript) []Finding {
	const check = "length"
	switch {
	case t.Length >= 0:
		return []Finding{found(check, Error, "a stream has no Content-Length: something has gathered all of it before it sent it, "+bufferAdvice, "Content-Length: %d", t.Length)}
	case strings.HasPrefix(t.Proto, "HTTP/1.") && !t.Chunked:
		return []Finding{found(check, Note, "let the proxy speak HTTP/1.1 (nginx: proxy_http_version 1.1;)", "no chunks and no length: a body that was cut looks like one that has ended")}
	}
	return nil
}

// checkEncoding says whether the stream came plain, as it was asked for.
func checkEncoding(t *Transcript) []Finding {
	encoding := t.Header.Get("Content-Encoding")
	switch encoding {
	case "", "identity":
		return nil
	case gzipAnswers:
		return []Finding{found("encoding", Warning, "compress only for clients whose Accept-Encoding asks for it; an encoder must be flushed at each event", "Content-Encoding: gzip, though the request asked for none")}
	}
	return []Finding{found("encoding", Error, "compress only for clients whose Accept-Encoding asks for it", "Content-Encoding: %s, though the request asked for none", short(encoding))}
}

// checkCaching says whether caches and buffers on the way are told to leave the stream
// alone.
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
	// nginx does what this header says and takes it away.
	if t.Header.Get("X-Accel-Buffering") != "no" && !strings.HasPrefix(t.Header.Get("Server"), "nginx") {
		lacks = append(lacks, "X-Accel-Buffering: no")
	}
	advice := "send Cache-Control: no-cache, no-transform and X-Accel-Buffering: no: caches, encoders and nginx then leave the stream alone"
	switch age := t.Header.Get("Age"); {
	case age != "" && age != "0":
		return found(check, Error, "tell the cache to pass this path on", "Age: %s: a cache answered", short(age))
	case stores && !strings.Contains(cache, "no-store") && !strings.Contains(cache, "no-cache"):
		return found(check, Warning, advice, "Cache-Control: %s: caches may keep the stream", short(cache))
	case len(lacks) > 0:
		return found(check, Note, advice, "the head does not say %s (a proxy may have taken it away)", strings.Join(lacks, ", "))
	}
	return ok(check, "caches and buffers are told to leave the stream alone")
}

// checkProxies names what answered.
func checkProxies(t *Transcript) Finding {
	var names []string
	for _, name := range []string{"Server", "Via", "X-Powered-By", "X-Cache", "Cf-Ray"} {
		if v := t.Header.Get(name); v != "" {
			names = append(names, name+": "+short(v))
		}
	}
	if len(names) == 0 {
		return ok("proxies", "none names itself")
	}
	if t.isOurs() && isProxied(t.Header) {
		return found("proxies", Note, "see that it answers event streams with a 200 and retry:, or waits: docs/proxies.md",
			"%s; while the server restarts, a proxy that answers 502 ends each browser's EventSource for good, and whether this one does cannot be seen", strings.Join(names, "; "))
	}
	return ok("proxies", "%s", strings.Join(names, "; "))
}

// isProxied reports whether something in front of our server has put its name into an
// answer: the server itself names none.
func isProxied(h http.Header) bool { return h.Get("Via") != "" || h.Get("Server") != "" }

// checkClock compares the clocks.
func checkClock(t *Transcript) []Finding {
	const check = "clock"
	date, err := http.ParseTime(t.Header.Get("Date"))
	if err != nil {
		return []Finding{found(check, Note, "", "the head has no Date, so clocks cannot be compared")}
	}
	// Date has whole seconds, and was written somewhere between request and answer.
	early, late := date.Sub(t.Began.Add(t.Answered)), date.Add(time.Second).Sub(t.Began)
	apart, word := time.Duration(0), ""
	switch {
	case early > 0:
		apart, word = early, "ahead of"
	case late < 0:
		apart, word = -late, "behind"
	}
	advice := "set both clocks by NTP: ages such as --since 24h are counted by the server's"
	switch {
	case apart > time.Minute:
		return []Finding{found(check, Warning, advice, "the server's clock is %s %s ours", brief(apart), word)}
	case apart > 2*time.Second:
		return []Finding{found(check, Note, advice, "the server's clock is %s %s ours", brief(apart), word)}
	}
	return []Finding{ok(check, "the server's clock and ours agree to the second")}
}

// checkCompression says whether a stream that is compressed still arrives at once. plain is
// the same stream without.
func checkCompression(t, plain *Transcript) Finding {
	const check = "compression"
	encoding := t.Header.Get("Content-Encoding")
	switch {
	case t.Err != nil || !t.IsStream:
		return found(check, Warning, "an answer must not depend on Accept-Encoding but in its encoding", "asked for gzip, the answer is no stream: %s", t.outcome())
	case encoding == "" || encoding == "identity":
		return ok(check, "none, also if asked for")
	case encoding != gzipAnswers:
		return found(check, Warning, "send only encodings that Accept-Encoding names", "asked for gzip, the answer has Content-Encoding: %s", short(encoding))
	case len(t.Frames) > 0:
		return ok(check, "gzip works, the first block came after %s", brief(t.Frames[0].At))
	case t.End == dropped && !isTimeout(t.Cause):
		return found(check, Error, "compress the body as the head says, or not at all", "with gzip the stream breaks: %v", plainly(t.Cause))
	case len(plain.Frames) > 0 && plain.Frames[0].At < t.Ended/2:
		return found(check, Error, "flush the encoder at each event, or do not compress streams (nginx: leave text/event-stream out of gzip_types)", "with gzip nothing came in %s, without after %s", brief(t.Ended), brief(plain.Frames[0].At))
	}
	return found(check, Note, "", "gzip is sent, but nothing came in %s to see it work", brief(t.Ended))
}

// outcome says in a few words what came of a request.
func (t *Transcript) outcome() string {
	switch {
	case t.Err != nil && isTimeout(t.Err):
		return "no answer in " + brief(t.Ended)
	case t.Err != nil:
		return plainly(t.Err).Error()
	case t.IsStream:
		return "a stream"
	}
	s := strconv.Itoa(t.Status)
	if text := t.complaint(); text != "" {
		return s + " " + text
	}
	return s + " " + short(t.Header.Get("Content-Type"))
}

// brief writes a duration as a person reads it.
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

// isOurs reports whether an answer is of an rstream server.
func (t *Transcript) isOurs() bool { return event.ValidLogID(wire.LogOf(t.Header)) }
