package credential

import (
	"maps"
	"reflect"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A plannedWrite is a write that has passed all checks.
type plannedWrite struct {
	replacement

	// needsNoExchange is whether the tokens of the stored credential stay in use.
	needsNoExchange bool

	// replacesSecret is whether the secret that a rotation replaces is another one, which must itself be verified.
	replacesSecret bool

	// hasRotated is whether the verification has rotated a refresh token. The new one is only in
	// memory until the write is stored.
	hasRotated bool
}

// planWrite checks a write and returns the entry that it stores, complete but for the result of its
// verification. It reads neither storage nor the clock, and changes nothing that it is given.
//
// stored is nil if there is no credential yet, opened is nil if it cannot be opened, and known is
// what the broker knows of its state.
func (st *Store) planWrite(w WriteRequest, stored *storedCredential, opened *broker.Credential, known *broker.State, r revision) (plannedWrite, error) {
	r.time, r.refreshTokenTime = r.writeTime(stored), r.timeOfRefreshToken(stored)
	var secrets secretWrite
	if stored != nil {
		secrets = r.secretWrite(stored, opened)
		if err := secrets.check(w.Fields); err != nil {
			return plannedWrite{}, err
		}
		r.consented, r.rotation = stored.Consented, secrets.after(stored.Rotation)
	}
	if r.client != nil {
		r.rotation = nil // the secret is that of the client
	}
	next, credential, err := st.build(r)
	if err != nil {
		return plannedWrite{}, err
	}
	if err := next.checkRotation(credential); err != nil {
		return plannedWrite{}, err
	}
	planned := plannedWrite{replacement: replacement{stored: stored, known: stored.latestState(known), next: next, credential: credential}}
	if stored == nil {
		return planned, nil
	}
	planned.replacesSecret = secrets.replaces()
	sent := stored.sentTo(opened)
	if err := w.checkDestinations(next, sent); err != nil {
		return plannedWrite{}, err
	}
	if w.needsNoExchange() {
		planned.next, planned.needsNoExchange = stored.withFields(r.fields), true
		return planned, nil
	}
	planned.isElsewhere = !next.SentTo.within(sent)
	return planned, w.checkGrantType(stored, opened, credential)
}

// apply returns the fields of a credential after the write. stored is nil if there is none.
func (w WriteRequest) apply(stored *storedCredential) map[string]any {
	fields := map[string]any{}
	if stored != nil {
		maps.Copy(fields, stored.Fields)
	}
	for field, value := range w.Fields {
		given, isMap := value.(map[string]any)
		if isMap && w.Operation == Patch {
			value = merged(fields[field], given)
		}
		if value == nil {
			delete(fields, field)
		} else {
			fields[field] = value
		}
	}
	return fields
}

// merged returns old with given merged into it; nil if the result is empty.
func merged(old any, given map[string]any) any {
	next := map[string]any{}
	if old, isMap := old.(map[string]any); isMap {
		maps.Copy(next, old)
	}
	maps.Copy(next, given)
	maps.DeleteFunc(next, func(_ string, value any) bool { return value == nil })
	if len(next) == 0 {
		return nil
	}
	return next
}

// A revision is what a new entry of a credential is built from.
type revision struct {
	vendor     provider.Provider
	name       string
	fields     map[string]any
	client     *clientUse // that fields name
	key        signingKey // that fields or the client use
	generation string
	time       time.Time // of the write
	consented  *Consented

	refreshTokenTime time.Time
	rotation         *Rotation
}

// build returns a credential as it is stored, but for the result of its verification, and the same
// ready to be exchanged. Its errors are those of open.
func (st *Store) build(r revision) (*storedCredential, *broker.Credential, error) {
	entry := &Entry{Generation: r.generation, WriteTime: r.time, RefreshTokenTime: r.refreshTokenTime, Fields: r.fields, Consented: r.consented, Rotation: r.rotation}
	entry.Consented = entry.consented() // another refresh token is not of the consent
	next := &storedCredential{Entry: entry, vendor: r.vendor, name: r.name, generation: r.generation, key: r.key, client: r.client}
	credential, err := st.open(next)
	if err != nil {
		return nil, nil, err
	}
	entry.SentTo = credential.SentTo
	return next, credential, nil
}

// keypairName returns the name of the key pair that the revision uses; "" if it uses none.
func (r revision) keypairName() string {
	return (&storedCredential{Entry: &Entry{Fields: r.fields}, name: r.name, client: r.client}).keypairName()
}

// writeTime returns when a secret field or the key pair has last changed: with this revision of the
// stored credential, or before.
func (r revision) writeTime(stored *storedCredential) time.Time {
	old := &storedCredential{Entry: &Entry{}}
	if stored != nil {
		old = stored
	}
	used := r.keypairName()
	if used != "" && used != old.keypairName() || r.hasNewSecret(old.Fields) {
		return r.time
	}
	return old.WriteTime
}

// timeOfRefreshToken returns when the field refresh_token has last changed: with this revision of the stored
// credential, or before.
func (r revision) timeOfRefreshToken(stored *storedCredential) time.Time {
	token := r.fields["refresh_token"]
	switch {
	case token == nil:
		return time.Time{}
	case stored != nil && reflect.DeepEqual(token, stored.Fields["refresh_token"]):
		return stored.RefreshTokenTime
	}
	return r.time
}

// hasNewSecret reports whether a secret field is set and differs from its old value.
func (r revision) hasNewSecret(old map[string]any) bool {
	for field, schema := range FieldSchemas(r.vendor) {
		if value := r.fields[field]; IsSecret(schema) && value != nil && !reflect.DeepEqual(value, old[field]) {
			return true
		}
	}
	return false
}

// withFields returns the credential with other fields.
func (c *storedCredential) withFields(fields map[string]any) *storedCredential {
	return c.withEntry(func(e *Entry) { e.Fields = fields })
}

// withEntry returns the credential with a copy of its entry that f has changed.
func (c *storedCredential) withEntry(f func(*Entry)) *storedCredential {
	entry, next := *c.Entry, *c
	f(&entry)
	next.Entry = &entry
	return &next
}

// latestState returns the latest state of a stored credential: known if it has the credential's
// generation, else the state from its verification. It returns nil if there is none.
func (c *storedCredential) latestState(known *broker.State) *broker.State {
	switch {
	case c == nil:
		return nil
	case known != nil && known.Generation == c.Generation:
		return known
	}
	return c.Verified
}

// A replacement is a credential that replaces a stored one.
type replacement struct {
	stored *storedCredential // nil if there is none
	known  *broker.State     // the state of stored; nil if there is none

	next       *storedCredential
	credential *broker.Credential // next, ready to be exchanged
	verified   *broker.State      // the result of the verification of next; nil before it

	// isElsewhere is whether next sends secrets to a destination that stored does not have.
	isElsewhere bool
}

// sharesRefreshToken reports whether both entries have the same refresh token, so that a rotated
// one stays in use. It is false if the destinations change: a refresh token that one vendor issued
// must not be sent to another.
func (r replacement) sharesRefreshToken() bool {
	return r.stored != nil && !r.isElsewhere && r.next.Fields["refresh_token"] != nil &&
		reflect.DeepEqual(r.next.Fields["refresh_token"], r.stored.Fields["refresh_token"])
}

// grant returns the grant to verify the entry with. A rotated refresh token stays in use unless the
// operator has given another. The client authentication method is detected again, as the endpoint
// may have changed.
func (r replacement) grant() provider.Grant {
	if r.known == nil || r.known.Grant.Derived || !r.sharesRefreshToken() {
		return provider.Grant{}
	}
	grant := r.known.Grant
	grant.AuthStyle = ""
	return grant
}

// withVerified returns the replacement with the result of its verification.
func (r replacement) withVerified(state *broker.State) replacement {
	r.verified, r.next = state, r.next.withEntry(func(e *Entry) { e.Verified = state })
	return r
}

// answered returns the state of the stored credential as the verification of the new entry has
// changed it: a rotated refresh token, or the end of the current token at a vendor that allows one
// token at a time. It returns nil if neither happened.
func (r replacement) answered() *broker.State {
	if r.stored == nil || r.known == nil || r.verified == nil {
		return nil
	}
	next := r.known
	if r.sharesRefreshToken() && r.verified.Grant != r.grant() {
		next = next.WithGrant(r.verified.Grant)
	}
	if r.verified.InvalidatesPrevious() {
		next = next.WithoutTokens()
	}
	if next == r.known {
		return nil
	}
	return next
}
