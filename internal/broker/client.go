package broker

import (
	"context"
	"iter"
	"maps"
	"slices"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A ClientVersion identifies what the OAuth client of a credential was when it was read. It is zero for a
// credential that shares no client.
type ClientVersion struct {
	Settings string `json:"settings,omitempty"` // changes with everything but the client's authentication
	Secrets  string `json:"secrets,omitempty"`  // changes with the client's authentication
}

// A ClientUse is what the exchanges of a credential have used of its client.
type ClientUse struct {
	ClientVersion

	// Accepted is the ClientVersion.Secrets that the vendor last accepted; "" if unknown.
	Accepted string `json:"accepted,omitempty"`
}

// A Former is a credential as it was before the last change of its client's authentication.
type Former struct {
	Vendor     provider.Credential
	WithFields FieldsFunc
	Secrets    string // its ClientVersion.Secrets
}

// Narrowed returns the former credential for the narrowing with a key; nil if there is none.
func (f *Former) Narrowed(scope string) provider.Credential {
	if f == nil || scope == ownScope {
		return f.vendor()
	}
	narrowed, err := narrow(f.Vendor, f.WithFields, provider.ParseNarrowing(scope))
	if err != nil {
		return nil
	}
	return narrowed
}

func (f *Former) vendor() provider.Credential {
	if f == nil {
		return nil
	}
	return f.Vendor
}

// notAboutClient are the codes of refusals of a vendor that has accepted the client's authentication.
var notAboutClient = []string{"invalid_grant", "invalid_scope", "unsupported_grant_type", provider.CodePending, provider.CodeSlowDown, provider.CodeExpired, provider.CodeDenied}

// RefusesClient reports whether a vendor may have refused the authentication of the client. Such a refusal
// has not used up the grant that was sent with it.
func RefusesClient(err error) bool {
	if err == nil {
		return false
	}
	failure := asProviderError(err)
	return failure.Kind == provider.Rejected && !failure.Widened && failure.Code != provider.CodeConsentRequired && !slices.Contains(notAboutClient, failure.Code)
}

// acceptsClient reports whether the result of a request shows that the vendor accepted the authentication
// of the client.
func acceptsClient(hasAnswer bool, failure *provider.Error) bool {
	return hasAnswer || failure != nil && slices.Contains(notAboutClient, failure.Code)
}

// underClient returns the state for the client that a credential has now. After a change of the client, the
// vendor is asked again at once. If not only its authentication has changed, the tokens are void, and so
// are the grants that its secrets have yielded. (Guarantee 8.)
func (s *State) underClient(c *Credential) *State {
	used := s.Client.ClientVersion
	if used == c.Version {
		return s
	}
	next := *s
	if used.Settings != c.Version.Settings {
		next = *next.WithoutTokens()
		next.Grants = withoutKeys(next.Grants, func(_ string, g provider.Grant) bool { return g.Derived })
		if next.Grant.Derived {
			next.Grant = provider.Grant{}
		}
		next.Grant.AuthStyle = ""
	}
	next = *next.withoutBackOff()
	next.Client.ClientVersion = c.Version
	return &next
}

// withAccepted returns the state with the version of the client's secrets that the vendor has accepted.
func (s *State) withAccepted(secrets string) *State {
	if s.Client.Accepted == secrets {
		return s
	}
	next := *s
	next.Client.Accepted = secrets
	return &next
}

// ClientUse returns what the exchanges of a credential in memory have used of its client. isKnown is false
// if it is not in memory.
func (b *Broker) ClientUse(name string) (use ClientUse, isKnown bool) {
	r := b.cached(name)
	if r == nil {
		return use, false
	}
	snap := r.get()
	if snap.presence != loaded {
		return use, false
	}
	return snap.latestState().Client, true
}

// ClientsInUse returns the names of the clients that credentials in memory use, sorted; none if the broker is
// closed.
func (b *Broker) ClientsInUse() []string {
	if isClosed(b.closed) {
		return nil
	}
	names := map[string]bool{}
	for _, r := range b.allCached() {
		if snap := r.get(); snap.presence == loaded && snap.credential.Client != "" {
			names[snap.credential.Client] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// HaveAccepted reports whether the vendor has accepted a version of a client's secrets from all credentials
// in memory that use it, and from at least one. It is quick, and only a hint: others may not be in memory.
func (b *Broker) HaveAccepted(client, secrets string) bool {
	isAny := false
	for name, snap := range b.usersOf(client) {
		consent := provider.ConsentOf(snap.credential.Vendor)
		switch {
		case consent != nil && consent.IsMissing():
		case snap.latestState().Client.Accepted != secrets && !b.VariantAccepted(name, secrets):
			return false
		default:
			isAny = true
		}
	}
	return isAny
}

// VariantAccepted reports whether the vendor has accepted a version of a client's secrets from a variant of
// a credential in memory.
func (b *Broker) VariantAccepted(name, secrets string) bool {
	return slices.ContainsFunc(b.variantsOf(name), func(r *record) bool {
		snap := r.get()
		return snap.presence == loaded && snap.latestState().Client.Accepted == secrets
	})
}

// RejectedUsers returns the credentials in memory that use a client and whose grants the vendor rejects,
// with the time since when.
func (b *Broker) RejectedUsers(client string) iter.Seq2[string, time.Time] {
	return func(yield func(string, time.Time) bool) {
		for name, snap := range b.usersOf(client) {
			if since := snap.latestState().RejectedSince(); !since.IsZero() && !yield(name, since) {
				return
			}
		}
	}
}

func (b *Broker) usersOf(client string) iter.Seq2[string, snapshot] {
	return func(yield func(string, snapshot) bool) {
		for _, r := range b.allCached() {
			snap := r.get()
			if snap.presence == loaded && !isVariant(r.name) && snap.credential.Client == client && !yield(r.name, snap) {
				return
			}
		}
	}
}

// RejectedSince returns since when the vendor has rejected the grant; the zero time if it does not, or if it
// rejects the client.
func (s *State) RejectedSince() time.Time {
	if s == nil || s.Failure.Count == 0 {
		return time.Time{}
	}
	return s.Failure.RejectedSince
}

// requestTokenAs is requestToken with the client's former authentication if the vendor refuses the present
// one. accepted is the version of the client's secrets that the vendor has accepted; "" if unknown.
func requestTokenAs(ctx context.Context, c *Credential, s *State, vendor provider.Credential, scope string, last, previous provider.Token) (answer *provider.Answer, token provider.Token, accepted string, failure *provider.Error) {
	answer, token, failure = requestGranted(ctx, c, s, vendor, scope, last, previous)
	accepted = c.Version.Secrets
	if former := c.Former.Narrowed(scope); former != nil && answer == nil && RefusesClient(asError(failure)) {
		other, otherToken, otherFailure := requestGranted(ctx, c, s, former, scope, last, previous)
		if acceptsClient(other != nil, otherFailure) {
			answer, token, failure, accepted = other, otherToken, otherFailure, c.Former.Secrets
		}
	}
	if !acceptsClient(answer != nil, failure) {
		accepted = ""
	}
	return answer, token, accepted, failure
}

// asError returns a *provider.Error as an error; nil if it is nil.
func asError(e *provider.Error) error {
	if e == nil {
		return nil
	}
	return e
}
