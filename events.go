package tokenbroker

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
)

// The events that Vault's subscribers may have. None holds a secret.
const (
	eventExchange = "tokenbroker/token-exchange"
	eventRejected = "tokenbroker/credential-rejected"
	eventExpiring = "tokenbroker/credential-expiring"
	eventSecret   = "tokenbroker/secret-expiring"
)

const (
	// expiringWithin is how long before a credential expires from disuse there is an event,
	// and secretExpiringWithin how long before its secret does: that takes a person, and
	// the vendor.
	expiringWithin       = 48 * time.Hour
	secretExpiringWithin = 14 * 24 * time.Hour

	// sendTimeout bounds the sending of one event, and mostUnsent how many may wait for
	// it: what a server does not take in time is lost.
	sendTimeout = 5 * time.Second
	mostUnsent  = 1000
)

type event struct {
	kind     string
	metadata []string // names and values in turn
}

// events are sent in the order in which they come about, one after the other, and by
// nobody whom a reader waits for.
type events struct {
	send func(event)
	full func() // is told when the first one has been dropped, until none waits any more

	mu       sync.Mutex
	unsent   []event
	sending  bool
	dropping bool
	closed   bool

	// told are the expiries of which there has been an event.
	told map[expiry]bool
}

// add has an event sent, and is whether it will be: not if too many wait, or once the
// engine has ended.
func (es *events) add(e event) bool {
	es.mu.Lock()
	defer es.mu.Unlock()
	switch {
	case es.closed:
		return false
	case len(es.unsent) == mostUnsent:
		if !es.dropping {
			es.dropping = true
			es.full()
		}
		return false
	}
	es.unsent = append(es.unsent, e)
	if !es.sending {
		es.sending = true
		go es.sendAll()
	}
	return true
}

// close drops what waits, and takes no more. Only the sending of one goes on, for as long
// as that may take.
func (es *events) close() {
	es.mu.Lock()
	defer es.mu.Unlock()
	es.closed, es.unsent = true, nil
}

func (es *events) sendAll() {
	for {
		es.mu.Lock()
		if len(es.unsent) == 0 {
			es.sending, es.dropping = false, false
			es.mu.Unlock()
			return
		}
		next := es.unsent[0]
		es.unsent = es.unsent[1:]
		es.mu.Unlock()
		es.send(next)
	}
}

// exchanged tells of an exchange that is stored, if it is to be, and of a credential that is
// rejected from now on.
func (es *events) exchanged(x broker.Exchange) {
	about := []string{"name", x.Name, "provider", x.Provider, "result", x.Result()}
	if x.Scope != "" {
		about = append(about, "scope", x.Scope)
	}
	issued := about
	if x.Err == nil {
		issued = append(slices.Clone(about), "expire_time", stamp(x.ExpireTime))
	}
	es.add(newEvent(eventExchange, "creds/"+x.Name, x.Modified, issued))
	if x.News {
		es.add(newEvent(eventRejected, "status/"+x.Name, false, about))
	}
}

// expiry is one that an event of a kind is about.
type expiry struct{ kind, name string }

// expiring sends an event for each credential that expires soon, and for each whose secret
// does: once, until it expires later.
func (es *events) expiring(expiries iter.Seq2[string, broker.Expiry], now time.Time) {
	for name, x := range expiries {
		es.expires(expiry{eventExpiring, name}, x.Provider, x.Unused, now.Add(expiringWithin))
		es.expires(expiry{eventSecret, name}, x.Provider, x.Secret, now.Add(secretExpiringWithin))
	}
}

// expires sends the event of an expiry at t, if that is not after horizon.
func (es *events) expires(e expiry, providerName string, t, horizon time.Time) {
	isSoon := !t.IsZero() && !t.After(horizon)
	if isSoon && es.isTold(e) {
		return
	}
	taken := isSoon && es.add(newEvent(e.kind, "status/"+e.name, false,
		[]string{"name", e.name, "provider", providerName, "expire_time", stamp(t)}))
	es.tell(e, taken)
}

func (es *events) isTold(e expiry) bool {
	es.mu.Lock()
	defer es.mu.Unlock()
	return es.told[e]
}

// tell notes whether there has been an event of an expiry.
func (es *events) tell(e expiry, told bool) {
	es.mu.Lock()
	defer es.mu.Unlock()
	if told {
		es.told[e] = true
	} else {
		delete(es.told, e)
	}
}

// forget drops what has been told of a credential that is gone: another of its name is news.
func (es *events) forget(name string) {
	es.tell(expiry{eventExpiring, name}, false)
	es.tell(expiry{eventSecret, name}, false)
}

// eventsFull says that events are lost.
func (b *backend) eventsFull() {
	b.Logger().Warn("the server is slow to take events, and some are dropped")
}

// newEvent is an event with what subscribers of every engine go by: they see those of
// which they may subscribe to the path, and read there what there is to read.
func newEvent(kind, path string, modified bool, about []string) event {
	_, operation, _ := strings.Cut(kind, "/")
	return event{kind, append([]string{
		logical.EventMetadataOperation, operation,
		logical.EventMetadataModified, strconv.FormatBool(modified),
		logical.EventMetadataPath, path,
		logical.EventMetadataDataPath, path,
	}, about...)}
}

// sendEvent hands an event to the server. One that does not take events is none the
// worse for it.
func (b *backend) sendEvent(e event) {
	ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
	defer cancel()
	err := logical.SendEvent(ctx, b, e.kind, e.metadata...)
	if err != nil && !errors.Is(err, framework.ErrNoEvents) {
		b.Logger().Debug("an event was not taken", "event", e.kind, "error", err)
	}
}
