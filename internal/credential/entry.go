package credential

import (
	"encoding/json"
	"errors"
	"maps"
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

	// RefreshTokenTime is when the field refresh_token last changed; zero if it is not set.
	RefreshTokenTime time.Time `json:"refresh_token_time,omitzero"`

	// Fields are the fields that the operator set, including secrets.
	Fields map[string]any `json:"fields"`

	// Secrets are the names of the secret fields that are set. They stay secret whatever another
	// definition of the vendor says.
	Secrets []string `json:"secrets,omitempty"`

	// Verified is the state after the verifying exchange. It is part of the same write, so that a
	// rotated refresh token cannot be lost between two writes.
	Verified *broker.State `json:"verified,omitempty"`

	// Consented is the consent that yielded the refresh token; nil if there was none.
	Consented *Consented `json:"consented,omitempty"`

	// SentTo are the destinations of the secrets.
	SentTo Destinations `json:"sent_to,omitempty"`

	// Rotation is the state of the rotation of the secret; nil if there was none.
	Rotation *Rotation `json:"rotation,omitempty"`
}

// newGeneration returns the generation of a new entry.
func newGeneration() (string, error) { return uuid.GenerateUUID() }

// Check implements storage.Entry.
func (e *Entry) Check() error {
	if e.Generation == "" || e.Fields == nil {
		return errors.New("credential without generation or fields")
	}
	if e.Verified == nil {
		return e.Rotation.check()
	}
	return errors.Join(e.Verified.Check(), e.Rotation.check())
}

// text returns the value of a string field; "" if it is not set.
func (e *Entry) text(field string) string {
	value, _ := e.Fields[field].(string)
	return value
}

// hasFieldsOf reports whether the entry has only fields of a vendor's credentials, each with the
// type of its schema. Code that reads the fields relies on this.
func (e *Entry) hasFieldsOf(p provider.Provider) bool {
	schemas := FieldSchemas(p)
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
