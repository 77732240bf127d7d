package provider

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// CheckField adds the field that a URL comes from to an error that a wrong URL may have
// caused (WrongURL), which itself names only the URL. It returns other errors unchanged.
func CheckField(err error, field string) error {
	var e *Error
	if !errors.As(err, &e) || !e.WrongURL {
		return err
	}
	named := *e
	named.Reason += "; check " + field
	return &named
}

// Masked returns err with the secrets, and those of [WithSecrets], masked in its text. It is
// for errors that quote a vendor's metadata.
func Masked(ctx context.Context, err error, secrets ...string) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	masked := *e
	masked.Reason = maskSecrets(e.Reason, append(secretsOf(ctx), secrets...))
	return &masked
}

func wrongURL(kind Kind, format string, args ...any) *Error {
	e := Errorf(kind, format, args...)
	e.WrongURL = true
	return e
}

// endpoint formats a URL for errors: truncated, and without its query, which may contain a
// secret.
func endpoint(u *url.URL) string {
	text := (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "…"
	}
	return text
}

// noResponse returns the error of a request that got no response.
func noResponse(u *url.URL, err error, secrets []string) *Error {
	e := withoutResponse(u, err, secrets)
	var op *net.OpError
	e.NotConsidered = errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect")
	return e
}

func withoutResponse(u *url.URL, err error, secrets []string) *Error {
	reason := redact(transportReason(err), secrets)
	var dns *net.DNSError
	var authority x509.UnknownAuthorityError
	switch {
	case isTimeout(err):
		e := Errorf(Unavailable, "%s: %s", u.Host, reason)
		e.Timeout = true
		return e
	case isProxyError(err):
		return Errorf(Unavailable, "%s: %s", u.Host, reason)
	case errors.As(err, &dns) && dns.IsNotFound:
		return wrongURL(Unavailable, "%s: no such host", endpoint(u))
	case errors.As(err, &authority):
		return wrongURL(Unavailable, "%s: %s; to trust a private certificate authority, set ca_cert", endpoint(u), reason)
	case isTLSError(err):
		return wrongURL(Unavailable, "%s: %s", endpoint(u), reason)
	}
	return Errorf(Unavailable, "%s: %s", u.Host, reason)
}

// isProxyError reports whether the connection to a proxy failed, for which the URL of the
// request is not the cause.
func isProxyError(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "proxyconnect"
}

// isTLSError reports whether the server does not speak TLS, or did not authenticate itself
// as the URL's host.
func isTLSError(err error) bool {
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert *net.OpError // how crypto/tls reports the server's alerts
	return errors.As(err, &certificate) || errors.As(err, &record) || errors.Is(err, http.ErrSchemeMismatch) ||
		errors.As(err, &alert) && alert.Op == "remote error"
}

// NotJSON returns the error of a response that is not a JSON object. A truncated object does
// not count as a wrong URL.
func (r *Reply) NotJSON() *Error {
	const reason = "the response of %s is not a JSON object"
	body := bytes.TrimSpace(r.Body)
	e := Errorf(InvalidResponse, reason, endpoint(r.url))
	switch {
	case bytes.HasPrefix(body, []byte("{")):
	case bytes.HasPrefix(body, []byte("<")):
		e = wrongURL(InvalidResponse, reason+" but an HTML page", endpoint(r.url))
	default:
		e.WrongURL = true
	}
	e.Clock = r.Clock
	return e
}
