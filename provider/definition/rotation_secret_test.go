package definition_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
)

// issuing is a rotation with a secret that a request issues, and another one enables.
const issuing = `{
  "replaces": ["client_secret", "secret_id", "slot"], "needs": ["slot"], "alternates": "slot", "generate": "secret",
  "create": [
    {"request": {"url": "https://{admin}.acme.example/secrets", "json": {"slot": "{new_slot}", "name": "{new_name}", "chosen": "{new_secret}"}}, "keep": {"issued": "/secret", "issued_id": "/id", "session": "/session"}},
    {"request": {"url": "https://{admin}.acme.example/enable", "json": {"secret": "{issued}", "session": "{session}", "password": "{password}"}}}
  ],
  "set": {"client_secret": "{issued}", "secret_id": "{issued_id}", "slot": "{new_slot}"},
  "remove": [{"request": {"url": "https://{admin}.acme.example/remove", "json": {"secret": "{client_secret}"}}}]
}`

// These secrets consist of words, so that nothing but their being known makes them secrets.
const (
	issuedSecret = "summer rain house tree"
	formerSecret = "winter snow garden lake"
	issued       = `{"secret": "` + issuedSecret + `", "id": "the-id-of-it", "session": "spring wind river field"}`
)

// rotationAt returns the rotation of a credential at a vendor, and a new secret.
func rotationAt(t *testing.T, v *vendor, text string) (provider.Rotation, provider.NewSecret) {
	t.Helper()
	p := parsedText(t, strings.NewReplacer("ROTATION", text, `"client_id": {}`, `"client_id": {}, "password": {}`).Replace(rotating))
	r, err := provider.RotationOf(open(t, p, v, object{"client_id": "id", "client_secret": "autumn leaf mountain road", "password": "blue sky over hills", "secret_id": "1", "slot": "one"}))
	require.NoError(t, err)
	n := provider.NewSecret{Name: "vault-1", ExpireTime: time.Now().Add(time.Hour)}
	require.NoError(t, r.Prepare(t.Context(), &n))
	return r, n
}

// refusal is the answer of a vendor that quotes a text.
func refusal(quoted string) answer {
	return answer{status: 400, body: `{"error": "invalid_request", "error_description": "cannot use ` + quoted + ` here"}`}
}

func TestGuarantee6NoErrorOfARotationQuotesANewSecret(t *testing.T) {
	for _, quoted := range []string{issuedSecret, strings.ToUpper(issuedSecret), "spring wind river field"} {
		r, n := rotationAt(t, &vendor{answers: []answer{ok(issued), refusal(quoted)}}, issuing)
		_, err := r.Create(t.Context(), n)
		require.ErrorContains(t, err, "invalid_request: cannot use [redacted] here")
	}
	lacking := `{"value": "` + issuedSecret + `", "message": "` + issuedSecret + ` is issued"}`
	r, n := rotationAt(t, &vendor{answers: []answer{ok(lacking)}}, strings.Replace(issuing, "/secret\"", "/value\"", 1))
	_, err := r.Create(t.Context(), n)
	require.ErrorContains(t, err, "no value at /id: [redacted] is issued")
}

func TestGuarantee6NoErrorOfARotationQuotesAFormerSecret(t *testing.T) {
	r, _ := rotationAt(t, &vendor{answers: []answer{refusal(formerSecret)}}, issuing)
	err := r.Remove(t.Context(), map[string]any{"client_secret": formerSecret, "secret_id": "2"})
	require.ErrorContains(t, err, "invalid_request: cannot use [redacted] here")
}

// Of what the engine chose, an error conceals the secret only.
func TestAnErrorQuotesThePlaceOfANewSecret(t *testing.T) {
	v := &vendor{}
	r, n := rotationAt(t, v, issuing)
	require.Equal(t, "two", n.Chosen["new_slot"])
	v.answers = []answer{refusal("slot two and " + n.Chosen["new_secret"][:12])}
	_, err := r.Create(t.Context(), n)
	require.ErrorContains(t, err, "invalid_request: cannot use slot two and [redacted] here")
}

func TestAFieldThatIsNotSecretGetsNoSecretOfAnAnswer(t *testing.T) {
	composed := strings.Replace(issuing, `"client_secret": "{issued}"`, `"client_secret": "{issued}{session}"`, 1)
	for name, c := range map[string]struct{ rotation, secret, session, id string }{
		"the new secret":              {issuing, issuedSecret, "s", issuedSecret},
		"the new secret and others":   {issuing, issuedSecret, "s", "id of " + issuedSecret + ": 5"},
		"the new secret in base64":    {issuing, issuedSecret, "s", "c3VtbWVyIHJhaW4gaG91c2UgdHJlZQ=="},
		"the present secret":          {issuing, issuedSecret, "s", "autumn leaf mountain road"},
		"another secret":              {issuing, issuedSecret, "s", "blue sky over hills"},
		"a part of the new secret":    {composed, "prefix-", issuedSecret, "prefix-"},
		"the parts of the new secret": {composed, "prefix-", "suffix", "prefix-suffix"},
	} {
		body := fmt.Sprintf(`{"secret": %q, "session": %q, "id": %q}`, c.secret, c.session, c.id)
		r, n := rotationAt(t, &vendor{answers: []answer{ok(body)}}, c.rotation)
		fields, err := r.Create(t.Context(), n)
		require.EqualError(t, err, "secret_id: its new value contains a secret, and a read of the credential would show it", name)
		assert.Nil(t, fields)
	}
	r, n := rotationAt(t, &vendor{answers: []answer{ok(issued)}}, issuing)
	fields, err := r.Create(t.Context(), n)
	require.NoError(t, err)
	assert.Equal(t, map[string]any{"client_secret": issuedSecret, "secret_id": "the-id-of-it", "slot": "two"}, fields)
}

// A value that an answer may lack is sent as it is, or left out.
func TestAnOptionalValueIsCopiedIfTheAnswerHasIt(t *testing.T) {
	text := strings.Replace(issuing, `"keep": {"issued"`, `"keep_optional": {"limits": "/limits"}, "keep": {"issued"`, 1)
	text = strings.Replace(text, `"session": "{session}"`, `"session": "{session}", "limits": "{limits}"`, 1)
	const enable = `POST https://admin.acme.example/enable {`
	const rest = `"password":"blue sky over hills","secret":"` + issuedSecret + `","session":"spring wind river field"}`
	for given, want := range map[string]string{
		``:                                    enable + rest,
		`"limits": null,`:                     enable + rest,
		`"limits": {"in": ["192.0.2.0/24"]},`: enable + `"limits":{"in":["192.0.2.0/24"]},` + rest,
		`"limits": {},`:                       enable + `"limits":{},` + rest,
		`"limits": 12345678901234567890,`:     enable + `"limits":12345678901234567890,` + rest,
		`"limits": [{"a": "b"}, 1.50, true, null],`: enable + `"limits":[{"a":"b"},1.50,true,null],` + rest,
	} {
		v := &vendor{answers: []answer{ok(strings.Replace(issued, "{", "{"+given, 1))}}
		r, n := rotationAt(t, v, text)
		_, err := r.Create(t.Context(), n)
		require.NoError(t, err)
		assert.Equal(t, want, v.requests[1])
	}
}
