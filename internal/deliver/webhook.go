package deliver

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A WebhookConfig configures a Webhook. URL is required.
type WebhookConfig struct {
	URL string
	// Secret signs each request, as Standard Webhooks specify: whsec_ and base64, or any
	// bytes. If empty, requests are not signed.
	Secret string
	// Private allows addresses of this machine and of private networks, and the proxy that the
	// environment names: which addresses that one connects to cannot be checked.
	Private bool
	// Lines sends NDJSON also for a single event.
	Lines bool
	// Workers is how many connections are kept.
	Workers   int
	UserAgent string
	TLS       *tls.Config // nil for the system's way
}

// A Webhook posts events to a URL.
type Webhook struct {
	cfg    WebhookConfig
	url    string
	user   *url.Userinfo
	secret []byte
	client *http.Client
}

// A PrivateError means that the host of a webhook has an address that needs
// WebhookConfig.Private.
type PrivateError struct{ Addr netip.Addr }

func (e *PrivateError) Error() string {
	return fmt.Sprintf("%s is an address of this machine or of a private network", e.Addr)
}

// NewWebhook returns a webhook.
func NewWebhook(cfg WebhookConfig) (*Webhook, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, errors.New("want a URL such as https://host/path") // err quotes it, with its secrets
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, errors.New("want a URL such as https://host/path")
	}
	w := &Webhook{cfg: cfg, user: u.User}
	if w.secret, err = parseSecret(cfg.Secret); err != nil {
		return nil, err
	}
	u.User, u.Fragment = nil, ""
	w.url = u.String()
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	transport := &http.Transport{
		DialContext: dialer.DialContext, TLSClientConfig: cfg.TLS, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConns: cfg.Workers, MaxIdleConnsPerHost: cfg.Workers, IdleConnTimeout: 90 * time.Second, DisableCompression: true,
	}
	if cfg.Private {
		transport.Proxy = http.ProxyFromEnvironment
	} else {
		dialer.Control = refusePrivate
	}
	w.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return w, nil
}

// parseSecret returns the bytes of a secret.
func parseSecret(secret string) ([]byte, error) {
	text, ok := strings.CutPrefix(secret, "whsec_")
	if !ok {
		return []byte(secret), nil
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(b) == 0 {
		return nil, errors.New("the secret is not whsec_ and base64")
	}
	return b, nil
}

// refusePrivate is called with the address of each connection, after its name was resolved.
func refusePrivate(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if isPrivate(at.Addr()) {
		return &PrivateError{at.Addr().Unmap()}
	}
	return nil
}

// privatePrefixes are networks that netip does not call private: shared by the customers of
// a provider, of this network, for protocols and tests, and reserved.
var privatePrefixes = parsePrefixes("0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
	"100::/64", "2001:db8::/32", "3fff::/20", "5f00::/16", "64:ff9b:1::/48", "fec0::/10")

// embeddings are networks whose addresses have an IPv4 address in them, from a byte on.
var embeddings = []struct {
	prefix netip.Prefix
	at     int
}{{netip.MustParsePrefix("64:ff9b::/96"), 12}, {netip.MustParsePrefix("2002::/16"), 2}, {netip.MustParsePrefix("::/96"), 12}}

func parsePrefixes(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

func isPrivate(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return true // loopback, link-local, multicast and unspecified ones are not global
	}
	for _, p := range privatePrefixes {
		if p.Contains(a) {
			return true
		}
	}
	for _, e := range embeddings {
		if b := a.As16(); a.Is6() && e.prefix.Contains(a) && isPrivate(netip.AddrFrom4([4]byte(b[e.at:]))) {
			return true
		}
	}
	return false
}

// Worker returns a worker that posts each try as one request.
func (w *Webhook) Worker() Worker { return &webhookWorker{webhook: w} }

type webhookWorker struct {
	webhook *Webhook
	size    int // of the last body
}

func (w *webhookWorker) Close() { w.webhook.client.CloseIdleConnections() }

// Do posts the events of t.
func (w *webhookWorker) Do(ctx context.Context, t *Try) error {
	// A request that was cut off may still read its body: each has one of its own.
	body, err := t.appendLine(ctx, make([]byte, 0, w.size))
	if err != nil {
		return &RefusedError{err}
	}
	w.size = len(body) + len(body)/8
	kind := "application/x-ndjson"
	if !w.webhook.cfg.Lines {
		kind, body = "application/json", body[:len(body)-1]
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.webhook.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", kind)
	r.Header.Set("User-Agent", w.webhook.cfg.UserAgent)
	if u := w.webhook.user; u != nil {
		password, _ := u.Password()
		r.SetBasicAuth(u.Username(), password)
	}
	id := keyOf(t.Events)
	r.Header.Set("Idempotency-Key", id)
	r.Header.Set("Rstream-Try", strconv.Itoa(t.Number))
	if t.Dead {
		r.Header.Set("Rstream-Dead", "1")
	}
	w.webhook.sign(r.Header, id, time.Now(), body)
	var connected atomic.Bool
	r = r.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }}))
	resp, err := w.webhook.client.Do(r)
	if err != nil {
		return postError(err, connected.Load())
	}
	defer resp.Body.Close()
	reason, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // the status is the answer
	return answerError(resp, reason, time.Now())
}

// keyOf returns the idempotency key of some events: the hash of the only one, or a hash of all.
func keyOf(evs []*event.Event) string {
	if len(evs) == 1 {
		return evs[0].Hash.String()
	}
	h := sha256.New()
	for _, ev := range evs {
		h.Write(ev.Hash[:])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// sign adds the headers of Standard Webhooks.
func (w *Webhook) sign(h http.Header, id string, now time.Time, body []byte) {
	at := strconv.FormatInt(now.Unix(), 10)
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", at)
	if len(w.secret) == 0 {
		return
	}
	mac := hmac.New(sha256.New, w.secret)
	mac.Write([]byte(id + "." + at + "."))
	mac.Write(body)
	h.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}

// postError returns the error of a request that got no response, without its URL, which may
// have secrets. Without a connection, the events are not the reason.
func postError(err error, connected bool) error {
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err
	}
	var private *PrivateError
	switch {
	case errors.As(err, &private):
		return &EndError{private}
	case !connected:
		return &AgainError{0, err}
	}
	return err
}

// answerError returns nil if a response says that the events are done.
func answerError(resp *http.Response, reason []byte, now time.Time) error {
	status := resp.StatusCode
	if status >= 200 && status < 300 {
		return nil
	}
	err := fmt.Errorf("answered %d %s", status, http.StatusText(status))
	if line, _, _ := bytes.Cut(bytes.TrimSpace(reason), []byte("\n")); len(line) > 0 && len(line) <= 200 {
		err = fmt.Errorf("%w: %s", err, bytes.ToValidUTF8(line, []byte("\uFFFD")))
	}
	after, asked := wire.ReadRetryAfter(resp.Header, now)
	after = min(after, maxRetryAfter)
	switch {
	case status == http.StatusGone:
		return &EndError{err}
	case status == http.StatusTooManyRequests, asked && status == http.StatusServiceUnavailable:
		return &AgainError{after, err}
	case status >= 300 && status < 400:
		return fmt.Errorf("%w; redirects are not followed", err)
	case status >= 400 && status < 500 && status != http.StatusRequestTimeout:
		return &RefusedError{err}
	}
	return err
}

// maxRetryAfter is how long a destination may ask to be left alone.
const maxRetryAfter = time.Hour
