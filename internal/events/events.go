// Package events tells subscribers of Vault's events about exchanges and expiries. No event
// holds a secret.
package events

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
)

// The kinds of events.
const (
	kindExchange = "tokenbroker/token-exchange"
	kindRejected = "tokenbroker/credential-rejected"
	kindUnused   = "tokenbroker/credential-expiring"
	kindSecret   = "tokenbroker/secret-expiring"
)

const (
	// unusedHorizon is how long before a credential expires from disuse there is an event;
	// secretHorizon is the same for its secret, which takes a person and the vendor to renew.
	unusedHorizon = 48 * time.Hour
	secretHorizon = 14 * 24 * time.Hour

	// sendTimeout bounds how long sending one event may take.
	sendTimeout = 5 * time.Second
)

// An Event is one of a kind, with its metadata as names and values in turn.
type Event struct {
	Kind     string
	Metadata []string
}

// Send hands an event to the server. A server that does not have events enabled is no error.
func Send(sender logical.EventSender, e Event) error {
	ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
	defer cancel()
	if err := logical.SendEvent(ctx, sender, e.Kind, e.Metadata...); !errors.Is(err, framework.ErrNoEvents) {
		return err
	}
	return nil
}

// newEvent returns an event with the metadata that subscribers of every engine use: they see
// events of paths that they may subscribe to, and read there.
func newEvent(kind, path string, modified bool, about []string) Event {
	_, operation, _ := strings.Cut(kind, "/")
	return Event{kind, append([]string{
		logical.EventMetadataOperation, operation,
		logical.EventMetadataModified, strconv.FormatBool(modified),
		logical.EventMetadataPath, path,
		logical.EventMetadataDataPath, path,
	}, about...)}
}

// Exchanged adds an event for an exchange, and one for a credential that is rejected from now
// on. Call it after the exchange is stored, so that a reader who acts on the event finds the new
// token.
func (q *Queue) Exchanged(x broker.Exchange) {
	about := []string{"name", x.Name, "provider", x.Provider, "result", x.Result()}
	if x.Scope != "" {
		about = append(about, "scope", x.Scope)
	}
	issued := about
	if x.Err == nil {
		issued = append(slices.Clone(about), "expire_time", broker.FormatTime(x.ExpireTime))
	}
	q.add(newEvent(kindExchange, "creds/"+x.Name, x.IsModified, issued))
	if x.IsNews {
		q.add(newEvent(kindRejected, "status/"+x.Name, false, about))
	}
}

// An expiry is what an event of a kind is about.
type expiry struct{ kind, name string }

// Expiring adds an event for each credential that expires soon, and for each whose secret does:
// once, until the expiry is later.
func (q *Queue) Expiring(expiries iter.Seq2[string, broker.Expiry], now time.Time) {
	for name, x := range expiries {
		q.expiring(expiry{kindUnused, name}, x.Provider, x.Unused, now.Add(unusedHorizon))
		q.expiring(expiry{kindSecret, name}, x.Provider, x.Secret, now.Add(secretHorizon))
	}
}

// expiring adds the event of an expiry at t, if t is not after horizon.
func (q *Queue) expiring(e expiry, vendor string, t, horizon time.Time) {
	isSoon := !t.IsZero() && !t.After(horizon)
	if isSoon && q.isReported(e) {
		return
	}
	added := isSoon && q.add(newEvent(e.kind, "status/"+e.name, false,
		[]string{"name", e.name, "provider", vendor, "expire_time", broker.FormatTime(t)}))
	q.report(e, added)
}

// Forget drops what was reported about a credential that has been deleted. Another credential of
// the name has events of its own.
func (q *Queue) Forget(name string) {
	q.report(expiry{kindUnused, name}, false)
	q.report(expiry{kindSecret, name}, false)
}
