package credential

import (
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/hashicorp/go-uuid"
	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// An Entry is a credential in storage.
type Entry struct {
	storage.Format

	// Generation is a UUID that changes with each write. State of another generation is void.
	Generation string `json:"generation"`

	// WriteTime is when a secret field or the key pair last changed.
	WriteTime time.Time `json:"write_time"`

	// Fields are the fields that the operator set, including secrets.
	Fields map[string]any `json:"fields"`

	// Verified is the state after the verifying exchange. It is part of the same write, so that a
	// rotated refresh token cannot be lost between two writes.
	Verified *broker.State `json:"verified,omitempty"`

	// SentTo are the destinations of the secrets.
	SentTo Destinations `json:"sent_to,omitempty"`
}

// newEntry returns an entry with a new generation.
func newEntry(fields map[string]any, writeTime time.Time) (*Entry, error) {
	generation, err := uuid.GenerateUUID()
	if err != nil {
		return nil, err
	}
	return &Entry{Generation: generation, WriteTime: writeTime, Fields: fields}, nil
}

// Check implements storage.Entry.
func (e *Entry) Check() error {
	if e.Generation == "" || e.Fields == nil {
		return errors.New("credential without generation or fields")
	}
	if e.Verified == nil {
		return nil
	}
	return e.Verified.Check()
}

// text returns the value of a string field; "" if it is not set.
func (e *Entry) text(field string) string {
	value, _ := e.Fields[field].(string)
	return value
}

// hasFieldsOf reports whether the entry has only fields of a vendor's credentials, each with the
// type of its schema. Code that reads the fields relies on this.
func (e *Entry) hasFieldsOf(p provider.Provider) bool {
	schemas := fieldsOf(p)
	for field, value := range e.Fields {
		if schema := schemas[field]; schema == nil || !isStoredAs(schema.Type, value) {
			return false
		}
	}
	return true
}

// isStoredAs reports whether a value is a valid stored form of a field type. Numbers are
// json.Number, as the SDK decodes them.
func isStoredAs(fieldType framework.FieldType, value any) bool {
	isNotText := func(value any) bool { _, isText := value.(string); return !isText }
	switch value := value.(type) {
	case string:
		return fieldType == framework.TypeString
	case bool:
		return fieldType == framework.TypeBool
	case json.Number:
		number, err := value.Int64()
		isDuration := fieldType == framework.TypeDurationSecond && number >= 0 && number <= int64(MaxDuration/time.Second)
		return err == nil && (isDuration || fieldType == framework.TypeInt)
	case []any:
		return fieldType == framework.TypeCommaStringSlice && !slices.ContainsFunc(value, isNotText)
	case map[string]any:
		return fieldType == framework.TypeKVPairs && !slices.ContainsFunc(slices.Collect(maps.Values(value)), isNotText)
	}
	return false
}

// last returns the latest state of a stored credential: known if it has the credential's
// generation, else the state from its verification. It returns nil if there is none.
func (c *storedCredential) last(known *broker.State) *broker.State {
	switch {
	case c == nil:
		return nil
	case known != nil && known.Generation == c.Generation:
		return known
	}
	return c.Verified
}

// A replacement is an entry that replaces a stored one.
type replacement struct {
	next   *Entry
	stored *storedCredential // nil if there is none
	known  *broker.State     // the state of stored; nil if there is none

	// isElsewhere is whether next sends secrets to a destination that stored does not have.
	isElsewhere bool
}

// sharesRefreshToken reports whether both entries have the same refresh token, so that a rotated
// one stays in use. It is false if the destinations change: a refresh token that one vendor issued
// must not be sent to another.
func (r *replacement) sharesRefreshToken() bool {
	return r.stored != nil && !r.isElsewhere && r.next.Fields["refresh_token"] != nil &&
		reflect.DeepEqual(r.next.Fields["refresh_token"], r.stored.Fields["refresh_token"])
}

// grant returns the grant to verify the entry with. A rotated refresh token stays in use unless the
// operator has given another. The client authentication method is detected again, as the endpoint
// may have changed.
func (r *replacement) grant() provider.Grant {
	if r.known == nil || r.known.Grant.Derived || !r.sharesRefreshToken() {
		return provider.Grant{}
	}
	grant := r.known.Grant
	grant.AuthStyle = ""
	return grant
}

// answered returns the state of the stored credential as the verification of the new entry has
// changed it: a rotated refresh token, or the end of the current token at a vendor that allows one
// token at a time. It returns nil if neither happened.
func (r *replacement) answered() *broker.State {
	if r.stored == nil || r.known == nil || r.next.Verified == nil {
		return nil
	}
	next := r.known
	if r.sharesRefreshToken() && r.next.Verified.Grant != r.grant() {
		next = next.WithGrant(r.next.Verified.Grant)
	}
	if r.next.Verified.InvalidatesPrevious() {
		next = next.WithoutTokens()
	}
	if next == r.known {
		return nil
	}
	return next
}
