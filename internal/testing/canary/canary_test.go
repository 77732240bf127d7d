package canary_test

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/canary"
)

const secret = `s3cret+/="<&>…`

func TestASecretIsFoundInEachForm(t *testing.T) {
	quoted, err := json.Marshal(map[string]string{"of": "me:" + secret})
	require.NoError(t, err)
	twice, err := json.Marshal(string(quoted))
	require.NoError(t, err)
	var cage canary.Cage
	cage.Add(secret)
	for name, text := range map[string]string{
		"unencoded":        "token=" + secret + ", please",
		"on its own":       secret,
		"in a query":       "https://vendor.example/?token=" + url.QueryEscape(secret) + "&a=b",
		"in a path":        "https://vendor.example/" + url.PathEscape(secret),
		"in JSON":          string(quoted),
		"in Basic":         "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(secret)),
		"behind a letter":  base64.StdEncoding.EncodeToString([]byte("a" + secret)),
		"behind two":       base64.StdEncoding.EncodeToString([]byte("ab" + secret)),
		"among others":     base64.URLEncoding.EncodeToString([]byte("an id:" + secret + ":and more")),
		"a part of a word": strings.Repeat("x", 1000) + secret + strings.Repeat("x", 1000),
	} {
		assert.NotEmpty(t, cage.Escaped(text), name)
	}
	for name, text := range map[string]string{
		"nothing":       "",
		"half of it":    secret[:len(secret)/2],
		"another":       strings.ReplaceAll(secret, "3", "e"),
		"JSON of JSON…": strings.ReplaceAll(string(twice), "s3cret", "[redacted]"),
	} {
		assert.Empty(t, cage.Escaped(text), name)
	}
}

func TestWhatIsFoundDoesNotQuoteTheSecret(t *testing.T) {
	var cage canary.Cage
	cage.Add("a-secret-0123456789")
	found := cage.Escaped("the token is a-secret-0123456789, as I said")
	assert.Equal(t, []string{"a-secr…, unencoded, in …the token is ‹here›, as I said…"}, found)
}

func TestEachLineOfAKeyIsASecretAndItsMarkersAreNot(t *testing.T) {
	var cage canary.Cage
	cage.Add("-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG\nshort\n9w0BAQEFAASCBKcwggSj\n-----END PRIVATE KEY-----\n", "", "prod")
	assert.Equal(t, 2, cage.Len())
	assert.Empty(t, cage.Escaped("a -----BEGIN PRIVATE KEY----- of prod, short"))
	assert.Len(t, cage.Escaped("MIIEvQIBADANBgkqhkiG and 9w0BAQEFAASCBKcwggSj"), 2)
}
