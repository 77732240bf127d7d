package definition_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/definition"
)

func TestTheErrorOfADefinitionNamesThePlaceOfWhatIsWrong(t *testing.T) {
	const grant, form = "/grants/0", "/grants/0/request/form"
	signing := []change{
		{"/fields/client_secret", nil}, {"/fields/client_id", nil}, {"/fields/scope", nil}, {"/fields/private_key", object{}}, {"/auth", nil},
		{"/grants/0/request/form", object{"assertion": "{assertion}"}}, {"/assertion", object{"claims": object{"iss": "{account}"}}},
	}
	for name, test := range map[string]struct {
		changes []change
		err     string
	}{
		// The schema.
		"unknown member":             {[]change{{"/tokenurl", "x"}}, "/: unknown member tokenurl"},
		"unknown member, below":      {[]change{{form, nil}, {"/grants/0/request/body", "x"}}, "/grants/0/request: unknown member body"},
		"member in another case":     {[]change{{"/Title", "x"}}, "/: unknown member Title"},
		"wrong type":                 {[]change{{"/title", 7}}, "/title: "},
		"wrong type of a flag":       {[]change{{"/token/single", "yes"}}, "/token/single: "},
		"no grant":                   {[]change{{"/grants", []any{}}}, "/grants: "},
		"grant without a type":       {[]change{{grant + "/grant_type", nil}}, "/grants/0: "},
		"grant type with a dash":     {[]change{{grant + "/grant_type", "client-credentials"}}, "/grants/0/grant_type: "},
		"unknown type of a field":    {[]change{{"/fields/account/type", "int"}}, "/fields/account/type: "},
		"unknown auth":               {[]change{{"/auth", "basic"}}, "/auth: "},
		"unknown method":             {[]change{{"/grants/0/request/method", "TRACE"}}, "/grants/0/request/method: "},
		"unknown unit":               {[]change{{"/answer/expiry_unit", "h"}}, "/answer/expiry_unit: "},
		"pointer without a slash":    {[]change{{"/answer/token", "access_token"}}, "/answer/token: "},
		"duration without a unit":    {[]change{{"/token/default_ttl", "3600"}}, "/token/default_ttl: "},
		"endless duration":           {[]change{{"/token/default_ttl", "99999999999999999999d"}}, "/token/default_ttl: "},
		"duration of centuries":      {[]change{{"/token/default_ttl", "99999999999d"}}, "/token/default_ttl: "},
		"basic of one part":          {[]change{{"/auth", nil}, {grant + "/basic", []any{"{client_id}"}}}, "/grants/0/basic: "},
		"evidence of general wisdom": {[]change{{"/evidence", "memory"}}, "/evidence: "},
		"other name in upper case":   {[]change{{"/other_names", []any{"ACME"}}}, "/other_names/0: "},
		"header with a colon":        {[]change{{"/api/header", "X: y"}}, "/api/header: "},
		"header with a line break":   {[]change{{"/api/scheme", "a\nb"}}, "/api/scheme: "},
		"step without a request":     {[]change{{grant + "/before", []any{object{}}}}, "/grants/0/before/0: "},
		"token that is not signed":   {[]change{{grant + "/token", "{client_secret}"}}, "/grants/0/token: "},
		"encoding that is not known": {[]change{{"/assertion/key_encoding", "base32"}}, "/assertion/key_encoding: "},
		"separator of four":          {[]change{{"/scope/separator", "----"}}, "/scope/separator: "},
		"title of nothing":           {[]change{{"/title", ""}}, "/title: "},
		"parameter that is a number": {[]change{{form + "/n", 7}}, "/grants/0/request/form/n: "},
		"parameter with a slash":     {[]change{{form + "/a~1b", "{x}"}}, "/grants/0/request/form/a~1b: {x} is not a field"},

		// Fields.
		"name of a field":             {[]change{{"/fields/Account", object{"description": "x"}}}, "/fields/Account: a field's name"},
		"reserved field":              {[]change{{"/fields/verify", object{"description": "x"}}}, "/fields/verify: the engine has the name"},
		"field of the path":           {[]change{{"/fields/vendor", object{"description": "x"}}}, "/fields/vendor: the engine has the name"},
		"field of the engine's value": {[]change{{"/fields/now", object{"description": "x"}}, {form + "/n", "{now}"}}, "/fields/now: the engine has the name"},
		"field that is token_url":     {[]change{{"/fields/token_url", object{"description": "x"}}, {form + "/n", "{token_url}"}}, "/fields/token_url: the engine has"},
		"field without a description": {[]change{{"/fields/x", object{}}}, "/fields/x/description: must be set"},
		"unused field":                {[]change{{"/fields/x", object{"description": "x"}}}, "/fields/x: no request uses the field"},
		"secret with a default":       {[]change{{"/fields/client_secret/default", "x"}}, "/fields/client_secret/default: a secret has no default"},
		"secret list":                 {[]change{{"/fields/client_secret/type", "list"}}, "/fields/client_secret/type: "},
		"secret with a pattern":       {[]change{{"/fields/client_secret/pattern", "x"}}, "/fields/client_secret/pattern: "},
		"secret with allowed values":  {[]change{{"/fields/client_secret/allowed", []any{"x"}}}, "/fields/client_secret/allowed: "},
		"list with a pattern":         {[]change{{"/fields/scope/pattern", "x"}}, "/fields/scope/pattern: "},
		"second private key":          {[]change{{"/fields/key", object{"type": "private_key", "description": "x"}}}, "/fields/key/type: only the field private_key"},
		"pattern that is none":        {[]change{{"/fields/account/pattern", "["}}, "/fields/account/pattern: "},
		"pattern that closes a group": {[]change{{"/fields/account/pattern", "a)|(?:b"}}, "/fields/account/pattern: "},
		"default beside the pattern":  {[]change{{"/fields/account/default", "A"}}, "/fields/account/default: does not match"},
		"default that is not allowed": {[]change{{"/fields/account/allowed", []any{"a"}}, {"/fields/account/default", "b"}}, "/fields/account/default: is not one"},
		"default of a list":           {[]change{{"/fields/scope/allowed", []any{"a"}}, {"/fields/scope/default", "a,b"}}, "/fields/scope/default: is not one"},
		"default duration":            {[]change{{"/fields/t", object{"description": "x", "type": "duration", "default": "soon"}}}, "/fields/t/default: is not a duration"},
		"default flag":                {[]change{{"/fields/t", object{"description": "x", "type": "bool", "default": "maybe"}}}, "/fields/t/default: is not a bool"},

		// URLs.
		"no URL":                    {[]change{{"/token_url", nil}}, "/grants/0/request/url: must be set"},
		"URL with a semicolon":      {[]change{{"/token_url", "https://x.example.com/token?a=1;b=2"}}, "/token_url: the query cannot be read"},
		"URL without a host":        {[]change{{"/token_url", "/token"}}, "/token_url: "},
		"http":                      {[]change{{"/token_url", "http://{account}.vendor.example/token"}}, "/token_url: must be an https URL"},
		"user name in a URL":        {[]change{{"/grants/0/request/url", "https://{account}@vendor.example/"}}, "/grants/0/request/url: must not contain a user name"},
		"fragment in a URL":         {[]change{{"/token_url", "https://{account}.vendor.example/#x"}}, "/token_url: must not contain a fragment"},
		"field that is the scheme":  {[]change{{"/token_url", "{account}://vendor.example/"}}, "/token_url: "},
		"brace in a URL":            {[]change{{"/token_url", "https://{account.vendor.example/"}}, "/token_url: a brace"},
		"unknown field in a URL":    {[]change{{"/token_url", "https://{acount}.vendor.example/"}}, "/token_url: {acount} is not a field"},
		"step's value in a URL":     {[]change{{"/grants/0/before", []any{object{"request": object{}, "keep": object{"host": "/host"}}}}, {"/grants/0/request/url", "https://{host}/"}}, "/grants/0/request/url: {host} is not a field"},
		"secret in a URL":           {[]change{{"/grants/0/request/url", "https://{account}.vendor.example/{client_secret}"}}, "/grants/0/request/url: {client_secret} is a secret"},
		"host without a pattern":    {[]change{{"/fields/account/pattern", nil}}, "/token_url: {account} is part of a host, so the field needs a pattern"},
		"upper-case scheme":         {[]change{{"/fields/account/pattern", nil}, {"/token_url", "HTTPS://{account}.vendor.example/token"}}, "/token_url: {account} is part of a host"},
		"loopback":                  {[]change{{"/fields/account/pattern", nil}, {"/token_url", "http://127.0.0.{account}/"}}, "/token_url: {account} is part of a host"},
		"host of a list":            {[]change{{"/fields/account", nil}, {"/token_url", "https://{scope}.vendor.example/"}}, "/token_url: {scope} is part of a host, so the field must be a string"},
		"host of allowed values":    {[]change{{"/fields/account/pattern", nil}, {"/fields/account/allowed", []any{"a", "a/b"}}}, `/token_url: {account} is part of a host, so the value "a/b" cannot be allowed`},
		"docs over http":            {[]change{{"/docs", []any{"https://a.example", "http://a.example"}}}, "/docs/1: must be an https URL"},
		"docs without a host":       {[]change{{"/docs", []any{"https:///x"}}}, "/docs/0: must be an https URL"},
		"revocation at a bad URL":   {[]change{{"/revocation", object{"url": "ftp://a"}}}, "/revocation/url: "},
		"revocation with a step's":  {[]change{{"/grants/0/before", []any{object{"request": object{}, "keep": object{"session": "/s"}}}}, {"/revocation", object{"url": "https://{account}.vendor.example/r", "request": object{"form": object{"s": "{session}"}}}}}, "/revocation/request/form/s: {session} is not a field"},
		"refresh with a step's":     {[]change{{"/grants/0/before", []any{object{"request": object{}, "keep": object{"session": "/s"}}}}, {"/grants/0/refresh", object{"form": object{"s": "{session}"}}}}, "/grants/0/refresh/form/s: {session} is not a field"},
		"revocation without a key":  {[]change{{"/revocation", object{"url": "https://a.example/", "auth": "private_key_jwt"}}}, "/revocation/auth: the grant client_credentials has no key"},
		"step with what comes last": {[]change{{"/grants/0/before", []any{object{"request": object{"form": object{"s": "{session}"}}, "keep": object{"session": "/s"}}}}}, "/grants/0/before/0/request/form/s: {session} is not a field"},

		// Requests and answers.
		"unknown placeholder":        {[]change{{form + "/x", "{nobody}"}}, "/grants/0/request/form/x: {nobody} is not a field"},
		"unknown placeholder, JSON":  {[]change{{form, nil}, {"/grants/0/request/json", object{"a": []any{"{nobody}"}}}}, "/grants/0/request/json: {nobody} is not a field"},
		"unknown function":           {[]change{{form + "/x", "{client_id|md5}"}}, `/grants/0/request/form/x: unknown function "md5" (allowed: base64, `},
		"unknown function, JSON":     {[]change{{form, nil}, {"/grants/0/request/json", object{"a": []any{"{client_id|md5}"}}}}, `/grants/0/request/json/a/0: unknown function "md5"`},
		"brace in a header":          {[]change{{"/grants/0/request/headers/X", "{client_id"}}, "/grants/0/request/headers/X: a brace"},
		"iat in a request":           {[]change{{form + "/x", "{iat}"}}, "/grants/0/request/form/x: {iat} is not a field"},
		"assertion without one":      {[]change{{form + "/x", "{assertion}"}}, "/grants/0/assertion: must be set"},
		"assertion to revoke":        {[]change{{"/revocation", object{"url": "https://a.example/", "request": object{"form": object{"x": "{assertion}"}}}}}, "/grants/0/assertion: must be set"},
		"scope without a field":      {[]change{{"/fields/scope", nil}}, "/grants/0/request/form/scope: {scope} needs a field named scope"},
		"refresh token, no field":    {[]change{{form + "/r", "{refresh_token}"}}, "/grants/0/request/form/r: {refresh_token} needs a field"},
		"two bodies":                 {[]change{{"/grants/0/request/json", object{"a": "b"}}}, "/grants/0/request/json: cannot be given together with form"},
		"request and token":          {[]change{{grant + "/token", "{assertion}"}, {"/fields/private_key", object{}}, {"/auth", nil}, {"/assertion", object{"claims": object{}}}}, "/grants/0/request: give it, or token"},
		"neither request nor token":  {[]change{{"/grants/0/request", nil}}, "/grants/0/request: give it, or token"},
		"basic and auth":             {[]change{{grant + "/basic", []any{"{client_id}", "{client_secret}"}}}, "/grants/0/basic: cannot be given together with auth"},
		"unknown part of basic":      {[]change{{"/auth", nil}, {grant + "/basic", []any{"{client_id}", "{password}"}}}, "/grants/0/basic/1: {password} is not a field"},
		"need that is not a field":   {[]change{{grant + "/needs", []any{"client_id", "key"}}}, "/grants/0/needs/1: no field named key"},
		"need that is not used":      {[]change{{"/fields/key", object{"description": "x"}}, {form + "/key", nil}, {grant + "/needs", []any{"key"}}}, "/grants/0/needs/0: the grant does not use key"},
		"scope that is a text":       {[]change{{"/fields/scope/type", "string"}}, "/fields/scope/type: scope is a list"},
		"client in an array":         {[]change{{form, nil}, {"/grants/0/request/json", []any{"{scope}"}}}, "/grants/0/request/json: client_secret_post adds the client to the body, so it must be an object"},
		"header with a space":        {[]change{{"/grants/0/request/headers/X Y", "a"}}, "/grants/0/request/headers/X Y: is not the name of a header"},
		"header with two lines":      {[]change{{"/grants/0/request/headers/X", "a\r\nY: b"}}, "/grants/0/request/headers/X: has a control character"},
		"header of the engine":       {[]change{{"/grants/0/request/headers/host", "evil.example"}}, "/grants/0/request/headers/host: the engine sets the header"},
		"API header with a colon":    {[]change{{"/api/headers", object{"X:": "a"}}}, "/api/headers/X:: is not the name of a header"},
		"escape of a pointer":        {[]change{{"/answer/token", "/a~2"}}, "/answer/token: "},
		"duplicate grant type":       {[]change{{"/grants/-", object{"grant_type": "client_credentials", "request": object{}}}}, "/grants/1/grant_type: client_credentials is there twice"},
		"keeps a field":              {[]change{{"/grants/0/before", []any{object{"request": object{}, "keep": object{"client_id": "/x"}}}}}, "/grants/0/before/0/keep/client_id: "},
		"keeps an assertion":         {[]change{{"/grants/0/before", []any{object{"request": object{}, "keep": object{"assertion": "/x"}}}}}, "/grants/0/before/0/keep/assertion: "},
		"keeps all":                  {[]change{{"/grants/0/before", []any{object{"request": object{}, "keep": object{"all": ""}}}}}, "/grants/0/before/0/keep/all: give the JSON Pointer"},
		"bad pointer":                {[]change{{"/answer/extra", object{"region": "region"}}}, "/answer/extra/region: "},
		"extra that readers have":    {[]change{{"/answer/extra", object{"ttl": "/ttl"}}}, "/answer/extra/ttl: "},
		"extra of a grant":           {[]change{{"/grants/0/answer/extra", object{"scope": "/s"}}}, "/grants/0/answer/extra/scope: "},
		"token nowhere":              {[]change{{"/answer/token", ""}}, "/answer: give one of token"},
		"token in two places":        {[]change{{"/answer", object{"text": true, "token_header": "X-Token"}}}, "/answer: give one of token"},
		"API header with a secret":   {[]change{{"/api/headers", object{"X": "{client_secret}"}}}, "/api/headers/X: {client_secret} is not a field that readers may see"},
		"API header of a grant":      {[]change{{"/grants/0/api", object{"headers": object{"X": "{nobody}"}}}}, "/grants/0/api/headers/X: {nobody} is not a field"},
		"API header with a brace":    {[]change{{"/api/headers", object{"X": "}"}}}, "/api/headers/X: a brace"},
		"private_key_jwt and a JWT":  {append(signing, change{"/auth", "private_key_jwt"}, change{"/fields/client_id", object{}}), "/grants/0/auth: private_key_jwt cannot be given together with {assertion}"},
		"steps before a signed JWT":  {append(signing, change{"/grants/0/request", nil}, change{grant + "/token", "{assertion}"}, change{grant + "/before", []any{object{"request": object{}}}}), "/grants/0/token: the engine signs the token itself"},
		"assertion without a key":    {append(signing, change{"/fields/private_key", nil}), "/assertion/key: no secret field named private_key"},
		"key that is not a secret":   {append(signing, change{"/assertion/key", "account"}), "/assertion/key: no secret field named account"},
		"HS256 with a private key":   {append(signing, change{"/assertion/algorithms", []any{"HS256"}}), "/assertion/algorithms: a private_key signs with"},
		"RS256 with a shared secret": {append(signing, change{"/fields/api_key", object{}}, change{"/assertion/key", "api_key"}, change{"/assertion/algorithms", []any{"RS256"}}), "/assertion/algorithms: "},
		"unknown algorithm":          {append(signing, change{"/assertion/algorithms", []any{"RS256", "none"}}), `/assertion/algorithms/1: unknown algorithm "none"`},
		"encoding of a private key":  {append(signing, change{"/assertion/key_encoding", "hex"}), "/assertion/key_encoding: "},
		"expiry as a claim":          {append(signing, change{"/assertion/claims/exp", "{now}"}), "/assertion/claims/exp: the engine sets it"},
		"unknown claim's field":      {append(signing, change{"/assertion/claims/x", "{nobody}"}), "/assertion/claims: {nobody} is not a field"},
		"brace in a claim":           {append(signing, change{"/assertion/claims/x", "{"}), "/assertion/claims/x: a brace"},
		"brace in a JOSE header":     {append(signing, change{"/assertion/headers", object{"x5t": "{"}}), "/assertion/headers/x5t: a brace"},
		"assertion of a grant":       {append(signing, change{"/grants/0/assertion", object{"claims": object{"x": "{"}}}), "/grants/0/assertion/claims/x: a brace"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := definition.Parse("acme", changed(t, test.changes...))
			var invalid *provider.Error
			require.ErrorAs(t, err, &invalid)
			assert.Equal(t, provider.Invalid, invalid.Kind)
			assert.True(t, strings.HasPrefix(invalid.Reason, "definition: "+test.err), "%s\nexpected: %s", invalid.Reason, test.err)
		})
	}
	for _, changes := range [][]change{nil, signing} {
		_, err := definition.Parse("acme", changed(t, changes...))
		require.NoError(t, err, "without the faults above it is valid")
	}
}

