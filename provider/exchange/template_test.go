package exchange

import (
	"context"
	"encoding/json"
	"io"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var values = Values{
	"text": "a b/c?d&e=f#g%h\"i<j>ü", "list": []string{"x", "y"}, "number": int64(7), "flag": false, "empty": "", "none": []string{},
}

func TestATemplateFillsDeclaredPlaces(t *testing.T) {
	for text, want := range map[string]string{
		"":                          "",
		"plain":                     "plain",
		"{text}":                    "a b/c?d&e=f#g%h\"i<j>ü",
		"<{list}|{number}|{flag}>":  "<x y|7|false>",
		"{text|base64}":             "YSBiL2M/ZCZlPWYjZyVoImk8aj7DvA==",
		"{list|upper}{list|joined}": "X Yx y",
		"{list|sha256}":             "887fcea6a80333c6c02ae7e79735f0edad8d811f0b61431495f796f4bf6a7c19",
		"{none}":                    "",
		"a{empty}":                  "",
		"a{missing}":                "",
		"a{missing|upper}":          "",
	} {
		template, err := ParseTemplate(text)
		require.NoError(t, err, text)
		filled, err := template.Fill(values)
		require.NoError(t, err, text)
		assert.Equal(t, want, filled, text)
	}
	for _, text := range []string{"{", "}", "{}", "{a", "a}", "{{a}}", "{A}", "{a b}", "{a|}", "{a|md5}", "{a|upper|lower}", "{1a}", `{"a":1}`} {
		_, err := ParseTemplate(text)
		require.Error(t, err, text)
	}
	for _, function := range []string{"public_sha256", "x5t", "x5t_s256"} {
		template, err := ParseTemplate("{text|" + function + "}")
		require.NoError(t, err)
		_, err = template.Fill(values)
		require.Error(t, err, "%s of a text that is neither a key nor a certificate", function)
		assert.NotContains(t, err.Error(), "a b/c", "guarantee 6")
	}
}

func TestAListHasTheSeparatorOfTheVendor(t *testing.T) {
	filled, err := mustParse("{list}").Fill(Values{"list": []string{"x", "y"}, ScopeSeparator: ","})
	require.NoError(t, err)
	assert.Equal(t, "x,y", filled)
}

func TestARequestLeavesOutWhatIsNotSetAndEscapesWhatIs(t *testing.T) {
	all := map[string]Template{
		"text": mustParse("{text}"), "both": mustParse("{number} {missing}"), "fixed": Literal("{x}"), "list": mustParse("{list}"),
		"empty": mustParse("{empty}"), "none": mustParse("{none}"), "flag": mustParse("{flag}"),
	}
	expected := url.Values{"text": {"a b/c?d&e=f#g%h\"i<j>ü"}, "fixed": {"{x}"}, "list": {"x y"}, "flag": {"false"}}

	r := Request{Method: "PUT", Query: all, Form: all}
	req, err := r.build(context.Background(), "token_url", "https://a.example/t?kept=1", values, authentication{params: url.Values{"client_id": {"c"}}})
	require.NoError(t, err)
	assert.Equal(t, "PUT", req.Method)
	query := req.URL.Query()
	assert.Equal(t, []string{"1"}, query["kept"], "the URL's own query is kept")
	delete(query, "kept")
	assert.Equal(t, expected, query)
	assert.Equal(t, "a.example", req.URL.Host)
	body, err := io.ReadAll(req.Body)
	require.NoError(t, err)
	form, err := url.ParseQuery(string(body))
	require.NoError(t, err)
	assert.Equal(t, "c", form.Get("client_id"))
	delete(form, "client_id")
	assert.Equal(t, expected, form)

	req, err = Request{Headers: map[string]Template{"x-key": mustParse("{number}"), "X-None": mustParse("{missing}"), "Accept": Literal("text/plain"), "Authorization": mustParse("Key {number}")}}.
		build(context.Background(), "token_url", "https://a.example/", values, authentication{header: "Basic x"})
	require.NoError(t, err)
	assert.Equal(t, "7", req.Header.Get("X-Key"))
	assert.Empty(t, req.Header.Values("X-None"))
	assert.Equal(t, []string{"text/plain"}, req.Header.Values("Accept"), "a header of the request replaces the engine's")
	assert.Equal(t, []string{"Key 7"}, req.Header.Values("Authorization"))
	assert.Nil(t, req.Body, "neither a form nor JSON")
}

func TestAJSONBodyHasTheTypesOfItsValues(t *testing.T) {
	var tree any
	require.NoError(t, json.Unmarshal([]byte(`{
		"text": "{text}", "list": "{list}", "number": "{number}", "flag": "{flag}", "as text": "{number} {flag}",
		"none": "{none}", "empty": "{empty}", "missing": "{missing}", "in list": ["{missing}", "{number}", 1, null, {"a": "{empty}"}],
		"null": null, "true": true, "fixed": "x", "joined": "{list|joined}"
	}`), &tree))
	parsed, err := NewTree(tree)
	require.NoError(t, err)
	req, err := Request{JSON: &parsed}.build(context.Background(), "token_url", "https://a.example/", values, authentication{params: url.Values{"client_id": {"c"}}})
	require.NoError(t, err)
	assert.Equal(t, "application/json", req.Header.Get("Content-Type"))
	body, err := io.ReadAll(req.Body)
	require.NoError(t, err)
	assert.JSONEq(t, `{
		"text": "a b/c?d&e=f#g%h\"i<j>ü", "list": ["x", "y"], "number": 7, "flag": false, "as text": "7 false",
		"in list": [7, 1, null, {}], "null": null, "true": true, "fixed": "x", "joined": "x y", "client_id": "c"
	}`, string(body))
	assert.Contains(t, string(body), "i<j>", "no HTML escapes")

	_, err = NewTree(map[string]any{"a/b": []any{map[string]any{"c~d": "{"}}})
	assert.ErrorContains(t, err, "/a~1b/0/c~0d: ")
}

func TestAURLIsFilledForEachOfItsPlaces(t *testing.T) {
	filled, err := FillURL(mustParse("https://{host}.example/{text}/x?y={text}"), Values{"host": "acme", "text": "a/b?c#d e"})
	require.NoError(t, err)
	assert.Equal(t, "https://acme.example/a%2Fb%3Fc%23d%20e/x?y=a%2Fb%3Fc%23d+e", filled)
	filled, err = FillURL(mustParse("http://127.0.0.1:1/{text}"), Values{"text": "a/b"})
	require.NoError(t, err)
	assert.Equal(t, "http://127.0.0.1:1/a%2Fb", filled)
	_, err = FillURL(mustParse("https://{host}.example/"), Values{})
	assert.ErrorContains(t, err, "host: must be set")
}
