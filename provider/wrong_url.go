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

// Failures that a wrong URL causes name the URL that was requested, and [CheckField] adds the
// field that it comes from.

// CheckField returns err with the field to check, if a wrong URL causes such a failure.
func CheckField(err error, field string) error {
	var e *Error
	if !errors.As(err, &e) || !e.WrongURL {
		return err
	}
	named := *e
	named.Reason += "; check " + field
	return &named
}

// Masked returns err without any of the secrets in its text, nor of those of [WithSecrets],
// for one that quotes what a vendor has published.
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

// endpoint is a URL as errors show it: without its query, which may hold a secret, and not
// longer than what errors quote.
func endpoint(u *url.URL) string {
	text := (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "…"
	}
	return text
}

// unanswered is why a request got no answer.
func unanswered(u *url.URL, err error, secrets []string) *Error {
	reason := redact(transportReason(err), secrets)
	var dns *net.DNSError
	var authority x509.UnknownAuthorityError
	switch {
	case isTimeout(err):
		e := Errorf(Unavailable, "%s: %s", u.Host, reason)
		e.Timeout = true
		return e
	case isOfProxy(err):
		return Errorf(Unavailable, "%s: %s", u.Host, reason)
	case errors.As(err, &dns) && dns.IsNotFound:
		return wrongURL(Unavailable, "%s: no such host", endpoint(u))
	case errors.As(err, &authority):
		return wrongURL(Unavailable, "%s: %s; to trust a private authority, give it as ca_cert", endpoint(u), reason)
	case isOfTLS(err):
		return wrongURL(Unavailable, "%s: %s", endpoint(u), reason)
	}
	return Errorf(Unavailable, "%s: %s", u.Host, reason)
}

// isOfProxy is whether the request did not get past a proxy, which says nothing of its URL.
func isOfProxy(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "proxyconnect"
}

// isOfTLS is whether the server does not prove that it is the URL's host, or does not speak
// TLS at all.
func isOfTLS(err error) bool {
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert *net.OpError // how crypto/tls reports the server's alerts
	return errors.As(err, &certificate) || errors.As(err, &record) || errors.Is(err, http.ErrSchemeMismatch) ||
		errors.As(err, &alert) && alert.Op == "remote error"
}

// notJSON is why an answer is not the JSON object that it should be. What comes to an end
// before it should is from the right place all the same.
func (r *Reply) notJSON() *Error {
	const reason = "the answer of %s is not the JSON object that it should be"
	body := bytes.TrimSpace(r.Body)
	e := Errorf(InvalidResponse, reason, endpoint(r.url))
	switch {
	case bytes.HasPrefix(body, []byte("{")):
	case bytes.HasPrefix(body, []byte("<")):
		e = wrongURL(InvalidResponse, reason+", but a page", endpoint(r.url))
	default:
		e.WrongURL = true
	}
	e.Clock = r.Clock
	return e
}
