package tokenbroker

import (
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-tokenbroker/provider"
)

// maxDescription bounds a description, in characters.
const maxDescription = 500

// noteFields are what an operator notes of a credential, whatever its vendor. They change
// nothing of its exchanges.
func noteFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"description": {
			Type:         framework.TypeString,
			Description:  "What the credential is for and who answers for it, in at most 500 characters. It is read back and shown in the status: not a place for secrets.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Description"},
		},
		"expires": {
			Type:         framework.TypeString,
			Description:  "When the secret expires at the vendor, if you know: a date (2027-05-01, the start of that day in UTC) or a time in RFC 3339. Status, metrics, an event and an alert warn before it. Give the new date together with a new secret.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Expires"},
		},
	}
}

// note is what an operator notes of a credential.
type note struct {
	Description string `json:"description"`
	Expires     string `json:"expires"`
}

// check returns the time of Expires, the zero time if there is none. Its errors are of kind
// Invalid.
func (n note) check() (time.Time, error) {
	if utf8.RuneCountInString(n.Description) > maxDescription {
		return time.Time{}, provider.Errorf(provider.Invalid, "description: must have at most %d characters", maxDescription)
	}
	for _, r := range n.Description {
		if !unicode.IsPrint(r) {
			return time.Time{}, provider.Errorf(provider.Invalid, "description: must be one line, without control characters")
		}
	}
	if n.Expires == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, n.Expires); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, provider.Errorf(provider.Invalid, "expires: must be a date such as 2027-05-01, or a time in RFC 3339 such as 2027-05-01T12:00:00Z")
}
