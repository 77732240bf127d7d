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

	// Generation is new with each write, and makes void what was known before.
	Generation string `json:"generation"`

	// WriteTime is when a secret field was last given another value, or another key pair.
	WriteTime time.Time `json:"write_time"`

	// Fields are those that the operator set, secrets included.
	Fields map[string]any `json:"fields"`

	// Verified is the state that the verifying exchange left. It is part of the same write, so
	// that a refresh token that the vendor rotated cannot be lost between two writes.
	Verified *broker.State `json:"verified,omitempty"`

	// SentTo is where the secrets go.
	SentTo Destinations `json:"sent_to,omitempty"`
}

// newEntry returns an entry of a new generation.
func newEntry(fields map[string]any, writeTime time.Time) (*Entry, error) {
	generation, err := uuid.GenerateUUID()
	if err != nil {
		return nil, err
	}
	return &Entry{Generation: generation, WriteTime: writeTime, Fields: fields}, nil
}

// Check is for storage.Get.
func (e *Entry) Check() error {
	if e.Generation == "" || e.Fields == nil {
		return errors.New("a credential without a generation, or without fields")
	}
	if e.Verified == nil {
		return nil
	}
	return e.Verified.Check()
}

// text returns a field that is a string; "" if it is not set.
func (e *Entry) text(field string) string {
	value, _ := e.Fields[field].(string)
	return value
}

// hasFieldsOf reports whether the entry has only fields of a vendor's credentials, each of its
// type. What reads the fields relies on that.
func (e *Entry) hasFieldsOf(p provider.Provider) bool {
	schemas := fieldsOf(p)
	for field, value := range e.Fields {
		if schema := schemas[field]; schema == nil || !isStoredAs(schema.Type, value) {
			return false
		}
	}
	return true
}

// isStoredAs reports whether a value is what storage has of a field of a type. Numbers are
// json.Number, as the SDK decodes them.
func isStoredAs(fieldType framework.FieldType, value any) bool {
	isNoText := func(value any) bool { _, isText := value.(string); return !isText }
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
		return fieldType == framework.TypeCommaStringSlice && !slices.ContainsFunc(value, isNoText)
	case map[string]any:
		return fieldType == framework.TypeKVPairs && !slices.ContainsFunc(slices.Collect(maps.Values(value)), isNoText)
	}
	return false
}

// last returns what is known of a stored credential. A state of another generation says nothing
// about it.
func (c *stored) last(known *broker.State) *broker.State {
	switch {
	case c == nil:
		return nil
	case known != nil && known.Generation == c.Generation:
		return known
	}
	return c.Verified
}

// A replacement is an entry that takes the place of a stored one.
type replacement struct {
	next   *Entry
	stored *stored       // nil if there is none
	known  *broker.State // of stored; nil if nothing is known

	// isElsewhere is whether next sends its secrets where stored does not.
	isElsewhere bool
}

// sharesRefreshToken reports whether both entries have the same refresh token, which the vendor
// may have rotated since. What one vendor gave in place of it must not be sent to another.
func (r *replacement) sharesRefreshToken() bool {
	return r.stored != nil && !r.isElsewhere && r.next.Fields["refresh_token"] != nil &&
		reflect.DeepEqual(r.next.Fields["refresh_token"], r.stored.Fields["refresh_token"])
}

// grant returns the grant to verify the entry with. A rotated refresh token stays in use, unless
// the operator has just given another. How the client authenticates is found out again, as it may
// be another vendor's endpoint now.
func (r *replacement) grant() provider.Grant {
	if r.known == nil || r.known.Grant.Derived || !r.sharesRefreshToken() {
		return provider.Grant{}
	}
	grant := r.known.Grant
	grant.AuthStyle = ""
	return grant
}

// answered returns the state of the stored credential with what verifying the entry has changed of
// it: a rotated refresh token, and the end of the token in use at a vendor that has one at a time.
// It is nil if neither is the case.
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
