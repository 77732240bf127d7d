package definition_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// found is a rotation that finds secrets in a list, and removes them by their IDs.
func found(list string) string {
	return strings.Replace(issuing, `"remove": [{"request": {"url": "https://{admin}.acme.example/remove", "json": {"secret": "{client_secret}"}}}]`,
		`"remove": [{"request": {"method": "DELETE", "url": "https://{admin}.acme.example/secrets/{secret_id}"}}],
		"find": [{"request": {"method": "GET", "url": "https://{admin}.acme.example/secrets"}, `+list+`"where": {"/name": "{new_name}"}, "fields": {"secret_id": "/id"}}]`, 1)
}

func TestAListIsAtTheFirstPlaceThatHasAnArray(t *testing.T) {
	const ours = `[{"name": "vault-1", "id": 12345678901234567890}]`
	const other = `[{"name": "other", "id": 5}]`
	for name, c := range map[string]struct {
		list, body string
		isFound    bool
	}{
		"the body":                {``, ours, true},
		"the body, named":         {`"list": "", `, ours, true},
		"one place":               {`"list": "/all", `, `{"all": ` + ours + `}`, true},
		"null":                    {`"list": "/all", `, `{"all": null}`, false},
		"the first":               {`"list": ["/a", "/b/c"], `, `{"a": ` + ours + `, "b": {"c": ` + other + `}}`, true},
		"the second":              {`"list": ["/a", "/b/c"], `, `{"b": {"c": ` + ours + `}}`, true},
		"the first is empty":      {`"list": ["/a", "/b/c"], `, `{"a": [], "b": {"c": ` + ours + `}}`, false},
		"the first is an object":  {`"list": ["/a", "/b/c"], `, `{"a": {}, "b": {"c": ` + ours + `}}`, true},
		"the body after a member": {`"list": ["/a", ""], `, ours, true},
	} {
		v := &vendor{answers: []answer{ok(c.body), ok(`{}`)}}
		r, n := rotationAt(t, v, found(c.list))
		require.NoError(t, r.Discard(t.Context(), n), name)
		want := []string{"GET https://admin.acme.example/secrets"}
		if c.isFound {
			want = append(want, "DELETE https://admin.acme.example/secrets/12345678901234567890")
		}
		assert.Equal(t, want, v.requests, name)
	}
	v := &vendor{answers: []answer{ok(`{"b": 5}`)}}
	r, n := rotationAt(t, v, found(`"list": ["/a", "/b/c"], `))
	require.EqualError(t, r.Discard(t.Context(), n), "the vendor's response has no value at /a or /b/c")
}