func TestAPatternInAHostExcludesWhatCouldChangeTheHost(t *testing.T) {
	for _, pattern := range []string{
		".+", "[^/]+", `[^/?#@:\\]+`, "a/b", "[a-z]+(/evil)?", "[a-z]+@[a-z]+", `[a-z]+:\d+`, `a\.b\?`, "[a-z#]+", `\S+`, `\D`, "[a-z%]+", "[a-z ]+",
		`\pL+`, "[[:graph:]]+", "ä+", "[a-z]+|.*", "(?i)[a-z]+", "(?i)k", "(?s).", "[a-z]{1,3}\\x2f?", "(a|(b|(c|/)))", "a\\nb", "[a-z]*;", "[a-z,]+", "[a-z]+\\[",
	} {
		_, err := definition.Parse("acme", changed(t, change{"/fields/account/pattern", pattern}))
		require.ErrorContains(t, err, "/token_url: {account} is part of a host, so the field's pattern must not allow", pattern)
	}
	for _, pattern := range []string{"[a-z0-9-]+", `[a-z0-9-]+(\.[a-z]{2,3})?`, `\w+`, "eu|us|au", "[A-Za-z0-9_.-]{1,60}"} {
		_, err := definition.Parse("acme", changed(t, change{"/fields/account/pattern", pattern}))
		require.NoError(t, err, pattern)
	}
	_, err := definition.Parse("acme", changed(t, change{"/fields/account/pattern", ".+"}, change{"/token_url", "https://vendor.example/{account}/token"}))
	assert.NoError(t, err, "in a path, a value is escaped")
}

func TestATextThatIsNotADefinitionIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "definition: not JSON",
		"{":                                "definition: not JSON",
		base + "x":                         "definition: not JSON",
		"[]":                               "definition: /: ",
		"null":                             "definition: /: ",
		"{}":                               "definition: /: ",
		strings.Repeat("[", 20000):         "definition: not JSON",
		strings.Repeat(" ", 64<<10) + "{}": "definition: 65538 bytes is too long (at most 65536)",
	} {
		_, err := definition.Parse("acme", []byte(text))
		require.ErrorContains(t, err, want, "%.40s", text)
	}
	_, err := definition.Parse("acme", []byte(base+strings.Repeat(" ", 64<<10-len(base))))
	require.NoError(t, err, "64 KiB")

	for _, name := range []string{"", "Acme", "acme_eu", "-acme", "acme-", "acme--eu", "9acme", "a/b", "acme.eu", strings.Repeat("a", 41)} {
		_, err := definition.Parse(name, []byte(base))
		assert.ErrorContains(t, err, "is not the name of a vendor", name)
	}
}

// The schema is what editors complete, and what refuses unknown members.
func TestTheSchemaHasTheMembersOfTheDefinition(t *testing.T) {
	var schema struct {
		Properties map[string]any
		Defs       map[string]struct{ Properties map[string]any } `json:"$defs"`
	}
	require.NoError(t, json.Unmarshal(definition.Schema(), &schema))
	properties := func(of string) map[string]any {
		return schema.Properties[of].(map[string]any)["properties"].(map[string]any)
	}
	delete(schema.Properties, "$schema")
	for _, pair := range []struct {
		of      any
		members map[string]any
	}{
		{definition.Definition{}, schema.Properties},
		{definition.Revocation{}, properties("revocation")},
		{definition.TokenRules{}, properties("token")},
		{definition.RefreshTokenRules{}, properties("refresh_token")},
		{definition.ScopeRules{}, schema.Defs["scope_rules"].Properties},
		{definition.Delegation{}, schema.Defs["delegation"].Properties},
		{definition.Field{}, schema.Defs["field"].Properties},
		{definition.Request{}, schema.Defs["request"].Properties},
		{definition.Answer{}, schema.Defs["answer"].Properties},
		{definition.Assertion{}, schema.Defs["assertion"].Properties},
		{definition.Step{}, schema.Defs["step"].Properties},
		{definition.Rotation{}, schema.Defs["rotation"].Properties},
		{definition.RotationStep{}, schema.Defs["rotation_step"].Properties},
		{definition.Find{}, schema.Defs["find"].Properties},
		{definition.Grant{}, schema.Defs["grant"].Properties},
		{definition.API{}, schema.Defs["api"].Properties},
	} {
		var names []string
		of := reflect.TypeOf(pair.of)
		for i := range of.NumField() {
			if name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ","); name != "-" && name != "" {
				names = append(names, name)
			}
		}
		var members []string
		for name := range pair.members {
			members = append(members, name)
		}
		assert.ElementsMatch(t, names, members, of.Name())
	}
	types := schema.Defs["field"].Properties["type"].(map[string]any)["enum"]
	var expected []any
	for _, one := range definition.Types {
		expected = append(expected, one)
	}
	assert.Equal(t, expected, types)
}

func TestADescriptionBecomesASentence(t *testing.T) {
	p := parsed(t, change{"/fields/account/description", "über-Konto."})
	assert.Equal(t, "Über-Konto.", p.Fields()["account"].Description)
}
