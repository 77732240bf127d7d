package broker

import (
	"context"
	"iter"
	"maps"
	"slices"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A ClientVersion identifies what the OAuth client and the key pair of a credential were when they were read. It is zero
// for a credential that shares neither.
type ClientVersion struct {
	Settings string `json:"settings,omitempty"` // changes with everything but the client's authentication
	Secrets  string `json:"secrets,omitempty"`  // changes with the client's authentication
	Identity string `json:"identity,omitempty"` // changes with the issuer, the subjects and the audiences of the key pair
}

// A ClientUse is what the exchanges of a credential have used of its client.
type ClientUse struct {
	ClientVersion

	// Accepted is the ClientVersion.Secrets that the vendor last accepted; "" if unknown. Worked is the
	// version with which it last issued a token.
	Accepted string        `json:"accepted,omitempty"`
	Worked   ClientVersion `json:"worked,omitzero"`
}

// A Former is a credential as it was before a change of its client's authentication.
type Former struct {
	Vendor     provider.Credential
	WithFields FieldsFunc
	Secrets    string // its ClientVersion.Secrets
}

// Narrowed returns the former credential for the narrowing with a key; nil if it cannot be narrowed so.
func (f Former) Narrowed(scope string) provider.Credential {
	if scope == ownScope {
		return f.Vendor
	}
	narrowed, err := narrow(f.Vendor, f.WithFields, provider.ParseNarrowing(scope))
	if err != nil {
		return nil
	}
	return narrowed
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
// of the client. Some vendors look at other errors than an invalid grant first.
func acceptsClient(hasAnswer bool, failure *provider.Error) bool {
	return hasAnswer || failure != nil && failure.Code == "invalid_grant"
}

// underClient returns the state for the client and the key pair that a credential has now. After a change, the
// vendor is asked again at once. If not only the authentication of the client has changed, the tokens are void,
// and so are the grants that its secrets have yielded. (Guarantees 8 and 17.)
func (s *State) underClient(c *Credential) *State {
	used := s.Client.ClientVersion
	if used == c.Version {
		return s
	}
	next := *s
	if used.Settings != c.Version.Settings || used.Identity != c.Version.Identity {
		next = *next.withoutYield()
	}
	if used.Settings != c.Version.Settings {
		next.Grant.AuthStyle = ""
	}
	next = *next.withoutBackOff()
	next.Failure.RejectedSince = time.Time{} // the rejection may have been for the client's fault
	next.Client.ClientVersion = c.Version
	return &next
}

// withoutYield returns the state without what the secrets have yielded: tokens, and grants that a vendor has derived from
// them.
func (s *State) withoutYield() *State {
	next := *s.WithoutTokens()
	next.Grants = withoutKeys(next.Grants, func(_ string, g provider.Grant) bool { return g.Derived })
	if next.Grant.Derived {
		next.Grant = provider.Grant{}
	}
	return &next
}

// AfterLeak returns the state for a new generation of the credential, after its secrets have leaked. The refresh token
// stays, as only the vendor's answer has it.
func (s *State) AfterLeak(generation string) *State {
	if s == nil {
		return nil
	}
	next := s.withoutYield()
	next.Generation = generation
	return next
}

// withAccepted returns the state with the version of the client's secrets that the vendor has accepted, and
// whether it has issued a token.
func (s *State) withAccepted(secrets string, hasWorked bool) *State {
	next := *s
	next.Client.Accepted = secrets
	if hasWorked {
		next.Client.Worked = ClientVersion{Settings: s.Client.Settings, Secrets: secrets}
	}
	return &next
}

// ClientUse returns what the exchanges of a credential in memory have used of its client. isKnown is false
// if it is not in memory.
func (b *Broker) ClientUse(name string) (use ClientUse, isKnown bool) {
	facts, isKnown := b.find(name).clientFacts()
	if !isKnown {
		return use, false
	}
	return facts.use.Value(), true
}

// clientFacts returns what a credential has used of its client. isKnown is false if that is not in memory, or if the
// credential cannot be used.
func (k known) clientFacts() (facts clientFacts, isKnown bool) {
	if k.record != nil {
		switch snap := k.record.get(); snap.presence {
		case loaded:
			return snap.clientFacts(), true
		case unusable:
			return facts, false
		case absent, unloaded:
		}
	}
	if k.summary == nil || k.summary.isUnusable {
		return facts, false
	}
	return k.summary.used, true
}

// ClientsInUse returns the names of the clients that credentials in memory use, sorted; none if the broker is
// closed.
func (b *Broker) ClientsInUse() []string {
	if isClosed(b.closed) {
		return nil
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	return slices.Sorted(maps.Keys(b.clients))
}

// HasWorked reports whether the vendor has issued a token to a credential in memory that uses a client, with
// the given settings, or the given secrets; "" stands for any.
func (b *Broker) HasWorked(client, settings, secrets string) bool {
	for _, facts := range b.usersOf(client) { // variants too
		worked := facts.use.Value().Worked
		if worked != (ClientVersion{}) && (settings == "" || worked.Settings == settings) && (secrets == "" || worked.Secrets == secrets) {
			return true
		}
	}
	return false
}

// UnloadUsers makes the next request load each credential that uses a client again. Where isVoid is set, their
// tokens are void, and whether they are in use is forgotten too.
func (b *Broker) UnloadUsers(client string, isVoid bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.entries {
		if m := e.summary; m != nil && (m.isStale || m.isUnusable || m.used.name == client) { // an unusable one may be so because of the client
			b.outdateLocked(e, !isVoid)
		}
		if e.record == nil {
			continue
		}
		// One that is not loaded may be about to be, with the client as it was.
		if snap := e.record.get(); snap.presence == loaded && snap.credential.Client != client {
			continue
		}
		if isVoid {
			e.record.forget()
		} else {
			e.record.reload()
		}
	}
}

// IsInMemory reports whether it is known that a name can or cannot be exchanged.
func (b *Broker) IsInMemory(name string) bool {
	k := b.find(name)
	if k.record != nil {
		if p := k.record.get().presence; p == loaded || p == unusable {
			return true
		}
	}
	return k.summary != nil
}

// HaveAccepted reports whether the vendor has accepted a version of a client's secrets from all credentials
// in memory that use it, and issued a token with it to at least one. Others may not be in memory.
func (b *Broker) HaveAccepted(client, secrets string) bool {
	for name, facts := range b.usersOf(client) {
		if !isVariant(name) && facts.isExchanged && facts.use.Value().Accepted != secrets && !b.VariantAccepted(name, secrets) {
			return false
		}
	}
	return b.HasWorked(client, "", secrets)
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
		for name, facts := range b.usersOf(client) {
			if !isVariant(name) && facts.rejectedSince != 0 && !yield(name, facts.rejectedSince.time()) {
				return
			}
		}
	}
}

// usersOf returns the credentials and variants in memory that use a client.
func (b *Broker) usersOf(client string) iter.Seq2[string, clientFacts] {
	return func(yield func(string, clientFacts) bool) {
		b.mu.RLock()
		users := make([]known, 0, len(b.clients[client]))
		for name, e := range b.clients[client] {
			users = append(users, known{name, e.record, e.known()})
		}
		b.mu.RUnlock()
		for _, user := range users {
			if facts, isKnown := user.clientFacts(); isKnown && facts.name == client && !yield(user.name, facts) {
				return
			}
		}
	}
}

// RejectedSince returns since when the vendor has rejected the grant; the zero time if its last answer was
// another one.
func (s *State) RejectedSince() time.Time {
	if s == nil || s.Failure.Count == 0 || s.Failure.Kind != provider.Rejected {
		return time.Time{}
	}
	return s.Failure.RejectedSince
}

// requestTokenAs is requestToken with the client's former authentication if the vendor refuses the present
// one. accepted is the version of the client's secrets that the vendor has accepted; "" if unknown.
func requestTokenAs(ctx context.Context, c *Credential, s *State, vendor provider.Credential, scope string, last, previous provider.Token) (answer *provider.Answer, token provider.Token, accepted string, failure *provider.Error) {
	answer, token, failure = requestGranted(ctx, c, s, vendor, scope, last, previous)
	accepted = c.Version.Secrets
	for _, former := range c.Formers {
		vendor := former.Narrowed(scope)
		if vendor == nil || answer != nil || !RefusesClient(asError(failure)) {
			break
		}
		other, otherToken, otherFailure := requestGranted(ctx, c, s, vendor, scope, last, previous)
		if acceptsClient(other != nil, otherFailure) {
			return other, otherToken, former.Secrets, otherFailure
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
