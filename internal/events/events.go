// Package events sends Vault events about exchanges and upcoming expiries. No event contains a
// secret.
package events

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/credential"
)

// The kinds of events.
const (
	kindExchange = "tokenbroker/token-exchange"
	kindRejected = "tokenbroker/credential-rejected"
	kindUnused   = "tokenbroker/credential-expiring"
	kindSecret   = "tokenbroker/secret-expiring"
	kindConsent  = "tokenbroker/consent-required"
	kindReaped   = "tokenbroker/credential-reaped"

	kindRotated      = "tokenbroker/credential-rotated"
	kindRotateFailed = "tokenbroker/rotation-failed"
)

// sendTimeout is the timeout of sending one event.
const sendTimeout = 5 * time.Second

// An Event is an event of Vault's event system.
type Event struct {
	Kind     string
	Metadata []string // alternating names and values
}

// Send sends an event to the server. It returns nil if the server does not have events enabled.
func Send(sender logical.EventSender, e Event) error {
	ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
	defer cancel()
	if err := logical.SendEvent(ctx, sender, e.Kind, e.Metadata...); !errors.Is(err, framework.ErrNoEvents) {
		return err
	}
	return nil
}

// newEvent returns an event with Vault's standard metadata, followed by about. Vault uses the path
// to check a subscriber's policies.
func newEvent(kind, path string, modified bool, about []string) Event {
	_, operation, _ := strings.Cut(kind, "/")
	return Event{kind, append([]string{
		logical.EventMetadataOperation, operation,
		logical.EventMetadataModified, strconv.FormatBool(modified),
		logical.EventMetadataPath, path,
		logical.EventMetadataDataPath, path,
	}, about...)}
}

// Exchanged queues an event for an exchange, and another if the vendor newly rejects the credential.
// Call it after the exchange is stored, so that a subscriber that reads on the event gets the new
// token.
func (q *Queue) Exchanged(x broker.Exchange) {
	about := []string{"name", x.Name, "vendor", x.Vendor, "result", x.Result()}
	if x.Scope != "" {
		about = append(about, "scope", x.Scope)
	}
	issued := about
	if x.Err == nil {
		issued = append(slices.Clone(about), "expire_time", broker.FormatTime(x.ExpireTime))
	}
	if !x.IsDelegated { // no reader gets another token, and callers may be many
		q.add(newEvent(kindExchange, apipath.Creds(x.Name), x.IsModified, issued))
	}
	if x.IsNews {
		q.add(newEvent(kindRejected, apipath.Status(x.Name), false, about))
		if x.CanConsent && x.Scope == "" && !x.Err.AboutClient() {
			q.add(newEvent(kindConsent, apipath.Authorize(x.Name), false, about))
		}
	}
}

// Reaped queues an event for a credential that was deleted by the reap_after of its client.
func (q *Queue) Reaped(name, vendor, client string, since time.Time) {
	q.add(newEvent(kindReaped, apipath.Credential(vendor, name), true,
		[]string{"name", name, "vendor", vendor, "client", client, "rejected_since", broker.FormatTime(since)}))
}

// Rotated queues an event for a rotation that has succeeded or failed.
func (q *Queue) Rotated(r credential.RotationReport) {
	kind, by := kindRotated, r.By
	if r.Err != nil {
		kind = kindRotateFailed
	}
	if by == "" {
		by = "schedule"
	}
	about := []string{"name", r.Name, "by", by}
	if r.Vendor != "" {
		about = append(about, "vendor", r.Vendor)
	}
	if r.Err != nil {
		about = append(about, "failures", strconv.Itoa(r.Failures))
	}
	q.add(newEvent(kind, r.Path, r.Err == nil, about))
}

// An expiry identifies an upcoming expiry by kind of event and name of the credential.
type expiry struct{ kind, name string }

// Expiring queues an event if a credential expires from disuse soon, or its secret expires soon. It reports an expiry
// once, and again after the expiry has moved beyond the horizon. It returns false if the queue is full, and the caller
// must repeat it.
func (q *Queue) Expiring(name string, x broker.Expiry, now time.Time) bool {
	isDone := q.expiring(expiry{kindUnused, name}, x.Vendor, x.Unused, now.Add(broker.UnusedHorizon))
	isDone = q.expiring(expiry{kindSecret, name}, x.Vendor, x.Secret, now.Add(broker.SecretHorizon)) && isDone
	if x.CanConsent {
		isDone = q.expiring(expiry{kindConsent, name}, x.Vendor, x.Secret, now.Add(broker.SecretHorizon)) && isDone
	}
	return isDone
}

// expiring queues the event of an expiry at t if t is not after horizon. It returns false if the queue is full.
func (q *Queue) expiring(e expiry, vendor string, t, horizon time.Time) bool {
	isSoon := !t.IsZero() && !t.After(horizon)
	if isSoon && q.isReported(e) {
		return true
	}
	path := apipath.Status(e.name)
	if e.kind == kindConsent {
		path = apipath.Authorize(e.name)
	}
	added := isSoon && q.add(newEvent(e.kind, path, false,
		[]string{"name", e.name, "vendor", vendor, "expire_time", broker.FormatTime(t)}))
	q.setReported(e, added)
	return added || !isSoon
}

// Forget clears which expiries of a deleted credential were reported, so that a new credential with
// the same name gets its own events.
func (q *Queue) Forget(name string) {
	q.setReported(expiry{kindUnused, name}, false)
	q.setReported(expiry{kindSecret, name}, false)
	q.setReported(expiry{kindConsent, name}, false)
}
